//! What the driver tells of a pool.

use crate::device::{DeviceResult, PoolAttribute};
use crate::pool::OwnedPool;

/// An amount and the most it was, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Level {
    /// Now.
    pub current: u64,
    /// The most since the pool was made, or since
    /// [`reset_peaks`](super::ProcessPool::reset_peaks).
    pub high: u64,
}

/// What a process pool holds, and its settings as they are in force: others in the process may
/// have changed them. The figures are asked for one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct ProcessPoolStats {
    /// Held from the device.
    pub reserved_bytes: Level,
    /// Handed out.
    pub used_bytes: Level,
    /// The cap on what is held, in bytes; `None` without one. It cannot be changed.
    pub limit_bytes: Option<u64>,
    /// What stays held when the host synchronizes, in bytes; `u64::MAX` is all of it.
    pub release_threshold_bytes: u64,
    /// Whether a stream that already waits for a free may take the memory.
    pub follow_event_dependencies: bool,
    /// Whether any stream may take memory whose free has run.
    pub allow_opportunistic: bool,
    /// Whether a stream may be made to wait for another's free.
    pub allow_internal_dependencies: bool,
    /// Whether the process draws from this pool.
    pub is_current: bool,
}

impl ProcessPoolStats {
    pub(super) fn of(
        pool: &OwnedPool,
        limit_bytes: Option<u64>,
        is_current: bool,
    ) -> DeviceResult<Self> {
        let level = |current, high| {
            let current = pool.get(current)?;
            // Others allocate between the two questions.
            Ok(Level { current, high: pool.get(high)?.max(current) })
        };
        let flag = |attribute| Ok(pool.get(attribute)? != 0);
        Ok(Self {
            reserved_bytes: level(PoolAttribute::ReservedCurrent, PoolAttribute::ReservedHigh)?,
            used_bytes: level(PoolAttribute::UsedCurrent, PoolAttribute::UsedHigh)?,
            limit_bytes,
            release_threshold_bytes: pool.get(PoolAttribute::ReleaseThreshold)?,
            follow_event_dependencies: flag(PoolAttribute::FollowEventDependencies)?,
            allow_opportunistic: flag(PoolAttribute::AllowOpportunistic)?,
            allow_internal_dependencies: flag(PoolAttribute::AllowInternalDependencies)?,
            is_current,
        })
    }
}
