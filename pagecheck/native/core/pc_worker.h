/* The worker's side of a ring: takes batches in order, decides them, answers, wakes. */
#ifndef PC_WORKER_H
#define PC_WORKER_H

#include "pc_block.h"
#include "pc_dsa.h"
#include "pc_ring.h"

#define PC_WINDOW 8u /* batches that are prepared while the device has earlier ones */

/* A batch that was begun and is not answered yet. */
typedef struct pc_begun {
    pc_task task;
    uint64_t *offsets;  /* private copy of the batch's offsets */
    uint64_t *unproven; /* the DSA engine's bitmap of the batch's pages */
    int64_t begun_ns;
    uint32_t refusal;
} pc_begun;

typedef struct pc_worker {
    pc_ring ring;
    pc_decider decider;
    pc_dsa dsa;
    bool queue_up;     /* as far as the caller of pc_worker_serve knows */
    uint64_t next;     /* sequence of the batch that comes next */
    uint64_t answered; /* sequence of the newest batch that was answered */
    uint64_t attention_seen;
    uint64_t woken_for;        /* the last wake_at whose sleeper was woken */
    int64_t spin_ns;           /* looks for work this long before it sleeps */
    pc_begun begun[PC_WINDOW]; /* from `oldest` on, around the end */
    uint32_t oldest;
    uint64_t *offsets;               /* of all of them, and their bitmaps */
    pc_block *blocks[PC_BLOCKS_MAX]; /* by id % PC_BLOCKS_MAX: ids need not be used again */
    pc_block *retired;               /* detached while a queue drained, linked by `next` */
} pc_worker;

typedef enum pc_serve {
    PC_SERVE_TIMEOUT,     /* nothing came until the deadline */
    PC_SERVE_ATTENTION,   /* a message waits on the socket */
    PC_SERVE_QUEUE,       /* the work queue was abandoned; dsa.end says why */
    PC_SERVE_INTERRUPTED, /* a signal came */
    PC_SERVE_FAILED,      /* no wait is possible; errno says why */
} pc_serve;

/* `ring` is taken over. False: no memory. */
bool pc_worker_init(const pc_ring *ring, const pc_kernel *kernel, pc_worker *worker);
/* Waits for a queue to drain until the absolute time. False: the device may still hold something,
 * and the memory that it may use is left to the end of the process. */
bool pc_worker_deinit(pc_worker *worker, int64_t deadline_ns);

/* Opens a work queue for the blocks that are known and those to come; the portal is taken over.
 * False: no memory, or the portal has no room for a block. */
bool pc_worker_open_queue(pc_worker *worker, pc_portal *portal, const pc_dsa_limits *limits);

/* The block is taken over. No other block may be in its place, that of id % PC_BLOCKS_MAX. False:
 * the software device has no room for it. */
bool pc_worker_attach(pc_worker *worker, uint32_t id, pc_block *block);
/* The block of that id, or NULL. */
const pc_block *pc_worker_block(const pc_worker *worker, uint32_t id);
/* Copies the pages of a known block to the sink, which is taken over, as they are decided. */
void pc_worker_copy_to(pc_worker *worker, uint32_t id, pc_sink *sink);
/* Unmaps and closes the block, or leaves that until no queue drains any more. */
void pc_worker_detach(pc_worker *worker, uint32_t id);
/* What the queue does; frees what is no longer needed. */
pc_queue_state pc_worker_queue_state(pc_worker *worker);

/* Answers batches until there is something else to do; when it returns, nothing is in flight and
 * every batch that was begun is answered. While batches keep coming the deadline is looked at
 * between batches, so a busy ring cannot hold the caller. */
pc_serve pc_worker_serve(pc_worker *worker, int64_t deadline_ns);

#endif
