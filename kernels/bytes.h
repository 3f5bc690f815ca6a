// Reading, setting and copying bytes of any alignment.
#pragma once
#include "platform.h"

// Word `i` of the `bytes` bytes at `src`, little-endian, padded with zeros. Reads nothing else.
DEVICE u64 word_of(u64 src, u64 bytes, u64 i) {
    const u64 at = src + 8 * i;
    const u64 whole = at & ~7ull;
    const u32 shift = (u32)(at & 7) * 8;
    if (shift == 0 && 8 * i + 8 <= bytes) return load<u64>(at);
    if (shift != 0 && whole >= src && whole + 16 <= src + bytes) {
        return load<u64>(whole) >> shift | load<u64>(whole + 8) << (64 - shift);
    }
    u64 word = 0;
    for (u32 byte = 0; byte < 8 && 8 * i + byte < bytes; ++byte) {
        word |= (u64)load<u8>(at + byte) << (8 * byte);
    }
    return word;
}

// Sets `bytes` bytes at `dst` to the byte that fills `word`; all threads of the grid together.
DEVICE void fill_bytes(u64 dst, u64 bytes, u64 word) {
    const u64 first = first_of_grid(), stride = grid_stride();
    const u64 head = least(-dst & 15, bytes);
    const u64 wides = (bytes - head) / 16;
    const u64 tail = bytes - head - 16 * wides;
    const u64x2 wide = {word, word};
    if (first < head) store<u8>(dst + first, (u8)word);
    for (u64 i = first; i < wides; i += stride) store<u64x2>(dst + head + 16 * i, wide);
    if (first < tail) store<u8>(dst + bytes - tail + first, (u8)word);
}

// The copies below are done by one block together.

DEVICE void copy_single(u64 dst, u64 src, u64 bytes) {
    for (u64 i = thread_index(); i < bytes; i += BLOCK) store<u8>(dst + i, load<u8>(src + i));
}

// Both ends are as far from a multiple of T's size.
template <typename T> DEVICE void copy_wide(u64 dst, u64 src, u64 bytes) {
    const u64 size = sizeof(T);
    const u64 head = least(-dst & (size - 1), bytes);
    const u64 wides = (bytes - head) / size;
    const u64 done = head + size * wides;
    copy_single(dst, src, head);
    u64 i = thread_index();
    // Four loads on their way at once: the compiler may not move them ahead of stores.
    for (; i + 3 * BLOCK < wides; i += 4 * BLOCK) {
        const u64 from = src + head + size * i, to = dst + head + size * i, step = size * BLOCK;
        const T a = load<T>(from), b = load<T>(from + step);
        const T c = load<T>(from + 2 * step), d = load<T>(from + 3 * step);
        store<T>(to, a), store<T>(to + step, b);
        store<T>(to + 2 * step, c), store<T>(to + 3 * step, d);
    }
    for (; i < wides; i += BLOCK) {
        store<T>(dst + head + size * i, load<T>(src + head + size * i));
    }
    copy_single(dst + done, src + done, bytes - done);
}

// The ends are not 8-aligned at once: words are put together of two that are.
DEVICE void copy_shifted(u64 dst, u64 src, u64 bytes) {
    if (bytes < 32) return copy_single(dst, src, bytes);
    // A word more than needed on either side, so that no load reaches out of the source.
    const u64 head = (-dst & 7) + 8;
    const u64 words = (bytes - head) / 8 - 1;
    const u64 done = head + 8 * words;
    const u64 whole = (src + head) & ~7ull;
    const u32 shift = (u32)((src + head) & 7) * 8;
    copy_single(dst, src, head);
    for (u64 i = thread_index(); i < words; i += BLOCK) {
        const u64 low = load<u64>(whole + 8 * i), high = load<u64>(whole + 8 * i + 8);
        store<u64>(dst + head + 8 * i, low >> shift | high << (64 - shift));
    }
    copy_single(dst + done, src + done, bytes - done);
}

DEVICE void copy_bytes(u64 dst, u64 src, u64 bytes) {
    const u64 apart = dst ^ src;
    if ((apart & 15) == 0) return copy_wide<u32x4>(dst, src, bytes);
    if ((apart & 7) == 0) return copy_wide<u64>(dst, src, bytes);
    copy_shifted(dst, src, bytes);
}
