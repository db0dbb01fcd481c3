/* The RAM block that lies in a file: on disk, in tmpfs, in a memfd, in hugetlbfs. */
#ifndef PC_FILE_BLOCK_H
#define PC_FILE_BLOCK_H

#include "pc_block.h"
#include "pc_error.h"

#define PC_BLOCK_TOUCH_FREELY 1u /* a read through the mapping never allocates file blocks */
#define PC_BLOCK_TRUST_HOLES 2u  /* SEEK_DATA's holes are proof of zero */

typedef struct pc_file_block {
    pc_block head;
    int fd;               /* owned; read-only */
    uint64_t start;       /* byte offset in the file of the block's page 0 */
    uint64_t dense_bytes; /* the file's size when it was seen to have no hole, or 0: never */
} pc_file_block;

extern const pc_block_ops pc_file_block_ops;

/* What to look at: `bytes` of the file from `start` on. */
typedef struct pc_file_range {
    uint64_t start;
    uint64_t bytes;
    uint64_t page_bytes;
    uint64_t dense_bytes;
    uint32_t flags;
    bool map; /* false: it is only ever read */
} pc_file_range;

/* `fd` is duplicated. NULL: the error says why. */
pc_block *pc_file_block_open(int fd, const pc_file_range *range, pc_error *error);

#endif
