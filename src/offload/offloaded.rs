//! A job that runs by its plan.

use std::sync::{Arc, OnceLock, Weak};

use super::ladder::Steps;
use super::latch::{Latch, Latched};
use super::measured::Measured;
use super::pieces::{Pieces, differs};
use super::promises::{Promises, WorkingMemory};
use super::room::Room;
use super::state::{Bound, State};
use super::stats::OffloadStats;
use super::streaming::Supplies;
use super::unit_lease::UnitLease;
use super::weights::ComponentWeights;
use crate::base::{Error, Result, align_up};
use crate::conf::{Conf, EXPANDABLE, Pytorch};
use crate::device::{Device, Priority, Stream};
use crate::pinned::PinnedPool;
use crate::plan::{Job, Plan, Retention, Source, plan};
use crate::pool::{Allocator, Registration, Shortage};
use crate::prefetch::{PassReport, PrefetchOptions, Prefetcher};
use crate::transfer::LoaderOptions;
use crate::weights::Model;

/// Settings of [`Plan::load`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OffloadOptions {
    /// How the ring loads ahead. The plan says whether units are kept in RAM at all.
    pub prefetch: PrefetchOptions,
    /// How files are read.
    pub loader: LoaderOptions,
    /// Settings of the allocator and the pinned pool, over those of `RIVERBED_ALLOC_CONF`. The
    /// plan's budgets count beside its own limits. Where no policy is chosen and the device maps
    /// memory, the allocator's is `expandable`, which takes pages for just what is asked for.
    pub conf: Conf,
    /// The job the plan was made of. With it, and [`PrefetchOptions::timing`] on, a plan whose
    /// link or compute turns out to be off by more than a quarter, three passes in a row, is made
    /// anew by what was measured.
    pub job: Option<Job>,
}

impl Default for OffloadOptions {
    fn default() -> Self {
        Self {
            prefetch: PrefetchOptions { timing: true, ..PrefetchOptions::default() },
            loader: LoaderOptions::default(),
            conf: Conf::default(),
            job: None,
        }
    }
}

/// A job on a device, by its [`Plan`]: residents in pages of their own, a ring for the rest, and
/// the allocator that holds the limit over both and over what the caller works in. Clones share
/// one; methods may be called from any thread.
///
/// The phases of the plan are entered one after the other, the first one by loading. In a phase,
/// a pass [acquires](Self::acquire) its component's units in order and [ends](Self::finish_pass).
///
/// When the caller's memory and the weights do not fit in the limit together, or the device
/// refuses memory, the weights give way: cached memory goes back, the ring gets smaller, residents
/// leave (those worth least first), and at last the ring holds one unit at a time. Between passes
/// they come back as there is room. Every step is counted ([`stats`](Self::stats)).
#[derive(Debug, Clone)]
pub struct Offloaded(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    supplies: Supplies,
    weights: Vec<ComponentWeights>,
    /// By component, how long the prefix of its tensors' names is.
    prefixes: Vec<usize>,
    job: Option<Job>,
    promises: Arc<Promises>,
    state: Latch<Running>,
    callback: OnceLock<Registration>,
}

#[derive(Debug)]
struct Running {
    state: State,
    measured: Measured,
}

impl Plan {
    /// Loads what the plan's first phase keeps on `device`, and makes its ring. `weights` are the
    /// components' in the order of the job. Blocks until the residents are there; what is
    /// streamed is not read yet.
    ///
    /// # Errors
    /// A plan that does not agree with the weights, the device or the memory it then takes, with
    /// the differences; a pinned budget that is too small; a file that cannot be read; what the
    /// driver says. Everything taken is given back.
    pub fn load(
        &self,
        device: &Device,
        weights: &[ComponentWeights],
        options: OffloadOptions,
    ) -> Result<Offloaded> {
        let OffloadOptions { mut prefetch, loader, conf, job } = options;
        let conf = conf.over_env(Pytorch::Ignore)?;
        let info = device.info();
        let limits = [Some(self.budgets.vram_bytes), conf.limit_bytes, Some(info.total_bytes)];
        let limit_bytes = limits.into_iter().flatten().min().unwrap_or(info.total_bytes);
        let page_bytes = info.granularity_bytes;
        let pieces = Pieces::new(self, weights, page_bytes)?;
        let pinned = PinnedPool::new(device, &pinned_conf(&conf, self.budgets.pinned_bytes)?);
        let conf = packing_conf(conf, device);
        let allocator = Allocator::builder(device).conf(conf).limit_bytes(limit_bytes)?.build()?;
        let mut units = self.phases.iter().flat_map(|phase| &phase.plan.units);
        prefetch.keep_in_ram &= units.any(|unit| unit.source == Source::Ram);
        if !self.rules.prefetch {
            prefetch.depth = 0;
        }
        let supplies = Supplies {
            model: joined(weights)?,
            home: Stream::new(device, Priority::Normal)?,
            allocator,
            pinned,
            loader,
            prefetch,
        };
        let mut state =
            State::new(&supplies, self.clone(), pieces, Room::new(limit_bytes, page_bytes))?;
        state.load_first(&supplies)?;
        let prefix = |weights: &ComponentWeights| weights.name.len() + 1;
        let is_joined = weights.len() > 1;
        let inner = Arc::new(Inner {
            prefixes: weights.iter().map(|one| if is_joined { prefix(one) } else { 0 }).collect(),
            supplies,
            weights: weights.to_vec(),
            job,
            promises: Arc::default(),
            state: Latch::new(Running { state, measured: Measured::default() }),
            callback: OnceLock::new(),
        });
        let asked: Weak<Inner> = Arc::downgrade(&inner);
        let callback = inner.supplies.allocator.on_out_of_memory(move |shortage| {
            asked.upgrade().is_some_and(|inner| inner.relieve(shortage))
        });
        let _ = inner.callback.set(callback);
        Ok(Offloaded(inner))
    }
}

