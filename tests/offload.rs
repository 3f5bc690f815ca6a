//! Placement under a limit: what stays, what is streamed, and a limit that is never exceeded.

#[path = "support/model_files.rs"]
mod model_files;
#[path = "support/streaming.rs"]
mod streaming;

use std::sync::Arc;

use proptest::prelude::*;
use riverbed::Error;
use riverbed::device::Device;
use riverbed::offload::{Placement, StreamOptions, StreamedModel};
use riverbed::transfer::LoaderOptions;
use riverbed::weights::UnitLayout;

use streaming::{Content, KIB, MIB, Sums, assert_says, ends, host, stream};

/// Small pages show rounding that large ones hide.
const PAGE: u64 = 4096;

fn place(content: &Content, limit: u64, working: u64, depth: usize) -> riverbed::Result<Placement> {
    Placement::new(&content.model, &content.grouping, limit, working, PAGE, depth)
}

fn pages(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE)
}

fn names(content: &Content, tensors: &[usize]) -> Vec<String> {
    tensors.iter().map(|&at| content.model.tensors()[at].name.clone()).collect()
}

#[test]
fn what_is_in_no_layer_stays_the_smallest_first_as_far_as_it_fits() {
    let content = Content::new(&[&[50_000], &[60_000]], &[30_000, 5_000, 90_000, 1]);
    let two_slots = pages(2 * content.largest());
    // Each step of the limit lets the next larger tensor stay.
    for (resident, residents) in [
        (0, &[][..]),
        (256, &["rest3"]),
        (256 + 5_120, &["rest1", "rest3"]),
        (256 + 5_120 + 30_208, &["rest0", "rest1", "rest3"]),
        (256 + 5_120 + 30_208 + 90_112, &["rest0", "rest1", "rest2", "rest3"]),
    ] {
        let limit = pages(resident) + two_slots;
        let placement = place(&content, limit, 0, 0).unwrap();
        assert_eq!(names(&content, &placement.residents), residents, "limit {limit}");
        assert_eq!(placement.resident_bytes, pages(resident));
        assert!(placement.ring_bytes >= two_slots.min(limit - placement.resident_bytes));
        assert_eq!(placement.streamed.len(), 2 + 4 - residents.len());
        if resident > 0 {
            let fewer = place(&content, limit - PAGE, 0, 0).unwrap();
            assert!(fewer.residents.len() < residents.len(), "a page less and one less stays");
        }
    }
}

#[test]
fn what_is_streamed_beside_the_layers_keeps_its_side_of_them() {
    let content = Content::new(&[&[100_000], &[100_000]], &[50_000, 70_000]);
    let two_slots = pages(2 * content.largest());
    let placement = place(&content, two_slots, 0, 1).unwrap();
    let order: Vec<&str> = placement.streamed.iter().map(|unit| &unit.name[..]).collect();
    assert_eq!(order, ["layers.0", "layers.1", "rest0", "rest1"]);

    // In this file the rest stands before, between and behind the layers.
    let zeros = vec![0; 100_000];
    let shape = [100_000u64];
    let tensors: Vec<_> = ["embed", "layers.0.w", "between", "layers.1.w", "norm"]
        .into_iter()
        .map(|name| (name, "U8", &shape[..], &zeros[..]))
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("m.safetensors");
    std::fs::write(&path, model_files::safetensors(&tensors)).unwrap();
    let model = riverbed::weights::Model::open(&path).unwrap();
    let grouping = riverbed::weights::Grouping::by_preset(&model).unwrap();
    let placement = Placement::new(&model, &grouping, two_slots, 0, PAGE, 1).unwrap();
    let order: Vec<&str> = placement.streamed.iter().map(|unit| &unit.name[..]).collect();
    assert_eq!(order, ["embed", "layers.0", "layers.1", "between", "norm"]);
}

#[test]
fn the_ring_takes_what_the_depth_can_use_and_no_more() {
    let content = Content::layers(&[&[40_000], &[60_000], &[50_000], &[10_000]]);
    let (largest, all) = (content.largest(), content.packed().iter().sum::<u64>());
    for (depth, ring) in
        [(0, 2 * largest), (1, 2 * largest), (2, all.min(3 * largest)), (9, all), (1024, all)]
    {
        let placement = place(&content, 100 * MIB, 0, depth).unwrap();
        assert_eq!(placement.ring_bytes, pages(ring), "depth {depth}");
    }
}

#[test]
fn a_limit_that_is_too_small_is_refused_with_one_that_would_do() {
    let content = Content::new(&[&[50_000], &[60_000]], &[30_000, 500_000]);
    let error = place(&content, 100_000, 10_000, 2).unwrap_err();
    let text = error.to_string();
    let Error::TooLarge { requested_bytes, available_bytes, .. } = error else { panic!("{text}") };
    assert_eq!(available_bytes, 100_000);
    let least = place(&content, requested_bytes, 10_000, 2).unwrap();
    assert_eq!(least.least_limit_bytes, requested_bytes);
    assert_says(&text, &["two slots", "58.75 KiB", &requested_bytes.to_string(), "would do"]);
}

#[test]
fn a_device_smaller_than_the_limit_counts_as_the_limit() {
    let content = Content::layers(&[&[3_000_000], &[1_000_000]]);
    let device = Device::open("host:vram=4MiB").unwrap();
    let options = StreamOptions::new(1 << 40);
    let model = Arc::clone(&content.model);
    let error = StreamedModel::load(&device, model, &content.grouping, options).unwrap_err();
    assert!(matches!(error, Error::TooLarge { available_bytes, .. } if available_bytes == 4 * MIB));
    let memory = device.memory().unwrap();
    assert_eq!(memory.free_bytes, memory.total_bytes);
}

