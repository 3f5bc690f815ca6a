//! Where a stream is in its plan: which row the next request is.
//!
//! A request that the plan does not have is left to be served online, and the cursor looks for
//! its place again at the next ones: nearest first, ahead for what was left out and back for what
//! came in between. So each insertion, deletion or other size costs about one online request.

use std::sync::Arc;

use super::table::Row;

/// How far from where it should be the cursor looks.
const WINDOW: usize = 64;
/// Requests in a row that have to be as planned before what went before is settled.
const SETTLED: u32 = 4;
/// Requests off the plan, less those on it, after which the cursor is lost.
const LOST: u32 = 64;
/// So many requests that were not as planned, and one part in so many of those that came, are too
/// many.
const MANY: u32 = 4;
const MANY_PART: usize = 64;
/// A smaller request takes the place of a planned one if it fills so much of it: one part in.
const FILLS_PART: u32 = 2;

/// A stream's place in its plan.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    rows: Arc<[Row]>,
    /// The row of the next request.
    at: usize,
    /// The first row whose request may still come, while that is open.
    open_from: usize,
    /// Requests as planned since the last that was not; capped.
    in_step: u32,
    /// Requests off the plan, less those on it, not below 0.
    astray: u32,
    /// Requests off the plan since the first row.
    misses: u32,
}

/// What the next request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The request of this row, or a smaller one in its stead.
    Row(usize),
    /// None of the plan's.
    Off,
    /// The plan has no more rows.
    Over,
}

impl Cursor {
    /// At the first of `rows`, whose last one stands for the end: it is of no request.
    pub(crate) fn new(rows: Arc<[Row]>) -> Self {
        Self { rows, at: 0, open_from: 0, in_step: SETTLED, astray: 0, misses: 0 }
    }

    /// The row of a request for `units`, if it is the next one as planned.
    #[inline(always)]
    pub(crate) fn peek(&self, units: u32) -> Option<&Row> {
        let row = self.rows.get(self.at).filter(|row| row.units == units)?;
        (self.in_step >= SETTLED).then_some(row)
    }

    /// The row of [`peek`](Self::peek) had its request.
    #[inline(always)]
    pub(crate) fn step(&mut self) {
        self.at += 1;
    }

    /// What a request for `units` is, where [`peek`](Self::peek) does not tell.
    #[cold]
    pub(crate) fn find(&mut self, units: u32) -> Step {
        if self.in_step >= SETTLED {
            self.open_from = self.at;
        }
        if let Some(found) = self.nearest(units) {
            self.in_step = if found == self.at { self.in_step.saturating_add(1) } else { 1 };
            self.misses += u32::from(found != self.at);
            self.at = found + 1;
            self.astray = self.astray.saturating_sub(1);
            return Step::Row(found);
        }
        if self.at >= self.end() {
            return Step::Over;
        }
        // One in another's stead.
        let planned = self.rows[self.at].units;
        self.at += 1;
        self.in_step = 0;
        self.astray += 1;
        self.misses += 1;
        if units <= planned && units >= planned / FILLS_PART {
            Step::Row(self.at - 1)
        } else {
            Step::Off
        }
    }

    /// The row for `units` that is nearest to where the cursor is.
    fn nearest(&self, units: u32) -> Option<usize> {
        let is_one = |&at: &usize| at < self.end() && self.rows[at].units == units;
        let mut distances = 0..WINDOW;
        distances.find_map(|distance| {
            let ahead = Some(self.at + distance).filter(is_one);
            let back = || self.at.checked_sub(distance).filter(|&at| at >= self.open_from);
            ahead.or_else(|| back().filter(is_one))
        })
    }

    fn end(&self) -> usize {
        self.rows.len().saturating_sub(1)
    }

    /// A row of the plan.
    #[inline]
    pub(crate) fn row(&self, at: usize) -> Row {
        self.rows[at]
    }

    /// True when every row has had its request.
    pub(crate) fn is_at_end(&self) -> bool {
        self.at >= self.end()
    }

    /// True before the first row.
    pub(crate) fn is_at_start(&self) -> bool {
        self.at == 0
    }

