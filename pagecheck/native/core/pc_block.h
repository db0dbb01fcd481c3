/* A RAM block as a worker sees it, and the decision of one batch of its pages.
 *
 * Danger: reading a hole of tmpfs, memfd or hugetlbfs through a mapping allocates it. A mapping is
 * therefore touched only where that cannot happen: on file systems without this property, in a
 * file that was seen to have no hole and kept its size and blocks, or at pages that mincore reports
 * resident. What is left: a hole punched between that look and the touch is allocated again.
 * Everything else is asked of SEEK_DATA or read with pread, which never allocate. */
#ifndef PC_BLOCK_H
#define PC_BLOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "pc_kernel.h"

#define PC_BLOCK_TOUCH_FREELY 1u /* a read through the mapping never allocates file blocks */
#define PC_BLOCK_TRUST_HOLES 2u  /* SEEK_DATA's holes are proof of zero */
#define PC_BLOCK_ASK_RESIDENT 4u /* mincore tells the truth to this process */

typedef struct pc_block {
    int fd;                    /* owned; read-only */
    const unsigned char *base; /* mapping of [start, start + bytes), or NULL: read only */
    uint64_t start;            /* byte offset in the file of the block's page 0 */
    uint64_t bytes;
    uint64_t page_bytes;
    uint32_t flags;
    uint64_t dense_bytes; /* the file's size when it was seen to have no hole, or 0: never */
} pc_block;

typedef struct pc_batch {
    const uint64_t *offsets; /* `count` byte offsets in the block; NULL: consecutive from `first` */
    uint64_t first;          /* byte offset in the block */
    uint32_t count;
} pc_batch;

/* What one worker decides with; the buffers are private to it. */
typedef struct pc_decider {
    const pc_kernel *kernel;
    unsigned char *buffer;   /* PC_READ_BYTES, for pread */
    unsigned char *resident; /* PC_RESIDENT_PAGES, for mincore */
    uint64_t *progress;      /* raised after every piece of work */
} pc_decider;

#define PC_READ_BYTES (512u * 1024u)
#define PC_RESIDENT_PAGES 4096u

bool pc_decider_init(const pc_kernel *kernel, uint64_t *progress, pc_decider *decider);
void pc_decider_deinit(pc_decider *decider);

/* Decides a batch whose pages are whole, aligned and inside the block. The words are overwritten:
 * a zero bit is set only for a page that was seen to be zero or is a hole; a page that could not
 * be read has neither bit. */
void pc_block_decide(const pc_block *block, const pc_decider *decider, const pc_batch *batch,
                     uint64_t *zero, uint64_t *decided);

#endif
