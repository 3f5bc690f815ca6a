// The device code: one source for CUDA and HIP. What each kernel does is in docs/kernels.md; its
// reference in Rust, which it must match bit for bit, in src/device/kernel/.
//
// Each kernel takes one struct of 64-bit words by value. src/device/kernel/launch.rs fills the
// structs and repeats this table; both change together.
//
// | function | words of its parameter |
// |---|---|
// | `riverbed_checksum_start` | `out`, `bytes`: sets the sum at `out` to that of the length |
// | `riverbed_checksum` | `out`, `bytes`, `src`: adds the words' part to the sum at `out` |
// | `riverbed_fill` | `dst`, `bytes`, `value` (the byte, in all 8 bytes) |
// | `riverbed_gather` | `count`, `tile_bytes`, then 128 times `src`, `dst`, `end` |
// | `riverbed_cast` | `src`, `dst`, `count`, `from`, `to`, `saturate` (0 or 1) |
// | `riverbed_dequantise` | `src`, `dst`, `count`, `from` (a block format), `to`, `saturate` |
// | `riverbed_patch` | the 12 words of `Patch` in patch.h: eight columns at once |
// | `riverbed_patch_singly` | the same |
// | `riverbed_busy` | `ticks` of the device's clock |
//
// Blocks have 256 threads and grids any number of blocks, both of one dimension; the kernels that
// say so have one thread.
#include "blocks.h"
#include "bytes.h"
#include "floats.h"
#include "patch.h"

// Checksum --------------------------------------------------------------------------------------

#define STEP 0x9e3779b97f4a7c15ull
#define MIX 0x9fb21c651e98df25ull

DEVICE u64 mix(u64 x) {
    const u64 y = (x ^ (x >> 32)) * MIX;
    return y ^ (y >> 29);
}

struct ChecksumStart {
    u64 out, bytes;
};

// One thread. Ordered before riverbed_checksum of the same sum.
KERNEL(1) void riverbed_checksum_start(ChecksumStart args) {
    store<u64>(args.out, mix(args.bytes));
}

struct Checksum {
    u64 out, bytes, src;
};

KERNEL(BLOCK) void riverbed_checksum(Checksum args) {
    const u64 src = args.src, bytes = args.bytes;
    const u64 first = first_of_grid(), stride = grid_stride();
    const u64 words = bytes / 8 + (bytes % 8 != 0);
    // Two words at once as far as that goes, then one by one.
    const u64 pairs = (src & 15) == 0 ? bytes / 16 : 0;
    u64 sum = 0;
#pragma unroll 4
    for (u64 i = first; i < pairs; i += stride) {
        const u64x2 pair = load<u64x2>(src + 16 * i);
        sum += mix(pair[0] + (2 * i + 1) * STEP) + mix(pair[1] + (2 * i + 2) * STEP);
    }
    for (u64 i = 2 * pairs + first; i < words; i += stride) {
        sum += mix(word_of(src, bytes, i) + (i + 1) * STEP);
    }
    SHARED u64 sums[BLOCK];
    const u32 thread = thread_index();
    sums[thread] = sum;
    for (u32 half = BLOCK / 2; half > 0; half /= 2) {
        barrier();
        if (thread < half) sums[thread] += sums[thread + half];
    }
    if (thread == 0) atomic_add(args.out, sums[0]);
}

// Fill ------------------------------------------------------------------------------------------

struct Fill {
    u64 dst, bytes, value;
};

KERNEL(BLOCK) void riverbed_fill(Fill args) { fill_bytes(args.dst, args.bytes, args.value); }

// Gather ----------------------------------------------------------------------------------------

struct Piece {
    // `end`: the sum of the sizes up to this piece's own.
    u64 src, dst, end;
};

struct Gather {
    u64 count, tile_bytes;
    Piece pieces[128];
};

KERNEL(BLOCK) void riverbed_gather(Gather args) {
    const u64 total = args.count > 0 ? args.pieces[args.count - 1].end : 0;
    const u64 tile = args.tile_bytes, stride = tile * block_count();
    for (u64 begin = tile * block_index(); begin < total; begin += stride) {
        // The first piece that ends behind the tile's begin.
        u32 low = 0, high = (u32)args.count - 1;
        while (low < high) {
            const u32 middle = (low + high) / 2;
            if (args.pieces[middle].end > begin) high = middle;
            else low = middle + 1;
        }
        const u64 until = least(begin + tile, total);
        u64 piece_begin = low > 0 ? args.pieces[low - 1].end : 0;
        for (u64 at = begin; at < until; ++low) {
            const u64 end = args.pieces[low].end;
            const u64 offset = at - piece_begin, bytes = least(end, until) - at;
            copy_bytes(args.pieces[low].dst + offset, args.pieces[low].src + offset, bytes);
            at += bytes;
            piece_begin = end;
        }
    }
}

// Cast ------------------------------------------------------------------------------------------

struct Cast {
    u64 src, dst, count, from, to, saturate;
};

KERNEL(BLOCK) void riverbed_cast(Cast args) {
    const u32 from = (u32)args.from, to = (u32)args.to;
    convert_all(args.src, args.dst, args.count, from, to, args.saturate != 0);
}

// Dequantise ------------------------------------------------------------------------------------

struct Dequantise {
    u64 src, dst, count, from, to, saturate;
};

KERNEL(BLOCK) void riverbed_dequantise(Dequantise args) {
    const u32 from = (u32)args.from, to = (u32)args.to;
    dequantise_all(args.src, args.dst, args.count, from, to, args.saturate != 0);
}

// Patch -----------------------------------------------------------------------------------------

KERNEL(BLOCK) void riverbed_patch(Patch args) { patch_by_rows(args); }
KERNEL(BLOCK) void riverbed_patch_singly(Patch args) { patch_singly(args); }

// Busy ------------------------------------------------------------------------------------------

struct Busy {
    u64 ticks;
};

// One thread.
KERNEL(1) void riverbed_busy(Busy args) {
    const u64 start = clock_ticks();
    while (clock_ticks() - start < args.ticks) {
    }
}
