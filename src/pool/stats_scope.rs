//! Statistics of a stretch of the program.
#![allow(unsafe_code)]

use std::sync::Arc;

use super::allocator::{Allocator, Inner};

/// Counts what happens to an allocator until it is dropped. Scopes may nest and overlap; each
/// has a peak of its own, and the allocator's own peaks stay what they are. Made by
/// [`Allocator::stats_scope`].
#[derive(Debug)]
#[must_use = "the scope ends when this is dropped"]
pub struct StatsScope {
    inner: Arc<Inner>,
    id: u64,
}

/// What happened in a [`StatsScope`] so far, on all streams and threads. Bytes are those of
/// blocks, as in [`Stats::allocated_bytes`](super::Stats::allocated_bytes).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct ScopeStats {
    /// Blocks handed out.
    pub allocated_blocks: u64,
    /// Blocks given up by their owners, whenever they were handed out.
    pub freed_blocks: u64,
    /// Bytes handed out.
    pub allocated_bytes: u64,
    /// Bytes given up.
    pub freed_bytes: u64,
    /// The most blocks that were handed out at once, above those at the start.
    pub peak_blocks: u64,
    /// The most bytes that were handed out at once, above those at the start.
    pub peak_bytes: u64,
    /// False when several threads allocated or freed: the true peaks may be lower.
    pub peaks_exact: bool,
}

impl Allocator {
    /// Begins to count. Keeps all other threads out for a moment, as [`stats`](Self::stats).
    ///
    /// ```
    /// # use riverbed::device::{Device, Priority, Stream};
    /// # use riverbed::pool::Allocator;
    /// # let device = Device::open("host:vram=64MiB")?;
    /// # let stream = Stream::new(&device, Priority::Normal)?;
    /// # let allocator = Allocator::builder(&device).build()?;
    /// let scope = allocator.stats_scope();
    /// for _layer in 0..3 {
    ///     let _activation = allocator.alloc::<u8>(4096, &stream)?;
    /// }
    /// let stats = scope.stats();
    /// assert_eq!((stats.allocated_bytes, stats.peak_bytes), (3 * 4096, 4096));
    /// # Ok::<(), riverbed::Error>(())
    /// ```
    pub fn stats_scope(&self) -> StatsScope {
        let inner = Arc::clone(self.inner());
        // SAFETY: every heap is held.
        let id = inner.quiet(|shared, _| unsafe { shared.open_scope() });
        // From within a recorder there is nothing to count: no scope has the number 0.
        StatsScope { id: id.unwrap_or(0), inner }
    }
}

impl StatsScope {
    /// What happened so far. All 0 when asked by a recorder or policy from within the allocator.
    #[must_use]
    pub fn stats(&self) -> ScopeStats {
        // SAFETY: every heap is held.
        let stats = self.inner.quiet(|shared, _| unsafe { shared.read_scope(self.id) });
        stats.flatten().unwrap_or_default()
    }
}

impl Drop for StatsScope {
    fn drop(&mut self) {
        self.inner.shared.close_scope(self.id);
    }
}
