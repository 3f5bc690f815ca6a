//! The memory of one stream, and the hot path: what happens to a request and a free while
//! nothing is asked of the driver.
//!
//! One thread enters a heap nearly always, the one that feeds the stream, and enters it by a
//! [`Biased`] lock at the cost of two stores. Frees from other threads are put in the heap's
//! mailbox, and whoever enters next carries them out.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::mailbox::Mailbox;
use super::shared::Shared;
use super::tally::{Counted, Tally, TallyRef};
use crate::base::{Biased, BiasedGuard, Error, Reentered, Result, thread_token};
use crate::device::{DevicePtr, Event, Stream};
use crate::event::TraceEvent;
use crate::fence::{RetireQueue, StreamKey};
use crate::ledger::{Block, BlockId, Ledger, SegmentId, SplitChange, State};
use crate::policy::{Chosen, Policy, Request};

/// The class of dedicated segments; no policy uses it.
pub(super) const DEDICATED_CLASS: u8 = u8::MAX;
/// The class of segments the driver would not take back; nothing is served from them.
pub(super) const KEPT_CLASS: u8 = u8::MAX - 1;

/// One stream's segments and everything in them.
#[derive(Debug)]
pub(super) struct Heap {
    pub(super) shared: Arc<Shared>,
    /// Its place among the allocator's heaps.
    pub(super) number: u32,
    state: Biased<HeapState>,
    mail: Mailbox<Freed>,
}

/// What is behind a heap's lock. Every method leaves it whole; none waits for a stream.
#[derive(Debug)]
pub(super) struct HeapState {
    /// The stream's key; what a heap nobody uses was last for.
    pub(super) key: u64,
    /// Kept alive, so that its handle names no other stream while there is memory of it.
    pub(super) stream: Option<Stream>,
    pub(super) ledger: Ledger,
    pub(super) policy: Chosen,
    pub(super) retired: RetireQueue<BlockId>,
    /// A dedicated block is out of use: its segment is to go back.
    pub(super) dedicated_finished: bool,
    repeats: bool,
    /// Blocks handed out as bare addresses.
    raw: HashMap<u64, BlockId, BuildHasherDefault<AddressHasher>>,
    /// Other streams that use a block, by its address.
    uses: HashMap<u64, Vec<Stream>>,
    last: LastTaken,
    /// True while the block of `last` is free, but still stands in the ledger as active.
    pending: bool,
    tally: TallyRef,
    /// The thread whose tally that is.
    tally_of: u64,
}

/// The block that was handed out last, by a search. While the ledger has not changed since, it
/// is known what giving it back and asking for it again would do: nothing.
#[derive(Debug)]
struct LastTaken {
    block: Option<BlockId>,
    version: u64,
    address: u64,
    block_bytes: u64,
    class: u64,
    split: SplitChange,
    counted: Counted,
}

/// A block as its owner knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Taken {
    pub(crate) id: BlockId,
    pub(crate) ptr: DevicePtr,
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

/// Addresses are multiples of 512 and spread by multiplying.
#[derive(Debug, Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u64(&mut self, value: u64) {
        let product = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product ^ (product >> 32);
    }
}

impl Heap {
    pub(super) fn new(shared: &Arc<Shared>, number: u32, policy: Chosen, stream: &Stream) -> Self {
        let repeats = policy.repeats();
        Self {
            shared: Arc::clone(shared),
            number,
            mail: Mailbox::default(),
            state: Biased::new(HeapState {
                key: StreamKey::of(stream).raw(),
                stream: Some(stream.clone()),
                ledger: Ledger::default(),
                policy,
                retired: RetireQueue::default(),
                dedicated_finished: false,
                repeats,
                raw: HashMap::default(),
                uses: HashMap::new(),
                last: LastTaken {
                    block: None,
                    version: 0,
                    address: 0,
                    block_bytes: 0,
                    class: 0,
                    split: SplitChange::default(),
                    counted: Counted::new(0, 0, 0),
                },
                pending: false,
                tally: TallyRef::default(),
                tally_of: 0,
            }),
        }
    }

    /// A block for `bytes`, where that takes nothing but looking at what is free: the calling
    /// thread owns the heap, nothing waits to be done, and a free block fits.
    #[inline]
    pub(super) fn take_quickly(&self, bytes: u64) -> Option<Taken> {
        let me = thread_token();
        self.state.as_owner(me, |state| self.find(state, me, bytes)).flatten()
    }

    /// As [`take_quickly`](Self::take_quickly), for frees by address, while the heap is that of
    /// the stream of `key`.
    #[inline]
    pub(super) fn take_raw_quickly(&self, bytes: u64, key: u64) -> Option<DevicePtr> {
        let me = thread_token();
        let ptr = self.state.as_owner(me, |state| {
            let taken = (state.key == key).then(|| self.find(state, me, bytes)).flatten()?;
            state.note_raw(taken);
            Some(taken.ptr)
        });
        ptr.flatten()
    }

