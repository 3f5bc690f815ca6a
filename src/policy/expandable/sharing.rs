//! Whose free memory a miss takes. Streams that one thread works with share all of it: what is
//! live on them together is what has to be held. Two threads at their own pace would take each
//! other's free memory at every turn, no two turns alike: so what belongs to a stream of another
//! thread that is at work is left to it, as long as there is room for both.

/// A stream is a thread's after so many misses in a row by that thread.
const SETTLED_MISSES: u32 = 16;
/// A stream is at work if its free memory changed within so many misses of all.
const AT_WORK_MISSES: u64 = 64;
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
#[derive(Debug, Clone, Copy, Default)]
struct Worker {
    /// The thread that missed last, and how often in a row.
    thread: u64,
    streak: u32,
    /// The ledger's version, and the last miss that saw it change.
    version: u64,
    changed: u64,
}

/// The most bytes in use at once on all arenas but some.
#[derive(Debug)]
struct Peak {
    apart: Vec<u32>,
    bytes: u64,
}

/// One arena at a miss.
#[derive(Debug, Clone, Copy)]
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
    /// What the others have.
    pub(crate) apart: u64,
}

impl Sharing {
    /// Notes a miss of `thread` on `arena` for `bytes`, with all arenas as they are now.
    pub(crate) fn note(&mut self, thread: u64, arena: u32, bytes: u64, seen: &[Seen]) -> Share {
        self.misses += 1;
        self.workers.resize(seen.len(), Worker::default());
        for (worker, seen) in self.workers.iter_mut().zip(seen) {
            if worker.version != seen.version {
                (worker.version, worker.changed) = (seen.version, self.misses);
            }
        }
        if let Some(own) = self.workers.get_mut(arena as usize) {
            let again = own.thread == thread;
            (own.thread, own.streak) =
                (thread, if again { own.streak.saturating_add(1) } else { 1 });
        }
        self.choose(thread, arena);
        let mut shared = Share { used: bytes, ..Share::default() };
        for (number, seen) in (0..).zip(seen) {
            if self.apart.contains(&number) {
                shared.apart += seen.held_bytes;
            } else {
                shared.used += seen.used_bytes;
                shared.held += seen.held_bytes;
            }
        }
        shared.peak = self.peak(shared.used);
        shared
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

    /// Nothing is in use any more.
    pub(crate) fn begin_anew(&mut self) {
        self.peaks.clear();
    }

    fn choose(&mut self, thread: u64, arena: u32) {
        let misses = self.misses;
        let settled = |worker: &Worker| worker.streak >= SETTLED_MISSES;
        let at_work = |worker: &Worker| worker.changed + AT_WORK_MISSES >= misses;
        let is_settled = self.workers.get(arena as usize).is_some_and(settled);
        self.apart.clear();
        let others = (0..).zip(&self.workers).filter(|(_, worker)| {
            is_settled && worker.thread != thread && settled(worker) && at_work(worker)
        });
        self.apart.extend(others.map(|(number, _)| number));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(version: u64, used_bytes: u64) -> Seen {
        Seen { version, used_bytes, held_bytes: 2 * used_bytes }
    }

    #[test]
    fn the_streams_of_one_thread_share() {
        let mut sharing = Sharing::default();
        for turn in 0..100 {
            let arena = (turn % 2) as u32;
            let shared = sharing.note(7, arena, 1, &[seen(turn, 100 + turn % 2), seen(turn, 50)]);
            assert_eq!(shared.used, 151 + turn % 2);
            assert_eq!(shared.peak, if turn == 0 { 151 } else { 152 });
            assert_eq!((shared.held, shared.apart), (300 + turn % 2 * 2, 0));
        }
    }

    #[test]
    fn threads_at_their_own_pace_keep_theirs_until_one_stops() {
        let mut sharing = Sharing::default();
        let mut version = 0;
        let mut turn = |sharing: &mut Sharing, thread: u64, other_works: bool| {
            version += u64::from(other_works);
            let own = seen(version, 100);
            sharing.note(thread, thread as u32, 1, &[own, own])
        };
        for _ in 1..SETTLED_MISSES {
            assert_eq!(turn(&mut sharing, 0, true).apart, 0);
            assert_eq!(turn(&mut sharing, 1, true).apart, 0);
        }
        turn(&mut sharing, 0, true);
        let shared = turn(&mut sharing, 1, true);
        assert_eq!(shared, Share { used: 101, held: 200, peak: 101, apart: 200 });
        assert_eq!(sharing.apart(), [0]);
        assert!(sharing.share_all() && sharing.apart().is_empty() && !sharing.share_all());
        for _ in 0..=AT_WORK_MISSES {
            turn(&mut sharing, 1, false);
        }
        assert_eq!(turn(&mut sharing, 1, false).apart, 0, "the other has stopped");
    }

    #[test]
    fn a_stream_that_goes_from_thread_to_thread_shares() {
        let mut sharing = Sharing::default();
        for turn in 0..200 {
            let shared = sharing.note(turn % 3, 0, 1, &[seen(turn, 100), seen(turn, 50)]);
            assert_eq!((shared.used, shared.apart), (151, 0));
        }
    }

    #[test]
    fn the_peak_is_forgotten_when_all_begins_anew() {
        let mut sharing = Sharing::default();
        assert_eq!(sharing.note(1, 0, 0, &[seen(1, 100)]).peak, 100);
        assert_eq!(sharing.note(1, 0, 0, &[seen(2, 10)]).peak, 100);
        sharing.begin_anew();
        assert_eq!(sharing.note(1, 0, 0, &[seen(3, 10)]).peak, 10);
    }
}
