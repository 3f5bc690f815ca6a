//! One steady pass as it goes: when the link copies, when compute runs, how full the ring is.

use riverbed::plan::{DeviceRates, PhasePlan, Plan, UnitPlan};

/// Passes before the one that is shown, in which the ring fills and finds its rhythm.
const PASSES_BEFORE: usize = 24;

/// A stretch of time, in seconds from the start of the pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Stretch {
    pub(super) start: f64,
    pub(super) end: f64,
    /// Bytes in the ring at its end, of those copied and not yet freed.
    pub(super) ring_bytes: f64,
}

/// A pass.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Timeline {
    pub(super) seconds: f64,
    /// When the link copies.
    pub(super) copies: Vec<Stretch>,
    /// When each unit computes.
    pub(super) computes: Vec<Stretch>,
}

impl Timeline {
    /// A steady pass of `phase`.
    pub(super) fn of(phase: &PhasePlan, plan: &Plan) -> Self {
        let (prefetch, ring_bytes) = (plan.rules.prefetch, phase.plan.ring_bytes as f64);
        let bytes_per_second = rate_of(phase, &plan.rates);
        let mut clock = Clock { bytes_per_second, ..Clock::default() };
        let mut pass = Self::default();
        for number in 0..=PASSES_BEFORE {
            if number == PASSES_BEFORE {
                clock.copies.clear();
                pass.seconds = -clock.now;
            }
            for unit in &phase.plan.units {
                let streamed = unit.bytes.saturating_sub(unit.resident_bytes) as f64;
                clock.wanted += streamed;
                // A unit that could never have room is taken whole all the same.
                clock.copy_until(clock.wanted, f64::INFINITY);
                let start = clock.now;
                if prefetch {
                    let room_ends = clock.freed + ring_bytes;
                    clock.copy_until(room_ends, start + unit.compute_seconds);
                }
                clock.now = start + unit.compute_seconds;
                if number == PASSES_BEFORE {
                    let there = clock.copied - clock.freed;
                    pass.computes.push(Stretch { start, end: clock.now, ring_bytes: there });
                }
                clock.freed = clock.wanted;
            }
        }
        let began = -pass.seconds;
        pass.seconds += clock.now;
        pass.copies = clock.copies;
        for stretch in pass.copies.iter_mut().chain(&mut pass.computes) {
            stretch.start -= began;
            stretch.end -= began;
        }
        pass
    }
}

/// Bytes of device memory that the link fills in a second, over all of a pass: calls cost time,
/// and what is cast on arrival is fewer bytes on the way.
fn rate_of(phase: &PhasePlan, rates: &DeviceRates) -> f64 {
    let streamed = |unit: &UnitPlan| unit.bytes.saturating_sub(unit.resident_bytes);
    let units = phase.plan.units.iter().filter(|unit| streamed(unit) > 0);
    let (mut bytes, mut seconds) = (0.0, 0.0);
    for unit in units {
        let share = streamed(unit) as f64 / unit.bytes as f64;
        bytes += streamed(unit) as f64;
        let wire_bytes = unit.wire_bytes as f64 * share;
        seconds += wire_bytes / rates.link_bytes_per_second + rates.copy_seconds;
    }
    if seconds > 0.0 { bytes / seconds } else { rates.link_bytes_per_second }
}

/// Time and bytes so far; byte positions count all bytes ever copied.
#[derive(Debug, Default)]
struct Clock {
    bytes_per_second: f64,
    now: f64,
    copied: f64,
    wanted: f64,
    freed: f64,
    copies: Vec<Stretch>,
}

impl Clock {
    /// Copies up to a byte or a time, whichever comes first; time goes on to the copy's end.
    fn copy_until(&mut self, byte: f64, end: f64) {
        let seconds = ((byte - self.copied) / self.bytes_per_second).min(end - self.now);
        if seconds <= 0.0 {
            return;
        }
        let start = self.now;
        self.now += seconds;
        self.copied += seconds * self.bytes_per_second;
        let ring_bytes = self.copied - self.freed;
        self.copies.push(Stretch { start, end: self.now, ring_bytes });
    }
}
