//! The copies of one stream in their order: which bytes are there, which copies the stream may
//! run, and which are over.
//!
//! A copy has a number, from 1. The stream waits at one gate for the number of each copy, and
//! the gate is raised in order: to copy `n` when the bytes of all copies up to `n` are there and
//! not too many bytes of other copies, of this stream and others, are still under way. So memory
//! may be filled for copy `n` when the copy that used it before is over, and no copy ever waits
//! for more than the bytes under way.
//!
//! One copy of each stream may always be under way, whatever that makes: streams wait for each
//! other's events, so that a stream held back by another's copies could be what these wait for.
//! The oldest copy of all waits for none, and with this rule nothing here holds it back.
//!
//! Nothing here locks or calls a driver: whoever holds the lock around it asks for the marks of
//! copies outside. `tests/loom_lane.rs` runs this file through the interleavings of readers, a
//! stream, and the thread that enqueues.

use std::collections::VecDeque;

/// Bytes that somebody fills, perhaps for several copies.
pub(super) trait Source {
    /// Whether they are there, or will never be.
    fn is_filled(&self) -> bool;
}

/// How it is known that a copy is over.
#[derive(Debug)]
enum End<M> {
    /// It is being enqueued.
    Unknown,
    /// By this mark behind it in its stream.
    Mark(M),
    /// It is not in the stream, or has run.
    Abandoned,
}

#[derive(Debug)]
struct Copy<S, M> {
    bytes: u64,
    filled: bool,
    source: Option<S>,
    end: End<M>,
}

/// The copies that are not known to be over.
#[derive(Debug)]
pub(super) struct Lane<S, M> {
    copies: VecDeque<Copy<S, M>>,
    /// Number of the first of them.
    first: u64,
    /// The last copy the stream may run.
    opened: u64,
    /// Bytes of copies the stream may run and that are not known to be over.
    flying_bytes: u64,
    /// What may be under way of all streams together.
    limit_bytes: u64,
}

