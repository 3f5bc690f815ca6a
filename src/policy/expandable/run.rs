//! A run of free bytes that is mapped already, for a request that no free block fits. Reads the
//! pages, decides, changes nothing.

use super::pages::{Arena, Free, HandleId, Ledgers, Pages, Range, View};

/// The first byte of the shortest run of mapped addresses of an arena that is free for `bytes`,
/// whoever owns them now.
pub(crate) fn shortest_run(
    pages: &Pages,
    ledgers: &mut dyn Ledgers,
    arena: u32,
    bytes: u64,
) -> Option<u64> {
    let free = Free::now(pages, ledgers);
    if free.bytes() < bytes {
        return None;
    }
    let mut run = Run::new(pages, bytes);
    let Arena { home, runs, brk, .. } = &pages.arenas[arena as usize];
    for &id in home.iter().chain(runs) {
        let Range { start, end, .. } = pages.ranges[id];
        // Home handles behind the break wait for the range to grow over them again.
        let end = if *home == Some(id) { end.min(*brk) } else { end };
        run.begin(start);
        for (&view, &View { handle, .. }) in pages.views.range(start..end) {
            for &(from, to) in free.runs(handle) {
                run.add(Part { handle, from, to, view });
            }
        }
    }
    run.note();
    run.best.map(|(_, start)| start)
}

/// Free bytes of a handle, as seen by one of its views.
#[derive(Debug, Clone, Copy)]
struct Part {
    handle: HandleId,
    from: u64,
    to: u64,
    view: u64,
}

/// A run of free bytes at consecutive addresses, none of them twice, and the best before it.
struct Run {
    wanted_bytes: u64,
    start: u64,
    end: u64,
    /// What is in it, and where in this list the part of the same handle before each is.
    seen: Vec<(Part, u32)>,
    /// The last part of a handle in it, by the handle's name: the number of the run, and where it
    /// is in the list.
    last: Vec<(u32, u32)>,
    number: u32,
    /// Size and first byte of the shortest run that is long enough.
    best: Option<(u64, u64)>,
}

/// There is no part before.
const NONE: u32 = u32::MAX;

impl Run {
    fn new(pages: &Pages, wanted_bytes: u64) -> Self {
        let last = vec![(0, NONE); pages.handles.capacity()];
        Self { wanted_bytes, start: 0, end: 0, seen: Vec::new(), last, number: 0, best: None }
    }

    /// The run is over, and another one begins.
    fn begin(&mut self, at: u64) {
        self.note();
        (self.start, self.end) = (at, at);
        self.seen.clear();
        self.number += 1;
    }

    fn note(&mut self) {
        let bytes = self.end - self.start;
        if bytes >= self.wanted_bytes && self.best.is_none_or(|(least, _)| bytes < least) {
            self.best = Some((bytes, self.start));
        }
    }

    /// Goes on with the next free bytes, by address.
    fn add(&mut self, part: Part) {
        let Part { handle, from, to, view } = part;
        if self.end != view + from {
            self.begin(view + from);
        }
        let (number, at) = self.last[handle];
        let before = if number == self.number { at } else { NONE };
        let again = self.start_without(&part, before);
        if again > self.start {
            self.note();
            self.start = again.min(view + from);
        }
        self.end = view + to;
        self.last[handle] = (self.number, self.seen.len() as u32);
        self.seen.push((part, before));
    }

    /// Where the run has to begin so that these bytes of a handle are not in it yet.
    fn start_without(&self, part: &Part, mut before: u32) -> u64 {
        let mut start = self.start;
        while before != NONE {
            let (seen, earlier) = self.seen[before as usize];
            if seen.from < part.to && part.from < seen.to {
                start = start.max(seen.view + seen.to.min(part.to));
            }
            before = earlier;
        }
        start
    }
}
