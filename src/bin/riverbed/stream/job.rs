//! The passes: lease, checksum, let go, unit after unit, as a model's forward pass would; then
//! the checksums come back and are compared.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use riverbed::device::{Call, Device, Priority, Stream};
use riverbed::offload::StreamedModel;
use riverbed::pinned::PinnedBlock;
use riverbed::pool::Buffer;
use riverbed::prefetch::PrefetchStats;
use riverbed::transfer::Transfer;

use super::expected::Expected;
use super::meter::{Meter, Times};
use crate::Failure;

/// How often the progress bar and Ctrl-C are looked at while the device works.
const POLL: Duration = Duration::from_millis(2);

/// What to run.
pub(super) struct Settings {
    pub(super) passes: u32,
    pub(super) layer_ns: u64,
    pub(super) interrupted: Arc<AtomicBool>,
}

/// What came of it.
pub(super) struct Outcome {
    pub(super) passes: Vec<Pass>,
    /// Tensors whose checksum was wrong, by pass.
    pub(super) mismatches: Vec<String>,
    pub(super) bytes_verified: u64,
    /// The prefetcher's counters over the passes alone.
    pub(super) prefetch: PrefetchStats,
}

/// One pass.
pub(super) struct Pass {
    pub(super) seconds: f64,
    pub(super) times: Times,
    /// Times the host blocked while the pass was being enqueued.
    pub(super) host_waits: u64,
    /// Driver calls that take memory or handles.
    pub(super) device_allocs: u64,
    pub(super) bytes_moved: u64,
}

/// Everything a pass needs, made once.
struct Runner<'a> {
    device: &'a Device,
    streamed: &'a StreamedModel,
    settings: &'a Settings,
    stream: Stream,
    meter: Meter,
    /// One checksum for each tensor of the model, on the device.
    sums: Buffer<u64>,
    transfer: Transfer,
    /// For each unit, the residents checked after it: their bytes are spread over the pass,
    /// as their use in a model is.
    resident_shares: Vec<Vec<usize>>,
    bar: ProgressBar,
}

pub(super) fn run(
    device: &Device,
    streamed: &StreamedModel,
    settings: &Settings,
) -> Result<Outcome, Failure> {
    let expected = Expected::start(streamed)?;
    let stream = Stream::new(device, Priority::Normal)?;
    let tensors = streamed.model().tensors().len();
    let mut sums_on_host = streamed.pinned().alloc(8 * tensors)?;
    let runner = Runner {
        meter: Meter::new(device, streamed.units().len())?,
        sums: streamed.allocator().alloc::<u64>(tensors, &stream)?,
        transfer: Transfer::new(device)?,
        resident_shares: share_residents(streamed),
        bar: progress_bar(settings.passes, streamed.units().len()),
        device,
        streamed,
        settings,
        stream,
    };
    let loaded = streamed.prefetcher().stats();
    let mut expected_sums = None;
    let mut expected = Some(expected);
    let mut outcome = Outcome {
        passes: Vec::new(),
        mismatches: Vec::new(),
        bytes_verified: 0,
        prefetch: PrefetchStats::default(),
    };
    for number in 0..settings.passes {
        let (pass, sums) = runner.pass(number, sums_on_host)?;
        sums_on_host = sums;
        if let Some(expected) = expected.take() {
            expected_sums = Some(expected.finish()?);
        }
        runner.compare(&sums_on_host, expected_sums.as_deref().unwrap_or_default(), &mut outcome);
        outcome.passes.push(pass);
    }
    runner.bar.finish_and_clear();
    let now = streamed.prefetcher().stats();
    outcome.prefetch = now;
    outcome.prefetch.bytes_moved -= loaded.bytes_moved;
    outcome.prefetch.copy_busy_ns -= loaded.copy_busy_ns;
    Ok(outcome)
}

