// Conversions between float formats on bits. The rules are in docs/kernels.md; the reference in
// src/device/kernel/cast.rs must give the same results.
#pragma once
#include "platform.h"

// A format is a type: its number, sizes, and codes without their sign. `nan` is the NaN that
// results have; above `largest` come infinity, if there is one, and NaNs.
struct F8E4M3 {
    static constexpr u32 number = 0, size = 1, mantissa = 3, bias = 7, largest = 0x7e, nan = 0x7f;
};
struct F8E5M2 {
    static constexpr u32 number = 1, size = 1, mantissa = 2, bias = 15, largest = 0x7b, nan = 0x7f;
};
struct F16 {
    static constexpr u32 number = 2, size = 2, mantissa = 10, bias = 15;
    static constexpr u32 largest = 0x7bff, nan = 0x7e00;
};
struct Bf16 {
    static constexpr u32 number = 3, size = 2, mantissa = 7, bias = 127;
    static constexpr u32 largest = 0x7f7f, nan = 0x7fc0;
};
struct F32 {
    static constexpr u32 number = 4, size = 4, mantissa = 23, bias = 127;
    static constexpr u32 largest = 0x7f7fffff, nan = 0x7fc00000;
};

#define F32_INFINITY 0x7f800000u
#define F32_HIDDEN_BIT 0x00800000u

