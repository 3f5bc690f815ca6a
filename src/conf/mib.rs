//! Sizes: written in MiB, held in bytes, never wrapping.

use crate::base::MIB;

use super::form::{Form, is_digits, too_large, whole};
use super::table::Settings;
use super::tokens::Raw;

/// The lower end of a size.
pub(super) enum Least {
    /// Anything.
    Zero,
    /// More than this many MiB.
    Above(u64),
    /// As much as `large_segment_size_mb`, wherever in the string that stands.
    LargeSegment,
}

/// A whole number of MiB, held in bytes.
pub(super) struct Mib(pub(super) Least);

impl Form for Mib {
    type Value = u64;

    fn type_name(&self) -> &'static str {
        "whole MiB"
    }

    fn allowed(&self) -> String {
        match self.0 {
            Least::Zero => "0 or more".into(),
            Least::Above(floor) => format!("above {floor}"),
            Least::LargeSegment => "at least large_segment_size_mb".into(),
        }
    }

    fn read(&self, raw: &Raw<'_>) -> Result<u64, String> {
        let word = raw.word()?;
        whole(word)?.checked_mul(MIB).ok_or_else(|| too_large(word))
    }

    fn write(&self, bytes: &u64) -> String {
        (bytes / MIB).to_string()
    }

    fn check(&self, bytes: &u64, all: &Settings) -> Result<(), String> {
        let mib = bytes / MIB;
        match self.0 {
            Least::Zero => Ok(()),
            Least::Above(floor) if mib > floor => Ok(()),
            Least::Above(_) => Err(format!("'{mib}' is too small")),
            Least::LargeSegment if *bytes >= all.large_segment_size_bytes => Ok(()),
            Least::LargeSegment => Err(format!(
                "'{mib}' is below large_segment_size_mb, which is {}",
                all.large_segment_size_bytes / MIB
            )),
        }
    }
}

/// Any number of bytes above 0 in MiB: decimals where they name a whole byte. For our own keys
/// only, so that a limit given in bytes prints and reads back exactly.
pub(super) struct MibToTheByte;

/// Decimals that 1 byte in MiB, 2^-20, needs at most.
const BYTE_DECIMALS: usize = 20;
/// One byte in units of 10^-20 MiB: 10^20 / 2^20.
const BYTE_IN_DECIMALS: u128 = 5u128.pow(20);

impl Form for MibToTheByte {
    type Value = u64;

    fn type_name(&self) -> &'static str {
        "MiB, exact to the byte"
    }

    fn allowed(&self) -> String {
        "above 0; decimals only where they name a whole number of bytes".into()
    }

    fn read(&self, raw: &Raw<'_>) -> Result<u64, String> {
        let word = raw.word()?;
        let (whole_text, decimals) = word.split_once('.').unwrap_or((word, "0"));
        if !is_digits(whole_text) || !is_digits(decimals) {
            return Err(format!("'{word}' is not a number of MiB"));
        }
        let mib = whole(whole_text).map_err(|_| too_large(word))?;
        let decimals = decimals.trim_end_matches('0');
        let scaled: Option<u128> = (decimals.len() <= BYTE_DECIMALS)
            .then(|| format!("{decimals:0<BYTE_DECIMALS$}").parse().ok())
            .flatten();
        let odd_bytes = scaled
            .filter(|scaled| scaled % BYTE_IN_DECIMALS == 0)
            .and_then(|scaled| u64::try_from(scaled / BYTE_IN_DECIMALS).ok())
            .ok_or_else(|| format!("'{word}' MiB is not a whole number of bytes"))?;
        mib.checked_mul(MIB)
            .and_then(|bytes| bytes.checked_add(odd_bytes))
            .ok_or_else(|| too_large(word))
    }

    fn write(&self, bytes: &u64) -> String {
        mib_text(*bytes)
    }

    fn check(&self, bytes: &u64, _: &Settings) -> Result<(), String> {
        if *bytes == 0 { Err("'0' is too small".into()) } else { Ok(()) }
    }
}

/// A number of bytes in MiB, exactly.
pub(super) fn mib_text(bytes: u64) -> String {
    let (mib, odd_bytes) = (bytes / MIB, bytes % MIB);
    if odd_bytes == 0 {
        return mib.to_string();
    }
    let scaled = u128::from(odd_bytes) * BYTE_IN_DECIMALS;
    format!("{mib}.{}", format!("{scaled:0>BYTE_DECIMALS$}").trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn megabytes_to_the_byte_print_and_read_back_exactly() {
        for bytes in [1, MIB - 1, MIB, MIB + 512, 24_000_000_000, u64::MAX] {
            let text = MibToTheByte.write(&bytes);
            assert_eq!(MibToTheByte.read(&Raw::Word(&text)), Ok(bytes), "{text}");
        }
        assert_eq!(MibToTheByte.read(&Raw::Word("1.50")), Ok(3 << 19));
        for word in ["64.9", "1.", ".5", "1.-5", "1e3", "17592186044416", "0.000000000000000000001"]
        {
            assert!(MibToTheByte.read(&Raw::Word(word)).is_err(), "{word}");
        }
    }
}
