//! The public face of the weight ring.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use super::lease::Lease;
use super::options::{PassReport, PrefetchOptions, PrefetchStats};
use super::ring::Ring;
use super::view::UnitView;
use crate::base::{Error, Result, lock};
use crate::device::{Event, Stream};
use crate::fence::EventPool;
use crate::pool::Buffer;
use crate::transfer::Loader;
use crate::weights::{Model, Unit, UnitLayout};

/// Streams the units of a model through a ring of device bytes. Clones share one. Methods may
/// be called from any thread; only [`finish_pass`](Self::finish_pass) and
/// [`Lease::wait_host`](super::Lease::wait_host) block.
///
/// Units are used in any order; those that follow the one in use, in the order they were given
/// and round from the last to the first, are loaded ahead.
#[derive(Debug, Clone)]
pub struct Prefetcher(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    model: Arc<Model>,
    pub(super) ring_buffer: Buffer<u8>,
    pub(super) events: EventPool,
    ring: Mutex<Ring>,
    /// Leases that were dropped while the lock was taken: whoever holds it next takes them
    /// back. Held for a push or a swap only, so that dropping a lease never waits.
    returned: Mutex<Vec<(usize, Event)>>,
    pub(super) host_waits: AtomicU64,
}

impl Prefetcher {
    /// Streams `units` of `model` through `ring`. Loads nothing yet.
    ///
    /// # Errors
    /// A ring too small for the largest unit; no units; what the driver says.
    pub fn new(
        model: Arc<Model>,
        units: &[Unit],
        ring: Buffer<u8>,
        mut loader: Loader,
        options: PrefetchOptions,
    ) -> Result<Self> {
        let layouts = units
            .iter()
            .map(|unit| Ok((unit.name.clone(), Arc::new(UnitLayout::new(&model, unit)?))))
            .collect::<Result<Vec<_>>>()?;
        let largest = layouts.iter().map(|(_, layout)| layout.len_bytes).max();
        let largest =
            largest.ok_or_else(|| Error::invalid("units", "none", "give at least one"))?;
        if largest > ring.size_bytes() {
            return Err(Error::TooLarge {
                what: "the largest unit".into(),
                requested_bytes: largest,
                available_bytes: ring.size_bytes(),
                way_out: "make the ring larger".into(),
            });
        }
        // Everything a steady state needs is made now: a pass makes no event. A pass's copies
        // and those ahead of it may be untimed yet when the next begins.
        let copies = layouts.iter().map(|(_, layout)| loader.copies(layout)).sum::<usize>();
        loader.reserve(2 * copies)?;
        let events = EventPool::new(ring.stream().device());
        // Each unit has one entry at most, with an end of load, the end of a lease, and perhaps
        // the end of the lease before; and one event is in hand while it orders two streams.
        events.reserve(3 * units.len() + 2)?;
        // Whatever was enqueued on the buffer before comes before the first load.
        ring.use_on(loader.stream())?;
        Ok(Self(Arc::new(Shared {
            ring: Mutex::new(Ring::new(layouts, ring.ptr(), ring.size_bytes(), loader, options)),
            model,
            ring_buffer: ring,
            events,
            returned: Mutex::default(),
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
        let device = shared.ring_buffer.stream().device();
        device.same_as(stream.device(), "stream")?;
        let mut ring = shared.enter();
        let Some(layout) = ring.units.get(unit).map(|unit| Arc::clone(&unit.layout)) else {
            return Err(Error::invalid("unit", unit, format!("there are {}", ring.units.len())));
        };
        shared.ring_buffer.record_use(stream)?;
        let granted = ring.lease(unit, stream, &shared.events)?;
        ring.load_ahead(&shared.events);
        drop(ring);
        let base = shared.ring_buffer.ptr().offset(granted.offset);
        let view = UnitView::new(Arc::clone(&shared.model), layout, base);
        Ok(Lease::new(Arc::clone(shared), unit, granted, view, stream))
    }

    /// Whether the first unit follows the last one, so that it is loaded ahead. Turn it off
    /// before the last pass. On at first.
    pub fn set_wraps(&self, wraps: bool) {
        self.0.enter().wraps = wraps;
    }

    /// How many units are loaded ahead, as far as the ring has room.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.0.enter().options.depth
    }

    /// The units' names and packed sizes in bytes, in order.
    #[must_use]
    pub fn units(&self) -> Vec<(String, u64)> {
        let ring = self.0.enter();
        ring.units.iter().map(|unit| (unit.name.clone(), unit.layout.len_bytes)).collect()
    }

    /// Blocks until `stream` has run, then tells which of the leases since the last report had
    /// failed loads: work on them computed nonsense.
    ///
    /// # Errors
    /// What the driver says.
    pub fn finish_pass(&self, stream: &Stream) -> Result<PassReport> {
        stream.synchronize()?;
        let failures = self.0.enter().take_failures();
        Ok(PassReport { failures, stats: self.stats() })
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> PrefetchStats {
        self.0.enter().snapshot(self.0.host_waits.load(Ordering::Relaxed))
    }

    /// Ends all reading. Loads under way fail with [`Error::Cancelled`], gates open, streams go
    /// on; later leases are refused. Never blocks.
    pub fn cancel(&self) {
        self.0.enter().loader.cancel();
    }
}

impl Shared {
    /// The lock, with returned leases taken back.
    fn enter(&self) -> MutexGuard<'_, Ring> {
        let mut ring = lock(&self.ring);
        self.take_back(&mut ring);
        ring
    }

    fn take_back(&self, ring: &mut Ring) {
        for (unit, end) in std::mem::take(&mut *lock(&self.returned)) {
            ring.give_back(unit, end, &self.events);
        }
    }

    /// The end of the load of a unit that is in the ring.
    pub(super) fn ready(&self, unit: usize) -> Option<Arc<Event>> {
        self.enter().ready(unit)
    }

    /// Takes a lease back without ever waiting, and uses its room.
    pub(super) fn give_back(&self, unit: usize, end: Event) {
        lock(&self.returned).push((unit, end));
        let mut ring = match self.ring.try_lock() {
            Ok(ring) => ring,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.take_back(&mut ring);
        ring.load_ahead(&self.events);
    }
}
