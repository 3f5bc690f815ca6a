//! What was decided before. The same blocks live and the same request: the same place, if its
//! bytes are free. Programs that repeat themselves find all their places here, and what is found
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

/// Places by [`key_of`] the state they were chosen in.
#[derive(Debug, Default)]
pub(crate) struct Memo(HashMap<u64, Placed>);

impl Memo {
    pub(crate) fn get(&self, key: u64) -> Option<&Placed> {
        self.0.get(&key)
    }

    pub(crate) fn insert(&mut self, key: u64, placed: Placed) {
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(key, placed);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
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
