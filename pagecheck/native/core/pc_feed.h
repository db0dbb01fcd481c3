/* The coordinator's side of a ring: submits batches, collects answers, publishes them.
 *
 * What was submitted is remembered in private memory. An answer counts only for the batch it was
 * asked for, and only after its words were copied and checked. */
#ifndef PC_FEED_H
#define PC_FEED_H

#include "pc_ring.h"

/* The pages of one batch that is to be submitted or in progress. */
typedef struct pc_batch_span {
    uint64_t position; /* index of its first page in the caller's pages */
    uint64_t span;     /* how many pages from there on it is of */
    uint32_t count;    /* those of them that are asked for; the job's `skip` has the others */
} pc_batch_span;

/* Where the pages come from and where the answers go. */
typedef struct pc_job {
    uint32_t block;
    uint32_t batch_pages;
    const uint64_t *offsets; /* byte offsets; NULL: position is the page index itself */
    /* With offsets NULL: bitmaps over the block, shared with other threads of the coordinator. */
    uint64_t *zero_bits;
    uint64_t *normal_bits;
    const uint64_t *skip; /* pages that are not asked for; no such bit changes once its page was
                           * given to pc_feed_more. NULL: all are asked for */
    uint64_t page_bytes;  /* with `skip` */
    /* Else one byte per page of the caller's, 0 or 1. */
    uint8_t *zero_bytes;
    uint8_t *decided_bytes;
} pc_job;

typedef struct pc_feed {
    pc_ring ring;
    pc_job job;
    uint64_t next;              /* position of the next page to submit */
    uint64_t end;               /* one past the last page to submit */
    pc_batch_span *in_progress; /* slot_count batches, by sequence % slot_count */
    pc_batch_span *resubmit;    /* slot_count batches of a dead worker, to be submitted first */
    uint32_t resubmit_count;
    uint32_t resubmit_next;
    uint64_t submitted; /* sequence of the newest batch */
    uint64_t collected; /* sequence of the newest batch that was answered */
    uint64_t discard;   /* answers up to this sequence belong to an abandoned job */
    uint64_t *words;    /* private copy of one answer: zero, then decided */
    uint64_t *listed;   /* slot_pages offsets, of the batch that is being submitted */
    uint64_t pages_decided;
    uint64_t pages_undecided;
    int64_t spin_ns;     /* looks for an answer this long before it sleeps */
    uint32_t spin_pause; /* pc_feed_finish: after a failure this many calls do not spin */
    uint32_t spin_skip;  /* how many of them are left */
} pc_feed;

typedef enum pc_pump {
    PC_PUMP_DONE,        /* every batch was answered */
    PC_PUMP_NEED_MORE,   /* all is submitted and the ring is at most half full */
    PC_PUMP_TIMEOUT,     /* the deadline passed */
    PC_PUMP_INTERRUPTED, /* a signal came */
    PC_PUMP_BROKEN,      /* the worker's answer is invalid, or it refused a batch */
    PC_PUMP_GONE,        /* the worker is gone */
    PC_PUMP_FAILED,      /* no wait is possible; errno says why */
} pc_pump;

/* `ring` is taken over. False: no memory. */
bool pc_feed_init(const pc_ring *ring, pc_feed *feed);
void pc_feed_deinit(pc_feed *feed);

/* Starts a job; no batch may be in progress. */
void pc_feed_begin(pc_feed *feed, const pc_job *job);
/* More pages of the job, `skip` left out; all earlier ones must have been submitted. */
void pc_feed_more(pc_feed *feed, uint64_t position, uint64_t count);
/* Submits as much as the ring has room for; does not wait. */
void pc_feed_submit(pc_feed *feed);
/* Submits and collects. With `more_follow` it returns as soon as it needs more pages. */
pc_pump pc_feed_pump(pc_feed *feed, bool more_follow, int64_t deadline_ns);
/* The same for a job of a few batches that all were added. Looks for the answers for at most 15 us
 * before it sleeps, as long as that is worth it. */
pc_pump pc_feed_finish(pc_feed *feed, int64_t deadline_ns);

/* Batches of this job that are in progress. */
uint64_t pc_feed_outstanding(const pc_feed *feed);
/* The batch that a worker which died just now worked at; false: none of this job's. */
bool pc_feed_oldest(const pc_feed *feed, pc_batch_span *oldest);
/* Sets the oldest batch aside as undecided; only between rebind and the next pump. */
void pc_feed_skip_oldest(pc_feed *feed);
/* Ends the job: what is in progress, waiting or not yet submitted stays undecided, and answers that
 * still come are discarded. */
void pc_feed_abandon(pc_feed *feed);
/* Takes over the ring of a new worker; what the old one left unanswered is submitted again. */
void pc_feed_rebind(pc_feed *feed, const pc_ring *ring);

#endif