    /// True when so much is not as planned that the plan is of no use.
    pub(crate) fn is_lost(&self) -> bool {
        self.astray > LOST || self.misses as usize > MANY as usize + self.at / MANY_PART
    }

    /// A planned place was not free.
    pub(crate) fn note_miss(&mut self) {
        self.misses += 1;
    }

    /// Requests off the plan, or whose place was not free, since the first row.
    pub(crate) fn misses(&self) -> u32 {
        self.misses
    }

    /// To the first row again.
    pub(crate) fn begin_anew(&mut self) {
        (self.at, self.open_from, self.in_step) = (0, 0, SETTLED);
        (self.astray, self.misses) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cursor(sizes: &[u32]) -> Cursor {
        let row = |&units: &u32| Row { units, ..Row::END };
        Cursor::new(sizes.iter().map(row).chain([Row::END]).collect())
    }

    /// Where each of `requests` went; `None` for online.
    fn walk(cursor: &mut Cursor, requests: &[u32]) -> Vec<Option<usize>> {
        let step = |&units: &u32| {
            let at = cursor.at;
            if cursor.peek(units).is_some() {
                cursor.step();
                return Some(at);
            }
            match cursor.find(units) {
                Step::Row(at) => Some(at),
                Step::Off | Step::Over => None,
            }
        };
        requests.iter().map(step).collect()
    }

    #[test]
    fn the_same_requests_are_the_rows_in_order() {
        let mut cursor = cursor(&[1, 2, 2, 3]);
        for _ in 0..2 {
            assert_eq!(walk(&mut cursor, &[1, 2, 2, 3]), [Some(0), Some(1), Some(2), Some(3)]);
            assert!(cursor.is_at_end());
            assert_eq!((cursor.misses(), cursor.find(1)), (0, Step::Over));
            cursor.begin_anew();
        }
    }

    #[test]
    fn one_more_one_less_and_one_other_cost_one_request_each() {
        let sizes: Vec<u32> = (100..160).collect();
        let mut changed = sizes.clone();
        changed[30] = 7; // another in its stead
        changed.remove(20);
        changed.insert(10, 9000);
        let mut cursor = cursor(&sizes);
        let places = walk(&mut cursor, &changed);
        assert_eq!(places.iter().filter(|place| place.is_none()).count(), 2);
        assert_eq!(cursor.misses(), 4, "the cursor jumps back once");
        assert!(cursor.is_at_end() && !cursor.is_lost());
        for (place, units) in places.iter().zip(&changed) {
            assert!(place.is_none_or(|at| sizes[at] == *units));
        }
    }

    #[test]
    fn a_smaller_request_takes_the_place_of_the_planned_one() {
        let mut cursor = cursor(&[100, 200, 300]);
        assert_eq!(walk(&mut cursor, &[100, 150, 300]), [Some(0), Some(1), Some(2)]);
        cursor.begin_anew();
        assert_eq!(walk(&mut cursor, &[100, 99, 300]), [Some(0), None, Some(2)]);
        assert_eq!(cursor.misses(), 1);
    }

    #[test]
    fn another_program_is_lost_soon() {
        let sizes: Vec<u32> = (1000..20_000).collect();
        let others = |count: u32| (1..=count).collect::<Vec<_>>();
        let mut cursor = cursor(&sizes);
        walk(&mut cursor, &others(MANY));
        assert!(!cursor.is_lost());
        walk(&mut cursor, &[1]);
        assert!(cursor.is_lost());
        // After many that were as planned too.
        cursor.begin_anew();
        walk(&mut cursor, &sizes[..10_000]);
        walk(&mut cursor, &others(LOST));
        assert!(!cursor.is_lost());
        walk(&mut cursor, &[1]);
        assert!(cursor.is_lost());
    }

    proptest! {
        #[test]
        fn a_row_is_given_to_a_request_it_holds(
            sizes in proptest::collection::vec(1..40u32, 0..80),
            requests in proptest::collection::vec(1..40u32, 0..200)
        ) {
            let mut cursor = cursor(&sizes);
            let places = walk(&mut cursor, &requests);
            for (place, units) in places.into_iter().zip(requests) {
                if let Some(at) = place {
                    prop_assert!(at < sizes.len() && sizes[at] >= units);
                }
            }
        }
    }
}
