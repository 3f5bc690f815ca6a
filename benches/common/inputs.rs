//! The trace and the confs of the benches that replay.

use std::path::PathBuf;

use riverbed::policy;
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
