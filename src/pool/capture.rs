//! Allocating while a graph is captured. Between the two ends of a capture the driver must not
//! be asked how far a stream is, must not be told to mark one for our own sake, and memory the
//! graph may use must not go back; all of it is put off to the end.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::allocator::Inner;
use super::private::PrivatePool;
use crate::base::{Error, Result, lock};
use crate::device::Stream;
use crate::fence::StreamKey;

/// A capture the allocator knows of, from [`PrivatePool::begin_capture`] to the drop.
///
/// Until then, on all streams of the allocator: no event is queried and none recorded; a block
/// that was freed while other streams use it stays set aside, and one freed on its own stream is
/// reused as ever; no segment goes back to the driver, so running out of memory fails without
/// the last rung of the ladder. New segments may be taken: the capture must be one in which the
/// driver allows that (relaxed mode). Blocks that cross streams inside the capture are not
/// reused before its end.
#[derive(Debug)]
#[must_use = "the capture counts as over when this is dropped"]
pub struct CaptureScope {
    pool: PrivatePool,
    stream: Stream,
    key: u64,
}

/// Which streams of an allocator are captured.
#[derive(Debug, Default)]
pub(super) struct Captures {
    count: AtomicUsize,
    streams: Mutex<Vec<u64>>,
}

impl Captures {
    /// True while any capture is open: the one question the rest of the allocator asks.
    pub(super) fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    fn begin(&self, key: u64) -> bool {
        let mut streams = lock(&self.streams);
        let is_new = !streams.contains(&key);
        if is_new {
            streams.push(key);
            self.count.store(streams.len(), Ordering::Relaxed);
        }
        is_new
    }

    fn end(&self, key: u64) {
        let mut streams = lock(&self.streams);
        streams.retain(|&other| other != key);
        self.count.store(streams.len(), Ordering::Relaxed);
    }
}

impl PrivatePool {
    /// Tells the allocator that `stream` is about to be captured into a graph that uses this
    /// pool. Call it before the driver's own begin, allocate by [`on`](Self::on) or within
    /// [`Allocator::enter_pool`](super::Allocator::enter_pool), and drop the scope after the
    /// driver's own end. Keep the pool for as long as the graph may be launched.
    ///
    /// # Errors
    /// A stream that is captured already, or of another device; `policy:mempool`.
    pub fn begin_capture(&self, stream: &Stream) -> Result<CaptureScope> {
        let shared = &self.inner().shared;
        shared.device.same_as(stream.device(), "stream")?;
        if shared.driver_pool.is_some() {
            return Err(Error::Unsupported {
                what: "memory that outlives a capture".into(),
                by: "policy:mempool".into(),
                way_out: "within a capture the driver's pool makes nodes of the graph itself: \
                          choose another policy"
                    .into(),
            });
        }
        let key = StreamKey::of(stream).raw();
        if !shared.captures.begin(key) {
            return Err(Error::invalid(
                "stream",
                format_args!("{key:#x}"),
                "it is captured already; end that capture first",
            ));
        }
        Ok(CaptureScope { pool: self.clone(), stream: stream.clone(), key })
    }
}

impl CaptureScope {
    /// The pool the graph uses.
    #[must_use]
    pub fn pool(&self) -> &PrivatePool {
        &self.pool
    }

    /// The stream that is captured.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.stream
    }
}

impl Drop for CaptureScope {
    /// Does what was put off, where no other capture is open. Never waits for a stream.
    fn drop(&mut self) {
        let inner: &Arc<Inner> = self.pool.inner();
        inner.shared.captures.end(self.key);
        inner.catch_up();
    }
}