    #[inline]
    fn find(&self, state: &mut HeapState, me: u64, bytes: u64) -> Option<Taken> {
        if !state.is_quiet(me) || self.mail.has_any() || !state.repeats {
            return None;
        }
        let Chosen::Caching(caching) = &state.policy else { return None };
        let request = caching.request(bytes)?;
        state.reuse(&self.shared, &request)
    }

    /// Takes a block back that only its own stream used, if the calling thread owns the heap
    /// and nothing waits to be done. False if not: nothing has happened then.
    #[inline]
    pub(super) fn free_quickly(&self, id: BlockId) -> bool {
        let me = thread_token();
        let freed = self.state.as_owner(me, |state| {
            let quick = state.is_quiet(me) && state.uses.is_empty();
            if quick {
                state.give_up(&self.shared, id);
            }
            quick
        });
        freed == Some(true)
    }

    /// Takes a block back without ever waiting.
    #[inline]
    pub(super) fn free_block(self: &Arc<Self>, id: BlockId) {
        if !self.free_quickly(id) {
            self.free(Freed { block: Which::Id(id), uses: Vec::new() });
        }
    }

    /// As [`free_block`](Self::free_block), by address. False if it is known to be no live block.
    #[inline]
    pub(super) fn free_address(self: &Arc<Self>, address: u64) -> bool {
        let me = thread_token();
        let freed = self.state.as_owner(me, |state| {
            if !state.is_quiet(me) || !state.uses.is_empty() {
                return None;
            }
            let known = state.raw.remove(&address);
            if let Some(id) = known {
                state.give_up(&self.shared, id);
            }
            Some(known.is_some())
        });
        let freed = freed.flatten();
        freed.unwrap_or_else(|| {
            self.free(Freed { block: Which::Address(address), uses: Vec::new() })
        })
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

    /// Takes a block back without ever waiting: if somebody else is inside, or usually is, the
    /// next who enters does it. False if it is known to be no live block.
    #[inline]
    pub(super) fn free(self: &Arc<Self>, freed: Freed) -> bool {
        let me = thread_token();
        let Some(mut state) = self.state.try_enter(me) else {
            self.mail.put(freed);
            return true;
        };
        self.arrive(&mut state, me);
        let known = state.free(&self.shared, freed);
        if state.dedicated_finished {
            self.reap_dedicated(&mut state);
        }
        known
    }
}

#[cold]
fn reentered() -> Error {
    Error::invalid(
        "allocator",
        "a call from within itself",
        "recorders and policies must not call the allocator they serve",
    )
}

impl HeapState {
    /// Serves `request` from what is cached.
    #[inline]
    pub(super) fn reuse(&mut self, shared: &Shared, request: &Request) -> Option<Taken> {
        if self.pending {
            if self.last.block_bytes == request.block_bytes
                && self.last.class == u64::from(request.class)
            {
                return self.take_again(shared, request);
            }
            self.settle_pending(shared);
        }
        let fit = match &mut self.policy {
            Chosen::Caching(caching) => {
                if caching.ages(request) {
                    shared.searches.fetch_add(1, Ordering::Relaxed);
                }
                caching.fit(&self.ledger, request)?
            }
            Chosen::Registered(policy) => {
                checked_fit(&mut **policy, shared, &self.ledger, request)?
            }
        };
        Some(self.hand_out(shared, fit.block, fit.take_bytes, request))
    }

    /// Hands a free block out, or its front part.
    #[inline]
    pub(super) fn hand_out(
        &mut self,
        shared: &Shared,
        id: BlockId,
        take_bytes: u64,
        request: &Request,
    ) -> Taken {
        let split = self.ledger.take(id, take_bytes, request.requested_bytes);
        let block = &self.ledger[id];
        let (class, address) = (block.class, block.address);
        let counted = Counted::new(class, take_bytes, request.requested_bytes);
        self.last = LastTaken {
            block: Some(id),
            version: self.ledger.version(),
            address,
            block_bytes: request.block_bytes,
            class: u64::from(request.class),
            split,
            counted,
        };
        self.count_taken(shared, counted, split, address);
        Taken { id, ptr: DevicePtr(address) }
    }

    /// Lets the next free of the block handed out last be written into the ledger at once.
    pub(super) fn forget_last(&mut self) {
        self.last.block = None;
    }

