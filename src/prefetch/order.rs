//! In which order units are used: pass after pass, each in the usual order unless another was
//! announced. Pure bookkeeping; it says what comes next and whether what came was expected.

/// The order of passes, and how far the pass under way has come. Positions are counted from
/// the start of the pass under way; those behind its end are of the pass after it.
#[derive(Debug)]
pub(super) struct Order {
    /// The units of the pass under way.
    pass: Vec<usize>,
    /// The units of the pass after it.
    next: Vec<usize>,
    /// The units of every later pass.
    usual: Vec<usize>,
    /// The position of the unit used last; none before the first one.
    at: Option<usize>,
    /// Whether the pass after the one under way will come.
    pub(super) wraps: bool,
}

/// What a use did to the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// The unit used last is used again.
    Not,
    /// It was the unit that was next.
    ToNext,
    /// It was another one: skipped to, gone back to, or in no pass.
    Elsewhere,
}

impl Order {
    /// Passes over units `0..count`, one by one.
    pub(super) fn new(count: usize) -> Self {
        let usual: Vec<usize> = (0..count).collect();
        Self { pass: usual.clone(), next: usual.clone(), usual, at: None, wraps: true }
    }

    /// Every pass that has not begun follows `order`.
    pub(super) fn set_usual(&mut self, order: &[usize]) {
        for later in [&mut self.usual, &mut self.next] {
            later.clear();
            later.extend_from_slice(order);
        }
        self.announce(order);
    }

    /// The next pass that begins follows `order`, and those after it the usual one.
    pub(super) fn announce(&mut self, order: &[usize]) {
        let coming = if self.at.is_some() { &mut self.next } else { &mut self.pass };
        coming.clear();
        coming.extend_from_slice(order);
    }

    /// The pass under way is over: what follows is the first of the next one. False, and
    /// nothing is changed, if none is under way or none follows.
    pub(super) fn end_pass(&mut self) -> bool {
        let ends = self.at.is_some() && self.wraps;
        if ends {
            self.begin_next();
            self.at = None;
        }
        ends
    }

    /// Notes that `unit` is used now.
    pub(super) fn advance(&mut self, unit: usize) -> Moved {
        let from = self.at.map_or(0, |at| at + 1);
        let next = self.pass.get(from).or_else(|| self.next.first());
        if self.at.is_some_and(|at| self.pass[at] == unit) && next != Some(&unit) {
            return Moved::Not;
        }
        let in_pass = self.pass[from..].iter().position(|&other| other == unit);
        if let Some(steps) = in_pass {
            self.at = Some(from + steps);
            return if steps == 0 { Moved::ToNext } else { Moved::Elsewhere };
        }
        let Some(position) = self.next.iter().position(|&other| other == unit) else {
            // Of no pass that is known: the order goes on where it was.
            return Moved::Elsewhere;
        };
        let was_next = from == self.pass.len() && position == 0;
        self.begin_next();
        self.at = Some(position);
        if was_next { Moved::ToNext } else { Moved::Elsewhere }
    }

    fn begin_next(&mut self) {
        std::mem::swap(&mut self.pass, &mut self.next);
        self.next.clear();
        self.next.extend_from_slice(&self.usual);
    }

    /// The unit that is used `step` steps after the last one, from 1, as far as one pass looks
    /// ahead.
    pub(super) fn upcoming(&self, step: usize) -> Option<usize> {
        let position = self.at.map_or(step - 1, |at| at + step);
        match position.checked_sub(self.pass.len()) {
            None => Some(self.pass[position]),
            Some(position) if self.wraps => self.next.get(position).copied(),
            Some(_) => None,
        }
    }

    /// The longest pass known.
    pub(super) fn len(&self) -> usize {
        self.pass.len().max(self.next.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ahead(order: &Order, steps: usize) -> Vec<usize> {
        (1..=steps).map_while(|step| order.upcoming(step)).collect()
    }

    #[test]
    fn passes_follow_each_other() {
        let mut order = Order::new(3);
        assert_eq!(ahead(&order, 4), [0, 1, 2, 0]);
        for _ in 0..3 {
            for unit in 0..3 {
                assert_eq!(order.advance(unit), Moved::ToNext);
            }
        }
        assert_eq!(ahead(&order, 3), [0, 1, 2]);
        order.wraps = false;
        assert!(ahead(&order, 3).is_empty());
    }

    #[test]
    fn skipping_and_going_back_is_told_and_the_order_goes_on_from_there() {
        let mut order = Order::new(4);
        assert_eq!(order.advance(0), Moved::ToNext);
        assert_eq!(order.advance(0), Moved::Not, "the same once more");
        assert_eq!(order.advance(2), Moved::Elsewhere, "1 was next");
        assert_eq!(ahead(&order, 2), [3, 0]);
        assert_eq!(order.advance(1), Moved::Elsewhere, "3 was next");
        assert_eq!(ahead(&order, 2), [2, 3]);
        assert_eq!(order.advance(9), Moved::Elsewhere, "in no pass");
        assert_eq!(ahead(&order, 2), [2, 3]);
    }

    #[test]
    fn an_announced_pass_comes_once_and_a_usual_one_from_then_on() {
        let mut order = Order::new(3);
        order.advance(0);
        order.announce(&[2, 2, 1]);
        assert_eq!(ahead(&order, 6), [1, 2, 2, 2, 1]);
        for unit in [1, 2, 2, 2, 1, 0, 1, 2] {
            order.advance(unit);
        }
        assert_eq!(ahead(&order, 3), [0, 1, 2]);
        order.set_usual(&[1]);
        assert_eq!(ahead(&order, 2), [1]);
        assert!(order.end_pass());
        assert_eq!(ahead(&order, 3), [1, 1]);
        assert!(!order.end_pass(), "a pass that has not begun is not ended");
    }
}
