//! Which homes make room for another: a pure function of when each is needed next.
//!
//! Of known uses the last goes first, which no order can better (Belady, 1966). What no job names
//! goes before all of these, the component that was used longest ago first. Within a component the
//! units at the end of a pass go first: when it comes back, they are read while those at the start
//! are computed with. Nothing makes room for what is needed later than itself; so a component
//! larger than the budget keeps the part it has, in place of turning all of it over in each pass.

/// When a unit is needed in host memory next; the earlier the less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NextUse {
    /// Its component is in use, and every pass needs it.
    Now,
    /// When the job gets to this step, as unit number so many.
    Step(u64, u32),
    /// Nobody knows: its component was used so many components ago; unit number so many of it.
    Unknown(u64, u32),
}

/// A home that may make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    /// The caller's name for it.
    pub(super) id: usize,
    pub(super) bytes: u64,
    pub(super) next: NextUse,
}

/// Which of `kept` make room of at least `needed_bytes` for what is needed at `next`, those that
/// are needed last first. None at all where all that may go is not enough.
pub(super) fn victims(needed_bytes: u64, next: NextUse, mut kept: Vec<Kept>) -> Vec<usize> {
    kept.retain(|kept| kept.next > next);
    let all_bytes = kept.iter().fold(0u64, |sum, kept| sum.saturating_add(kept.bytes));
    if all_bytes < needed_bytes {
        return Vec::new();
    }
    kept.sort_unstable_by_key(|kept| std::cmp::Reverse((kept.next, kept.id)));
    let mut freed_bytes = 0;
    let chosen = kept.iter().take_while(|kept| {
        let goes = freed_bytes < needed_bytes;
        freed_bytes += if goes { kept.bytes } else { 0 };
        goes
    });
    chosen.map(|kept| kept.id).collect()
}

#[cfg(test)]
mod tests {
    use super::NextUse::{Now, Step, Unknown};
    use super::*;

    fn kept(next: &[NextUse]) -> Vec<Kept> {
        next.iter().enumerate().map(|(id, &next)| Kept { id, bytes: 10, next }).collect()
    }

    #[test]
    fn what_is_needed_last_goes_first_and_no_more_than_is_needed() {
        let all = kept(&[Step(1, 0), Unknown(1, 0), Step(9, 2), Step(9, 1), Unknown(3, 0)]);
        assert_eq!(victims(1, Now, all.clone()), [4]);
        assert_eq!(victims(11, Now, all.clone()), [4, 1]);
        assert_eq!(victims(40, Now, all.clone()), [4, 1, 2, 3]);
        assert_eq!(victims(50, Now, all), [4, 1, 2, 3, 0]);
    }

    #[test]
    fn nothing_goes_for_what_is_needed_later_or_for_room_that_is_not_enough() {
        let all = kept(&[Now, Step(2, 5), Unknown(2, 0)]);
        assert_eq!(victims(10, Step(2, 6), all.clone()), [2]);
        assert_eq!(victims(20, Step(2, 6), all.clone()), [0usize; 0]);
        assert_eq!(victims(10, Unknown(2, 1), all.clone()), [0usize; 0]);
        assert_eq!(victims(30, Now, all), [0usize; 0], "what is in use never goes");
    }

    /// Hits of a cache of three equal units over a trace, by the rule of the caller.
    fn hits(trace: &[u32], next: impl Fn(usize, u32) -> NextUse) -> usize {
        let (mut held, mut hits): (Vec<u32>, usize) = (Vec::new(), 0);
        for (at, &unit) in trace.iter().enumerate() {
            if held.contains(&unit) {
                hits += 1;
                continue;
            }
            if held.len() == 3 {
                let all = held.iter().enumerate();
                let all = all.map(|(id, &held)| Kept { id, bytes: 1, next: next(at, held) });
                let gone = victims(1, next(at, unit), all.collect());
                gone.iter().for_each(|&id| {
                    held.remove(id);
                });
            }
            if held.len() < 3 {
                held.push(unit);
            }
        }
        hits
    }

    /// The most hits any choice of what to keep could have.
    fn most_hits(trace: &[u32], at: usize, held: &mut Vec<u32>) -> usize {
        let Some(&unit) = trace.get(at) else { return 0 };
        if held.contains(&unit) {
            return 1 + most_hits(trace, at + 1, held);
        }
        let mut best = most_hits(trace, at + 1, held);
        if held.len() < 3 {
            held.push(unit);
            best = best.max(most_hits(trace, at + 1, held));
            held.pop();
        } else {
            for place in 0..3 {
                let gone = std::mem::replace(&mut held[place], unit);
                best = best.max(most_hits(trace, at + 1, held));
                held[place] = gone;
            }
        }
        best
    }

    #[test]
    fn with_the_uses_known_no_choice_has_more_hits() {
        let mut random = crate::base::Random::new(12);
        for _ in 0..60 {
            let trace: Vec<u32> = (0..10).map(|_| random.below(5) as u32).collect();
            let next = |at: usize, unit: u32| {
                let later = trace[at + 1..].iter().position(|&other| other == unit);
                later.map_or(Unknown(1, 0), |steps| Step(steps as u64, 0))
            };
            assert_eq!(hits(&trace, next), most_hits(&trace, 0, &mut Vec::new()), "{trace:?}");
        }
    }
}
