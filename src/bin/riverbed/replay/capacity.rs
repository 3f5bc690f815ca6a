//! The value of `--capacity`.

use riverbed::base::parse_bytes;

/// A limit on reserved memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum CapacityLimit {
    /// Bytes.
    Bytes(u64),
    /// So many times the peak of live bytes.
    OverLive(f64),
}

impl CapacityLimit {
    /// The limit in bytes for a trace with this peak; at least 1, for 0 would be none.
    pub(super) fn bytes(self, peak_live_bytes: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::OverLive(factor) => ((peak_live_bytes as f64 * factor) as u64).max(1),
        }
    }
}

pub(super) fn parse(text: &str) -> Result<CapacityLimit, String> {
    /// More than this over live bytes limits nothing.
    const FACTOR_MAX: f64 = 1000.0;
    if let Some(factor) = text.strip_suffix(['x', 'X']) {
        let factor = factor.parse().ok().filter(|factor| *factor > 0.0 && *factor <= FACTOR_MAX);
        return factor
            .map(CapacityLimit::OverLive)
            .ok_or_else(|| format!("a multiple is above 0 and at most {FACTOR_MAX}, like 1.02x"));
    }
    match parse_bytes(text)? {
        0 => Err("above 0".into()),
        bytes => Ok(CapacityLimit::Bytes(bytes)),
    }
}