DEVICE float as_float(u32 bits) {
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

DEVICE u32 as_bits(float value) {
    u32 bits;
    __builtin_memcpy(&bits, &value, 4);
    return bits;
}

// The bits of the f32 that a code, sign and all, stands for. Exact; a NaN becomes some NaN.
// Here and in `narrow` all cases are worked out and one is picked: cheaper than threads that part.
template <typename Format> DEVICE u32 widen(u32 code) {
    const u32 sign_shift = 8 * Format::size - 1;
    const u32 sign = code >> sign_shift << 31;
    const u32 magnitude = code & ((1u << sign_shift) - 1);
    const u32 shifted = magnitude << (23 - Format::mantissa);
    if constexpr (Format::bias == 127) return sign | shifted;
    const u32 normal = shifted + ((127 - Format::bias) << 23);
    // The fraction upon the smallest normal number, less that number. Both are normal f32s and so
    // is the difference, or 0: no rounding, nothing a GPU might flush.
    const u32 smallest = (128 - Format::bias) << 23;
    const u32 denormal = as_bits(as_float(smallest | shifted) - as_float(smallest));
    // Codes above the largest are no finite numbers; all but E4M3's one NaN have an exponent of
    // ones, which stays.
    const u32 other = shifted | F32_INFINITY;
    const u32 finite = magnitude < (1u << Format::mantissa) ? denormal : normal;
    return sign | (magnitude > Format::largest ? other : finite);
}

// Drops the low `shift` bits, 1 to 31; to the nearest, ties to even.
DEVICE u32 round_off(u32 value, u32 shift) {
    return (value + ((1u << (shift - 1)) - 1) + (value >> shift & 1)) >> shift;
}

// The code of an f32. What is too large becomes the largest number if `saturate`, else the code
// above it: infinity, or NaN where there is none.
template <typename Format> DEVICE u32 narrow(u32 bits, bool saturate) {
    const u32 shift = 23 - Format::mantissa;
    const u32 sign = bits >> 31 << (8 * Format::size - 1);
    const u32 magnitude = bits & 0x7fffffff;
    const u32 exponent = magnitude >> 23;
    u32 code = magnitude;
    if constexpr (Format::bias < 127) {
        // In denormals the leading bit is written out, and steps are as large as those of the
        // smallest normal numbers. From 25 on all bits are less than half a step.
        const u32 more = shift + 128 - Format::bias - exponent;
        const u32 rebased = magnitude - ((127 - Format::bias) << 23);
        const u32 significand = (magnitude & (F32_HIDDEN_BIT - 1)) | F32_HIDDEN_BIT;
        const bool normal = exponent > 127 - Format::bias;
        code = round_off(normal ? rebased : significand, normal ? shift : more < 25 ? more : 25);
    } else if constexpr (shift > 0) {
        code = round_off(magnitude, shift);
    }
    const u32 bound = saturate ? Format::largest : Format::largest + 1;
    code = code < bound ? code : bound;
    return sign | (magnitude > F32_INFINITY ? Format::nan : code);
}

template <u32 size> struct Word;
template <> struct Word<1> { typedef u8 type; };
template <> struct Word<2> { typedef u16 type; };
template <> struct Word<4> { typedef u32 type; };
template <> struct Word<8> { typedef u32x2 type; };
template <> struct Word<16> { typedef u32x4 type; };

// Numbers a thread converts at once, as f32s in registers.
#define ROW 8u

struct Row {
    u32 number[ROW];
};

template <typename Format> DEVICE u32 read_one(u64 at) {
    return widen<Format>(load<typename Word<Format::size>::type>(at));
}

template <typename Format> DEVICE void write_one(u64 at, u32 number, bool saturate) {
    typedef typename Word<Format::size>::type Code;
    store<Code>(at, (Code)narrow<Format>(number, saturate));
}

// At most 16 bytes are read or written at once.
template <typename Format> struct Access {
    static constexpr u32 bytes = ROW * Format::size;
    static constexpr u32 size = bytes < 16 ? bytes : 16;
    typedef typename Word<size>::type type;
    DEVICE_MEMBER static bool aligned(u64 at) { return (at & (size - 1)) == 0; }
};

// `at` is aligned for it.
template <typename Format> DEVICE void read_aligned_row(Row &row, u64 at) {
    typedef Access<Format> Wide;
    typedef typename Word<Format::size>::type Code;
    u32 words[Wide::bytes / 4];
#pragma unroll
    for (u32 i = 0; i < Wide::bytes; i += Wide::size) {
        const auto wide = load<typename Wide::type>(at + i);
        __builtin_memcpy(words + i / 4, &wide, Wide::size);
    }
#pragma unroll
    for (u32 i = 0; i < ROW; ++i) {
        const u32 byte = i * Format::size;
        row.number[i] = widen<Format>((Code)(words[byte / 4] >> (8 * (byte % 4))));
    }
}

template <typename Format> DEVICE void read_row(Row &row, u64 at) {
    if (Access<Format>::aligned(at)) return read_aligned_row<Format>(row, at);
#pragma unroll
    for (u32 i = 0; i < ROW; ++i) row.number[i] = read_one<Format>(at + i * Format::size);
}

// `at` is aligned for it.
template <typename Format> DEVICE void write_row(const Row &row, u64 at, bool saturate) {
    typedef Access<Format> Wide;
    u32 words[Wide::bytes / 4] = {};
#pragma unroll
    for (u32 i = 0; i < ROW; ++i) {
        const u32 byte = i * Format::size;
        words[byte / 4] |= narrow<Format>(row.number[i], saturate) << (8 * (byte % 4));
    }
#pragma unroll
    for (u32 i = 0; i < Wide::bytes; i += Wide::size) {
        typename Wide::type wide;
        __builtin_memcpy(&wide, words + i / 4, Wide::size);
        store(at + i, wide);
    }
}

// Formats are told apart for every row, which costs all threads the same branch: five ways to
// read and five to write are a fifth of the code of twenty-five ways to convert.
#define BY_FORMAT(format, function, ...)                                                            \
    switch (format) {                                                                              \
    case F8E4M3::number: return function<F8E4M3>(__VA_ARGS__);                                      \
    case F8E5M2::number: return function<F8E5M2>(__VA_ARGS__);                                      \
    case F16::number: return function<F16>(__VA_ARGS__);                                            \
    case Bf16::number: return function<Bf16>(__VA_ARGS__);                                          \
    default: return function<F32>(__VA_ARGS__);                                                     \
    }

DEVICE u32 read_one(u32 format, u64 at) { BY_FORMAT(format, read_one, at) }
DEVICE void read_row(u32 format, Row &row, u64 at) { BY_FORMAT(format, read_row, row, at) }
DEVICE void read_aligned_row(u32 format, Row &row, u64 at) {
    BY_FORMAT(format, read_aligned_row, row, at)
}
DEVICE void write_one(u32 format, u64 at, u32 number, bool saturate) {
    BY_FORMAT(format, write_one, at, number, saturate)
}
DEVICE void write_row(u32 format, const Row &row, u64 at, bool saturate) {
    BY_FORMAT(format, write_row, row, at, saturate)
}

// The same for the formats layers compute in: fp8 is no result of what sums and scales.
#define BY_WIDE_FORMAT(format, function, ...)                                                       \
    switch (format) {                                                                              \
    case F16::number: return function<F16>(__VA_ARGS__);                                            \
    case Bf16::number: return function<Bf16>(__VA_ARGS__);                                          \
    default: return function<F32>(__VA_ARGS__);                                                     \
    }

DEVICE u32 read_wide_one(u32 format, u64 at) { BY_WIDE_FORMAT(format, read_one, at) }
DEVICE void read_wide_row(u32 format, Row &row, u64 at) {
    BY_WIDE_FORMAT(format, read_aligned_row, row, at)
}
DEVICE void write_wide_one(u32 format, u64 at, u32 number, bool saturate) {
    BY_WIDE_FORMAT(format, write_one, at, number, saturate)
}
DEVICE void write_wide_row(u32 format, const Row &row, u64 at, bool saturate) {
    BY_WIDE_FORMAT(format, write_row, row, at, saturate)
}

DEVICE u32 size_of(u32 format) {
    return format == F32::number ? 4 : format == F16::number || format == Bf16::number ? 2 : 1;
}

// Converts `count` numbers; all threads of the grid together.
DEVICE void convert_all(u64 src, u64 dst, u64 count, u32 from, u32 to, bool saturate) {
    const u32 source = size_of(from), result = size_of(to);
    const u64 first = first_of_grid(), stride = grid_stride();
    // Single ones up to where rows are aligned at the destination, and at the end.
    const u64 row_bytes = ROW * result;
    const u64 head = least((-dst & (row_bytes - 1)) / result, count);
    const u64 rows = (count - head) / ROW;
    const u64 tail = count - head - ROW * rows;
    if (first < head + tail) {
        const u64 i = first < head ? first : count - tail + (first - head);
        write_one(to, dst + result * i, read_one(from, src + source * i), saturate);
    }
    for (u64 i = first; i < rows; i += stride) {
        const u64 at = head + ROW * i;
        Row row;
        read_row(from, row, src + source * at);
        write_row(to, row, dst + result * at, saturate);
    }
}
