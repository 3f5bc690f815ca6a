//! Offline packing: what is found is valid, optimal where it says so, and the same every time.

use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use riverbed::pack::{Buffer, Options, Verdict, Watch, pack, verify};

/// The least height of any packing: some order of stacking gives it.
fn least_height(buffers: &[Buffer], offsets: &mut Vec<Option<u64>>) -> u64 {
    let pairs = buffers.iter().zip(offsets.iter());
    let placed: Vec<(Buffer, u64)> =
        pairs.filter_map(|(buffer, offset)| Some((*buffer, (*offset)? + buffer.bytes))).collect();
    if placed.len() == buffers.len() {
        return placed.iter().map(|&(_, end)| end).max().unwrap_or(0);
    }
    let mut least = u64::MAX;
    for at in (0..buffers.len()).filter(|&at| offsets[at].is_none()).collect::<Vec<_>>() {
        let below = placed.iter().filter(|(other, _)| other.overlaps(&buffers[at]));
        offsets[at] = Some(below.map(|&(_, end)| end).max().unwrap_or(0));
        least = least.min(least_height(buffers, offsets));
        offsets[at] = None;
    }
    least
}

fn buffers(count: usize, moments: u64, bytes_max: u64) -> impl Strategy<Value = Vec<Buffer>> {
    let buffer = (0..moments, 1..=moments, 1..=bytes_max).prop_map(|(lower, life, bytes)| Buffer {
        lower,
        upper: lower + life,
        bytes,
    });
    prop::collection::vec(buffer, 0..=count)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn small_problems_are_packed_as_low_as_trying_everything_does(
        buffers in buffers(6, 6, 5),
    ) {
        let packing = pack(&buffers, &Options::default()).unwrap();
        verify(&buffers, &packing.offsets, packing.height_bytes).unwrap();
        let least = least_height(&buffers, &mut vec![None; buffers.len()]);
        prop_assert_eq!(packing.height_bytes, least);
        prop_assert!(packing.bound_bytes <= least);
        prop_assert!(packing.verdict == Verdict::Optimal);
        if least > 0 {
            let mut options = Options::default();
            options.capacity_bytes = Some(least - 1);
            prop_assert!(pack(&buffers, &options).unwrap().verdict == Verdict::Impossible);
        }
    }

    #[test]
    fn any_problem_gets_a_valid_packing_on_any_number_of_threads(
        buffers in buffers(60, 20, 1000),
        align_bytes in 1_u64..70,
    ) {
        let mut options = Options::default();
        (options.align_bytes, options.threads, options.budget_steps) = (align_bytes, 1, 1_000_000);
        let packing = pack(&buffers, &options).unwrap();
        verify(&buffers, &packing.offsets, packing.height_bytes).unwrap();
        prop_assert!(packing.offsets.iter().all(|offset| offset % align_bytes == 0));
        prop_assert!(packing.bound_bytes <= packing.height_bytes);
        options.threads = 3;
        prop_assert_eq!(pack(&buffers, &options).unwrap(), packing);
    }

    #[test]
    fn any_numbers_at_all_are_packed_or_refused(
        numbers in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..12),
        align_bytes in any::<u64>(),
    ) {
        let buffers: Vec<Buffer> =
            numbers.iter().map(|&(lower, upper, bytes)| Buffer { lower, upper, bytes }).collect();
        let mut options = Options::default();
        (options.align_bytes, options.budget_steps) = (align_bytes, 1000);
        if let Ok(packing) = pack(&buffers, &options) {
            verify(&buffers, &packing.offsets, packing.height_bytes).unwrap();
        }
        // Huge sizes and times that are valid.
        let largest = i64::MAX as u64 / 16;
        let valid = numbers.iter().filter(|(lower, upper, _)| lower < upper);
        let valid: Vec<Buffer> = valid
            .map(|&(lower, upper, bytes)| Buffer { lower, upper, bytes: bytes % largest + 1 })
            .collect();
        let packing = pack(&valid, &Options::default()).unwrap();
        verify(&valid, &packing.offsets, packing.height_bytes).unwrap();
    }
}

