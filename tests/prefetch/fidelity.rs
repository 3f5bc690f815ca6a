//! A steady pass takes as long as a replay says in which every byte is admitted the moment there is
//! room for it: what planners count with.

use riverbed::prefetch::PrefetchOptions;

use super::paced::{Paced, Stack, flux};
use super::pass_replay::{PassReplay, ReplayUnit};
use super::streaming::{MIB, Random, ends};

/// FLUX.1-dev by this, at a 25 GB/s link by this: durations are the real ones.
const SCALE: u64 = 128;
const LINK: u64 = 25_000_000_000 / SCALE;

/// The mean of passes once they are alike, and what the replay says.
fn measured_and_replayed(
    stacks: &[Stack],
    ring_bytes: u64,
    stays: impl Fn(usize) -> bool,
) -> (f64, f64) {
    let paced = Paced::going_round(stacks, ring_bytes, LINK, PrefetchOptions::default(), stays);
    for _ in 0..6 {
        paced.pass();
    }
    let passes = 6;
    let ns: u64 = (0..passes).map(|_| paced.pass()).sum();
    let units = paced.prefetcher.units();
    let units = units.iter().zip(paced.compute_ns()).map(|((_, bytes), &ns)| ReplayUnit {
        streamed_bytes: *bytes,
        compute_seconds: ns as f64 / 1e9,
    });
    let units = units.collect();
    let replay = PassReplay { units, ring_bytes, bytes_per_second: LINK as f64, prefetch: true };
    paced.prefetcher.check().unwrap();
    // Nothing is left to be copied at the end: nobody would move the clock for it.
    paced.prefetcher.set_wraps(false);
    paced.pass();
    (ns as f64 / passes as f64 / 1e9, replay.steady_seconds().unwrap())
}

#[track_caller]
fn agree(name: &str, stacks: &[Stack], ring_bytes: u64) {
    agree_beside(name, stacks, ring_bytes, |_| false);
}

/// With layers that stay.
#[track_caller]
fn agree_beside(name: &str, stacks: &[Stack], ring_bytes: u64, stays: impl Fn(usize) -> bool) {
    let (measured, replayed) = measured_and_replayed(stacks, ring_bytes, stays);
    println!("{name}, ring {ring_bytes}: {measured:.5} s, replayed {replayed:.5} s");
    let off = (measured / replayed - 1.0).abs();
    assert!(off < 0.01, "{name}, ring {ring_bytes}: {measured} s, replayed {replayed} s");
}

#[test]
fn a_pass_of_flux_takes_what_the_replay_says() {
    ends(|| {
        for ring_mib in [6, 8, 10, 14, 20, 32, 64] {
            agree("flux", &flux(23_800_000_000 / SCALE), ring_mib * MIB);
        }
    });
}

#[test]
fn a_pass_of_which_some_layers_stay_takes_what_the_replay_says() {
    ends(|| {
        let stacks = flux(23_800_000_000 / SCALE);
        agree_beside("every third stays", &stacks, 8 * MIB, |at| at % 3 == 0);
        agree_beside("the last ones stay", &stacks, 14 * MIB, |at| at > 40);
        agree_beside("the first ones stay", &stacks, 20 * MIB, |at| at < 12);
    });
}

#[test]
fn a_pass_of_equal_layers_takes_what_the_replay_says() {
    ends(|| {
        for copy_per_compute in [0.6, 1.0, 1.9] {
            for ring_mib in [4, 6, 8, 14] {
                let layer_bytes = 37 * MIB / 10 / 256 * 256;
                let stack = Stack { layers: 12, layer_bytes, copy_per_compute };
                agree("equal", &[stack], ring_mib * MIB);
            }
        }
    });
}

#[test]
fn a_pass_of_any_layers_takes_what_the_replay_says() {
    ends(|| {
        let mut random = Random::from_env(7);
        for _ in 0..6 {
            let layers = 5 + random.below(12);
            let stack = |random: &mut Random| Stack {
                layers: 1,
                layer_bytes: 256 * (400 + random.below(20_000) as u64),
                copy_per_compute: 0.3 + random.below(30) as f64 / 10.0,
            };
            let stacks: Vec<Stack> = (0..layers).map(|_| stack(&mut random)).collect();
            let largest = stacks.iter().map(|stack| stack.layer_bytes).max().unwrap();
            let least = largest.next_multiple_of(2 * MIB);
            agree("any", &stacks, least + 2 * MIB * random.below(6) as u64);
        }
    });
}
