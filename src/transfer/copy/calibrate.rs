//! What the link does: measured at start in milliseconds, from a few copies of two sizes.
//!
//! A copy takes a fixed time and its bytes over the rate, so two sizes tell both. Times are the
//! device's, between two marks of one stream; the first round, in which everything wakes up,
//! does not count, and of the others the median does.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::time::{Duration, Instant};

use super::options::TransferOptions;
use super::span::Span;
use super::way::Way;
use crate::base::{Error, MIB, Result};
use crate::device::{
    Device, DevicePtr, DeviceResult, Driver, Event, Priority, Stores, Stream, copy_striped,
    copy_threads,
};

/// The smaller copy: enough to leave the link's start behind.
const SMALL_BYTES: u64 = MIB;
/// The larger copy; for each direction as much is taken on either side.
const LARGE_BYTES: u64 = 8 * MIB;
/// Rounds that count, at least and at most.
const LEAST_ROUNDS: usize = 2;
const MOST_ROUNDS: usize = 9;

/// What a link does. Rates in bytes a second.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct LinkProfile {
    /// Pinned memory to the device.
    pub h2d_bytes_per_second: u64,
    /// The device to pinned memory.
    pub d2h_bytes_per_second: u64,
    /// To the device, while copies of the other direction run.
    pub h2d_beside_d2h_bytes_per_second: u64,
    /// From the device, while copies of the other direction run.
    pub d2h_beside_h2d_bytes_per_second: u64,
    /// What a copy to the device takes beside its bytes, on an idle device: nanoseconds of device
    /// time from before it is enqueued.
    pub h2d_latency_ns: u64,
    /// The same from the device.
    pub d2h_latency_ns: u64,
    /// The host's time to enqueue a copy, in nanoseconds.
    pub per_copy_overhead_ns: u64,
    /// The size of a chunk that suits the link, in bytes.
    pub chunk_bytes: u64,
    /// Pageable memory into pinned by the threads that staging uses; none on a simulated device.
    pub staging_bytes_per_second: Option<u64>,
    /// Pageable memory to the device: the slower of staging and the link, which run side by side;
    /// none on a simulated device.
    pub pageable_h2d_bytes_per_second: Option<u64>,
    /// Rounds that counted.
    pub rounds: usize,
    /// What was copied in all, in bytes.
    pub copied_bytes: u64,
    /// How long it took, in nanoseconds of the host's clock.
    pub taken_ns: u64,
}

/// Measures the link of `device`, in rounds of 34 MiB until `budget` is spent, three at least. Takes
/// 16 MiB of device memory and as much of pinned memory for the time. Blocks.
///
/// ```
/// use std::time::Duration;
/// use riverbed::{device::Device, transfer::calibrate};
///
/// let link = calibrate(&Device::open("sim:h100")?, Duration::from_millis(20))?;
/// assert_eq!(link.h2d_bytes_per_second / 1_000_000_000, 55);
/// # Ok::<(), riverbed::Error>(())
/// ```
///
/// # Errors
/// Too little memory on either side; what the driver says.
pub fn calibrate(device: &Device, budget: Duration) -> Result<LinkProfile> {
    let bench = Bench::new(device)?;
    let started_ns = bench.now_ns();
    let mut rounds = vec![];
    loop {
        let round = bench.round()?;
        rounds.push(round);
        let spent = u128::from(bench.now_ns() - started_ns);
        let counted = rounds.len() - 1;
        if counted >= MOST_ROUNDS || (counted >= LEAST_ROUNDS && spent >= budget.as_nanos()) {
            break;
        }
    }
    rounds.remove(0);
    let copied_bytes = (rounds.len() as u64 + 1) * Round::BYTES;
    Ok(conclude(&rounds, copied_bytes, bench.now_ns() - started_ns))
}