impl Offloaded {
    /// Leases unit number `unit` of the phase's component for work on `stream`: what is enqueued
    /// there from now on finds its tensors, those that stay and those that are streamed. The host
    /// does not wait; the stream does, on the device.
    ///
    /// # Errors
    /// No such unit; as [`Prefetcher::acquire`](crate::prefetch::Prefetcher::acquire).
    pub fn acquire(&self, unit: usize, stream: &Stream) -> Result<UnitLease> {
        let mut running = self.0.enter()?;
        let component = running.state.pieces.phases[running.state.phase].component;
        let prefix = self.0.prefixes.get(component).copied().unwrap_or(0);
        let leased = running.state.lease(unit, stream)?;
        Ok(UnitLease::new(leased, prefix, stream, self.clone()))
    }

    /// Ends a pass: blocks until `stream` has run, tells which loads failed, and then takes back
    /// what was given up, loads ahead for the next phase and corrects the plan, as there is room
    /// and reason. Units of the report are numbered as in [`acquire`](Self::acquire).
    ///
    /// # Errors
    /// What the driver says.
    pub fn finish_pass(&self, stream: &Stream) -> Result<PassReport> {
        let prefetcher = self.0.enter()?.state.prefetcher()?;
        // Not with the lock: others allocate and lease meanwhile.
        let mut report = prefetcher.finish_pass(stream)?;
        // The ring may go now, and goes with its last handle.
        drop(prefetcher);
        let mut running = self.0.enter()?;
        running.state.number_by_phase(&mut report);
        self.0.between_passes(&mut running, &report)?;
        Ok(report)
    }

    /// Enters a phase: what its component does not need leaves, its residents are loaded, and the
    /// ring is made as the plan says, as far as there is room now. Does not wait for the loads.
    ///
    /// # Errors
    /// No such phase; a unit is still leased; not even the least fits now, with what was tried;
    /// files that cannot be opened; what the driver says.
    pub fn enter(&self, phase: usize) -> Result<()> {
        let mut running = self.0.enter()?;
        let Running { state, measured } = &mut *running;
        let phases = state.pieces.phases.len();
        if phase >= phases {
            return Err(Error::invalid("phase", phase, format!("the plan has {phases}")));
        }
        state.refuse_leases("entering a phase")?;
        measured.restart();
        state.enter(&self.0.supplies, phase, self.0.working_bytes(state, phase))
    }

    /// Leaves the phase: its ring goes back, and its residents too where the plan's mode does not
    /// let components stay while others run. A phase is entered again before a unit is leased.
    ///
    /// # Errors
    /// A unit is still leased; what the driver says.
    pub fn leave(&self) -> Result<()> {
        let mut running = self.0.enter()?;
        running.state.refuse_leases("leaving a phase")?;
        running.state.leave(&self.0.supplies)
    }

    /// Promises `bytes` of memory to work in: while the guard lives, they can be allocated from
    /// [`allocator`](Self::allocator) beside what is in use by now. Weights give way for it, and
    /// come back between passes when it is dropped. Blocks for what has to leave.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for more than the limit; [`Error::OutOfMemory`] for what weights cannot
    /// give up now, with every step that was taken.
    pub fn reserve(&self, bytes: u64) -> Result<WorkingMemory> {
        let mut running = self.0.enter()?;
        let (state, supplies) = (&mut running.state, &self.0.supplies);
        if bytes > state.room.limit_bytes {
            return Err(Error::TooLarge {
                what: "working memory".into(),
                requested_bytes: bytes,
                available_bytes: state.room.limit_bytes,
                way_out: "ask for less or raise the limit".into(),
            });
        }
        let live = state.live_bytes(supplies);
        let more = self.0.promises.with(bytes, live).saturating_sub(live);
        let mut steps = Steps::default();
        if !state.make_room(supplies, more, &mut steps)? {
            return Err(state.out_of_memory(supplies, bytes, steps));
        }
        state.note_sizes();
        Ok(self.0.promises.make(bytes, live))
    }

