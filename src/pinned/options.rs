//! What a pool can be told beyond the conf.

use std::time::Duration;

/// What is special about a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PinnedOptions {
    /// See [`idle_trim`](Self::idle_trim).
    pub idle_trim: Option<Duration>,
}

impl Default for PinnedOptions {
    fn default() -> Self {
        Self { idle_trim: Some(Self::IDLE_TRIM) }
    }
}

impl PinnedOptions {
    /// After so long unused a free slab is given up, unless said otherwise: longer than the
    /// pause between two pictures, shorter than the user's patience with a machine that is short
    /// of memory.
    pub const IDLE_TRIM: Duration = Duration::from_secs(60);

    /// Slabs that are free for this long, in whole seconds, are given to the system when the pool
    /// grows or is [maintained](super::PinnedPool::maintain); `None` keeps them.
    #[must_use]
    pub fn idle_trim(mut self, idle: Option<Duration>) -> Self {
        self.idle_trim = idle;
        self
    }
}
