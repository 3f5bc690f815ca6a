//! What was decided before. The same requests since beginning anew, or the same blocks live and
//! the same request: the same place, if its bytes are free. Programs that repeat themselves find all their places here, and what is found
//! needs no driver call.

use std::collections::HashMap;

use crate::ledger::{Ledger, State};

/// Decisions kept; when there are more, all are forgotten and the next round learns them anew.
const MOST: usize = 1 << 14;

/// Where a request went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    /// First byte and size of what was claimed for it.
    pub(crate) claims: Vec<(u64, u64)>,
    /// Its first byte.
    pub(crate) address: u64,
}

/// Places by a name of the moment they were chosen at: [`after`] the misses before it, which is
/// cheap and enough for a program that begins anew, and by [`key_of`] the state.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    by_misses: HashMap<u64, Placed>,
    by_state: HashMap<u64, Placed>,
}

/// A moment's two names.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moment {
    pub(crate) misses: u64,
    pub(crate) state: u64,
}

impl Memo {
    pub(crate) fn by_misses(&self, misses: u64) -> Option<&Placed> {
        self.by_misses.get(&misses)
    }

    pub(crate) fn by_state(&self, state: u64) -> Option<&Placed> {
        self.by_state.get(&state)
    }

    pub(crate) fn insert(&mut self, at: Moment, placed: Placed) {
        for map in [&mut self.by_misses, &mut self.by_state] {
            if map.len() >= MOST {
                map.clear();
            }
        }
        self.by_misses.insert(at.misses, placed.clone());
        self.by_state.insert(at.state, placed);
    }

    pub(crate) fn clear(&mut self) {
        self.by_misses.clear();
        self.by_state.clear();
    }
}

/// The name of a miss of `bytes` after those named by `before`, of the same arena.
pub(crate) fn after(before: u64, arena: u32, bytes: u64) -> u64 {
    mix(mix(before, u64::from(arena)), bytes)
}

/// A number for the set of blocks a ledger has in use, whatever their order.
pub(crate) fn live_hash(ledger: &Ledger) -> u64 {
    let live = ledger.blocks().filter(|block| block.state == State::Active);
    live.fold(0, |sum: u64, block| sum.wrapping_add(mix(block.address, block.bytes)))
}

/// The key of a request for `bytes` by `arena` where [`live_hash`] sums up to `live`.
pub(crate) fn key_of(live: u64, arena: u32, bytes: u64) -> u64 {
    mix(live ^ u64::from(arena), bytes)
}

fn mix(a: u64, b: u64) -> u64 {
    let x = (a ^ b.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (x ^ (x >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}
