//! Copy engines on the virtual clock: which copy of one direction runs when.

use std::collections::VecDeque;

/// The engines of one direction.
#[derive(Debug)]
pub(super) struct Engines {
    bytes_per_second: f64,
    engines: Vec<Engine>,
}

impl Engines {
    pub(super) fn new(bytes_per_second: f64, count: u32) -> Self {
        let engines = (0..count.max(1)).map(|_| Engine::default()).collect();
        Self { bytes_per_second, engines }
    }

    /// Runs a copy on the engine that can begin it first, not before `ready_ns`; gives its end.
    /// Nothing enqueued from now on is ready before `now_ns`.
    pub(super) fn carry(&mut self, bytes: u64, ready_ns: u64, now_ns: u64) -> u64 {
        let length = duration_ns(bytes, self.bytes_per_second);
        let mut best = (0, u64::MAX);
        for (index, engine) in self.engines.iter_mut().enumerate() {
            engine.forget(now_ns);
            let start = engine.first_gap(ready_ns, length);
            if start < best.1 {
                best = (index, start);
            }
        }
        self.engines[best.0].occupy(best.1, length)
    }
}

/// How long `bytes` take at a rate, in nanoseconds.
pub(super) fn duration_ns(bytes: u64, bytes_per_second: f64) -> u64 {
    (bytes as f64 / bytes_per_second * 1e9).ceil() as u64
}

/// The busy times of one engine, in order, apart from each other. A copy that is ready early
/// runs in a gap before one that was enqueued first but waits; a gap too short for it is passed
/// over.
#[derive(Debug, Default)]
struct Engine {
    busy: VecDeque<(u64, u64)>,
    /// The end of the busy times forgotten.
    past_ns: u64,
}

impl Engine {
    fn forget(&mut self, now_ns: u64) {
        while let Some(&(_, end)) = self.busy.front().filter(|(_, end)| *end <= now_ns) {
            self.past_ns = end;
            self.busy.pop_front();
        }
    }

    fn first_gap(&self, ready_ns: u64, length: u64) -> u64 {
        let mut start = ready_ns.max(self.past_ns);
        let after = self.busy.partition_point(|&(_, end)| end <= start);
        for &(begun, end) in self.busy.range(after..) {
            if start.saturating_add(length) <= begun {
                break;
            }
            start = start.max(end);
        }
        start
    }

    fn occupy(&mut self, start: u64, length: u64) -> u64 {
        let end = start.saturating_add(length);
        if length == 0 {
            return end;
        }
        let at = self.busy.partition_point(|&(begun, _)| begun < start);
        let joins_before = at > 0 && self.busy[at - 1].1 == start;
        let joins_after = self.busy.get(at).is_some_and(|&(begun, _)| begun == end);
        match (joins_before, joins_after) {
            (true, true) => {
                self.busy[at - 1].1 = self.busy[at].1;
                self.busy.remove(at);
            }
            (true, false) => self.busy[at - 1].1 = end,
            (false, true) => self.busy[at].0 = start,
            (false, false) => self.busy.insert(at, (start, end)),
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte a nanosecond.
    fn engines(count: u32) -> Engines {
        Engines::new(1e9, count)
    }

    #[test]
    fn copies_of_one_engine_follow_each_other() {
        let mut link = engines(1);
        assert_eq!(link.carry(100, 10, 0), 110);
        assert_eq!(link.carry(50, 10, 0), 160);
        assert_eq!(link.carry(50, 500, 0), 550);
        assert_eq!(link.carry(0, 20, 0), 160, "no bytes wait like others and take no time");
    }

    #[test]
    fn a_gap_takes_what_fits_and_nothing_else() {
        let mut link = engines(1);
        assert_eq!(link.carry(100, 1000, 0), 1100, "waits for something");
        assert_eq!(link.carry(400, 0, 0), 400, "ready before it");
        assert_eq!(link.carry(600, 0, 0), 1000, "exactly the gap");
        assert_eq!(link.carry(1, 0, 0), 1101, "nothing is left of it");
    }

    #[test]
    fn two_engines_run_two_copies_at_once() {
        let mut link = engines(2);
        assert_eq!(link.carry(100, 0, 0), 100);
        assert_eq!(link.carry(100, 0, 0), 100);
        assert_eq!(link.carry(100, 0, 0), 200);
    }

    #[test]
    fn the_past_is_forgotten_and_not_used_again() {
        let mut link = engines(1);
        for round in 0..1000 {
            link.carry(10, round * 20, round * 20);
        }
        assert!(link.engines[0].busy.len() <= 2);
        assert_eq!(link.carry(10, 0, 0), 19_980, "the only gap left is the one before the last");
    }

    proptest::proptest! {
        #[test]
        fn busy_times_never_overlap(
            copies in proptest::collection::vec((0u64..1000, 0u64..200), 1..100),
        ) {
            let mut link = engines(1);
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (ready, bytes) in copies {
                let end = link.carry(bytes, ready, 0);
                proptest::prop_assert!(end >= ready + bytes);
                if bytes > 0 {
                    taken.push((end - bytes, end));
                }
            }
            taken.sort_unstable();
            for pair in taken.windows(2) {
                proptest::prop_assert!(pair[0].1 <= pair[1].0, "{:?}", pair);
            }
        }
    }
}
