//! A job run on paper: one link that copies in order, one compute queue, and room that is taken
//! byte by byte and given back at the end of each use.

/// One unit used once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Use {
    /// Phase it belongs to.
    pub(super) phase: usize,
    /// Bytes that take room when they are copied.
    pub(super) bytes: f64,
    /// Seconds the link takes for them.
    pub(super) link_seconds: f64,
    /// Bytes whose room is free when the use ends.
    pub(super) freed: f64,
    /// Seconds of compute.
    pub(super) compute_seconds: f64,
}

/// What a phase allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PhaseRoom {
    /// Bytes for what is copied; what stays throughout is not among them.
    pub(super) bytes: f64,
    /// Whether copies run ahead of compute.
    pub(super) prefetch: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Run {
    /// When each use ended, in seconds from the start.
    pub(super) ends: Vec<f64>,
    /// The most bytes there at any time of each phase, beside what stays throughout.
    pub(super) peaks: Vec<f64>,
}

/// Less than this is no byte: rounding of sums.
const NOTHING: f64 = 1e-3;

/// Runs the uses in order; `None` if one can never have room.
pub(super) fn simulate(uses: &[Use], rooms: &[PhaseRoom]) -> Option<Run> {
    let mut clock = Clock {
        uses,
        rooms,
        copied: 0.0,
        freed: 0.0,
        ended: 0,
        link: 0.0,
        run: Run { ends: Vec::with_capacity(uses.len()), peaks: vec![0.0; rooms.len()] },
    };
    for one in uses {
        clock.copy(one)?;
        let before = clock.run.ends.last().copied().unwrap_or(0.0);
        let start = if one.bytes > 0.0 { before.max(clock.link) } else { before };
        clock.run.ends.push(start + one.compute_seconds);
    }
    Some(clock.run)
}

struct Clock<'a> {
    uses: &'a [Use],
    rooms: &'a [PhaseRoom],
    /// Bytes copied so far, and bytes freed by the uses that ended before the link's time.
    copied: f64,
    freed: f64,
    ended: usize,
    /// The link's time.
    link: f64,
    run: Run,
}

impl Clock<'_> {
    /// Copies the bytes of a use, piece by piece as room frees.
    fn copy(&mut self, one: &Use) -> Option<()> {
        let Use { phase, bytes, link_seconds, .. } = *one;
        if bytes <= 0.0 {
            return Some(());
        }
        if !self.rooms[phase].prefetch {
            self.link = self.link.max(self.run.ends.last().copied().unwrap_or(0.0));
        }
        let seconds_a_byte = link_seconds / bytes;
        let need = self.copied + bytes;
        while need - self.copied > NOTHING {
            while self.run.ends.get(self.ended).is_some_and(|&end| end <= self.link) {
                self.end_one();
            }
            let room = self.room(phase) - (self.copied - self.freed);
            if room <= NOTHING {
                self.link = self.link.max(*self.run.ends.get(self.ended)?);
                self.end_one();
                continue;
            }
            let piece = room.min(need - self.copied);
            self.copied += piece;
            self.link += piece * seconds_a_byte;
            let there = self.copied - self.freed;
            let computing = self.computing();
            let peak = &mut self.run.peaks[computing];
            *peak = peak.max(there);
        }
        Some(())
    }

    fn end_one(&mut self) {
        self.freed += self.uses[self.ended].freed;
        self.ended += 1;
    }

    /// The phase compute is in.
    fn computing(&self) -> usize {
        let last = self.uses.len().saturating_sub(1);
        self.uses.get(self.ended.min(last)).map_or(0, |next| next.phase)
    }

    /// Room for bytes of a phase: what each phase from the one computing to that one allows, for
    /// the bytes stay until then.
    fn room(&self, phase: usize) -> f64 {
        let rooms = &self.rooms[self.computing().min(phase)..=phase];
        rooms.iter().map(|room| room.bytes).fold(f64::INFINITY, f64::min)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unit(bytes: f64, compute_seconds: f64) -> Use {
        Use { phase: 0, bytes, link_seconds: bytes, freed: bytes, compute_seconds }
    }

    fn room(bytes: f64) -> PhaseRoom {
        PhaseRoom { bytes, prefetch: true }
    }

    #[test]
    fn a_copy_goes_on_as_far_as_there_is_room_and_no_farther() {
        // While the first computes, half of the second fits beside it.
        let uses = [unit(2.0, 10.0), unit(2.0, 10.0)];
        let run = simulate(&uses, &[room(3.0)]).unwrap();
        assert_eq!(run.ends, [12.0, 23.0]);
        assert_eq!(run.peaks, [3.0]);
    }

    #[test]
    fn blocking_copies_begin_when_compute_waits() {
        let uses = [unit(2.0, 10.0), unit(2.0, 10.0)];
        let blocking = PhaseRoom { bytes: 9.0, prefetch: false };
        assert_eq!(simulate(&uses, &[blocking]).unwrap().ends, [12.0, 24.0]);
    }

    #[test]
    fn what_never_has_room_never_runs() {
        assert_eq!(simulate(&[unit(2.0, 1.0)], &[room(1.0)]), None);
    }

    #[test]
    fn the_next_phase_is_loaded_while_the_last_one_computes_as_far_as_both_have_room() {
        let next = Use { phase: 1, ..unit(2.0, 1.0) };
        let uses = [unit(1.0, 10.0), next];
        assert_eq!(simulate(&uses, &[room(9.0), room(9.0)]).unwrap().ends, [11.0, 12.0]);
        // The first phase leaves one byte of the next one's two.
        assert_eq!(simulate(&uses, &[room(2.0), room(9.0)]).unwrap().ends, [11.0, 13.0]);
    }

    proptest! {
        #[test]
        fn room_is_kept_at_every_event(
            units in proptest::collection::vec((0.0..9.0f64, 0.0..9.0f64, 0..3usize), 1..40),
            rooms in proptest::collection::vec(9.0..30.0f64, 3),
        ) {
            let mut uses: Vec<Use> = units.iter().map(|&(bytes, seconds, phase)| {
                Use { phase, ..unit(bytes, seconds) }
            }).collect();
            uses.sort_by_key(|one| one.phase);
            let rooms: Vec<PhaseRoom> = rooms.into_iter().map(room).collect();
            let run = simulate(&uses, &rooms).unwrap();
            for (peak, room) in run.peaks.iter().zip(&rooms) {
                prop_assert!(*peak <= room.bytes + 1e-6);
            }
            let compute: f64 = uses.iter().map(|one| one.compute_seconds).sum();
            prop_assert!(run.ends.last().copied().unwrap_or(0.0) >= compute - 1e-9);
        }
    }
}
