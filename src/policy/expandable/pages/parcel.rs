//! Free bytes at consecutive addresses and who owns them, over the borders of handles: all that has
//! to be known before they change their owner, seen in one pass over the handles. Where whole runs
//! of handles change their owner, the ledgers are asked once for each run.

use std::collections::HashMap;

use super::{HandleId, Ledgers, Pages, Range, RangeId, View};
use crate::policy::expandable::PAGE_BYTES;

/// Bytes at consecutive mapped addresses, by the views they lie in. That stays as it is until
/// something is unmapped or falls out of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Site {
    parts: Vec<Part>,
    /// Some handle is in it more than once.
    twice: bool,
    /// [`Pages::losses`] by then.
    as_of: u64,
}

/// Free bytes of a site, none of them twice, while nothing changes.
#[derive(Debug)]
pub(crate) struct Parcel<'a> {
    pub(super) parts: &'a [Part],
    /// The same bytes by owner.
    pub(super) spans: Vec<Span>,
    /// The streams to wait for before they are the taker's, each once.
    pub(crate) users: Vec<u32>,
    /// The arenas that what is idle was made for, each once.
    makers: Vec<u32>,
}

/// What lies in one view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

impl Site {
    pub(crate) fn part_count(&self) -> usize {
        self.parts.len()
    }
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
    /// Where `bytes` from `address` lie. `None` where not all of it is mapped in one range, or
    /// something is out of use.
    pub(crate) fn site(&self, (address, bytes): (u64, u64)) -> Option<Site> {
        let (mut at, end) = (address, address + bytes);
        let (&first, &View { range: taking, .. }) = self.views.range(..=at).next_back()?;
        let mut parts = Vec::with_capacity((bytes / PAGE_BYTES) as usize + 2);
        for (&view, &View { handle: id, range }) in self.views.range(first..end) {
            let handle = &self.handles[id];
            let is_gap = view > at || view + handle.bytes <= at;
            if range != taking || is_gap || handle.is_kept {
                return None;
            }
            let (from, to) = (at - view, handle.bytes.min(end - view));
            parts.push(Part { view, handle: id, range, from, to });
            at = view + to;
        }
        let mut handles: Vec<HandleId> = parts.iter().map(|part| part.handle).collect();
        handles.sort_unstable();
        let twice = handles.windows(2).any(|pair| pair[0] == pair[1]);
        (at == end).then_some(Site { parts, twice, as_of: self.losses })
    }

    /// True while a site is as it was.
    pub(crate) fn is_current(&self, site: &Site) -> bool {
        site.as_of == self.losses
    }

    /// Looks at a current site for the stream `taker`: `None` unless all of it is free, and none of
    /// it twice.
    pub(crate) fn parcel<'a>(
        &self,
        ledgers: &mut dyn Ledgers,
        site: &'a Site,
        taker: u32,
    ) -> Option<Parcel<'a>> {
        debug_assert!(self.is_current(site), "views of the site are gone");
        let parts = &site.parts[..];
        let mut parcel =
            Parcel { parts, spans: Vec::with_capacity(16), users: Vec::new(), makers: Vec::new() };
        self.see_owners(&mut parcel, taker);
        let lent = parcel.makers.iter().all(|&maker| ledgers.lends(maker));
        let free = lent
            && match site.twice {
                true => self.are_free_once(ledgers, parts),
                false => parcel.spans.iter().all(|span| self.is_free(ledgers, span)),
            };
        free.then_some(parcel)
    }

    /// Sees whose the parts of a parcel are.
    fn see_owners(&self, parcel: &mut Parcel<'_>, taker: u32) {
        let Parcel { parts, spans, users, makers } = parcel;
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
                        if !makers.contains(&handle.arena) {
                            makers.push(handle.arena);
                        }
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

    /// True if what a span owns is free, and lent.
    fn is_free(&self, ledgers: &mut dyn Ledgers, span: &Span) -> bool {
        let Some((range, at)) = span.owner else { return true };
        let Range { arena, segment, .. } = self.ranges[range];
        if !ledgers.lends(arena) {
            return false;
        }
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
