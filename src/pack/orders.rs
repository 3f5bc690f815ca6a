//! Static orders: which item a greedy packing places first, and which one a search tries first
//! among those that could lie equally low.

use std::cmp::Reverse;

use super::instance::Instance;

/// What counts, most important first; the highest comes first. *Peak* is the highest load
/// during an item's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    PeakLifetimeArea,
    Size,
    LifetimeAreaPeak,
    PeakAreaLifetime,
    Start,
    Area,
    End,
}

impl Order {
    /// All of them, the one that is best most often first.
    pub(super) const ALL: [Self; 7] = [
        Self::PeakLifetimeArea,
        Self::Size,
        Self::LifetimeAreaPeak,
        Self::PeakAreaLifetime,
        Self::Start,
        Self::Area,
        Self::End,
    ];

    /// The items of `instance` in this order. Equal ones stand by their number.
    pub(super) fn sorted(self, instance: &Instance) -> Vec<u32> {
        let items = &instance.items;
        let peaks = match self {
            Self::PeakLifetimeArea | Self::LifetimeAreaPeak | Self::PeakAreaLifetime => {
                instance.peaks()
            }
            Self::Size | Self::Start | Self::Area | Self::End => vec![0; items.len()],
        };
        let key = |&at: &u32| {
            let item = items[at as usize];
            let (bytes, lifetime) = (u128::from(item.bytes), u128::from(item.lifetime));
            let (area, peak) = (bytes * lifetime, u128::from(peaks[at as usize]));
            Reverse(match self {
                Self::PeakLifetimeArea => (peak, lifetime, area),
                Self::Size => (bytes, lifetime, 0),
                Self::LifetimeAreaPeak => (lifetime, area, peak),
                Self::PeakAreaLifetime => (peak, area, lifetime),
                Self::Start => (u128::from(u32::MAX - item.first), lifetime, bytes),
                Self::Area => (area, bytes, 0),
                Self::End => (u128::from(item.end), lifetime, bytes),
            })
        };
        let mut order: Vec<u32> = (0..items.len() as u32).collect();
        order.sort_by_cached_key(key);
        order
    }
}
