//! Memory of the caller's own, pinned where it lies: a buffer or a mapping of a file that is
//! copied from without a copy in between. Pinned in slices, in the background if wanted, so
//! that use can begin at once.
#![allow(unsafe_code)]

use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::pool::PinnedPool;
use super::shared::Shared;
use super::slab::{Owner, Slab};
use super::uses::Uses;
use crate::base::{Error, MIB, Result, format_bytes, lock, wait};
use crate::device::Stream;

/// The size of a slice, unless told otherwise: while one is registered, other calls of the
/// driver may stand still.
const SLICE_BYTES: u64 = 256 * MIB;
/// Slices end at pages, so that no two share one.
const PAGE_BYTES: u64 = 4096;

/// Memory of the caller's own that is pinned as far as the budget and the system allow, and read
/// only from now on. Clones share it. Once the last is dropped, and the copies that use it are done,
/// it is unpinned and its owner dropped, in the background.
///
/// The first [`pinned_len`](Self::pinned_len) bytes are pinned; [`pieces`](Self::pieces) tells how
/// to copy a range. Pages that the memory begins or ends in are pinned whole.
///
/// ```
/// use riverbed::{device::Device, pinned::PinnedPool};
///
/// let device = Device::open("host:vram=2MiB")?;
/// let pool = PinnedPool::new(&device, &"pinned_limit_mb:16".parse()?);
/// let adopted = pool.adopt(vec![7u8; 1 << 20]);
/// assert!(adopted.is_pinned() && adopted[3] == 7);
/// # Ok::<(), riverbed::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct AdoptedMemory(Arc<Handle>);

/// A part of adopted memory that one copy can take.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdoptedPiece {
    /// Where it lies in the memory, in bytes.
    pub range: Range<usize>,
    /// True if a device can copy from it; else it is copied through memory that is pinned.
    pub is_pinned: bool,
}

/// Ends the pinning in the background when the last clone goes.
#[derive(Debug)]
struct Handle(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    start: NonNull<u8>,
    len: usize,
    slice_bytes: usize,
    /// No further slice is wanted.
    is_cancelled: AtomicBool,
    progress: Mutex<Progress>,
    changed: Condvar,
    uses: Mutex<Uses>,
    /// Keeps the memory, and so does every slice of it until it is unpinned.
    owner: Owner,
}

#[derive(Debug, Default)]
struct Progress {
    /// The ends of the slices that are pinned, in order.
    ends: Vec<usize>,
    is_over: bool,
    /// Why it ended early.
    error: Option<Error>,
}

// SAFETY: the memory is shared for reading alone, and its owner may go to any thread.
unsafe impl Send for Inner {}
// SAFETY: likewise.
unsafe impl Sync for Inner {}

impl PinnedPool {
    /// Pins memory of the caller's own; returns when that is done, as far as it goes. What the
    /// budget or the system refuses stays as it is: see [`AdoptedMemory::error`]. A mapping of a
    /// file is refused by many drivers unless it is private and writable.
    pub fn adopt<T: AsRef<[u8]> + Send + Sync + 'static>(&self, owner: T) -> AdoptedMemory {
        let adopted = self.hold(owner, SLICE_BYTES);
        adopted.0.0.pin_all();
        adopted
    }

    /// The same on a thread of its own, slice by slice of `slice_bytes` (in whole pages; `None`
    /// is 256 MiB), so that use can begin at once.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn adopt_in_background<T: AsRef<[u8]> + Send + Sync + 'static>(
        &self,
        owner: T,
        slice_bytes: Option<u64>,
    ) -> Result<AdoptedMemory> {
        let adopted = self.hold(owner, slice_bytes.unwrap_or(SLICE_BYTES));
        let inner = Arc::clone(&adopted.0.0);
        let started = std::thread::Builder::new()
            .name("riverbed-adopting".into())
            .spawn(move || inner.pin_all());
        started.map_err(|error| Error::Unsupported {
            what: "pinning in the background".into(),
            by: format!("the system ({error})"),
            way_out: "adopt the memory without it".into(),
        })?;
        Ok(adopted)
    }

    fn hold<T: AsRef<[u8]> + Send + Sync + 'static>(
        &self,
        owner: T,
        slice_bytes: u64,
    ) -> AdoptedMemory {
        let owner = Arc::new(owner);
        // The owner is borrowed for as long as it lives from here on, and neither moved nor
        // changed, so what it shows now stays.
        let bytes: &[u8] = (*owner).as_ref();
        let (start, len) = (NonNull::from(bytes).cast::<u8>(), bytes.len());
        let slice_bytes = slice_bytes.clamp(PAGE_BYTES, 1 << 40).next_multiple_of(PAGE_BYTES);
        AdoptedMemory(Arc::new(Handle(Arc::new(Inner {
            shared: Arc::clone(self.shared()),
            start,
            len,
            slice_bytes: slice_bytes as usize,
            is_cancelled: AtomicBool::new(false),
            progress: Mutex::default(),
            changed: Condvar::new(),
            uses: Mutex::default(),
            owner: Owner { _keeps: owner },
        }))))
    }
}

impl AdoptedMemory {
    /// How many bytes are pinned by now, from the first on.
    #[must_use]
    pub fn pinned_len(&self) -> usize {
        lock(&self.0.0.progress).ends.last().copied().unwrap_or(0)
    }

