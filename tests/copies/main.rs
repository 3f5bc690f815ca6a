//! Copies that are too large to go at once: chunks, urgency, order with the work around them,
//! how their end is told, cancelling, and driver calls that fail in the middle.

#[path = "../support/heard.rs"]
mod heard;
#[path = "../support/model_files.rs"]
mod model_files;
#[path = "../support/streaming.rs"]
mod streaming;

mod adopted;
mod ends;
mod faults;
mod link;
mod order;
mod pageable;
mod parts;
mod refused;
mod urgent;

use std::sync::Arc;

use riverbed::conf::Conf;
use riverbed::device::host::HostDriver;
use riverbed::device::{Device, Stream};
use riverbed::pinned::{PinnedBlock, PinnedPool, PinnedSource};
use riverbed::pool::{Allocator, Buffer};
use riverbed::transfer::{Driven, Transfer, TransferOptions};

use streaming::{MIB, Random, host, stream};

/// What copies need, with chunks of 64 KiB: three of them may be under way.
struct Bench {
    device: Device,
    driver: Arc<HostDriver>,
    pinned: PinnedPool,
    allocator: Allocator,
    stream: Stream,
    transfer: Transfer,
}

const CHUNK: usize = 64 << 10;

fn options() -> TransferOptions {
    TransferOptions { chunk_bytes: Some(CHUNK as u64), ..TransferOptions::default() }
}

fn by_caller() -> TransferOptions {
    TransferOptions { driven: Driven::ByCaller, ..options() }
}

fn bench() -> Bench {
    bench_with(&options())
}

fn bench_with(options: &TransferOptions) -> Bench {
    let (device, driver) = host(64);
    let conf = Conf::default().with_pinned_limit_bytes(32 * MIB).unwrap();
    Bench {
        pinned: PinnedPool::new(&device, &conf),
        allocator: Allocator::builder(&device).build().unwrap(),
        stream: stream(&device),
        transfer: Transfer::with_options(&device, options).unwrap(),
        driver,
        device,
    }
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..len).map(|_| (random.next() >> 32) as u8).collect()
}

impl Bench {
    fn buffer(&self, len: usize) -> Buffer<u8> {
        self.allocator.alloc(len, &self.stream).unwrap()
    }

    fn block(&self, bytes: &[u8]) -> PinnedBlock {
        let mut block = self.pinned.alloc(bytes.len()).unwrap();
        block.copy_from_slice(bytes);
        block
    }

    fn source(&self, bytes: &[u8]) -> PinnedSource {
        self.block(bytes).freeze()
    }

    /// Everything is given back and the books are right.
    fn is_clean(&self) {
        streaming::eventually("every use is over", || {
            self.pinned.stats().retired_bytes == 0 && self.allocator.stats().retired_bytes == 0
        });
        self.pinned.check().unwrap();
        self.allocator.check().unwrap();
        assert_eq!(self.pinned.stats().active_bytes, 0);
    }
}
