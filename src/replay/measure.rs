//! Scoring a trace under a setup: exact counts of a fresh replay, times of warm ones, and the
//! least memory that is enough. Each measurement has a fresh allocator on a fresh device.

use std::collections::BTreeMap;

use super::clock::{Scale, ticks};
use super::engine::{Stop, Streams, Watch, clear, failed, once, step};
use super::perturb::Perturb;
use super::score::{CallTimes, Capacity, Fresh, Perturbed, Score, Warm};
use super::target::{Counters, Handle, Setup, Target};
use super::threads;
use super::trace::{OpKind, Trace};
use crate::base::Result;
use crate::conf::Pytorch;
use crate::device::Call;

/// What to measure beside a fresh replay's counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Warm replays; 0 measures the fresh one alone.
    pub repeat: u32,
    /// Time single calls too. Needs warm replays.
    pub per_call: bool,
    /// Find the least memory that is enough.
    pub capacity: bool,
    /// Measure replays that nearly repeat. Needs warm replays.
    pub perturb: Option<Perturb>,
    /// Measure operations a second with each of these numbers of threads.
    pub threads: Vec<usize>,
}

impl Plan {
    /// How many operations the plan takes, about: what a progress bar needs to know.
    #[must_use]
    pub fn ops_expected(&self, trace: &Trace) -> u64 {
        /// Bisection from 0.995 to 1.25 in steps of 0.005, and the four fits.
        const CAPACITY_REPLAYS: u64 = 9;
        let warm = if self.repeat > 0 { u64::from(self.repeat) + 1 } else { 0 };
        let calls = if self.per_call { u64::from(self.repeat) } else { 0 };
        let perturbed = if self.perturb.is_some() { warm + 1 } else { 0 };
        let capacity = if self.capacity { CAPACITY_REPLAYS } else { 0 };
        (1 + warm + calls + perturbed + capacity) * trace.ops().len() as u64
    }
}

/// Replays `trace` under `setup` and measures what `plan` says. A replay that fails is a score
/// with `ok` false, and then nothing further is measured.
///
/// # Errors
/// The device or allocator cannot be made; `watch` ended it; the allocator's books are wrong.
pub fn score(trace: &Trace, setup: &Setup, plan: &Plan, watch: &dyn Watch) -> Result<Score, Stop> {
    let mut score = Score::of(trace);
    let conf = setup.conf.clone().over_env(Pytorch::Ignore)?;
    score.policy = conf.policy().into();
    score.config = match conf.to_string() {
        text if text.is_empty() => score.policy.clone(),
        text => text,
    };
    score.device.clone_from(&setup.device);
    score.capacity_bytes = setup.capacity_bytes;
    let mut run = Run { trace, live: vec![Handle::default(); trace.slots()], watch };
    match run.fresh_and_warm(setup, plan, &mut score) {
        Err(stop @ Stop::Failed { .. }) => {
            score.failure = Some(stop.to_string());
            return Ok(score);
        }
        other => other?,
    }
    score.ok = true;
    if let Some(perturb) = plan.perturb.filter(|_| plan.repeat > 0) {
        match run.perturbed(setup, perturb, plan.repeat) {
            Err(stop @ Stop::Failed { .. }) => {
                (score.ok, score.failure) = (false, Some(stop.to_string()));
                return Ok(score);
            }
            other => score.perturbed = Some(other?),
        }
    }
    if plan.capacity {
        score.capacity = Some(run.capacity(setup)?);
    }
    let ns_per_op = score.warm.as_ref().map_or(1e3, |warm| warm.ns_per_op);
    for &count in &plan.threads {
        let rate = threads::ops_per_second(trace, setup, count, ns_per_op, watch)?;
        score.ops_per_s.insert(format!("ops_per_s_{count}t"), rate.map(f64::round));
    }
    Ok(score)
}

/// A trace being measured.
struct Run<'a> {
    trace: &'a Trace,
    live: Vec<Handle>,
    watch: &'a dyn Watch,
}

