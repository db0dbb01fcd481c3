/* The batch algorithm of the zero-check kernels, once for all instruction sets.
 *
 * Facts: one page after the other, a check waits for memory at every page it
 * turns to, and a mix of zero and normal pages costs a mispredicted branch
 * each. A batch knows its pages beforehand. So, for each group of pages:
 *   1. sample the first line of every page, prefetching those to come;
 *   2. sample the middle and last line of those left: the rest are candidates,
 *      and nearly all of them are zero. No branch depends on what was read;
 *   3. read the candidates whole, two at a time in step, while the two after
 *      them are prefetched line by line.
 * Danger: a page must be called zero only after all its bytes were loaded; no
 * byte outside it may be loaded (the next one may be unmapped).
 *
 * The including file defines PC_KERNEL_FN(verb) (the name of a function),
 * PC_TARGET (its attributes), pc_vec, PC_VEC_BYTES (a divisor of 64), and
 * PC_LOAD(address), PC_OR(a, b), PC_NONZERO(vector).
 */
#include "pc_kernel.h"

#include <string.h>

#define PC_INLINE PC_TARGET __attribute__((always_inline)) static inline
#define PC_LINE_BYTES 64u

/* Lines are read and tested in blocks: long enough that the test costs little,
 * short enough that a normal page among the candidates is left early. */
#define PC_BLOCK_BYTES 256u

/* How many first lines the sampling loop keeps in flight. */
#define PC_SAMPLE_AHEAD 16u

PC_INLINE pc_vec PC_KERNEL_FN(or_line)(const unsigned char *line)
{
    pc_vec bits = PC_LOAD(line);
    for (size_t at = PC_VEC_BYTES; at < PC_LINE_BYTES; at += PC_VEC_BYTES) {
        bits = PC_OR(bits, PC_LOAD(line + at));
    }
    return bits;
}

PC_INLINE pc_vec PC_KERNEL_FN(or_block)(const unsigned char *block)
{
    const pc_vec low = PC_OR(PC_KERNEL_FN(or_line)(block), PC_KERNEL_FN(or_line)(block + 64));
    const pc_vec high =
        PC_OR(PC_KERNEL_FN(or_line)(block + 128), PC_KERNEL_FN(or_line)(block + 192));
    return PC_OR(low, high);
}

PC_INLINE void PC_KERNEL_FN(prefetch_block)(const unsigned char *block)
{
    for (size_t at = 0; at < PC_BLOCK_BYTES; at += PC_LINE_BYTES) {
        __builtin_prefetch(block + at, 0, 3);
    }
}

PC_INLINE const unsigned char *PC_KERNEL_FN(page)(const pc_pages *pages, size_t index)
{
    const uint64_t offset =
        pages->offsets ? pages->offsets[index] : pages->first + index * pages->page_bytes;
    return pages->base + offset;
}

/* Fewer bytes than one vector: overlapping words, so that none is read past. */
PC_INLINE bool PC_KERNEL_FN(is_zero_short)(const unsigned char *bytes, size_t length)
{
    uint64_t bits = 0;
    size_t at = 0;
    for (; at + 8 <= length; at += 8) {
        uint64_t word;
        memcpy(&word, bytes + at, 8);
        bits |= word;
    }
    for (; at < length; at++) {
        bits |= bytes[at];
    }
    return bits == 0;
}

PC_TARGET static bool PC_KERNEL_FN(is_zero)(const void *start, size_t length)
{
    const unsigned char *bytes = start;
    if (length < PC_VEC_BYTES) {
        return PC_KERNEL_FN(is_zero_short)(bytes, length);
    }
    size_t at = 0;
    for (; at + PC_BLOCK_BYTES <= length; at += PC_BLOCK_BYTES) {
        if (PC_NONZERO(PC_KERNEL_FN(or_block)(bytes + at))) {
            return false;
        }
    }
    for (; at + PC_VEC_BYTES <= length; at += PC_VEC_BYTES) {
        if (PC_NONZERO(PC_LOAD(bytes + at))) {
            return false;
        }
    }
    /* The last vector ends with the last byte and overlaps what was read. */
    return !PC_NONZERO(PC_LOAD(bytes + length - PC_VEC_BYTES));
}

/* One piece of PC_KERNEL_PAGE_BYTES; the piece at `ahead` is prefetched. */
PC_INLINE bool PC_KERNEL_FN(piece_is_zero)(const unsigned char *piece, const unsigned char *ahead)
{
    for (size_t at = 0; at < PC_KERNEL_PAGE_BYTES; at += PC_BLOCK_BYTES) {
        PC_KERNEL_FN(prefetch_block)(ahead + at);
        if (PC_NONZERO(PC_KERNEL_FN(or_block)(piece + at))) {
            return false;
        }
    }
    return true;
}

