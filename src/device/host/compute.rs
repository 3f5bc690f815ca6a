//! Kernels on the host device: the references, on the memory the addresses stand for.

use crate::device::contract::DevicePtr;
use crate::device::kernel::{Kernel, LowRank, Piece, cast, checksum, dequantise, patch};

/// Does what the kernel is for; [`Kernel::Busy`] takes time and no work.
///
/// # Safety
/// The kernel is sound, what it reads is valid and not written meanwhile, and what it writes is
/// valid and touched by nobody else.
pub(super) unsafe fn compute(kernel: &Kernel) {
    match kernel {
        Kernel::Checksum { src, bytes, out } => {
            // SAFETY: the caller's promise.
            let (data, out) = unsafe { (read(*src, *bytes), write(*out, 8)) };
            out.copy_from_slice(&checksum(data).to_le_bytes());
        }
        // SAFETY: the caller's promise.
        Kernel::Fill { dst, bytes, value } => unsafe { write(*dst, *bytes) }.fill(*value),
        Kernel::Gather { pieces } => {
            for Piece { src, dst, bytes } in pieces {
                // SAFETY: the caller's promise; in a sound kernel the two do not overlap.
                let (src, dst) = unsafe { (read(*src, *bytes), write(*dst, *bytes)) };
                dst.copy_from_slice(src);
            }
        }
        Kernel::Cast { src, dst, count, from, to, saturate } => {
            let bytes = [count * from.size_bytes(), count * to.size_bytes()];
            // SAFETY: the caller's promise; in a sound kernel the two do not overlap.
            let (src, dst) = unsafe { (read(*src, bytes[0]), write(*dst, bytes[1])) };
            cast(src, dst, *from, *to, *saturate);
        }
        Kernel::Dequantise { src, dst, count, from, to, saturate } => {
            let blocks = count / from.block_numbers();
            let bytes = [blocks * from.block_bytes(), count * to.size_bytes()];
            // SAFETY: the caller's promise; in a sound kernel the two do not overlap.
            let (src, dst) = unsafe { (read(*src, bytes[0]), write(*dst, bytes[1])) };
            dequantise(src, dst, *from, *to, *saturate);
        }
        // SAFETY: the caller's promise.
        Kernel::Patch { .. } => unsafe { compute_patch(kernel) },
        Kernel::Busy { .. } => {}
    }
}

/// # Safety
/// As [`compute`].
unsafe fn compute_patch(kernel: &Kernel) {
    let Kernel::Patch {
        src,
        dst,
        rows,
        columns,
        from,
        to,
        up,
        down,
        scales,
        rank,
        factors,
        saturate,
    } = kernel
    else {
        return;
    };
    let (count, size) = (rows * columns, factors.size_bytes());
    if count == 0 {
        return;
    }
    // SAFETY: the caller's promise; in a sound kernel the result overlaps nothing but the source,
    // which is then not shown beside it.
    unsafe {
        let low_rank = LowRank {
            up: read(*up, rows * rank * size),
            down: read(*down, rank * columns * size),
            scales: read(*scales, rank * 4),
            factors: *factors,
            columns: *columns,
        };
        let source = (src != dst).then(|| read(*src, count * from.size_bytes()));
        let result = write(*dst, count * to.size_bytes());
        patch(source, result, &low_rank, [*from, *to], *saturate);
    }
}

/// # Safety
/// `bytes` at `at` are valid and nobody writes them for `'a`, unless there are none.
unsafe fn read<'a>(at: DevicePtr, bytes: u64) -> &'a [u8] {
    match bytes {
        // An address of no bytes may be 0, which no slice has.
        0 => &[],
        // SAFETY: the caller's promise.
        _ => unsafe { std::slice::from_raw_parts(at.0 as *const u8, bytes as usize) },
    }
}

/// # Safety
/// `bytes` at `at` are valid and nobody else touches them for `'a`, unless there are none.
unsafe fn write<'a>(at: DevicePtr, bytes: u64) -> &'a mut [u8] {
    match bytes {
        0 => &mut [],
        // SAFETY: the caller's promise.
        _ => unsafe { std::slice::from_raw_parts_mut(at.0 as *mut u8, bytes as usize) },
    }
}
