/* The worker's side of a ring: takes batches in order, decides them, answers, wakes. */
#ifndef PC_WORKER_H
#define PC_WORKER_H

#include "pc_block.h"
#include "pc_ring.h"

typedef struct pc_worker {
    pc_ring ring;
    pc_decider decider;
    uint64_t *offsets; /* private copy of one batch's offsets */
    uint64_t next;     /* sequence of the batch that comes next */
    uint64_t attention_seen;
    pc_block *blocks[PC_BLOCKS_MAX];
} pc_worker;

typedef enum pc_serve {
    PC_SERVE_TIMEOUT,     /* nothing came until the deadline */
    PC_SERVE_ATTENTION,   /* a message waits on the socket */
    PC_SERVE_INTERRUPTED, /* a signal came */
    PC_SERVE_FAILED,      /* the semaphore is gone; errno says why */
} pc_serve;

/* `ring` is taken over. False: no memory. */
bool pc_worker_init(const pc_ring *ring, const pc_kernel *kernel, pc_worker *worker);
void pc_worker_deinit(pc_worker *worker);

/* Answers batches until there is something else to do. While batches keep coming the deadline is
 * looked at between batches, so a busy ring cannot hold the caller. */
pc_serve pc_worker_serve(pc_worker *worker, int64_t deadline_ns);

#endif
