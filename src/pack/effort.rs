//! How much work may still be done.

use std::time::Instant;

use super::Watch;

/// A budget of steps, with what can end the work before it is used up.
#[derive(Debug)]
pub(super) struct Effort<'a> {
    spent: u64,
    /// No further than this for now.
    until: u64,
    threads: usize,
    stop: Stop<'a>,
}

/// What ends the work from outside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stop<'a> {
    pub(super) watch: &'a Watch,
    pub(super) deadline: Option<Instant>,
}

impl Stop<'_> {
    /// True once the work should end.
    pub(super) fn is_set(&self) -> bool {
        self.watch.is_cancelled()
            || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

impl<'a> Effort<'a> {
    pub(super) fn new(budget: u64, threads: usize, stop: Stop<'a>) -> Self {
        Self { spent: 0, until: budget, threads, stop }
    }

    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    pub(super) fn stop(&self) -> Stop<'a> {
        self.stop
    }

    pub(super) fn spent(&self) -> u64 {
        self.spent
    }

    pub(super) fn spend(&mut self, steps: u64) {
        self.spent = self.spent.saturating_add(steps);
    }

    pub(super) fn left(&self) -> u64 {
        if self.stop.is_set() { 0 } else { self.until.saturating_sub(self.spent) }
    }

    /// What each of `count` may use.
    pub(super) fn share(&self, count: u64) -> u64 {
        self.left() / count.max(1)
    }

    /// Runs `work` with at most `steps` of what is left.
    pub(super) fn within<T>(&mut self, steps: u64, work: impl FnOnce(&mut Self) -> T) -> T {
        let until = self.until;
        self.until = until.min(self.spent.saturating_add(steps));
        let outcome = work(self);
        self.until = until;
        outcome
    }
}
