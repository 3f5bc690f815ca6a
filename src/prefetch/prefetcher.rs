//! The public face of the weight ring.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use super::lease::Lease;
use super::memory::{Memory, Needs, RingMemory};
use super::options::{PassReport, PrefetchOptions, PrefetchStats};
use super::ring::{Returned, Ring};
use super::transform::Transform;
use super::unit::{RingUnit, UnitPlan};
use super::view::UnitView;
use crate::base::{Error, Result, lock};
use crate::device::{Device, Event, Stream};
use crate::fence::EventPool;
use crate::transfer::{DiskReport, Loader, Urgency};
use crate::weights::{Model, Unit};

/// Streams the units of a model through a ring of device bytes. Clones share one. Methods may
/// be called from any thread; only [`finish_pass`](Self::finish_pass),
/// [`wait_for_homes`](Self::wait_for_homes) and
/// [`Lease::wait_host`](super::Lease::wait_host) block.
///
/// Units are used in any order; those that follow the one in use, in the order they were given
/// or [another that was set](Self::set_order) and round from the last to the first, are loaded
/// ahead. What is asked for out of order is loaded on the spot, and counted.
#[derive(Debug, Clone)]
pub struct Prefetcher(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    model: Arc<Model>,
    device: Device,
    /// Locked after the ring, where both are.
    pub(super) memory: Mutex<Memory>,
    pub(super) events: EventPool,
    ring: Mutex<Ring>,
    /// Leases that were dropped while the lock was taken: whoever holds it next takes them
    /// back. Held for a push or a swap only, so that dropping a lease never waits.
    returned: Mutex<Vec<Returned>>,
    pub(super) host_waits: AtomicU64,
}

impl Prefetcher {
    /// Streams `units` of `model` through `ring`: a buffer, or [memory](RingMemory) that can be
    /// resized. Loads nothing yet. A ring of one largest unit will do: copies then wait for the
    /// unit's end. A unit without tensors takes no room and is never waited for.
    ///
    /// # Errors
    /// A ring too small for the largest unit, or for stable addresses: with one that would do;
    /// no units; no room for the ring; what the driver says.
    pub fn new(
        model: Arc<Model>,
        units: &[Unit],
        ring: impl Into<RingMemory>,
        loader: Loader,
        options: PrefetchOptions,
    ) -> Result<Self> {
        Self::build(model, units, ring.into(), loader, options, None)
    }

    /// As [`new`](Self::new), with weights changed on their way into the ring. Where a transform
    /// makes other tensors of those loaded, the end of the ring is set apart for the raw bytes of
    /// the largest unit that has such.
    ///
    /// # Errors
    /// As [`new`](Self::new); what the transform says.
    pub fn with_transform(
        model: Arc<Model>,
        units: &[Unit],
        ring: impl Into<RingMemory>,
        loader: Loader,
        options: PrefetchOptions,
        transform: &Arc<dyn Transform>,
    ) -> Result<Self> {
        Self::build(model, units, ring.into(), loader, options, Some(transform))
    }

