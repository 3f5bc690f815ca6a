//! A recorded program on a device whose driver fails: at any one call, at any two, and from any
//! point on as if memory were out. Nothing is lost, the counters stay exact, and what follows is
//! served.

mod support;

use std::path::Path;
use std::sync::Arc;

use riverbed::base::DeviceError;
use riverbed::device::sim::SimDriver;
use riverbed::device::{Call, Device, DevicePtr, Stream};
use riverbed::pool::Allocator;
use riverbed::replay::{OpKind, Trace, read};
use riverbed::{Error, Result};

use support::{MIB, Random, stream, wait_until, wait_until_all_memory_is_back};

/// How much of the trace is run: its start, where segments are taken, and more.
const OPS: usize = 1500;
/// Little enough that requests climb the ladder, and some fail.
const CAPACITY_BYTES: u64 = 1100 * MIB;
/// Every so many blocks are used on another stream.
const USED_ELSEWHERE: usize = 5;

fn trace() -> Trace {
    let name = "tests/data/replay/flux_offload_2streams.csv.gz";
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(name), None).unwrap().remove(0)
}

/// The program, on a device of its own.
struct Run {
    driver: Arc<SimDriver>,
    device: Device,
    allocator: Allocator,
    streams: [Stream; 2],
    live: Vec<Option<(DevicePtr, u64)>>,
    errors: Vec<Error>,
}

impl Run {
    fn new(trace: &Trace, conf: &str) -> Self {
        let spec = format!("sim:vram={CAPACITY_BYTES}").parse().unwrap();
        let driver = SimDriver::new("failing", spec).unwrap();
        let device = Device::from_driver(driver.clone());
        let builder = Allocator::builder(&device).conf_str(conf).unwrap();
        let builder = builder.conf_str("per_process_memory_fraction:0.99").unwrap();
        Self {
            allocator: builder.build().unwrap(),
            streams: [stream(&device), stream(&device)],
            driver,
            device,
            live: vec![None; trace.slots()],
            errors: Vec::new(),
        }
    }

    /// Notes a failure and goes on: every call may fail, and none may break the rest.
    fn step<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }

    fn walk(&mut self, trace: &Trace, what: &str) {
        for (at, op) in trace.ops()[..OPS].iter().enumerate() {
            let (slot, stream) = (op.slot as usize, op.stream as usize);
            if op.kind == OpKind::Alloc {
                let served = self.allocator.alloc_raw(op.bytes, &self.streams[stream]);
                self.live[slot] = self.step(served).map(|ptr| (ptr, op.bytes));
                if at % USED_ELSEWHERE == 0
                    && let Some((ptr, _)) = self.live[slot]
                {
                    self.allocator.record_use_raw(ptr, &self.streams[1 - stream]).unwrap();
                }
            } else if let Some((ptr, _)) = self.live[slot].take() {
                self.free(ptr);
            }
            if at % 1000 == 0 {
                self.check(what);
            }
        }
        self.check(what);
    }

    fn free(&self, ptr: DevicePtr) {
        // SAFETY: the simulated device has no bytes, and nothing is enqueued on the block.
        unsafe { self.allocator.free_raw(ptr) }.expect("a live block can always be freed");
    }

    /// The books are whole, and count what the program holds.
    fn check(&self, what: &str) {
        self.allocator.check().unwrap_or_else(|error| panic!("{what}: {error}"));
        let stats = self.allocator.stats();
        let live = self.live.iter().flatten();
        assert_eq!(stats.allocation.all.current, live.clone().count() as u64, "{what}: {stats:?}");
        if stats.retired_bytes == 0 {
            let requested: u64 = live.map(|(_, bytes)| bytes).sum();
            assert_eq!(stats.requested_bytes.all.current, requested, "{what}: {stats:?}");
        }
        let memory = self.device.memory().map(|memory| memory.total_bytes - memory.free_bytes);
        if let Ok(taken_bytes) = memory {
            assert_eq!(stats.reserved_bytes.all.current, taken_bytes, "{what}: {stats:?}");
        }
    }

    /// Frees everything and goes on without failures; gives how many never struck.
    fn finish(mut self, what: &str) -> usize {
        let unstruck = self.driver.faults().clear();
        while let Some(slot) = self.live.pop() {
            slot.inspect(|&(ptr, _)| self.free(ptr));
        }
        wait_until("blocks in flight come back", || self.allocator.stats().active.all.current == 0);
        self.check(what);
        let stats = self.allocator.stats();
        assert_eq!((stats.retired_bytes, stats.stranded_blocks), (0, 0), "{what}");
        assert_eq!(stats.requested_bytes.all.allocated, stats.requested_bytes.all.freed, "{what}");
        let whole = self.allocator.alloc_raw(1000 * MIB, &self.streams[0]);
        self.free(whole.unwrap_or_else(|error| panic!("{what}, and then: {error}")));
        self.allocator.close().unwrap_or_else(|error| panic!("{what}, at the end: {error}"));
        wait_until_all_memory_is_back(&self.device);
        unstruck
    }

    fn assert_explained(&self, statuses: &[u32], what: &str) {
        for error in &self.errors {
            let explained = match error {
                Error::Device(error) => statuses.contains(&error.status),
                Error::OutOfMemory(_) => true,
                _ => false,
            };
            assert!(explained, "{what}: {error}");
        }
    }
}

