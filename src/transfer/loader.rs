//! Loads: from files through pinned memory to the device, on one copy stream. The thread that
//! asks never waits; it enqueues gates, and reader threads open them.
//!
//! A load goes through a **window** of a few pinned slots, chunk by chunk, or through a **home**
//! of its own: pinned memory that keeps the bytes, so that the next load of them reads no disk.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::busy::BusyClock;
use super::files::Files;
use super::landing::Landing;
use super::reader::{Job, LoadStatus, Reader};
use crate::base::{Error, KIB, MIB, Result};
use crate::device::{Device, DevicePtr, Priority, Stream};
use crate::pinned::PinnedPool;
use crate::pool::Buffer;
use crate::weights::{ReadSpan, UnitLayout};

/// Settings of a [`Loader`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Size of a window slot and of a read, in bytes. Cut down where the pinned budget is tight.
    pub chunk_bytes: u64,
    /// Slots of the window: how many reads may be under way or waiting to be copied.
    pub slots: usize,
    /// Threads that read.
    pub threads: usize,
}

impl Default for LoaderOptions {
    /// Four slots of 4 MiB, two threads: a chunk is large enough to reach the link's rate
    /// (95 % of 25 GB/s from 1.1 MiB on) and small enough to pass it on early.
    fn default() -> Self {
        Self { chunk_bytes: 4 * MIB, slots: 4, threads: 2 }
    }
}

/// The smallest window slot worth a copy.
const MIN_CHUNK_BYTES: u64 = 64 * KIB;

/// Pinned memory that keeps the bytes of one unit.
#[derive(Debug, Clone)]
pub struct Home {
    landing: Arc<Landing>,
    status: Arc<LoadStatus>,
}

impl Home {
    /// Whether reading it failed; a failed home is of no further use.
    #[must_use]
    pub fn status(&self) -> &LoadStatus {
        &self.status
    }
}

/// Loads units to the device. Not thread-safe: its owner's lock guards it.
#[derive(Debug)]
pub struct Loader {
    stream: Stream,
    pinned: PinnedPool,
    reader: Reader,
    window: Vec<Arc<Landing>>,
    chunk_bytes: u64,
    /// Chunks that went through the window.
    chunks: u64,
    busy: BusyClock,
    bytes_moved: u64,
}

impl Loader {
    /// A loader with its copy stream, window and threads.
    ///
    /// # Errors
    /// A pinned budget too small for two slots of 64 KiB; what the driver says.
    pub fn new(
        device: &Device,
        pinned: &PinnedPool,
        files: Files,
        options: LoaderOptions,
    ) -> Result<Self> {
        let stream = Stream::new(device, Priority::Normal)?;
        let slots = options.slots.max(2);
        let affordable = |bytes: u64| bytes / slots as u64 / MIN_CHUNK_BYTES * MIN_CHUNK_BYTES;
        // A part of a tight budget stays for others, unless nothing else would do.
        let budget_bytes = pinned.budget().bytes;
        let chunk_bytes = match affordable(budget_bytes - budget_bytes / 8) {
            0 => affordable(budget_bytes),
            chunk_bytes => chunk_bytes.min(options.chunk_bytes),
        };
        if chunk_bytes < MIN_CHUNK_BYTES {
            return Err(Error::PinnedBudget {
                requested_bytes: slots as u64 * MIN_CHUNK_BYTES,
                reserved_bytes: pinned.stats().reserved_bytes,
                budget_bytes: pinned.budget().bytes,
            });
        }
        let slot = || {
            let block = pinned.alloc(chunk_bytes as usize)?;
            Ok(Arc::new(Landing::new(device, block, &stream)?))
        };
        Ok(Self {
            window: (0..slots).map(|_| slot()).collect::<Result<_>>()?,
            reader: Reader::start(files, options.threads)?,
            stream,
            pinned: pinned.clone(),
            chunk_bytes,
            chunks: 0,
            busy: BusyClock::default(),
            bytes_moved: 0,
        })
    }

