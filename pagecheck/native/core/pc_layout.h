/* What a worker shares with its supervisor (the coordinator or the service): the control segment,
 * and in it what the worker counts. What it shares with the submitter of batches is the ring, in
 * include/pagecheck_ring.h.
 *
 * The two are apart because a direct channel's ring is a VMM's: what is in it is hostile, and no
 * supervisor believes it. Every word has one writer, but for `submit`, which is only ever added to.
 * Python gets the words by name from python/py_layout.c; the tables of docs/shm-layout.md are made
 * from these comments by tools/shm_layout.py: one of its own line names the writer of the words
 * below it, one behind a word says what it means. All integers are native-endian. */
#ifndef PC_LAYOUT_H
#define PC_LAYOUT_H

#include "../../include/pagecheck_ring.h"

#define PC_BLOCKS_MAX 1024u

#define PC_QUEUE_END_SHIFT 8u /* in queue_state; below it is the state */
#define PC_STATUSES 64u
#define PC_LATENCIES 24u
#define PC_LATENCY_FIRST_NS                                                                        \
    1024u /* bucket i: less than 1024 << i nanoseconds; the last: the rest */

/* What the worker counts, in this order: ONE(name) is a word, MANY(name, count) several. Every word
 * rises only, but for queue_state. Python finds them by these names. */
#define PC_STATISTICS(ONE, MANY)                                                                   \
    ONE(descriptors)     /* COMPVAL descriptors that a queue took, members of batches too */       \
    ONE(batches)         /* batch descriptors that a queue took */                                 \
    ONE(pages_device)    /* pages decided by a completion record */                                \
    ONE(pages_sampled)   /* normal pages that the CPU's look before submission found */            \
    ONE(pages_completed) /* meant for the device, decided by the CPU in the end */                 \
    ONE(pages_cpu)       /* never meant for the device */                                          \
    ONE(page_faults)     /* records that reported a page fault */                                  \
    ONE(refined)         /* runs of pages that were looked at again after a mismatch */            \
    ONE(retries)         /* submissions that the queue did not take at once */                     \
    ONE(queue_full)      /* submissions abandoned because the queue stayed full */                 \
    ONE(timeouts)        /* submissions whose record did not come in time */                       \
    ONE(opens)           /* times that a queue was opened */                                       \
    ONE(submit_ns)       /* wall clock spent submitting */                                         \
    ONE(wait_ns)         /* wall clock spent waiting for records */                                \
    ONE(cpu_ns)          /* CPU time of the worker's thread, when it last rested */                \
    ONE(queue_state)     /* pc_queue_state | pc_queue_end << 8; see pc_dsa.h */                    \
    MANY(statuses, PC_STATUSES) /* records by status code */                                       \
    ONE(answered)               /* batches that were answered and not refused */                   \
    ONE(refused)                /* batches that were refused */                                    \
    ONE(zero)                   /* pages answered as zero */                                       \
    ONE(normal)                 /* pages answered as normal */                                     \
    ONE(undecided)              /* pages left undecided */                                         \
    ONE(holes)                  /* pages answered as zero because the file has a hole there */     \
    ONE(bytes)                  /* bytes of the pages that were decided, holes included */         \
    ONE(latency_ns) /* wall clock from the beginning of a batch to its answer, summed */           \
    MANY(latencies, PC_LATENCIES) /* batches by that time */

#define PC_STATISTIC(name) uint64_t name;
#define PC_STATISTIC_ARRAY(name, count) uint64_t name[count];
struct pc_stats {
    PC_STATISTICS(PC_STATISTIC, PC_STATISTIC_ARRAY)
};
#undef PC_STATISTIC
#undef PC_STATISTIC_ARRAY

/* The first descriptor of a worker that came back with a failure, or never, and its completion
 * record: for whoever looks into it. */
struct pc_failure {
    uint64_t kept;          /* 1: there is one; stored last, with release */
    uint8_t descriptor[64]; /* as it was submitted */
    uint8_t record[32];     /* as it was found */
    uint64_t reserved[3];
};

struct pc_control {
    /* Written by the supervisor. */
    uint64_t attention; /* raised by one when a message waits on the socket */
    uint64_t reserved_supervisor[7];
    /* Written by the worker. */
    uint64_t progress; /* rises with every piece of work, also inside one batch or page */
    uint64_t deciding; /* sequence of the batch in progress, 0 when there is none */
    uint64_t looks;    /* rises whenever the worker begins to look for work, idle or not */
    uint64_t reserved_worker[5];
    struct pc_stats stats;     /* what it has counted */
    struct pc_failure failure; /* its first descriptor that failed */
};

_Static_assert(offsetof(struct pc_control, progress) == PAGECHECK_CACHE_LINE,
               "one writer per line");
_Static_assert(sizeof(struct pc_stats) == 14 * PAGECHECK_CACHE_LINE, "statistics are 14 lines");
_Static_assert(sizeof(struct pc_failure) == 2 * PAGECHECK_CACHE_LINE, "a failure is two lines");

static inline uint32_t pc_latency_bucket(uint64_t took_ns)
{
    uint64_t firsts = took_ns / PC_LATENCY_FIRST_NS;
    uint32_t bucket = firsts == 0 ? 0 : 64u - (uint32_t)__builtin_clzll(firsts);
    return bucket < PC_LATENCIES ? bucket : PC_LATENCIES - 1u;
}

#endif
