//! What is at an address: who owns it, whether it is all there, and whether a device may touch
//! it. Asked when work is enqueued, and again when it runs.

use crate::entry::misuse;
use crate::fake::{Fake, State};
use crate::status::{Answer, INVALID_VALUE};

/// Who owns a range. Serials tell one use of an address from the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    Block(u64),
    /// A pool keeps its memory until every stream is through with it.
    PoolBlock,
    Mappings(Vec<u64>),
    Pinned(u64),
    /// Ordinary memory of the process.
    Pageable,
}

/// A range that may be touched.
#[derive(Debug, Clone)]
pub(crate) struct Range {
    /// Where its bytes really are.
    pub(crate) at: u64,
    pub(crate) bytes: u64,
    pub(crate) owner: Owner,
    /// The device whose memory it is; `None` for the host's.
    pub(crate) gpu: Option<usize>,
    /// It may be waited on by HIP's streams.
    pub(crate) signal: bool,
}

/// What is to be done to a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touch {
    Read,
    Write,
}

/// What is wrong with a range.
struct Wrong(&'static str, String);

impl Fake {
    /// The range of `bytes` from `at`, as device `gpu` is to touch it.
    pub(crate) fn range(&self, at: u64, bytes: u64, gpu: usize, touch: Touch) -> Answer<Range> {
        let found = self.state().find(at, bytes, gpu, touch);
        found.map_err(|Wrong(kind, words)| misuse(kind, words, INVALID_VALUE))
    }

    /// Whether a range is still what it was; asked while [`touching`](Self::touching).
    pub(crate) fn is_alive(&self, range: &Range) -> bool {
        let state = self.state();
        match &range.owner {
            Owner::Block(serial) => {
                let at = state.blocks.range(..=range.at).next_back();
                at.is_some_and(|(_, block)| block.serial == *serial)
            }
            Owner::Pinned(serial) => state.pinned.values().any(|pinned| pinned.serial == *serial),
            Owner::Mappings(serials) => serials
                .iter()
                .all(|serial| state.mappings.values().any(|mapping| mapping.serial == *serial)),
            Owner::PoolBlock | Owner::Pageable => true,
        }
    }
}

impl State {
    fn find(&self, at: u64, bytes: u64, gpu: usize, touch: Touch) -> Result<Range, Wrong> {
        let end = at.checked_add(bytes).ok_or_else(|| outside(at, bytes, "any address"))?;
        if at == 0 {
            return Err(outside(at, bytes, "memory: it is null"));
        }
        if let Some((&start, block)) = self.blocks.range(..=at).next_back()
            && start + block.bytes > at
        {
            if end > start + block.bytes {
                return Err(outside(at, bytes, &format!("an allocation of {}", block.bytes)));
            }
            let owner = if block.pool == 0 { Owner::Block(block.serial) } else { Owner::PoolBlock };
            let signal = block.signal;
            return Ok(Range { at, bytes, owner, gpu: Some(block.gpu), signal });
        }
        if let Some((&start, reservation)) = self.reservations.range(..=at).next_back()
            && start + reservation.bytes > at
        {
            return self.find_mapped(at, end, gpu, touch);
        }
        for (&start, pinned) in &self.pinned {
            for base in [start, start + pinned.alias_offset] {
                if (base..base + pinned.bytes).contains(&at) {
                    if end > base + pinned.bytes {
                        let words = format!("a pinned range of {}", pinned.bytes);
                        return Err(outside(at, bytes, &words));
                    }
                    if touch == Touch::Write && pinned.read_only {
                        let words = format!("{at:#x} was registered for reading only");
                        return Err(Wrong("no_access", words));
                    }
                    let owner = Owner::Pinned(pinned.serial);
                    let at = at - base + start;
                    return Ok(Range { at, bytes, owner, gpu: None, signal: false });
                }
            }
        }
        let runs_into = self.blocks.range(at..end).next().is_some()
            || self.reservations.range(at..end).next().is_some()
            || self.pinned.range(at..end).next().is_some();
        let shares = self.small.iter().any(|pages| pages.hold(at));
        if runs_into || shares || self.freed.contains(&at) {
            return Err(outside(at, bytes, "live memory"));
        }
        Ok(Range { at, bytes, owner: Owner::Pageable, gpu: None, signal: false })
    }

    fn find_mapped(&self, at: u64, end: u64, gpu: usize, touch: Touch) -> Result<Range, Wrong> {
        let mut covered = at;
        let mut serials = Vec::new();
        let mut owner = gpu;
        while covered < end.max(at + 1) {
            let mapping = self.mappings.range(..=covered).next_back();
            let Some((&start, mapping)) = mapping.filter(|(start, m)| *start + m.bytes > covered)
            else {
                return Err(outside(covered, end - covered, "what is mapped"));
            };
            let allowed = mapping.access.get(&gpu).copied().unwrap_or_default();
            if allowed & 1 == 0 || touch == Touch::Write && allowed != 3 {
                let words =
                    format!("device {gpu} has access {allowed} to the mapping at {start:#x}");
                return Err(Wrong("no_access", words));
            }
            owner = mapping.gpu;
            serials.push(mapping.serial);
            covered = start + mapping.bytes;
        }
        let owner_of = Owner::Mappings(serials);
        Ok(Range { at, bytes: end - at, owner: owner_of, gpu: Some(owner), signal: false })
    }
}

fn outside(at: u64, bytes: u64, of: &str) -> Wrong {
    Wrong("outside_live_memory", format!("{bytes} bytes from {at:#x} leave {of}"))
}
