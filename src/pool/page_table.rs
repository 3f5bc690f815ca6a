//! Which heap an address belongs to: a radix tree over the address range, 2 MiB to a leaf
//! entry. Read without a lock, by any thread; written where segments come and go, which is
//! behind a lock of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::base::lock;

const PAGE_BITS: u32 = 21;
const LEVEL_BITS: u32 = 9;
const FANOUT: usize = 1 << LEVEL_BITS;
/// No heap; a page that is not one segment's alone is looked up in the map.
const NOBODY: u32 = 0;
const SHARED: u32 = u32::MAX;

type Leaf = [AtomicU32; FANOUT];
type Level<T> = Box<[OnceLock<T>]>;

/// Heaps by address. The branches of the tree stay once they are there: 2 KiB a GiB of
/// addresses in use.
pub(super) struct PageTable {
    /// By bits 48 and up, 39 to 47, 30 to 38.
    root: Level<Level<Level<Box<Leaf>>>>,
    /// Segments by their first byte, with size and heap.
    segments: Mutex<BTreeMap<u64, (u64, u32)>>,
}

fn level<T>() -> Level<T> {
    (0..FANOUT).map(|_| OnceLock::new()).collect()
}

fn slot(address: u64, above: u32) -> usize {
    (address >> (PAGE_BITS + above * LEVEL_BITS)) as usize % FANOUT
}

impl Default for PageTable {
    fn default() -> Self {
        Self { root: level(), segments: Mutex::default() }
    }
}

/// The segments: the tree behind them is long and says the same.
impl fmt::Debug for PageTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageTable").field("segments", &self.segments).finish_non_exhaustive()
    }
}

impl PageTable {
    /// The heap whose segment holds `address`.
    #[inline]
    pub(super) fn heap_at(&self, address: u64) -> Option<u32> {
        let leaf = self.root[slot(address, 3)]
            .get()
            .and_then(|level| level[slot(address, 2)].get())
            .and_then(|level| level[slot(address, 1)].get())?;
        match leaf[slot(address, 0)].load(Ordering::Relaxed) {
            NOBODY => None,
            SHARED => self.search(address),
            heap => Some(heap - 1),
        }
    }

    /// Enters a segment.
    pub(super) fn insert(&self, address: u64, bytes: u64, heap: u32) {
        lock(&self.segments).insert(address, (bytes, heap));
        self.mark(address, bytes, heap + 1);
    }

    /// Takes a segment out.
    pub(super) fn remove(&self, address: u64) {
        let removed = lock(&self.segments).remove(&address);
        if let Some((bytes, _)) = removed {
            self.mark(address, bytes, NOBODY);
        }
    }

    #[cold]
    fn search(&self, address: u64) -> Option<u32> {
        let segments = lock(&self.segments);
        let (start, (bytes, heap)) = segments.range(..=address).next_back()?;
        (address - start < *bytes).then_some(*heap)
    }

    /// Writes `value` for every page that is the segment's alone; pages at its ends that may
    /// hold another one's bytes are looked up.
    fn mark(&self, address: u64, bytes: u64, value: u32) {
        let end = address.saturating_add(bytes);
        let mut page = address >> PAGE_BITS;
        while page << PAGE_BITS < end {
            let start = page << PAGE_BITS;
            let alone = address <= start && start + (1 << PAGE_BITS) <= end;
            let level = self.root[slot(start, 3)].get_or_init(level);
            let level = level[slot(start, 2)].get_or_init(self::level);
            let leaf = level[slot(start, 1)]
                .get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU32::new(NOBODY))));
            let value = if alone { value } else { SHARED };
            leaf[slot(start, 0)].store(value, Ordering::Relaxed);
            page += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn every_byte_of_a_segment_is_its_heaps() {
        let table = PageTable::default();
        for (address, bytes, heap) in
            [(40 * MIB, 2 * MIB, 0), (1 << 46, 30 * MIB, 1), (u64::MAX - 4 * MIB + 1, 2 * MIB, 2)]
        {
            table.insert(address, bytes, heap);
            assert_eq!(table.heap_at(address), Some(heap));
            assert_eq!(table.heap_at(address + bytes - 1), Some(heap));
            assert_eq!(table.heap_at(address - 1), None);
            assert_eq!(table.heap_at(address + bytes), None);
            table.remove(address);
            assert_eq!(table.heap_at(address), None);
        }
    }

    #[test]
    fn segments_that_share_a_page_are_told_apart() {
        let table = PageTable::default();
        table.insert(MIB, MIB / 2, 3);
        table.insert(MIB + MIB / 2, 4 * MIB, 4);
        assert_eq!(table.heap_at(MIB), Some(3));
        assert_eq!(table.heap_at(MIB + MIB / 2), Some(4));
        assert_eq!(table.heap_at(MIB - 1), None);
        table.remove(MIB);
        assert_eq!(table.heap_at(MIB), None);
        assert_eq!(table.heap_at(2 * MIB), Some(4));
    }
}
