//! How much device memory a mode may take: given, measured, or as little as will do.

use crate::base::{GIB, MIB, Result};
use crate::plan::{Budgets, DeviceRates, Job, Plan, Refusal, Rules, plan};

/// What a measured limit leaves free, in bytes: room for the driver's own growth and for other
/// processes. DiffSynth's manual advises the same half GiB.
pub const MARGIN_BYTES: u64 = 512 * MIB;

/// How often [`smallest`] asks the planner again with what it said is needed.
const ROUNDS_MAX: usize = 16;

/// A device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Card {
    /// All of it, in bytes.
    pub total_bytes: u64,
    /// What the driver says is free, in bytes: other processes are counted.
    pub free_bytes: u64,
}

impl Card {
    /// A card that nobody uses.
    #[must_use]
    pub fn of(total_bytes: u64) -> Self {
        Self { total_bytes, free_bytes: total_bytes }
    }

    /// This fraction of the whole card, in bytes.
    pub(super) fn fraction(&self, fraction: f64) -> u64 {
        // Casts from f64 saturate.
        (self.total_bytes as f64 * fraction) as u64
    }
}

/// A limit on device memory, as people give it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VramLimit {
    /// What is free, less [`MARGIN_BYTES`].
    #[default]
    Measured,
    /// The least with which the job runs: what [`smallest`] finds.
    Smallest,
    /// So many bytes.
    Bytes(u64),
}

impl VramLimit {
    /// Reads DiffSynth's `vram_limit`: GiB, and 0 for the smallest.
    #[must_use]
    pub fn of_gib(gib: f64) -> Self {
        if gib > 0.0 { Self::Bytes((gib * GIB as f64) as u64) } else { Self::Smallest }
    }

    /// The limit on this card, in bytes; `None` where only a plan can tell
    /// ([`Smallest`](Self::Smallest)).
    #[must_use]
    pub fn bytes(self, card: &Card) -> Option<u64> {
        match self {
            Self::Measured => Some(card.free_bytes.saturating_sub(MARGIN_BYTES)),
            Self::Smallest => None,
            Self::Bytes(bytes) => Some(bytes),
        }
    }
}

/// The plan that needs the least device memory under these rules, and its limit in bytes.
/// `budgets.vram_bytes` is not looked at.
///
/// # Errors
/// The planner's refusal when no limit would help, as [`Error::TooLarge`](crate::Error::TooLarge).
pub fn smallest(
    job: &Job,
    rates: &DeviceRates,
    budgets: &Budgets,
    rules: &Rules,
) -> Result<(u64, Plan)> {
    let attempt = |vram_bytes| plan(job, rates, &Budgets { vram_bytes, ..*budgets }, rules);
    Ok(least(attempt).map_err(|refusal| *refusal)?)
}

/// Asks with what each refusal says is needed, from nothing on, until the answer is a plan.
fn least<T>(attempt: impl Fn(u64) -> Result<T, Box<Refusal>>) -> Result<(u64, T), Box<Refusal>> {
    let mut limit_bytes = 0;
    for _ in 0..ROUNDS_MAX {
        match attempt(limit_bytes) {
            Ok(plan) => return Ok((limit_bytes, plan)),
            Err(refusal) if refusal.needed_bytes > limit_bytes => {
                limit_bytes = refusal.needed_bytes;
            }
            Err(refusal) => return Err(refusal),
        }
    }
    attempt(limit_bytes).map(|plan| (limit_bytes, plan))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measured_limit_leaves_the_margin_and_zero_is_the_smallest() {
        let card = Card { total_bytes: 16 * GIB, free_bytes: 12 * GIB };
        assert_eq!(VramLimit::Measured.bytes(&card), Some(12 * GIB - MARGIN_BYTES));
        assert_eq!(VramLimit::of_gib(15.5).bytes(&card), Some(31 * GIB / 2));
        assert_eq!(VramLimit::of_gib(0.0), VramLimit::Smallest);
        assert_eq!(VramLimit::Smallest.bytes(&card), None);
    }

    #[test]
    fn the_least_is_what_the_refusals_ask_for() {
        let refusal = |needed_bytes, limit_bytes| {
            let (mode, reason) = (String::new(), String::new());
            Box::new(Refusal { mode, reason, limit_bytes, needed_bytes, ways_out: Vec::new() })
        };
        // The second phase is only looked at once the first fits.
        let phases = |limit| match limit {
            0..100 => Err(refusal(100, limit)),
            100..250 => Err(refusal(250, limit)),
            _ => Ok(limit),
        };
        assert_eq!(least(phases).ok(), Some((250, 250)));
        // No limit helps: the planner asks for no more than it was given.
        assert!(least(|limit| Err::<(), _>(refusal(limit, limit))).is_err());
    }
}
