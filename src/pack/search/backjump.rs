//! Leaving a dead end: back to the youngest decision that had a part in it.

use super::{DeadEnd, Search, Undo, add};

impl Search<'_> {
    /// Takes back the youngest decision the conflict depends on and draws the conclusion;
    /// `None` when it depends on none, so that there is no packing.
    pub(super) fn jump_back(&mut self) -> Option<Result<(), DeadEnd>> {
        let words = self.words;
        let word = (0..words).rev().find(|&word| self.conflict[word] != 0)?;
        let level = word * 64 + self.conflict[word].ilog2() as usize;
        self.conflict[word] &= !(1 << (level % 64));
        let (trail_len, item) = self.levels[level];
        self.undo(trail_len);
        self.levels.truncate(level);
        let blocks = self.explain(item);
        if !blocks {
            // Placing it took nothing from anyone, so no other place for it would do better.
            return Some(Err(DeadEnd));
        }
        // What holds for an item holds for its twins.
        let mut twin = item;
        loop {
            if !self.is_placed[twin as usize] && !self.is_delayed[twin as usize] {
                self.set_delayed(twin, true);
                self.delay_reason[twin as usize * words..][..words].copy_from_slice(&self.conflict);
                self.dirty_delays.push(twin);
            }
            twin = self.twin[twin as usize];
            if twin == item {
                break;
            }
        }
        Some(self.propagate())
    }

    /// Adds to the conflict why `item` had this place and no other was left below it. True when
    /// there its top was above the head of something that is not placed.
    fn explain(&mut self, item: u32) -> bool {
        let words = self.words;
        let top = self.top(item);
        let mut blocks = false;
        add(&mut self.conflict, &self.reason[item as usize * words..][..words]);
        for &other in self.near.list(item) {
            let other = other as usize;
            add(&mut self.conflict, &self.reason[other * words..][..words]);
            if self.is_placed[other] {
                let level = self.level[other] as usize;
                self.conflict[level / 64] |= 1 << (level % 64);
            } else {
                blocks |= self.head[other] < top;
            }
        }
        self.steps += (self.near.range(item).len() * words) as u64;
        blocks
    }

    /// Takes back all changes but the first `trail_len`.
    fn undo(&mut self, trail_len: usize) {
        let Self { trail, old_reasons, words, .. } = self;
        let words = *words;
        self.steps += ((trail.len() - trail_len) * words) as u64;
        for change in trail.drain(trail_len..).rev() {
            let kept = old_reasons.len().saturating_sub(words);
            match change {
                Undo::Head { item, head } => {
                    let item = item as usize;
                    self.head[item] = head;
                    self.reason[item * words..][..words].copy_from_slice(&old_reasons[kept..]);
                    old_reasons.truncate(kept);
                }
                Undo::Delay { item, was } => {
                    let item = item as usize;
                    self.delayed_count =
                        self.delayed_count + usize::from(was) - usize::from(self.is_delayed[item]);
                    self.is_delayed[item] = was;
                    self.delay_reason[item * words..][..words]
                        .copy_from_slice(&old_reasons[kept..]);
                    old_reasons.truncate(kept);
                }
                Undo::Place { item } => {
                    let placed = self.instance.items[item as usize];
                    self.is_placed[item as usize] = false;
                    self.rest[placed.sections()].iter_mut().for_each(|rest| *rest += placed.bytes);
                }
            }
        }
    }
}