fn sizes(largest: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![Just(0), 1..300usize, 1..largest], 1..4)
}

/// Layers of one to three tensors, and tensors in no layer.
fn shapes(largest: usize) -> impl Strategy<Value = (Vec<Vec<usize>>, Vec<usize>)> {
    let rest = prop::collection::vec(prop_oneof![1..300usize, 1..4 * largest], 0..5);
    (prop::collection::vec(sizes(largest), 1..6), rest)
}

fn content((layers, rest): &(Vec<Vec<usize>>, Vec<usize>)) -> Content {
    let layers: Vec<&[usize]> = layers.iter().map(|sizes| &sizes[..]).collect();
    Content::new(&layers, rest)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_least_limit_works_and_a_page_less_does_not(
        shape in shapes(30_000),
        working in 0..20_000u64,
        depth in 0..6usize,
    ) {
        let content = content(&shape);
        let generous = place(&content, 1 << 40, working, depth).unwrap();
        prop_assert_eq!(generous.residents.len(), shape.1.len(), "everything in no layer stays");
        let least = generous.least_limit_bytes;
        let placement = place(&content, least, working, depth).unwrap();
        prop_assert!(
            placement.resident_bytes + placement.ring_bytes + placement.working_bytes <= least
        );
        prop_assert_eq!(placement.least_limit_bytes, least);
        if let Some(less) = least.checked_sub(PAGE) {
            let refused = place(&content, less, working, depth);
            let Err(Error::TooLarge { requested_bytes, .. }) = refused else {
                panic!("a page less is accepted")
            };
            prop_assert_eq!(requested_bytes, least);
        }
    }

    #[test]
    fn no_placement_exceeds_its_limit_or_loses_a_tensor(
        shape in shapes(30_000),
        limit in 0..600_000u64,
        working in 0..20_000u64,
        depth in 0..6usize,
    ) {
        let content = content(&shape);
        let Ok(placement) = place(&content, limit, working, depth) else { return Ok(()) };
        let Placement { resident_bytes, ring_bytes, working_bytes, .. } = placement;
        prop_assert!(resident_bytes + ring_bytes + working_bytes <= limit);
        prop_assert!(working_bytes >= working);
        prop_assert!(ring_bytes >= 2 * content.largest());
        for bytes in [resident_bytes, ring_bytes, working_bytes] {
            prop_assert_eq!(bytes % PAGE, 0);
        }
        for unit in &placement.streamed {
            prop_assert!(UnitLayout::new(&content.model, unit).unwrap().len_bytes <= ring_bytes);
        }
        let mut all = placement.residents.clone();
        all.extend(placement.streamed.iter().flat_map(|unit| unit.tensors.iter().copied()));
        all.sort_unstable();
        prop_assert_eq!(all, (0..content.model.tensors().len()).collect::<Vec<_>>());
        // What stays is smaller than what does not.
        let len = |at: &usize| content.model.tensors()[*at].len_bytes.next_multiple_of(256);
        let largest_kept = placement.residents.iter().map(len).max().unwrap_or(0);
        let gone = placement.streamed.iter().filter(|unit| unit.name.starts_with("rest"));
        let smallest_gone = gone.map(|unit| len(&unit.tensors[0])).min().unwrap_or(u64::MAX);
        prop_assert!(largest_kept <= smallest_gone);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_running_model_never_reserves_more_than_its_limit(
        shape in shapes(1_200_000),
        pages_above_least in 0..6u64,
        depth in 0..4usize,
        keep in any::<bool>(),
    ) {
        let content = Arc::new(content(&shape));
        ends(move || {
            let (device, driver) = host(128);
            let mut sums = Sums::new(&device);
            let before = device.memory().unwrap().free_bytes;
            let options = |limit| {
                let mut options = StreamOptions::new(limit);
                options.prefetch.depth = depth;
                options.prefetch.keep_in_ram = keep;
                options.loader = LoaderOptions { chunk_bytes: 256 * KIB, slots: 3, ..LoaderOptions::default() };
                options.conf = "pinned_limit_mb:4".parse().unwrap();
                options
            };
            let load = |limit| {
                let model = Arc::clone(&content.model);
                StreamedModel::load(&device, model, &content.grouping, options(limit))
            };
            let Err(Error::TooLarge { requested_bytes: least, .. }) = load(0) else {
                panic!("no limit is no limit")
            };
            assert_eq!(device.memory().unwrap().free_bytes, before);
            assert!(load(least - 1).is_err());
            let limit = least + pages_above_least * 2 * MIB + 12_345;
            let streamed = load(limit).unwrap();
            let compute = stream(&device);
            // All of the working memory can be had beside what streams.
            let working = streamed.allocator().alloc_dedicated::<u8>(2 << 20, &compute).unwrap();
            for _ in 0..2 {
                for unit in 0..streamed.units().len() {
                    sums.enqueue(&streamed.acquire(unit, &compute).unwrap(), &content);
                }
                streamed.finish_pass(&compute).unwrap().into_result().unwrap();
            }
            sums.verify();
            for &at in &streamed.placement().residents {
                let name = &content.model.tensors()[at].name;
                let residents = streamed.residents().unwrap();
                assert!(residents.bytes(name).unwrap() == &content.bytes[name][..], "{name}");
            }
            let peak = streamed.allocator().stats().reserved_bytes.all.peak;
            assert!(peak <= limit, "{peak} of {limit}");
            let taken = before - device.memory().unwrap().free_bytes;
            assert!(taken <= limit, "the device says {taken} of {limit}");
            assert!(streamed.pinned().stats().reserved_peak_bytes <= 4 * MIB);
            streamed.allocator().check().unwrap();
            streamed.pinned().check().unwrap();
            drop((working, streamed, driver));
        });
    }
}