    fn build(
        model: Arc<Model>,
        units: &[Unit],
        ring: RingMemory,
        mut loader: Loader,
        options: PrefetchOptions,
        transform: Option<&Arc<dyn Transform>>,
    ) -> Result<Self> {
        let plan = |unit| UnitPlan::new(&model, unit, transform, &loader);
        let plans = units.iter().map(plan).collect::<Result<Vec<_>>>()?;
        let needs = Needs::of(plans.iter())?;
        let memory = Memory::take(ring, &needs)?;
        let at = memory.stretch(&needs)?;
        // Everything a steady state needs is made now: a pass makes no event. A pass's copies
        // and those ahead of it may be untimed yet when the next begins.
        let copies = plans.iter().map(|plan| plan.load.copies()).sum::<usize>();
        // Each unit in the way cuts a copy in two at most.
        loader.reserve(2 * plans.len(), 2 * (copies + plans.len()))?;
        let device = memory.device();
        device.same_as(loader.stream().device(), "loader")?;
        let events = EventPool::new(device);
        // Each unit has one entry at most, with the end of a lease and perhaps that of the lease
        // before; and one event is in hand while it orders two streams.
        events.reserve(2 * plans.len() + 2)?;
        let returned = Mutex::new(Vec::with_capacity(plans.len()));
        let units = plans.into_iter().map(|plan| RingUnit::new(plan, device));
        let units = units.collect::<Result<Vec<_>>>()?;
        // Whatever was enqueued on the buffer before comes before the first load.
        for urgency in [Urgency::Ahead, Urgency::Demand] {
            memory.use_on(loader.stream_for(urgency))?;
        }
        let device = device.clone();
        Ok(Self(Arc::new(Shared {
            ring: Mutex::new(Ring::new(units, Arc::clone(&model), at, loader, options)?),
            model,
            device,
            memory: Mutex::new(memory),
            events,
            returned,
            host_waits: AtomicU64::new(0),
        })))
    }

    /// Leases unit number `unit` for work on `stream`: what is enqueued there from now on finds
    /// its weights. The host does not wait; the stream does, on the device. Then what follows
    /// is loaded ahead.
    ///
    /// # Errors
    /// [`Error::RingHeld`] when the caller's own leases leave no room; a load already known to
    /// have failed, with file and offset (asking again tries again); no such unit; another
    /// device; what the driver says.
    pub fn acquire(&self, unit: usize, stream: &Stream) -> Result<Lease> {
        let shared = &self.0;
        shared.device.same_as(stream.device(), "stream")?;
        let mut ring = shared.enter();
        let Some(content) = ring.units.get(unit).map(|unit| Arc::clone(&unit.plan.content)) else {
            return Err(Error::invalid("unit", unit, format!("there are {}", ring.units.len())));
        };
        shared.record_use(stream)?;
        let granted = ring.lease(unit, stream, &shared.events)?;
        ring.load_ahead(&shared.events);
        ring.ask_for_homes();
        drop(ring);
        let view = UnitView::of(Arc::clone(&shared.model), content, granted.at);
        Ok(Lease::new(Arc::clone(shared), unit, granted, view, stream))
    }

    /// Sets the order of every pass that has not begun: units by number, some of them left out
    /// or used again. Units that are then used otherwise are loaded when asked for.
    ///
    /// # Errors
    /// No such unit; no units.
    pub fn set_order(&self, order: &[usize]) -> Result<()> {
        self.reorder(order, |ring| ring.order.set_usual(order))
    }

    /// Announces the order of the next pass that begins, for that pass alone: a pass that
    /// leaves conditional units out loads none of them.
    ///
    /// # Errors
    /// As [`set_order`](Self::set_order).
    pub fn expect_pass(&self, order: &[usize]) -> Result<()> {
        self.reorder(order, |ring| ring.order.announce(order))
    }

    fn reorder(&self, order: &[usize], change: impl FnOnce(&mut Ring)) -> Result<()> {
        let mut ring = self.0.enter();
        let count = ring.units.len();
        if let Some(unit) = order.iter().find(|&&unit| unit >= count) {
            return Err(Error::invalid("order", unit, format!("there are {count} units")));
        }
        if order.is_empty() {
            return Err(Error::invalid("order", "no units", "name at least one"));
        }
        change(&mut ring);
        ring.look_ahead_anew();
        Ok(())
    }

    /// Whether the first unit follows the last one, so that it is loaded ahead. Turn it off
    /// before the last pass. On at first.
    pub fn set_wraps(&self, wraps: bool) {
        self.0.enter().order.wraps = wraps;
    }

    /// How many units are loaded ahead, as far as the ring has room: at most all.
    #[must_use]
    pub fn depth(&self) -> usize {
        let ring = self.0.enter();
        ring.options.depth.min(ring.units.len())
    }

