//! What is behind the prefetcher's lock: which unit is where in the ring, who uses it, and what
//! is loaded next. Nothing here waits for the device, save where the driver is failing.
//!
//! Invariants
//! 1. A unit has at most one entry. A leased entry keeps its place.
//! 2. Before a copy stream writes a byte of a place, it is made to wait for every use of what was
//!    there before, and for its load: when an entry is evicted, both copy streams are made to wait
//!    for its uses, and the one it was not loaded on for its load. Streams are in order, so that
//!    this holds for all later copies too. What was evicted is waited for before the first byte
//!    that lies over it, and before anything else is loaded.
//! 3. Once every unit was loaded, nothing here takes memory.

use std::sync::Arc;

use super::fixed::fixed_places;
use super::loading::Loaded;
use super::memory::Stretch;
use super::options::{PrefetchOptions, PrefetchStats};
use super::order::Order;
use super::space::{Evicted, Space};
use super::timing::{DoneMark, Timing};
use super::unit::{Hold, NEVER, RingUnit};
use crate::base::{Error, Result};
use crate::device::{DevicePtr, Event, Stream};
use crate::fence::{EventPool, StreamKey};
use crate::transfer::{LoadStatus, Loader, Urgency};
use crate::weights::Model;

#[derive(Debug)]
pub(super) struct Ring {
    pub(super) units: Vec<RingUnit>,
    pub(super) model: Arc<Model>,
    /// Where it is.
    pub(super) at: Stretch,
    pub(super) loader: Loader,
    pub(super) options: PrefetchOptions,
    /// Whether a unit that is loaded asks for a home.
    pub(super) asks_for_homes: bool,
    pub(super) space: Space,
    /// Where each unit lies, if that is for good.
    pub(super) fixed: Option<Vec<u64>>,
    pub(super) order: Order,
    /// The step of the lease given last.
    pub(super) step: u64,
    pub(super) timing: Option<Timing>,
    pub(super) stats: PrefetchStats,
    /// How it is with units of no bytes.
    nothing: Arc<LoadStatus>,
    /// Loads that were leased and may still fail, of units that have been loaded again since.
    pub(super) unsure: Vec<(usize, Arc<LoadStatus>)>,
    /// The same of units that are gone, by name.
    gone: Vec<(String, Arc<LoadStatus>)>,
    /// An empty list, in turn with the one that leases are returned to.
    pub(super) returning: Vec<Returned>,
    /// Evicted places, until they are retired: the first in the way last.
    pub(super) evicted: Vec<Evicted>,
    /// The unit that is a half, if one is.
    pub(super) half: Option<usize>,
    /// Set when the driver failed where order could not be kept: nothing is loaded any more.
    pub(super) broken: Option<Error>,
}

/// What a lease gets to know.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) at: DevicePtr,
    /// Whether it keeps bytes in the ring.
    pub(super) holds: bool,
    pub(super) status: Arc<LoadStatus>,
    pub(super) done: Option<DoneMark>,
}

/// A lease that came to its end.
#[derive(Debug)]
pub(super) struct Returned {
    pub(super) unit: usize,
    /// The end of its work on one stream; none where it has no bytes to be worked on.
    pub(super) end: Option<Event>,
    pub(super) done: Option<(DoneMark, StreamKey)>,
    /// Whether the lease is gone with it; else the end on another stream follows.
    pub(super) last: bool,
}

impl Ring {
    /// A ring in this stretch of memory.
    pub(super) fn new(
        units: Vec<RingUnit>,
        model: Arc<Model>,
        at: Stretch,
        loader: Loader,
        options: PrefetchOptions,
    ) -> Result<Self> {
        let sizes: Vec<u64> = units.iter().map(|unit| unit.plan.place_bytes()).collect();
        let fixed = fixed(&sizes, at.ring_bytes, &options)?;
        let timing = match options.timing {
            true => Some(Timing::new(loader.stream().device(), units.len())?),
            false => None,
        };
        Ok(Self {
            space: Space::new(&at, sizes.into_iter()),
            order: Order::new(units.len()),
            returning: Vec::with_capacity(units.len()),
            evicted: Vec::with_capacity(units.len()),
            unsure: Vec::with_capacity(units.len()),
            gone: Vec::new(),
            units,
            model,
            at,
            half: None,
            nothing: Arc::default(),
            // Where a home is pinned at once, each is when its unit is loaded.
            asks_for_homes: loader.pinner().is_at_once(),
            loader,
            options,
            fixed,
            step: 0,
            timing,
            stats: PrefetchStats::default(),
            broken: None,
        })
    }

