//! Policies on drivers as GPUs have them: what caching holds and takes there is what it does on the
//! simulator; without virtual memory caching stands in; and a ring of weights never grows.

#[path = "support/fake.rs"]
mod fake;

use std::path::Path;
use std::sync::Arc;

use fake::{FakeDriver, fake_cuda, fake_hip};
use riverbed::base::Error;
use riverbed::conf::Conf;
use riverbed::device::{Call, Device, Priority, Stream};
use riverbed::offload::{StreamOptions, StreamedModel};
use riverbed::pool::{Allocator, policy_on};
use riverbed::replay::{DEVICE, Fresh, Plan, Score, Setup, Trace, read, score};
use riverbed::weights::{Grouping, Model};
use safetensors::tensor::{Dtype, TensorView};

/// Memory enough for every trace here; none of it is touched.
const LARGE: &str = "vram=64GiB,garbage=off";

/// The driver's calls that map memory.
const MAPPING: [&str; 4] = ["hipMemAddressReserve", "hipMemCreate", "hipMemMap", "hipMemSetAccess"];

/// Recorded programs: one that frees on another stream than it allocates on, and one without.
fn traces() -> Vec<Trace> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let files = ["replay/flux_offload_2streams.csv.gz", "golden/traces/sdxl_1024.csv.gz"];
    files.iter().flat_map(|file| read(&data.join(file), None).unwrap()).collect()
}

fn conf(policy: &str) -> Conf {
    format!("policy:{policy}").parse().unwrap()
}

fn replayed(trace: &Trace, device: &str, policy: &str) -> Score {
    let setup = Setup { conf: conf(policy), ..Setup::new(device) };
    let score = score(trace, &setup, &Plan::default(), &()).unwrap();
    assert!(score.ok, "{device} {policy}: {:?}", score.failure);
    score
}

/// What repeats exactly: most bytes held, driver calls that took memory and that gave it back,
/// and bytes mapped anew.
fn figures(score: &Score) -> [u64; 4] {
    let Some(Fresh { peak_reserved, device_allocs, device_frees, remapped_bytes, .. }) =
        score.fresh
    else {
        panic!("no figures of {}", score.trace)
    };
    [peak_reserved, device_allocs, device_frees, remapped_bytes]
}

#[test]
fn caching_holds_what_it_holds_on_the_simulator() {
    for trace in traces() {
        let simulated = figures(&replayed(&trace, DEVICE, "caching"));
        for fake in [fake_cuda(LARGE), fake_hip(LARGE)] {
            let here = figures(&replayed(&trace, &fake.device_text(), "caching"));
            assert_eq!(here, simulated, "{} on {fake:?}", trace.name());
            fake.assert_no_misuse();
        }
    }
}

#[test]
fn expandable_and_planned_map_what_is_free_anew() {
    for trace in traces() {
        for policy in ["expandable", "planned"] {
            let fake = fake_cuda(LARGE);
            let score = replayed(&trace, &fake.device_text(), policy);
            let [reserved, _, given_back, remapped] = figures(&score);
            // Caching holds 26 % and 41 % more than is live.
            let most = score.peak_live + score.peak_live / 50;
            assert!(reserved <= most, "{policy}, {}: {reserved}", trace.name());
            assert!(remapped > 0, "{policy}, {}", trace.name());
            assert_eq!(given_back, 0, "{policy}, {}", trace.name());
            fake.assert_no_misuse();
        }
    }
}

#[test]
fn without_virtual_memory_caching_stands_in_and_says_so() {
    // An older runtime, a device that has none, and a user who wants none.
    let fakes = [
        (fake_hip(LARGE), ""),
        (fake_hip(&format!("{LARGE},version=70051831,vmm=off")), ""),
        (fake_hip(&format!("{LARGE},version=70051831")), ",vmm=off"),
    ];
    let trace = traces().pop().unwrap();
    let caching = figures(&replayed(&trace, DEVICE, "caching"));
    for (fake, setting) in &fakes {
        let name = fake.device_text() + setting;
        let device = Device::open(&name).unwrap();
        assert!(!device.info().virtual_memory, "{name}");
        for policy in ["expandable", "planned"] {
            assert_eq!(policy_on(device.info(), &conf(policy)), "caching");
            let score = replayed(&trace, &name, policy);
            assert_eq!(figures(&score), caching, "{policy} on {name}");
            let words = format!("the caching policy stands in for the {policy} one");
            assert!(score.notes.iter().any(|note| note.contains(&words)), "{:?}", score.notes);
        }
        let mapped: u64 = MAPPING.iter().map(|call| fake.count(call)).sum();
        assert_eq!(mapped, 0, "calls that map on {name}");
    }
}

#[test]
fn the_drivers_pool_is_refused_with_the_way_out() {
    let fake = fake_hip("");
    let device = Device::open(&fake.device_text()).unwrap();
    let error = Allocator::builder(&device).conf(conf("mempool")).build().unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
    assert!(error.to_string().contains("choose policy:caching"), "{error}");
}

const LAYERS: usize = 6;
const LAYER_BYTES: usize = 900_000;

fn layer(number: usize) -> Vec<u8> {
    (0..LAYER_BYTES).map(|at| (at * (number + 3) % 251) as u8).collect()
}

/// A model of equal layers, and the directory it lies in.
fn model() -> (tempfile::TempDir, Arc<Model>) {
    let layers: Vec<Vec<u8>> = (0..LAYERS).map(layer).collect();
    let tensors = layers.iter().enumerate().map(|(number, bytes)| {
        let view = TensorView::new(Dtype::U8, vec![LAYER_BYTES], bytes).unwrap();
        (format!("layers.{number}.weight"), view)
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    safetensors::serialize_to_file(tensors, None, &path).unwrap();
    let model = Arc::new(Model::open(path).unwrap());
    (dir, model)
}

/// Calls of the driver that take memory, of the device or pinned.
fn taken(fake: &FakeDriver) -> u64 {
    let calls = fake.report().calls;
    let taking = ["hipMalloc", "hipHostMalloc", "hipHostRegister", "hipMallocFromPoolAsync"];
    taking.iter().chain(&MAPPING).filter_map(|&call| calls.get(call)).sum()
}

#[test]
fn a_ring_of_weights_never_grows() {
    let fake = fake_hip("");
    let (_dir, model) = model();
    let device = Device::open(&fake.device_text()).unwrap();
    assert!(!device.info().virtual_memory);
    let stream = Stream::new(&device, Priority::Normal).unwrap();
    let grouping = Grouping::by_preset(&model).unwrap();
    // Two of the six layers at a time.
    let options = StreamOptions::new(4 << 20);
    let streamed = StreamedModel::load(&device, Arc::clone(&model), &grouping, options).unwrap();
    let pass = || {
        for unit in 0..LAYERS {
            let lease = streamed.acquire(unit, &stream).unwrap();
            lease.stream().busy(10_000).unwrap();
        }
        streamed.finish_pass(&stream).and_then(|report| report.into_result()).unwrap();
    };
    pass();
    streamed.prefetcher().wait_for_homes();
    let before = (taken(&fake), device.calls().sum(Call::ALLOCATING));
    assert!(before.0 > 0, "the ring is device memory");
    for _ in 0..5 {
        pass();
    }
    assert_eq!((taken(&fake), device.calls().sum(Call::ALLOCATING)), before);
    fake.assert_no_misuse();
}