    /// The block freed last, for a request like the one that got it.
    #[inline]
    fn take_again(&mut self, shared: &Shared, request: &Request) -> Option<Taken> {
        self.pending = false;
        let id = self.last.block?;
        let requested_bytes = request.requested_bytes;
        self.last.counted.requested_bytes = requested_bytes;
        self.ledger.set_requested(id, requested_bytes);
        self.count_taken(shared, self.last.counted, self.last.split, self.last.address);
        Some(Taken { id, ptr: DevicePtr(self.last.address) })
    }

    /// Counts something in the tally of the thread that is inside.
    #[inline]
    fn count(&self, count: impl FnOnce(&mut Tally)) {
        // SAFETY: whoever gets at a heap's state is inside it, and on arrival the tally of its
        // thread was put in place. The counting functions call nobody.
        unsafe { self.tally.count(count) };
    }

    #[inline(always)]
    fn count_taken(&self, shared: &Shared, counted: Counted, split: SplitChange, address: u64) {
        let Counted { bytes, requested_bytes, .. } = counted;
        self.count(|tally| tally.taken(counted, split));
        if shared.is_oversize(bytes) {
            self.count(Tally::oversize_taken);
        }
        let stream = self.key;
        shared.note(|| TraceEvent::Alloc { address, bytes, requested_bytes, stream });
    }

    /// Takes a block back from its owner: free at once if only its own stream used it, else
    /// once the other streams are done. False if it is no live block.
    #[inline]
    pub(super) fn free(&mut self, shared: &Shared, freed: Freed) -> bool {
        let id = match freed.block {
            Which::Id(id) => id,
            Which::Address(address) => match self.raw.remove(&address) {
                Some(id) => id,
                None => return false,
            },
        };
        let (address, counted) = self.counted(id);
        let uses = self.uses_of(address, freed.uses);
        if uses.is_empty() {
            self.give_up(shared, id);
            return true;
        }
        let (bytes, stream) = (counted.bytes, self.key);
        shared.note(|| TraceEvent::FreeRequested { address, bytes, stream });
        if shared.is_oversize(bytes) {
            self.count(Tally::oversize_given_up);
        }
        self.retire(shared, id, counted, &uses);
        true
    }

    /// Makes a block free that only its own stream used.
    #[inline(always)]
    fn give_up(&mut self, shared: &Shared, id: BlockId) {
        let (address, counted) = self.counted(id);
        let (bytes, stream, class) = (counted.bytes, self.key, self.ledger[id].class);
        debug_assert!(self.ledger[id].state == State::Active);
        shared.note(|| TraceEvent::FreeRequested { address, bytes, stream });
        if shared.is_oversize(bytes) {
            self.count(Tally::oversize_given_up);
        }
        let repeats = self.repeats
            && class != DEDICATED_CLASS
            && self.last.block == Some(id)
            && self.last.version == self.ledger.version();
        if repeats {
            self.pending = true;
            let SplitChange { blocks, bytes } = self.last.split;
            let split = SplitChange { blocks: -blocks, bytes: -bytes };
            self.count(|tally| tally.given_back(counted, split));
        } else {
            self.settle_pending(shared);
            let split = self.ledger.give_back(id, shared.searches.load(Ordering::Relaxed));
            self.count(|tally| tally.given_back(counted, split));
            self.dedicated_finished |= class == DEDICATED_CLASS;
        }
        shared.note(|| TraceEvent::FreeCompleted { address, bytes, stream });
    }

    #[inline]
    fn counted(&self, id: BlockId) -> (u64, Counted) {
        let Block { address, bytes, requested_bytes, class, .. } = self.ledger[id];
        (address, Counted::new(class, bytes, requested_bytes))
    }

    /// True when the thread `me` may go ahead: its own tally is in place, and nothing freed
    /// waits for other streams or to be given back.
    #[inline]
    fn is_quiet(&self, me: u64) -> bool {
        self.tally_of == me && self.retired.is_empty() && !self.dedicated_finished
    }

    /// Writes into the ledger what was put off because the same request might come again.
    #[inline]
    pub(super) fn settle_pending(&mut self, shared: &Shared) {
        if self.pending {
            self.pending = false;
            if let Some(id) = self.last.block.take() {
                let now = shared.searches.load(Ordering::Relaxed);
                // Counted when it was freed, as the opposite of what taking it did.
                let split = self.ledger.give_back(id, now);
                debug_assert_eq!(split.bytes, -self.last.split.bytes);
            }
        }
    }

    /// Lets `address` name the block just taken, for frees by address.
    pub(super) fn note_raw(&mut self, taken: Taken) {
        self.raw.insert(taken.ptr.0, taken.id);
    }