impl Run<'_> {
    fn once(&mut self, target: &Target) -> Result<f64, Stop> {
        let ns = once(target, self.trace, &mut self.live, Streams::Own, self.watch)?;
        target.settle()?;
        Ok(ns / self.trace.ops().len() as f64)
    }

    fn open(&self, setup: &Setup) -> Result<Target, Stop> {
        Ok(setup.open(usize::from(self.trace.streams()))?)
    }

    fn fresh_and_warm(
        &mut self,
        setup: &Setup,
        plan: &Plan,
        score: &mut Score,
    ) -> Result<(), Stop> {
        let target = self.open(setup)?;
        score.notes.extend(target.caveat());
        let before = target.counters();
        let ns_per_op = self.once(&target)?;
        score.fresh = Some(fresh(self.trace, ns_per_op, &before, &target.counters()));
        if plan.repeat > 0 {
            score.warm = Some(self.warm(&target, plan.repeat)?);
        }
        if plan.per_call && plan.repeat > 0 {
            score.calls = Some(self.per_call(&target, plan.repeat)?);
        }
        target.check().map_err(Stop::Books)
    }

    fn warm(&mut self, target: &Target, repeat: u32) -> Result<Warm, Stop> {
        self.once(target)?;
        let before = target.counters();
        let mut ns: Vec<f64> = (0..repeat).map(|_| self.once(target)).collect::<Result<_, _>>()?;
        ns.sort_by(f64::total_cmp);
        let after = target.counters();
        let calls = after.calls_since(&before);
        let taken = sum(&calls, &TAKING);
        Ok(Warm {
            warm_replays: repeat,
            ns_per_op: rounded(ns[ns.len() / 2], 2),
            ns_per_op_min: rounded(ns[0], 2),
            // Where nothing was taken, no more was held than at the start.
            warm_peak_reserved: match taken {
                0 => before.reserved_bytes,
                _ => after.reserved_peak_bytes,
            },
            warm_device_allocs_per_replay: rounded(taken as f64 / f64::from(repeat), 1),
            warm_driver_calls: calls,
        })
    }

    /// Two plain replays, then some that each differ in their own way.
    fn perturbed(
        &mut self,
        setup: &Setup,
        perturb: Perturb,
        repeat: u32,
    ) -> Result<Perturbed, Stop> {
        let target = self.open(setup)?;
        self.once(&target)?;
        self.once(&target)?;
        let before = target.counters();
        let (mut worst, mut ns) = (Perturbed::default(), Vec::new());
        // What is held stays for the next replay, so it is measured by the most live so far.
        let mut live = self.trace.peak_live_bytes();
        for number in 0..repeat {
            let trace = perturb.trace(self.trace, number);
            target.reset_peaks();
            let took = once(&target, &trace, &mut self.live, Streams::Own, self.watch)?;
            target.settle()?;
            ns.push(took / trace.ops().len() as f64);
            live = live.max(trace.peak_live_bytes());
            let held = target.counters().reserved_peak_bytes;
            let over_live = rounded(held as f64 / live as f64, 4);
            if over_live > worst.perturbed_over_live {
                worst.perturbed_peak_live = live;
                worst.perturbed_peak_reserved = held;
                worst.perturbed_over_live = over_live;
            }
        }
        target.check().map_err(Stop::Books)?;
        ns.sort_by(f64::total_cmp);
        worst.perturbed_replays = repeat;
        worst.perturbed_ns_per_op = rounded(ns[ns.len() / 2], 2);
        worst.perturbed_driver_calls = target.counters().calls_since(&before);
        Ok(worst)
    }

    /// A pair of time stamps around each call; the best of the replays for each.
    fn per_call(&mut self, target: &Target, repeat: u32) -> Result<CallTimes, Stop> {
        let ops = self.trace.ops();
        let mut best = vec![u32::MAX; ops.len()];
        for _ in 0..repeat {
            for (at, (op, best)) in ops.iter().zip(&mut best).enumerate() {
                let before = ticks();
                let outcome = step(target, op, &mut self.live, Streams::Own);
                let took = ticks() - before;
                outcome.map_err(|error| failed(self.trace, at, error))?;
                *best = (*best).min(u32::try_from(took).unwrap_or(u32::MAX));
            }
            clear(target, &mut self.live);
            target.settle()?;
            if !self.watch.went_on(ops.len() as u64) {
                return Err(Stop::Interrupted);
            }
        }
        let scale = Scale::measure();
        let of = |is_alloc: bool| {
            let ticks =
                ops.iter().zip(&best).filter(|(op, _)| (op.kind == OpKind::Alloc) == is_alloc);
            quantiles(ticks.map(|(_, &ticks)| ticks).collect(), scale)
        };
        let ([alloc_ns_mean, alloc_ns_p50, alloc_ns_p99, alloc_ns_p999], free) =
            (of(true), of(false));
        let [free_ns_mean, free_ns_p50, free_ns_p99, free_ns_p999] = free;
        Ok(CallTimes {
            alloc_ns_mean,
            alloc_ns_p50,
            alloc_ns_p99,
            alloc_ns_p999,
            free_ns_mean,
            free_ns_p50,
            free_ns_p99,
            free_ns_p999,
        })
    }

    /// The time of a fresh replay within `steps` steps of peak live; `None` if it does not fit.
    fn fits(&mut self, setup: &Setup, steps: u32) -> Result<Option<f64>, Stop> {
        let bytes = (self.trace.peak_live_bytes() as f64 * over_live(steps)) as u64;
        if bytes == 0 {
            return Ok(None); // A limit of 0 is none.
        }
        let target = self.open(&setup.within(bytes))?;
        match self.once(&target) {
            Ok(ns_per_op) => Ok(Some(ns_per_op)),
            Err(Stop::Failed { .. }) => Ok(None),
            Err(stop) => Err(stop),
        }
    }

    fn capacity(&mut self, setup: &Setup) -> Result<Capacity, Stop> {
        // The most that failed, and the least that fitted.
        let (mut failed, mut fitted) = (STEPS_LEAST - 1, None);
        let mut fits = BTreeMap::new();
        for (name, steps) in FITS {
            let ok = self.fits(setup, steps)?.is_some();
            match fitted {
                None if ok => fitted = Some(steps),
                None => failed = steps,
                Some(_) => {}
            }
            fits.insert(name, ok);
        }
        if fitted.is_none() && self.fits(setup, STEPS_MOST)?.is_some() {
            fitted = Some(STEPS_MOST);
        }
        let mut ns = None;
        if let Some(mut least) = fitted {
            while least - failed > 1 {
                let middle = u32::midpoint(least, failed);
                match self.fits(setup, middle)? {
                    Some(_) => least = middle,
                    None => failed = middle,
                }
            }
            fitted = Some(least);
            ns = self.fits(setup, least)?;
        }
        Ok(Capacity {
            fits,
            min_capacity_over_live: rounded(fitted.map_or(0.0, over_live), 3),
            ns_per_op_at_min_capacity: ns.map(|ns| rounded(ns, 2)),
        })
    }
}

