//! How much physical memory to hold, and in what sizes of handle. All sizes in bytes.

use super::PAGE_BYTES;
use crate::base::{GIB, MIB};

/// Below this much reserved every handle is one page, unless the program only loads: what does
/// not come back together wastes half a handle at each end of each free run, and little reserved
/// leaves little slack for it.
pub(crate) const FINE_BELOW_BYTES: u64 = 2 * GIB;
/// The largest handle, but for programs that only load.
const HANDLE_BYTES: u64 = 32 * MIB;
/// Handles of a program that only loads are at least this large, as nothing of it comes back yet.
const LOADING_BYTES: u64 = 8 * MIB;
/// And at most this large: the first program loads until it frees for the first time.
const LOADING_MOST_BYTES: u64 = 64 * MIB;

/// How much may be held for a peak of `live_bytes` before free handles are mapped anew: 1.8 %
/// more while little is live, 0.9 % where that is above 36 MiB, and at least two pages.
pub(crate) fn budget(live_bytes: u64) -> u64 {
    live_bytes.saturating_add(slack(live_bytes))
}

fn slack(live_bytes: u64) -> u64 {
    let share = |per_mille: u64| live_bytes / 1000 * per_mille;
    share(18).min(share(9).max(36 * MIB)).max(2 * PAGE_BYTES)
}

/// How much to grow by when `missing` bytes are needed: more while a program loads, as it will
/// ask again. Beyond what is missing never above `budget`; `missing` is a multiple of the page.
pub(crate) fn growth_bytes(missing: u64, reserved: u64, budget: u64, loading: bool) -> u64 {
    let part = if loading { reserved / 8 } else { reserved / 256 };
    let ahead = part.min(budget.saturating_sub(reserved));
    missing.max(ahead / PAGE_BYTES * PAGE_BYTES)
}

/// The size of the next handle of a growth of which `left` bytes are missing.
pub(crate) fn cut(left: u64, reserved: u64, capacity: u64, loading: bool) -> u64 {
    let pages = |bytes: u64| bytes / PAGE_BYTES * PAGE_BYTES;
    // Where little can be held at all, no handle is much of it.
    let most = pages(capacity / 1024).max(PAGE_BYTES);
    let wanted = if loading {
        pages(reserved / 8).clamp(LOADING_BYTES, LOADING_MOST_BYTES)
    } else if reserved < FINE_BELOW_BYTES {
        PAGE_BYTES
    } else {
        // What is lost at the end of a free run must leave room within the budget.
        pages((slack(reserved) / 2).min(HANDLE_BYTES))
    };
    left.min(wanted).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_tight_where_much_is_live() {
        assert_eq!(budget(0), 2 * PAGE_BYTES);
        assert_eq!(budget(1000 * MIB), 1018 * MIB);
        assert_eq!(budget(3000 * MIB), 3036 * MIB);
        assert_eq!(budget(10_000 * MIB), 10_090 * MIB);
    }

    #[test]
    fn handles_are_pages_until_much_is_reserved() {
        let left = 640 * MIB;
        assert_eq!(cut(left, GIB, 80 * GIB, false), PAGE_BYTES);
        assert_eq!(cut(left, 3 * GIB, 80 * GIB, false), 18 * MIB);
        assert_eq!(cut(left, 30 * GIB, 80 * GIB, false), 32 * MIB);
        assert_eq!(cut(left, 3 * GIB, 8 * GIB, false), 8 * MIB);
        assert_eq!(cut(6 * MIB, 4 * GIB, 80 * GIB, false), 6 * MIB);
    }

    #[test]
    fn a_program_that_loads_takes_large_handles() {
        let left = 640 * MIB;
        assert_eq!(cut(left, 0, 80 * GIB, true), 8 * MIB);
        assert_eq!(cut(left, 400 * MIB, 80 * GIB, true), 50 * MIB);
        assert_eq!(cut(left, 4 * GIB, 80 * GIB, true), 64 * MIB);
        assert_eq!(cut(left, 4 * GIB, 40 * GIB, true), 40 * MIB, "a part of the capacity");
        assert_eq!(cut(left, 400 * MIB, 2 * GIB, true), PAGE_BYTES);
    }

    #[test]
    fn growth_is_never_less_than_what_is_missing() {
        for (missing, reserved, budget, loading, bytes) in [
            (2 * MIB, GIB, 2 * GIB, true, 128 * MIB),
            (2 * MIB, GIB, GIB + 20 * MIB, true, 20 * MIB),
            (2 * MIB, GIB, 2 * GIB, false, 4 * MIB),
            (2 * MIB, GIB, GIB, false, 2 * MIB),
            (640 * MIB, GIB, 2 * GIB, true, 640 * MIB),
        ] {
            assert_eq!(growth_bytes(missing, reserved, budget, loading), bytes);
        }
    }
}
