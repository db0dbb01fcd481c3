/* One pass over an offset array each. */
#include "pc_offsets.h"

#include <string.h>

bool pc_offsets_are_pages(const uint64_t *offsets, size_t count, uint64_t page_bytes,
                          uint64_t block_bytes)
{
    /* All of them ORed show a misaligned one; the highest bit, one that is too large: its
     * own, or that of the difference. */
    uint64_t all = 0, less = 0;
    for (size_t i = 0; i < count; i++) {
        all |= offsets[i];
        less |= block_bytes - 1 - offsets[i];
    }
    return (all & (page_bytes - 1)) == 0 && (all | less) >> 63 == 0;
}

int64_t pc_offsets_check(const uint64_t *offsets, size_t count, uint64_t page_bytes,
                         uint64_t block_bytes)
{
    for (size_t i = 0; i < count; i++)
        if ((offsets[i] & (page_bytes - 1)) != 0 || offsets[i] >= block_bytes)
            return (int64_t)i;
    return -1;
}

/* How many of 8 bytes are not 0. */
static size_t count_of_8(const uint8_t *bytes)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    /* A byte's highest bit is set already, or adding 0x7f to the others sets it. */
    word = (word | ((word & 0x7f * ones) + 0x7f * ones)) >> 7 & ones;
    return (size_t)(word * ones >> 56);
}

size_t pc_offsets_partition(const uint64_t *offsets, const uint8_t *zero, size_t count,
                            uint64_t *out)
{
    size_t at = 0, zeros = 0;
    for (; at + 8 <= count; at += 8)
        zeros += count_of_8(zero + at);
    for (; at < count; at++)
        zeros += zero[at] != 0;
    uint64_t *normal = out, *zero_out = out + (count - zeros);
    for (size_t i = 0; i < count; i++) { /* no branch: zero pages follow no pattern */
        size_t is_zero = zero[i] != 0;
        *(is_zero ? zero_out : normal) = offsets[i];
        zero_out += is_zero;
        normal += 1 - is_zero;
    }
    return count - zeros;
}
