//! What is behind the cache's lock: which expert is in which slot, who uses it, and which slot is
//! given up next.
//!
//! Before a copy stream writes a slot it is made to wait for the load and every use of what was
//! there before. A leased slot is never given up.
#![allow(unsafe_code)]

use std::sync::Arc;

use super::scores::Scores;
use crate::base::{Error, Result, format_bytes};
use crate::device::{DevicePtr, Event, Stream};
use crate::fence::EventPool;
use crate::prefetch::UnitView;
use crate::transfer::{Home, LoadPlan, LoadStatus, Loader, Urgency};
use crate::weights::{Model, UnitLayout};

/// Counters of an [`ExpertCache`](super::ExpertCache) since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct ExpertStats {
    /// Leases whose expert was on the device or on its way there.
    pub hits: u64,
    /// Of these, experts that were loaded ahead and not used before.
    pub hits_ahead: u64,
    /// Leases whose expert had to be loaded on the spot.
    pub misses: u64,
    /// Experts loaded ahead.
    pub loads_ahead: u64,
    /// Of these, experts that made room before they were used.
    pub wasted_ahead: u64,
    /// Bytes enqueued to cross the link.
    pub bytes_moved: u64,
    /// Bytes of tensors read from files.
    pub disk_bytes: u64,
    /// Device memory of the slots, in bytes: all the cache ever takes.
    pub capacity_bytes: u64,
    /// Experts it has room for.
    pub slots: u64,
}

/// How an expert is loaded.
#[derive(Debug)]
pub(super) struct Expert {
    pub(super) name: String,
    pub(super) layout: UnitLayout,
    pub(super) plan: Arc<LoadPlan>,
    pub(super) home: Option<Home>,
    pub(super) slot: Option<usize>,
}

/// The experts of a layer, and which of them tokens used.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) experts: Vec<Expert>,
    /// By the token that is under way.
    now: Vec<usize>,
    /// By the token before.
    last: Vec<usize>,
}

impl Layer {
    pub(super) fn new(experts: Vec<Expert>) -> Self {
        Self { experts, now: Vec::new(), last: Vec::new() }
    }
}

#[derive(Debug)]
struct Slot {
    held: Option<Held>,
    /// The end of its latest load.
    ready: Event,
    /// Ends of the leases of what it holds.
    uses: Vec<Event>,
    leases: usize,
    /// When it was leased or loaded last.
    used: u64,
}

/// What a slot holds.
#[derive(Debug)]
struct Held {
    layer: usize,
    expert: usize,
    view: UnitView,
    status: Arc<LoadStatus>,
    /// Loaded ahead, and not leased since.
    is_ahead: bool,
}

#[derive(Debug)]
pub(super) struct Slots {
    model: Arc<Model>,
    pub(super) layers: Vec<Layer>,
    slots: Vec<Slot>,
    base: DevicePtr,
    slot_bytes: u64,
    loader: Loader,
    keeps_in_ram: bool,
    scores: Scores,
    /// The layer that was used last.
    layer: Option<usize>,
    clock: u64,
    stats: ExpertStats,
    /// Set when the driver failed where order could not be kept: nothing is loaded any more.
    broken: Option<Error>,
}

/// What a lease gets to know.
pub(super) struct Granted {
    pub(super) slot: usize,
    pub(super) view: UnitView,
    pub(super) status: Arc<LoadStatus>,
}

impl Slots {
    /// So many slots of `slot_bytes` from `base` on.
    pub(super) fn new(
        model: Arc<Model>,
        layers: Vec<Layer>,
        (base, slot_bytes, slots): (DevicePtr, u64, usize),
        loader: Loader,
        keeps_in_ram: bool,
    ) -> Result<Self> {
        let device = loader.stream().device();
        let slot = || {
            let ready = Event::new(device)?;
            Ok(Slot { held: None, ready, uses: Vec::new(), leases: 0, used: 0 })
        };
        let empty = (0..slots).map(|_| slot()).collect::<Result<Vec<_>>>()?;
        let scores = Scores::new(layers.iter().map(|layer| layer.experts.len()));
        let stats = ExpertStats {
            capacity_bytes: slot_bytes * slots as u64,
            slots: slots as u64,
            ..ExpertStats::default()
        };
        let (layer, clock, broken) = (None, 0, None);
        Ok(Self {
            model,
            layers,
            slots: empty,
            base,
            slot_bytes,
            loader,
            keeps_in_ram,
            scores,
            layer,
            clock,
            stats,
            broken,
        })
    }

