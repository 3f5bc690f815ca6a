//! Bytes at consecutive addresses by who owns them, over the borders of handles: where whole runs
//! of handles change their owner, the ledgers are asked once for each run.

use super::{Handle, HandleId, Ledgers, Pages, Range, RangeId, View};
use crate::ledger::State;

/// Bytes of one owner, at consecutive addresses of it too.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// Where they are asked for.
    pub(super) at: u64,
    pub(super) bytes: u64,
    /// The owner's range and its address of the bytes; none where they are idle.
    pub(super) owner: Option<(RangeId, u64)>,
}

impl Pages {
    /// The parts of views that `bytes` from `address` lie in: view, first byte and end in the
    /// handle. `None` where not all of it is mapped.
    pub(super) fn parts(&self, address: u64, bytes: u64) -> Option<Vec<(u64, View, u64, u64)>> {
        let (mut at, end) = (address, address + bytes);
        let (&first, _) = self.views.range(..=at).next_back()?;
        let mut parts = Vec::new();
        for (&start, &view) in self.views.range(first..end) {
            let handle_bytes = self.handles[view.handle].bytes;
            if start > at || start + handle_bytes <= at {
                return None;
            }
            let (from, to) = (at - start, handle_bytes.min(end - start));
            parts.push((start, view, from, to));
            at = start + to;
        }
        (at == end).then_some(parts)
    }

    /// The same bytes by owner.
    pub(super) fn spans(&self, parts: &[(u64, View, u64, u64)]) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for &(view, View { handle, .. }, from, to) in parts {
            let Handle { pieces, .. } = &self.handles[handle];
            for piece in pieces.iter().filter(|piece| piece.start < to && from < piece.end) {
                let (start, end) = (piece.start.max(from), piece.end.min(to));
                let last = spans.last_mut();
                let owner = piece.owner.map(|owner| {
                    let known = last.as_ref().and_then(|last| last.owner);
                    let is_known = |&(range, _): &(RangeId, u64)| {
                        let Range { start, limit, .. } = self.ranges[range];
                        (start..limit).contains(&owner)
                    };
                    let range = match known.filter(is_known) {
                        Some((range, _)) => range,
                        None => self.views[&owner].range,
                    };
                    (range, owner + start)
                });
                match last {
                    Some(last) if follows(last, owner) => last.bytes += end - start,
                    _ => spans.push(Span { at: view + start, bytes: end - start, owner }),
                }
            }
        }
        spans
    }

    /// True if no handle is in `parts` twice, and nothing is out of use.
    pub(super) fn are_apart(&self, parts: &[(u64, View, u64, u64)]) -> bool {
        let mut handles: Vec<HandleId> = parts.iter().map(|part| part.1.handle).collect();
        handles.sort_unstable();
        let twice = handles.windows(2).any(|pair| pair[0] == pair[1]);
        !twice && handles.iter().all(|&id| !self.handles[id].is_kept)
    }

    /// True if what a span owns is free.
    pub(super) fn is_free(&self, ledgers: &mut dyn Ledgers, span: &Span) -> bool {
        let Some((range, at)) = span.owner else { return true };
        let Range { arena, segment, .. } = self.ranges[range];
        let ledger = ledgers.of(arena);
        // Free neighbours are one block.
        let block = ledger.block_at(segment, at);
        let block = &ledger[block];
        block.state == State::Free && at + span.bytes <= block.address + block.bytes
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
