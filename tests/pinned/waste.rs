//! How much more is pinned than was asked for, to the byte.

use riverbed::device::Device;

use crate::{host, pool};

/// The tensors of FLUX's two kinds of blocks, in elements of 2 bytes.
const DOUBLE_BLOCK: [u64; 16] = [
    3072 * 9216,
    9216,
    3072 * 9216,
    9216,
    3072 * 3072,
    3072,
    3072 * 3072,
    3072,
    3072 * 12288,
    12288,
    12288 * 3072,
    3072,
    3072 * 18432,
    18432,
    128,
    128,
];
const SINGLE_BLOCK: [u64; 8] =
    [3072 * 21504, 21504, 15360 * 3072, 3072, 3072 * 9216, 9216, 128, 128];

/// As many bytes of such tensors, the last one cut off.
fn flux_like_tensors(mut bytes: u64) -> Vec<u64> {
    let blocks = (0..19).flat_map(|_| DOUBLE_BLOCK).chain((0..38).flat_map(|_| SINGLE_BLOCK));
    let model: Vec<u64> = blocks.map(|elements| 2 * elements).collect();
    let mut tensors = Vec::new();
    for &size in model.iter().cycle() {
        let size = size.min(bytes);
        if size == 0 {
            break;
        }
        tensors.push(size);
        bytes -= size;
    }
    tensors
}

#[test]
fn a_byte_above_300_megabytes_costs_no_more_than_a_page() {
    for device in [host(), Device::open("sim:rtx4090").unwrap()] {
        let pool = pool(&device, "pinned_limit_mb:512");
        let block = pool.alloc(300_000_001).unwrap();
        let reserved = pool.stats().reserved_bytes;
        assert_eq!(reserved, 300_000_001u64.next_multiple_of(4096));
        assert!((reserved - block.len() as u64) * 1000 < reserved);
    }
}

#[test]
fn tensors_of_180_gigabytes_waste_less_than_a_thousandth() {
    const BYTES: u64 = 179_700_000_000;
    let device = Device::open("sim:rtx4090").unwrap();
    let pool = pool(&device, "pinned_limit_mb:200000");
    let tensors = flux_like_tensors(BYTES);
    let blocks: Vec<_> = tensors.iter().map(|&bytes| pool.alloc(bytes as usize).unwrap()).collect();
    assert_eq!(blocks.iter().map(|block| block.len() as u64).sum::<u64>(), BYTES);
    let stats = pool.stats();
    let waste = stats.reserved_bytes - BYTES;
    assert!(waste * 1000 <= BYTES, "{waste} bytes of waste");
    assert!(stats.slabs * 2 < blocks.len() as u64, "small ones share: {} slabs", stats.slabs);
    // PyTorch's blocks, for comparison: the next power of two each.
    let theirs: u64 = tensors.iter().map(|bytes| bytes.next_power_of_two()).sum();
    assert!((theirs - BYTES) * 100 > BYTES * 15, "the comparison says nothing: {theirs}");
    pool.check().unwrap();
}

#[test]
fn equal_blocks_leave_no_rest_in_their_slabs() {
    let device = Device::open("sim:rtx4090").unwrap();
    for bytes in [4096u64, 420 << 10, 700 << 10, 3 << 20, 13 << 20] {
        let pool = pool(&device, "pinned_limit_mb:16384");
        let count = (2u64 << 30) / bytes;
        let blocks: Vec<_> = (0..count).map(|_| pool.alloc(bytes as usize).unwrap()).collect();
        let stats = pool.stats();
        assert_eq!(stats.active_bytes, count * bytes);
        let slab = stats.reserved_bytes / 64;
        let ahead = stats.reserved_bytes - stats.active_bytes;
        assert!(ahead < slab.max(2 << 20), "{ahead} ahead of {count} blocks of {bytes}");
        drop(blocks);
    }
}

#[test]
fn any_size_comes_from_any_slab_and_parts_are_joined_again() {
    let pool = pool(&host(), "pinned_limit_mb:8");
    drop(pool.alloc(8 << 20).unwrap());
    let parts: Vec<_> = (1..=6).map(|part| pool.alloc(part * 300_000).unwrap()).collect();
    assert_eq!(pool.stats().slab_allocations.count, 1, "all of one slab");
    drop(parts);
    let whole = pool.alloc(8 << 20).unwrap();
    assert_eq!(pool.stats().slab_allocations.count, 1, "which is whole again");
    assert_eq!(whole.as_ptr().align_offset(4096), 0);
}
