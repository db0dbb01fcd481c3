/* Arrays of page offsets, as a multifd sender has them. */
#ifndef PC_OFFSETS_H
#define PC_OFFSETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether each is the offset of a page of a block of at most INT64_MAX bytes; `page_bytes` is a
 * power of two. */
bool pc_offsets_are_pages(const uint64_t *offsets, size_t count, uint64_t page_bytes,
                          uint64_t block_bytes);

/* Index of the first offset that is misaligned or outside the block, or -1.
 * `page_bytes` is a power of two. */
int64_t pc_offsets_check(const uint64_t *offsets, size_t count, uint64_t page_bytes,
                         uint64_t block_bytes);

/* Copies the offsets, those that are not zero first, both kinds in their given order, as QEMU's
 * multifd packets want them. Returns how many are not zero. `out` must not overlap `offsets`. */
size_t pc_offsets_partition(const uint64_t *offsets, const uint8_t *zero, size_t count,
                            uint64_t *out);

#endif
