//! The memory of one stream: who may enter it, and how. The quick way in is in `quick`; what happens
//! inside is in `hot` (requests and frees), `raw` (blocks handed out as bare addresses), `notes`
//! (what is known of some blocks only) and `retired` (blocks that other streams use).
//!
//! One thread enters a heap nearly always, the one that feeds the stream, and enters it by a
//! [`Biased`] lock at the cost of two stores. Frees from other threads are put in the heap's
//! mailbox, and whoever enters next carries them out.

mod hot;
mod notes;
mod planned;
mod quick;
mod raw;
mod retired;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use self::notes::Notes;
use self::raw::RawBlocks;
use super::expandable::Expandable;
use super::mailbox::Mailbox;
use super::private::PoolInfo;
use super::shared::Shared;
use super::tally::TallyRef;
use crate::base::{Biased, BiasedGuard, Error, Reentered, Result, thread_token};
use crate::device::{DevicePtr, Stream};
use crate::fence::{RetireQueue, StreamKey};
use crate::ledger::{BlockId, Ledger, SegmentId, SplitChange, State};
use crate::policy::Chosen;

/// The class of dedicated segments; no policy uses it.
pub(super) const DEDICATED_CLASS: u8 = u8::MAX;
/// The class of segments the driver would not take back; nothing is served from them.
pub(super) const KEPT_CLASS: u8 = u8::MAX - 1;

/// Stands for a thread where there is none.
const NOBODY: u64 = 0;

/// One stream's segments and everything in them. On lines of its own: another thread's heap
/// beside it would slow both down.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Heap {
    pub(super) shared: Arc<Shared>,
    /// Its place among the allocator's heaps.
    pub(super) number: u32,
    /// Its pool is closed: nobody enters it by itself any more.
    is_closed: AtomicBool,
    state: Biased<HeapState>,
    mail: Mailbox<Freed>,
}

/// What is behind a heap's lock. Every method leaves it whole; none waits for a stream.
#[derive(Debug)]
pub(super) struct HeapState {
    /// The thread that may take blocks and free them without looking at anything else first,
    /// [`NOBODY`] where something has to be looked at: see [`rate`](Self::rate).
    quick_taker: u64,
    quick_freer: u64,
    /// What the block of `last` was asked for with, while it is free but still stands in the
    /// ledger as active; else 0.
    again_bytes: u64,
    last: LastTaken,
    tally: TallyRef,
    /// The thread whose tally that is.
    tally_of: u64,
    /// Blocks of this size and above are counted apart.
    oversize_from: u64,
    pub(super) ledger: Ledger,
    pub(super) policy: Chosen,
    repeats: bool,
    /// A block of a class that is not cached is out of use: its segment is to go back.
    pub(super) finished: bool,
    /// Segments of this class and above are not cached: dedicated ones, and all of a closed pool.
    pub(super) uncached_from: u8,
    /// The stream's key; `u64::MAX` in a heap nobody uses.
    pub(super) key: u64,
    /// Kept alive, so that its handle names no other stream while there is memory of it.
    pub(super) stream: Option<Stream>,
    /// The private pool it is a part of; none in the default pool.
    pub(super) pool: Option<Arc<PoolInfo>>,
    pub(super) retired: RetireQueue<BlockId>,
    /// Empty but while blocks come out of `retired`; kept for its room.
    unused: Vec<BlockId>,
    /// With nothing handed out from this version of the ledger on, it may be time to begin anew:
    /// see `pool::expandable`.
    pub(super) anew_from: u64,
    /// Blocks handed out as bare addresses.
    raw: RawBlocks,
    /// What more there is to know of blocks that are marked.
    notes: Notes,
}

/// The block that was handed out last, by a search. While the ledger has not changed since, it
/// is known what giving it back and asking for it again would do: nothing.
#[derive(Debug)]
struct LastTaken {
    /// [`BlockId::NONE`] is none.
    block: BlockId,
    version: u64,
    block_bytes: u64,
    class: u64,
    split: SplitChange,
}

