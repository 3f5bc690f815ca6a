//! Random programs, in lockstep with a slow and obvious model of the caching policy. `SEED=7
//! cargo test --test model` runs one program again.

mod support;

use riverbed::device::{Device, DevicePtr, Gate, Stream, checksum};
use riverbed::pool::{Allocator, Buffer};

use support::{MIB, Random, download, stream};

const STREAMS: usize = 4;
const STEPS: usize = 1000;
/// Checksums a stream may owe before they are looked at.
const SLOTS: usize = 256;
/// How much of each end of a buffer is checked.
const END_BYTES: u64 = 2048;
const LIVE_BYTES: u64 = 64 * MIB;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Active,
    /// In use on other streams; `held` while one of them stands at the gate.
    Retired {
        held: bool,
    },
}

#[derive(Debug, Clone)]
struct Block {
    address: u64,
    bytes: u64,
    state: State,
}

#[derive(Debug)]
struct Segment {
    bytes: u64,
    small: bool,
    stream: usize,
    blocks: Vec<Block>,
}

/// The caching policy with nothing clever in it: lists, searched from end to end.
#[derive(Debug, Default)]
struct Model {
    /// The oldest first.
    segments: Vec<Segment>,
    taken: u64,
    freed: u64,
    requested_bytes: u64,
    /// What the owners of retired blocks asked for, by address.
    retired_requests: std::collections::HashMap<u64, u64>,
    segments_taken: u64,
    segments_freed: u64,
    reserved_peak: u64,
}

impl Model {
    /// The address a request is served at; `None` if a segment must be made for it.
    fn place(&self, bytes: u64, stream: usize) -> Option<u64> {
        let bytes = bytes.next_multiple_of(512);
        let mut best: Option<&Block> = None;
        for segment in &self.segments {
            if segment.stream != stream || segment.small != (bytes <= MIB) {
                continue;
            }
            for block in &segment.blocks {
                let fits = block.state == State::Free && block.bytes >= bytes;
                if fits && best.is_none_or(|best| block.bytes < best.bytes) {
                    best = Some(block);
                }
            }
        }
        best.map(|block| block.address)
    }

    fn grow(&mut self, address: u64, bytes: u64, stream: usize) {
        let rounded = bytes.next_multiple_of(512);
        let small = rounded <= MIB;
        let bytes = match rounded {
            _ if small => 2 * MIB,
            _ if rounded < 10 * MIB => 20 * MIB,
            _ => rounded.next_multiple_of(2 * MIB),
        };
        let block = Block { address, bytes, state: State::Free };
        self.segments.push(Segment { bytes, small, stream, blocks: vec![block] });
        self.segments_taken += 1;
        self.reserved_peak = self.reserved_peak.max(self.reserved());
    }

    fn take(&mut self, address: u64, requested_bytes: u64) {
        let bytes = requested_bytes.next_multiple_of(512);
        let (segment, index) = self.find(address);
        let rest = segment.blocks[index].bytes - bytes;
        if rest > if segment.small { 0 } else { MIB } {
            segment.blocks[index].bytes = bytes;
            let rest = Block { address: address + bytes, bytes: rest, state: State::Free };
            segment.blocks.insert(index + 1, rest);
        }
        segment.blocks[index].state = State::Active;
        self.taken += 1;
        self.requested_bytes += requested_bytes;
    }

    fn free(&mut self, address: u64, requested_bytes: u64, state: State) {
        let (segment, index) = self.find(address);
        segment.blocks[index].state = state;
        self.freed += 1;
        match state {
            State::Free => self.requested_bytes -= requested_bytes,
            _ => _ = self.retired_requests.insert(address, requested_bytes),
        }
    }

    /// Whatever calls the allocator finds these out of use.
    fn settle(&mut self) {
        for segment in &mut self.segments {
            for block in &mut segment.blocks {
                if block.state == (State::Retired { held: false }) {
                    block.state = State::Free;
                    let requested_bytes = self.retired_requests.remove(&block.address);
                    self.requested_bytes -= requested_bytes.unwrap_or(0);
                }
            }
            let mut merged: Vec<Block> = Vec::new();
            for block in segment.blocks.drain(..) {
                match merged.last_mut() {
                    Some(last) if last.state == State::Free && block.state == State::Free => {
                        last.bytes += block.bytes;
                    }
                    _ => merged.push(block),
                }
            }
            segment.blocks = merged;
        }
    }

    fn open_gate(&mut self) {
        for block in self.segments.iter_mut().flat_map(|segment| &mut segment.blocks) {
            if let State::Retired { held } = &mut block.state {
                *held = false;
            }
        }
    }

    fn trim(&mut self) -> u64 {
        let (before, count) = (self.reserved(), self.segments.len());
        self.segments
            .retain(|segment| segment.blocks.len() > 1 || segment.blocks[0].state != State::Free);
        self.segments_freed += (count - self.segments.len()) as u64;
        before - self.reserved()
    }

