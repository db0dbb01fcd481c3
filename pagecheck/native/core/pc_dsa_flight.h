/* Inside the DSA engine: flights, and one life of a queue from its opening until it is drained. */
#ifndef PC_DSA_FLIGHT_H
#define PC_DSA_FLIGHT_H

#include "pc_dsa.h"

/* Pages that one descriptor covers: consecutive in the batch and in memory. */
typedef struct pc_member {
    uint32_t index; /* of the first page in its batch */
    uint32_t pages;
} pc_member;

/* Pages of a batch that may be zero: bit i is page begin + i. */
typedef struct pc_candidates {
    uint64_t pages;
    uint32_t begin;
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
    bool single; /* it goes out without a batch descriptor: that one was refused */
    int64_t submitted_ns;
    pc_member members[PC_DSA_MEMBERS];
    /* The same pages again, so that a flight of nothing but zero pages is settled by the word. */
    uint32_t pages;  /* as many as members: none shares a descriptor. 0: this goes out again */
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
    uint64_t takes_bytes;  /* of a page at most; 0: it rests */
    int64_t rest_until_ns; /* then it is tried again */
    int64_t rest_ns;       /* length of its last rest; 0: it took what came last */
    pc_flight *open;       /* being filled, for the task that is being started */
    pc_flight *oldest;     /* submitted, in order of submission */
    pc_flight *newest;
    pc_flight *unused;
    pc_flight *overdue;    /* in flight when it was given up */
    unsigned char *region; /* descriptors and records of every flight */
    size_t region_bytes;
    int drained; /* written by the draining thread, released */
    pc_flight flights[PC_DSA_FLIGHTS];
};

/* What the record of a batch says of its members (3.8, 3.9). None of them is still to come: the
 * device writes the batch's record after theirs. */
typedef enum pc_batch_end {
    PC_BATCH_RAN,     /* each has a record */
    PC_BATCH_CUT,     /* a fault in the list: those before it have one */
    PC_BATCH_REFUSED, /* its own descriptor was refused: none ran */
    PC_BATCH_BROKEN,  /* an error of the device, or no status that we know */
} pc_batch_end;

pc_batch_end pc_batch_end_of(uint32_t status);
/* Counts a record that is in, and keeps the first failure. */
void pc_dsa_count_record(pc_dsa *dsa, const struct dsa_hw_desc *descriptor,
                         const struct dsa_completion_record *record);
void pc_dsa_keep_failure(pc_dsa *dsa, const struct dsa_hw_desc *descriptor,
                         const struct dsa_completion_record *record);
/* What a batch's status means for those to come, and for what is left of this one. */
void pc_queue_learn_from_batch(pc_queue *queue, pc_flight *flight, uint32_t status);
/* A descriptor was refused for its size: shorter ones from now on. False: it was of one page as
 * small as there are, so its size was not at fault. */
bool pc_queue_learn_transfer(pc_queue *queue, uint64_t refused_bytes);

/* Lowers the members of a batch to `most`; less than 2: no batches. Never raises them. */
void pc_queue_limit_batches(pc_queue *queue, uint32_t most);
/* Submits it, or lets the CPU decide its pages; either way the caller is rid of it. */
void pc_flight_launch(pc_dsa *dsa, pc_flight *flight);
/* Whether each record that the flight must have is there. */
bool pc_flight_is_done(const pc_flight *flight);
/* Waits for the oldest flight and makes bits of its records. */
void pc_flight_settle_oldest(pc_dsa *dsa);
/* Makes bits of what records there are and lets the CPU decide the rest. */
void pc_flight_abandon(pc_dsa *dsa, pc_flight *flight);
/* Lets the CPU decide pages that were meant for the device. */
void pc_flight_complete(pc_dsa *dsa, const pc_task *task, uint32_t index, uint32_t pages);

#endif
