//! Which conf suits a trace: candidates replayed one after another and ranked.

use std::cmp::Ordering;

use super::engine::{Stop, Watch};
use super::measure::{Plan, score};
use super::score::Score;
use super::target::Setup;
use super::trace::Trace;
use crate::base::Result;
use crate::conf::{Conf, HonouredBy, MEMPOOL, options};
use crate::device::Device;
use crate::policy;

/// Confs that are tried, beside the one given. The first is PyTorch's default.
const CANDIDATES: [&str; 11] = [
    "",
    "max_split_size_mb:32",
    "max_split_size_mb:128",
    "max_split_size_mb:512",
    "roundup_power2_divisions:4",
    "roundup_power2_divisions:8",
    "garbage_collection_threshold:0.8",
    "max_split_size_mb:128,garbage_collection_threshold:0.8",
    "expandable_segments:True",
    "policy:planned",
    "backend:cudaMallocAsync",
];

/// Host times below this many times the least are alike: less may be noise.
const SLOW: f64 = 3.0;

/// A candidate and how it did.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct Entry {
    /// Its place, from 1.
    pub rank: usize,
    /// The conf string for `RIVERBED_ALLOC_CONF`; empty for the default.
    pub conf: String,
    /// The same for `PYTORCH_CUDA_ALLOC_CONF`, where PyTorch knows every key of it.
    pub pytorch_conf: Option<String>,
    /// Its figures.
    pub score: Score,
}

/// The candidates this version can run: `setup`'s own conf first, then the others over it. A
/// candidate that contradicts the own conf, whose policy is not there, or that the device
/// cannot run, is left out.
#[must_use]
pub fn candidates(setup: &Setup) -> Vec<Conf> {
    let known = policy::names();
    let info = Device::open(&setup.device).map(|device| device.info().clone());
    let pools = info.is_ok_and(|info| info.memory_pools && info.pool_caps);
    let mut confs = vec![setup.conf.clone()];
    for text in CANDIDATES {
        let mut conf = setup.conf.clone();
        let merged = text.parse().and_then(|candidate| conf.merge(&candidate));
        let runs = known.iter().any(|name| name == conf.policy());
        if merged.is_ok() && runs && (pools || conf.policy() != MEMPOOL) {
            let new = confs.iter().all(|other| other.to_string() != conf.to_string());
            confs.extend(new.then_some(conf));
        }
    }
    confs
}

/// Replays `trace` under every conf of `confs` and ranks them: what completes first, then the
/// least peak reserved, the least capacity that is enough, the least device time, then what is
/// not several times slower on the host than the quickest, then the order given.
///
/// # Errors
/// As [`score`](super::score()).
pub fn contest(
    trace: &Trace,
    setup: &Setup,
    confs: &[Conf],
    plan: &Plan,
    watch: &dyn Watch,
) -> Result<Vec<Entry>, Stop> {
    let mut entries = Vec::new();
    for conf in confs {
        let setup = Setup { conf: conf.clone(), ..setup.clone() };
        let score = score(trace, &setup, plan, watch)?;
        let (conf, pytorch_conf) = (conf.to_string(), pytorch_form(conf));
        entries.push(Entry { rank: 0, conf, pytorch_conf, score });
    }
    let quickest = entries.iter().map(|entry| host_ns(&entry.score)).fold(f64::INFINITY, f64::min);
    // Stable: what is equal stays in the order given, so that noise recommends nothing.
    entries.sort_by(|a, b| better(&a.score, &b.score, quickest));
    for (at, entry) in entries.iter_mut().enumerate() {
        entry.rank = at + 1;
    }
    Ok(entries)
}

/// Host time an operation, as far as it is known: what a replay takes is not, to less than some
/// microseconds.
fn host_ns(score: &Score) -> f64 {
    const UNKNOWN_NS: f64 = 1e4;
    let unknown_ns = UNKNOWN_NS / score.ops.max(1) as f64;
    score.warm.as_ref().map_or(f64::INFINITY, |warm| warm.ns_per_op + unknown_ns)
}

fn better(a: &Score, b: &Score, quickest: f64) -> Ordering {
    let reserved = |score: &Score| score.fresh.as_ref().map_or(u64::MAX, |f| f.peak_reserved);
    let capacity = |score: &Score| {
        let least = score.capacity.as_ref().map_or(0.0, |c| c.min_capacity_over_live);
        if least > 0.0 { least } else { f64::INFINITY }
    };
    let device_calls = |score: &Score| {
        score.fresh.as_ref().map_or(u64::MAX, |f| f.driver_calls.values().sum::<u64>())
    };
    let device_us = |score: &Score| {
        let times = score.fresh.as_ref().and_then(|f| f.driver_time_us.as_ref());
        times.map_or(0.0, |times| times.values().sum::<f64>())
    };
    let is_slow = |score: &Score| host_ns(score) > SLOW * quickest;
    b.ok.cmp(&a.ok)
        .then(reserved(a).cmp(&reserved(b)))
        .then(capacity(a).total_cmp(&capacity(b)))
        .then(device_us(a).total_cmp(&device_us(b)))
        .then(device_calls(a).cmp(&device_calls(b)))
        .then(is_slow(a).cmp(&is_slow(b)))
}

/// `conf` if PyTorch reads every key of it.
fn pytorch_form(conf: &Conf) -> Option<String> {
    let mut set = options().iter().filter(|option| conf.is_set(option.key));
    let known = set.all(|option| !option.honoured_by.contains(&HonouredBy::Riverbed));
    known.then(|| conf.to_string())
}
