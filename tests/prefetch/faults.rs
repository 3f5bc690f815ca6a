//! Every driver call fails once, one run for each: errors or success, never a hang, wrong bytes
//! or lost memory.

use std::sync::Arc;

use riverbed::device::Driver;
use riverbed::offload::{StreamOptions, StreamedModel};
use riverbed::transfer::LoaderOptions;

use super::streaming::{Content, KIB, MIB, Sums, ends, eventually, host, stream};

/// Loads the model and runs two passes with the `nth` driver call failing; false when that many
/// calls were never made.
fn run(content: &Content, nth: u64, depth: usize, keep: bool) -> (bool, usize) {
    let (device, driver) = host(64);
    let mut sums = Sums::new(&device);
    let compute = stream(&device);
    let mut options = StreamOptions::new(6 * MIB);
    options.prefetch.depth = depth;
    options.prefetch.keep_in_ram = keep;
    options.prefetch.timing = keep || depth == 0;
    options.prefetch.stable_addresses = keep;
    options.loader = LoaderOptions { chunk_bytes: 64 * KIB, slots: 2, ..LoaderOptions::default() };
    options.conf = "pinned_limit_mb:8".parse().unwrap();
    driver.faults().fail_nth(None, nth, 999);
    let mut right = 0;
    let model = Arc::clone(&content.model);
    match StreamedModel::load(&device, model, &content.grouping, options) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(streamed) => {
            for _ in 0..2 {
                for unit in 0..streamed.units().len() {
                    let Ok(lease) = streamed.acquire(unit, &compute) else { continue };
                    let before = sums.len();
                    let enqueued = sums.try_enqueue(&lease, content);
                    // Known only once the stream has run.
                    if compute.synchronize().and_then(|()| compute.synchronize()).is_err()
                        || enqueued.is_err()
                        || lease.status().is_err()
                    {
                        sums.forget(before);
                    }
                }
                let report = streamed.finish_pass(&compute);
                if let Ok(report) = report {
                    // A file that is whole never fails to be read, whatever the driver does.
                    assert!(report.failures.is_empty(), "call {nth}: {:?}", report.failures);
                }
                right += sums.verify();
            }
            streamed.prefetcher().check().unwrap();
            streamed.allocator().check().unwrap();
            streamed.pinned().check().unwrap();
        }
    }
    let struck = driver.faults().clear() == 0;

    drop((sums, compute, device));
    eventually("all device memory is given back", || {
        let memory = driver.memory().unwrap();
        memory.free_bytes == memory.total_bytes
    });
    (struck, right)
}

fn fail_every_call(depth: usize, keep: bool) {
    ends(move || {
        let content = Content::new(&[&[900_000], &[1_000_000], &[70_000, 0], &[1]], &[1000]);
        let (_, all) = run(&content, u64::MAX, depth, keep);
        assert_eq!(all, 2 * 5, "without a failure every tensor is right in both passes");
        let mut runs = 0;
        for nth in 1.. {
            let (struck, right) = run(&content, nth, depth, keep);
            assert!(right <= all);
            if !struck {
                break;
            }
            runs += 1;
        }
        assert!(runs > 100, "only {runs} calls were made");
    });
}

#[test]
fn any_one_failing_call_hangs_lies_and_leaks_nothing_when_loading_ahead() {
    fail_every_call(2, false);
}

#[test]
fn any_one_failing_call_hangs_lies_and_leaks_nothing_when_loading_on_demand() {
    fail_every_call(0, false);
}

#[test]
fn any_one_failing_call_hangs_lies_and_leaks_nothing_when_units_stay_in_ram() {
    fail_every_call(2, true);
}
