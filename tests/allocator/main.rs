//! What the allocator does, policy by policy and promise by promise.

#[path = "../support/heard.rs"]
mod heard;
#[path = "../support/mod.rs"]
mod support;

mod capture;
mod crossing;
mod dedicated;
mod expandable;
mod expandable_pools;
mod figures;
mod hooks;
mod labels;
mod ladder;
mod lifetime;
mod limits;
mod mempool;
mod planned;
mod policies;
mod private_pools;
mod raw;
mod reuse;
mod sharing;
mod stats_scope;
mod streams;
mod vectors;

use std::sync::Mutex;

use riverbed::device::Device;
use riverbed::event::{Recorder, TraceEvent};
use riverbed::pool::Allocator;

/// A host device of so many MiB. It commits no memory before that is touched.
fn device(mib: u64) -> Device {
    Device::open(&format!("host:vram={mib}MiB")).unwrap()
}

fn allocator(device: &Device, conf: &str) -> Allocator {
    Allocator::builder(device).conf_str(conf).unwrap().build().unwrap()
}

/// Proves the bookkeeping, and that the counters add up.
#[track_caller]
fn check(allocator: &Allocator) {
    allocator.check().unwrap();
    let stats = allocator.stats();
    assert!(stats.active_bytes.all.current <= stats.reserved_bytes.all.current, "{stats:?}");
    assert!(stats.requested_bytes.all.current <= stats.active_bytes.all.current, "{stats:?}");
}

/// Writes down everything that happens.
#[derive(Debug, Default)]
struct Trace(Mutex<Vec<TraceEvent>>);

impl Recorder for Trace {
    fn record(&self, event: &TraceEvent) {
        self.0.lock().unwrap().push(event.clone());
    }
}
