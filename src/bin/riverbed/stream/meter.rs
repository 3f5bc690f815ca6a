//! How far a pass has come, on the device.

use riverbed::Result;
use riverbed::device::{Device, Event, Stream};

/// A mark behind each unit's work, recorded anew in every pass.
pub(super) struct Meter(Vec<Event>);

impl Meter {
    pub(super) fn new(device: &Device, units: usize) -> Result<Self> {
        Ok(Self((0..units).map(|_| Event::new(device)).collect::<Result<_>>()?))
    }

    /// How many units there are.
    pub(super) fn units(&self) -> usize {
        self.0.len()
    }

    /// Marks the end of a unit's work.
    pub(super) fn done(&self, unit: usize, stream: &Stream) -> Result<()> {
        self.0[unit].record(stream)
    }

    /// How many units, from number `done` on, the stream is through with.
    pub(super) fn reached(&self, done: usize) -> Result<usize> {
        let mut reached = done;
        while reached < self.0.len() && self.0[reached].query()? {
            reached += 1;
        }
        Ok(reached)
    }
}
