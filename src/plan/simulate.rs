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
    /// Seconds of compute waiting, in each phase.
    pub(super) stalls: Vec<f64>,
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
        run: Run {
            ends: Vec::with_capacity(uses.len()),
            stalls: vec![0.0; rooms.len()],
            peaks: vec![0.0; rooms.len()],
        },
    };
    for at in 0..uses.len() {
        clock.copy(at)?;
        let before = clock.run.ends.last().copied().unwrap_or(0.0);
        let start = if uses[at].bytes > 0.0 { before.max(clock.link) } else { before };
        clock.run.stalls[uses[at].phase] += start - before;
        clock.run.ends.push(start + uses[at].compute_seconds);
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
    fn copy(&mut self, at: usize) -> Option<()> {
        let Use { phase, bytes, link_seconds, .. } = self.uses[at];
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
