//! What goes wrong with a vendor's driver before any work is done, and when a device is lost:
//! an error each time that says what, no panic, nothing kept.

#[path = "support/fake.rs"]
mod fake;

use std::time::Duration;

use fake::{FakeDriver, Vendor, fake_cuda, fake_hip};
use riverbed::base::Error;
use riverbed::device::{Device, Kernel, Priority, Stream};

const BOTH: [Vendor; 2] = [Vendor::Cuda, Vendor::Hip];

fn fake(vendor: Vendor, settings: &str, without: &[&str]) -> FakeDriver {
    FakeDriver::new(vendor, settings, without)
}

/// The text of the error that opening gives.
fn refused(fake: &FakeDriver) -> String {
    let error = Device::open(&fake.device_text()).expect_err("it cannot be opened");
    fake.assert_clean();
    error.to_string()
}

#[test]
fn a_library_that_is_not_there_or_none_at_all_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "no library").unwrap();
    for kind in ["cuda", "hip"] {
        let missing = Device::open(&format!("{kind}:0,library=/no/such/driver.so")).unwrap_err();
        assert!(missing.to_string().contains("/no/such/driver.so"), "{missing}");
        let text = format!("{kind}:0,library={}", file.path().display());
        let wrong = Device::open(&text).unwrap_err().to_string();
        assert!(wrong.contains(file.path().to_str().unwrap()), "{wrong}");
    }
}

#[test]
fn a_machine_without_devices_says_so() {
    for (vendor, statuses) in [(Vendor::Cuda, &[100][..]), (Vendor::Hip, &[100, 101])] {
        for status in statuses {
            let text = refused(&fake(vendor, &format!("count={status}"), &[]));
            assert!(text.contains("there is no device"), "{text}");
        }
        let text = refused(&fake(vendor, "devices=0", &[]));
        assert!(text.contains("there is no device"), "{text}");
    }
    let text = refused(&fake_cuda("init=100"));
    assert!(text.contains("there is no device"), "{text}");
}

#[test]
fn a_device_number_beyond_the_last_is_refused_with_those_there_are() {
    for vendor in BOTH {
        let fake = fake(vendor, "devices=2", &[]);
        let text = fake.device_text().replacen(":0", ":2", 1);
        let error = Device::open(&text).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(":0 to "), "{error}");
        let second = Device::open(&fake.device_text().replacen(":0", ":1", 1)).unwrap();
        assert!(second.info().name.contains(":1"));
        drop(second);
        fake.assert_clean();
    }
}

#[test]
fn statuses_nobody_knows_are_numbers_in_errors() {
    let fakes = [fake_cuda("init=4242"), fake_cuda("count=4242"), fake_hip("count=4242")];
    for fake in fakes {
        let text = refused(&fake);
        assert!(text.contains("4242"), "{text}");
    }
}

#[test]
fn every_call_of_opening_that_fails_is_named() {
    for vendor in BOTH {
        let mut named = 0;
        for nth in 1.. {
            let fake = fake(vendor, "version=71460850,fail=any@1000000/1", &[]);
            fake.set(&format!("heal=now,fail=any@{nth}/4242"));
            match Device::open(&fake.device_text()) {
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains("4242"), "call {nth}: {text}");
                    named += 1;
                }
                // A self-test that fails, or a name that is not to be had, costs that alone.
                Ok(device) => drop(device),
            }
            assert!(riverbed::device::settle(Duration::from_secs(20)), "call {nth}");
            let report = fake.report();
            assert!(report.misuses.is_empty(), "call {nth}: {:#?}", report.misuses);
            // Giving back is what failed: there is nothing left to do.
            let giving_back = |failed: &fake::Failed| {
                ["Release", "Free", "Destroy"].iter().any(|word| failed.call.contains(word))
            };
            if !report.last_failed.as_ref().is_some_and(giving_back) {
                assert!(report.leaks.is_empty(), "call {nth}: {:?}", report.leaks);
            }
            if report.calls_total < nth {
                break;
            }
        }
        assert!(named >= 5, "{vendor:?}: only {named} failing calls were noticed");
    }
}

