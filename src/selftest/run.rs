//! A whole run: checks, then measurements, then the bars the project sets itself.

use super::check::{Outcome, PATIENCE};
use super::lab::Lab;
use super::measure::{Figures, Measurement, Meter, SUBJECTS};
use super::{Finding, checks};
use crate::base::{Error, MIB, Result};
use crate::device::{Device, DeviceInfo, MemoryInfo};

/// Device memory that checks take at most at once, roughly.
const LEAST_BYTES: u64 = 64 * MIB;

/// What a run is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Options {
    /// Fewer sizes and repeats: seconds in place of minutes.
    pub quick: bool,
}

impl Options {
    /// A run of some seconds, or of minutes.
    #[must_use]
    pub fn new(quick: bool) -> Self {
        Self { quick }
    }
}

/// Somebody who looks on.
pub trait Watch {
    /// `what` begins: step `step` of `steps`.
    fn begins(&self, what: &str, step: usize, steps: usize);
    /// Whether to stop; asked between checks and between the rounds of a measurement.
    fn stop(&self) -> bool;
}

/// Nobody looks on, and it runs to its end.
impl Watch for () {
    fn begins(&self, _what: &str, _step: usize, _steps: usize) {}

    fn stop(&self) -> bool {
        false
    }
}

/// A check that ran, or was skipped.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Checked {
    /// What it is about.
    pub group: String,
    /// What must be so.
    pub name: String,
    /// `passed`, `skipped` or `failed`.
    pub outcome: &'static str,
    /// Why it was skipped.
    pub reason: Option<String>,
    /// What was found wrong.
    pub finding: Option<Finding>,
}

impl Checked {
    fn new(group: &str, name: &str, outcome: Outcome) -> Self {
        let (word, reason, finding) = match outcome {
            Outcome::Passed => ("passed", None, None),
            Outcome::Skipped(reason) => ("skipped", Some(reason), None),
            Outcome::Failed(finding) => ("failed", None, Some(finding)),
        };
        Self { group: group.into(), name: name.into(), outcome: word, reason, finding }
    }
}

/// A figure the project means to reach. Missing it is no failure.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Bar {
    /// What is compared.
    pub name: &'static str,
    /// The figure.
    pub value: f64,
    /// The least, or the most, it should be.
    pub bar: f64,
    /// Whether it is.
    pub met: bool,
}

/// What a run found.
#[derive(Debug, serde::Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Of this form: 1.
    pub version: u32,
    /// The device.
    pub device: DeviceInfo,
    /// Whether it was a quick run.
    pub quick: bool,
    /// Memory of the device before anything ran.
    pub memory_before: MemoryInfo,
    /// And after everything.
    pub memory_after: MemoryInfo,
    /// How many checks passed.
    pub passed: usize,
    /// How many were skipped.
    pub skipped: usize,
    /// How many failed.
    pub failed: usize,
    /// Every check. A measurement that could not be taken stands among them.
    pub checks: Vec<Checked>,
    /// Every figure.
    pub measurements: Vec<Measurement>,
    /// What the figures come to.
    pub bars: Vec<Bar>,
    #[serde(skip)]
    figures: Figures,
}

impl Report {
    /// What was measured as a profile of the simulator, which `sim:profile=FILE` opens.
    ///
    /// # Errors
    /// A figure that no profile can be without was not measured.
    pub fn profile(&self) -> Result<String> {
        self.figures.profile(&self.device).map_err(|reason| Error::Unsupported {
            what: "a profile".into(),
            by: format!("what was measured of {}", self.device.name),
            way_out: reason,
        })
    }
}

/// Runs every check on `device`, then measures it. Blocks for some minutes on a card, for some
/// seconds when quick.
///
/// # Errors
/// [`Error::Cancelled`] once `watch` says so; [`Error::TooLarge`] with less than 64 MiB free;
/// the device does not tell its memory.
pub fn run(device: &Device, options: Options, watch: &dyn Watch) -> Result<Report> {
    let memory_before = device.memory()?;
    if memory_before.free_bytes < LEAST_BYTES {
        return Err(Error::TooLarge {
            what: format!("the selftest of {}", device.info().name),
            requested_bytes: LEAST_BYTES,
            available_bytes: memory_before.free_bytes,
            way_out: "free device memory, or open the device with more".into(),
        });
    }
    let all: Vec<_> = checks().collect();
    let steps = all.len() + SUBJECTS.len();
    let mut checks = Vec::new();
    for (step, check) in (1..).zip(&all) {
        begin(watch, &check.to_string(), step, steps)?;
        checks.push(Checked::new(check.group(), check.name(), check.run(device)));
    }
    let stop = || watch.stop();
    let mut meter = Meter::new(device, options.quick, &stop);
    for (step, (subject, measure)) in (all.len() + 1..).zip(SUBJECTS) {
        begin(watch, &format!("measuring {subject}"), step, steps)?;
        let outcome =
            super::check::guarded(Lab::new(device, PATIENCE), |lab| measure(lab, &mut meter));
        match outcome {
            Ok(None) => {}
            Ok(Some(reason)) => {
                checks.push(Checked::new("measured", subject, Outcome::Skipped(reason.into())));
            }
            Err(finding) => {
                checks.push(Checked::new("measured", subject, Outcome::Failed(finding)))
            }
        }
    }
    begin(watch, "done", steps, steps)?;
    let count = |outcome| checks.iter().filter(|check| check.outcome == outcome).count();
    Ok(Report {
        version: 1,
        device: device.info().clone(),
        quick: options.quick,
        memory_before,
        memory_after: device.memory()?,
        passed: count("passed"),
        skipped: count("skipped"),
        failed: count("failed"),
        bars: bars(&meter.figures, device.info().simulated),
        checks,
        measurements: meter.results,
        figures: meter.figures,
    })
}

fn begin(watch: &dyn Watch, what: &str, step: usize, steps: usize) -> Result<()> {
    if watch.stop() {
        return Err(Error::Cancelled);
    }
    watch.begins(what, step, steps);
    Ok(())
}

/// The bars whose figures were measured.
fn bars(figures: &Figures, simulated: bool) -> Vec<Bar> {
    let ratio = |part: Option<f64>, whole: Option<f64>| {
        part.zip(whole).filter(|(_, whole)| *whole > 0.0).map(|(part, whole)| part / whole)
    };
    let at_most = |name, value: Option<f64>, bar| {
        value.map(|value| Bar { name, value, bar, met: value <= bar })
    };
    let at_least = |name, value: Option<f64>, bar| {
        value.map(|value| Bar { name, value, bar, met: value >= bar })
    };
    // The allocator's time is real, and must not be held against a virtual one.
    let pair = ratio(figures.cached_pair_ns, figures.pool_pair_ns).filter(|_| !simulated);
    let link = ratio(figures.streamed_gb_per_s, figures.h2d_gb_per_s);
    [
        at_most("cached pair of the driver pool's pair, at most", pair, 0.1),
        at_least("link rate of a streamed pass of large copies', at least", link, 0.97),
        at_most("streamed pass of max(compute, copies), at most", figures.streamed_ratio, 1.03),
    ]
    .into_iter()
    .flatten()
    .collect()
}
