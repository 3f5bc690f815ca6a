//! The simulator: virtual time, prices and books that no other device has.

#[path = "support/mod.rs"]
mod support;

use riverbed::base::DeviceError;
use riverbed::device::sim::{Profile, SimDriver, SimSpec};
use riverbed::device::{Call, Device, Driver, Event, Gate};

use support::{MIB, Memory, Pinned, Random, status, stream};

const GIB: u64 = 1 << 30;

fn sim(settings: &str) -> Device {
    Device::open(&format!("sim:{settings}")).unwrap()
}

fn now(device: &Device) -> u64 {
    device.virtual_ns().unwrap()
}

/// Virtual nanoseconds that `work` takes.
fn taken(device: &Device, work: impl FnOnce()) -> u64 {
    let before = now(device);
    work();
    now(device) - before
}

fn price(card: &str, call: Call, bytes: u64) -> u64 {
    Profile::built_in(card).unwrap().cost(call).unwrap().ns(bytes)
}

#[test]
fn only_the_simulator_has_a_virtual_clock() {
    assert_eq!(Device::open("host:vram=2MiB").unwrap().virtual_ns(), None);
    let device = sim("rtx3060");
    assert_eq!(device.virtual_ns(), Some(0));
    assert_eq!(device.info().total_bytes, 12 * GIB);
    assert!(device.info().simulated && !device.info().host_accessible);
}

#[test]
fn each_call_costs_what_the_profile_says() {
    let device = sim("a100");
    let driver = device.driver();
    let page = 64 * MIB;
    let mut pages = Vec::new();
    let space = driver.reserve(90 * GIB).unwrap();
    assert_eq!(now(&device), price("a100", Call::Reserve, 0));
    let created = taken(&device, || {
        pages = (0..4).map(|_| driver.create_page(page).unwrap()).collect();
    });
    assert_eq!(created, 4 * price("a100", Call::CreatePage, page));
    let mapped = taken(&device, || driver.map_many(space, &pages).unwrap());
    let access = price("a100", Call::SetAccess, 4 * page);
    assert_eq!(mapped, 4 * price("a100", Call::Map, page) + access);
    assert_eq!(device.calls().time_ns(Call::CreatePage), created);
    assert_eq!(device.calls().time_ns(Call::SetAccess), access);
    let all: u64 = Call::ALL.iter().map(|&call| device.calls().time_ns(call)).sum();
    assert_eq!(all, now(&device), "all host time went into calls");
}

#[test]
fn a_call_that_fails_costs_its_base_and_nothing_more() {
    let device = sim("a100");
    let failed = taken(&device, || drop(device.driver().alloc(1 << 50).unwrap_err()));
    assert_eq!(failed, price("a100", Call::Alloc, 0));
}

#[test]
fn copies_take_the_links_time_and_enqueueing_takes_none_of_it() {
    let device = sim("rtx4090,h2d=10GB/s");
    let stream = stream(&device);
    let (memory, pinned) = (Memory::new(&device, 10_000_000), Pinned::new(&device, 10_000_000));
    let issued = taken(&device, || {
        for _ in 0..3 {
            // SAFETY: both ends live past `synchronize`.
            unsafe {
                device.driver().copy_h2d(stream.id(), memory.ptr, pinned.address(), 10_000_000)
            }
            .unwrap();
        }
    });
    assert_eq!(issued, 3 * price("rtx4090", Call::CopyH2d, 0));
    let waited = taken(&device, || stream.synchronize().unwrap());
    // 8 us from the first issue to its start, then 1 ms each, less what issuing took since.
    assert_eq!(waited, 3_000_000 + 8_000 - 2 * price("rtx4090", Call::CopyH2d, 0));
    assert_eq!(device.calls().time_ns(Call::SynchronizeStream), waited);
}

