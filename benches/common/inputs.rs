//! The trace and the allocators of the benches that replay.

use std::path::PathBuf;

use riverbed::conf::Conf;
use riverbed::device::Device;
use riverbed::policy;
use riverbed::pool::Allocator;
use riverbed::replay::{Trace, read};

/// Those of the file that `RIVERBED_BENCH_TRACE` names; an offloaded FLUX otherwise.
pub(crate) fn traces() -> Vec<Trace> {
    let default =
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/replay/flux_offload_2streams.csv.gz");
    let path =
        std::env::var_os("RIVERBED_BENCH_TRACE").map_or_else(|| default.into(), PathBuf::from);
    read(&path, None).unwrap_or_else(|error| panic!("RIVERBED_BENCH_TRACE: {error}"))
}

/// The one that `RIVERBED_BENCH_CONF` holds; every policy's default otherwise.
pub(crate) fn confs() -> Vec<String> {
    match std::env::var("RIVERBED_BENCH_CONF") {
        Ok(conf) => vec![conf],
        Err(_) => policy::names().into_iter().map(|name| format!("policy:{name}")).collect(),
    }
}

/// An allocator of that conf. A policy that the device cannot carry out is left out, unless it was
/// asked for.
pub(crate) fn allocator(device: &Device, conf: &str) -> Option<Allocator> {
    let parsed: Conf = conf.parse().unwrap_or_else(|error| panic!("RIVERBED_BENCH_CONF: {error}"));
    match Allocator::builder(device).conf(parsed).build() {
        Ok(allocator) => Some(allocator),
        Err(error) if std::env::var_os("RIVERBED_BENCH_CONF").is_some() => {
            panic!("RIVERBED_BENCH_CONF on RIVERBED_BENCH_DEVICE: {error}")
        }
        Err(error) => {
            eprintln!("{conf}: left out, {error}");
            None
        }
    }
}
