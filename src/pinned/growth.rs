//! Taking memory from the system. It is asked with no lock held, so that others go on with what
//! is pinned already; what is on its way counts against the budget.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::block::Range;
use super::shared::{Core, Shared};
use super::slab::{Kind, Slab};
use crate::base::{Error, MIB, Result, format_bytes, lock, wait};
use crate::ledger::{Block, NewSegment};

/// Classes of the ledger are kinds of memory; from here on they are of blocks that have a slab
/// of their own, which goes when they do.
pub(super) const OWN_SLAB: u8 = 3;

/// Blocks are multiples of this: the alignment direct disk reads need.
pub(super) const GRANULE_BYTES: u64 = 4096;

/// Small requests share slabs: of this size at least, ...
const SHARED_SLAB_LEAST_BYTES: u64 = 2 * MIB;
/// ... one part in so many of what is held, so that slabs are few and little is pinned ahead, ...
const SHARED_SLAB_PART: u64 = 64;
/// ... and of this size at most, which is next to nothing where slabs are that large.
const SHARED_SLAB_MOST_BYTES: u64 = 64 * MIB;

/// What is wanted of the books. Sizes in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    /// A multiple of the granule, above 0.
    pub(super) bytes: u64,
    /// What the caller asked for.
    pub(super) requested_bytes: u64,
    pub(super) kind: Kind,
    pub(super) own_slab: bool,
}

impl Request {
    fn class(&self) -> u8 {
        let kind = match self.kind {
            Kind::Pinned => 0,
            Kind::Pageable => 1,
            Kind::WriteCombined => 2,
        };
        kind + if self.own_slab { OWN_SLAB } else { 0 }
    }

    /// The size of a new slab for it: its own, or as many times that as a share of what is held
    /// allows, so that requests of one size leave no rest.
    fn slab_bytes(&self, held_bytes: u64) -> u64 {
        if self.own_slab {
            return self.bytes;
        }
        let share = held_bytes / SHARED_SLAB_PART;
        let share = share.clamp(SHARED_SLAB_LEAST_BYTES, SHARED_SLAB_MOST_BYTES);
        self.bytes * (share / self.bytes).max(1)
    }
}

/// What a request that found nothing gets.
enum Claim {
    /// Somebody gave back what fits meanwhile.
    Found(Range),
    /// So many bytes of the budget, for a new slab.
    Room { bytes: u64, is_reserve: bool },
}

impl Core {
    /// Hands out what fits best.
    fn find(&mut self, request: Request) -> Option<Range> {
        let block = self.ledger.best_fit(request.class(), request.bytes)?;
        let start = NonNull::new(self.ledger[block].address as *mut u8)?;
        self.ledger.take(block, request.bytes, request.requested_bytes);
        self.flow.hand_out(request.bytes, self.ledger.totals().active_bytes);
        Some(Range { id: block, start, bytes: request.bytes, kind: request.kind })
    }

    fn enter_slab(&mut self, slab: Slab, class: u8) {
        let (address, bytes) = (slab.start().as_ptr() as u64, slab.bytes());
        let serial = self.serial;
        self.serial = self.serial.wrapping_add(1);
        self.slabs.insert(address, slab);
        self.flow.slabs_peak = self.flow.slabs_peak.max(self.slabs.len() as u64);
        self.flow.slab_bytes += bytes;
        self.ledger.add_segment(NewSegment { address, bytes, class, stream: 0, serial }, 0);
        self.note_peak();
    }
}

impl Shared {
    /// A range for `request`: free already, or of a new slab; pageable where the system refuses
    /// to pin one. Waits for no stream.
    pub(super) fn take(self: &Arc<Self>, request: Request) -> Result<Range> {
        let mut core = self.enter();
        if let Some(range) = core.find(request) {
            return Ok(range);
        }
        self.unshelve(&mut core);
        self.poll(&mut core);
        if let Some(range) = core.find(request) {
            return Ok(range);
        }
        drop(core);
        self.release_stale();
        let pageable = Request { kind: Kind::Pageable, ..request };
        match self.grow(request)? {
            Some(range) => Ok(range),
            None => self.grow(pageable)?.ok_or_else(|| {
                Error::invalid("pinned memory", request.requested_bytes, "there is none")
            }),
        }
    }

    /// A range of a new slab, unless one was given back meanwhile; `None` where the system
    /// refuses to pin it.
    fn grow(self: &Arc<Self>, request: Request) -> Result<Option<Range>> {
        let (bytes, is_reserve) = match self.claim(request)? {
            Claim::Found(range) => return Ok(Some(range)),
            Claim::Room { bytes, is_reserve } => (bytes, is_reserve),
        };
        let begun = Instant::now();
        let made = self.make(request, bytes);
        let mut core = lock(&self.core);
        core.pinning_bytes -= bytes;
        let Some(mut slab) = made? else { return Ok(None) };
        slab.is_reserve = is_reserve && slab.bytes() == bytes;
        core.flow.taking.add(begun.elapsed());
        core.enter_slab(slab, request.class());
        Ok(core.find(request))
    }