    /// True once all of it is pinned.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.pinned_len() == self.len()
    }

    /// True when no more of it will be pinned than is.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        lock(&self.0.0.progress).is_over
    }

    /// Why not all of it is pinned, if that is known by now.
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        lock(&self.0.0.progress).error.clone()
    }

    /// Waits until no more of it will be pinned.
    pub fn wait(&self) {
        let mut progress = lock(&self.0.0.progress);
        while !progress.is_over {
            progress = wait(&self.0.0.changed, progress);
        }
    }

    /// Asks for no further slice. What is pinned stays so.
    pub fn cancel(&self) {
        self.0.0.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// A range as parts that one copy each can take, in order: within a slice that is pinned,
    /// or outside them all. A range that reaches beyond the memory is cut off there.
    #[must_use]
    pub fn pieces(&self, range: Range<usize>) -> Vec<AdoptedPiece> {
        let end = range.end.min(self.len());
        let progress = lock(&self.0.0.progress);
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < end {
            let slice = progress.ends.partition_point(|&slice_end| slice_end <= at);
            let slice_end = progress.ends.get(slice);
            let upto = slice_end.map_or(end, |&slice_end| slice_end.min(end));
            pieces.push(AdoptedPiece { range: at..upto, is_pinned: slice_end.is_some() });
            at = upto;
        }
        pieces
    }

    /// As [`PinnedBlock::record_use`](super::PinnedBlock::record_use): the memory stays, pinned,
    /// until the work now on `stream` and what follows before the last clone goes is done.
    ///
    /// # Errors
    /// A stream of another device.
    pub fn record_use(&self, stream: &Stream) -> Result<()> {
        let inner = &self.0.0;
        inner.shared.device.same_as(stream.device(), "stream")?;
        match inner.shared.captures.graph_of(stream) {
            Some(graph) => graph.hold(Arc::clone(inner) as Arc<_>),
            None => lock(&inner.uses).add(stream, None),
        }
        Ok(())
    }
}

impl Inner {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the owner shows this memory for as long as it is borrowed, which is as long as
        // this has it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Pins slice after slice, until one is refused or no more are wanted.
    fn pin_all(&self) {
        let mut start = 0;
        let mut error = None;
        while start < self.len && !self.is_cancelled.load(Ordering::Relaxed) {
            let end = self.slice_end(start);
            if let Err(refused) = self.pin(start, end) {
                self.tell_of_refusal(start, &refused);
                error = Some(refused);
                break;
            }
            lock(&self.progress).ends.push(end);
            self.changed.notify_all();
            start = end;
        }
        let mut progress = lock(&self.progress);
        progress.error = error;
        progress.is_over = true;
        self.changed.notify_all();
    }

    /// Warns once a pool of memory that stays unpinned, and what that costs.
    fn tell_of_refusal(&self, pinned_bytes: usize, error: &Error) {
        let sizes = [pinned_bytes, self.len].map(|bytes| format_bytes(bytes as u64));
        let [pinned, whole] = sizes;
        if self.shared.warned_of_adopted.swap(true, Ordering::Relaxed) {
            tracing::info!(%error, "{pinned} of {whole} adopted are pinned");
        } else {
            tracing::warn!(
                %error,
                "{pinned} of {whole} adopted are pinned: copies of the rest go through pinned \
                 memory, which takes the processor and often twice the time; raise \
                 pinned_limit_mb or what the system lets be pinned, and map files privately and \
                 writable",
            );
        }
    }

    /// The first page's start after a slice's size, or the end.
    fn slice_end(&self, start: usize) -> usize {
        let at = self.start.as_ptr() as usize + start;
        let end = at.saturating_add(self.slice_bytes) / PAGE_BYTES as usize * PAGE_BYTES as usize;
        (end - at).saturating_add(start).min(self.len)
    }

    /// Whole pages of a slice: what it costs.
    fn page_bytes(&self, start: usize, end: usize) -> u64 {
        let at = self.start.as_ptr() as u64;
        let first = (at + start as u64) / PAGE_BYTES;
        let last = (at + end as u64).div_ceil(PAGE_BYTES);
        (last - first) * PAGE_BYTES
    }

    fn pin(&self, start: usize, end: usize) -> Result<()> {
        let bytes = self.page_bytes(start, end);
        self.shared.claim_adopted(bytes)?;
        // SAFETY: the owner keeps the range where it is, and it is unregistered before the owner
        // goes.
        let registered = unsafe {
            let at = self.start.add(start);
            self.shared.device.driver().register(at, (end - start) as u64)
        };
        registered.map_err(|error| {
            self.shared.give_back_adopted(bytes);
            error.into()
        })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.is_cancelled.store(true, Ordering::Relaxed);
    }
}

impl Drop for Inner {
    /// Hands the slices to the reaper, which waits for the copies that still use them.
    fn drop(&mut self) {
        let uses = std::mem::take(self.uses.get_mut().unwrap_or_else(PoisonError::into_inner));
        let progress = self.progress.get_mut().unwrap_or_else(PoisonError::into_inner);
        let ends = std::mem::take(&mut progress.ends);
        let mut slices = Vec::with_capacity(ends.len());
        let mut start = 0;
        for end in ends {
            // SAFETY: within the memory.
            let at = unsafe { self.start.add(start) };
            slices.push(Slab::adopted(at, self.page_bytes(start, end), self.owner.clone()));
            start = end;
        }
        // Copies may also use what another pool pinned, of which there is no slice here.
        let owner = self.owner.clone();
        self.shared.after(&uses, move |shared, is_known| {
            if is_known {
                shared.release_adopted(slices);
                drop(owner);
            } else {
                std::mem::forget((slices, owner));
            }
        });
    }
}

impl Deref for AdoptedMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.0.bytes()
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("start", &self.start).field("len", &self.len).finish()
    }
}
