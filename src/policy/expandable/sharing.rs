//! Whose free memory a miss takes. Streams that one thread works with share all of it: what is
//! live on them together is what has to be held. Two threads at their own pace would take each
//! other's free memory at every turn, no two turns alike: so what belongs to a stream of another
//! thread that is at work is left to it, as long as there is room for both.

/// A stream is a thread's after so many misses in a row by that thread.
const SETTLED_MISSES: u32 = 16;
/// A stream is at work if its free memory changed within so many misses of all.
const AT_WORK_MISSES: u64 = 2048;
/// So many misses of a stream in a row leave the same ones alone, without a look at them: it would
/// hold up the threads that work with them.
const MISSES_A_LOOK: u32 = 64;
/// Peaks that are kept: one for each set of streams that shared memory lately.
const MOST_PEAKS: usize = 16;

/// Which threads work with which arenas, and how much was in use.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    workers: Vec<Worker>,
    misses: u64,
    peaks: Vec<Peak>,
    /// The arenas left alone at the miss at hand, by number.
    apart: Vec<u32>,
}

/// An arena, as misses saw it.
#[derive(Debug, Default)]
struct Worker {
    /// The thread that missed last, and how often in a row.
    thread: u64,
    streak: u32,
    /// The arenas its misses leave alone, and how many did since all were looked at.
    apart: Vec<u32>,
    unlooked: u32,
    /// How the ledger was when it was looked at last, and the last miss that saw it change.
    seen: Seen,
    changed: u64,
}

/// The most bytes in use at once on all arenas but some.
#[derive(Debug)]
struct Peak {
    apart: Vec<u32>,
    bytes: u64,
}

/// One arena at a miss.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    /// Its ledger's version.
    pub(crate) version: u64,
    /// Bytes handed out.
    pub(crate) used_bytes: u64,
    /// Bytes its ledger has, free or in use.
    pub(crate) held_bytes: u64,
}

/// What the streams that share have, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) used: u64,
    pub(crate) held: u64,
    /// The most in use at once.
    pub(crate) peak: u64,
}

impl Sharing {
    /// A miss of `thread` on `arena` begins: [`apart`](Self::apart) need not be looked at.
    pub(crate) fn begin(&mut self, thread: u64, arena: u32) {
        self.misses += 1;
        let own = worker(&mut self.workers, arena);
        let again = own.thread == thread;
        own.streak = if again { own.streak.saturating_add(1) } else { 1 };
        own.thread = thread;
        own.unlooked = own.unlooked.saturating_add(1);
        if !again || own.unlooked >= MISSES_A_LOOK {
            own.apart.clear();
        }
        self.apart.clone_from(&own.apart);
    }

    /// Notes how the arenas looked at are now, for a miss of `bytes`.
    pub(crate) fn note(
        &mut self,
        arena: u32,
        bytes: u64,
        seen: impl Iterator<Item = (u32, Seen)>,
    ) -> Share {
        for (number, seen) in seen {
            let worker = worker(&mut self.workers, number);
            if worker.seen.version != seen.version {
                worker.changed = self.misses;
            }
            worker.seen = seen;
        }
        if self.apart.is_empty() {
            self.choose(arena);
        }
        let mut share = Share { used: bytes, ..Share::default() };
        for (number, Worker { seen, .. }) in (0..).zip(&self.workers) {
            if !self.apart.contains(&number) {
                share.used += seen.used_bytes;
                share.held += seen.held_bytes;
            }
        }
        share.peak = self.peak(share.used);
        share
    }

    /// The arenas whose memory is left alone at the miss at hand.
    pub(crate) fn apart(&self) -> &[u32] {
        &self.apart
    }

    /// There is no room: all memory serves the miss at hand. False if it did already.
    pub(crate) fn share_all(&mut self) -> bool {
        let any = !self.apart.is_empty();
        self.apart.clear();
        any
    }

    /// Nothing is in use any more on the arenas that share.
    pub(crate) fn begin_anew(&mut self) {
        self.peaks.retain(|peak| peak.apart != self.apart);
    }