#[test]
fn copies_of_two_streams_share_the_link_and_two_directions_do_not() {
    let device = sim("rtx4090,h2d=1GB/s,d2h=1GB/s");
    let (one, two, back) = (stream(&device), stream(&device), stream(&device));
    let (memory, pinned) = (Memory::new(&device, 4_000_000), Pinned::new(&device, 4_000_000));
    let driver = device.driver();
    let both = taken(&device, || {
        // SAFETY: all ends live past `synchronize`; no bytes are moved.
        unsafe {
            driver.copy_h2d(one.id(), memory.ptr, pinned.address(), 4_000_000).unwrap();
            driver.copy_h2d(two.id(), memory.ptr, pinned.address(), 4_000_000).unwrap();
            driver.copy_d2h(back.id(), pinned.address(), memory.ptr, 4_000_000).unwrap();
        }
        back.synchronize().unwrap();
        two.synchronize().unwrap();
        one.synchronize().unwrap();
    });
    assert!((8_000_000..8_050_000).contains(&both), "{both} ns");
}

#[test]
fn kernels_run_side_by_side_and_hide_behind_copies() {
    let device = sim("h100,h2d=1GB/s");
    let (compute, other, copies) = (stream(&device), stream(&device), stream(&device));
    let (memory, pinned) = (Memory::new(&device, 1_000_000), Pinned::new(&device, 1_000_000));
    let all = taken(&device, || {
        compute.busy(1_000_000).unwrap();
        other.busy(900_000).unwrap();
        // SAFETY: both ends live past `synchronize`.
        unsafe { device.driver().copy_h2d(copies.id(), memory.ptr, pinned.address(), 1_000_000) }
            .unwrap();
        for stream in [&compute, &other, &copies] {
            stream.synchronize().unwrap();
        }
    });
    assert!((1_000_000..1_050_000).contains(&all), "{all} ns");
}

#[test]
fn an_event_is_reached_when_host_time_is() {
    let driver = SimDriver::new("sim", SimSpec::new(Profile::built_in("a100").unwrap())).unwrap();
    let device = Device::from_driver(driver.clone());
    let stream = stream(&device);
    let event = Event::new(&device).unwrap();
    event.record(&stream).unwrap();
    assert!(event.query().unwrap(), "nothing is enqueued before it");
    stream.busy(5_000_000).unwrap();
    event.record(&stream).unwrap();
    assert!(!event.query().unwrap());
    driver.pass(4_900_000);
    assert!(!event.query().unwrap());
    driver.pass(200_000);
    assert!(event.query().unwrap());
    let waited = taken(&device, || event.synchronize().unwrap());
    assert_eq!(waited, price("a100", Call::SynchronizeEvent, 0), "there is nothing to wait for");
}

#[test]
fn waits_carry_time_from_stream_to_stream() {
    let device = sim("a100");
    let (first, second) = (stream(&device), stream(&device));
    let gate = Gate::new(&device).unwrap();
    let (start, middle, end) = (
        Event::with_timing(&device).unwrap(),
        Event::with_timing(&device).unwrap(),
        Event::with_timing(&device).unwrap(),
    );
    start.record(&first).unwrap();
    second.wait(&middle).unwrap(); // never recorded: holds nobody up
    first.wait_gate(&gate, 1).unwrap();
    first.busy(1_000_000).unwrap();
    middle.record(&first).unwrap();
    second.wait(&middle).unwrap();
    second.busy(500_000).unwrap();
    end.record(&second).unwrap();
    assert!(!end.query().unwrap());
    let opened = taken(&device, || gate.open(1).unwrap());
    second.synchronize().unwrap();
    assert_eq!(end.elapsed_ns_since(&middle).unwrap(), 500_000);
    assert!(middle.elapsed_ns_since(&start).unwrap() >= 1_000_000 + opened);
}

#[test]
fn freeing_waits_for_the_device() {
    let device = sim("a100");
    let stream = stream(&device);
    let memory = Memory::new(&device, MIB);
    stream.busy(2_000_000).unwrap();
    let freed = taken(&device, || drop(memory));
    assert!(freed > 1_900_000, "{freed} ns");
}

