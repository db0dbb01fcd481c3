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
    uint32_t id;               /* what requests call it */
    int fd;                    /* owned; read-only */
    const unsigned char *base; /* mapping of [start, start + bytes), or NULL: read only */
    uint64_t start;            /* byte offset in the file of the block's page 0 */
    uint64_t bytes;
    uint64_t page_bytes;
    uint32_t flags;
    uint64_t dense_bytes;  /* the file's size when it was seen to have no hole, or 0: never */
    struct pc_block *next; /* in the worker's list of those that wait for a device */
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
    unsigned char *resident; /* 2 * PC_RESIDENT_PAGES, for mincore: with a device, and without */
    uint64_t *progress;      /* raised after every piece of work */
    uint64_t *holes;         /* pages that were answered as holes, or NULL: they are not counted */
} pc_decider;

struct pc_dsa;

/* One batch on its way to an answer. With a device it is in two steps, so that one batch can be
 * prepared while the device has another. */
typedef struct pc_task {
    const pc_block *block;
    const pc_decider *decider;
    struct pc_dsa *dsa; /* NULL: the CPU decides everything */
    pc_batch batch;
    uint64_t limit; /* bytes of the block that lie inside the file, when last looked at */
    uint64_t *zero;
    uint64_t *decided;
    uint32_t flights;   /* submissions that the device has not answered yet */
    uint32_t offloaded; /* pages that were sampled, and submitted where they may be zero */
} pc_task;

#define PC_READ_BYTES (512u * 1024u)
#define PC_RESIDENT_PAGES 4096u

/* Unmaps and closes; the memory is from malloc. */
void pc_block_free(pc_block *block);

bool pc_decider_init(const pc_kernel *kernel, uint64_t *progress, pc_decider *decider);
void pc_decider_deinit(pc_decider *decider);
/* Raises the progress word. */
void pc_decider_advance(const pc_decider *decider);

/* Decides a batch whose pages are whole, aligned and inside the block. The words are overwritten:
 * a zero bit is set only for a page that was seen to be zero or is a hole; a page that could not
 * be read has neither bit. With a device, what may be zero and may be touched is submitted, and
 * pc_dsa_finish gives the answers; the task and all that it names must stay until then. */
void pc_block_start(pc_task *task);

/* Decides pages [begin, end) of the batch again, by the CPU and from the beginning: what the task
 * knew of them is forgotten first. */
void pc_block_redecide(const pc_task *task, size_t begin, size_t end);

#endif
