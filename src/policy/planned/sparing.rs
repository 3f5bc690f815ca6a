//! Where a request goes that is not planned: so that as few whole pages as can be are broken.
//!
//! Only whole pages can be mapped behind one another, so a block that begins or ends within a
//! free page takes all of it from larger requests. Best fit alone does not see that.

use crate::ledger::{BlockId, Ledger};
use crate::policy::Request;
use crate::policy::expandable::PAGE_BYTES;

/// Free blocks looked at, best fit first.
const LOOKS: usize = 8;

/// The free block for a request, and the first byte of its place there: the front or the rear end
/// of one of the best fits, whichever breaks the fewest whole pages.
pub(super) fn sparing(ledger: &Ledger, request: &Request) -> Option<(BlockId, u64)> {
    let bytes = request.block_bytes;
    let mut best: Option<(u64, BlockId, u64)> = None;
    for id in ledger.fits(request.class, bytes).take(LOOKS) {
        let (from, to) = (ledger[id].address, ledger[id].address + ledger[id].bytes);
        let all = whole_pages(from, to);
        let front = (all - whole_pages(from + bytes, to), from);
        let rear = (all - whole_pages(from, to - bytes), to - bytes);
        let (broken, address) = if rear.0 < front.0 { rear } else { front };
        if best.is_none_or(|(least, ..)| broken < least) {
            best = Some((broken, id, address));
        }
        // None breaks less.
        if broken <= bytes / PAGE_BYTES {
            break;
        }
    }
    best.map(|(_, id, address)| (id, address))
}

fn whole_pages(from: u64, to: u64) -> u64 {
    (to / PAGE_BYTES).saturating_sub(from.div_ceil(PAGE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::NewSegment;
    use crate::policy::expandable::CLASS;

    /// Where a request for `bytes` goes among free blocks of these addresses and sizes.
    fn place(free: &[(u64, u64)], bytes: u64) -> Option<u64> {
        let mut ledger = Ledger::default();
        for (serial, &(address, bytes)) in (0..).zip(free) {
            let stream = 0;
            ledger.add_segment(NewSegment { address, bytes, class: CLASS, stream, serial }, 0);
        }
        let request = Request { requested_bytes: bytes, block_bytes: bytes, class: CLASS };
        sparing(&ledger, &request).map(|(_, address)| address)
    }

    #[test]
    fn the_end_in_a_broken_page_is_taken() {
        const PAGE: u64 = PAGE_BYTES;
        let half = PAGE / 2;
        // A page that is broken already, before a whole one and behind it.
        assert_eq!(place(&[(half, PAGE + half)], half), Some(half));
        assert_eq!(place(&[(PAGE, PAGE + half)], half), Some(2 * PAGE));
        // A larger block where the best fit is a whole page.
        assert_eq!(place(&[(PAGE, PAGE), (10 * PAGE, PAGE + half)], half), Some(11 * PAGE));
        // Nothing is spared: the best fit, at its front.
        assert_eq!(place(&[(PAGE, PAGE), (10 * PAGE, 2 * PAGE)], half), Some(PAGE));
        assert_eq!(place(&[(PAGE, PAGE)], 2 * PAGE), None);
    }
}
