//! An independent replay of a planned pass: what `seconds_per_pass` is held against. It shares
//! nothing with the planner but the meaning of its figures.
//!
//! One copy engine at a constant rate copies the streamed bytes in the order of use, pass after
//! pass without a break. A byte is copied once the ring has room for it. Units compute one after
//! another, each once all of its bytes are there; its room is free again at its end.
// Each test crate compiles this file for itself and uses a part of it.
#![allow(dead_code)]

/// One unit of the pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ReplayUnit {
    /// Bytes that are copied in every pass.
    pub(crate) streamed_bytes: u64,
    /// Seconds of its compute.
    pub(crate) compute_seconds: f64,
}

/// A pass, ready to be replayed.
#[derive(Debug, Clone)]
pub(crate) struct PassReplay {
    pub(crate) units: Vec<ReplayUnit>,
    pub(crate) ring_bytes: u64,
    pub(crate) bytes_per_second: f64,
    /// Whether copies run beside compute, or only while compute waits for them.
    pub(crate) prefetch: bool,
}

/// More passes than any steady state needs to show.
const MOST_PASSES: usize = 4096;

impl PassReplay {
    /// Seconds of a pass once passes are alike: the mean over the later half of twice as many
    /// passes as before, until that changes no more. `None` when some unit never fits the ring.
    pub(crate) fn steady_seconds(&self) -> Option<f64> {
        let fits = |unit: &ReplayUnit| unit.streamed_bytes <= self.ring_bytes;
        if !self.units.iter().all(fits) {
            return None;
        }
        let ends = self.pass_ends(MOST_PASSES);
        let mean = |passes: usize| (ends[passes - 1] - ends[passes / 2 - 1]) / (passes / 2) as f64;
        let (mut passes, mut seconds) = (16, mean(8));
        while passes < MOST_PASSES {
            let next = mean(passes);
            if (next - seconds).abs() <= 1e-9 * next {
                return Some(next);
            }
            seconds = next;
            passes *= 2;
        }
        Some(mean(MOST_PASSES))
    }

    /// When each of the first passes ends. Byte positions count all bytes ever copied.
    fn pass_ends(&self, passes: usize) -> Vec<f64> {
        let (mut now, mut copied, mut wanted, mut freed) = (0.0_f64, 0.0_f64, 0.0_f64, 0.0_f64);
        let mut ends = Vec::with_capacity(passes);
        for _ in 0..passes {
            for unit in &self.units {
                wanted += unit.streamed_bytes as f64;
                // Only this unit's own bytes are waited for: their room is free, since all units
                // before it have ended.
                if copied < wanted {
                    now += (wanted - copied) / self.bytes_per_second;
                    copied = wanted;
                }
                // While it computes, the copies behind it go on as far as the ring has room.
                if self.prefetch {
                    let room_ends = freed + self.ring_bytes as f64;
                    let reached = copied + unit.compute_seconds * self.bytes_per_second;
                    copied = reached.min(room_ends).max(copied);
                }
                now += unit.compute_seconds;
                freed = wanted;
            }
            ends.push(now);
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A replay at one byte a second.
    fn replay(units: &[(u64, f64)], ring_bytes: u64) -> PassReplay {
        let unit =
            |&(streamed_bytes, compute_seconds)| ReplayUnit { streamed_bytes, compute_seconds };
        let units = units.iter().map(unit).collect();
        PassReplay { units, ring_bytes, bytes_per_second: 1.0, prefetch: true }
    }

    #[track_caller]
    fn expect(replay: &PassReplay, seconds: f64) {
        let found = replay.steady_seconds().unwrap();
        assert!((found - seconds).abs() < 1e-6, "{found} s, not {seconds} s: {replay:?}");
    }

    #[test]
    fn of_two_slots_the_slower_of_copy_and_compute_counts() {
        expect(&replay(&[(10, 4.0), (10, 4.0)], 20), 20.0);
        expect(&replay(&[(10, 12.0), (10, 12.0)], 20), 24.0);
    }

    #[test]
    fn one_slot_takes_turns() {
        expect(&replay(&[(10, 4.0), (10, 4.0)], 10), 28.0);
    }

    #[test]
    fn without_prefetch_compute_waits_for_every_byte() {
        let blocking = PassReplay { prefetch: false, ..replay(&[(10, 4.0), (6, 5.0)], 100) };
        expect(&blocking, 25.0);
    }

    #[test]
    fn residents_take_compute_alone_and_hide_others() {
        expect(&replay(&[(0, 3.0), (0, 4.0)], 0), 7.0);
        expect(&replay(&[(10, 1.0), (0, 9.0)], 20), 10.0);
    }

    /// Half a slot beyond the unit in use: 5 of the next 10 bytes are copied beside compute.
    #[test]
    fn bytes_are_admitted_as_far_as_there_is_room() {
        expect(&replay(&[(10, 7.0)], 15), 12.0);
    }

    #[test]
    fn slack_is_banked_across_the_end_of_a_pass() {
        expect(&replay(&[(18, 10.0), (2, 10.0)], 40), 20.0);
        // With room for one and a bit, the big unit's copy is not done in time.
        expect(&replay(&[(18, 10.0), (2, 10.0)], 20), 28.0);
    }

    #[test]
    fn a_unit_larger_than_the_ring_never_runs() {
        assert_eq!(replay(&[(10, 1.0)], 9).steady_seconds(), None);
    }
}