/// One of each measurement, in nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Round {
    h2d: [u64; 2],
    d2h: [u64; 2],
    h2d_beside: u64,
    d2h_beside: u64,
    enqueue: u64,
    /// 0 where it has no meaning.
    staging: u64,
}

impl Round {
    /// What a round copies over the link.
    const BYTES: u64 = 2 * (SMALL_BYTES + LARGE_BYTES) + 2 * LARGE_BYTES;
}

fn conclude(rounds: &[Round], copied_bytes: u64, taken_ns: u64) -> LinkProfile {
    let median = |value: fn(&Round) -> u64| {
        let mut values: Vec<u64> = rounds.iter().map(value).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    let rate = |bytes: u64, ns: u64| (bytes as f64 / ns.max(1) as f64 * 1e9) as u64;
    // Both of one round, so that what slows one down slows down the other.
    let slope = |[small, large]: [u64; 2]| large.saturating_sub(small).max(1);
    let h2d_slope = median(|round| round.h2d[1].saturating_sub(round.h2d[0]));
    let d2h_slope = median(|round| round.d2h[1].saturating_sub(round.d2h[0]));
    let difference = LARGE_BYTES - SMALL_BYTES;
    let latency = |small: u64, slope: u64| {
        small.saturating_sub((slope as f64 * SMALL_BYTES as f64 / difference as f64) as u64)
    };
    let (h2d_small, d2h_small) = (median(|round| round.h2d[0]), median(|round| round.d2h[0]));
    let h2d = rate(difference, slope([0, h2d_slope]));
    let d2h = rate(difference, slope([0, d2h_slope]));
    let (h2d_latency_ns, d2h_latency_ns) =
        (latency(h2d_small, h2d_slope), latency(d2h_small, d2h_slope));
    let beside = |ns: u64, latency: u64| rate(LARGE_BYTES, ns.saturating_sub(latency));
    let staging = Some(median(|round| round.staging)).filter(|&ns| ns > 0);
    let staging = staging.map(|ns| rate(LARGE_BYTES, ns));
    LinkProfile {
        h2d_bytes_per_second: h2d,
        d2h_bytes_per_second: d2h,
        h2d_beside_d2h_bytes_per_second: beside(median(|round| round.h2d_beside), h2d_latency_ns),
        d2h_beside_h2d_bytes_per_second: beside(median(|round| round.d2h_beside), d2h_latency_ns),
        h2d_latency_ns,
        d2h_latency_ns,
        per_copy_overhead_ns: median(|round| round.enqueue),
        chunk_bytes: TransferOptions::default().chunk_for(h2d),
        staging_bytes_per_second: staging,
        pageable_h2d_bytes_per_second: staging.map(|staging| staging.min(h2d)),
        rounds: rounds.len(),
        copied_bytes,
        taken_ns,
    }
}

/// Memory, streams and marks for the rounds, given back whatever happens.
struct Bench {
    device: Device,
    there: DevicePtr,
    here: NonNull<u8>,
    /// Pageable memory; empty on a simulated device.
    pageable: Vec<u8>,
    streams: [Stream; 2],
    marks: [Event; 4],
    started: Instant,
}

impl Bench {
    fn new(device: &Device) -> Result<Self> {
        let streams =
            [Stream::new(device, Priority::Normal)?, Stream::new(device, Priority::Normal)?];
        let mark = || Event::with_timing(device);
        let marks = [mark()?, mark()?, mark()?, mark()?];
        let driver = device.driver();
        let here = driver.alloc_pinned(2 * LARGE_BYTES)?;
        let there = match driver.alloc(2 * LARGE_BYTES) {
            Ok(there) => there,
            Err(error) => {
                // SAFETY: it was taken just now, and nothing was enqueued on it.
                let _ = unsafe { driver.free_pinned(here) };
                return Err(error.into());
            }
        };
        let simulated = device.info().simulated;
        let pageable = if simulated { Vec::new() } else { vec![1; LARGE_BYTES as usize] };
        let device = device.clone();
        Ok(Self { device, there, here, pageable, streams, marks, started: Instant::now() })
    }

    fn driver(&self) -> &dyn Driver {
        self.device.driver()
    }

    /// The host's clock.
    fn now_ns(&self) -> u64 {
        let real = || self.started.elapsed().as_nanos() as u64;
        self.driver().virtual_ns().unwrap_or_else(real)
    }

    fn round(&self) -> Result<Round> {
        let (small_up, enqueue) = self.copy(Way::ToDevice, SMALL_BYTES)?;
        let (large_up, _) = self.copy(Way::ToDevice, LARGE_BYTES)?;
        let (small_down, _) = self.copy(Way::ToHost, SMALL_BYTES)?;
        let (large_down, _) = self.copy(Way::ToHost, LARGE_BYTES)?;
        let (h2d_beside, d2h_beside) = self.both()?;
        let staging = self.staging();
        let (h2d, d2h) = ([small_up, large_up], [small_down, large_down]);
        Ok(Round { h2d, d2h, h2d_beside, d2h_beside, enqueue, staging })
    }

    /// One copy on an idle stream: the device's time, and the host's to enqueue it.
    fn copy(&self, way: Way, bytes: u64) -> Result<(u64, u64)> {
        let [stream, _] = &self.streams;
        let [start, end, ..] = &self.marks;
        start.record(stream)?;
        let before = self.now_ns();
        self.enqueue(way, stream, bytes)?;
        let enqueue = self.now_ns() - before;
        end.record(stream)?;
        stream.synchronize()?;
        Ok((end.elapsed_ns_since(start)?, enqueue))
    }

    /// Large copies both ways at once: the device's time of each.
    fn both(&self) -> Result<(u64, u64)> {
        let [up, down] = &self.streams;
        let [up_start, up_end, down_start, down_end] = &self.marks;
        up_start.record(up)?;
        self.enqueue(Way::ToDevice, up, LARGE_BYTES)?;
        down_start.record(down)?;
        self.enqueue(Way::ToHost, down, LARGE_BYTES)?;
        up_end.record(up)?;
        down_end.record(down)?;
        up.synchronize()?;
        down.synchronize()?;
        Ok((up_end.elapsed_ns_since(up_start)?, down_end.elapsed_ns_since(down_start)?))
    }

    fn enqueue(&self, way: Way, stream: &Stream, bytes: u64) -> Result<()> {
        // Each way has a place of its own on both sides.
        let at = if way == Way::ToHost { LARGE_BYTES } else { 0 };
        let (host, device) = (self.here.as_ptr() as u64 + at, self.there.0 + at);
        // SAFETY: both ranges are this value's, copies of one way follow each other, and what is
        // enqueued is waited for before the memory is given back.
        unsafe { way.copy(stream, Span { host, device, bytes }) }
    }

    /// How long a large copy from pageable into pinned memory takes; 0 on a simulated device.
    fn staging(&self) -> u64 {
        if self.pageable.is_empty() {
            return 0;
        }
        let started = Instant::now();
        let (dst, src) = (self.here.as_ptr(), self.pageable.as_ptr());
        // SAFETY: both are this value's and large enough; no copy is in flight between rounds.
        unsafe { copy_striped(dst, src, self.pageable.len(), copy_threads(), Stores::Cached) };
        started.elapsed().as_nanos().max(1) as u64
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for stream in &self.streams {
            if let Err(error) = stream.synchronize().or_else(|_: Error| stream.synchronize()) {
                tracing::warn!(%error, "memory of a calibration is left: copies may use it");
                return;
            }
        }
        let log = |given_back: DeviceResult<()>| {
            if let Err(error) = given_back {
                tracing::warn!(%error, "the driver did not take back a calibration's memory");
            }
        };
        // SAFETY: both were taken in `new`, and the streams that used them are done.
        unsafe {
            log(self.driver().free(self.there));
            log(self.driver().free_pinned(self.here));
        }
    }
}
