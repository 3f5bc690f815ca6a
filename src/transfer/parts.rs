//! A load in parts: begun once, and copied as far as there is room for it, again and again until it
//! is whole. A chunk may be cut where room ends that is there at once, and the rest of it waits in
//! the stream for the room behind.
#![allow(unsafe_code)]

use std::sync::Arc;

use super::board::{Job, LaneId};
use super::home::{HomeCell, HomeChunk, HomeMemory};
use super::landing::Landing;
use super::loader::Loader;
use super::plan::{Chunk, LoadPlan};
use super::status::LoadStatus;
use crate::base::Result;
use crate::device::{DevicePtr, Stream};

/// A load that was begun. One that is given up half-way must be given to
/// [`Loader::abandon`].
#[derive(Debug)]
pub(crate) struct LoadInParts {
    /// As it is cut: the unit's own, or that of whoever reads its home.
    plan: Arc<LoadPlan>,
    source: Source,
    status: Arc<LoadStatus>,
    lane: LaneId,
    /// The chunk that is to be copied next, or the rest of it.
    chunk: usize,
    /// The first byte that was not copied yet.
    done: u64,
    open: Option<Open>,
}

/// Where a load comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// Through the window: from host memory that has all of it and that the device does not copy
    /// from, or from its files, and then into a home too, as far as that is pinned by the time.
    Window { ram: Option<Arc<HomeMemory>>, keep: Option<Arc<HomeCell>> },
    /// Straight from a home.
    Home(Arc<HomeMemory>),
}

/// A chunk of which a part was copied, or that is about to be.
#[derive(Debug)]
struct Open {
    /// The number of its copy.
    number: u64,
    landing: Arc<Landing>,
}

impl LoadInParts {
    pub(super) fn new(
        plan: &Arc<LoadPlan>,
        source: Source,
        status: Arc<LoadStatus>,
        lane: LaneId,
    ) -> Self {
        Self { plan: Arc::clone(plan), source, status, lane, chunk: 0, done: 0, open: None }
    }

    /// Whether it failed, and what took its time.
    pub(crate) fn status(&self) -> &Arc<LoadStatus> {
        &self.status
    }

    /// Whether every copy is enqueued.
    pub(crate) fn is_whole(&self) -> bool {
        self.chunk == self.chunks().len()
    }

    fn chunks(&self) -> &[Chunk] {
        match self.source {
            Source::Window { .. } => &self.plan.window.chunks,
            Source::Home(_) => &self.plan.home.chunks,
        }
    }

    fn next(&self) -> Option<Chunk> {
        self.chunks().get(self.chunk).cloned()
    }
}

impl Loader {
    /// Enqueues the copies of a load up to byte `until` of the unit that lies at `dst`. The
    /// stream may be made to wait for something before the next part.
    ///
    /// # Errors
    /// What the driver says; the load is of no further use then.
    ///
    /// # Safety
    /// As [`load`](Self::load), for the bytes up to `until`. All parts go to one `dst`.
    pub(crate) unsafe fn go_on(
        &mut self,
        load: &mut LoadInParts,
        dst: DevicePtr,
        until: u64,
    ) -> Result<()> {
        let stream = self.way(load.lane).stream.clone();
        while let Some(chunk) = load.next().filter(|_| load.done < until) {
            let open = match load.open.take() {
                Some(open) => open,
                None => self.open(load, &chunk, &stream)?,
            };
            let end = until.min(chunk.start + chunk.len);
            let is_last = end == chunk.start + chunk.len;
            let (number, bytes) = (open.number, end - load.done);
            let from = open.landing.at(chunk.at + (load.done - chunk.start));
            let to = dst.offset(load.done);
            // The end of a first part says no more than that all copies before are over.
            let over = if is_last { number } else { number - 1 };
            let copied = self.marks.time(load.lane, (over, bytes), &load.status, &stream, || {
                // SAFETY: the target lies in the unit by the caller's promise. The landing holds
                // the whole chunk; its use is recorded, so it outlives the copy, and until that is
                // over no reader writes it.
                Ok(unsafe { stream.device().driver().copy_h2d(stream.id(), to, from, bytes) }?)
            });
            let mark = copied.inspect_err(|_| self.fail(load.lane, number, &stream))?;
            (load.done, self.bytes_moved) = (end, self.bytes_moved + bytes);
            if is_last {
                self.board.set_mark(load.lane, number, mark);
                load.chunk += 1;
            } else {
                load.open = Some(open);
            }
        }
        Ok(())
    }

    /// Gives a load up that is not whole. Blocks if it ended within a chunk.
    pub(crate) fn abandon(&mut self, load: LoadInParts) {
        if let Some(open) = load.open {
            let stream = self.way(load.lane).stream.clone();
            self.fail(load.lane, open.number, &stream);
        }
    }

    /// Queues the copy of the next chunk, and makes the stream wait for its bytes.
    fn open(&mut self, load: &LoadInParts, chunk: &Chunk, stream: &Stream) -> Result<Open> {
        let LoadInParts { lane, plan, status, .. } = load;
        let (number, opened, landing) = match &load.source {
            Source::Home(home) => {
                let source = HomeChunk(Arc::clone(home), load.chunk);
                let (number, opened) = self.board.push_home_copy(*lane, chunk.len, source);
                (number, opened, Arc::clone(&home.landing))
            }
            Source::Window { ram, keep } => {
                let (landing, after) = self.way(*lane).next_slot();
                // Queued before anything of it is enqueued: even if the driver then fails, the
                // gate opens and nobody is left waiting.
                let number = self.board.push_slot(*lane, after, chunk.len, |target| Job {
                    target,
                    plan: Arc::clone(plan),
                    chunk: load.chunk,
                    landing: Arc::clone(&landing),
                    status: Arc::clone(status),
                    ram: ram.clone(),
                    keep: keep.clone(),
                });
                self.way(*lane).used(number);
                (number, false, landing)
            }
        };
        self.harvest(*lane);
        if !opened {
            let waits = stream.wait_gate(self.board.gate(*lane), number);
            waits.inspect_err(|_| self.fail(*lane, number, stream))?;
        }
        Ok(Open { number, landing })
    }

    /// Copy `number` will not be whole: the driver is failing, or the load is given up. What did
    /// reach the stream is waited for, so that the memory is unused when it is filled again; if
    /// that fails too, it never is.
    fn fail(&self, lane: LaneId, number: u64, stream: &Stream) {
        match stream.synchronize() {
            Ok(()) => self.board.abandon(lane, number),
            Err(_) => self.cancel(),
        }
    }
}
