//! Free bytes at consecutive addresses and who owns them, over the borders of handles: all that has
//! to be known before they change their owner, seen in one pass over the handles. Where whole runs
//! of handles change their owner, the ledgers are asked once for each run.

use std::collections::HashMap;

use super::{HandleId, Ledgers, Pages, Range, RangeId, View};
use crate::policy::expandable::PAGE_BYTES;

/// Free bytes at consecutive mapped addresses, none of them twice, while nothing changes.
#[derive(Debug, Default)]
pub(crate) struct Parcel {
    pub(super) parts: Vec<Part>,
    /// The same bytes by owner.
    pub(super) spans: Vec<Span>,
    /// The streams to wait for before they are the taker's, each once.
    pub(crate) users: Vec<u32>,
}

/// What lies in one view.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) view: u64,
    pub(super) handle: HandleId,
    pub(super) range: RangeId,
    /// First byte and end within the handle.
    pub(super) from: u64,
    pub(super) to: u64,
}

/// Bytes of one owner, at consecutive addresses of it too.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// Where they are asked for.
    pub(super) at: u64,
    pub(super) bytes: u64,
    /// The owner's range and its address of the bytes; none where they are idle.
    pub(super) owner: Option<(RangeId, u64)>,
}

impl Span {
    /// True if the bytes are where they are asked for already.
    pub(super) fn is_own(&self) -> bool {
        self.owner.is_some_and(|(_, at)| at == self.at)
    }
}

/// Whose range the bytes seen last are in.
#[derive(Debug, Clone, Copy)]
struct Giver {
    range: RangeId,
    start: u64,
    limit: u64,
    stream: u32,
}

impl Pages {
    /// Looks at `bytes` from `address` for the stream `taker`: `None` unless they are mapped, all
    /// free, and none of them twice.
    pub(crate) fn parcel(
        &mut self,
        ledgers: &mut dyn Ledgers,
        (address, bytes): (u64, u64),
        taker: u32,
    ) -> Option<Parcel> {
        let (parts, twice) = self.parts(address, bytes)?;
        let mut parcel = Parcel { parts, ..Parcel::default() };
        self.see_owners(&mut parcel, taker);
        let free = match twice {
            true => self.are_free_once(ledgers, &parcel.parts),
            false => parcel.spans.iter().all(|span| self.is_free(ledgers, span)),
        };
        free.then_some(parcel)
    }

    /// The parts of views that `bytes` from `address` lie in, and whether a handle is in it twice.
    /// `None` where not all of it is mapped in one range, or something is out of use.
    fn parts(&mut self, address: u64, bytes: u64) -> Option<(Vec<Part>, bool)> {
        let (mut at, end) = (address, address + bytes);
        let (&first, &View { range: taking, .. }) = self.views.range(..=at).next_back()?;
        self.looks += 1;
        let mut parts = Vec::with_capacity((bytes / PAGE_BYTES) as usize + 2);
        let mut twice = false;
        for (&view, &View { handle: id, range }) in self.views.range(first..end) {
            let handle = &mut self.handles[id];
            if range != taking || view > at || view + handle.bytes <= at || handle.is_kept {
                return None;
            }
            twice |= handle.looked_at == self.looks;
            handle.looked_at = self.looks;
            let (from, to) = (at - view, handle.bytes.min(end - view));
            parts.push(Part { view, handle: id, range, from, to });
            at = view + to;
        }
        (at == end).then_some((parts, twice))
    }

    /// Sees whose the parts of a parcel are.
    fn see_owners(&self, parcel: &mut Parcel, taker: u32) {
        let Parcel { parts, spans, users } = parcel;
        let mut use_by = |user: u32| {
            if user != taker && !users.contains(&user) {
                users.push(user);
            }
        };
        let mut giver: Option<Giver> = None;
        for &Part { view, handle: id, from, to, .. } in parts.iter() {
            let handle = &self.handles[id];
            for piece in handle.pieces() {
                let (start, end) = (piece.start.max(from), piece.end.min(to));
                if start >= end {
                    continue;
                }
                let owner = match piece.owner {
                    Some(owner) => {
                        let near = giver.filter(|near| (near.start..near.limit).contains(&owner));
                        let near = near.unwrap_or_else(|| self.giver(owner));
                        if owner != view {
                            use_by(near.stream);
                        }
                        giver = Some(near);
                        Some((near.range, owner + start))
                    }
                    None => {
                        self.idle_users_of(handle, taker).for_each(&mut use_by);
                        None
                    }
                };
                match spans.last_mut() {
                    Some(last) if follows(last, owner) => last.bytes += end - start,
                    _ => spans.push(Span { at: view + start, bytes: end - start, owner }),
                }
            }
        }
        users.sort_unstable();
    }

    fn giver(&self, view: u64) -> Giver {
        let range = self.views[&view].range;
        let Range { arena, start, limit, .. } = self.ranges[range];
        Giver { range, start, limit, stream: self.arenas[arena as usize].stream }
    }

    /// True if what a span owns is free.
    fn is_free(&self, ledgers: &mut dyn Ledgers, span: &Span) -> bool {
        let Some((range, at)) = span.owner else { return true };
        let Range { arena, segment, .. } = self.ranges[range];
        // Free neighbours are one block.
        let free = ledgers.of(arena).free_at(segment, at);
        free.is_some_and(|(first, bytes)| at + span.bytes <= first + bytes)
    }

    /// As [`is_free`](Self::is_free), where parts may be of one handle.
    fn are_free_once(&self, ledgers: &mut dyn Ledgers, parts: &[Part]) -> bool {
        let mut seen: HashMap<HandleId, Vec<(u64, u64)>> = HashMap::new();
        parts.iter().all(|&Part { handle, from, to, .. }| {
            let seen = seen.entry(handle).or_default();
            let once = seen.iter().all(|&(start, end)| end <= from || to <= start);
            seen.push((from, to));
            let runs = self.free_runs(ledgers, handle);
            once && runs.iter().any(|&(start, end)| start <= from && to <= end)
        })
    }
}

/// True if bytes of `owner` come right behind the last ones, for it too.
fn follows(last: &Span, owner: Option<(RangeId, u64)>) -> bool {
    match (last.owner, owner) {
        (None, None) => true,
        (Some((range, at)), Some(next)) => next == (range, at + last.bytes),
        _ => false,
    }
}
