//! All free bytes at one moment, by handle: found from the free blocks, which are few where memory
//! is held tightly, not from the handles, which are many.

use super::{HandleId, Ledgers, Pages, Range, View};

/// What is free of each handle, whoever owns it and lends, while nothing changes.
#[derive(Debug)]
pub(crate) struct Free {
    /// First byte and end within the handle, by handle and in order.
    runs: Vec<(u64, u64)>,
    /// Where those of a handle are, by its name.
    of: Vec<(u32, u32)>,
    bytes: u64,
}

impl Free {
    /// As the ledgers are now.
    pub(crate) fn now(pages: &Pages, ledgers: &mut dyn Ledgers) -> Self {
        let mut parts: Vec<(HandleId, u64, u64)> = Vec::new();
        for (_, &Range { arena, segment, start, end, .. }) in &pages.ranges {
            if start == end || !ledgers.lends(arena) {
                continue;
            }
            ledgers.of(arena).free_parts(segment, start, end, |from, to| {
                pages.add_parts(from, to, &mut parts);
            });
        }
        for (id, handle) in &pages.handles {
            if !handle.is_kept && ledgers.lends(handle.arena) {
                let idle = handle.pieces().iter().filter(|piece| piece.owner.is_none());
                parts.extend(idle.map(|piece| (id, piece.start, piece.end)));
            }
        }
        parts.sort_unstable();
        let free = Self::of(pages, &parts);
        #[cfg(debug_assertions)]
        for (id, _) in &pages.handles {
            debug_assert_eq!(free.runs(id), pages.free_runs(ledgers, id), "handle {id}");
        }
        free
    }

    fn of(pages: &Pages, parts: &[(HandleId, u64, u64)]) -> Self {
        let of = vec![(0, 0); pages.handles.capacity()];
        let mut free = Self { runs: Vec::with_capacity(parts.len()), of, bytes: 0 };
        for &(id, from, to) in parts {
            free.bytes += to - from;
            let (first, end) = &mut free.of[id];
            if *first == *end {
                (*first, *end) = (free.runs.len() as u32, free.runs.len() as u32);
            }
            match free.runs[*first as usize..].last_mut() {
                Some(last) if last.1 == from => last.1 = to,
                _ => {
                    free.runs.push((from, to));
                    *end += 1;
                }
            }
        }
        free
    }

    /// The free runs of a handle: first byte and end within it.
    pub(crate) fn runs(&self, id: HandleId) -> &[(u64, u64)] {
        let (first, end) = self.of[id];
        &self.runs[first as usize..end as usize]
    }

    /// All that is free.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Pages {
    /// Puts the parts of handles behind others that a free block from `from` to `to` owns.
    fn add_parts(&self, from: u64, to: u64, parts: &mut Vec<(HandleId, u64, u64)>) {
        let first = self.views.range(..=from).next_back().map_or(from, |(&view, _)| view);
        for (&view, &View { handle: id, .. }) in self.views.range(first..to) {
            let handle = &self.handles[id];
            let (from, to) = (from.max(view), to.min(view + handle.bytes));
            if from < to && !handle.is_kept {
                parts.push((id, from - view, to - view));
            }
        }
    }
}
