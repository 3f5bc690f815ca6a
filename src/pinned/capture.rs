//! Pinned memory of captured graphs. A graph that is launched again copies from the same
//! addresses again, so what it uses is nobody else's before the graph is gone.

use std::any::Any;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::block::Piece;
use super::pool::PinnedPool;
use super::shared::Shared;
use super::uses::Uses;
use crate::base::{Error, Result, lock};
use crate::device::Stream;
use crate::fence::StreamKey;

/// The pinned memory of one captured graph. Blocks whose use is recorded on a stream while it is
/// captured into the graph are kept for it when they are dropped, and go back to the pool when the
/// last clone of this is dropped. Counted as retired until then.
///
/// ```
/// use riverbed::{device::{Device, Priority, Stream}, pinned::PinnedPool};
///
/// let device = Device::open("host:vram=2MiB")?;
/// let stream = Stream::new(&device, Priority::Normal)?;
/// let pool = PinnedPool::new(&device, &"pinned_limit_mb:16".parse()?);
/// let graph = pool.graph();
/// let capture = graph.begin_capture(&stream)?;
/// let block = pool.alloc(4096)?;
/// block.record_use(&stream)?; // with the copy that the graph will hold
/// drop((block, capture));
/// assert_eq!(pool.stats().retired_bytes, 4096);
/// drop(graph);
/// assert_eq!(pool.stats().retired_bytes, 0);
/// # Ok::<(), riverbed::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "what the graph uses goes back when the last clone is dropped"]
pub struct PinnedGraph {
    graph: Arc<Graph>,
    shared: Arc<Shared>,
}

/// A capture the pool knows of, until it is dropped. Meanwhile no event is asked or recorded for
/// the pool's sake, and no pinned memory goes back to the system.
#[derive(Debug)]
#[must_use = "the capture counts as over when this is dropped"]
pub struct PinnedCapture {
    shared: Arc<Shared>,
    key: StreamKey,
}

/// What a graph keeps.
#[derive(Debug)]
pub(super) struct Graph {
    pub(super) id: u64,
    kept: Mutex<Vec<(Piece, Uses)>>,
    /// What else must live as long.
    held: Mutex<Vec<Arc<dyn Any + Send + Sync>>>,
}

impl Graph {
    /// Keeps `thing` alive for the graph.
    pub(super) fn hold(&self, thing: Arc<dyn Any + Send + Sync>) {
        let mut held = lock(&self.held);
        if !held.iter().any(|known| Arc::ptr_eq(known, &thing)) {
            held.push(thing);
        }
    }
}

/// Which streams are captured, into which graphs.
#[derive(Debug, Default)]
pub(super) struct Captures {
    count: AtomicUsize,
    open: Mutex<Vec<(StreamKey, Arc<Graph>)>>,
    /// Bytes graphs keep.
    kept_bytes: AtomicU64,
}

impl Captures {
    /// True while any capture is open.
    pub(super) fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// The graph `stream` is captured into.
    pub(super) fn graph_of(&self, stream: &Stream) -> Option<Arc<Graph>> {
        if !self.any() {
            return None;
        }
        let key = StreamKey::of(stream);
        let open = lock(&self.open);
        open.iter().find(|(captured, _)| *captured == key).map(|(_, graph)| Arc::clone(graph))
    }

    /// Bytes of dropped blocks that graphs keep.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.kept_bytes.load(Ordering::Relaxed)
    }

    /// Keeps a dropped block for a graph. Called with a clone of the graph at hand, so that it is
    /// not gone yet.
    pub(super) fn keep(&self, graph: &Graph, piece: Piece, uses: Uses) {
        self.kept_bytes.fetch_add(piece.range.bytes, Ordering::Relaxed);
        lock(&graph.kept).push((piece, uses));
    }
}

impl PinnedPool {
    /// The place for what a graph that is about to be captured will use; empty.
    pub fn graph(&self) -> PinnedGraph {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let graph = Graph { id, kept: Mutex::default(), held: Mutex::default() };
        PinnedGraph { graph: Arc::new(graph), shared: Arc::clone(self.shared()) }
    }
}

impl PinnedGraph {
    /// Tells the pool that `stream` is about to be captured into this graph. Call it before the
    /// driver's own begin and drop the result after the driver's own end. Pinning more is
    /// possible meanwhile where the driver allows it in a capture (relaxed mode).
    ///
    /// # Errors
    /// A stream that is captured already, or of another device.
    pub fn begin_capture(&self, stream: &Stream) -> Result<PinnedCapture> {
        self.shared.device.same_as(stream.device(), "stream")?;
        let key = StreamKey::of(stream);
        let captures = &self.shared.captures;
        let mut open = lock(&captures.open);
        if open.iter().any(|(captured, _)| *captured == key) {
            return Err(Error::invalid(
                "stream",
                format_args!("{:#x}", key.raw()),
                "it is captured already; end that capture first",
            ));
        }
        open.push((key, Arc::clone(&self.graph)));
        captures.count.store(open.len(), Ordering::Relaxed);
        Ok(PinnedCapture { shared: Arc::clone(&self.shared), key })
    }

    /// Bytes of dropped blocks that are kept for the graph.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        lock(&self.graph.kept).iter().map(|(piece, _)| piece.range.bytes).sum()
    }
}

impl Drop for PinnedCapture {
    /// Never waits for a stream.
    fn drop(&mut self) {
        let captures = &self.shared.captures;
        let mut open = lock(&captures.open);
        open.retain(|(captured, _)| *captured != self.key);
        captures.count.store(open.len(), Ordering::Relaxed);
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let kept = self.kept.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (piece, uses) in std::mem::take(kept) {
            piece.shared().captures.kept_bytes.fetch_sub(piece.range.bytes, Ordering::Relaxed);
            Shared::put_back(piece, uses);
        }
    }
}
