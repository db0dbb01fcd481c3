/* A RAM block as a worker sees it, and one batch of its pages on its way to an answer. */
#ifndef PC_TASK_H
#define PC_TASK_H

#include <stdbool.h>
#include <stdint.h>

#include "pc_kernel.h"
#include "pc_sink.h"

#define PC_HOST_PAGE 4096u /* a larger host page is refused at attach */

/* Flags; the others are those of the block's memory. */
#define PC_BLOCK_ASK_RESIDENT 4u /* mincore tells the truth to this process */

typedef struct pc_block pc_block;
typedef struct pc_task pc_task;

/* The memory behind a block. A page is decided by what these say, so each must be right or say
 * less: offsets are bytes from the block's start, inside the block. */
typedef struct pc_block_ops {
    /* How many bytes of the block are there now; pages past them stay undecided. `*touch`, which is
     * false: whether none of them is allocated by a read through the mapping. Once for each batch.
     */
    uint64_t (*size)(const pc_block *block, bool *touch);
    /* The first byte from `offset` on that may not be zero: all before it is a hole, which proves
     * zero. `offset` itself where holes prove nothing. At most once for each run of pages. */
    uint64_t (*next_data)(const pc_block *block, uint64_t offset);
    /* Reads until `bytes` are there or no more can be had; returns how many there are. A hole reads
     * as zeros. */
    size_t (*read)(const pc_block *block, uint64_t offset, void *to, size_t bytes);
    /* In place of the three above, or NULL: decides pages [begin, end) of the batch, whose bits are
     * clear, and raises the progress word as it goes. */
    void (*decide)(pc_task *task, size_t begin, size_t end);
    void (*free)(pc_block *block);
} pc_block_ops;

/* The head of every kind of block. */
struct pc_block {
    const pc_block_ops *ops;
    uint32_t id;               /* what requests call it */
    uint32_t flags;            /* PC_BLOCK_* */
    const unsigned char *base; /* mapping of the whole block in this process; NULL: read only */
    uint64_t bytes;
    uint64_t page_bytes;
    pc_sink *sink;  /* owned; where its pages are copied to, or NULL */
    pc_block *next; /* in the worker's list of those that wait for a device */
};

typedef struct pc_batch {
    const uint64_t *offsets; /* `count` byte offsets in the block; NULL: consecutive from `first` */
    uint64_t first;          /* byte offset in the block */
    uint32_t count;
} pc_batch;

/* What one worker decides with; the buffers are private to it. */
typedef struct pc_decider {
    const pc_kernel *kernel;
    unsigned char *buffer;   /* PC_READ_BYTES, for reads */
    unsigned char *resident; /* PC_RESIDENT_PAGES, for mincore */
    uint64_t *progress;      /* raised after every piece of work */
    uint64_t *holes;         /* pages that were answered as holes, or NULL: they are not counted */
} pc_decider;

/* Takes over pages [begin, end) of the batch, at most 64, all of them there and safe to touch; it
 * must not call pc_block.c. False: the CPU has to decide them. */
typedef bool (*pc_offload)(void *engine, pc_task *task, const pc_pages *pages, size_t begin,
                           size_t end);

/* One batch on its way to an answer. With an engine beside the CPU it is in two steps, so that one
 * batch can be prepared while the engine has another. */
struct pc_task {
    const pc_block *block;
    const pc_decider *decider;
    pc_offload offload; /* NULL: the CPU decides everything */
    void *engine;       /* of `offload` */
    bool copies;        /* to the block's sink as pages are decided; else that is done afterwards */
    pc_batch batch;
    uint64_t limit;  /* bytes of the block that are there, when last looked at */
    uint32_t misses; /* lookups in a row that found no hole */
    uint64_t *zero;
    uint64_t *decided;
    /* The engine's: */
    uint64_t *unproven; /* private; pages that may be zero and are in no submission */
    uint32_t flights;   /* submissions that are not settled yet */
    uint32_t offloaded; /* pages that `offload` took */
};

/* Raises the progress word. */
static inline void pc_decider_advance(const pc_decider *decider)
{
    /* One writer, so load and store need not be one step. */
    uint64_t now = __atomic_load_n(decider->progress, __ATOMIC_RELAXED);
    __atomic_store_n(decider->progress, now + 1, __ATOMIC_RELAXED);
}

#define PC_READ_BYTES (512u * 1024u)
#define PC_RESIDENT_PAGES 4096u

#endif