    /// Leases `unit` to `stream`, loading it first if it is not there.
    pub(super) fn lease(
        &mut self,
        unit: usize,
        stream: &Stream,
        events: &EventPool,
    ) -> Result<Granted> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        if self.units[unit].plan.place_bytes() == 0 {
            return self.lease_nothing(unit, stream);
        }
        self.drop_if_failed(unit, events)?;
        let asked = match &mut self.timing {
            Some(timing) => timing.ask(stream)?,
            None => None,
        };
        if self.half == Some(unit) {
            self.load_half_on_demand(unit, stream, events)?;
        }
        if self.units[unit].entry.is_none() {
            self.load_on_demand(unit, stream, events)?;
            // A transform that failed is known at once. A read that failed already is told like one
            // that will: by the lease and at the end of the pass.
            if self.units[unit].entry.as_ref().is_some_and(|entry| entry.failed.is_some()) {
                self.drop_if_failed(unit, events)?;
            }
        }
        stream.wait(&self.units[unit].ready)?;
        let Some(entry) = &mut self.units[unit].entry else { return Err(Error::Cancelled) };
        let done = match (&mut self.timing, asked) {
            (Some(timing), Some(asked)) => Some(timing.ready(asked, unit, entry.load, stream)?),
            _ => None,
        };
        entry.hold = match entry.hold {
            Hold::Leased(leases) => Hold::Leased(leases + 1),
            Hold::Ahead | Hold::Spent => Hold::Leased(1),
        };
        let status = Arc::clone(&entry.status);
        let granted = Granted { at: self.at.base.offset(entry.offset), holds: true, status, done };
        self.note_leased(unit, &granted.status);
        self.stats.leases += 1;
        self.advance(unit);
        Ok(granted)
    }

    /// Leases a unit of no bytes: there is nothing to wait for, and nothing to keep.
    fn lease_nothing(&mut self, unit: usize, stream: &Stream) -> Result<Granted> {
        let done = match &mut self.timing {
            Some(timing) => match timing.ask(stream)? {
                Some(asked) => Some(timing.ready(asked, unit, 0, stream)?),
                None => None,
            },
            None => None,
        };
        self.stats.leases += 1;
        self.advance(unit);
        let status = Arc::clone(&self.nothing);
        Ok(Granted { at: self.at.base, holds: false, status, done })
    }

    /// Takes a lease back.
    pub(super) fn give_back(&mut self, returned: Returned, events: &EventPool) {
        let Returned { unit, end, done, last } = returned;
        if let (Some(timing), Some((mark, stream))) = (&mut self.timing, done) {
            timing.done(mark, stream);
        }
        let (Some(unit), Some(end)) = (self.units.get_mut(unit), end) else { return };
        unit.note_use(end, events);
        if let Some(entry) = unit.entry.as_mut().filter(|_| last) {
            entry.hold = match entry.hold {
                Hold::Leased(leases) if leases > 1 => Hold::Leased(leases - 1),
                _ => Hold::Spent,
            };
        }
    }

    fn load_on_demand(&mut self, unit: usize, stream: &Stream, events: &EventPool) -> Result<()> {
        let mut urgency = Urgency::Demand;
        if self.options.depth == 0 {
            // Off means off: the copy does not start before the stream gets here, and there is
            // nothing to overtake.
            urgency = Urgency::Ahead;
            events.order(stream, self.loader.stream())?;
        }
        if self.units[unit].plan.transform.is_some() {
            // The staging part is used in the order of one stream.
            urgency = Urgency::Ahead;
        }
        self.stats.demand_loads += 1;
        // A unit somebody asked for goes before units nobody has asked for yet.
        let mut load = |may_evict: fn(&RingUnit) -> bool| -> Result<bool> {
            Ok(self.load(unit, urgency, events, false, may_evict)? == Loaded::Whole)
        };
        let loaded = load(|other| other.yields_to(NEVER))? || load(|other| other.leases() == 0)?;
        if loaded { Ok(()) } else { Err(self.held(unit)) }
    }

    /// Has the rest of a half loaded; where leases are in its way, all of it at another place.
    fn load_half_on_demand(
        &mut self,
        unit: usize,
        stream: &Stream,
        events: &EventPool,
    ) -> Result<()> {
        let mut load = |may_evict: fn(&RingUnit) -> bool| -> Result<bool> {
            Ok(self.load_rest(unit, events, may_evict)? == Loaded::Whole)
        };
        if load(|other| other.yields_to(NEVER))? || load(|other| other.leases() == 0)? {
            return Ok(());
        }
        self.drop_half(unit, events)?;
        self.load_on_demand(unit, stream, events)
    }

    /// Why there is no room for `unit`.
    fn held(&self, unit: usize) -> Error {
        let leased = || self.units.iter().filter(|unit| unit.leases() > 0);
        Error::RingHeld {
            unit: self.units[unit].plan.name.clone(),
            unit_bytes: self.units[unit].plan.place_bytes(),
            held_bytes: leased().map(|unit| unit.plan.place_bytes()).sum(),
            ring_bytes: self.at.ring_bytes,
            live_leases: leased().map(RingUnit::leases).sum(),
        }
    }

    /// Tells of a load that is known to have failed, and forgets it, so that asking again loads
    /// again. While others still hold it, it stays and is only told of.
    fn drop_if_failed(&mut self, unit: usize, events: &EventPool) -> Result<()> {
        let Err(error) = self.units[unit].check_load() else { return Ok(()) };
        if self.units[unit].leases() == 0 {
            self.space.free(unit);
            self.retire(unit, events)?;
        }
        Err(error)
    }

    /// Remembers the load that `unit` is leased from, until the pass reports whether it failed.
    fn note_leased(&mut self, unit: usize, status: &Arc<LoadStatus>) {
        let before = self.units[unit].leased.replace(Arc::clone(status));
        let Some(before) = before.filter(|before| !Arc::ptr_eq(before, status)) else { return };
        // What no read and no home holds any more can fail no more.
        self.unsure.retain(|(_, status)| Arc::strong_count(status) > 1 || status.check().is_err());
        self.unsure.push((unit, before));
    }

    /// Has the next report tell of a load of a unit that is going.
    pub(super) fn tell_later(&mut self, unit: Option<&RingUnit>, status: Arc<LoadStatus>) {
        self.gone.extend(unit.map(|unit| (unit.plan.name.clone(), status)));
    }

    /// The failures of the leases since the last call. The streams of those leases must have
    /// run, or a failure may still come.
    pub(super) fn take_failures(&mut self) -> Vec<(String, Error)> {
        let mut failures = Vec::new();
        let mut note = |name: &String, status: &LoadStatus| {
            failures.extend(status.check().err().map(|error| (name.clone(), error)));
        };
        for (unit, status) in self.unsure.drain(..) {
            note(&self.units[unit].plan.name, &status);
        }
        for (name, status) in self.gone.drain(..) {
            note(&name, &status);
        }
        for unit in &mut self.units {
            if let Some(status) = unit.leased.take() {
                note(&unit.plan.name, &status);
            }
        }
        failures
    }

    pub(super) fn snapshot(&mut self, host_waits: u64) -> PrefetchStats {
        PrefetchStats {
            bytes_moved: self.loader.bytes_moved(),
            arrived_bytes: self.loader.arrived_bytes(),
            disk_bytes: self.loader.disk_bytes(),
            copy_busy_ns: self.loader.busy_ns(),
            host_waits,
            ..self.stats
        }
    }
}

/// Where units of these sizes lie for good, if they are to.
pub(super) fn fixed(
    sizes: &[u64],
    ring_bytes: u64,
    options: &PrefetchOptions,
) -> Result<Option<Vec<u64>>> {
    if !options.stable_addresses {
        return Ok(None);
    }
    let places = fixed_places(sizes, ring_bytes);
    places.map(Some).map_err(|least| too_small(least, ring_bytes))
}

fn too_small(least_bytes: u64, ring_bytes: u64) -> Error {
    Error::TooLarge {
        what: "giving each unit an address of its own apart from its neighbours'".into(),
        requested_bytes: least_bytes,
        available_bytes: ring_bytes,
        way_out: format!(
            "a ring of {least_bytes} bytes beside what transforms need would do, or turn \
             stable_addresses off"
        ),
    }
}
