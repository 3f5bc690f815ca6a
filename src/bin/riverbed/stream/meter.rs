//! Device time of each unit of a pass: when its stream asked for it, when it had it, when it
//! was done with it.

use riverbed::Result;
use riverbed::device::{Device, Event, Stream};

/// Three marks for each unit, recorded anew in every pass.
pub(super) struct Meter(Vec<Marks>);

/// The marks of one unit.
pub(super) struct Marks {
    asked: Event,
    ready: Event,
    done: Event,
}

/// Sums over a pass, in nanoseconds of device time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times {
    /// The stream worked on units.
    pub(super) compute_ns: u64,
    /// The stream waited for units.
    pub(super) stall_ns: u64,
}

impl Meter {
    pub(super) fn new(device: &Device, units: usize) -> Result<Self> {
        let event = || Event::with_timing(device);
        let marks = || Ok(Marks { asked: event()?, ready: event()?, done: event()? });
        Ok(Self((0..units).map(|_| marks()).collect::<Result<_>>()?))
    }

    pub(super) fn unit(&self, unit: usize) -> &Marks {
        &self.0[unit]
    }

    /// How many units, from number `done` on, the stream is through with.
    pub(super) fn reached(&self, done: usize) -> Result<usize> {
        let mut reached = done;
        while reached < self.0.len() && self.0[reached].done.query()? {
            reached += 1;
        }
        Ok(reached)
    }

    /// The times of a pass that is over.
    pub(super) fn times(&self) -> Result<Times> {
        let mut times = Times::default();
        for marks in &self.0 {
            times.stall_ns += marks.ready.elapsed_ns_since(&marks.asked)?;
            times.compute_ns += marks.done.elapsed_ns_since(&marks.ready)?;
        }
        Ok(times)
    }
}

impl Marks {
    pub(super) fn asked(&self, stream: &Stream) -> Result<()> {
        self.asked.record(stream)
    }

    pub(super) fn ready(&self, stream: &Stream) -> Result<()> {
        self.ready.record(stream)
    }

    pub(super) fn done(&self, stream: &Stream) -> Result<()> {
        self.done.record(stream)
    }
}