#[test]
fn functions_an_old_driver_lacks_cost_what_they_are_for() {
    let lacks = |vendor, symbols: &[&str]| {
        let fake = fake(vendor, "", symbols);
        let device = Device::open(&fake.device_text()).unwrap();
        let found = device.driver_info().unwrap().clone();
        for symbol in symbols {
            let named = found.missing.iter().any(|(name, _)| name == symbol);
            assert!(named, "{symbol} of {:?}", found.missing);
        }
        let info = device.info().clone();
        // What is left works.
        let stream = Stream::new(&device, Priority::High).unwrap();
        let memory = device.driver().alloc(4096).unwrap();
        let fill = Kernel::Fill { dst: memory, bytes: 4096, value: 7 };
        // SAFETY: the memory is freed after the stream is synchronized.
        unsafe { device.driver().launch(stream.id(), &fill) }.unwrap();
        stream.launch_host(Box::new(|| ())).unwrap();
        let gate = riverbed::device::Gate::new(&device).unwrap();
        stream.wait_gate(&gate, 1).unwrap();
        gate.open(1).unwrap();
        stream.synchronize().unwrap();
        // SAFETY: nothing is in flight.
        unsafe { device.driver().free(memory) }.unwrap();
        drop((gate, stream, device));
        fake.assert_clean();
        info
    };
    assert!(!lacks(Vendor::Cuda, &["cuMemMap"]).virtual_memory);
    assert!(!lacks(Vendor::Cuda, &["cuMemPoolCreate"]).memory_pools);
    lacks(Vendor::Cuda, &["cuStreamWaitValue64_v2"]);
    lacks(Vendor::Cuda, &["cuThreadExchangeStreamCaptureMode"]);
    lacks(Vendor::Cuda, &["cuGetErrorName", "cuDeviceGetPCIBusId"]);
    lacks(Vendor::Hip, &["hipLaunchHostFunc"]);
    assert!(!lacks(Vendor::Hip, &["hipMemPoolCreate"]).memory_pools);
    let old = fake_cuda("version=11000");
    let device = Device::open(&old.device_text()).unwrap();
    assert!(!device.info().pool_caps, "{:?}", device.info());
}

#[test]
fn a_driver_without_what_everything_needs_is_refused_by_the_functions_name() {
    for (vendor, symbol) in [
        (Vendor::Cuda, "cuDevicePrimaryCtxRetain"),
        (Vendor::Cuda, "cuMemAlloc_v2"),
        (Vendor::Hip, "hipMalloc"),
        (Vendor::Hip, "hipGetDevice"),
    ] {
        let text = refused(&fake(vendor, "", &[symbol]));
        assert!(text.contains(symbol), "{text}");
    }
}

#[test]
fn hip_uses_what_is_known_to_break_only_where_it_is_proven() {
    let open = |settings: &str, more: &str| {
        let fake = fake_hip(settings);
        let device = Device::open(&format!("{}{more}", fake.device_text())).unwrap();
        let info = device.info().clone();
        let notes = device.driver_info().unwrap().notes.join("; ");
        drop(device);
        fake.assert_clean();
        (info.virtual_memory, info.memory_pools, notes)
    };
    let new = "version=71460850";
    let (virtual_memory, pools, notes) = open("", "");
    assert!(!virtual_memory && !pools && notes.contains("before version 7.0"), "{notes}");
    let (virtual_memory, pools, notes) = open(new, "");
    assert!(virtual_memory && !pools && notes.contains("pools=on"), "{notes}");
    assert!(open(new, ",pools=on").1);
    assert!(open("", ",vmm=on").0, "who asks for it gets it, once the self-test has passed");
    assert!(!open("version=50221153", ",vmm=on").0, "structs were others then");
    for broken in ["vmm_keeps=on", "vmm_stale=on"] {
        let (virtual_memory, _, notes) = open(&format!("{new},{broken}"), ",vmm=on");
        assert!(!virtual_memory && notes.contains("self-test failed"), "{broken}: {notes}");
    }
    assert!(open(&format!("{new},access_many=off"), "").0, "access is set page by page");
    let (_, pools, notes) = open(&format!("{new},malloc_async=off"), ",pools=on");
    assert!(!pools && notes.contains("self-test failed"), "{notes}");
}

#[test]
fn a_lost_device_answers_every_call_with_an_error_and_can_be_given_up() {
    for vendor in BOTH {
        let fake = fake(vendor, "", &[]);
        let device = Device::open(&fake.device_text()).unwrap();
        let stream = Stream::new(&device, Priority::Normal).unwrap();
        let event = riverbed::device::Event::new(&device).unwrap();
        let gate = riverbed::device::Gate::new(&device).unwrap();
        let memory = device.driver().alloc(4096).unwrap();
        fake.set("lost=any@1/700");
        let errors = [
            device.driver().alloc(4096).map(drop).unwrap_err(),
            // SAFETY: nothing is in flight.
            unsafe { device.driver().free(memory) }.unwrap_err(),
            device.driver().alloc_pinned(4096).map(drop).unwrap_err(),
            device
                .driver()
                .record_event(
                    device.driver().create_event(false).unwrap_or_else(
                        // SAFETY: only handed to a call that a lost device refuses.
                        |_| unsafe { riverbed::device::EventId::from_raw(1 << 40) },
                    ),
                    stream.id(),
                )
                .unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.status, 700, "{error}");
        }
        assert!(stream.synchronize().is_err());
        assert!(stream.wait_gate(&gate, 1).is_err());
        assert!(event.query().is_err());
        assert!(device.memory().is_err());
        drop((gate, event, stream, device));
    }
}
