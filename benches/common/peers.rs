//! The allocators the benches set beside ours: published crates that keep the books of one bare
//! range. No streams, no segments, no limit, no statistics, no lock, no frees from another
//! thread: what finding room costs, and no more. Sizes are rounded to 512 bytes as ours are.

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// Numbered places, each of which holds at most one block.
pub(crate) trait Slots {
    /// Frees what the slot holds, then takes `bytes` for it.
    fn replace(&mut self, slot: usize, bytes: u64);
}

/// The crate `offset-allocator`: bins of a floating-point scale behind two levels of bits. It
/// takes the first block of a bin that surely fits, not the best.
pub(crate) struct OffsetAllocator {
    range: offset_allocator::Allocator<u32>,
    blocks: Vec<Option<offset_allocator::Allocation<u32>>>,
}

impl OffsetAllocator {
    /// Over a range of `bytes`.
    pub(crate) fn new(bytes: u64, slots: usize) -> Self {
        let units = u32::try_from(bytes / 512).expect("a range of less than 2 TiB");
        let nodes = u32::try_from(2 * slots + 64).expect("fewer slots");
        Self {
            range: offset_allocator::Allocator::with_max_allocs(units, nodes),
            blocks: vec![None; slots],
        }
    }
}

impl Slots for OffsetAllocator {
    fn replace(&mut self, slot: usize, bytes: u64) {
        if let Some(block) = self.blocks[slot].take() {
            self.range.free(block);
        }
        let units = bytes.div_ceil(512) as u32;
        self.blocks[slot] = Some(self.range.allocate(units).expect("room"));
    }
}

/// The crate `rlsf`, a two-level segregated fit. It keeps its headers inside the blocks, so it
/// works on host memory of a sixteenth of the size: 512 bytes stand as its granule of 32, and a
/// request leaves the 16 bytes of the header out.
pub(crate) struct Tlsf {
    range: rlsf::Tlsf<'static, u64, u32, 40, 32>,
    blocks: Vec<Option<NonNull<u8>>>,
}

impl Tlsf {
    /// Over a range of `bytes`. The sixteenth that stands for it is never given back, as the
    /// crate asks for memory that stays.
    pub(crate) fn new(bytes: u64, slots: usize) -> Self {
        let memory: Box<[MaybeUninit<u8>]> = Box::new_uninit_slice((bytes / 16) as usize);
        let mut range = rlsf::Tlsf::new();
        range.insert_free_block(Box::leak(memory));
        Self { range, blocks: vec![None; slots] }
    }
}

impl Slots for Tlsf {
    fn replace(&mut self, slot: usize, bytes: u64) {
        if let Some(block) = self.blocks[slot].take() {
            // SAFETY: it came from this range with this alignment, and is freed once.
            unsafe { self.range.deallocate(block, 1) };
        }
        let layout = Layout::from_size_align(bytes.div_ceil(512) as usize * 32 - 16, 1);
        let layout = layout.expect("a size below the address space");
        self.blocks[slot] = Some(self.range.allocate(layout).expect("room"));
    }
}
