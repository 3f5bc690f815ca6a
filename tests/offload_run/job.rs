//! Jobs over small models, planned and loaded.

use std::collections::HashMap;
use std::sync::Arc;

use riverbed::device::{Device, Stream};
use riverbed::offload::{
    ComponentWeights, DescribeOptions, Described, OffloadOptions, Offloaded, UnitLease,
};
use riverbed::plan::{Budgets, DeviceRates, Job, Plan, Rules, plan};
use riverbed::transfer::LoaderOptions;

use super::streaming::{Content, KIB, MIB};

pub(crate) const PAGE: u64 = 2 * MIB;

/// A link that is slow beside compute, so that residents are worth something.
pub(crate) fn rates() -> DeviceRates {
    DeviceRates::of_link(1e9, 1e12)
}

pub(crate) fn budgets(vram_bytes: u64, working_bytes: u64) -> Budgets {
    Budgets {
        working_bytes,
        pinned_bytes: 64 * MIB,
        page_bytes: PAGE,
        ..Budgets::of_vram(vram_bytes)
    }
}

pub(crate) fn options() -> OffloadOptions {
    let mut options = OffloadOptions::default();
    options.loader = LoaderOptions { chunk_bytes: 256 * KIB, slots: 4, ..LoaderOptions::default() };
    options
}

/// Eight layers of 3 MiB in three tensors, and two tensors beside them.
pub(crate) fn model() -> Content {
    let layer: &[usize] = &[1 << 20, 3 << 19, (1 << 19) - 300];
    Content::new(&[layer; 8], &[1 << 20, 1000])
}

/// A component of a content, described.
pub(crate) fn described(name: &str, content: &Content) -> Described {
    let options = DescribeOptions::default();
    Described::new(name, &content.model, &content.grouping, &options).unwrap()
}

pub(crate) fn weights(name: &str, content: &Content) -> ComponentWeights {
    let units = described(name, content).units;
    ComponentWeights::new(name, Arc::clone(&content.model), units)
}

/// A job of one component.
pub(crate) fn job(content: &Content, passes: u32) -> Job {
    Job::of(described("model", content).component, passes)
}

pub(crate) fn planned(job: &Job, budgets: Budgets, rules: &Rules) -> Plan {
    plan(job, &rates(), &budgets, rules).unwrap_or_else(|refusal| panic!("{refusal}"))
}

/// A job of one component on a device, by the planner's plan.
pub(crate) fn load(device: &Device, content: &Content, vram: u64, working: u64) -> Offloaded {
    let plan = planned(&job(content, 4), budgets(vram, working), &Rules::auto());
    plan.load(device, &[weights("model", content)], options()).unwrap()
}

/// Compares every tensor of a lease with the file's bytes; gives how many.
#[track_caller]
pub(crate) fn compare(lease: &UnitLease, bytes: &HashMap<String, Vec<u8>>) -> usize {
    let view = lease.wait_host().unwrap();
    let names: Vec<String> = lease.tensors().map(|tensor| tensor.name.to_owned()).collect();
    for name in &names {
        assert!(view.bytes(name).unwrap() == bytes[name], "{name}");
    }
    names.len()
}

/// One pass with every byte compared; gives how many tensors.
#[track_caller]
pub(crate) fn pass(offloaded: &Offloaded, stream: &Stream, content: &Content) -> usize {
    let mut compared = 0;
    for unit in 0..offloaded.units().len() {
        let lease = offloaded.acquire(unit, stream).unwrap();
        compared += compare(&lease, &content.bytes);
    }
    offloaded.finish_pass(stream).unwrap().into_result().unwrap();
    offloaded.check().unwrap();
    compared
}

/// The most that was ever reserved.
pub(crate) fn peak(offloaded: &Offloaded) -> u64 {
    offloaded.allocator().stats().reserved_bytes.all.peak
}
