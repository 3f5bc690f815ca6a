//! Homes: pinned memory that keeps the bytes of a unit, so that the next load of it reads no disk.
//! A home is asked for once and pinned a little later, by the [`Pinner`](super::pinner::Pinner).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::board::Board;
use super::landing::Landing;
use super::lane::Source;
use super::plan::LoadPlan;
use super::status::LoadStatus;
use crate::base::lock;

/// Pinned memory that keeps the bytes of one unit, once it is pinned. Until then, and where it is
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

    /// Whether `load` came from it.
    pub(crate) fn is_source_of(&self, load: &Arc<LoadStatus>) -> bool {
        Arc::ptr_eq(&self.0.status, load)
    }
}

/// What all handles of a home share.
#[derive(Debug)]
pub(super) struct HomeCell {
    pub(super) plan: Arc<LoadPlan>,
    pub(super) status: Arc<LoadStatus>,
    /// Of the loader it was made by.
    pub(super) board: Weak<Board>,
    /// Held for a look or a change only.
    state: Mutex<HomeState>,
}

#[derive(Debug)]
enum HomeState {
    /// Nobody is about to pin it: it is new, or was refused.
    Unpinned,
    /// Somebody will pin or refuse it.
    Asked,
    Pinned(Arc<HomeMemory>),
}

impl HomeCell {
    pub(super) fn new(plan: &Arc<LoadPlan>, board: &Arc<Board>) -> Self {
        let (plan, board) = (Arc::clone(plan), Arc::downgrade(board));
        Self { plan, status: Arc::default(), board, state: Mutex::new(HomeState::Unpinned) }
    }

    /// True for one caller, who sees to it that it is pinned or refused.
    pub(super) fn begin(&self) -> bool {
        let mut state = lock(&self.state);
        let begins = matches!(*state, HomeState::Unpinned) && self.plan.len_bytes > 0;
        if begins {
            *state = HomeState::Asked;
        }
        begins
    }

    /// It was pinned or refused.
    pub(super) fn end(&self, landing: Option<Landing>) {
        *lock(&self.state) = match landing {
            Some(landing) => HomeState::Pinned(Arc::new(self.filled_by(landing))),
            None => HomeState::Unpinned,
        };
    }

    fn filled_by(&self, landing: Landing) -> HomeMemory {
        HomeMemory {
            landing: Arc::new(landing),
            is_read: AtomicBool::new(false),
            filled: self.plan.home.chunks.iter().map(|_| AtomicBool::new(false)).collect(),
        }
    }

    pub(super) fn memory(&self) -> Option<Arc<HomeMemory>> {
        match &*lock(&self.state) {
            HomeState::Pinned(memory) => Some(Arc::clone(memory)),
            HomeState::Unpinned | HomeState::Asked => None,
        }
    }
}

/// Pinned memory of a whole unit, and which of its chunks are there.
#[derive(Debug)]
pub(super) struct HomeMemory {
    pub(super) landing: Arc<Landing>,
    /// Whether its reading was begun.
    is_read: AtomicBool,
    filled: Box<[AtomicBool]>,
}

impl HomeMemory {
    /// True for the first caller, who sees to it that it is read.
    pub(super) fn begin_reading(&self) -> bool {
        !self.is_read.swap(true, Ordering::Relaxed)
    }

    /// A chunk is there, or will never be.
    pub(super) fn set_filled(&self, chunk: usize) {
        if let Some(filled) = self.filled.get(chunk) {
            // Pairs with `is_filled`: who finds it there may have it copied.
            filled.store(true, Ordering::Release);
        }
    }
}

/// A chunk of a home, as the source of copies.
#[derive(Debug)]
pub(super) struct HomeChunk(pub(super) Arc<HomeMemory>, pub(super) usize);

impl Source for HomeChunk {
    fn is_filled(&self) -> bool {
        self.0.filled.get(self.1).is_some_and(|filled| filled.load(Ordering::Acquire))
    }
}
