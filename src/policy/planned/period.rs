//! Finding the period of a sequence that began to repeat itself.

/// How often a period must have come in a row, the first time included.
const REPEATS: usize = 3;
/// What repeats must be at least this long in all: loops within an iteration are shorter.
const LEAST_REQUESTS: usize = 2048;

/// The length of the period that the end of `sizes` repeats, if it is in one: of several, as in
/// loops within loops, the one that explains most.
///
/// Linear in the length of the sequence, for batches off the hot path.
pub(crate) fn period(sizes: &[u32]) -> Option<usize> {
    let matched = matches_from_end(sizes);
    let mut best: Option<(usize, usize)> = None;
    for (length, &same) in matched.iter().enumerate().skip(1) {
        let explained = length + same;
        let repeats = explained >= REPEATS * length && explained >= LEAST_REQUESTS;
        if repeats && best.is_none_or(|(most, _)| explained > most) {
            best = Some((explained, length));
        }
    }
    best.map(|(_, length)| length)
}

/// For each length, how many of the last values equal those so much earlier: the Z function of
/// the sequence read backwards.
fn matches_from_end(sizes: &[u32]) -> Vec<usize> {
    let count = sizes.len();
    let value = |at: usize| sizes[count - 1 - at];
    let mut matched = vec![0; count];
    let (mut left, mut right) = (0, 0);
    for at in 1..count {
        let mut same = if at < right { matched[at - left].min(right - at) } else { 0 };
        while at + same < count && value(same) == value(at + same) {
            same += 1;
        }
        matched[at] = same;
        if at + same > right {
            (left, right) = (at, at + same);
        }
    }
    matched
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `count` sizes that hardly repeat.
    fn sizes(seed: u32, count: usize) -> Vec<u32> {
        let next = |x: &u32| Some(x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        std::iter::successors(Some(seed), next).map(|x| x >> 8).take(count).collect()
    }

    #[test]
    fn the_step_is_found_and_not_its_layers() {
        let layer = sizes(1, 60);
        let mut step = sizes(2, 50);
        (0..24).for_each(|_| step.extend(&layer));
        step.extend(sizes(3, 40));
        let mut all = sizes(4, 300);
        (0..3).for_each(|_| all.extend(&step));
        assert_eq!(period(&all), Some(step.len()));
        // In the midst of the fourth step too.
        all.extend(&step[..700]);
        assert_eq!(period(&all), Some(step.len()));
    }

    #[test]
    fn what_does_not_repeat_long_enough_has_no_period() {
        assert_eq!(period(&[]), None);
        assert_eq!(period(&sizes(5, 10_000)), None);
        let twice: Vec<u32> = sizes(6, 3000).repeat(2);
        assert_eq!(period(&twice), None);
        assert_eq!(period(&sizes(7, 100).repeat(20)), None);
        assert_eq!(period(&sizes(7, 100).repeat(21)), Some(100));
    }

    proptest! {
        #[test]
        fn matches_are_those_of_a_plain_search(sizes in proptest::collection::vec(0..3u32, 0..60)) {
            let matched = matches_from_end(&sizes);
            for (length, &same) in matched.iter().enumerate().skip(1) {
                let back = sizes.iter().rev().zip(sizes.iter().rev().skip(length));
                prop_assert_eq!(same, back.take_while(|(a, b)| a == b).count());
            }
        }
    }
}
