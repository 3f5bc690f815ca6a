//! Rank 1: pure bookkeeping of segments and blocks. Knows no device, no clock and no policy:
//! it splits, merges, finds and counts, and [`Ledger::check`] proves that it all adds up.

mod bins;
mod block;
mod book;
mod check;
mod places;
mod queue;
mod ranges;

pub use block::{Block, BlockId, Segment, SegmentId, State};
pub use book::{Ledger, NewSegment, SplitChange, Totals};
pub use places::{PLACES, Place};
