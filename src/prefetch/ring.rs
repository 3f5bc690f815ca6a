//! What is behind the prefetcher's lock: which unit is where in the ring, who uses it, and what
//! is loaded next. Nothing here waits for the device, save where the driver is failing.
//!
//! Invariants
//! 1. A unit has at most one entry. A leased entry keeps its place.
//! 2. Before the copy stream writes a place, it is made to wait for every use of what was there
//!    before: evicted entries' uses are enqueued as waits when they are evicted. One copy
//!    stream, in order, so that this holds for all later copies too.
#![allow(unsafe_code)]

use std::sync::Arc;

use super::options::{PrefetchOptions, PrefetchStats};
use super::space::Space;
use crate::base::{Error, Result};
use crate::device::{DevicePtr, Event, Stream};
use crate::fence::EventPool;
use crate::transfer::{Home, LoadStatus, Loader};
use crate::weights::UnitLayout;

/// A unit the ring serves.
#[derive(Debug)]
pub(super) struct RingUnit {
    pub(super) name: String,
    pub(super) layout: Arc<UnitLayout>,
    home: Option<Home>,
    /// Its entry, while it is in the ring.
    entry: Option<Entry>,
    /// The load its last lease was of, until the pass reports it.
    leased: Option<Arc<LoadStatus>>,
}

/// A unit in the ring.
#[derive(Debug)]
struct Entry {
    offset: u64,
    /// Shared with CPU code that waits for it without the lock.
    ready: Arc<Event>,
    status: Arc<LoadStatus>,
    hold: Hold,
    /// Ends of the leases it had.
    uses: Vec<Event>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// Loaded for a lease to come.
    Ahead,
    /// So many leases are alive.
    Leased(usize),
    /// Used; still there until its place is wanted.
    Spent,
}

/// What a lease gets to know.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) offset: u64,
    pub(super) status: Arc<LoadStatus>,
}

#[derive(Debug)]
pub(super) struct Ring {
    pub(super) units: Vec<RingUnit>,
    base: DevicePtr,
    ring_bytes: u64,
    pub(super) loader: Loader,
    pub(super) options: PrefetchOptions,
    space: Space,
    /// The unit leased last: what is ahead is counted from here.
    cursor: usize,
    /// Whether the first unit follows the last one.
    pub(super) wraps: bool,
    pub(super) stats: PrefetchStats,
    failures: Vec<(String, Error)>,
    /// Set when the driver failed where order could not be kept: nothing is loaded any more.
    broken: Option<Error>,
}

impl Ring {
    pub(super) fn new(
        units: Vec<(String, Arc<UnitLayout>)>,
        base: DevicePtr,
        ring_bytes: u64,
        loader: Loader,
        options: PrefetchOptions,
    ) -> Self {
        let unit =
            |(name, layout)| RingUnit { name, layout, home: None, entry: None, leased: None };
        Self {
            units: units.into_iter().map(unit).collect(),
            base,
            ring_bytes,
            loader,
            options,
            space: Space::new(ring_bytes),
            cursor: 0,
            wraps: true,
            stats: PrefetchStats::default(),
            failures: Vec::new(),
            broken: None,
        }
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
        self.drop_if_failed(unit, events)?;
        let entry = match self.units[unit].entry {
            Some(ref mut entry) => entry,
            None => self.load_on_demand(unit, stream, events)?,
        };
        stream.wait(&entry.ready)?;
        entry.hold = match entry.hold {
            Hold::Leased(leases) => Hold::Leased(leases + 1),
            Hold::Ahead | Hold::Spent => Hold::Leased(1),
        };
        let granted = Granted { offset: entry.offset, status: Arc::clone(&entry.status) };
        self.note_failure(unit);
        self.units[unit].leased = Some(Arc::clone(&granted.status));
        self.stats.leases += 1;
        self.cursor = unit;
        Ok(granted)
    }

