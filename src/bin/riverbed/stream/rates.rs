//! What a pass here costs, for the planner: the link and the checksums, measured in milliseconds
//! before anything is loaded, within the limits.

use std::time::{Duration, Instant};

use riverbed::base::MIB;
use riverbed::conf::Conf;
use riverbed::device::{Device, Priority, Stream};
use riverbed::plan::{DeviceRates, Job};
use riverbed::pool::Allocator;
use riverbed::transfer::calibrate;

use crate::Failure;

/// How long the link is measured.
const LINK_BUDGET: Duration = Duration::from_millis(30);
/// What that takes of either memory.
const LINK_BYTES: u64 = 16 * MIB;
/// What the link is taken for where it can be neither measured nor is given, in bytes a second:
/// PCIe 3 with 16 lanes, the slowest that is usual.
const ASSUMED_LINK: f64 = 12.5e9;
/// The checksum that is measured, and how often.
const SUM_BYTES: usize = MIB as usize / 2;
const SUMS: u32 = 4;
/// The planner counts work in operations; here it is seconds, and a second is so many.
const FLOP_PER_SECOND: f64 = 1e9;

/// What the measurements may take, in bytes.
pub(super) struct Room {
    pub(super) device_bytes: u64,
    pub(super) pinned_bytes: u64,
}

/// Seconds that checksums cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checksums {
    seconds: f64,
    seconds_per_byte: f64,
}

/// Rates of `device`; a note says what could not be measured.
pub(super) fn link(
    device: &Device,
    given: Option<u64>,
    room: &Room,
    notes: &mut Vec<String>,
) -> Result<DeviceRates, Failure> {
    let name = &device.info().name;
    let fits = room.device_bytes.min(room.pinned_bytes) >= LINK_BYTES;
    let (link, copy_seconds, how) = match given {
        Some(rate) => (rate as f64, 0.0, "as given"),
        None if fits => {
            let link = calibrate(device, LINK_BUDGET)?;
            (link.h2d_bytes_per_second as f64, link.h2d_latency_ns as f64 * 1e-9, "measured")
        }
        None => {
            notes.push(format!(
                "the link is taken for {:.1} GB/s: to measure it takes 16 MiB on either side, which \
                 the limits do not leave; --link says it",
                ASSUMED_LINK / 1e9
            ));
            (ASSUMED_LINK, 0.0, "assumed")
        }
    };
    let mut rates = DeviceRates::of_link(link, FLOP_PER_SECOND);
    rates.name = format!("{name}, link {:.1} GB/s {how}", link / 1e9);
    rates.copy_seconds = copy_seconds;
    Ok(rates)
}

impl Checksums {
    /// Measures them on `device`, with 1 MiB of its memory.
    pub(super) fn measure(device: &Device, conf: &Conf) -> Result<Self, Failure> {
        let allocator = Allocator::builder(device).conf(conf.clone()).build()?;
        let stream = Stream::new(device, Priority::Normal)?;
        let bytes = allocator.alloc::<u8>(SUM_BYTES, &stream)?;
        let sum = allocator.alloc::<u64>(1, &stream)?;
        bytes.fill(1, &stream)?;
        let run = |len: usize| -> Result<f64, Failure> {
            stream.synchronize()?;
            let started = Instant::now();
            for _ in 0..SUMS {
                bytes.checksum(0, len as u64, &sum, 0, &stream)?;
            }
            stream.synchronize()?;
            Ok(started.elapsed().as_secs_f64() / f64::from(SUMS))
        };
        // The first finds everything asleep.
        run(SUM_BYTES)?;
        let (none, all) = (run(0)?, run(SUM_BYTES)?);
        Ok(Self { seconds: none, seconds_per_byte: (all - none).max(0.0) / SUM_BYTES as f64 })
    }

    /// Makes the work of each unit what is done with it here: `tensors` checksums, of all its
    /// bytes, and `layer_seconds`.
    pub(super) fn put_into(&self, job: &mut Job, tensors: &[Vec<usize>], layer_seconds: f64) {
        for (component, tensors) in job.components.iter_mut().zip(tensors) {
            for (unit, &tensors) in component.units.iter_mut().zip(tensors) {
                let sums =
                    tensors as f64 * self.seconds + unit.bytes as f64 * self.seconds_per_byte;
                unit.gflop = (sums + layer_seconds) * FLOP_PER_SECOND / 1e9;
            }
        }
    }
}