    /// Puts room in the budget aside for a new slab, unless something fits meanwhile.
    fn claim(self: &Arc<Self>, request: Request) -> Result<Claim> {
        self.with_room(request.bytes, |core, room| {
            if let Some(range) = core.find(request) {
                return Some(Claim::Found(range));
            }
            if request.bytes > room {
                return None;
            }
            let (bytes, is_reserve) = self.slab_bytes(core, request, room);
            core.has_grown = true;
            core.pinning_bytes += bytes;
            Some(Claim::Room { bytes, is_reserve })
        })
    }

    /// Puts room in the budget aside for memory of a caller's.
    pub(super) fn claim_adopted(self: &Arc<Self>, bytes: u64) -> Result<()> {
        self.with_room(bytes, |core, room| {
            let has_room = bytes <= room;
            core.adopted_bytes += if has_room { bytes } else { 0 };
            has_room.then_some(())
        })
    }

    /// Memory of a caller's was not pinned after all.
    pub(super) fn give_back_adopted(&self, bytes: u64) {
        lock(&self.core).adopted_bytes -= bytes;
        self.released.notify_all();
    }

    /// Lets `attempt` see how much room the budget has, until it finds it enough. Where it does
    /// not, gives everything that is free to the system first.
    fn with_room<T>(
        self: &Arc<Self>,
        bytes: u64,
        attempt: impl Fn(&mut Core, u64) -> Option<T>,
    ) -> Result<T> {
        let mut core = lock(&self.core);
        let mut in_vain = false;
        loop {
            let room = self.budget.bytes.saturating_sub(core.held_bytes());
            if let Some(done) = attempt(&mut core, room) {
                core.note_peak();
                return Ok(done);
            }
            self.unshelve(&mut core);
            self.poll(&mut core);
            let may_release = !self.captures.any();
            if may_release && self.detach(&mut core, |_, _| true) > 0 {
                in_vain = false;
            }
            if may_release && !in_vain && !core.outgoing.is_empty() {
                drop(core);
                in_vain = self.release_outgoing() == 0;
                core = self.enter();
            } else if core.in_release_bytes > 0 {
                core = wait(&self.released, core);
            } else {
                return Err(Error::PinnedBudget {
                    requested_bytes: bytes,
                    reserved_bytes: core.held_bytes(),
                    budget_bytes: self.budget.bytes,
                });
            }
        }
    }

    /// The size of a new slab, at most `room`, which the request fits in; and whether it is the
    /// one that the conf asks for.
    fn slab_bytes(&self, core: &Core, request: Request, room: u64) -> (u64, bool) {
        let whole_room = room / GRANULE_BYTES * GRANULE_BYTES;
        let is_first = !core.has_grown && request.kind == Kind::Pinned && !request.own_slab;
        let reserve = if is_first { self.sizes.reserve_bytes.min(whole_room) } else { 0 };
        let wanted = request.slab_bytes(core.held_bytes());
        let wanted = if wanted <= room { wanted } else { request.bytes };
        (wanted.max(reserve), reserve > 0)
    }

    /// A slab of `bytes`, or of the request's size where the system refuses as much; `None` where
    /// it refuses that too.
    fn make(self: &Arc<Self>, request: Request, bytes: u64) -> Result<Option<Slab>> {
        let of_source = |bytes| match request.kind {
            Kind::Pinned => self.source.pinned(bytes),
            Kind::WriteCombined => self.source.write_combined(bytes),
            Kind::Pageable => self.source.pageable(bytes),
        };
        if request.bytes >= self.refused_bytes.load(Ordering::Relaxed)
            && request.kind != Kind::Pageable
        {
            return Ok(None);
        }
        let mut made = of_source(bytes);
        if made.is_err() && bytes > request.bytes {
            made = of_source(request.bytes);
        }
        let is_pinned = |_: &Block, slab: &Slab| slab.kind != Kind::Pageable;
        if made.is_err() && self.release_chosen(is_pinned) > 0 {
            made = of_source(request.bytes);
        }
        match made {
            Ok(slab) => Ok(Some(slab)),
            Err(error) if request.kind == Kind::Pageable => Err(error),
            Err(error) => {
                self.refused_bytes.fetch_min(request.bytes, Ordering::Relaxed);
                self.warn_of_refusal(request.bytes, &error);
                Ok(None)
            }
        }
    }

    /// Says once that the system does not pin as much as the pool asks for, and what that costs.
    fn warn_of_refusal(&self, bytes: u64, error: &Error) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %error,
                "the system refused to pin {}: from here on such blocks are pageable, and copies \
                 from and to them go through pinned memory, which takes the processor and often \
                 twice the time; raise what the system lets be pinned ('ulimit -l', the \
                 container's limits), or lower pinned_limit_mb",
                format_bytes(bytes),
            );
        }
    }
}
