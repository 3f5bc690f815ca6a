//! Homes: host memory that keeps the bytes of a unit, so that the next load of it reads no disk.
//! A home is asked for once and pinned a little later, by the [`Pinner`](super::pinner::Pinner).
//!
//! The loader whose load comes first reads it. Other loaders, of the same device or another, use
//! it from when all of it is there, so that a loader that ends or fails takes nobody with it.

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use super::board::Board;
use super::files::FileSet;
use super::guests::Guests;
use super::landing::Landing;
use super::lane::Source;
use super::plan::LoadPlan;
use super::ram::Place;
use super::status::LoadStatus;
use super::users::Users;
use crate::base::lock;
use crate::device::{Device, Stream};
use crate::pinned::PinnedPool;

/// Memory that keeps the bytes of one unit, once it is pinned. Until then, and where it is
/// refused, loads go through the window. Clones share it.
#[derive(Debug, Clone)]
pub struct Home(pub(super) Arc<HomeCell>);

impl Home {
    /// Whether reading it failed; a failed home is of no further use.
    #[must_use]
    pub fn status(&self) -> &LoadStatus {
        &self.0.status
    }

    /// True once loads come from it.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.0.memory().is_some()
    }

    /// True once all of its bytes are there: loads read no disk.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.0.memory().is_some_and(|memory| memory.is_whole())
    }

    /// Whether `load` came from it.
    pub(crate) fn is_source_of(&self, load: &Arc<LoadStatus>) -> bool {
        Arc::ptr_eq(&self.0.status, load)
    }
}

/// What all handles of a home share.
#[derive(Debug)]
pub(super) struct HomeCell {
    /// Of the loader that asked first. Others may cut the unit otherwise: what lies where in the
    /// memory is the same.
    pub(super) plan: Arc<LoadPlan>,
    /// What it is read from.
    pub(super) files: Arc<FileSet>,
    pub(super) status: Arc<LoadStatus>,
    /// Where it stands in a cache, if it does in one.
    pub(super) place: Option<Place>,
    /// The state of the cache when it was last refused there, so that it is not asked in vain.
    refused_at: AtomicU64,
    /// Held for a look or a change only.
    state: Mutex<HomeState>,
}

#[derive(Debug)]
enum HomeState {
    /// Nobody is about to pin it: it is new, was refused, or made room for another.
    Unpinned,
    /// Somebody will pin or refuse it.
    Asked,
    Pinned(Arc<HomeMemory>),
}

impl HomeCell {
    pub(super) fn new(plan: &Arc<LoadPlan>, files: &Arc<FileSet>, place: Option<Place>) -> Self {
        Self {
            plan: Arc::clone(plan),
            files: Arc::clone(files),
            status: Arc::default(),
            place,
            refused_at: AtomicU64::new(u64::MAX),
            state: Mutex::new(HomeState::Unpinned),
        }
    }

    /// Whether it keeps the unit of this plan, of these files.
    pub(super) fn is_of(&self, plan: &Arc<LoadPlan>, files: &Arc<FileSet>) -> bool {
        let same_plan = Arc::ptr_eq(&self.plan, plan) || self.plan.spans == plan.spans;
        same_plan && (Arc::ptr_eq(&self.files, files) || self.files == *files)
    }

    /// True for one caller, who sees to it that it is pinned or refused.
    pub(super) fn begin(&self) -> bool {
        let mut state = lock(&self.state);
        let begins = matches!(*state, HomeState::Unpinned)
            && self.plan.len_bytes > 0
            && self
                .place
                .as_ref()
                .is_none_or(|place| place.changes() != self.refused_at.load(Ordering::Relaxed));
        if begins {
            *state = HomeState::Asked;
        }
        begins
    }

