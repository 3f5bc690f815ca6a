//! How fast a device is: one file a subject. Real devices are measured by the wall clock and by
//! their own events; the simulator by its virtual clock, so that the same code shows whether it
//! charges what its profile says.

mod allocators;
mod calls;
mod copies;
mod figures;
mod overlap;
mod pinning;
mod series;
mod streamed;
mod virtual_memory;

use std::time::Instant;

use super::finding::Finding;
use super::lab::Lab;
use crate::device::Device;

pub use series::Measurement;

pub(super) use figures::Figures;
use series::Series;

/// What is measured, in this order: later subjects use the figures of earlier ones.
pub(super) const SUBJECTS: &[(&str, Subject)] = &[
    ("calls", calls::measure),
    ("allocators", allocators::measure),
    ("virtual memory", virtual_memory::measure),
    ("copies", copies::measure),
    ("pinning", pinning::measure),
    ("overlap", overlap::measure),
    ("streamed pass", streamed::measure),
];

/// Measures one subject; `Ok` with a reason where the device lacks what is measured.
pub(super) type Subject = fn(&Lab, &mut Meter<'_>) -> Result<Option<&'static str>, Finding>;

/// Where a subject finds the time and leaves its results.
pub(super) struct Meter<'a> {
    device: &'a Device,
    begun: Instant,
    pub(super) quick: bool,
    stop: &'a dyn Fn() -> bool,
    pub(super) results: Vec<Measurement>,
    pub(super) figures: Figures,
}

impl<'a> Meter<'a> {
    pub(super) fn new(device: &'a Device, quick: bool, stop: &'a dyn Fn() -> bool) -> Self {
        Self {
            device,
            begun: Instant::now(),
            quick,
            stop,
            results: Vec::new(),
            figures: Figures::default(),
        }
    }

    /// Nanoseconds on the host's clock: the virtual one where the device has one.
    fn now_ns(&self) -> f64 {
        self.device.virtual_ns().map_or_else(|| self.real_ns(), |ns| ns as f64)
    }

    /// Nanoseconds of real time.
    fn real_ns(&self) -> f64 {
        self.begun.elapsed().as_nanos() as f64
    }

    /// `quick` when that was asked for, else `thorough`.
    fn either<T>(&self, thorough: T, quick: T) -> T {
        if self.quick { quick } else { thorough }
    }

    /// Nanoseconds of `work`, divided by `count`.
    fn each_ns(
        &self,
        count: usize,
        work: impl FnOnce() -> super::lab::Found,
    ) -> Result<f64, Finding> {
        let begun = self.now_ns();
        work()?;
        Ok((self.now_ns() - begun) / count.max(1) as f64)
    }

    fn series(&self, group: &'static str) -> Series {
        Series::new(group, self.quick, self.device.info().simulated)
    }

    fn stopped(&self) -> bool {
        (self.stop)()
    }
}