impl<S: Source, M: Clone> Lane<S, M> {
    /// No copies yet; at most `limit_bytes` under way of this and other streams, or one copy.
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self { copies: VecDeque::new(), first: 1, opened: 0, flying_bytes: 0, limit_bytes }
    }

    /// Makes sure `copies` can be enqueued and not over without taking memory.
    pub(super) fn reserve(&mut self, copies: usize) {
        self.copies.reserve(copies.saturating_sub(self.copies.len()));
    }

    /// A copy that is about to be enqueued: of `source`, or of bytes that
    /// [`set_filled`](Self::set_filled) tells of. Gives its number.
    pub(super) fn push(&mut self, bytes: u64, source: Option<S>) -> u64 {
        self.copies.push_back(Copy { bytes, filled: false, source, end: End::Unknown });
        self.first + self.copies.len() as u64 - 1
    }

    fn copy(&mut self, number: u64) -> Option<&mut Copy<S, M>> {
        self.copies.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// The bytes of a copy are there, or will never be.
    pub(super) fn set_filled(&mut self, number: u64) {
        if let Some(copy) = self.copy(number) {
            copy.filled = true;
        }
    }

    /// The copy is enqueued, and `mark` behind it.
    pub(super) fn set_mark(&mut self, number: u64, mark: M) {
        if let Some(copy) = self.copy(number) {
            copy.end = End::Mark(mark);
        }
    }

    /// The copy is not in the stream, or has run: its memory is free once it is filled.
    pub(super) fn abandon(&mut self, number: u64) {
        if let Some(copy) = self.copy(number) {
            copy.end = End::Abandoned;
        }
        self.drop_abandoned();
    }

    /// Whether the memory of a copy may be filled again. True of copy 0, which never was.
    pub(super) fn is_over(&self, number: u64) -> bool {
        number < self.first
    }

    /// Bytes under way: of copies the stream may run and that are not known to be over.
    pub(super) fn flying_bytes(&self) -> u64 {
        self.flying_bytes
    }

    /// Lets the stream go on as far as it may, with `elsewhere_bytes` under way of other
    /// streams; the gate is to be raised to the number given.
    pub(super) fn release(&mut self, elsewhere_bytes: u64) -> Option<u64> {
        let before = self.opened;
        while let Some(next) = self.copies.get((self.opened + 1 - self.first) as usize) {
            let filled = next.filled || next.source.as_ref().is_some_and(Source::is_filled);
            let others_bytes = self.flying_bytes.saturating_add(elsewhere_bytes);
            let fits = others_bytes.saturating_add(next.bytes) <= self.limit_bytes;
            if !filled || !(fits || self.flying_bytes == 0) {
                break;
            }
            self.flying_bytes += next.bytes;
            self.opened += 1;
            self.drop_abandoned();
        }
        (self.opened > before).then_some(self.opened)
    }

    /// The last copy the stream may run.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    /// Whether a copy waits for others to be over, all else being ready.
    pub(super) fn is_held_back(&self) -> bool {
        let next = self.copies.get((self.opened + 1 - self.first) as usize);
        next.is_some_and(|next| next.filled || next.source.as_ref().is_some_and(Source::is_filled))
    }

    /// The oldest copy under way, and the mark that tells when it is over.
    pub(super) fn oldest(&self) -> Option<(u64, M)> {
        let oldest = self.copies.front().filter(|_| self.first <= self.opened)?;
        match &oldest.end {
            End::Mark(mark) => Some((self.first, mark.clone())),
            End::Unknown | End::Abandoned => None,
        }
    }

    /// The mark of copy `number` was reached: it is over, and so are those before it.
    pub(super) fn set_over(&mut self, number: u64) {
        while self.first <= number.min(self.opened) {
            self.pop();
        }
        self.drop_abandoned();
    }

    /// From now on copies wait for their bytes alone.
    pub(super) fn lift_limit(&mut self) {
        self.limit_bytes = u64::MAX;
    }

    fn drop_abandoned(&mut self) {
        while self.first <= self.opened
            && self.copies.front().is_some_and(|copy| matches!(copy.end, End::Abandoned))
        {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(copy) = self.copies.pop_front() {
            self.flying_bytes -= copy.bytes;
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Never;

    impl Source for Never {
        fn is_filled(&self) -> bool {
            false
        }
    }

    fn lane(copies: &[u64]) -> Lane<Never, u64> {
        let mut lane = Lane::new(10);
        for (number, &bytes) in (1..).zip(copies) {
            assert_eq!(lane.push(bytes, None), number);
            lane.set_mark(number, number);
        }
        lane
    }

    #[test]
    fn copies_are_let_through_in_order_and_by_the_limit() {
        let mut lane = lane(&[4, 4, 4, 4]);
        lane.set_filled(2);
        assert_eq!(lane.release(0), None, "the first one is not there");
        lane.set_filled(1);
        assert_eq!(lane.release(0), Some(2));
        lane.set_filled(3);
        assert_eq!(lane.release(0), None, "12 bytes would be under way");
        assert!(lane.is_held_back());
        assert_eq!(lane.oldest(), Some((1, 1)));
        lane.set_over(1);
        assert_eq!(lane.release(0), Some(3));
        assert!(lane.is_over(1) && !lane.is_over(2));
        lane.set_over(3);
        assert!(lane.is_over(3) && lane.oldest().is_none() && !lane.is_held_back());
    }

    #[test]
    fn a_copy_above_the_limit_goes_alone() {
        let mut lane = lane(&[1, 40, 1]);
        (1..=3).for_each(|number| lane.set_filled(number));
        assert_eq!(lane.release(0), Some(1));
        lane.set_over(1);
        assert_eq!(lane.release(0), Some(2));
        lane.set_over(2);
        assert_eq!(lane.release(0), Some(3));
        assert_eq!(lane.flying_bytes, 1);
    }

    #[test]
    fn what_is_under_way_elsewhere_counts_for_all_but_the_first_copy() {
        let mut lane = lane(&[4, 4, 4]);
        (1..=3).for_each(|number| lane.set_filled(number));
        assert_eq!(lane.release(9), Some(1), "one copy may always go");
        assert_eq!(lane.release(9), None);
        assert_eq!(lane.release(3), None, "11 bytes would be under way");
        assert!(lane.is_held_back());
        assert_eq!(lane.release(2), Some(2));
        lane.lift_limit();
        assert_eq!(lane.release(u64::MAX), Some(3));
    }

    #[test]
    fn an_abandoned_copy_is_over_once_it_is_filled() {
        let mut lane = lane(&[1, 1]);
        lane.abandon(1);
        assert!(!lane.is_over(1), "somebody may still be filling it");
        lane.set_filled(1);
        lane.release(0);
        assert!(lane.is_over(1));
        lane.abandon(2);
        lane.set_filled(2);
        lane.release(0);
        assert!(lane.is_over(2) && lane.flying_bytes == 0);
    }

    #[test]
    fn a_copy_that_is_abandoned_when_it_was_let_through_is_over_at_once() {
        let mut lane = lane(&[1, 1]);
        lane.set_filled(1);
        lane.release(0);
        lane.abandon(1);
        assert!(lane.is_over(1) && !lane.is_over(2));
    }

    #[test]
    fn a_mark_reached_ends_all_that_was_before_it() {
        let mut lane = lane(&[1, 1, 1]);
        (1..=3).for_each(|number| lane.set_filled(number));
        lane.release(0);
        lane.set_over(2);
        assert!(lane.is_over(2) && !lane.is_over(3));
        lane.set_over(1);
        assert!(!lane.is_over(3), "an old mark changes nothing");
    }
}