/// Whom a heap serves.
#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) stream: Stream,
    pub(super) pool: Option<Arc<PoolInfo>>,
    pub(super) policy: Chosen,
}

/// A block as its owner knows it; the default is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Taken {
    pub(crate) id: BlockId,
    pub(crate) ptr: DevicePtr,
}

impl Taken {
    /// No block. In place of an `Option`, which would not come back in registers.
    const NONE: Self = Self { id: BlockId::NONE, ptr: DevicePtr(0) };

    #[inline(always)]
    pub(super) fn some(self) -> Option<Self> {
        (self.id != BlockId::NONE).then_some(self)
    }
}

/// Which block is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Id(BlockId),
    Address(u64),
}

/// A block given up by its owner.
#[derive(Debug)]
pub(super) struct Freed {
    pub(super) block: Which,
    /// Streams other than its own that used it.
    pub(super) uses: Vec<Stream>,
}

impl Heap {
    pub(super) fn new(shared: &Arc<Shared>, number: u32, tenant: Tenant) -> Self {
        let Tenant { stream, pool, policy } = tenant;
        let repeats = policy.repeats();
        Self {
            shared: Arc::clone(shared),
            number,
            is_closed: AtomicBool::new(false),
            mail: Mailbox::default(),
            state: Biased::new(HeapState {
                quick_taker: NOBODY,
                quick_freer: NOBODY,
                again_bytes: 0,
                last: LastTaken {
                    block: BlockId::NONE,
                    version: 0,
                    block_bytes: 0,
                    class: 0,
                    split: SplitChange::default(),
                },
                tally: TallyRef::default(),
                tally_of: NOBODY,
                oversize_from: shared.oversize_from(),
                ledger: Ledger::default(),
                policy,
                repeats,
                finished: false,
                uncached_from: DEDICATED_CLASS,
                key: StreamKey::of(&stream).raw(),
                stream: Some(stream),
                pool,
                retired: RetireQueue::default(),
                unused: Vec::new(),
                anew_from: 0,
                raw: RawBlocks::default(),
                notes: Notes::default(),
            }),
        }
    }

    /// Enters, with everything done that others left to be done.
    ///
    /// # Errors
    /// The thread is inside already: a recorder or policy called the allocator.
    #[inline]
    pub(super) fn enter(&self) -> Result<BiasedGuard<'_, HeapState>> {
        let me = thread_token();
        let mut state = self.state.enter(me).map_err(|Reentered| reentered())?;
        self.arrive(&mut state, me);
        Ok(state)
    }

    #[inline]
    fn arrive(&self, state: &mut HeapState, me: u64) {
        // Whatever is done now may leave something to be looked at.
        (state.quick_taker, state.quick_freer) = (NOBODY, NOBODY);
        if state.tally_of != me {
            (state.tally, state.tally_of) = (self.shared.tally(), me);
        }
        if self.mail.has_any() {
            self.mail.take_all(|freed| {
                if !state.free(&self.shared, freed) {
                    tracing::error!("a pointer freed by another thread is no live block");
                }
            });
        }
    }

    /// The key of the stream it serves.
    ///
    /// # Errors
    /// As [`enter`](Self::enter).
    pub(super) fn key(&self) -> Result<u64> {
        Ok(self.enter()?.key)
    }

    /// Takes a block back without ever waiting: if somebody else is inside, or usually is, the
    /// next who enters does it. False if it is known to be no live block.
    #[inline]
    pub(super) fn free(self: &Arc<Self>, freed: Freed) -> bool {
        let me = thread_token();
        let Some(mut state) = self.state.try_enter(me) else {
            self.mail.put(freed);
            fence(Ordering::SeqCst);
            if self.is_closed.load(Ordering::Relaxed) {
                self.empty_mailbox();
            }
            return true;
        };
        self.arrive(&mut state, me);
        let known = state.free(&self.shared, freed);
        if state.finished {
            self.reap_finished(&mut state);
        }
        state.rate(&self.shared);
        known
    }

    /// Carries out what waits in the mailbox, though others may be inside or usually are.
    #[cold]
    fn empty_mailbox(self: &Arc<Self>) {
        let Ok(mut state) = self.enter() else { return };
        if state.finished {
            self.reap_finished(&mut state);
        }
    }

    /// Somebody is going to ask for memory of it again.
    pub(super) fn open(&self, tenant: Tenant) -> Result<()> {
        self.enter()?.move_in(tenant);
        self.is_closed.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Nobody asks for memory of its pool any more. Never waits for a stream or the driver.
    pub(super) fn close(self: &Arc<Self>) {
        self.is_closed.store(true, Ordering::Relaxed);
        // Either this finds what another thread is just putting into the mailbox, or that thread
        // finds the heap closed.
        fence(Ordering::SeqCst);
        // Within a recorder's own call it stays as it is, until the next trim.
        let Ok(mut state) = self.enter() else { return };
        state.settle_pending(&self.shared);
        (state.uncached_from, state.repeats, state.finished) = (0, false, true);
        self.reap_finished(&mut state);
    }
}