    /// The end of the load of `unit`, if it is in the ring.
    pub(super) fn ready(&self, unit: usize) -> Option<Arc<Event>> {
        Some(Arc::clone(&self.units.get(unit)?.entry.as_ref()?.ready))
    }

    /// Takes a lease of `unit` back; `end` is the end of what it was used for.
    pub(super) fn give_back(&mut self, unit: usize, end: Event, events: &EventPool) {
        let Some(entry) = self.units.get_mut(unit).and_then(|unit| unit.entry.as_mut()) else {
            return;
        };
        // A unit that is never evicted would else gather an event with every lease. What the
        // driver cannot tell of counts as still in use.
        for over in entry.uses.extract_if(.., |used| used.query().unwrap_or(false)) {
            events.give_back(over);
        }
        entry.uses.push(end);
        entry.hold = match entry.hold {
            Hold::Leased(leases) if leases > 1 => Hold::Leased(leases - 1),
            _ => Hold::Spent,
        };
    }

    /// Loads what comes next, as far as depth and room allow.
    pub(super) fn load_ahead(&mut self, events: &EventPool) {
        if self.broken.is_some() {
            return;
        }
        self.let_go_of_strays();
        for step in 1..=self.options.depth.min(self.units.len()) {
            let next = self.cursor + step;
            if next >= self.units.len() && !self.wraps {
                return;
            }
            let unit = next % self.units.len();
            if let Some(entry) = &mut self.units[unit].entry {
                if entry.hold == Hold::Spent {
                    entry.hold = Hold::Ahead;
                }
                continue;
            }
            match self.load(unit, events, |hold| hold == Hold::Spent) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    // Whoever asks for the unit tries again and is told.
                    tracing::warn!(%error, unit = %self.units[unit].name, "loading ahead failed");
                    return;
                }
            }
        }
    }

    /// What was loaded ahead for an order that was not kept makes room like what was used.
    fn let_go_of_strays(&mut self) {
        let (count, cursor, depth) = (self.units.len(), self.cursor, self.options.depth);
        for (number, unit) in self.units.iter_mut().enumerate() {
            let steps_ahead = (number + count - cursor) % count;
            let stray = unit.entry.as_mut().filter(|_| steps_ahead > depth);
            if let Some(entry) = stray.filter(|entry| entry.hold == Hold::Ahead) {
                entry.hold = Hold::Spent;
            }
        }
    }

    fn load_on_demand(
        &mut self,
        unit: usize,
        stream: &Stream,
        events: &EventPool,
    ) -> Result<&mut Entry> {
        if self.options.depth == 0 {
            // Off means off: the copy does not start before the stream gets here.
            events.order(stream, self.loader.stream())?;
        }
        self.stats.demand_loads += 1;
        // A unit somebody asked for goes before units nobody has asked for yet.
        let loaded = self.load(unit, events, |hold| hold == Hold::Spent)?
            || self.load(unit, events, |hold| !matches!(hold, Hold::Leased(_)))?;
        let held = if loaded { None } else { Some(self.held(unit)) };
        match (held, &mut self.units[unit].entry) {
            (None, Some(entry)) => Ok(entry),
            (held, _) => Err(held.unwrap_or(Error::Cancelled)),
        }
    }

    /// Why there is no room for `unit`.
    fn held(&self, unit: usize) -> Error {
        let leased = self.units.iter().filter_map(|unit| match unit.entry.as_ref()?.hold {
            Hold::Leased(leases) => Some((leases, unit.layout.len_bytes)),
            _ => None,
        });
        let (leases, bytes): (Vec<_>, Vec<_>) = leased.unzip();
        Error::RingHeld {
            unit: self.units[unit].name.clone(),
            unit_bytes: self.units[unit].layout.len_bytes,
            held_bytes: bytes.iter().sum(),
            ring_bytes: self.ring_bytes,
            live_leases: leases.iter().sum(),
        }
    }

    /// Loads a unit into a place where only entries that `may_evict` allows are in the way;
    /// false if there is no such place.
    fn load(
        &mut self,
        unit: usize,
        events: &EventPool,
        may_evict: impl Fn(Hold) -> bool,
    ) -> Result<bool> {
        let layout = Arc::clone(&self.units[unit].layout);
        let units = &self.units;
        let place = self.space.take(unit, layout.len_bytes, |other| {
            units[other].entry.as_ref().is_none_or(|entry| may_evict(entry.hold))
        });
        let Some((offset, evicted)) = place else { return Ok(false) };
        for other in evicted {
            self.retire(other, events)?;
        }
        // A home that could not be read is of no use: it would fail every later load too.
        self.units[unit].home.take_if(|home| home.status().check().is_err());
        if self.options.keep_in_ram && self.units[unit].home.is_none() {
            self.units[unit].home = self.loader.home(&layout).unwrap_or_else(|error| {
                tracing::warn!(%error, "no pinned memory to keep a unit in");
                None
            });
        }
        let home = self.units[unit].home.as_ref();
        let dst = self.base.offset(offset);
        // SAFETY: the place lies in the ring, which outlives the loader's stream by a recorded
        // use. The stream was made to wait for every earlier use of the place (invariant 2).
        let loaded = unsafe { self.loader.load(dst, &layout, home) };
        let recorded = loaded.and_then(|status| Ok((status, events.record(self.loader.stream())?)));
        let (status, ready) = recorded.inspect_err(|_| self.space.free(unit))?;
        self.units[unit].entry = Some(Entry {
            offset,
            ready: Arc::new(ready),
            status,
            hold: Hold::Ahead,
            uses: Vec::new(),
        });
        self.stats.loads += 1;
        tracing::debug!(unit = %self.units[unit].name, offset, bytes = layout.len_bytes, "loading");
        Ok(true)
    }

    /// Takes a unit's entry out; the copy stream is made to wait for its uses.
    fn retire(&mut self, unit: usize, events: &EventPool) -> Result<()> {
        let Some(entry) = self.units[unit].entry.take() else { return Ok(()) };
        for used in entry.uses {
            let ordered = self.loader.stream().wait(&used).or_else(|_| used.synchronize());
            if let Err(error) = ordered {
                self.broken = Some(error.clone());
                return Err(error);
            }
            events.give_back(used);
        }
        if let Ok(ready) = Arc::try_unwrap(entry.ready) {
            events.give_back(ready);
        }
        Ok(())
    }

    /// Tells of a load that is known to have failed, and forgets it, so that asking again loads
    /// again. While others still hold it, it stays and is only told of.
    fn drop_if_failed(&mut self, unit: usize, events: &EventPool) -> Result<()> {
        let Some(entry) = &self.units[unit].entry else { return Ok(()) };
        let Err(error) = entry.status.check() else { return Ok(()) };
        if !matches!(entry.hold, Hold::Leased(_)) {
            self.space.free(unit);
            self.retire(unit, events)?;
            self.units[unit].home = None;
        }
        Err(error)
    }

    /// Remembers the failure of the load `unit` was last leased from, if it failed.
    fn note_failure(&mut self, unit: usize) {
        let unit = &mut self.units[unit];
        if let Some(Err(error)) = unit.leased.take().map(|status| status.check()) {
            self.failures.push((unit.name.clone(), error));
        }
    }

    /// The failures of the leases since the last call. The streams of those leases must have
    /// run, or a failure may still come.
    pub(super) fn take_failures(&mut self) -> Vec<(String, Error)> {
        for unit in 0..self.units.len() {
            self.note_failure(unit);
        }
        std::mem::take(&mut self.failures)
    }

    pub(super) fn snapshot(&mut self, host_waits: u64) -> PrefetchStats {
        PrefetchStats {
            bytes_moved: self.loader.bytes_moved(),
            copy_busy_ns: self.loader.busy_ns(),
            host_waits,
            ..self.stats
        }
    }
}
