//! What follows from where things stand: the rules that raise heads and see dead ends early.

use super::{DeadEnd, Search, add};

impl Search<'_> {
    /// Applies the rules until none has more to say.
    pub(super) fn propagate(&mut self) -> Result<(), DeadEnd> {
        loop {
            let step = if let Some(item) = self.dirty_delays.pop() {
                self.raise_delayed(item)
            } else if let Some(section) = self.dirty_sections.pop() {
                self.is_dirty[section as usize] = false;
                self.check_section(section)
            } else {
                return Ok(());
            };
            if step.is_err() {
                self.clear_dirt();
                return Err(DeadEnd);
            }
        }
    }

    pub(super) fn clear_dirt(&mut self) {
        for section in self.dirty_sections.drain(..) {
            self.is_dirty[section as usize] = false;
        }
        self.dirty_delays.clear();
    }

    /// Marks a section to be checked again.
    pub(super) fn soil(&mut self, section: u32) {
        if !std::mem::replace(&mut self.is_dirty[section as usize], true) {
            self.dirty_sections.push(section);
        }
    }

    /// A delayed item rests on something that is not placed yet, so it is no lower than the
    /// lowest top of these.
    fn raise_delayed(&mut self, item: u32) -> Result<(), DeadEnd> {
        if !self.is_delayed[item as usize] {
            return Ok(());
        }
        let near = self.near.list(item);
        self.steps += near.len() as u64;
        let open = near.iter().filter(|&&other| !self.is_placed[other as usize]);
        let least = open.clone().map(|&other| self.top(other)).min().unwrap_or(u64::MAX);
        if least <= self.head[item as usize] {
            return Ok(());
        }
        let mut reason = std::mem::take(&mut self.scratch);
        reason.clear();
        reason.extend_from_slice(&self.delay_reason[item as usize * self.words..][..self.words]);
        for &other in open {
            add(&mut reason, &self.reason[other as usize * self.words..][..self.words]);
        }
        let outcome = self.raise(item, least, &reason);
        self.scratch = reason;
        outcome
    }

    /// What is not placed in a section must lie one above the other, each above its head.
    fn check_section(&mut self, section: u32) -> Result<(), DeadEnd> {
        let mut sorted = std::mem::take(&mut self.sorted);
        sorted.clear();
        for &item in self.within.list(section) {
            if !self.is_placed[item as usize] {
                sorted.push((self.head[item as usize], item));
            }
        }
        self.steps += self.within.range(section).len() as u64 + 2 * sorted.len() as u64;
        let outcome = if sorted.len() < 2 {
            Ok(())
        } else {
            sorted.sort_unstable();
            self.check_height(&sorted).and_then(|()| self.raise_above_lowest(section, &sorted))
        };
        self.sorted = sorted;
        outcome
    }

    /// Dead when even with each as low as its head lets it the section is too high.
    fn check_height(&mut self, sorted: &[(u64, u32)]) -> Result<(), DeadEnd> {
        let (mut height, mut since) = (0, 0);
        for (at, &(head, item)) in sorted.iter().enumerate() {
            if head > height {
                (height, since) = (head, at);
            }
            height += self.bytes(item);
        }
        if height <= self.capacity {
            return Ok(());
        }
        // Those below the last gap have no part in it.
        self.conflict.fill(0);
        for &(_, item) in &sorted[since..] {
            let from = item as usize * self.words;
            add(&mut self.conflict, &self.reason[from..from + self.words]);
        }
        Err(DeadEnd)
    }

    /// What has its head too high to have all the others above it is not the lowest: it lies
    /// above one of those that can be.
    fn raise_above_lowest(&mut self, section: u32, sorted: &[(u64, u32)]) -> Result<(), DeadEnd> {
        let latest = self.capacity - self.rest[section as usize];
        let split = sorted.partition_point(|&(head, _)| head <= latest);
        let (lowest, others) = sorted.split_at(split);
        let least = lowest.iter().map(|&(head, item)| head + self.bytes(item)).min();
        let Some(least) = least else { return Ok(()) };
        if others.first().is_none_or(|&(head, _)| head >= least) {
            return Ok(());
        }
        let mut reason = std::mem::take(&mut self.scratch);
        reason.clear();
        reason.resize(self.words, 0);
        for &(_, item) in sorted {
            add(&mut reason, &self.reason[item as usize * self.words..][..self.words]);
        }
        self.steps += (sorted.len() * self.words) as u64;
        let below = others.iter().take_while(|&&(head, _)| head < least);
        let outcome =
            below.clone().try_for_each(|&(_, item)| self.raise(item, least, &reason));
        self.scratch = reason;
        outcome
    }
}
