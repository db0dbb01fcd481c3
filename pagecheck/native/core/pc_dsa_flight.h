/* Inside the DSA engine: flights, and a queue from its opening until it is drained. */
#ifndef PC_DSA_FLIGHT_H
#define PC_DSA_FLIGHT_H

#include "pc_bits.h"
#include "pc_dsa.h"

/* Pages that one descriptor covers: consecutive in the batch and in memory. */
typedef struct pc_member {
    uint32_t index; /* of the first page in its batch */
    uint32_t pages;
} pc_member;

/* Pages of a batch that may be zero: bit i is page 64 * word + i. */
typedef struct pc_candidates {
    uint64_t pages;
    uint32_t word;
} pc_candidates;

/* One submission: a lone descriptor, a batch of them, or an array where batches cannot be had. */
struct pc_flight {
    pc_flight *next;
    pc_task *task;
    struct dsa_hw_desc *batch;
    struct dsa_hw_desc *descriptors;
    struct dsa_completion_record *batch_record;
    struct dsa_completion_record *records;
    uint32_t count;
    uint32_t taken;   /* descriptors that the queue took, from the first on */
    uint32_t entries; /* entries of the queue that it occupies */
    uint32_t rounds;
    bool batched;
    bool single; /* submitted without a batch descriptor: that one was refused */
    int64_t submitted_ns;
    pc_member members[PC_DSA_MEMBERS];
    /* The same pages again, so that a flight of nothing but zero pages is settled by the word. */
    uint32_t pages;  /* as many as members: none shares a descriptor. 0: submitted again */
    uint32_t groups; /* right where no page shares a descriptor */
    pc_candidates group[PC_DSA_MEMBERS];
};

struct pc_queue {
    pc_queue *next; /* in the list of those that drain */
    pc_portal *portal;
    pc_dsa_limits limits;
    uint32_t members;   /* of a flight at most */
    uint32_t entries;   /* occupied in the queue, as far as we know */
    uint32_t errors;    /* descriptors in a row that came back with neither an answer nor a fault */
    uint32_t unbatched; /* batches in a row that did not run from end to end */
    uint64_t run_bytes; /* learned: what one descriptor may cover */
    uint64_t page_max_bytes;  /* larger pages are the CPU's; 0: all are, because it is full */
    int64_t backoff_until_ns; /* then a full queue is tried again */
    int64_t backoff_ns;       /* how long it was left alone last; 0: it took what came last */
    pc_flight *ready;         /* to be submitted, for the first time or again */
    pc_flight *oldest;        /* submitted, in order of submission */
    pc_flight *newest;
    pc_flight *unused;
    pc_flight *overdue;    /* in flight when it was abandoned */
    unsigned char *region; /* descriptors and records of every flight */
    size_t region_bytes;
    int drained; /* written by the draining thread, released */
    pc_flight flights[PC_DSA_FLIGHTS];
};

/* Where a flight's records do not prove them: for the CPU, when the task is finished. */
static inline void pc_task_put_back(pc_task *task, uint32_t index, uint32_t pages)
{
    pc_bits_set(task->unproven, index, pages);
}

static inline void pc_flight_push(pc_flight **list, pc_flight *flight)
{
    flight->next = *list;
    *list = flight;
}

/* To be submitted, for the first time or again. What its records say is of an earlier use. */
static inline void pc_flight_make_ready(pc_queue *queue, pc_flight *flight)
{
    flight->taken = 0;
    pc_flight_push(&queue->ready, flight);
}

static inline pc_flight *pc_flight_pop(pc_flight **list)
{
    pc_flight *flight = *list;
    *list = flight->next;
    return flight;
}

#endif
