//! What is taken, in sorted maps.

use std::collections::BTreeMap;
use std::sync::Mutex;

use riverbed::device::{DevicePtr, Stream};
use riverbed::event::{Recorder, TraceEvent};

/// Shared by all threads of a program; learns of segments as the allocator's recorder.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// Blocks may lie over several segments, which the allocator does not count.
    is_mapped: bool,
    segments: Mutex<BTreeMap<u64, Segment>>,
    /// Where memory of segments shows at other addresses.
    views: Mutex<BTreeMap<u64, Segment>>,
    books: Mutex<Books>,
}

#[derive(Debug)]
struct Segment {
    bytes: u64,
    stream: u64,
}

/// What the program did.
#[derive(Debug, Default)]
struct Books {
    /// Bytes by address: live, or freed while a stream that uses it stands at a gate.
    taken: BTreeMap<u64, u64>,
    /// Those of them that were freed.
    in_flight: Vec<u64>,
    sums: Sums,
}

/// Sums over a program.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sums {
    pub(crate) live: u64,
    pub(crate) live_bytes: u64,
    pub(crate) served: u64,
    pub(crate) freed: u64,
    pub(crate) in_flight_bytes: u64,
}

impl Model {
    /// A block was handed out: it overlaps nothing, and lies in a segment of its stream.
    pub(crate) fn took(&self, ptr: DevicePtr, bytes: u64, stream: &Stream) {
        let (start, end) = (ptr.0, ptr.0 + bytes);
        assert_eq!(start % 512, 0, "{ptr:?} is not aligned");
        {
            let (segments, views) = (self.segments.lock().unwrap(), self.views.lock().unwrap());
            let mut reached = start;
            while reached < end {
                let below = [&*segments, &*views].map(|map| map.range(..=reached).next_back());
                let found = below.into_iter().flatten().max_by_key(|&(at, _)| at);
                let (at, segment) = found.expect("a segment holds it");
                assert!(reached < at + segment.bytes, "{ptr:?} ends behind its segment");
                assert_eq!(segment.stream, stream.id().raw(), "{ptr:?} is another stream's memory");
                assert!(reached == start || self.is_mapped, "{ptr:?} lies in two segments");
                reached = at + segment.bytes;
            }
        }
        let books = &mut *self.books.lock().unwrap();
        let before = books.taken.range(..end).next_back();
        if let Some((&at, &other)) = before {
            assert!(at + other <= start, "{start:#x} + {bytes} lies over {at:#x} + {other}");
        }
        books.taken.insert(start, bytes);
        books.sums.live += 1;
        books.sums.live_bytes += bytes;
        books.sums.served += 1;
    }

    /// A block is about to be freed; `held` if a stream that uses it stands at a gate.
    pub(crate) fn frees(&self, ptr: DevicePtr, held: bool) {
        let books = &mut *self.books.lock().unwrap();
        let bytes = books.taken[&ptr.0];
        books.sums.live -= 1;
        books.sums.live_bytes -= bytes;
        books.sums.freed += 1;
        if held {
            books.in_flight.push(ptr.0);
            books.sums.in_flight_bytes += bytes;
        } else {
            books.taken.remove(&ptr.0);
        }
    }

    /// Every gate is open, and the streams behind them are done.
    pub(crate) fn opened(&self) {
        let books = &mut *self.books.lock().unwrap();
        for ptr in books.in_flight.drain(..) {
            books.taken.remove(&ptr);
        }
        books.sums.in_flight_bytes = 0;
    }

    /// The model of an allocator that maps its memory, or of one that does not.
    pub(crate) fn new(is_mapped: bool) -> Self {
        Self { is_mapped, ..Self::default() }
    }

    pub(crate) fn sums(&self) -> Sums {
        self.books.lock().unwrap().sums
    }

    /// How many segments there are, and their bytes. Where memory is mapped, as many as `counted`.
    pub(crate) fn reserved(&self, counted: u64) -> (u64, u64) {
        let segments = self.segments.lock().unwrap();
        let count = if self.is_mapped { counted } else { segments.len() as u64 };
        (count, segments.values().map(|segment| segment.bytes).sum())
    }
}

impl Recorder for Model {
    fn record(&self, event: &TraceEvent) {
        match *event {
            TraceEvent::SegmentAlloc { address, bytes, stream } => {
                let segments = &mut *self.segments.lock().unwrap();
                if let Some((at, before)) = segments.range(..address + bytes).next_back() {
                    assert!(at + before.bytes <= address, "segments overlap at {address:#x}");
                }
                segments.insert(address, Segment { bytes, stream });
            }
            TraceEvent::SegmentFree { address, bytes, .. } => {
                let gone = self.segments.lock().unwrap().remove(&address);
                assert_eq!(gone.map(|segment| segment.bytes), Some(bytes));
            }
            TraceEvent::SegmentMap { address, bytes, stream } => {
                self.views.lock().unwrap().insert(address, Segment { bytes, stream });
            }
            TraceEvent::SegmentUnmap { address, bytes, .. } => {
                let gone = self.views.lock().unwrap().remove(&address);
                assert_eq!(gone.map(|view| view.bytes), Some(bytes));
            }
            _ => {}
        }
    }
}
