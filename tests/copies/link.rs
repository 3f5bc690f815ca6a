//! Calibration: on the simulator the profile's figures come back; on the host device something
//! plausible does; when a call fails nothing is left behind.

use std::time::Duration;

use riverbed::base::DeviceError;
use riverbed::device::sim::SimDriver;
use riverbed::device::{Call, Device, Driver as _};
use riverbed::transfer::{Transfer, TransferOptions, calibrate};

use crate::streaming::{MIB, ends, host};
use crate::{bench_with, by_caller};

#[track_caller]
fn near(what: &str, found: f64, wanted: f64) {
    assert!((found / wanted - 1.0).abs() < 0.02, "{what}: {found}, not {wanted}");
}

#[test]
fn a_simulated_link_is_what_its_profile_says() {
    for card in ["h100", "rtx4090", "rtx3060", "h100,h2d=2GB/s,d2h=1GB/s"] {
        let driver = SimDriver::new("sim", format!("sim:{card}").parse().unwrap()).unwrap();
        let device = Device::from_driver(driver.clone());
        let link = calibrate(&device, Duration::from_millis(5)).unwrap();
        let profile = driver.profile();
        let (up, down) = (profile.h2d_gb_per_s.value * 1e9, profile.d2h_gb_per_s.value * 1e9);
        near("h2d", link.h2d_bytes_per_second as f64, up);
        near("d2h", link.d2h_bytes_per_second as f64, down);
        near("h2d beside d2h", link.h2d_beside_d2h_bytes_per_second as f64, up);
        near("d2h beside h2d", link.d2h_beside_h2d_bytes_per_second as f64, down);
        let call_ns = profile.cost(Call::CopyH2d).unwrap().ns(0) as f64;
        near("a call", link.per_copy_overhead_ns as f64, call_ns);
        // From before the mark and the copy are enqueued to the start of the copy.
        let mark_ns = profile.cost(Call::RecordEvent).unwrap().ns(0);
        let most = profile.start_us.value * 1e3 + call_ns + mark_ns as f64;
        let latency = link.h2d_latency_ns as f64;
        assert!(latency >= 0.98 * profile.start_us.value * 1e3 && latency <= 1.02 * most);
        assert_eq!(link.pageable_h2d_bytes_per_second, None);
        assert_eq!(driver.calls().get(Call::Alloc), driver.calls().get(Call::Free));
        assert_eq!(device.memory().unwrap().free_bytes, device.info().total_bytes);
    }
}

#[test]
fn a_fast_link_is_measured_in_milliseconds_and_a_slow_one_within_few_rounds() {
    let taken = |card: &str| {
        let device = Device::open(card).unwrap();
        let link = calibrate(&device, Duration::from_millis(5)).unwrap();
        (link.taken_ns, link.rounds)
    };
    let (fast_ns, rounds) = taken("sim:h100");
    assert!(fast_ns < 10_000_000 && rounds >= 2, "{fast_ns} ns");
    assert_eq!(taken("sim:h100,h2d=100MB/s").1, 2);
}

#[test]
fn a_host_device_has_rates_and_its_memory_is_given_back() {
    ends(|| {
        let (device, _) = host(32);
        let link = calibrate(&device, Duration::ZERO).unwrap();
        for rate in [link.h2d_bytes_per_second, link.d2h_bytes_per_second] {
            assert!(rate > 10 * MIB, "{link:?}");
        }
        let staging = link.staging_bytes_per_second.unwrap();
        assert!(link.pageable_h2d_bytes_per_second.unwrap() <= staging);
        assert!((2 * MIB..=8 * MIB).contains(&link.chunk_bytes));
        assert_eq!((link.rounds, link.copied_bytes), (2, 3 * 34 * MIB));
        assert_eq!(device.memory().unwrap().free_bytes, 32 * MIB);
    });
}

#[test]
fn every_call_may_fail_and_nothing_is_left() {
    for nth in 1.. {
        let (device, driver) = host(32);
        driver.faults().fail_nth(None, nth, DeviceError::UNKNOWN);
        let outcome = calibrate(&device, Duration::ZERO);
        let left = driver.faults().clear();
        if left > 0 {
            assert!(nth > 50 && outcome.is_ok(), "{nth} calls");
            break;
        }
        let calls = device.calls();
        // What failed at the very end, giving back, is logged and cannot be told.
        if outcome.is_err() {
            assert_eq!(device.memory().unwrap().free_bytes, 32 * MIB, "call {nth}");
            assert!(calls.get(Call::FreePinned) == 1 || calls.get(Call::AllocPinned) <= 1);
        }
    }
    let (device, _) = host(8);
    assert!(calibrate(&device, Duration::ZERO).is_err(), "no room for the copies");
}

#[test]
fn a_transfer_that_knows_its_link_begins_with_the_right_chunks() {
    let bench = bench_with(&by_caller());
    let options = TransferOptions { chunk_bytes: None, ..by_caller() };
    let transfer = Transfer::with_options(&bench.device, &options).unwrap();
    let fast = calibrate(&Device::open("sim:h100").unwrap(), Duration::ZERO).unwrap();
    transfer.assume(&fast);
    assert_eq!(transfer.progress().h2d.link_bytes_per_second, fast.h2d_bytes_per_second);
    assert_eq!(fast.chunk_bytes, 5 * MIB);
}
