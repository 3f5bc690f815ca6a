// Numbers of ggml's block formats. The layouts are ggml's; the reference in
// src/device/kernel/dequantise.rs must give the same results.
//
// Every format gives a number as `scale * q - least`, with a scale, a least and a whole number q:
// two roundings, to f32, in that order. Nothing is contracted: the flags see to that.
#pragma once
#include "floats.h"

struct Scale {
    float scale, least;
};

DEVICE u32 byte_at(u64 at) { return load<u8>(at); }
DEVICE int signed_at(u64 at) { return (signed char)load<u8>(at); }
DEVICE float half_at(u64 at) { return as_float(widen<F16>(byte_at(at) | byte_at(at + 1) << 8)); }

// Half `i / 16` of 32 numbers in 16 bytes.
DEVICE u32 nibble(u64 at, u32 i) { return byte_at(at + i % 16) >> (4 * (i / 16)) & 15; }
DEVICE u32 bit_at(u64 at, u32 i) { return byte_at(at + i / 8) >> (i % 8) & 1; }

// A format: its number, bytes and numbers of a block at `at`, the scale of number `i`, and its q.

struct Q4_0 {
    static constexpr u32 id = 0, bytes = 18, numbers = 32;
    DEVICE_MEMBER static Scale scale(u64 at, u32) { return {half_at(at), 0}; }
    DEVICE_MEMBER static int q(u64 at, u32 i) { return (int)nibble(at + 2, i) - 8; }
};

struct Q4_1 {
    static constexpr u32 id = 1, bytes = 20, numbers = 32;
    DEVICE_MEMBER static Scale scale(u64 at, u32) { return {half_at(at), -half_at(at + 2)}; }
    DEVICE_MEMBER static int q(u64 at, u32 i) { return (int)nibble(at + 4, i); }
};

struct Q5_0 {
    static constexpr u32 id = 2, bytes = 22, numbers = 32;
    DEVICE_MEMBER static Scale scale(u64 at, u32) { return {half_at(at), 0}; }
    DEVICE_MEMBER static int q(u64 at, u32 i) {
        return (int)(nibble(at + 6, i) | bit_at(at + 2, i) << 4) - 16;
    }
};

struct Q5_1 {
    static constexpr u32 id = 3, bytes = 24, numbers = 32;
    DEVICE_MEMBER static Scale scale(u64 at, u32) { return {half_at(at), -half_at(at + 2)}; }
    DEVICE_MEMBER static int q(u64 at, u32 i) {
        return (int)(nibble(at + 8, i) | bit_at(at + 4, i) << 4);
    }
};

struct Q8_0 {
    static constexpr u32 id = 4, bytes = 34, numbers = 32;
    DEVICE_MEMBER static Scale scale(u64 at, u32) { return {half_at(at), 0}; }
    DEVICE_MEMBER static int q(u64 at, u32 i) { return signed_at(at + 2 + i); }
};

// Two bits of number `i` of 256, in 64 bytes: each half of the numbers in 32 of them.
DEVICE u32 pair_of_bits(u64 at, u32 i) {
    return byte_at(at + i / 128 * 32 + i % 32) >> (2 * (i / 32 % 4)) & 3;
}

struct Q2_K {
    static constexpr u32 id = 5, bytes = 84, numbers = 256;
    DEVICE_MEMBER static Scale scale(u64 at, u32 i) {
        const u32 both = byte_at(at + i / 16);
        return {half_at(at + 80) * (float)(both & 15), half_at(at + 82) * (float)(both >> 4)};
    }
    DEVICE_MEMBER static int q(u64 at, u32 i) { return (int)pair_of_bits(at + 16, i); }
};

struct Q3_K {
    static constexpr u32 id = 6, bytes = 110, numbers = 256;
    DEVICE_MEMBER static Scale scale(u64 at, u32 i) {
        // 16 scales of 6 bits: the low four in 8 bytes, the high two in the 4 behind.
        const u32 k = i / 16;
        const u32 low = byte_at(at + 96 + k % 8) >> (4 * (k / 8)) & 15;
        const u32 high = byte_at(at + 104 + k % 4) >> (2 * (k / 4)) & 3;
        return {half_at(at + 108) * (float)((int)(low | high << 4) - 32), 0};
    }
    DEVICE_MEMBER static int q(u64 at, u32 i) {
        const u32 high = byte_at(at + i % 32) >> (i / 32) & 1;
        return (int)(pair_of_bits(at + 32, i) | high << 2) - 4;
    }
};