#[test]
fn the_same_work_gives_the_same_clock() {
    let run = || {
        let device = sim("rtx3060,copy_engines=2");
        let driver = device.driver();
        let streams: Vec<_> = (0..4).map(|_| stream(&device)).collect();
        let events: Vec<_> = (0..4).map(|_| Event::new(&device).unwrap()).collect();
        let gate = Gate::new(&device).unwrap();
        let (memory, pinned) = (Memory::new(&device, MIB), Pinned::new(&device, MIB as usize));
        let mut random = Random::new(7);
        for round in 0..2_000 {
            let (one, two) = (random.below(4) as usize, random.below(4) as usize);
            match random.below(7) {
                0 => streams[one].busy(random.below(100_000)).unwrap(),
                1 => events[two].record(&streams[one]).unwrap(),
                2 => streams[one].wait(&events[two]).unwrap(),
                3 => drop(events[two].query().unwrap()),
                4 => streams[one].wait_gate(&gate, round / 50).unwrap(),
                5 => gate.open(round / 50).unwrap(),
                // SAFETY: both ends live past `synchronize`.
                _ => unsafe {
                    let bytes = random.below(MIB);
                    driver.copy_h2d(streams[one].id(), memory.ptr, pinned.address(), bytes)
                }
                .unwrap(),
            }
        }
        gate.open(riverbed::device::GATE_VALUES - 1).unwrap();
        streams.iter().for_each(|stream| stream.synchronize().unwrap());
        now(&device)
    };
    assert_eq!(run(), run());
}

#[test]
fn address_space_is_plentiful_and_never_handed_out_twice() {
    let device = sim("80GiB");
    let driver = device.driver();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..10_000 {
        let at = driver.reserve(90 * GIB).unwrap();
        assert!(at.0 != 0 && at.0.is_multiple_of(2 * MIB) && seen.insert(at));
        // SAFETY: reserved just now.
        unsafe { driver.release(at, 90 * GIB) }.unwrap();
    }
    let held: Vec<_> = (0..1_000).map(|_| driver.reserve(90 * GIB).unwrap()).collect();
    assert!(held.iter().all(|&at| seen.insert(at)));
}

#[test]
fn capacity_counts_whole_pages() {
    let device = sim("80GiB");
    let free = || device.memory().unwrap().free_bytes;
    let before = free();
    let memory = Memory::new(&device, 2 * MIB + 1);
    assert_eq!(before - free(), 4 * MIB);
    drop(memory);
    let all = device.driver().alloc(80 * GIB).unwrap();
    assert_eq!(free(), 0);
    assert_eq!(status(device.driver().alloc(1)), DeviceError::OUT_OF_MEMORY);
    // SAFETY: from `alloc`, used by nobody.
    unsafe { device.driver().free(all) }.unwrap();
    assert_eq!(free(), before);
}

#[test]
fn a_card_without_virtual_memory_refuses_its_calls() {
    let device = sim("rtx4090,vmm=off");
    let driver = device.driver();
    assert!(!device.info().virtual_memory);
    assert_eq!(status(driver.reserve(2 * MIB)), DeviceError::NOT_SUPPORTED);
    assert_eq!(status(driver.create_page(2 * MIB)), DeviceError::NOT_SUPPORTED);
    Memory::new(&device, 1);
}

#[test]
fn a_card_without_pools_refuses_their_calls() {
    let device = sim("rtx4090,pools=off");
    assert!(!device.info().memory_pools);
    assert_eq!(status(device.driver().create_pool(0)), DeviceError::NOT_SUPPORTED);
    assert_eq!(device.calls().get(Call::CreatePool), 1);
}

#[test]
fn a_card_without_pool_caps_refuses_them_and_no_more() {
    let device = sim("rtx4090,pool_caps=off");
    assert!(device.info().memory_pools && !device.info().pool_caps);
    assert_eq!(status(device.driver().create_pool(2 * MIB)), DeviceError::NOT_SUPPORTED);
    device.driver().create_pool(0).unwrap();
}