    /// The units' names and sizes in the ring in bytes, in the order they were given.
    #[must_use]
    pub fn units(&self) -> Vec<(String, u64)> {
        let ring = self.0.enter();
        let units = ring.units.iter();
        units.map(|unit| (unit.plan.name.clone(), unit.plan.place_bytes())).collect()
    }

    /// Ends a pass: blocks until `stream` has run, then tells which of the leases since the last
    /// report had failed loads: work on them computed nonsense. What follows is the start of the
    /// next pass, also where units of this one were left out.
    ///
    /// # Errors
    /// What the driver says.
    pub fn finish_pass(&self, stream: &Stream) -> Result<PassReport> {
        let shared = &self.0;
        let end = match &mut shared.enter().timing {
            Some(timing) => Some(timing.end(stream)?),
            None => None,
        };
        stream.synchronize()?;
        let mut ring = shared.enter();
        let stats = ring.snapshot(shared.host_waits.load(Ordering::Relaxed));
        let stalls = match (&mut ring.timing, end) {
            (Some(timing), Some(end)) => Some(timing.report(end, stream)?),
            _ => None,
        };
        let failures = ring.take_failures();
        ring.end_pass(&shared.events);
        Ok(PassReport { failures, stats, stalls })
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> PrefetchStats {
        self.0.enter().snapshot(self.0.host_waits.load(Ordering::Relaxed))
    }

    /// How the model's files are read, and why so.
    #[must_use]
    pub fn disk(&self) -> DiskReport {
        self.0.enter().loader.disk().clone()
    }

    /// Waits until every unit that is to be kept in pinned memory
    /// ([`PrefetchOptions::keep_in_ram`]) has its memory, or the pinned budget or the system
    /// refused it. That is done behind from the first [`acquire`](Self::acquire) on, and units go
    /// through the loader's window meanwhile; for whoever wants to see the passes after that, such
    /// as a measurement. Blocks for as long as pinning takes: some 0.3 seconds a GiB.
    pub fn wait_for_homes(&self) {
        let pinner = Arc::clone(self.0.enter().loader.pinner());
        pinner.wait();
    }

    /// Ends all reading. Loads under way fail with [`Error::Cancelled`], gates open, streams go
    /// on; later leases are refused. Never blocks.
    pub fn cancel(&self) {
        self.0.enter().loader.cancel();
    }

    /// Proves that the ring's books agree: places lie apart and in the ring, and each belongs
    /// to the unit that says so.
    ///
    /// # Errors
    /// What does not agree; that is a defect of this crate.
    pub fn check(&self) -> Result<(), String> {
        self.0.enter().check()
    }

    /// How many leases are alive.
    #[must_use]
    pub fn live_leases(&self) -> usize {
        self.0.enter().live_leases()
    }
}

impl Shared {
    /// The lock, with returned leases taken back.
    pub(super) fn enter(&self) -> MutexGuard<'_, Ring> {
        let mut ring = lock(&self.ring);
        self.take_back(&mut ring);
        ring
    }

    fn take_back(&self, ring: &mut Ring) {
        // Two lists change places, so that neither is ever made anew.
        let mut list = std::mem::take(&mut ring.returning);
        std::mem::swap(&mut *lock(&self.returned), &mut list);
        for returned in list.drain(..) {
            ring.give_back(returned, &self.events);
        }
        ring.returning = list;
    }

    /// Notes that work on `stream` uses the ring's memory.
    pub(super) fn record_use(&self, stream: &Stream) -> Result<()> {
        lock(&self.memory).record_use(stream)
    }

    /// The end of the latest load of a unit.
    pub(super) fn ready(&self, unit: usize) -> Option<Arc<Event>> {
        Some(Arc::clone(&self.enter().units.get(unit)?.ready))
    }

    /// Takes the end of a lease back without ever waiting, and uses its room.
    pub(super) fn give_back(&self, returned: Returned) {
        lock(&self.returned).push(returned);
        let mut ring = match self.ring.try_lock() {
            Ok(ring) => ring,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.take_back(&mut ring);
        ring.load_ahead(&self.events);
    }
}