    /// All were looked at: chooses which are left alone, at this miss and the next ones.
    fn choose(&mut self, arena: u32) {
        let misses = self.misses;
        let is_settled = |worker: &Worker| worker.streak >= SETTLED_MISSES;
        let is_at_work = |worker: &Worker| worker.changed + AT_WORK_MISSES >= misses;
        let Some(own) = self.workers.get(arena as usize).filter(|own| is_settled(own)) else {
            return;
        };
        let is_apart =
            |other: &Worker| other.thread != own.thread && is_settled(other) && is_at_work(other);
        let apart = (0..).zip(&self.workers).filter(|(_, other)| is_apart(other));
        let apart: Vec<u32> = apart.map(|(number, _)| number).collect();
        self.apart.clone_from(&apart);
        self.workers[arena as usize].apart = apart;
        self.workers[arena as usize].unlooked = 0;
    }

    /// The peak of those that share now, `used` included.
    fn peak(&mut self, used: u64) -> u64 {
        if let Some(known) = self.peaks.iter_mut().find(|peak| peak.apart == self.apart) {
            known.bytes = known.bytes.max(used);
            return known.bytes;
        }
        if self.peaks.len() == MOST_PEAKS {
            self.peaks.remove(0);
        }
        self.peaks.push(Peak { apart: self.apart.clone(), bytes: used });
        used
    }
}

fn worker(workers: &mut Vec<Worker>, arena: u32) -> &mut Worker {
    let at = arena as usize;
    if at >= workers.len() {
        workers.resize_with(at + 1, Worker::default);
    }
    &mut workers[at]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A miss of one byte with the arenas in use by so much.
    fn miss(sharing: &mut Sharing, thread: u64, arena: u32, seen: &[(u64, u64)]) -> Share {
        sharing.begin(thread, arena);
        let apart = sharing.apart().to_vec();
        let seen = (0..).zip(seen).filter(|(number, _)| !apart.contains(number));
        let seen = seen.map(|(number, &(version, used_bytes))| {
            (number, Seen { version, used_bytes, held_bytes: 2 * used_bytes })
        });
        sharing.note(arena, 1, seen)
    }

    #[test]
    fn the_streams_of_one_thread_share() {
        let mut sharing = Sharing::default();
        for turn in 0..100 {
            let seen = [(turn, 100 + turn % 2), (turn, 50)];
            let share = miss(&mut sharing, 7, (turn % 2) as u32, &seen);
            assert_eq!(share.used, 151 + turn % 2);
            assert_eq!(share.peak, if turn == 0 { 151 } else { 152 });
            assert_eq!(share.held, 300 + turn % 2 * 2);
        }
    }

    #[test]
    fn threads_at_their_own_pace_keep_theirs_until_one_stops() {
        let mut sharing = Sharing::default();
        for version in 1..u64::from(SETTLED_MISSES) {
            let seen = [(version, 100), (version, 70)];
            assert_eq!(miss(&mut sharing, 8, 0, &seen).used, 171);
            assert_eq!(miss(&mut sharing, 9, 1, &seen).used, 171);
        }
        assert_eq!(miss(&mut sharing, 8, 0, &[(99, 100), (99, 70)]).used, 171, "9 may still share");
        let share = miss(&mut sharing, 9, 1, &[(99, 100), (99, 70)]);
        assert_eq!(share, Share { used: 71, held: 140, peak: 71 });
        assert_eq!(sharing.apart(), [0]);
        assert!(sharing.share_all() && sharing.apart().is_empty() && !sharing.share_all());
        let stopped = AT_WORK_MISSES + 2 * u64::from(MISSES_A_LOOK);
        for version in 100..101 + stopped {
            miss(&mut sharing, 9, 1, &[(99, 100), (version, 70)]);
        }
        let share = miss(&mut sharing, 9, 1, &[(99, 100), (0, 70)]);
        assert_eq!(share.used, 171, "the other has stopped");
    }

    #[test]
    fn a_stream_that_goes_from_thread_to_thread_shares() {
        let mut sharing = Sharing::default();
        for turn in 0..200 {
            let share = miss(&mut sharing, turn % 3, 0, &[(turn, 100), (turn, 50)]);
            assert_eq!(share.used, 151);
        }
    }

    #[test]
    fn the_peak_is_forgotten_when_all_begins_anew() {
        let mut sharing = Sharing::default();
        assert_eq!(miss(&mut sharing, 1, 0, &[(1, 100)]).peak, 101);
        assert_eq!(miss(&mut sharing, 1, 0, &[(2, 10)]).peak, 101);
        sharing.begin_anew();
        assert_eq!(miss(&mut sharing, 1, 0, &[(3, 10)]).peak, 11);
    }
}
