//! Greedy packing: each item in turn at the lowest offset that is free for all of its life.

use super::instance::Instance;
use super::occupancy::Occupancy;

/// Where an item has no place yet.
pub(super) const UNPLACED: u64 = u64::MAX;

/// Items placed between two looks at whether to stop.
const STOP_EVERY: usize = 64;

/// Places the items of `order` that `offsets` has no place for, around those it has one for.
/// Gives the steps that took; `None`, and some items without a place, when it was stopped.
pub(super) fn first_fit(
    instance: &Instance,
    order: &[u32],
    offsets: &mut [u64],
    is_stopped: impl Fn() -> bool,
) -> Option<u64> {
    let mut occupancy = Occupancy::new(instance.loads.len());
    for (item, &offset) in instance.items.iter().zip(offsets.iter()) {
        if offset != UNPLACED {
            occupancy.take(item.sections(), offset, offset + item.bytes);
        }
    }
    for some in order.chunks(STOP_EVERY) {
        if is_stopped() {
            return None;
        }
        for &at in some {
            let (item, offset) = (&instance.items[at as usize], &mut offsets[at as usize]);
            if *offset == UNPLACED {
                *offset = occupancy.find(item.sections(), item.bytes);
                occupancy.take(item.sections(), *offset, *offset + item.bytes);
            }
        }
    }
    Some(occupancy.steps())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::instance::Item;

    #[test]
    fn what_has_a_place_keeps_it() {
        let item = |first, end, bytes| Item { first, end, bytes, lifetime: 1 };
        let items = vec![item(0, 2, 4), item(0, 1, 4), item(1, 2, 3), item(0, 1, 1)];
        let instance = Instance { items, loads: vec![9, 7] };
        let mut offsets = [4, UNPLACED, UNPLACED, UNPLACED];
        assert!(first_fit(&instance, &[1, 2, 3], &mut offsets, || false).is_some());
        assert_eq!(offsets, [4, 0, 0, 8]);
    }
}
