//! `riverbed bench copy`: host memory to the device and back, beside bare copies in memory, and a
//! layer of small tensors beside its bytes in one piece.

use std::cell::RefCell;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use riverbed::base::{Error, MIB, format_bytes, parse_bytes};
use riverbed::device::{Call, Device, Priority, Stream};
use riverbed::pinned::PinnedPool;
use riverbed::pool::{Allocator, Buffer};
use riverbed::transfer::{Part, Transfer, TransferOptions};

use super::bare::{copy, copy_twice, filled};
use super::rounds::{Row, Subject, for_people, measure};
use super::{Common, check, spinner};
use crate::Failure;
use crate::text::{print, print_json};

/// Pinned and pageable memory to the device and back, beside bare copies in memory
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    riverbed bench copy\n  \
    riverbed bench copy --device cuda:0 --bytes 1GB --json\n\n\
    Bare copies are for devices whose memory the host can address ('host').")]
pub(super) struct Args {
    /// The device to copy to
    #[arg(long, value_name = "DEVICE", default_value = "host")]
    device: String,
    /// How much is copied at a time
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = at_least_a_mib)]
    bytes: u64,
    #[command(flatten)]
    common: Common,
}

/// Tensors of the layer, ...
const TENSORS: u64 = 1000;
/// ... from this size ...
const LEAST_TENSOR_BYTES: u64 = 4 << 10;
/// ... to this.
const MOST_TENSOR_BYTES: u64 = 64 << 10;
/// Tensors end at multiples of it: a row of most models is one.
const ALIGN_BYTES: u64 = 256;
/// What lies between scattered tensors in host memory.
const GAP_BYTES: u64 = ALIGN_BYTES;

/// All figures. Sizes in bytes, rates in bytes a second; the ratios of a list are to its first
/// row.
#[derive(Debug, serde::Serialize)]
struct Report {
    version: u32,
    device: String,
    bytes: u64,
    /// Of bare copies, and of what fills pinned memory.
    threads: usize,
    rounds: u32,
    pinned: Vec<Row>,
    pageable: Vec<Row>,
    layer: Vec<Row>,
    /// Driver calls that the layer's copies take, in the order of `layer`.
    layer_calls: Vec<u64>,
}

pub(super) fn run(args: &Args, interrupted: &AtomicBool) -> Result<(), Failure> {
    let device = Device::open(&args.device)?;
    if device.info().simulated {
        return Err(Error::Unsupported {
            what: "measuring copies to it".into(),
            by: format!("device '{}', which holds no bytes", device.info().name),
            way_out: "use 'host'".into(),
        }
        .into());
    }
    let bench = Bench::new(device, args, interrupted)?;
    let pinned = bench.pinned()?;
    let pageable = bench.pageable()?;
    let (layer, layer_calls) = bench.layer()?;
    bench.bar.finish_and_clear();
    let report = Report {
        version: 1,
        device: bench.device.info().name.clone(),
        bytes: args.bytes,
        threads: bench.threads,
        rounds: args.common.rounds,
        pinned,
        pageable,
        layer,
        layer_calls,
    };
    if args.common.json { print_json(&report) } else { print(&report.for_people()) }
}

impl Report {
    fn for_people(&self) -> String {
        let calls: Vec<String> = self.layer_calls.iter().map(u64::to_string).collect();
        format!(
            "{} to {} and back, {} threads\n\npinned\n{}\npageable\n{}\n\
             a layer of {TENSORS} tensors, in {} driver calls\n{}",
            format_bytes(self.bytes),
            self.device,
            self.threads,
            for_people(&self.pinned, "first"),
            for_people(&self.pageable, "first"),
            calls.join(", "),
            for_people(&self.layer, "first"),
        )
    }
}

/// What the subjects share.
struct Bench<'a> {
    device: Device,
    stream: Stream,
    allocator: Allocator,
    pool: PinnedPool,
    transfer: Transfer,
    bytes: usize,
    threads: usize,
    rounds: usize,
    interrupted: &'a AtomicBool,
    bar: indicatif::ProgressBar,
}

impl<'a> Bench<'a> {
    fn new(device: Device, args: &Args, interrupted: &'a AtomicBool) -> Result<Self, Failure> {
        let pool = PinnedPool::new(&device, &riverbed::conf::Conf::default());
        // Pinned memory, what it is held against, and the buffer on a host device.
        let most = pool.budget().bytes / 3;
        let fits = usize::try_from(args.bytes).ok().filter(|_| args.bytes <= most);
        let bytes = fits.ok_or_else(|| {
            let expected = format!("at most {}, a third of what may be pinned", format_bytes(most));
            Error::invalid("--bytes", format_bytes(args.bytes), expected)
        })?;
        Ok(Self {
            stream: Stream::new(&device, Priority::Normal)?,
            allocator: Allocator::builder(&device).build()?,
            pool,
            transfer: Transfer::new(&device)?,
            bytes,
            threads: TransferOptions::default().staging_threads.max(1),
            rounds: args.common.rounds as usize,
            interrupted,
            bar: spinner(),
            device,
        })
    }

    /// Memory of the device that was touched.
    fn buffer(&self, bytes: usize) -> Result<Buffer<u8>, Failure> {
        let buffer = self.allocator.alloc_dedicated::<u8>(bytes, &self.stream)?;
        buffer.fill(0, &self.stream)?;
        self.stream.synchronize()?;
        Ok(buffer)
    }

    /// Whether bare copies are the device's limit.
    fn is_bare(&self) -> bool {
        self.device.info().host_accessible
    }

    fn for_bare_copies(&self) -> Result<Vec<u8>, Failure> {
        if self.is_bare() { filled(self.bytes) } else { Ok(Vec::new()) }
    }

