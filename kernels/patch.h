// A product of two thin matrices added to a wide one. The reference in
// src/device/kernel/patch.rs must give the same results: sums in f32, in the order of the rank,
// nothing contracted.
#pragma once
#include "blocks.h"

struct Patch {
    u64 src, dst, rows, columns, from, to, up, down, scales, rank, factors, saturate;
};

// The sum's share of rank `r` for a row of the result, before it is multiplied with `down`.
DEVICE float factor_of(const Patch &args, u64 row, u64 r, float scale) {
    const u32 factors = (u32)args.factors;
    const u64 at = args.up + size_of(factors) * (args.rank * row + r);
    return scale * as_float(read_wide_one(factors, at));
}

// What strengths of 0 leave out is not read.
DEVICE float scale_of(const Patch &args, u64 r) { return as_float(load<u32>(args.scales + 4 * r)); }

// One number after the other, for columns of any count and addresses of any alignment; all threads
// of the grid together.
DEVICE void patch_singly(const Patch &args) {
    const u32 from = (u32)args.from, to = (u32)args.to, factors = (u32)args.factors;
    const u64 count = args.rows * args.columns, stride = grid_stride();
    for (u64 i = first_of_grid(); i < count; i += stride) {
        const u64 row = i / args.columns, column = i % args.columns;
        float sum = 0;
        for (u64 r = 0; r < args.rank; ++r) {
            const float scale = scale_of(args, r);
            if (scale == 0) continue;
            const u64 down = args.down + size_of(factors) * (args.columns * r + column);
            sum += factor_of(args, row, r, scale) * as_float(read_wide_one(factors, down));
        }
        const u32 number = settled(as_float(read_one(from, args.src + size_of(from) * i)) + sum);
        write_wide_one(to, args.dst + size_of(to) * i, number, args.saturate != 0);
    }
}

// Rows of the result a thread works at: what it reads of `down` serves all of them.
#define LINES 2u

// Up to LINES rows of eight numbers, from `row` and `column` on.
DEVICE void patch_tile(const Patch &args, u64 row, u64 column) {
    const u32 from = (u32)args.from, to = (u32)args.to, factors = (u32)args.factors;
    float sums[LINES][ROW] = {};
    for (u64 r = 0; r < args.rank; ++r) {
        const float scale = scale_of(args, r);
        if (scale == 0) continue;
        Row down;
        read_wide_row(factors, down, args.down + size_of(factors) * (args.columns * r + column));
#pragma unroll
        for (u32 line = 0; line < LINES; ++line) {
            if (row + line >= args.rows) continue;
            const float factor = factor_of(args, row + line, r, scale);
#pragma unroll
            for (u32 i = 0; i < ROW; ++i) sums[line][i] += factor * as_float(down.number[i]);
        }
    }
#pragma unroll
    for (u32 line = 0; line < LINES; ++line) {
        if (row + line >= args.rows) continue;
        const u64 first = args.columns * (row + line) + column;
        Row numbers;
        read_aligned_row(from, numbers, args.src + size_of(from) * first);
#pragma unroll
        for (u32 i = 0; i < ROW; ++i) {
            numbers.number[i] = settled(as_float(numbers.number[i]) + sums[line][i]);
        }
        write_wide_row(to, numbers, args.dst + size_of(to) * first, args.saturate != 0);
    }
}

// Eight columns at once: `columns` is a multiple of eight and all addresses but those of `up` and
// `scales` are of 16; all threads of the grid together.
DEVICE void patch_by_rows(const Patch &args) {
    const u64 tiles = (args.rows + LINES - 1) / LINES, parts = args.columns / ROW;
    const u64 stride = grid_stride();
    for (u64 i = first_of_grid(); i < tiles * parts; i += stride) {
        patch_tile(args, i / parts * LINES, i % parts * ROW);
    }
}