// Scale and least number `k` of 8, 6 bits each, in 12 bytes.
DEVICE Scale scale_of_eight(u64 at, u32 k) {
    const u64 bytes = at + 4;
    u32 scale = byte_at(bytes + k % 4) & 63, least = byte_at(bytes + 4 + k % 4) & 63;
    if (k >= 4) {
        const u32 low = byte_at(bytes + 4 + k);
        scale = (low & 15) | byte_at(bytes + k - 4) >> 6 << 4;
        least = low >> 4 | byte_at(bytes + k) >> 6 << 4;
    }
    return {half_at(at) * (float)scale, half_at(at + 2) * (float)least};
}

// Four bits of number `i`, in 32 bytes for 64 numbers.
DEVICE u32 nibble_of_many(u64 at, u32 i) {
    return byte_at(at + i / 64 * 32 + i % 32) >> (4 * (i / 32 % 2)) & 15;
}

struct Q4_K {
    static constexpr u32 id = 7, bytes = 144, numbers = 256;
    DEVICE_MEMBER static Scale scale(u64 at, u32 i) { return scale_of_eight(at, i / 32); }
    DEVICE_MEMBER static int q(u64 at, u32 i) { return (int)nibble_of_many(at + 16, i); }
};

struct Q5_K {
    static constexpr u32 id = 8, bytes = 176, numbers = 256;
    DEVICE_MEMBER static Scale scale(u64 at, u32 i) { return scale_of_eight(at, i / 32); }
    DEVICE_MEMBER static int q(u64 at, u32 i) {
        const u32 high = byte_at(at + 16 + i % 32) >> (i / 32) & 1;
        return (int)(nibble_of_many(at + 48, i) | high << 4);
    }
};

struct Q6_K {
    static constexpr u32 id = 9, bytes = 210, numbers = 256;
    DEVICE_MEMBER static Scale scale(u64 at, u32 i) {
        return {half_at(at + 208) * (float)signed_at(at + 192 + i / 16), 0};
    }
    DEVICE_MEMBER static int q(u64 at, u32 i) {
        // Each half of the numbers in 64 bytes: four bits of the first 64, then of the others.
        const u32 low = byte_at(at + i / 128 * 64 + i % 64) >> (4 * (i / 64 % 2)) & 15;
        return (int)(low | pair_of_bits(at + 128, i) << 4) - 32;
    }
};

// A float as the numbers that results have: of NaNs there is one.
DEVICE u32 settled(float value) {
    const u32 bits = as_bits(value);
    return (bits & 0x7fffffff) > F32_INFINITY ? F32::nan : bits;
}

// Eight numbers from number `ROW * index` on: those of a row have one scale in every format.
template <typename Format> DEVICE void dequantise_row(Row &row, u64 src, u64 index) {
    const u32 rows = Format::numbers / ROW;
    const u64 at = src + index / rows * Format::bytes;
    const u32 first = (u32)(index % rows) * ROW;
    const Scale scale = Format::scale(at, first);
#pragma unroll
    for (u32 i = 0; i < ROW; ++i) {
        const float product = scale.scale * (float)Format::q(at, first + i);
        row.number[i] = settled(product - scale.least);
    }
}

DEVICE void dequantise_row(u32 format, Row &row, u64 src, u64 index) {
    switch (format) {
    case Q4_0::id: return dequantise_row<Q4_0>(row, src, index);
    case Q4_1::id: return dequantise_row<Q4_1>(row, src, index);
    case Q5_0::id: return dequantise_row<Q5_0>(row, src, index);
    case Q5_1::id: return dequantise_row<Q5_1>(row, src, index);
    case Q8_0::id: return dequantise_row<Q8_0>(row, src, index);
    case Q2_K::id: return dequantise_row<Q2_K>(row, src, index);
    case Q3_K::id: return dequantise_row<Q3_K>(row, src, index);
    case Q4_K::id: return dequantise_row<Q4_K>(row, src, index);
    case Q5_K::id: return dequantise_row<Q5_K>(row, src, index);
    default: return dequantise_row<Q6_K>(row, src, index);
    }
}

// Dequantises `count` numbers of whole blocks to 16-aligned memory; all threads of the grid
// together.
DEVICE void dequantise_all(u64 src, u64 dst, u64 count, u32 from, u32 to, bool saturate) {
    const u64 first = first_of_grid(), stride = grid_stride();
    for (u64 i = first; i < count / ROW; i += stride) {
        Row row;
        dequantise_row(from, row, src, i);
        write_wide_row(to, row, dst + ROW * size_of(to) * i, saturate);
    }
}
