//! Random short programs: where every block lies, and every statistic after every request.
//!
//! `RIVERBED_PROGRAMS=FILE cargo test --release --test golden` runs the programs of another file,
//! plain or gzipped.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex};

use riverbed::device::{Device, DevicePtr, Gate, Stream};
use riverbed::event::{Recorder, TraceEvent};
use riverbed::pool::{Allocator, PoolStat, Stat, Stats};

use crate::data;
use crate::support::stream;

/// Streams that programs allocate on; one more only uses what is allocated.
const STREAMS: usize = 3;

/// The segments there are, by address, with their bytes, numbered in the order they were taken.
#[derive(Debug, Default)]
struct Segments(Mutex<(BTreeMap<u64, u64>, u64)>);

impl Recorder for Segments {
    fn record(&self, event: &TraceEvent) {
        let (segments, taken) = &mut *self.0.lock().unwrap();
        match event {
            TraceEvent::SegmentAlloc { address, .. } => {
                segments.insert(*address, *taken);
                *taken += 1;
            }
            TraceEvent::SegmentFree { address, .. } => {
                segments.remove(address);
            }
            _ => {}
        }
    }
}

impl Segments {
    /// The segment's number and the offset in it, in units of 512 bytes.
    fn place(&self, ptr: DevicePtr) -> String {
        let (segments, _) = &*self.0.lock().unwrap();
        let (start, number) = segments.range(..=ptr.0).next_back().unwrap();
        format!("{number}+{}", (ptr.0 - start) / 512)
    }
}

/// One program, run step by step.
struct Program {
    what: String,
    allocator: Allocator,
    segments: Arc<Segments>,
    streams: Vec<Stream>,
    user: Stream,
    gate: Gate,
    rounds: u64,
    held: bool,
    live: BTreeMap<u64, DevicePtr>,
    trims: u64,
}

impl Program {
    /// From the line `program NUMBER CAPACITY CONF`.
    fn new(line: &str) -> Self {
        let mut words = line.split(' ').skip(2);
        let capacity: u64 = words.next().unwrap().parse().unwrap();
        let conf = words.next().unwrap_or_default();
        let device = Device::open(&format!("sim:vram={capacity}")).unwrap();
        let segments = Arc::new(Segments::default());
        let builder = Allocator::builder(&device).conf_str(conf).unwrap();
        Self {
            what: line.into(),
            allocator: builder.recorder(segments.clone()).build().unwrap(),
            segments,
            streams: (0..STREAMS).map(|_| stream(&device)).collect(),
            user: stream(&device),
            gate: Gate::new(&device).unwrap(),
            rounds: 0,
            held: false,
            live: BTreeMap::new(),
            trims: 0,
        }
    }

    fn step(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        match words[0] {
            "a" => {
                // There every request looks at what is retired on any stream; here only on its
                // own, and a look at the statistics at everything.
                let _ = self.allocator.stats();
                let stream = &self.streams[number(3) as usize];
                let served = self.allocator.alloc_raw(number(2), stream);
                let place = served.as_ref().map_or("x".into(), |&ptr| self.segments.place(ptr));
                assert_eq!(place, words[4], "{}: where is '{line}'?", self.what);
                self.live.extend(served.map(|ptr| (number(1), ptr)));
                self.compare(line, &words[5..]);
            }
            "f" => self.free(number(1)),
            "r" => {
                self.allocator.record_use_raw(self.live[&number(1)], &self.user).unwrap();
            }
            "h" => {
                self.held = true;
                self.user.wait_gate(&self.gate, self.rounds + 1).unwrap();
            }
            "o" => self.open(),
            "e" => {
                self.allocator.trim();
                self.trims += 1;
                self.compare(line, &words[1..]);
            }
            "p" => self.allocator.reset_peak_stats(),
            other => panic!("{}: there is no step '{other}'", self.what),
        }
    }

    fn free(&mut self, id: u64) {
        let ptr = self.live.remove(&id).unwrap();
        // SAFETY: the simulated device has no bytes, and nothing is enqueued on the block.
        unsafe { self.allocator.free_raw(ptr) }.unwrap();
    }

    fn open(&mut self) {
        self.held = false;
        self.rounds += 1;
        self.gate.open(self.rounds).unwrap();
        self.user.synchronize().unwrap();
    }

    #[track_caller]
    fn compare(&self, line: &str, expected: &[&str]) {
        let found = figures(&self.allocator.stats());
        assert_eq!(found.len(), expected.len(), "{}: '{line}'", self.what);
        for ((name, found), expected) in found.into_iter().zip(expected) {
            let mut expected: u64 = expected.parse().unwrap();
            if name == "num_sync_all_streams" {
                // There every `empty_cache` counts; here only the last rung does.
                expected -= self.trims;
            }
            assert_eq!(found, expected, "{}: {name} after '{line}'", self.what);
        }
        self.allocator.check().unwrap();
    }

    fn finish(mut self) {
        for id in self.live.keys().copied().collect::<Vec<_>>() {
            self.free(id);
        }
        if self.held {
            self.open();
        }
        self.allocator.close().unwrap();
    }
}

/// Every statistic PyTorch has too, in the order of the file.
fn figures(stats: &Stats) -> Vec<(String, u64)> {
    let mut figures = Vec::new();
    let mut add = |name: &str, stat: &Stat| {
        figures.push((format!("{name}, current"), stat.current));
        figures.push((format!("{name}, peak"), stat.peak));
    };
    for (name, PoolStat { all, small_pool, large_pool }) in [
        ("allocation", &stats.allocation),
        ("segment", &stats.segment),
        ("active", &stats.active),
        ("inactive_split", &stats.inactive_split),
        ("allocated_bytes", &stats.allocated_bytes),
        ("reserved_bytes", &stats.reserved_bytes),
        ("active_bytes", &stats.active_bytes),
        ("inactive_split_bytes", &stats.inactive_split_bytes),
        ("requested_bytes", &stats.requested_bytes),
    ] {
        add(&format!("{name} of small_pool"), small_pool);
        add(&format!("{name} of large_pool"), large_pool);
        add(name, all);
    }
    add("oversize_allocations", &stats.oversize_allocations);
    add("oversize_segments", &stats.oversize_segments);
    let counters = [
        ("num_alloc_retries", stats.num_alloc_retries),
        ("num_ooms", stats.num_ooms),
        ("num_oom_rejections", stats.num_oom_rejections),
        ("num_sync_all_streams", stats.num_sync_all_streams),
        ("num_device_alloc", stats.num_device_alloc),
        ("num_device_free", stats.num_device_free),
    ];
    figures.extend(counters.map(|(name, figure)| (name.to_string(), figure)));
    figures
}

fn programs() -> String {
    let path = std::env::var_os("RIVERBED_PROGRAMS");
    let bytes = std::fs::read(path.map_or(data("golden/programs.txt.gz"), Into::into)).unwrap();
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return String::from_utf8(bytes).unwrap();
    }
    let mut text = String::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn programs_place_and_count_as_pytorch_does() {
    let mut run = 0;
    let mut current: Option<Program> = None;
    for line in programs().lines() {
        if line.starts_with("program ") {
            if let Some(ended) = current.replace(Program::new(line)) {
                ended.finish();
            }
            run += 1;
        } else {
            current.as_mut().expect("a program begins with its name").step(line);
        }
    }
    if let Some(ended) = current {
        ended.finish();
    }
    assert!(run > 50, "only {run} programs were run");
}
