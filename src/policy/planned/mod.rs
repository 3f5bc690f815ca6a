//! The planned policy: an iteration is recorded, packed offline, and served by a cursor. What
//! differs from the plan is served by the expandable policy underneath.
//!
//! This is the deciding half, without a device: [`Recording`] keeps what was asked for,
//! [`period`] finds that it repeats, [`lay_out`] packs it into a [`Table`], [`Cursor`] tells which
//! of its rows a request is. `pool::planned` carries it out. `docs/planned.md` tells the whole.

mod cursor;
mod period;
mod recording;
mod sparing;
mod stream;
mod table;

pub(crate) use cursor::Cursor;
pub(crate) use period::period;
#[cfg(test)]
pub(crate) use recording::Recording;
pub(crate) use recording::Seen;
pub(crate) use stream::Following;
pub use stream::Planned;
pub(crate) use table::{Table, lay_out};

/// Sizes and places are counted in these, which every block is a multiple of.
pub(crate) const UNIT_BYTES: u64 = 512;