    /// A subject that copies `bytes`.
    fn subject<'s>(
        &'s self,
        name: &str,
        bytes: usize,
        mut work: impl FnMut() -> Result<(), Failure> + 's,
    ) -> Subject<'s> {
        let run = move || {
            check(self.interrupted)?;
            let begun = Instant::now();
            work()?;
            Ok(begun.elapsed().as_secs_f64())
        };
        Subject { name: name.into(), bytes: bytes as u64, run: Box::new(run) }
    }

    /// Runs the subjects once in vain, and then for their figures.
    fn measure(&self, mut subjects: Vec<Subject<'_>>) -> Result<Vec<Row>, Failure> {
        for subject in &mut subjects {
            (subject.run)()?;
        }
        measure(&mut subjects, self.rounds, 0, |what, round| {
            self.bar.set_message(format!("round {}: {what}", round + 1));
        })
    }

    fn pinned(&self) -> Result<Vec<Row>, Failure> {
        let mut block = self.pool.alloc(self.bytes)?;
        block.fill(1);
        // One block goes to and fro.
        let block = RefCell::new(Some(block));
        let buffer = self.buffer(self.bytes)?;
        let (mut target, source) = (self.for_bare_copies()?, self.for_bare_copies()?);
        let mut subjects = Vec::new();
        if self.is_bare() {
            subjects.push(self.subject("bare copy", self.bytes, || {
                copy(&mut target, &source, self.threads);
                Ok(())
            }));
        }
        for (name, to_device) in [("pinned to device", true), ("device to pinned", false)] {
            let (block, buffer) = (&block, &buffer);
            subjects.push(self.subject(name, self.bytes, move || {
                let Some(own) = block.borrow_mut().take() else { return Ok(()) };
                let pending = if to_device {
                    self.transfer.upload(own, buffer, 0)?
                } else {
                    self.transfer.download(buffer, 0, own)?
                };
                *block.borrow_mut() = Some(pending.wait()?);
                Ok(())
            }));
        }
        self.measure(subjects)
    }

    fn pageable(&self) -> Result<Vec<Row>, Failure> {
        let buffer = self.buffer(self.bytes)?;
        let (source, mut back) = (filled(self.bytes)?, filled(self.bytes)?);
        let mut target = self.for_bare_copies()?;
        let mut subjects = Vec::new();
        if self.is_bare() {
            subjects.push(self.subject("bare copy, two hops", self.bytes, || {
                copy_twice(&mut target, &source, self.threads);
                Ok(())
            }));
        }
        subjects.push(self.subject("pageable to device", self.bytes, || {
            Ok(self.transfer.upload_slice(&source, &buffer, 0)?.wait()?)
        }));
        subjects.push(self.subject("device to pageable", self.bytes, || {
            Ok(self.transfer.download_into(&buffer, 0, &mut back)?)
        }));
        self.measure(subjects)
    }

    /// A layer in one piece, as tensors that lie side by side, and as tensors in no order; with
    /// the driver calls that each took.
    fn layer(&self) -> Result<(Vec<Row>, Vec<u64>), Failure> {
        let (packed, scattered, bytes) = layer();
        let span = bytes + TENSORS * GAP_BYTES;
        let mut block = self.pool.alloc(span as usize)?;
        block.fill(3);
        let source = block.freeze();
        let buffer = self.buffer(bytes as usize)?;
        let whole = [Part { block_offset: 0, buffer_offset: 0, len_bytes: bytes }];
        let kinds = [
            ("in one piece", &whole[..]),
            ("side by side", &packed[..]),
            ("scattered", &scattered[..]),
        ];
        let upload = |parts: &[Part]| -> Result<(), Failure> {
            drop(self.transfer.upload_parts(&source, &buffer, parts)?.wait()?);
            Ok(())
        };
        let made = || self.device.calls().sum(&[Call::CopyH2d, Call::CopyBatch]);
        let calls = kinds.iter().map(|(_, parts)| {
            let before = made();
            upload(parts)?;
            Ok(made() - before)
        });
        let calls = calls.collect::<Result<Vec<u64>, Failure>>()?;
        let upload = &upload;
        let subjects =
            kinds.map(|(name, parts)| self.subject(name, bytes as usize, move || upload(parts)));
        Ok((self.measure(subjects.into())?, calls))
    }
}

/// Tensors of many sizes, packed on the device: side by side in host memory, and in no order with
/// gaps; with their bytes.
fn layer() -> (Vec<Part>, Vec<Part>, u64) {
    let spread = MOST_TENSOR_BYTES - LEAST_TENSOR_BYTES;
    let mut parts = Vec::new();
    let mut end = 0;
    for number in 0..TENSORS {
        let len_bytes = LEAST_TENSOR_BYTES + number * 7919 % TENSORS * spread / (TENSORS - 1);
        let len_bytes = len_bytes / ALIGN_BYTES * ALIGN_BYTES;
        parts.push(Part { block_offset: end, buffer_offset: end, len_bytes });
        end += len_bytes;
    }
    let mut scattered = parts.clone();
    let mut at = 0;
    for number in 0..scattered.len() {
        let other = number * 389 % scattered.len();
        scattered[other].block_offset = at;
        at += scattered[other].len_bytes + GAP_BYTES;
    }
    (parts, scattered, end)
}

fn at_least_a_mib(text: &str) -> Result<u64, String> {
    match parse_bytes(text) {
        Ok(bytes) if bytes >= MIB => Ok(bytes),
        Ok(_) => Err("1MiB at least: less tells of calls, not of copies".into()),
        Err(error) => Err(error.to_string()),
    }
}
