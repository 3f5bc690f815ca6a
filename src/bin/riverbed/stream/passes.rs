//! The passes, phase after phase: lease, checksum, let go, unit after unit, as a model's forward
//! pass would; then the checksums come back and are compared.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use indicatif::{ProgressBar, ProgressStyle};
use riverbed::device::{Call, Device, Priority, Stream};
use riverbed::offload::{ComponentWeights, Offloaded};
use riverbed::pinned::PinnedBlock;
use riverbed::plan::{PhasePlan, Plan};
use riverbed::pool::Buffer;
use riverbed::prefetch::{PassStalls, PrefetchStats};
use riverbed::transfer::Transfer;

use super::meter::Meter;
use super::parts::Parts;
use super::planned::Planned;
use super::tally::Tally;
use crate::Failure;
use crate::expected::Expected;

/// How often the progress bar and Ctrl-C are looked at while the device works.
const LOOK: Duration = Duration::from_millis(50);

/// What to run.
pub(super) struct Settings {
    /// Added to each unit's work.
    pub(super) layer_seconds: f64,
    /// Whether checksums of the files are compared with.
    pub(super) verifies: bool,
    pub(super) interrupted: Arc<AtomicBool>,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Outcome {
    /// By phase.
    pub(super) phases: Vec<Vec<Pass>>,
    /// Tensors whose checksum was wrong, pass after pass.
    pub(super) mismatches: Vec<String>,
    pub(super) bytes_verified: u64,
    /// The ring's counters over the passes alone.
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
    offloaded: &'a Offloaded,
    settings: &'a Settings,
    stream: Stream,
    parts: Parts,
    /// One checksum for each part, on the device.
    sums: Buffer<u64>,
    transfer: Transfer,
    bar: ProgressBar,
}

/// What the passes of a phase have in common.
struct Phase {
    component: usize,
    /// Work to add to each unit.
    added_ns: Vec<u64>,
    meter: Meter,
}

pub(super) fn run(
    device: &Device,
    planned: &Planned,
    offloaded: &Offloaded,
    settings: &Settings,
) -> Result<Outcome, Failure> {
    let mut expecting = Vec::new();
    if settings.verifies {
        let start = |one: &ComponentWeights| Expected::start(&one.model);
        expecting = planned.weights.iter().map(start).collect::<Result<_, _>>()?;
    }
    let runner = Runner::new(device, planned, offloaded, settings)?;
    let mut sums_on_host = offloaded.pinned().alloc(8 * runner.parts.names.len())?;
    let mut tally = Tally::from(offloaded.prefetcher()?.stats());
    let mut expected = Vec::new();
    let mut outcome = Outcome::default();
    for (number, plan) in planned.plan.phases.iter().enumerate() {
        if number > 0 {
            offloaded.enter(number)?;
        }
        let phase = Phase::new(device, planned, number, settings.layer_seconds)?;
        let mut passes = Vec::new();
        for pass_number in 0..plan.passes {
            let (pass, sums) = runner.pass(&phase, sums_on_host)?;
            sums_on_host = sums;
            tally.note(offloaded.prefetcher()?.stats());
            passes.push(pass);
            if pass_number == 0 && plan.passes > 1 {
                // Later passes are steady: what is to keep the layers is pinned by then.
                offloaded.prefetcher()?.wait_for_homes();
            }
            for expecting in expecting.drain(..) {
                expected.extend(runner.wait_for(expecting)?);
            }
            if settings.verifies {
                runner.compare(plan.component, &sums_on_host, &expected, &mut outcome);
            }
        }
        outcome.phases.push(passes);
    }
    runner.bar.finish_and_clear();
    outcome.prefetch = tally.sums();
    Ok(outcome)
}

impl Phase {
    fn new(
        device: &Device,
        planned: &Planned,
        number: usize,
        layer_seconds: f64,
    ) -> Result<Self, Failure> {
        let plan = &planned.plan.phases[number];
        let added = planned.added_seconds(number, layer_seconds);
        Ok(Self {
            component: plan.component,
            added_ns: added.into_iter().map(|seconds| (seconds * 1e9) as u64).collect(),
            meter: Meter::new(device, plan.plan.units.len())?,
        })
    }
}

impl<'a> Runner<'a> {
    fn new(
        device: &'a Device,
        planned: &Planned,
        offloaded: &'a Offloaded,
        settings: &'a Settings,
    ) -> Result<Self, Failure> {
        let parts = Parts::of(&planned.weights);
        let stream = Stream::new(device, Priority::Normal)?;
        Ok(Self {
            sums: offloaded.allocator().alloc::<u64>(parts.names.len(), &stream)?,
            transfer: Transfer::new(device)?,
            bar: progress_bar(&planned.plan),
            parts,
            device,
            offloaded,
            settings,
            stream,
        })
    }

