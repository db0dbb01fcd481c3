/* One pass over an offset array each. */
#include "pc_offsets.h"

int64_t pc_offsets_check(const uint64_t *offsets, size_t count, uint64_t page_bytes,
                         uint64_t block_bytes)
{
    for (size_t i = 0; i < count; i++)
        if ((offsets[i] & (page_bytes - 1)) != 0 || offsets[i] >= block_bytes)
            return (int64_t)i;
    return -1;
}

size_t pc_offsets_partition(const uint64_t *offsets, const uint8_t *zero, size_t count,
                            uint64_t *out)
{
    size_t normal = 0;
    for (size_t i = 0; i < count; i++)
        normal += zero[i] == 0;
    size_t next_normal = 0, next_zero = normal;
    for (size_t i = 0; i < count; i++) { /* no branch: zero pages follow no pattern */
        size_t is_zero = zero[i] != 0;
        out[is_zero ? next_zero : next_normal] = offsets[i];
        next_zero += is_zero;
        next_normal += 1 - is_zero;
    }
    return normal;
}