    /// Its cache has no room for it; asking is in vain while things there stand so, if that is
    /// known.
    pub(super) fn note_refused(&self, changes: Option<u64>) {
        self.refused_at.store(changes.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// It was pinned or refused.
    pub(super) fn end(&self, landing: Option<Landing>, device: &Device) {
        *lock(&self.state) = match landing {
            Some(landing) => HomeState::Pinned(Arc::new(self.filled_by(landing, device))),
            None => HomeState::Unpinned,
        };
    }

    fn filled_by(&self, landing: Landing, device: &Device) -> HomeMemory {
        let chunks = &self.plan.home.chunks;
        HomeMemory {
            users: Users::with_room(),
            guests: Guests::default(),
            landing: Arc::new(landing),
            device: device.clone(),
            lead: chunks.first().map_or(0, |first| first.at),
            status: Arc::clone(&self.status),
            reader: OnceLock::new(),
            chunks: chunks.iter().map(|_| AtomicU8::new(MISSING)).collect(),
            left: AtomicUsize::new(chunks.len()),
        }
    }

    /// The memory to keep a chunk in that was read through the window by the loader of `board`, cut
    /// as `plan` does: if it is there by now and nobody else fills it. The chunk is the caller's to
    /// fill then.
    pub(super) fn begin_keeping(
        &self,
        plan: &LoadPlan,
        chunk: usize,
        board: &Arc<Board>,
    ) -> Option<Arc<HomeMemory>> {
        let bounds =
            |plan: &LoadPlan| plan.home.chunks.get(chunk).map(|chunk| (chunk.start, chunk.len));
        let memory = self.memory().filter(|_| bounds(&self.plan) == bounds(plan))?;
        let keeps = memory.is_read_by(board) && memory.begin_chunk(chunk);
        keeps.then_some(memory)
    }

    pub(super) fn memory(&self) -> Option<Arc<HomeMemory>> {
        match &*lock(&self.state) {
            HomeState::Pinned(memory) => Some(Arc::clone(memory)),
            HomeState::Unpinned | HomeState::Asked => None,
        }
    }

    /// What it holds.
    pub(super) fn holding(&self) -> Holding {
        let state = lock(&self.state);
        let HomeState::Pinned(memory) = &*state else { return Holding::Nothing };
        // Nobody has a share in it who has not found it here.
        match Arc::strong_count(memory) {
            1 => Holding::Idle(memory.landing.len_bytes(), memory.device.clone()),
            _ => Holding::Busy,
        }
    }

    /// Whether it holds no memory and is not about to.
    pub(super) fn is_empty(&self) -> bool {
        matches!(*lock(&self.state), HomeState::Unpinned)
    }

    /// Takes its memory out, if it is idle. To be dropped outside of all locks.
    pub(super) fn take_idle(&self) -> Option<Arc<HomeMemory>> {
        let mut state = lock(&self.state);
        let HomeState::Pinned(memory) = &*state else { return None };
        if Arc::strong_count(memory) > 1 {
            return None;
        }
        match std::mem::replace(&mut *state, HomeState::Unpinned) {
            HomeState::Pinned(memory) => Some(memory),
            HomeState::Unpinned | HomeState::Asked => None,
        }
    }
}

/// What a home holds.
#[derive(Debug)]
pub(super) enum Holding {
    /// No memory.
    Nothing,
    /// Memory that somebody reads to, or copies from.
    Busy,
    /// So many bytes that could be had, pinned for this device.
    Idle(u64, Device),
}

/// Nobody fills the chunk.
const MISSING: u8 = 0;
/// Somebody does.
const BEING_FILLED: u8 = 1;
/// It is there, or will never be.
const FILLED: u8 = 2;

/// Memory of a whole unit, and which of its chunks are there.
#[derive(Debug)]
pub(super) struct HomeMemory {
    /// The streams that copy from it. They are noted with the memory when that goes, which goes
    /// before the places it is pinned at for others.
    users: Users,
    /// Other devices that may copy from it.
    pub(super) guests: Guests,
    pub(super) landing: Arc<Landing>,
    /// The device it was pinned for.
    device: Device,
    /// Where the unit begins in the landing.
    lead: u64,
    status: Arc<LoadStatus>,
    /// Whose readers fill it.
    reader: OnceLock<Weak<Board>>,
    /// Of each chunk, whether it is missing, being filled or there.
    chunks: Box<[AtomicU8]>,
    /// Chunks that are not filled.
    left: AtomicUsize,
}

impl HomeMemory {
    /// Whether the loader of `board` reads it: the first to ask does.
    pub(super) fn is_read_by(&self, board: &Arc<Board>) -> bool {
        let reader = self.reader.get_or_init(|| Arc::downgrade(board));
        std::ptr::eq(reader.as_ptr(), Arc::as_ptr(board))
    }

    /// Whether nobody reads it, or whoever did is gone.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reader.get().is_none_or(|board| board.strong_count() == 0)
    }

    /// True for one caller, who sees to it that a chunk is filled. For whoever
    /// [reads](Self::is_read_by) it alone.
    pub(super) fn begin_chunk(&self, chunk: usize) -> bool {
        self.chunks.get(chunk).is_some_and(|state| {
            let (from, to) = (MISSING, BEING_FILLED);
            state.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        })
    }

    /// A chunk is there, or will never be.
    pub(super) fn set_filled(&self, chunk: usize) {
        if let Some(state) = self.chunks.get(chunk) {
            // Pairs with `is_filled`: who finds it there may have it copied.
            state.store(FILLED, Ordering::Release);
            // Pairs with `is_whole`.
            self.left.fetch_sub(1, Ordering::Release);
        }
    }

    /// Whether all of it is there, for good.
    pub(super) fn is_whole(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0 && self.status.check().is_ok()
    }

    /// Whether `device` can copy from it.
    pub(super) fn is_open_to(&self, device: &Device) -> bool {
        self.device == *device || self.guests.is_ready(device)
    }

    /// Pins it for the device of a pool too. All of it is there.
    pub(super) fn open_to(&self, pool: &PinnedPool) {
        self.guests.admit(pool, &self.landing);
    }

    /// Notes that these streams copy from it, until the loader of `board` is gone and they have
    /// run.
    pub(super) fn note_users(&self, streams: [&Stream; 2], board: &Arc<Board>) {
        self.users.note(streams, board);
    }

    /// Where byte `offset` of the unit lies.
    pub(super) fn at(&self, offset: u64) -> *mut u8 {
        self.landing.at(self.lead + offset)
    }
}

impl Drop for HomeMemory {
    /// What is still copied from it keeps the memory.
    fn drop(&mut self) {
        for stream in self.users.take() {
            let noted = match stream.device() == &self.device {
                true => self.landing.record_use(&stream),
                false => self.guests.record_use(&stream),
            };
            debug_assert!(noted.is_ok(), "a stream of a device that was never let in");
        }
    }
}

/// A chunk of a home, as the source of copies.
#[derive(Debug)]
pub(super) struct HomeChunk(pub(super) Arc<HomeMemory>, pub(super) usize);

impl Source for HomeChunk {
    fn is_filled(&self) -> bool {
        let state = self.0.chunks.get(self.1);
        state.is_some_and(|state| state.load(Ordering::Acquire) == FILLED)
    }
}
