//! A placement policy of one's own, chosen by a conf string: next fit.
//!
//! ```sh
//! cargo run --example own_policy
//! ```

use riverbed::conf::Conf;
use riverbed::device::{Device, Priority, Stream};
use riverbed::ledger::Ledger;
use riverbed::policy::{self, Fit, Policy, Request};
use riverbed::pool::Allocator;

/// Goes round the stream's memory: each request is served from the first free block behind the
/// last one. A policy decides and nothing else; splitting, merging, waiting for streams, the
/// limit and every driver call are the allocator's, which checks what a policy says.
#[derive(Debug)]
struct NextFit {
    segment_bytes: u64,
    /// The end of what was handed out last.
    cursor: u64,
}

/// Blocks are multiples of this, so that all are aligned to it.
const GRAIN_BYTES: u64 = 512;
/// All segments are of one class: any block may serve any request.
const CLASS: u8 = 0;

impl Policy for NextFit {
    fn request(&self, requested_bytes: u64) -> Option<Request> {
        let block_bytes = requested_bytes.checked_next_multiple_of(GRAIN_BYTES)?;
        Some(Request { requested_bytes, block_bytes, class: CLASS })
    }

    fn fit(&mut self, ledger: &Ledger, request: &Request) -> Option<Fit> {
        let place = |address: u64| (address < self.cursor, address);
        let fits = ledger.fits(CLASS, request.block_bytes);
        let block = fits.min_by_key(|&block| place(ledger[block].address))?;
        self.cursor = ledger[block].address + request.block_bytes;
        Some(Fit { block, take_bytes: request.block_bytes })
    }

    fn segment_bytes(&self, request: &Request) -> u64 {
        request.block_bytes.max(self.segment_bytes)
    }

    fn take_of_segment(&self, _segment_bytes: u64, request: &Request) -> u64 {
        request.block_bytes
    }
}

/// Lets `policy:next-fit` choose it. Every stream gets a policy of its own.
pub(crate) fn register() -> riverbed::Result<()> {
    policy::register("next-fit", |conf: &Conf| {
        Ok(Box::new(NextFit { segment_bytes: conf.large_segment_size_bytes, cursor: 0 }))
    })
}

fn main() -> riverbed::Result<()> {
    register()?;
    let device = Device::open("host:vram=256MiB")?;
    let stream = Stream::new(&device, Priority::Normal)?;
    let conf = "policy:next-fit,large_segment_size_mb:32";
    let allocator = Allocator::builder(&device).conf_str(conf)?.build()?;

    let mut live = Vec::new();
    for round in 0..1000 {
        live.push(allocator.alloc::<u8>(1 + round * 7919 % 1_000_000, &stream)?);
        if live.len() > 20 {
            live.swap_remove(round % 20);
        }
        // The allocator proves its books, whatever the policy said.
        allocator.check().expect("a policy cannot break the allocator");
    }
    let stats = allocator.stats();
    println!("policies: {}", policy::names().join(", "));
    println!(
        "{} blocks served from {} segments, {} bytes reserved, {} of them in use",
        stats.allocation.all.allocated,
        stats.num_device_alloc,
        stats.reserved_bytes.all.current,
        stats.allocated_bytes.all.current,
    );
    drop(live);
    allocator.close()
}