#[cold]
pub(super) fn reentered() -> Error {
    Error::invalid(
        "allocator",
        "a call from within itself",
        "recorders and policies must not call the allocator they serve",
    )
}

impl HeapState {
    /// Lets a heap that was vacated serve somebody.
    fn move_in(&mut self, tenant: Tenant) {
        let Tenant { stream, pool, policy } = tenant;
        self.key = StreamKey::of(&stream).raw();
        self.repeats = policy.repeats();
        self.uncached_from = DEDICATED_CLASS;
        (self.stream, self.pool, self.policy) = (Some(stream), pool, policy);
    }

    /// Lets go of whom it served; nothing is held any more.
    pub(super) fn move_out(&mut self) {
        (self.key, self.stream, self.pool) = (u64::MAX, None, None);
    }

    /// The id of its pool; 0 for the default pool.
    pub(super) fn pool_id(&self) -> u64 {
        self.pool.as_ref().map_or(0, |pool| pool.id)
    }

    /// Every wholly free segment, with its serial and the block it is, largest class first as
    /// PyTorch gives them back.
    pub(super) fn releasable(&self) -> Vec<(SegmentId, u32, BlockId)> {
        let ledger = &self.ledger;
        let classes = ledger.free_classes().rev();
        let blocks = classes.flat_map(|class| ledger.releasable(class));
        blocks
            .filter_map(|id| {
                let segment = ledger[id].segment;
                Some((segment, ledger.segment(segment)?.serial, id))
            })
            .collect()
    }

    /// The physical memory its policy maps, if it is one that does.
    pub(super) fn expandable(&self, shared: &Shared) -> Option<Arc<Expandable>> {
        match &self.pool {
            _ if !self.policy.maps() => None,
            Some(pool) => pool.expandable.clone(),
            None => shared.expandable.clone(),
        }
    }

    /// True when nothing is held, so that the heap may serve another stream of its pool, or any
    /// if that is closed.
    pub(super) fn is_vacant(&self) -> bool {
        let is_bare = self.pool.is_none() || self.ledger.segments().next().is_none();
        is_bare && self.ledger.totals().reserved_bytes == 0 && self.retired.is_empty()
    }

    /// Proves the ledger, and that the other indexes agree with it.
    pub(super) fn check(&mut self, shared: &Shared) -> Result<(), String> {
        self.settle_pending(shared);
        self.ledger.check()?;
        for (address, id) in self.raw.iter() {
            let live = self
                .ledger
                .get(id)
                .is_some_and(|block| block.address == address && block.state == State::Active);
            if !live {
                return Err(format!("{address:#x} is noted as a live raw block and is none"));
            }
        }
        let marked = self.ledger.blocks().filter(|block| block.marked);
        let noted = marked.filter(|block| self.notes.get(block.note).is_some()).count();
        if noted != self.notes.len() {
            return Err(format!("{} blocks are noted and {noted} marked", self.notes.len()));
        }
        Ok(())
    }
}