    /// Leases an expert to `stream`, loading it first if it is not there.
    pub(super) fn lease(
        &mut self,
        layer: usize,
        expert: usize,
        stream: &Stream,
        events: &EventPool,
    ) -> Result<Granted> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        self.find(layer, expert)?;
        self.note(layer, expert);
        let found = self.layers[layer].experts[expert].slot;
        if let Some(slot) = found {
            self.drop_if_failed(slot)?;
        }
        let slot = match found {
            Some(slot) => slot,
            None => {
                let slot = self.victim(|_| true).ok_or_else(|| self.held(layer, expert))?;
                self.load(slot, layer, expert, Urgency::Demand, events)?;
                self.stats.misses += 1;
                slot
            }
        };
        self.stats.hits += u64::from(found.is_some());
        self.clock += 1;
        let place = &mut self.slots[slot];
        stream.wait(&place.ready)?;
        let Some(held) = &mut place.held else { return Err(Error::Cancelled) };
        self.stats.hits_ahead += u64::from(found.is_some() && held.is_ahead);
        held.is_ahead = false;
        place.leases += 1;
        place.used = self.clock;
        Ok(Granted { slot, view: held.view.clone(), status: Arc::clone(&held.status) })
    }

    /// Loads ahead what the token before used of a layer, as far as it is worth more than what is
    /// there; gives how many were begun.
    pub(super) fn load_ahead(&mut self, layer: usize, events: &EventPool) -> Result<usize> {
        self.find(layer, 0)?;
        let last = std::mem::take(&mut self.layers[layer].last);
        let mut begun = Ok(0);
        for &expert in &last {
            if self.broken.is_some() || self.layers[layer].experts[expert].slot.is_some() {
                continue;
            }
            let worth = self.scores.score(layer, expert);
            let is_wanted = |held: &Held| held.layer == layer && last.contains(&held.expert);
            let slot = self.victim(|held| {
                !is_wanted(held) && self.scores.score(held.layer, held.expert) < worth
            });
            let Some(slot) = slot else { continue };
            if let Err(error) = self.load(slot, layer, expert, Urgency::Ahead, events) {
                begun = Err(error);
                break;
            }
            self.stats.loads_ahead += 1;
            begun = begun.map(|begun| begun + 1);
        }
        self.layers[layer].last = last;
        begun
    }

    /// Takes a lease back; without its end nobody can tell when the slot is free, and it stays
    /// leased.
    pub(super) fn give_back(&mut self, slot: usize, end: Event, events: &EventPool) {
        let Some(slot) = self.slots.get_mut(slot) else { return };
        for over in slot.uses.extract_if(.., |used| used.query().unwrap_or(false)) {
            events.give_back(over);
        }
        slot.uses.push(end);
        slot.leases -= 1;
    }

    pub(super) fn stats(&self) -> ExpertStats {
        let (bytes_moved, disk_bytes) = (self.loader.bytes_moved(), self.loader.disk_bytes());
        ExpertStats { bytes_moved, disk_bytes, ..self.stats }
    }

    pub(super) fn loader(&self) -> &Loader {
        &self.loader
    }

    fn find(&self, layer: usize, expert: usize) -> Result<()> {
        let Some(experts) = self.layers.get(layer).map(|layer| layer.experts.len()) else {
            let expected = format!("there are {} layers with experts", self.layers.len());
            return Err(Error::invalid("layer", layer, expected));
        };
        if expert >= experts {
            let expected = format!("there are {experts} in layer {layer}");
            return Err(Error::invalid("expert", expert, expected));
        }
        Ok(())
    }

    /// Notes that a token was routed to an expert.
    fn note(&mut self, layer: usize, expert: usize) {
        self.scores.note(layer, expert);
        let is_next_token = self.layer.replace(layer) != Some(layer);
        let layer = &mut self.layers[layer];
        if is_next_token {
            std::mem::swap(&mut layer.now, &mut layer.last);
            layer.now.clear();
        }
        if !layer.now.contains(&expert) {
            layer.now.push(expert);
        }
    }

    /// An empty slot, or that of the least worth among those that may be given up.
    fn victim(&self, may_go: impl Fn(&Held) -> bool) -> Option<usize> {
        let mut least: Option<(usize, f64, u64)> = None;
        for (at, slot) in self.slots.iter().enumerate().filter(|(_, slot)| slot.leases == 0) {
            let Some(held) = &slot.held else { return Some(at) };
            let worth = self.scores.score(held.layer, held.expert);
            let is_less = least.is_none_or(|(_, least, used)| {
                worth.total_cmp(&least).then(slot.used.cmp(&used)).is_lt()
            });
            if is_less && may_go(held) {
                least = Some((at, worth, slot.used));
            }
        }
        least.map(|(at, ..)| at)
    }

    /// Why there is no slot.
    fn held(&self, layer: usize, expert: usize) -> Error {
        let leased = || self.slots.iter().filter(|slot| slot.leases > 0);
        Error::RingHeld {
            unit: self.layers[layer].experts[expert].name.clone(),
            unit_bytes: self.layers[layer].experts[expert].layout.len_bytes,
            held_bytes: leased().count() as u64 * self.slot_bytes,
            ring_bytes: self.stats.capacity_bytes,
            live_leases: leased().map(|slot| slot.leases).sum(),
        }
    }

    /// Tells of a load that is known to have failed, and forgets it unless somebody holds it.
    fn drop_if_failed(&mut self, slot: usize) -> Result<()> {
        let failed = self.slots[slot].held.as_ref().and_then(|held| held.status.check().err());
        let Some(error) = failed else { return Ok(()) };
        if self.slots[slot].leases == 0 {
            self.empty(slot);
        }
        Err(error)
    }

    /// Takes out what a slot holds.
    fn empty(&mut self, slot: usize) {
        let Some(held) = self.slots[slot].held.take() else { return };
        self.layers[held.layer].experts[held.expert].slot = None;
        self.stats.wasted_ahead += u64::from(held.is_ahead);
    }

    /// Loads an expert into a slot that nobody leases.
    fn load(
        &mut self,
        slot: usize,
        layer: usize,
        expert: usize,
        urgency: Urgency,
        events: &EventPool,
    ) -> Result<()> {
        self.empty(slot);
        let loaded = self.fill(slot, layer, expert, urgency, events);
        if let Err(error) = &loaded
            && !matches!(error, Error::Cancelled)
            && self.loader.stream_for(urgency).synchronize().is_err()
        {
            // What was enqueued may still write the slot.
            self.broken = Some(error.clone());
        }
        let status = loaded?;
        let unit = &mut self.layers[layer].experts[expert];
        unit.slot = Some(slot);
        let base = self.base.offset(slot as u64 * self.slot_bytes);
        let view = UnitView::new(Arc::clone(&self.model), &unit.layout, base);
        let is_ahead = urgency == Urgency::Ahead;
        self.clock += 1;
        self.slots[slot].used = self.clock;
        self.slots[slot].held = Some(Held { layer, expert, view, status, is_ahead });
        tracing::debug!(expert = %unit.name, slot, is_ahead, "loading");
        Ok(())
    }

    fn fill(
        &mut self,
        slot: usize,
        layer: usize,
        expert: usize,
        urgency: Urgency,
        events: &EventPool,
    ) -> Result<Arc<LoadStatus>> {
        let base = self.base.offset(slot as u64 * self.slot_bytes);
        let copies = self.loader.stream_for(urgency).clone();
        let place = &mut self.slots[slot];
        // The load before may have been on the other stream.
        if place.used > 0 {
            copies.wait(&place.ready)?;
        }
        while let Some(used) = place.uses.pop() {
            let ordered = copies.wait(&used).or_else(|_| used.synchronize());
            events.give_back(used);
            ordered?;
        }
        let unit = &mut self.layers[layer].experts[expert];
        if self.keeps_in_ram {
            unit.home.take_if(|home| home.status().check().is_err());
            let (loader, plan) = (&self.loader, &unit.plan);
            unit.home.get_or_insert_with(|| loader.home(plan));
        }
        // SAFETY: the slot has room for the largest expert, in memory that outlives the loader's
        // streams by recorded uses. The stream was made to wait for the load and all uses of what
        // was there before; no lease is alive.
        let status = unsafe { self.loader.load(base, &unit.plan, unit.home.as_ref(), urgency) }?;
        place.ready.record(&copies)?;
        Ok(status)
    }

    /// Proves that the books agree.
    pub(super) fn check(&self) -> Result<(), String> {
        for (at, slot) in self.slots.iter().enumerate() {
            if let Some(Held { layer, expert, .. }) = &slot.held {
                let back = self.layers[*layer].experts[*expert].slot;
                if back != Some(at) {
                    return Err(format!("slot {at} holds an expert that is in {back:?}"));
                }
            } else if slot.leases > 0 {
                return Err(format!("slot {at} is leased and empty"));
            }
        }
        let experts = self.layers.iter().flat_map(|layer| &layer.experts);
        let placed = experts.filter(|expert| expert.slot.is_some()).count();
        let full = self.slots.iter().filter(|slot| slot.held.is_some()).count();
        (placed == full).then_some(()).ok_or_else(|| format!("{placed} experts in {full} slots"))
    }
}

/// No slot.
pub(super) fn too_small(slot_bytes: u64, bytes: u64, page_bytes: u64) -> Error {
    Error::TooLarge {
        what: format!("one expert of {}", format_bytes(slot_bytes)),
        requested_bytes: slot_bytes.next_multiple_of(page_bytes.max(1)),
        available_bytes: bytes,
        way_out: "give the cache more: at least as many as a token is routed to at once".into(),
    }
}