    fn find(&mut self, address: u64) -> (&mut Segment, usize) {
        let inside = |segment: &Segment| {
            let start = segment.blocks[0].address;
            (start..start + segment.bytes).contains(&address)
        };
        let segment = self.segments.iter_mut().find(|segment| inside(segment)).unwrap();
        let index = segment.blocks.iter().position(|block| block.address == address).unwrap();
        (segment, index)
    }

    fn reserved(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Count and bytes of the blocks in a state.
    fn sum(&self, wanted: impl Fn(State) -> bool) -> (u64, u64) {
        let blocks = self.segments.iter().flat_map(|segment| &segment.blocks);
        let blocks = blocks.filter(|block| wanted(block.state));
        blocks.fold((0, 0), |(count, bytes), block| (count + 1, bytes + block.bytes))
    }
}

/// A live buffer, as the program knows it.
#[derive(Debug)]
struct Live {
    buffer: Buffer,
    home: usize,
    last: usize,
    /// Streams but its own that used it.
    users: Vec<usize>,
    value: u8,
}

struct Program {
    random: Random,
    allocator: Allocator,
    model: Model,
    streams: Vec<Stream>,
    /// Which streams stand at the gate, themselves or behind one that does.
    blocked: [bool; STREAMS],
    gate: Gate,
    rounds: u64,
    sums: Vec<Buffer<u64>>,
    /// The checksums each stream is to find.
    owed: Vec<Vec<u64>>,
    live: Vec<Live>,
    next_value: u8,
}

impl Program {
    fn new(device: &Device, seed: u64) -> Self {
        let streams: Vec<Stream> = (0..STREAMS).map(|_| stream(device)).collect();
        // Apart from the allocator under test, which these must not disturb.
        let apart = Allocator::builder(device).build().unwrap();
        let sums = streams.iter().map(|stream| apart.alloc(SLOTS, stream).unwrap()).collect();
        Self {
            random: Random::new(seed),
            allocator: Allocator::builder(device).build().unwrap(),
            model: Model::default(),
            streams,
            blocked: [false; STREAMS],
            gate: Gate::new(device).unwrap(),
            rounds: 0,
            sums,
            owed: vec![Vec::new(); STREAMS],
            live: Vec::new(),
            next_value: 0,
        }
    }

    fn step(&mut self) {
        self.model.settle();
        match self.random.below(100) {
            0..45 => self.alloc(),
            45..78 => self.free(),
            78..92 => self.use_elsewhere(),
            92..96 => self.block(),
            96..99 => self.open(),
            _ => self.trim(),
        }
        // What does not stand at the gate is done before the next step, so that both sides
        // agree on what is out of use.
        for (stream, _) in self.streams.iter().zip(self.blocked).filter(|(_, blocked)| !blocked) {
            stream.synchronize().unwrap();
        }
        self.model.settle();
        self.compare();
    }

    fn alloc(&mut self) {
        let large = self.random.below(10) == 0;
        let bytes = self.random.size(if large { 23 } else { 18 });
        let held: u64 = self.live.iter().map(|live| live.buffer.size_bytes()).sum();
        if held + bytes > LIVE_BYTES {
            return self.free();
        }
        if self.model.reserved() > 8 * LIVE_BYTES {
            return self.trim();
        }
        let home = self.random.below(STREAMS as u64) as usize;
        let stream = &self.streams[home];
        let buffer = self.allocator.alloc::<u8>(bytes as usize, stream).unwrap();
        let address = buffer.ptr().0;
        match self.model.place(bytes, home) {
            Some(expected) => assert_eq!(buffer.ptr(), DevicePtr(expected), "for {bytes} bytes"),
            None => {
                self.assert_new(address);
                self.model.grow(address, bytes, home);
            }
        }
        self.model.take(address, bytes);
        self.assert_disjoint(&buffer);
        let value = self.value();
        buffer.fill(value, &self.streams[home]).unwrap();
        self.live.push(Live { buffer, home, last: home, users: vec![], value });
    }

    fn free(&mut self) {
        let Some(live) = self.pick() else { return };
        self.owe(&live);
        let held = live.users.iter().any(|&user| self.blocked[user]);
        let state = match live.users[..] {
            [] => State::Free,
            _ => State::Retired { held },
        };
        let (address, bytes) = (live.buffer.ptr().0, live.buffer.size_bytes());
        drop(live);
        self.model.free(address, bytes, state);
    }

    /// Another stream finds what the last one left, and leaves something else.
    fn use_elsewhere(&mut self) {
        let Some(mut live) = self.pick() else { return };
        let user = self.random.below(STREAMS as u64) as usize;
        // The other stream waits for the last one, and if that stands at the gate, so does it.
        self.blocked[user] |= self.blocked[live.last];
        live.last = user;
        if user != live.home {
            live.users.push(user);
        }
        self.owe(&live);
        live.value = self.value();
        live.buffer.fill(live.value, &self.streams[user]).unwrap();
        self.live.push(live);
    }

    fn block(&mut self) {
        let stream = self.random.below(STREAMS as u64) as usize;
        self.streams[stream].wait_gate(&self.gate, self.rounds + 1).unwrap();
        self.blocked[stream] = true;
    }