#[test]
fn growing_a_pool_costs_its_pages_and_reuse_does_not() {
    let device = sim("a100");
    let (driver, stream) = (device.driver(), stream(&device));
    let pool = driver.create_pool(0).unwrap();
    let bytes = 64 * MIB;
    let take = || {
        taken(&device, || {
            let ptr = driver.pool_alloc(pool, bytes, stream.id()).unwrap();
            // SAFETY: used by nobody.
            unsafe { driver.pool_free(ptr, stream.id()) }.unwrap();
        })
    };
    let pair = price("a100", Call::PoolAlloc, 0) + price("a100", Call::PoolFree, 0);
    let pages: u64 = [Call::CreatePage, Call::Map, Call::SetAccess]
        .map(|call| price("a100", call, bytes))
        .iter()
        .sum();
    assert_eq!(take(), pair + pages);
    assert_eq!(take(), pair);
    // SAFETY: not used again.
    unsafe { driver.destroy_pool(pool) }.unwrap();
}

#[test]
fn failures_come_on_request() {
    let device = sim("h100,fail=alloc@2,fail=set_access@1");
    let driver = device.driver();
    let before = device.memory().unwrap();
    let memory = Memory::new(&device, 1);
    assert_eq!(status(driver.alloc(1)), DeviceError::UNKNOWN);
    drop(memory);
    let (space, page) = (driver.reserve(2 * MIB).unwrap(), driver.create_page(2 * MIB).unwrap());
    assert_eq!(status(driver.map(space, page)), DeviceError::UNKNOWN);
    // SAFETY: nothing uses them; the failed mapping left nothing behind.
    unsafe {
        assert_eq!(status(driver.unmap(space, 2 * MIB)), DeviceError::INVALID_VALUE);
        driver.map(space, page).unwrap();
        driver.unmap(space, 2 * MIB).unwrap();
        driver.destroy_page(page).unwrap();
        driver.release(space, 2 * MIB).unwrap();
    }
    assert_eq!(device.memory().unwrap(), before);
}

#[test]
fn a_host_function_may_wait_for_a_thread_that_calls_the_driver() {
    let device = sim("a100");
    let stream = stream(&device);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let event = Event::new(&device).unwrap();
        scope.spawn(move || {
            event.query().unwrap();
            sender.send(()).unwrap();
        });
        stream.launch_host(Box::new(move || receiver.recv().unwrap())).unwrap();
        stream.synchronize().unwrap();
    });
}

#[test]
fn a_profile_of_ones_own_is_read_and_a_broken_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("card.json");
    let value = |value: f64| serde_json::json!({"value": value, "source": "test"});
    let mut card = serde_json::json!({
        "description": "a small card",
        "capacity_bytes": {"value": 8_388_608u64, "source": "test"},
        "granularity_bytes": {"value": 65_536, "source": "test"},
        "memory_gb_per_s": value(100.0), "h2d_gb_per_s": value(1.0),
        "d2h_gb_per_s": value(1.0), "copy_engines": {"value": 1, "source": "test"},
        "start_us": value(0.0),
        "costs": {"alloc": {"base_us": 7.0, "source": "test"}},
    });
    std::fs::write(&path, card.to_string()).unwrap();
    let device = sim(&format!("profile={}", path.display()));
    assert_eq!(device.info().total_bytes, 8 * MIB);
    assert_eq!(device.info().granularity_bytes, 65_536);
    let memory = Memory::new(&device, 1);
    assert_eq!(now(&device), 7_000);
    drop(memory);
    card["capacity"] = 1.into();
    std::fs::write(&path, card.to_string()).unwrap();
    let error = Device::open(&format!("sim:profile={}", path.display())).unwrap_err().to_string();
    assert!(error.contains("card.json") && error.contains("`capacity`"), "{error}");
}

#[test]
fn a_driver_goes_with_work_still_waiting() {
    let driver = SimDriver::new("sim", SimSpec::new(Profile::built_in("a100").unwrap())).unwrap();
    let gate = driver.create_gate().unwrap();
    let stream = driver.create_stream(riverbed::device::Priority::Normal).unwrap();
    let (sender, ran) = std::sync::mpsc::channel();
    driver.wait_gate(stream, gate, 1).unwrap();
    driver.launch_host(stream, Box::new(move || sender.send(()).unwrap())).unwrap();
    drop(driver);
    ran.try_recv().expect("what was enqueued runs");
}