/* Two pieces in step; bit 0 is a's answer, bit 1 is b's. */
PC_INLINE unsigned PC_KERNEL_FN(pair_is_zero)(const unsigned char *a, const unsigned char *b,
                                              const unsigned char *ahead_a,
                                              const unsigned char *ahead_b)
{
    for (size_t at = 0; at < PC_KERNEL_PAGE_BYTES; at += PC_BLOCK_BYTES) {
        PC_KERNEL_FN(prefetch_block)(ahead_a + at);
        PC_KERNEL_FN(prefetch_block)(ahead_b + at);
        const pc_vec in_a = PC_KERNEL_FN(or_block)(a + at);
        const pc_vec in_b = PC_KERNEL_FN(or_block)(b + at);
        if (PC_NONZERO(PC_OR(in_a, in_b))) {
            const size_t left = PC_KERNEL_PAGE_BYTES - at;
            const bool a_zero = !PC_NONZERO(in_a) && PC_KERNEL_FN(is_zero)(a + at, left);
            const bool b_zero = !PC_NONZERO(in_b) && PC_KERNEL_FN(is_zero)(b + at, left);
            return (unsigned)a_zero | (unsigned)b_zero << 1;
        }
    }
    return 3;
}

typedef struct PC_KERNEL_FN(candidates) {
    size_t count;
    const unsigned char *page[PC_KERNEL_GROUP_PAGES + 2]; /* two more: what to prefetch */
    uint8_t bit[PC_KERNEL_GROUP_PAGES];
} PC_KERNEL_FN(candidates);

/* Step 1. */
PC_INLINE void PC_KERNEL_FN(sample_first)(const pc_pages *pages, size_t begin, size_t end,
                                          PC_KERNEL_FN(candidates) * left)
{
    size_t count = 0;
    for (size_t index = begin; index < end; index++) {
        if (index + PC_SAMPLE_AHEAD < pages->count) {
            __builtin_prefetch(PC_KERNEL_FN(page)(pages, index + PC_SAMPLE_AHEAD), 0, 3);
        }
        const unsigned char *page = PC_KERNEL_FN(page)(pages, index);
        left->page[count] = page;
        left->bit[count] = (uint8_t)(index - begin);
        count += !PC_NONZERO(PC_KERNEL_FN(or_line)(page));
    }
    left->count = count;
}

/* Step 2. */
PC_INLINE void PC_KERNEL_FN(sample_rest)(size_t page_bytes, PC_KERNEL_FN(candidates) * left)
{
    size_t count = 0;
    for (size_t i = 0; i < left->count; i++) {
        const unsigned char *page = left->page[i];
        const pc_vec middle = PC_KERNEL_FN(or_line)(page + page_bytes / 2);
        const pc_vec last = PC_KERNEL_FN(or_line)(page + page_bytes - PC_LINE_BYTES);
        left->page[count] = page;
        left->bit[count] = left->bit[i];
        count += !PC_NONZERO(PC_OR(middle, last));
    }
    left->count = count;
}

/* Step 3 for pages of one piece. */
PC_INLINE uint64_t PC_KERNEL_FN(read_small)(const PC_KERNEL_FN(candidates) * left)
{
    uint64_t zero = 0;
    size_t i = 0;
    for (; i + 2 <= left->count; i += 2) {
        const uint64_t pair = PC_KERNEL_FN(pair_is_zero)(left->page[i], left->page[i + 1],
                                                         left->page[i + 2], left->page[i + 3]);
        zero |= (pair & 1) << left->bit[i];
        zero |= (pair >> 1) << left->bit[i + 1];
    }
    if (i < left->count) {
        const bool one = PC_KERNEL_FN(piece_is_zero)(left->page[i], left->page[i + 1]);
        zero |= (uint64_t)one << left->bit[i];
    }
    return zero;
}

/* Step 3 for one page of several pieces, in order. */
PC_INLINE bool PC_KERNEL_FN(large_is_zero)(const unsigned char *page, size_t page_bytes,
                                           const unsigned char *next)
{
    const unsigned char *last = page + page_bytes - PC_KERNEL_PAGE_BYTES;
    for (const unsigned char *piece = page; piece < last; piece += PC_KERNEL_PAGE_BYTES) {
        if (!PC_KERNEL_FN(piece_is_zero)(piece, piece + PC_KERNEL_PAGE_BYTES)) {
            return false;
        }
    }
    return PC_KERNEL_FN(piece_is_zero)(last, next);
}

PC_INLINE uint64_t PC_KERNEL_FN(read_large)(size_t page_bytes,
                                            const PC_KERNEL_FN(candidates) * left)
{
    uint64_t zero = 0;
    for (size_t i = 0; i < left->count; i++) {
        const bool one =
            PC_KERNEL_FN(large_is_zero)(left->page[i], page_bytes, left->page[i + 1]);
        zero |= (uint64_t)one << left->bit[i];
    }
    return zero;
}

PC_TARGET static uint64_t PC_KERNEL_FN(zero_pages)(const pc_pages *pages, size_t begin, size_t end)
{
    PC_KERNEL_FN(candidates) left;
    PC_KERNEL_FN(sample_first)(pages, begin, end, &left);
    PC_KERNEL_FN(sample_rest)(pages->page_bytes, &left);
    if (left.count == 0) {
        return 0;
    }
    /* After the last candidates come pages of the next group, as a guess. */
    const unsigned char *after = left.page[left.count - 1];
    for (size_t i = 0; i < 2; i++) {
        left.page[left.count + i] =
            end + i < pages->count ? PC_KERNEL_FN(page)(pages, end + i) : after;
    }
    if (pages->page_bytes == PC_KERNEL_PAGE_BYTES) {
        return PC_KERNEL_FN(read_small)(&left);
    }
    return PC_KERNEL_FN(read_large)(pages->page_bytes, &left);
}
