//! Settings that the devices without a driver share, read from text. Errors are sentences that
//! say what is allowed.

use super::calls::Call;
use crate::base::{align_up, format_bytes, parse_bytes};

/// A capacity: at least one page, and small enough to be rounded up to pages.
pub(super) fn vram(value: &str, page_bytes: u64) -> Result<u64, String> {
    let bytes = parse_bytes(value)?;
    if bytes < page_bytes || align_up(bytes, page_bytes).is_none() {
        return Err(format!("vram must hold at least one page of {}", format_bytes(page_bytes)));
    }
    Ok(bytes)
}

/// `on` or `off`.
pub(super) fn switch(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{key} is on or off")),
    }
}

/// How many copies of one direction run at once.
pub(super) fn copy_engines(value: &str) -> Result<u32, String> {
    value
        .parse()
        .ok()
        .filter(|engines| (1..=16).contains(engines))
        .ok_or_else(|| "copy_engines is a number from 1 to 16".into())
}

/// A call that fails, and the how many-th of its name.
pub(super) fn fault(value: &str) -> Result<(Call, u64), String> {
    value
        .split_once('@')
        .and_then(|(name, nth)| {
            let call = Call::ALL.iter().find(|call| call.name() == name)?;
            Some((*call, nth.parse().ok().filter(|&nth| nth > 0)?))
        })
        .ok_or_else(|| {
            let names: Vec<_> = Call::ALL.iter().map(|call| call.name()).collect();
            format!("write CALL@N with N from 1 and CALL one of {}", names.join(", "))
        })
}
