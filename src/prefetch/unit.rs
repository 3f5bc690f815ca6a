//! A unit the ring serves: what it consists of, and its entry while it is in the ring.

use std::sync::Arc;

use super::transform::{Transform, UnitTransform};
use super::view::UnitContent;
use crate::base::{Error, Result};
use crate::device::{Device, Event};
use crate::fence::EventPool;
use crate::transfer::{Home, LoadInParts, LoadPlan, LoadStatus, Loader, Urgency};
use crate::weights::{Model, Unit, UnitLayout};

/// What never changes of a unit.
#[derive(Debug)]
pub(super) struct UnitPlan {
    pub(super) name: String,
    /// As it is read.
    pub(super) layout: UnitLayout,
    /// How it is loaded.
    pub(super) load: Arc<LoadPlan>,
    /// As it is leased.
    pub(super) content: Arc<UnitContent>,
    /// How the one becomes the other, where they differ.
    pub(super) transform: Option<UnitTransform>,
}

impl UnitPlan {
    /// A unit of `model`, changed on its way as `transform` says.
    ///
    /// # Errors
    /// A unit that is not of this model; what the transform says.
    pub(super) fn new(
        model: &Model,
        unit: &Unit,
        transform: Option<&Arc<dyn Transform>>,
        loader: &Loader,
    ) -> Result<Self> {
        let layout = UnitLayout::new(model, unit)?;
        let load = loader.plan(&layout);
        let planned = match transform {
            Some(transform) => UnitTransform::plan(model, &layout, transform)?,
            None => None,
        };
        let (transform, content) = match planned {
            Some((transform, content)) => (Some(transform), content),
            None => (None, UnitContent::of(&layout)),
        };
        let (name, content) = (unit.name.clone(), Arc::new(content));
        Ok(Self { name, layout, load, content, transform })
    }

    /// Bytes it takes in the ring.
    pub(super) fn place_bytes(&self) -> u64 {
        self.content.len_bytes
    }

    /// How much of it can be loaded where only the first `room` bytes of its place are free.
    pub(super) fn first_part(&self, room: u64) -> u64 {
        match room >= self.place_bytes() {
            true => self.place_bytes(),
            // What lies beside its place is needed whole, and the room of the result at once.
            false if self.staging_bytes() > 0 => 0,
            false => self.load.whole_chunks(room),
        }
    }

    /// Bytes it needs beside its place while it is loaded.
    pub(super) fn staging_bytes(&self) -> u64 {
        match &self.transform {
            Some(transform) if transform.staged => self.layout.len_bytes,
            _ => 0,
        }
    }
}

/// A unit with its state.
#[derive(Debug)]
pub(super) struct RingUnit {
    pub(super) plan: UnitPlan,
    pub(super) home: Option<Home>,
    /// Whether a load from the home was enqueued before: then it is filled.
    pub(super) home_filled: bool,
    /// Its entry, while it is in the ring.
    pub(super) entry: Option<Entry>,
    /// The end of its latest load. Shared with CPU code that waits for it without the lock.
    pub(super) ready: Arc<Event>,
    /// Ends of the leases its entry had.
    pub(super) uses: Vec<Event>,
    /// The step at which it is used next, counted over all passes, as far as known.
    pub(super) next_use: u64,
    /// The load its last lease was of, until the pass reports it.
    pub(super) leased: Option<Arc<LoadStatus>>,
}

/// A unit in the ring.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) offset: u64,
    /// So many bytes of its place are its own: all but for a half.
    pub(super) taken_bytes: u64,
    /// What is still to be enqueued of a half.
    pub(super) rest: Option<LoadInParts>,
    pub(super) status: Arc<LoadStatus>,
    /// Whether nothing of it has to be read.
    pub(super) only_link: bool,
    /// Why its transform could not be enqueued.
    pub(super) failed: Option<Error>,
    pub(super) hold: Hold,
    /// Which of the loader's streams it was loaded on.
    pub(super) urgency: Urgency,
    /// The number of its last part for the attribution of stalls.
    pub(super) load: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// Loaded for a lease to come.
    Ahead,
    /// So many leases are alive.
    Leased(usize),
    /// Used; still there until its place is wanted.
    Spent,
}

/// No use is known to come.
pub(super) const NEVER: u64 = u64::MAX;

impl RingUnit {
    pub(super) fn new(plan: UnitPlan, device: &Device) -> Result<Self> {
        Ok(Self {
            plan,
            home: None,
            home_filled: false,
            entry: None,
            ready: Arc::new(Event::new(device)?),
            uses: Vec::with_capacity(4),
            next_use: NEVER,
            leased: None,
        })
    }

    /// Whether it may make room for a unit that is used at step `use_at`.
    pub(super) fn yields_to(&self, use_at: u64) -> bool {
        match self.entry.as_ref().map(|entry| entry.hold) {
            Some(Hold::Leased(_)) => false,
            Some(Hold::Ahead) => self.next_use > use_at,
            Some(Hold::Spent) | None => true,
        }
    }

    /// How many leases are alive.
    pub(super) fn leases(&self) -> usize {
        match self.entry.as_ref().map(|entry| entry.hold) {
            Some(Hold::Leased(leases)) => leases,
            _ => 0,
        }
    }

    /// Whether its load is known to have failed.
    pub(super) fn check_load(&self) -> Result<()> {
        let Some(entry) = &self.entry else { return Ok(()) };
        match &entry.failed {
            Some(error) => Err(error.clone()),
            None => entry.status.check(),
        }
    }

    /// Notes the end of a use, and forgets those that are over: a unit that is never evicted
    /// would else gather an event with every lease. What the driver cannot tell of counts as
    /// still in use.
    pub(super) fn note_use(&mut self, end: Event, events: &EventPool) {
        for over in self.uses.extract_if(.., |used| used.query().unwrap_or(false)) {
            events.give_back(over);
        }
        self.uses.push(end);
    }
}