    /// Notes that `stream` uses a block. False if it is no live block.
    pub(super) fn note_use(&mut self, block: Which, stream: &Stream) -> bool {
        let address = match block {
            Which::Id(id) => self.ledger[id].address,
            Which::Address(address) if self.raw.contains_key(&address) => address,
            Which::Address(_) => return false,
        };
        if StreamKey::of(stream).raw() != self.key {
            let uses = self.uses.entry(address).or_default();
            if !uses.contains(stream) {
                uses.push(stream.clone());
            }
        }
        true
    }

    /// Makes free what other streams are done with. One query for each stream waited for.
    #[inline]
    pub(super) fn poll(&mut self, shared: &Shared) {
        if self.retired.is_empty() {
            return;
        }
        self.poll_retired(shared);
    }

    #[cold]
    fn poll_retired(&mut self, shared: &Shared) {
        self.settle_pending(shared);
        let mut done = Vec::new();
        let stranded = self.retired.stranded_count();
        self.retired.poll(&shared.events, |id| done.push(id));
        self.count_stranded(shared, stranded);
        done.into_iter().for_each(|id| self.unretire(shared, id));
    }

    fn count_stranded(&self, shared: &Shared, before: usize) {
        let more = self.retired.stranded_count().wrapping_sub(before);
        shared.stranded_blocks.fetch_add(more as u64, Ordering::Relaxed);
    }

    /// Counts as free what other streams still use: for when nothing is handed out any more.
    /// Gives the events to wait for before any of it goes back to the driver.
    pub(super) fn settle_retired(&mut self, shared: &Shared) -> Vec<Arc<Event>> {
        self.settle_pending(shared);
        let (blocks, pending) = self.retired.take_waiting();
        blocks.into_iter().for_each(|id| self.unretire(shared, id));
        pending
    }

    fn uses_of(&mut self, address: u64, others: Vec<Stream>) -> Vec<Stream> {
        let mut uses = self.uses.remove(&address).unwrap_or_default();
        for stream in others {
            if StreamKey::of(&stream).raw() != self.key && !uses.contains(&stream) {
                uses.push(stream);
            }
        }
        uses
    }

    fn retire(&mut self, shared: &Shared, id: BlockId, counted: Counted, uses: &[Stream]) {
        self.settle_pending(shared);
        self.ledger.retire(id);
        self.count(|tally| tally.retired(counted));
        shared.cross_stream_waits.fetch_add(uses.len() as u64, Ordering::Relaxed);
        let stranded = self.retired.stranded_count();
        self.retired.retire(id, uses, &shared.events);
        self.count_stranded(shared, stranded);
    }

    fn unretire(&mut self, shared: &Shared, id: BlockId) {
        let (address, counted) = self.counted(id);
        let (stream, class) = (self.key, self.ledger[id].class);
        let split = self.ledger.give_back(id, shared.searches.load(Ordering::Relaxed));
        self.count(|tally| tally.unretired(counted, split));
        self.dedicated_finished |= class == DEDICATED_CLASS;
        shared.note(|| TraceEvent::FreeCompleted { address, bytes: counted.bytes, stream });
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

    /// Blocks handed out, and what their owners asked for in bytes.
    pub(super) fn live(&self) -> (u64, u64) {
        let active = self.ledger.blocks().filter(|block| block.state == State::Active);
        active.fold((0, 0), |(count, bytes), block| (count + 1, bytes + block.requested_bytes))
    }

    /// True when nothing is held, so that the heap may serve another stream.
    pub(super) fn is_vacant(&self) -> bool {
        self.ledger.totals().reserved_bytes == 0 && self.retired.is_empty()
    }

    /// Proves the ledger, and that the other indexes agree with it.
    pub(super) fn check(&mut self, shared: &Shared) -> Result<(), String> {
        self.settle_pending(shared);
        self.ledger.check()?;
        for (&address, &id) in &self.raw {
            let live = self
                .ledger
                .get(id)
                .is_some_and(|block| block.address == address && block.state == State::Active);
            if !live {
                return Err(format!("{address:#x} is noted as a live raw block and is none"));
            }
        }
        Ok(())
    }
}

/// What a policy says that may be anybody's: memory is never handed out twice on its word.
fn checked_fit(
    policy: &mut dyn Policy,
    shared: &Shared,
    ledger: &Ledger,
    request: &Request,
) -> Option<crate::policy::Fit> {
    if policy.ages(request) {
        shared.searches.fetch_add(1, Ordering::Relaxed);
    }
    let fit = policy.fit(ledger, request)?;
    let sound = ledger.get(fit.block).is_some_and(|block| {
        block.state == State::Free
            && block.class == request.class
            && (request.requested_bytes..=block.bytes).contains(&fit.take_bytes)
    });
    if !sound {
        tracing::error!(?fit, ?request, "the policy chose a block that does not fit");
        return None;
    }
    Some(fit)
}