    fn pass(&self, phase: &Phase, sums: PinnedBlock) -> Result<(Pass, PinnedBlock), Failure> {
        let calls = self.device.calls();
        let waits = || calls.sum(&[Call::SynchronizeStream, Call::SynchronizeEvent]);
        let (allocs_before, waits_before) = (calls.sum(Call::ALLOCATING), waits());
        let moved_before = self.offloaded.prefetcher()?.stats().bytes_moved;
        let started = Instant::now();
        // A checksum that does not run must not pass for the one of the pass before.
        self.sums.fill(0xff, &self.stream)?;
        for unit in 0..phase.meter.units() {
            self.check_interrupt()?;
            self.enqueue(phase, unit)?;
        }
        let host_waits = waits() - waits_before;
        self.wait_for_pass(&phase.meter)?;
        let report = self.offloaded.finish_pass(&self.stream)?.into_result()?;
        let sums = self.transfer.download(&self.sums, 0, sums)?.wait()?;
        let pass = Pass {
            seconds: started.elapsed().as_secs_f64(),
            stalls: report.stalls.unwrap_or_default(),
            host_waits,
            device_allocs: calls.sum(Call::ALLOCATING) - allocs_before,
            bytes_moved: report.stats.bytes_moved.saturating_sub(moved_before),
        };
        Ok((pass, sums))
    }

    /// One unit's work: nothing here waits for the device.
    fn enqueue(&self, phase: &Phase, unit: usize) -> Result<(), Failure> {
        let lease = self.offloaded.acquire(unit, &self.stream)?;
        for tensor in lease.tensors() {
            // A tensor without a slot would be missed by the comparison.
            if let Some(slot) = self.parts.slot(phase.component, tensor.name) {
                lease.checksum(tensor.name, &self.sums, slot)?;
            }
        }
        match phase.added_ns.get(unit) {
            Some(&ns) if ns > 0 => self.stream.busy(ns)?,
            _ => {}
        }
        Ok(phase.meter.done(unit, &self.stream)?)
    }

    /// Lets the device work, with the progress bar going and an eye on Ctrl-C. The stream
    /// itself says when it is through, so that the next pass begins at once.
    fn wait_for_pass(&self, meter: &Meter) -> Result<(), Failure> {
        let before = self.bar.position();
        let (through, end) = crossbeam_channel::bounded::<()>(0);
        self.stream.launch_host(Box::new(move || drop(through)))?;
        let mut done = 0;
        while end.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            done = meter.reached(done)?;
            self.bar.set_position(before + done as u64);
            self.check_interrupt()?;
        }
        self.bar.set_position(before + meter.units() as u64);
        Ok(())
    }

    /// What checksums must be, with an eye on Ctrl-C.
    fn wait_for(&self, expecting: Expected) -> Result<Vec<u64>, Failure> {
        while !expecting.is_done() {
            self.check_interrupt()?;
            std::thread::sleep(LOOK / 10);
        }
        Ok(expecting.finish()?)
    }

    fn check_interrupt(&self) -> Result<(), Failure> {
        if !self.settings.interrupted.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.offloaded.prefetcher()?.cancel();
        self.bar.finish_and_clear();
        let passes = self.offloaded.stats().passes;
        Err(Failure::Interrupted(format!("interrupted after {passes} pass(es)")))
    }

    fn compare(&self, component: usize, sums: &[u8], expected: &[u64], outcome: &mut Outcome) {
        let parts = &self.parts;
        assert_eq!(expected.len(), parts.names.len(), "every part has its checksum");
        let sums: Vec<u64> =
            sums.as_chunks::<8>().0.iter().map(|sum| u64::from_le_bytes(*sum)).collect();
        for &slot in parts.checked(component) {
            if sums[slot] == expected[slot] {
                outcome.bytes_verified += parts.len_bytes[slot];
            } else {
                outcome.mismatches.push(parts.names[slot].clone());
            }
        }
    }
}

fn progress_bar(plan: &Plan) -> ProgressBar {
    let style = ProgressStyle::with_template("streaming {wide_bar} {pos}/{len} units, {eta} left");
    let units = |phase: &PhasePlan| u64::from(phase.passes) * phase.plan.units.len() as u64;
    let bar = ProgressBar::new(plan.phases.iter().map(units).sum());
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
