//! A job that cannot run as asked: what is missing, and what would do.

use serde::{Deserialize, Serialize};

use crate::base::{Error, format_bytes};

/// One thing that would make the job run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WayOut {
    /// What to do (`--split`, `--vram 1.36GB`).
    pub change: String,
    /// What a pass of the longest phase then takes.
    pub seconds_per_pass: f64,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// The mode that was asked for.
    pub mode: String,
    /// What does not fit, in a sentence.
    pub reason: String,
    /// The limit that was given.
    pub limit_bytes: u64,
    /// The least that would do.
    pub needed_bytes: u64,
    /// What would work, the nearest first.
    pub ways_out: Vec<WayOut>,
}

impl Refusal {
    /// The ways out in a sentence.
    #[must_use]
    pub fn suggestion(&self) -> String {
        let ways = self.ways_out.iter().map(|way| {
            let WayOut { change, seconds_per_pass } = way;
            format!("{change} ({seconds_per_pass:.3} s a pass)")
        });
        ways.collect::<Vec<_>>().join(", or ")
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { mode, reason, limit_bytes, needed_bytes, .. } = self;
        let (limit, needed) = (format_bytes(*limit_bytes), format_bytes(*needed_bytes));
        write!(f, "{mode}: {reason}: {needed} are needed, the limit is {limit}")?;
        if self.ways_out.is_empty() { Ok(()) } else { write!(f, "; {}", self.suggestion()) }
    }
}

impl std::error::Error for Refusal {}

impl From<Box<Refusal>> for Error {
    fn from(refusal: Box<Refusal>) -> Self {
        Self::from(*refusal)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::TooLarge {
            what: format!("{} ({})", refusal.mode, refusal.reason),
            requested_bytes: refusal.needed_bytes,
            available_bytes: refusal.limit_bytes,
            way_out: refusal.suggestion(),
        }
    }
}