    /// Lets every stream run to its end, and looks at what they found.
    fn open(&mut self) {
        self.rounds += 1;
        self.gate.open(self.rounds).unwrap();
        self.streams.iter().for_each(|stream| stream.synchronize().unwrap());
        self.blocked = [false; STREAMS];
        self.model.open_gate();
        for (sums, owed) in self.sums.iter().zip(&mut self.owed) {
            let found = download(sums.stream(), sums.ptr(), 8 * owed.len());
            for (sum, expected) in found.chunks(8).zip(owed.drain(..)) {
                let sum = u64::from_le_bytes(sum.try_into().unwrap());
                assert_eq!(sum, expected, "somebody else wrote into a buffer in use");
            }
        }
    }

    fn trim(&mut self) {
        // It waits for streams, and nobody else is there to open the gate.
        self.open();
        self.model.settle();
        assert_eq!(self.allocator.trim(), self.model.trim());
    }

    /// Enqueues a look at both ends of a buffer, on the stream that used it last.
    fn owe(&mut self, live: &Live) {
        if self.owed[live.last].len() + 2 > SLOTS {
            self.open();
        }
        let bytes = live.buffer.size_bytes().min(END_BYTES);
        let owed = &mut self.owed[live.last];
        for offset in [0, live.buffer.size_bytes() - bytes] {
            let (stream, sums) = (&self.streams[live.last], &self.sums[live.last]);
            live.buffer.checksum(offset, bytes, sums, owed.len(), stream).unwrap();
            owed.push(checksum(&vec![live.value; bytes as usize]));
        }
    }

    fn pick(&mut self) -> Option<Live> {
        let count = self.live.len() as u64;
        (count > 0).then(|| self.live.swap_remove(self.random.below(count) as usize))
    }

    fn value(&mut self) -> u8 {
        self.next_value = self.next_value.wrapping_add(1);
        self.next_value
    }

    fn assert_new(&self, address: u64) {
        for segment in &self.model.segments {
            let start = segment.blocks[0].address;
            let inside = (start..start + segment.bytes).contains(&address);
            assert!(!inside, "{address:#x} is in a segment where nothing fits");
        }
    }

    fn assert_disjoint(&self, buffer: &Buffer) {
        let end = |buffer: &Buffer| buffer.ptr().0 + buffer.size_bytes();
        for Live { buffer: other, .. } in &self.live {
            let apart = end(buffer) <= other.ptr().0 || end(other) <= buffer.ptr().0;
            assert!(apart, "{buffer:?} overlaps {other:?}");
        }
    }

    fn compare(&self) {
        self.allocator.check().unwrap();
        let (stats, model) = (self.allocator.stats(), &self.model);
        let (active, active_bytes) = model.sum(|state| state == State::Active);
        let (in_use, in_use_bytes) = model.sum(|state| state != State::Free);
        let (_, retired_bytes) = model.sum(|state| matches!(state, State::Retired { .. }));
        for (name, found, expected) in [
            ("allocations", stats.allocation.all.current, active),
            ("all allocations", stats.allocation.all.allocated, model.taken),
            ("all frees", stats.allocation.all.freed, model.freed),
            ("allocated bytes", stats.allocated_bytes.all.current, active_bytes),
            ("active blocks", stats.active.all.current, in_use),
            ("active bytes", stats.active_bytes.all.current, in_use_bytes),
            ("retired bytes", stats.retired_bytes, retired_bytes),
            ("requested bytes", stats.requested_bytes.all.current, model.requested_bytes),
            ("reserved bytes", stats.reserved_bytes.all.current, model.reserved()),
            ("peak of reserved bytes", stats.reserved_bytes.all.peak, model.reserved_peak),
            ("segments", stats.segment.all.current, model.segments.len() as u64),
            ("segments taken", stats.num_device_alloc, model.segments_taken),
            ("segments given back", stats.num_device_free, model.segments_freed),
            ("retries", stats.num_alloc_retries, 0),
            ("failures", stats.num_ooms + stats.stranded_blocks, 0),
        ] {
            assert_eq!(found, expected, "{name}: {stats:?}");
        }
    }

    fn finish(mut self) {
        self.model.settle();
        while !self.live.is_empty() {
            self.free();
        }
        self.open();
        self.model.settle();
        self.compare();
        self.allocator.close().unwrap();
    }
}

/// Names the seed when a program fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("run it again with SEED={}", self.0);
        }
    }
}

fn run(seed: u64) {
    let seed = Seed(seed);
    let device = Device::open("host:vram=2GiB").unwrap();
    let mut program = Program::new(&device, seed.0);
    for _ in 0..STEPS {
        program.step();
    }
    assert!(program.model.taken > 200, "a program that does nothing");
    program.finish();
}

#[test]
fn random_programs_agree_with_the_model() {
    match std::env::var("SEED") {
        Ok(seed) => run(seed.parse().expect("SEED is a number")),
        Err(_) => (1..=4).for_each(run),
    }
}