#[test]
fn a_bound_above_the_peak_load_is_proved_by_search() {
    let life = |(lower, upper, bytes)| Buffer { lower, upper, bytes };
    let found_by_chance =
        [(0, 1, 3), (0, 2, 2), (1, 4, 2), (1, 3, 1), (2, 4, 1), (2, 3, 1), (3, 5, 2), (4, 5, 3)];
    let buffers = found_by_chance.map(life);
    assert_eq!(least_height(&buffers, &mut vec![None; 8]), 6);
    let packing = pack(&buffers, &Options::default()).unwrap();
    assert_eq!((packing.height_bytes, packing.bound_bytes), (6, 6));
    assert_eq!(packing.verdict, Verdict::Optimal);
    let mut options = Options::default();
    options.capacity_bytes = Some(5);
    assert_eq!(pack(&buffers, &options).unwrap().verdict, Verdict::Impossible);
}

fn instance(name: &str) -> Vec<Buffer> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/packing");
    let text = std::fs::read_to_string(format!("{dir}/{name}.1048576.csv")).unwrap();
    let row = |line: &str| {
        let fields: Vec<u64> = line.split(',').map(|field| field.parse().unwrap()).collect();
        Buffer { lower: fields[1], upper: fields[2], bytes: fields[3] }
    };
    text.lines().skip(1).map(row).collect()
}

#[test]
fn every_challenging_instance_fits_its_capacity() {
    for name in ["A", "C", "D", "E", "G", "I", "J", "K"] {
        let buffers = instance(name);
        let mut options = Options::default();
        options.capacity_bytes = Some(1 << 20);
        let packing = pack(&buffers, &options).unwrap();
        assert!(matches!(packing.verdict, Verdict::Optimal | Verdict::Fits), "{name}");
        verify(&buffers, &packing.offsets, 1 << 20).unwrap();
    }
}

#[test]
fn one_is_packed_at_its_bound_without_being_given_a_capacity() {
    let buffers = instance("C");
    let packing = pack(&buffers, &Options::default()).unwrap();
    assert_eq!((packing.height_bytes, packing.verdict), (1_039_360, Verdict::Optimal));
}

#[test]
fn the_best_so_far_is_given_when_the_work_is_ended_from_outside() {
    let buffers = instance("D");
    let cancelled = Arc::new(Watch::new());
    cancelled.cancel();
    let mut options = Options::default();
    options.watch = Some(Arc::clone(&cancelled));
    let early = pack(&buffers, &options).unwrap();
    verify(&buffers, &early.offsets, early.height_bytes).unwrap();
    assert_eq!((early.verdict, early.steps), (Verdict::Best, 0));
    assert_eq!(cancelled.best_bytes(), early.height_bytes);
    let mut options = Options::default();
    options.deadline = Some(Instant::now());
    assert_eq!(pack(&buffers, &options).unwrap().offsets, early.offsets);
}

#[test]
fn a_large_problem_is_searched_where_it_is_full_only() {
    // Waves that each fill the memory, over weights, with a tail of small ones everywhere.
    let mut buffers = Vec::new();
    for wave in 0..400 {
        let start = wave * 10;
        for (from, to, bytes) in [(0, 4, 300), (2, 8, 500), (4, 9, 250), (6, 9, 450), (9, 10, 90)] {
            let bytes = bytes + wave % 7 * 10;
            buffers.push(Buffer { lower: start + from, upper: start + to, bytes });
        }
    }
    for weight in 0..20 {
        buffers.push(Buffer { lower: weight, upper: 4000, bytes: 1000 });
    }
    let packing = pack(&buffers, &Options::default()).unwrap();
    verify(&buffers, &packing.offsets, packing.height_bytes).unwrap();
    assert_eq!(packing.verdict, Verdict::Optimal);
}

#[test]
fn what_makes_no_sense_is_refused_with_its_number() {
    let good = Buffer { lower: 0, upper: 1, bytes: 1 };
    for (bad, words) in [
        (Buffer { bytes: 0, ..good }, "bytes of buffer 1: '0'"),
        (Buffer { lower: 1, ..good }, "lifetime of buffer 1: '1..1'"),
        (Buffer { bytes: u64::MAX, ..good }, "bytes of buffer 1"),
    ] {
        let error = pack(&[good, bad], &Options::default()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let mut options = Options::default();
    options.align_bytes = 0;
    assert!(pack(&[good], &options).unwrap_err().to_string().contains("align_bytes"));
    assert_eq!(pack(&[], &Options::default()).unwrap().height_bytes, 0);
}