/// The policies, with the call that takes memory.
const CONFS: [(&str, Call); 3] = [
    ("max_split_size_mb:64,garbage_collection_threshold:0.9", Call::Alloc),
    ("expandable_segments:True", Call::CreatePage),
    ("policy:planned", Call::CreatePage),
];

const STATUSES: [u32; 2] = [DeviceError::OUT_OF_MEMORY, DeviceError::UNKNOWN];

#[test]
fn any_call_of_a_trace_may_fail() {
    let trace = trace();
    for (status, (conf, _)) in STATUSES.into_iter().flat_map(|one| CONFS.map(|conf| (one, conf))) {
        // Mapping takes many calls that are alike.
        let step = match conf {
            _ if conf.contains("max_split") => 1,
            _ if conf.contains("planned") => 127,
            _ => 61,
        };
        for nth in (1..).step_by(step) {
            let what = format!("'{conf}': call {nth} failing with {status}");
            let mut run = Run::new(&trace, conf);
            run.driver.faults().fail_nth(None, nth, status);
            run.walk(&trace, &what);
            run.assert_explained(&[status], &what);
            if run.finish(&what) > 0 {
                assert!(nth > 150, "only {nth} calls were made");
                break;
            }
        }
    }
}

#[test]
fn any_two_calls_of_a_trace_may_fail() {
    let trace = trace();
    let mut random = Random::new(1);
    for round in 0..100 {
        let (conf, _) = CONFS[round % 2];
        let mut run = Run::new(&trace, conf);
        let failures =
            [(); 2].map(|()| (1 + random.below(500), STATUSES[random.below(2) as usize]));
        for (nth, status) in failures {
            run.driver.faults().fail_nth(None, nth, status);
        }
        let what = format!("'{conf}': failures {failures:?}");
        run.walk(&trace, &what);
        run.assert_explained(&STATUSES, &what);
        run.finish(&what);
    }
}

/// The device has no more memory to give, however much goes back to it.
#[test]
fn memory_may_be_out_from_any_point_on() {
    CONFS.into_iter().for_each(|(conf, call)| memory_may_be_out_under(conf, call));
}

fn memory_may_be_out_under(conf: &str, call: Call) {
    const FAILURES: u64 = 1000;
    let trace = trace();
    let mut first = 1;
    loop {
        let what = format!("'{conf}': no memory from request {first} on");
        let mut run = Run::new(&trace, conf);
        for nth in first..first + FAILURES {
            run.driver.faults().fail_nth(Some(call), nth, DeviceError::OUT_OF_MEMORY);
        }
        run.walk(&trace, &what);
        run.assert_explained(&[DeviceError::OUT_OF_MEMORY], &what);
        let failed = !run.errors.is_empty();
        assert!(failed || first > 1, "{what}: nothing failed");
        if run.finish(&what) == FAILURES as usize {
            assert!(first > 10, "only {first} segments were taken");
            break;
        }
        first += if call == Call::Alloc { 1 } else { 97 };
    }
}
