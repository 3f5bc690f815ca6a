//! The passes: lease, checksum, let go, unit after unit, as a model's forward pass would; then
//! the checksums come back and are compared.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use indicatif::{ProgressBar, ProgressStyle};
use riverbed::device::{Call, Device, Priority, Stream};
use riverbed::offload::StreamedModel;
use riverbed::pinned::PinnedBlock;
use riverbed::pool::Buffer;
use riverbed::prefetch::{PassStalls, PrefetchStats};
use riverbed::transfer::Transfer;

use super::meter::Meter;
use super::parts::Parts;
use crate::Failure;
use crate::expected::{Expected, Part};

/// How often the progress bar and Ctrl-C are looked at while the device works.
const LOOK: Duration = Duration::from_millis(50);

/// What to run.
pub(super) struct Settings {
    pub(super) passes: u32,
    pub(super) layer_ns: u64,
    /// Whether checksums of the file are compared with.
    pub(super) verifies: bool,
    pub(super) interrupted: Arc<AtomicBool>,
}

/// What came of it.
pub(super) struct Outcome {
    pub(super) passes: Vec<Pass>,
    /// Tensors of the parts whose checksum was wrong, pass after pass.
    pub(super) mismatches: Vec<String>,
    pub(super) bytes_verified: u64,
    /// The prefetcher's counters over the passes alone.
    pub(super) prefetch: PrefetchStats,
}

/// One pass.
pub(super) struct Pass {
    pub(super) seconds: f64,
    /// Where its time went on the device.
    pub(super) stalls: PassStalls,
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
    parts: Parts,
    /// One checksum for each part, on the device.
    sums: Buffer<u64>,
    transfer: Transfer,
    bar: ProgressBar,
}

pub(super) fn run(
    device: &Device,
    streamed: &StreamedModel,
    settings: &Settings,
) -> Result<Outcome, Failure> {
    let parts = Parts::of(streamed);
    let mut expected = match settings.verifies {
        true => Some(Expected::start(streamed.model(), &parts.all)?),
        false => None,
    };
    let stream = Stream::new(device, Priority::Normal)?;
    let mut sums_on_host = streamed.pinned().alloc(8 * parts.all.len())?;
    let runner = Runner {
        meter: Meter::new(device, streamed.units().len())?,
        sums: streamed.allocator().alloc::<u64>(parts.all.len(), &stream)?,
        transfer: Transfer::new(device)?,
        parts,
        bar: progress_bar(settings.passes, streamed.units().len()),
        device,
        streamed,
        settings,
        stream,
    };
    let loaded = streamed.prefetcher().stats();
    let mut expected_sums = Vec::new();
    let mut outcome = Outcome {
        passes: Vec::new(),
        mismatches: Vec::new(),
        bytes_verified: 0,
        prefetch: PrefetchStats::default(),
    };
    for number in 0..settings.passes {
        let (pass, sums) = runner.pass(number, sums_on_host)?;
        sums_on_host = sums;
        if number == 0 && settings.passes > 1 {
            // Later passes are steady: what is to keep the layers is pinned by then.
            streamed.prefetcher().wait_for_homes();
        }
        if let Some(expected) = expected.take() {
            while !expected.is_done() {
                runner.check_interrupt(number)?;
                std::thread::sleep(LOOK / 10);
            }
            expected_sums = expected.finish()?;
        }
        if settings.verifies {
            runner.compare(&sums_on_host, &expected_sums, &mut outcome);
        }
        outcome.passes.push(pass);
    }
    runner.bar.finish_and_clear();
    let now = streamed.prefetcher().stats();
    outcome.prefetch = now;
    outcome.prefetch.bytes_moved -= loaded.bytes_moved;
    outcome.prefetch.arrived_bytes -= loaded.arrived_bytes;
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
        // A checksum that does not run must not pass for the one of the pass before.
        self.sums.fill(0xff, &self.stream)?;
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
            stalls: report.stalls.unwrap_or_default(),
            host_waits,
            device_allocs: calls.sum(Call::ALLOCATING) - allocs_before,
            bytes_moved: report.stats.bytes_moved - moved_before,
        };
        Ok((pass, sums))
    }

    /// One unit's work: nothing here waits for the device.
    fn enqueue(&self, unit: usize) -> Result<(), Failure> {
        let lease = self.streamed.acquire(unit, &self.stream)?;
        for (tensor, slot) in lease.tensors().zip(self.parts.first_of_unit[unit]..) {
            lease.checksum(tensor.name, &self.sums, slot)?;
        }
        if let Some(residents) = self.streamed.residents() {
            for &slot in &self.parts.residents_of_unit[unit] {
                let Part { tensor, offset_bytes, len_bytes } = self.parts.all[slot];
                let name = &self.streamed.model().tensors()[tensor].name;
                let range = offset_bytes..offset_bytes + len_bytes;
                residents.checksum(name, range, &self.sums, slot, &self.stream)?;
            }
        }
        if self.settings.layer_ns > 0 {
            self.stream.busy(self.settings.layer_ns)?;
        }
        Ok(self.meter.done(unit, &self.stream)?)
    }

    /// Lets the device work, with the progress bar going and an eye on Ctrl-C. The stream
    /// itself says when it is through, so that the next pass begins at once.
    fn wait_for_pass(&self, number: u32) -> Result<(), Failure> {
        let units = self.streamed.units().len();
        let (through, end) = crossbeam_channel::bounded::<()>(0);
        self.stream.launch_host(Box::new(move || drop(through)))?;
        let mut done = 0;
        while end.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            done = self.meter.reached(done)?;
            self.bar.set_position(u64::from(number) * units as u64 + done as u64);
            self.check_interrupt(number)?;
        }
        self.bar.set_position(u64::from(number + 1) * units as u64);
        Ok(())
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
        assert_eq!(expected.len(), self.parts.all.len(), "every part has its checksum");
        let sums = sums.as_chunks::<8>().0.iter().map(|sum| u64::from_le_bytes(*sum));
        for ((part, sum), expected) in self.parts.all.iter().zip(sums).zip(expected) {
            if sum == *expected {
                outcome.bytes_verified += part.len_bytes;
            } else {
                let tensor = &self.streamed.model().tensors()[part.tensor];
                outcome.mismatches.push(tensor.name.clone());
            }
        }
    }
}

fn progress_bar(passes: u32, units: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("streaming {wide_bar} {pos}/{len} units, {eta} left");
    let bar = ProgressBar::new(u64::from(passes) * units as u64);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
