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
    uint64_t *next[2] = {out, out + normal};
    for (size_t i = 0; i < count; i++)
        *next[zero[i] != 0]++ = offsets[i];
    return normal;
}