/// Capacities are tried in steps of 0.5 % of peak live, from 1 to 4.
const STEPS_LEAST: u32 = 200;
const STEPS_MOST: u32 = 800;
const FITS: [(&str, u32); 4] = [("1.02", 204), ("1.05", 210), ("1.10", 220), ("1.25", 250)];

fn over_live(steps: u32) -> f64 {
    f64::from(steps) * 0.005
}

/// Driver calls that take device memory, and that give it back.
const TAKING: [Call; 2] = [Call::Alloc, Call::CreatePage];
const RETURNING: [Call; 2] = [Call::Free, Call::DestroyPage];

fn sum(calls: &BTreeMap<&'static str, u64>, of: &[Call]) -> u64 {
    of.iter().filter_map(|call| calls.get(call.name())).sum()
}

fn fresh(trace: &Trace, ns_per_op: f64, before: &Counters, after: &Counters) -> Fresh {
    let calls = after.calls_since(before);
    let peak = after.reserved_peak_bytes;
    Fresh {
        fresh_ns_per_op: rounded(ns_per_op, 2),
        peak_reserved: peak,
        reserved_over_live: rounded(peak as f64 / trace.peak_live_bytes() as f64, 4),
        device_allocs: sum(&calls, &TAKING),
        device_frees: sum(&calls, &RETURNING),
        remapped_bytes: after.remapped_bytes - before.remapped_bytes,
        cross_stream_waits: after.cross_stream_waits - before.cross_stream_waits,
        driver_calls: calls,
        driver_time_us: after.call_us_since(before),
    }
}

/// Mean, median, 99th and 99.9th percentile in nanoseconds.
fn quantiles(mut ticks: Vec<u32>, scale: Scale) -> [f64; 4] {
    ticks.sort_unstable();
    let ns = |ticks: f64| (ticks - scale.own_ticks).max(0.0) * scale.ns_per_tick;
    let at = |share: f64| {
        let index = (share * ticks.len() as f64) as usize;
        ticks.get(index.min(ticks.len().saturating_sub(1))).map_or(0.0, |&ticks| ns(ticks.into()))
    };
    let mean = ticks.iter().map(|&ticks| ns(ticks.into())).sum::<f64>() / ticks.len().max(1) as f64;
    [mean, at(0.5), at(0.99), at(0.999)].map(|ns| rounded(ns, 1))
}

/// `value` with so many decimals.
fn rounded(value: f64, decimals: i32) -> f64 {
    let factor = 10_f64.powi(decimals);
    (value * factor).round() / factor
}
