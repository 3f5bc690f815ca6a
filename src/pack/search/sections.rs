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

    /// What is not placed in a section must lie one above the other, each above its head. An
    /// item is *late* when its head is too high to have all the others above it.
    fn check_section(&mut self, section: u32) -> Result<(), DeadEnd> {
        // A search is not begun where the load is above the capacity.
        let latest = self.capacity - self.rest[section as usize];
        let mut late = std::mem::take(&mut self.late);
        late.clear();
        let mut least_top = u64::MAX;
        for &item in self.within.list(section) {
            let head = self.head[item as usize];
            if self.is_placed[item as usize] {
                continue;
            }
            if head > latest {
                late.push((head, item));
            } else {
                least_top = least_top.min(head + self.bytes(item));
            }
        }
        self.steps += self.within.range(section).len() as u64;
        let outcome = if late.is_empty() {
            Ok(())
        } else {
            late.sort_unstable();
            self.steps += 2 * late.len() as u64;
            self.check_height(&late).and_then(|()| self.raise_late(section, &late, least_top))
        };
        self.late = late;
        outcome
    }

    /// Dead when even with each as low as its head lets it the section is too high. Those that
    /// are not late cannot make it so: with one of them the lowest, all have room.
    fn check_height(&mut self, late: &[(u64, u32)]) -> Result<(), DeadEnd> {
        let (mut height, mut since) = (0, 0);
        for (at, &(head, item)) in late.iter().enumerate() {
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
        for &(_, item) in &late[since..] {
            add(&mut self.conflict, &self.reason[item as usize * self.words..][..self.words]);
        }
        Err(DeadEnd)
    }

    /// What is late is not the lowest, so it lies above one that is not late.
    fn raise_late(
        &mut self,
        section: u32,
        late: &[(u64, u32)],
        least_top: u64,
    ) -> Result<(), DeadEnd> {
        if late.first().is_none_or(|&(head, _)| head >= least_top) {
            return Ok(());
        }
        self.conflict.fill(0);
        self.add_reasons(section);
        let reason = std::mem::replace(&mut self.conflict, std::mem::take(&mut self.scratch));
        self.conflict.resize(self.words, 0);
        let mut below = late.iter().take_while(|&&(head, _)| head < least_top);
        let outcome = below.try_for_each(|&(_, item)| self.raise(item, least_top, &reason));
        self.scratch = reason;
        outcome
    }

    /// Adds to the conflict why all that is not placed in a section has its head.
    fn add_reasons(&mut self, section: u32) {
        let Self { within, is_placed, reason, conflict, words, .. } = self;
        let words = *words;
        for &item in within.list(section) {
            if !is_placed[item as usize] {
                add(conflict, &reason[item as usize * words..][..words]);
            }
        }
        self.steps += (within.range(section).len() * words) as u64;
    }
}