    /// The number of the phase that was entered last.
    #[must_use]
    pub fn phase(&self) -> usize {
        self.0.enter().map_or(0, |running| running.state.phase)
    }

    /// Names of the units of the phase's component, in the order of a pass.
    #[must_use]
    pub fn units(&self) -> Vec<String> {
        let Ok(running) = self.0.enter() else { return Vec::new() };
        let Pieces { phases, units, .. } = &running.state.pieces;
        units[phases[running.state.phase].units.clone()]
            .iter()
            .map(|unit| unit.name.clone())
            .collect()
    }

    /// The plan it runs by, with the corrections made since.
    ///
    /// # Errors
    /// Asked from within a callback of its own.
    pub fn plan(&self) -> Result<Plan> {
        Ok(self.0.enter()?.state.plan.clone())
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> OffloadStats {
        let Ok(mut running) = self.0.enter() else { return OffloadStats::default() };
        running.state.note_sizes();
        OffloadStats { promised_bytes: self.0.promises.bytes(), ..running.state.stats }
    }

    /// Bytes a second over the link and seconds of compute by unit, in the last pass that told.
    #[must_use]
    pub fn measured(&self) -> (Option<f64>, Vec<f64>) {
        let Ok(running) = self.0.enter() else { return (None, Vec::new()) };
        (running.measured.link(), running.measured.compute().to_vec())
    }

    /// The allocator that holds the limit: take working memory from it.
    #[must_use]
    pub fn allocator(&self) -> &Allocator {
        &self.0.supplies.allocator
    }

    /// The pinned pool weights pass through.
    #[must_use]
    pub fn pinned(&self) -> &PinnedPool {
        &self.0.supplies.pinned
    }

    /// The ring of the phase, for its counters, how it reads, and to [cancel](Prefetcher::cancel).
    /// It numbers units in a way of its own, and what is leased and in what order is not for others
    /// to say. It lives as long as its handles: drop this one before another phase is entered.
    ///
    /// # Errors
    /// No phase is entered.
    pub fn prefetcher(&self) -> Result<Prefetcher> {
        self.0.enter()?.state.prefetcher()
    }

    /// Proves that the books agree: the ring's, the allocator's, and that nothing exceeds the
    /// limit.
    ///
    /// # Errors
    /// What does not agree; that is a defect of this crate.
    pub fn check(&self) -> Result<(), String> {
        let running = self.0.enter().map_err(|error| error.to_string())?;
        running.state.check()?;
        self.0.supplies.allocator.check()
    }
}

impl Inner {
    fn enter(&self) -> Result<Latched<'_, Running>> {
        self.state.enter().ok_or_else(|| {
            Error::invalid("offload", "asked from within its own callback", "wait until it is over")
        })
    }

    /// What the caller works in, as far as it is said.
    fn working_bytes(&self, state: &State, phase: usize) -> u64 {
        state.pieces.phases[phase].working_bytes.max(self.promises.working_bytes())
    }

    fn relieve(&self, shortage: &Shortage) -> bool {
        if self.supplies.allocator.is_capturing() {
            return false;
        }
        // What is allocated under the lock is the weights' own.
        let Some(mut running) = self.state.enter() else { return false };
        running.state.relieve(&self.supplies, shortage)
    }

    fn between_passes(&self, running: &mut Running, report: &PassReport) -> Result<()> {
        let Running { state, measured } = running;
        let supplies = &self.supplies;
        state.end_pass(supplies);
        let units = state.pieces.phases[state.phase].units.clone();
        measured.note(report, units.len(), (&state.plan, state.phase));
        let rings = state.stats.rings_made;
        let working = self.working_bytes(state, state.phase);
        if !self.replan(state, measured)? {
            state.climb(supplies, working)?;
            state.load_ahead(supplies, working)?;
        }
        if state.stats.rings_made != rings {
            measured.restart();
        }
        Ok(())
    }

