//! Random programs in lockstep with a slow and obvious model: whatever the policy, no memory is
//! anybody's twice, none is given on before other streams are done with it, each block lies in a
//! segment of its own stream, and the counters are what the program did.
//!
//! `RIVERBED_SOAK=100000000 cargo test --release --test lockstep soak` runs that many operations.

#[path = "../support/mod.rs"]
mod support;

/// The policy the example shows.
#[path = "../../examples/own_policy.rs"]
#[allow(dead_code)]
mod example;

mod model;
mod programs;
mod threads;

use std::sync::{Arc, Once};

use riverbed::device::Device;
use riverbed::pool::Allocator;

use model::Model;

/// An allocator with the model that watches it.
fn watched(device: &Device, conf: &str) -> (Allocator, Arc<Model>) {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| example::register().unwrap());
    let model =
        Arc::new(Model::new(["expandable", "planned"].iter().any(|maps| conf.contains(maps))));
    let builder = Allocator::builder(device).conf_str(conf).unwrap();
    (builder.recorder(model.clone()).build().unwrap(), model)
}

/// Confs under which policies behave differently.
const CONFS: [&str; 9] = [
    "",
    "max_split_size_mb:24",
    "roundup_power2_divisions:8",
    "garbage_collection_threshold:0.5,limit_mb:400",
    "large_segment_size_mb:32,max_split_size_mb:40,max_non_split_rounding_mb:32",
    "policy:next-fit",
    "expandable_segments:True",
    "expandable_segments:True,roundup_power2_divisions:4,limit_mb:400",
    "policy:planned,limit_mb:400",
];

/// Names the program when it fails.
struct Named(String);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("it was {}", self.0);
        }
    }
}
