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

use slab::Slab;

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
    entry: Option<usize>,
    /// The load its last lease was of, until the pass reports it.
    leased: Option<Arc<LoadStatus>>,
}

/// A unit in the ring.
#[derive(Debug)]
struct Entry {
    unit: usize,
    offset: u64,
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
    pub(super) entry: usize,
    pub(super) offset: u64,
    pub(super) ready: Arc<Event>,
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
    entries: Slab<Entry>,
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
            entries: Slab::new(),
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
        let key = match self.units[unit].entry {
            Some(key) => key,
            None => self.load_on_demand(unit, stream, events)?,
        };
        let entry = &mut self.entries[key];
        stream.wait(&entry.ready)?;
        entry.hold = match entry.hold {
            Hold::Leased(leases) => Hold::Leased(leases + 1),
            Hold::Ahead | Hold::Spent => Hold::Leased(1),
        };
        let granted = Granted {
            entry: key,
            offset: entry.offset,
            ready: Arc::clone(&entry.ready),
            status: Arc::clone(&entry.status),
        };
        self.note_failure(unit);
        self.units[unit].leased = Some(Arc::clone(&granted.status));
        self.stats.leases += 1;
        self.cursor = unit;
        Ok(granted)
    }

    /// Takes a lease back; `uses` are the ends of what it was used for.
    pub(super) fn give_back(&mut self, key: usize, uses: Vec<Event>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.uses.extend(uses);
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
        for step in 1..=self.options.depth.min(self.units.len()) {
            let next = self.cursor + step;
            if next >= self.units.len() && !self.wraps {
                return;
            }
            let unit = next % self.units.len();
            match self.units[unit].entry {
                Some(key) if self.entries[key].hold == Hold::Spent => {
                    self.entries[key].hold = Hold::Ahead;
                }
                Some(_) => {}
                None => match self.load(unit, events, |hold| hold == Hold::Spent) {
                    Ok(Some(_)) => {}
                    Ok(None) => return,
                    Err(error) => {
                        // Whoever asks for the unit tries again and is told.
                        tracing::warn!(%error, unit = %self.units[unit].name, "loading ahead failed");
                        return;
                    }
                },
            }
        }
    }

    fn load_on_demand(
        &mut self,
        unit: usize,
        stream: &Stream,
        events: &EventPool,
    ) -> Result<usize> {
        if self.options.depth == 0 {
            // Off means off: the copy does not start before the stream gets here.
            events.order(stream, self.loader.stream())?;
        }
        self.stats.demand_loads += 1;
        if let Some(key) = self.load(unit, events, |hold| hold == Hold::Spent)? {
            return Ok(key);
        }
        // A unit somebody asked for goes before units nobody has asked for yet.
        if let Some(key) = self.load(unit, events, |hold| !matches!(hold, Hold::Leased(_)))? {
            return Ok(key);
        }
        let leased = || {
            self.entries.iter().filter_map(|(_, entry)| match entry.hold {
                Hold::Leased(leases) => Some((leases, self.units[entry.unit].layout.len_bytes)),
                _ => None,
            })
        };
        Err(Error::RingHeld {
            unit: self.units[unit].name.clone(),
            unit_bytes: self.units[unit].layout.len_bytes,
            held_bytes: leased().map(|(_, bytes)| bytes).sum(),
            ring_bytes: self.ring_bytes,
            live_leases: leased().map(|(leases, _)| leases).sum(),
        })
    }

    /// Loads a unit into a place where only entries that `may_evict` allows are in the way;
    /// `None` if there is no such place.
    fn load(
        &mut self,
        unit: usize,
        events: &EventPool,
        may_evict: impl Fn(Hold) -> bool,
    ) -> Result<Option<usize>> {
        let layout = Arc::clone(&self.units[unit].layout);
        let key = self.entries.vacant_key();
        let entries = &self.entries;
        let place = self.space.take(key, layout.len_bytes, |key| may_evict(entries[key].hold));
        let Some((offset, evicted)) = place else { return Ok(None) };
        for key in evicted {
            self.retire(key, events)?;
        }
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
        let (status, ready) = recorded.inspect_err(|_| self.space.free(key))?;
        self.entries.insert(Entry {
            unit,
            offset,
            ready: Arc::new(ready),
            status,
            hold: Hold::Ahead,
            uses: Vec::new(),
        });
        self.units[unit].entry = Some(key);
        self.stats.loads += 1;
        Ok(Some(key))
    }

    /// Takes an entry out; the copy stream is made to wait for its uses.
    fn retire(&mut self, key: usize, events: &EventPool) -> Result<()> {
        let entry = self.entries.remove(key);
        self.units[entry.unit].entry = None;
        for used in entry.uses {
            let ordered = self.loader.stream().wait(&used).or_else(|_| used.synchronize());
            if let Err(error) = ordered {
                self.broken = Some(error.clone());
                return Err(error);
            }
            events.give_back(used);
        }
        // The lease that held the other reference is gone, or this would not be evicted.
        if let Ok(ready) = Arc::try_unwrap(entry.ready) {
            events.give_back(ready);
        }
        Ok(())
    }

    /// Tells of a load that is known to have failed, and forgets it, so that asking again loads
    /// again. While others still hold it, it stays and is only told of.
    fn drop_if_failed(&mut self, unit: usize, events: &EventPool) -> Result<()> {
        let Some(key) = self.units[unit].entry else { return Ok(()) };
        let Err(error) = self.entries[key].status.check() else { return Ok(()) };
        if !matches!(self.entries[key].hold, Hold::Leased(_)) {
            self.space.free(key);
            self.retire(key, events)?;
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