    /// Makes the plan anew by what was measured, if it is off; true if it changed what is where.
    fn replan(&self, state: &mut State, measured: &mut Measured) -> Result<bool> {
        let Some(job) = self.job.as_ref().filter(|_| !state.is_in_use()) else { return Ok(false) };
        let Some((job, rates)) = measured.correction(job, &state.plan, state.phase) else {
            return Ok(false);
        };
        let (budgets, rules) = (state.plan.budgets, state.plan.rules.clone());
        // What cannot be planned so stays as it is.
        let Ok(plan) = plan(&job, &rates, &budgets, &rules) else { return Ok(false) };
        state.stats.replans += 1;
        let Ok(pieces) = Pieces::new(&plan, &self.weights, state.room.page_bytes) else {
            return Ok(false);
        };
        state.replace(&self.supplies, plan, pieces)
    }
}

/// All components' tensors in one model.
fn joined(weights: &[ComponentWeights]) -> Result<Arc<Model>> {
    match weights {
        [] => Err(Error::invalid("weights", "none", "give one for each component")),
        [one] => Ok(Arc::clone(&one.model)),
        many => {
            let parts: Vec<(&str, &Model)> =
                many.iter().map(|one| (&one.name[..], &*one.model)).collect();
            Ok(Arc::new(Model::join(&parts)?))
        }
    }
}

/// Where nobody chose a policy, the one that takes no more than pages: segments of 20 MiB for a
/// few would push out weights for nothing.
fn packing_conf(conf: Conf, device: &Device) -> Conf {
    let is_chosen = ["policy", "backend", "expandable_segments"].iter().any(|key| conf.is_set(key));
    if is_chosen || !device.info().virtual_memory {
        return conf;
    }
    // Keys that only another policy knows are a choice too.
    conf.clone().with_policy(EXPANDABLE).unwrap_or(conf)
}

/// The plan's budget of pinned memory beside the conf's own.
fn pinned_conf(conf: &Conf, budget_bytes: u64) -> Result<Conf> {
    match budget_bytes {
        u64::MAX => Ok(conf.clone()),
        bytes => {
            let least = conf.pinned_limit_bytes.map_or(bytes, |other| other.min(bytes));
            conf.clone().with_pinned_limit_bytes(least)
        }
    }
}

/// Differences between a plan's first phase and what was loaded.
pub(super) fn compare(state: &State, supplies: &Supplies) -> Option<Error> {
    let phase = &state.plan.phases[state.phase];
    let page = state.room.page_bytes;
    let up = |bytes| align_up(bytes, page).unwrap_or(u64::MAX);
    let mut differences = Vec::new();
    let resident = state.space.committed_bytes();
    // Blocks of their own are rounded one by one.
    let paged = super::space::is_paged(&supplies.allocator);
    let held = if state.retention() == Retention::All { phase.held_bytes } else { 0 };
    let planned = up(phase.plan.resident_bytes).saturating_add(held);
    if paged && resident > planned {
        differences.push(format!("residents take {resident} bytes, {planned} in the plan"));
    }
    let ring = state.ring_reserved_bytes();
    if ring != up(phase.plan.ring_bytes) {
        differences
            .push(format!("the ring has {ring} bytes, {} in the plan", phase.plan.ring_bytes));
    }
    let reserved = supplies.allocator.stats().reserved_bytes.all.peak;
    let working = up(state.pieces.phases[state.phase].working_bytes);
    if reserved.saturating_add(working) > state.room.limit_bytes {
        differences.push(format!(
            "{reserved} bytes were taken, and {working} are worked in: more than {}",
            state.room.limit_bytes
        ));
    }
    differs(&differences)
}

impl State {
    /// Loads the first phase just as the plan says.
    fn load_first(&mut self, supplies: &Supplies) -> Result<()> {
        let working = self.pieces.phases[0].working_bytes;
        let fit = self.fit(self.room.for_weights(working, 0));
        let exact = fit.filter(|fit| {
            let planned = self.pieces.pieces.iter().map(|piece| piece.stays[0]);
            let kept = |(kept, planned): (&bool, bool)| *kept || !planned;
            fit.keep.iter().zip(planned).all(kept)
                && fit.ring_bytes >= self.pieces.phases[0].ring_bytes
        });
        let Some(fit) = exact else {
            let plan = &self.plan.phases[0];
            let page = self.room.page_bytes;
            return Err(differs(&[format!(
                "residents of {} and a ring of {} bytes, in pages of {page}, beside {working} to \
                 work in do not fit in {} bytes",
                plan.plan.resident_bytes, plan.plan.ring_bytes, self.room.limit_bytes
            )])
            .unwrap_or(Error::Cancelled));
        };
        if !self.apply(supplies, &fit, Bound::Phase)? {
            let steps = Steps::default();
            return Err(self.out_of_memory(supplies, self.managed_bytes(), steps));
        }
        self.wait_loaded()?;
        compare(self, supplies).map_or(Ok(()), Err)
    }
}
