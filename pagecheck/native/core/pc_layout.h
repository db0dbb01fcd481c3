/* What a worker shares, word by word: its ring with the submitter of batches (the coordinator, or
 * the VMM that a direct channel was opened for), its control segment with its supervisor (the
 * coordinator or the service).
 *
 * The two are apart because a direct channel's ring is a VMM's: what is in it is hostile, and no
 * supervisor believes it. include/pagecheck.h declares the ring for VMM authors (a test compares
 * the two). Every word has one writer, but for `submit`, which is only ever added to. Python gets
 * the words by name from python/py_layout.c; the tables of docs/shm-layout.md are made from these
 * comments, by tools/shm_layout.py: one of its own line names the writer of the words below it, one
 * behind a word says what it means. All integers are native-endian; both sides run on one host.
 */
#ifndef PC_LAYOUT_H
#define PC_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#define PC_SEGMENT_MAGIC UINT64_C(0x474e495243504350) /* "PCPCRING" in memory */
#define PC_LAYOUT_VERSION 3u
#define PC_CACHE_LINE 64u
#define PC_SLOT_ALIGN 128u /* two lines: the adjacent-line prefetcher must not share slots */
#define PC_SLOTS_MAX 1024u
#define PC_SLOT_PAGES_MAX 65536u
#define PC_BLOCKS_MAX 1024u

/* A slot's request and answer words are (sequence << 8) | state; sequences start at 1. */
#define PC_REQUEST_SUBMITTED 1u
#define PC_ANSWER_DONE 1u
#define PC_ANSWER_REFUSED 2u

/* How a request names its pages. */
#define PC_PAGES_RANGE 1u   /* `count` pages from page index `first_page` */
#define PC_PAGES_OFFSETS 2u /* `count` byte offsets in the slot's offsets array */

/* Why a worker refused a request; only a bug or a damaged segment brings one about. */
#define PC_REFUSED_COUNT 1u
#define PC_REFUSED_KIND 2u
#define PC_REFUSED_BLOCK 3u
#define PC_REFUSED_PAGES 4u

struct pc_header {
    /* Written once, before anybody else has the segment. */
    uint64_t magic;          /* "PCPCRING" */
    uint32_t layout_version; /* 3 */
    uint32_t header_bytes;   /* where the slots begin */
    uint64_t segment_bytes;  /* size of the whole segment */
    uint64_t generation;     /* counts the channel's replacements */
    uint32_t slot_count;     /* slots in the ring */
    uint32_t slot_pages;     /* the most pages a batch may have; a multiple of 64 */
    uint64_t slot_bytes;     /* distance between slots */
    uint64_t reserved_constant[2];
    /* Written by the submitter. */
    uint64_t wake_at; /* the sequence whose answer it sleeps for; UINT64_MAX: it does not sleep */
    uint64_t reserved_submitter[7];
    /* Written by the worker. */
    uint64_t asleep; /* 1 << 32 | the value of `submit` that it sleeps on; 0: it is awake */
    uint32_t done;   /* futex: raised by one when the answer of wake_at is there; at its end too */
    uint32_t reserved_worker[13];
    /* Added to by the submitter and the supervisor, and never set. */
    uint32_t submit; /* futex: raised by one when the worker is to look */
    /* Written by the supervisor. */
    uint32_t gone; /* 1: nobody answers any more */
    uint32_t reserved_supervisor[14];
};

#define PC_ASLEEP (UINT64_C(1) << 32)
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
    ONE(queue_state)     /* pc_queue_state, and pc_queue_end << 8; see pc_dsa.h */                 \
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

struct pc_slot {
    /* Written by the submitter; `request` last, with release. */
    uint64_t request;    /* sequence << 8 | 1 (submitted); stored last */
    uint32_t kind;       /* 1: a range; 2: offsets */
    uint32_t block;      /* id that the RAM block was attached under */
    uint64_t first_page; /* first page of a range */
    uint32_t count;      /* pages of the batch */
    uint32_t reserved_submitter[9];
    /* Written by the worker; `answer` last, with release. */
    uint64_t answer;  /* sequence << 8 | 1 (done) or 2 (refused); stored last */
    uint32_t refusal; /* why the batch was refused: 1 count, 2 kind, 3 block, 4 pages */
    uint32_t reserved_worker[13];
    /* Then: uint64_t offsets[slot_pages], by the submitter;
     *       uint64_t zero[slot_pages / 64], uint64_t decided[slot_pages / 64], by the worker. */
};

_Static_assert(sizeof(struct pc_header) == 4 * PC_CACHE_LINE, "header is four lines");
_Static_assert(offsetof(struct pc_header, wake_at) == PC_CACHE_LINE, "one writer per line");
_Static_assert(offsetof(struct pc_header, asleep) == 2 * PC_CACHE_LINE, "one writer per line");
_Static_assert(offsetof(struct pc_header, submit) == 3 * PC_CACHE_LINE, "shared words apart");
_Static_assert(offsetof(struct pc_control, progress) == PC_CACHE_LINE, "one writer per line");
_Static_assert(sizeof(struct pc_stats) == 14 * PC_CACHE_LINE, "statistics are fourteen lines");
_Static_assert(sizeof(struct pc_failure) == 2 * PC_CACHE_LINE, "a failure is two lines");
_Static_assert(sizeof(struct pc_slot) == 2 * PC_CACHE_LINE, "slot head is two lines");
_Static_assert(offsetof(struct pc_slot, answer) == PC_CACHE_LINE, "one writer per line");

static inline uint32_t pc_latency_bucket(uint64_t took_ns)
{
    uint64_t firsts = took_ns / PC_LATENCY_FIRST_NS;
    uint32_t bucket = firsts == 0 ? 0 : 64u - (uint32_t)__builtin_clzll(firsts);
    return bucket < PC_LATENCIES ? bucket : PC_LATENCIES - 1u;
}

static inline uint64_t pc_layout_slot_bytes(uint64_t slot_pages)
{
    uint64_t bytes = sizeof(struct pc_slot) + slot_pages * 8u + 2u * (slot_pages / 64u) * 8u;
    return (bytes + PC_SLOT_ALIGN - 1u) / PC_SLOT_ALIGN * PC_SLOT_ALIGN;
}

static inline uint64_t pc_layout_header_bytes(void)
{
    return sizeof(
        struct pc_header); /* a multiple of PC_SLOT_ALIGN, which keeps the slots aligned */
}

static inline uint64_t pc_layout_segment_bytes(uint64_t slot_count, uint64_t slot_pages)
{
    return pc_layout_header_bytes() + slot_count * pc_layout_slot_bytes(slot_pages);
}

static inline uint64_t *pc_slot_offsets(struct pc_slot *slot)
{
    return (uint64_t *)(slot + 1);
}

static inline uint64_t *pc_slot_zero(struct pc_slot *slot, uint32_t slot_pages)
{
    return pc_slot_offsets(slot) + slot_pages;
}

static inline uint64_t *pc_slot_decided(struct pc_slot *slot, uint32_t slot_pages)
{
    return pc_slot_zero(slot, slot_pages) + slot_pages / 64u;
}

#endif