impl Runner<'_> {
    fn pass(&self, number: u32, sums: PinnedBlock) -> Result<(Pass, PinnedBlock), Failure> {
        let calls = self.device.calls();
        let waits = || calls.sum(&[Call::SynchronizeStream, Call::SynchronizeEvent]);
        let (allocs_before, waits_before) = (calls.sum(Call::ALLOCATING), waits());
        let moved_before = self.streamed.prefetcher().stats().bytes_moved;
        let started = Instant::now();
        let last = number + 1 == self.settings.passes;
        self.streamed.prefetcher().set_wraps(!last);
        for unit in 0..self.streamed.units().len() {
            self.check_interrupt(number)?;
            self.enqueue(unit)?;
        }
        let host_waits = waits() - waits_before;
        self.wait_for_pass(number)?;
        let report = self.streamed.finish_pass(&self.stream)?.into_result()?;
        let sums = self.transfer.download(&self.sums, 0, sums)?.wait()?;
        let pass = Pass {
            seconds: started.elapsed().as_secs_f64(),
            times: self.meter.times()?,
            host_waits,
            device_allocs: calls.sum(Call::ALLOCATING) - allocs_before,
            bytes_moved: report.stats.bytes_moved - moved_before,
        };
        Ok((pass, sums))
    }

    /// One unit's work: nothing here waits for the device.
    fn enqueue(&self, unit: usize) -> Result<(), Failure> {
        let marks = self.meter.unit(unit);
        marks.asked(&self.stream)?;
        let lease = self.streamed.acquire(unit, &self.stream)?;
        marks.ready(&self.stream)?;
        for (&slot, tensor) in self.streamed.units()[unit].tensors.iter().zip(lease.tensors()) {
            lease.checksum(tensor.name, &self.sums, slot)?;
        }
        if let Some(residents) = self.streamed.residents() {
            for &slot in &self.resident_shares[unit] {
                let name = &self.streamed.model().tensors()[slot].name;
                residents.checksum(name, &self.sums, slot, &self.stream)?;
            }
        }
        if self.settings.layer_ns > 0 {
            self.stream.busy(self.settings.layer_ns)?;
        }
        Ok(marks.done(&self.stream)?)
    }

    /// Lets the device work, with the progress bar going and an eye on Ctrl-C.
    fn wait_for_pass(&self, number: u32) -> Result<(), Failure> {
        let units = self.streamed.units().len();
        let mut done = 0;
        loop {
            done = self.meter.reached(done)?;
            self.bar.set_position(u64::from(number) * units as u64 + done as u64);
            if done == units {
                return Ok(());
            }
            self.check_interrupt(number)?;
            std::thread::sleep(POLL);
        }
    }

    fn check_interrupt(&self, passes_done: u32) -> Result<(), Failure> {
        if !self.settings.interrupted.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.streamed.prefetcher().cancel();
        self.bar.finish_and_clear();
        Err(Failure::Interrupted(format!("interrupted after {passes_done} pass(es)")))
    }

    fn compare(&self, sums: &[u8], expected: &[u64], outcome: &mut Outcome) {
        let sums = sums.as_chunks::<8>().0.iter().map(|sum| u64::from_le_bytes(*sum));
        for ((tensor, sum), expected) in
            self.streamed.model().tensors().iter().zip(sums).zip(expected)
        {
            if sum == *expected {
                outcome.bytes_verified += tensor.len_bytes;
            } else {
                outcome.mismatches.push(tensor.name.clone());
            }
        }
    }
}

/// Deals the residents out to the units, largest first, each to the unit with the least.
fn share_residents(streamed: &StreamedModel) -> Vec<Vec<usize>> {
    let size = |tensor: usize| streamed.model().tensors()[tensor].len_bytes;
    let units = streamed.units().len();
    let mut shares = vec![Vec::new(); units];
    let mut least: BTreeSet<(u64, usize)> = (0..units).map(|unit| (0, unit)).collect();
    let mut residents = streamed.placement().residents.clone();
    residents.sort_by_key(|&tensor| std::cmp::Reverse(size(tensor)));
    for tensor in residents {
        if let Some((bytes, unit)) = least.pop_first() {
            shares[unit].push(tensor);
            least.insert((bytes + size(tensor), unit));
        }
    }
    shares
}

fn progress_bar(passes: u32, units: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("streaming {wide_bar} {pos}/{len} units, {eta} left");
    let bar = ProgressBar::new(u64::from(passes) * units as u64);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