    /// The stream copies run on: wait for its end to wait for a load.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// A home for a unit of `layout`, if it has bytes and the pinned budget has room for them.
    /// Reading it begins at once.
    ///
    /// # Errors
    /// What the driver says.
    pub fn home(&mut self, layout: &UnitLayout) -> Result<Option<Home>> {
        if layout.len_bytes == 0 {
            return Ok(None);
        }
        let block = match self.pinned.alloc(layout.len_bytes as usize) {
            Ok(block) => block,
            Err(Error::PinnedBudget { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let landing = Arc::new(Landing::new(self.stream.device(), block, &self.stream)?);
        let status = Arc::new(LoadStatus::default());
        let parts: Vec<_> = chunks(layout, self.chunk_bytes).collect();
        let left = Arc::new(AtomicUsize::new(parts.len()));
        for (start, _, mut spans) in parts {
            // A home holds the whole unit, so spans keep their places in it.
            spans.iter_mut().for_each(|span| span.dst_offset_bytes += start);
            self.reader.push(Job {
                landing: Arc::clone(&landing),
                turn: 1,
                spans,
                status: Arc::clone(&status),
                left: Arc::clone(&left),
            });
        }
        Ok(Some(Home { landing, status }))
    }

    /// Enqueues loading a unit to `dst`, from `home` if it has one, else from its files. What
    /// is enqueued on [`stream`](Self::stream) afterwards finds it loaded, or its status failed.
    ///
    /// # Errors
    /// The loader was cancelled; what the driver says.
    ///
    /// # Safety
    /// `dst` has room for the layout and stays valid until the stream has run what is enqueued;
    /// no work that the stream is not ordered after touches it. `home`, if given, is of this
    /// layout and from this loader.
    pub unsafe fn load(
        &mut self,
        dst: DevicePtr,
        layout: &UnitLayout,
        home: Option<&Home>,
    ) -> Result<Arc<LoadStatus>> {
        if self.reader.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if let Some(home) = home {
            home.landing.wait_filled(&self.stream, 1)?;
            // SAFETY: the home holds the whole layout, and so does `dst` by the caller's promise.
            unsafe { self.copy(dst, &home.landing, layout.len_bytes, &home.status) }?;
            return Ok(Arc::clone(&home.status));
        }
        let status = Arc::new(LoadStatus::default());
        for (start, len_bytes, spans) in chunks(layout, self.chunk_bytes) {
            let slots = self.window.len() as u64;
            let landing = Arc::clone(&self.window[(self.chunks % slots) as usize]);
            let turn = self.chunks / slots + 1;
            self.chunks += 1;
            // Queued before anything of the turn is enqueued: even if the driver then fails,
            // the gate opens and nobody is left waiting.
            self.reader.push(Job {
                landing: Arc::clone(&landing),
                turn,
                spans,
                status: Arc::clone(&status),
                left: Arc::new(AtomicUsize::new(1)),
            });
            let copied = landing.wait_filled(&self.stream, turn).and_then(|()| {
                // SAFETY: a chunk is at most a slot, and lies in the layout `dst` has room for.
                unsafe { self.copy(dst.offset(start), &landing, len_bytes, &status) }
            });
            if let Err(error) = copied.and_then(|()| landing.note_drained(&self.stream, turn)) {
                // The driver is failing. What did reach the stream is waited for, so that the
                // slot's next turn finds it unused; if that fails too, there is no next turn.
                match self.stream.synchronize() {
                    Ok(()) => landing.set_drained(turn),
                    Err(_) => self.cancel(),
                }
                return Err(error);
            }
        }
        Ok(status)
    }

    /// Enqueues loading a unit to the start of a buffer, from its files. Safe because the buffer
    /// orders the copy stream after its earlier uses and later ones after it.
    ///
    /// # Errors
    /// A buffer smaller than the unit; as [`load`](Self::load).
    pub fn load_buffer(
        &mut self,
        buffer: &Buffer<u8>,
        layout: &UnitLayout,
    ) -> Result<Arc<LoadStatus>> {
        if layout.len_bytes > buffer.size_bytes() {
            let expected = format!("it must hold {} bytes", layout.len_bytes);
            return Err(Error::invalid("buffer", buffer.size_bytes(), expected));
        }
        let stream = self.stream.clone();
        buffer.in_order(&stream, || {
            // SAFETY: the buffer holds the layout by the check; this stream is ordered for it,
            // and it outlives what the stream is given.
            unsafe { self.load(buffer.ptr(), layout, None) }
        })
    }

    /// # Safety
    /// `dst` and the landing's block have `bytes` bytes; `dst` as for [`load`](Self::load).
    unsafe fn copy(
        &mut self,
        dst: DevicePtr,
        landing: &Landing,
        bytes: u64,
        load: &Arc<LoadStatus>,
    ) -> Result<()> {
        let (stream, src) = (&self.stream, landing.block.as_mut_ptr());
        self.busy.time(stream, load, || {
            // SAFETY: the ranges are the caller's promise. The block's use is recorded, so it
            // outlives the copy, and until the turn is drained no reader writes it.
            Ok(unsafe { stream.device().driver().copy_h2d(stream.id(), dst, src, bytes) }?)
        })?;
        self.bytes_moved += bytes;
        Ok(())
    }

    /// How many copies a load of `layout` is at most.
    #[must_use]
    pub fn copies(&self, layout: &UnitLayout) -> usize {
        layout.len_bytes.div_ceil(self.chunk_bytes) as usize
    }

    /// Makes sure `copies` can be under way without another event being made.
    ///
    /// # Errors
    /// What the driver says.
    pub fn reserve(&mut self, copies: usize) -> Result<()> {
        self.busy.reserve(self.stream.device(), copies)
    }

    /// Bytes enqueued to cross the link so far.
    #[must_use]
    pub fn bytes_moved(&self) -> u64 {
        self.bytes_moved
    }

    /// Nanoseconds of device time the link was busy, in copies that are done.
    pub fn busy_ns(&mut self) -> u64 {
        self.busy.busy_ns()
    }

    /// Fails every read that is not done; gates open, statuses say [`Error::Cancelled`].
    pub fn cancel(&self) {
        self.reader.cancel();
    }
}

/// Cuts a layout into chunks: start, length, and the reads that fill it, their destinations
/// counted from the chunk's start.
fn chunks(
    layout: &UnitLayout,
    chunk_bytes: u64,
) -> impl Iterator<Item = (u64, u64, Vec<ReadSpan>)> + '_ {
    let len_bytes = layout.len_bytes;
    (0..len_bytes.div_ceil(chunk_bytes)).map(move |chunk| {
        let start = chunk * chunk_bytes;
        let end = len_bytes.min(start + chunk_bytes);
        let inside = layout.reads().iter().filter_map(|read| {
            let from = read.dst_offset_bytes.max(start);
            let to = (read.dst_offset_bytes + read.len_bytes).min(end);
            (from < to).then(|| ReadSpan {
                file: read.file,
                file_offset_bytes: read.file_offset_bytes + (from - read.dst_offset_bytes),
                dst_offset_bytes: from - start,
                len_bytes: to - from,
            })
        });
        (start, end - start, inside.collect())
    })
}
