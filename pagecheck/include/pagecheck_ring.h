/* The ring between a submitter of batches and a worker: every shared word, and how either side
 * uses it. No I/O: no socket, no descriptor, no JSON; pagecheck's own C core includes this
 * file.
 *
 * One header, then slots, in memory that both sides map. Sequence n, counted from 1, is in slot
 * n mod slot_count. The state is in the slots; the futex words only wake. Danger: a wake-up that is
 * lost between a check and a sleep. Decision: before it sleeps a side announces that, fences, and
 * checks once more; a side with news stores it, fences, and checks whether the other one sleeps.
 * One of the two sees the other:
 *
 *     the submitter                           the worker
 *     store request (release), fence,         store asleep, fence,
 *         read asleep and submit                  read request (acquire)
 *     store wake_at, fence,                   store answer (release), fence,
 *         read answer and gone (acquire)          read wake_at
 *
 * The supervisor stores gone (release) before it raises done: a reader that saw done raised sees
 * gone.
 *
 * Neither side trusts the other: geometry is checked and copied once, an answer is copied, each
 * word loaded once, and only the checked copy is used. Layout version 3; docs/shm-layout.md lists
 * the words in tables. Names in pgck_ and PGCK_ are not for callers. */
#ifndef PAGECHECK_RING_H
#define PAGECHECK_RING_H

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if !defined(__linux__) || !defined(__LP64__)
#error "pagecheck is for 64-bit Linux"
#endif

/* How the public functions are defined. libpagecheck exports them. */
#ifndef PAGECHECK_API
#define PAGECHECK_API static inline
#endif

#define PAGECHECK_LAYOUT_VERSION 3
#define PAGECHECK_SEGMENT_MAGIC UINT64_C(0x474e495243504350) /* "PCPCRING" in memory */
#define PAGECHECK_SLOTS_MAX 1024u
#define PAGECHECK_SLOT_PAGES_MAX 65536u
#define PAGECHECK_SLOT_ALIGN                                                                       \
    128u /* two lines: the adjacent-line prefetcher must not share slots                           \
          */
#define PAGECHECK_CACHE_LINE 64u

/* A slot's request and answer words are (sequence << 8) | state; sequences start at 1. */
#define PAGECHECK_REQUEST_SUBMITTED 1u
#define PAGECHECK_ANSWER_DONE 1u
#define PAGECHECK_ANSWER_REFUSED 2u

/* How a request names its pages. */
#define PAGECHECK_PAGES_RANGE 1u   /* `count` pages from page index `first_page` */
#define PAGECHECK_PAGES_OFFSETS 2u /* `count` byte offsets in the slot's offsets array */

/* Why a worker refused a request. */
#define PAGECHECK_REFUSED_COUNT 1u
#define PAGECHECK_REFUSED_KIND 2u
#define PAGECHECK_REFUSED_BLOCK 3u
#define PAGECHECK_REFUSED_PAGES 4u

#define PAGECHECK_ASLEEP (UINT64_C(1) << 32)

/* ---- The words; integers are native-endian, no cache line has two writers, but submit's ---- */

struct pagecheck_ring_header {
    /* Written once, before any other process has the segment. */
    uint64_t magic;          /* "PCPCRING" */
    uint32_t layout_version; /* 3 */
    uint32_t header_bytes;   /* where the slots begin */
    uint64_t segment_bytes;  /* size of the whole segment */
    uint64_t generation;     /* counts the channel's replacements */
    uint32_t slot_count;     /* slots in the ring */
    uint32_t slot_pages;     /* the most pages a batch may have; a multiple of 64 */
    uint64_t slot_bytes;     /* distance between slots */
    uint64_t reserved_constant[2];
    /* Written by the submitter (the VMM of a direct channel, else the coordinator). */
    uint64_t wake_at; /* the sequence whose answer it sleeps for; UINT64_MAX: it does not sleep */
    uint64_t reserved_submitter[7];
    /* Written by the worker. */
    uint64_t asleep; /* 1 << 32 | the value of `submit` that it sleeps on; 0: it is awake */
    uint32_t done;   /* futex: incremented when the answer of wake_at is stored, and at the end */
    uint32_t reserved_worker[13];
    /* Added to by the submitter and the supervisor, and never set. */
    uint32_t submit; /* futex: incremented to wake the worker */
    /* Written by the supervisor (the service of a direct channel, else the coordinator). */
    uint32_t gone; /* 1: the worker is gone */
    uint32_t reserved_supervisor[14];
};

struct pagecheck_slot {
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

#ifdef __cplusplus
#define PAGECHECK_ASSERT(condition, text) static_assert(condition, text)
#else
#define PAGECHECK_ASSERT(condition, text) _Static_assert(condition, text)
#endif

PAGECHECK_ASSERT(sizeof(struct pagecheck_ring_header) == 256, "header is four lines");
PAGECHECK_ASSERT(offsetof(struct pagecheck_ring_header, wake_at) == 64, "one writer per line");
PAGECHECK_ASSERT(offsetof(struct pagecheck_ring_header, asleep) == 128, "one writer per line");
PAGECHECK_ASSERT(offsetof(struct pagecheck_ring_header, submit) == 192, "shared words apart");
PAGECHECK_ASSERT(sizeof(struct pagecheck_slot) == 128, "slot head is two lines");
PAGECHECK_ASSERT(offsetof(struct pagecheck_slot, answer) == 64, "one writer per line");

/* ---- Geometry ---- */

/* A mapped ring. The sizes are private copies, checked once: the segment's are never read again. */
typedef struct pgck_ring {
    struct pagecheck_ring_header *header;
    uint32_t slots;
    uint32_t slot_pages;
    uint64_t slot_bytes;
} pgck_ring;

static inline bool pgck_ring_fits(uint32_t slots, uint32_t slot_pages)
{
    return slots != 0 && slots <= PAGECHECK_SLOTS_MAX && slot_pages != 0 &&
           slot_pages <= PAGECHECK_SLOT_PAGES_MAX && slot_pages % 64u == 0;
}

static inline uint64_t pgck_slot_bytes(uint64_t slot_pages)
{
    uint64_t bytes = sizeof(struct pagecheck_slot) + slot_pages * 8u + slot_pages / 64u * 16u;
    return (bytes + PAGECHECK_SLOT_ALIGN - 1u) / PAGECHECK_SLOT_ALIGN * PAGECHECK_SLOT_ALIGN;
}

/* The header's size is a multiple of the slots' alignment. */
static inline uint64_t pgck_segment_bytes(uint64_t slots, uint64_t slot_pages)
{
    return sizeof(struct pagecheck_ring_header) + slots * pgck_slot_bytes(slot_pages);
}

/* Checks a segment's header against the size of its file. Returns a static error text, or NULL;
 * then `ring` is filled. Every word is loaded once. */
static inline const char *pgck_ring_init(struct pagecheck_ring_header *header, uint64_t file_bytes,
                                         pgck_ring *ring)
{
    uint32_t slots = __atomic_load_n(&header->slot_count, __ATOMIC_RELAXED);
    uint32_t pages = __atomic_load_n(&header->slot_pages, __ATOMIC_RELAXED);
    if (__atomic_load_n(&header->magic, __ATOMIC_RELAXED) != PAGECHECK_SEGMENT_MAGIC)
        return "not a channel segment (wrong magic)";
    if (__atomic_load_n(&header->layout_version, __ATOMIC_RELAXED) != PAGECHECK_LAYOUT_VERSION)
        return "channel segment of another layout version";
    if (!pgck_ring_fits(slots, pages))
        return "channel segment with an impossible geometry";
    uint64_t bytes = pgck_segment_bytes(slots, pages);
    if (__atomic_load_n(&header->header_bytes, __ATOMIC_RELAXED) != sizeof *header ||
        __atomic_load_n(&header->slot_bytes, __ATOMIC_RELAXED) != pgck_slot_bytes(pages) ||
        __atomic_load_n(&header->segment_bytes, __ATOMIC_RELAXED) != bytes || bytes > file_bytes)
        return "channel segment whose sizes disagree";
    ring->header = header;
    ring->slots = slots;
    ring->slot_pages = pages;
    ring->slot_bytes = pgck_slot_bytes(pages);
    return NULL;
}

static inline struct pagecheck_slot *pgck_slot(const pgck_ring *ring, uint64_t sequence)
{
    char *slots = (char *)(ring->header + 1);
    return (struct pagecheck_slot *)(void *)(slots + sequence % ring->slots * ring->slot_bytes);
}

static inline uint64_t *pgck_slot_offsets(struct pagecheck_slot *slot)
{
    return (uint64_t *)(void *)(slot + 1);
}

static inline uint64_t *pgck_slot_zero(struct pagecheck_slot *slot, uint32_t slot_pages)
{
    return pgck_slot_offsets(slot) + slot_pages;
}

static inline uint64_t *pgck_slot_decided(struct pagecheck_slot *slot, uint32_t slot_pages)
{
    return pgck_slot_zero(slot, slot_pages) + slot_pages / 64u;
}

/* ---- Time and sleep ---- */

/* Linux's numbers under names of our own: not every libc defines them without its extensions. */
#define PGCK_FUTEX_WAKE 1
#define PGCK_FUTEX_WAIT_BITSET 9
#define PGCK_FUTEX_ANY 0xffffffffu /* FUTEX_BITSET_MATCH_ANY */

/* CLOCK_MONOTONIC. */
PAGECHECK_API int64_t pagecheck_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * INT64_C(1000000000) + (int64_t)now.tv_nsec;
}

static inline void pgck_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

/* Sleeps until the word is no longer `seen`, at most until the absolute CLOCK_MONOTONIC time; a
 * past time only polls. 0, also for a spurious wake-up, -ETIMEDOUT, -EINTR or another negative
 * errno. The words are shared between processes: no call says PRIVATE. */
static inline int pgck_futex_wait(const uint32_t *word, uint32_t seen, int64_t until_ns)
{
    struct timespec until;
    if (until_ns < 0)
        until_ns = 0;
    until.tv_sec = (time_t)(until_ns / INT64_C(1000000000));
    until.tv_nsec = (long)(until_ns % INT64_C(1000000000));
    /* Of the waits, only this one takes an absolute time, on CLOCK_MONOTONIC. Source: futex(2). */
    long woken =
        syscall(SYS_futex, word, PGCK_FUTEX_WAIT_BITSET, seen, &until, NULL, PGCK_FUTEX_ANY);
    return woken == 0 || errno == EAGAIN ? 0 : -errno;
}

static inline void pgck_futex_wake(const uint32_t *word)
{
    syscall(SYS_futex, word, PGCK_FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* ---- The submitter's side ---- */

/* To be called after a store for the worker: wakes it if it sleeps. */
static inline void pgck_ring_wake_worker(struct pagecheck_ring_header *header)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with the worker's, behind asleep */
    uint32_t now = __atomic_load_n(&header->submit, __ATOMIC_RELAXED);
    /* A worker that sleeps on an older value is waking up already. */
    if (__atomic_load_n(&header->asleep, __ATOMIC_RELAXED) != (PAGECHECK_ASLEEP | now))
        return;
    __atomic_fetch_add(&header->submit, 1u, __ATOMIC_RELEASE);
    pgck_futex_wake(&header->submit);
}

/* Submits a batch, whose slot must be free: `offsets`, or without them `count` pages from `first`
 * on. No system call unless the worker sleeps. */
static inline void pgck_ring_submit(const pgck_ring *ring, uint64_t sequence, uint32_t block,
                                    uint64_t first, const uint64_t *offsets, uint32_t count)
{
    struct pagecheck_slot *slot = pgck_slot(ring, sequence);
    slot->kind = offsets != NULL ? PAGECHECK_PAGES_OFFSETS : PAGECHECK_PAGES_RANGE;
    slot->block = block;
    slot->first_page = offsets != NULL ? 0 : first;
    slot->count = count;
    if (offsets != NULL)
        memcpy(pgck_slot_offsets(slot), offsets, count * sizeof *offsets);
    /* release; pairs with the worker's acquire load, behind which it reads the rest */
    __atomic_store_n(&slot->request, sequence << 8 | PAGECHECK_REQUEST_SUBMITTED, __ATOMIC_RELEASE);
    pgck_ring_wake_worker(ring->header);
}

static inline bool pgck_ring_answered(const pgck_ring *ring, uint64_t sequence)
{
    const struct pagecheck_slot *slot = pgck_slot(ring, sequence);
    return __atomic_load_n(&slot->answer, __ATOMIC_ACQUIRE) >> 8 >= sequence;
}

static inline bool pgck_ring_gone(const pgck_ring *ring)
{
    /* acquire; pairs with the supervisor's release store */
    return __atomic_load_n(&ring->header->gone, __ATOMIC_ACQUIRE) != 0;
}

/* A slot's answer to a batch in progress. A later batch's answer, or an unknown state, is
 * invalid: nothing in that ring is trusted any more. */
typedef enum pgck_answer {
    PGCK_ANSWER_NONE,
    PGCK_ANSWER_DONE,
    PGCK_ANSWER_REFUSED,
    PGCK_ANSWER_INVALID,
} pgck_answer;

static inline pgck_answer pgck_ring_look(const pgck_ring *ring, uint64_t sequence)
{
    const struct pagecheck_slot *slot = pgck_slot(ring, sequence);
    /* acquire; pairs with the worker's release store, before which it wrote the rest */
    uint64_t answer = __atomic_load_n(&slot->answer, __ATOMIC_ACQUIRE);
    if (answer >> 8 < sequence)
        return PGCK_ANSWER_NONE;
    if (answer == (sequence << 8 | PAGECHECK_ANSWER_DONE))
        return PGCK_ANSWER_DONE;
    return answer == (sequence << 8 | PAGECHECK_ANSWER_REFUSED) ? PGCK_ANSWER_REFUSED
                                                                : PGCK_ANSWER_INVALID;
}

/* Copies the bits of a batch that is done, each word loaded once, and checks the copy. False: it
 * has a zero bit without its decided bit, or a bit past the batch: the answer is invalid. */
static inline bool pgck_ring_copy(const pgck_ring *ring, uint64_t sequence, uint32_t count,
                                  uint64_t *zero, uint64_t *decided)
{
    const uint64_t *zeros = pgck_slot_zero(pgck_slot(ring, sequence), ring->slot_pages);
    const uint64_t *decideds = zeros + ring->slot_pages / 64u;
    uint32_t words = (count + 63u) / 64u;
    uint64_t wrong = 0;
    for (uint32_t i = 0; i < words; i++) {
        zero[i] = __atomic_load_n(&zeros[i], __ATOMIC_RELAXED);
        decided[i] = __atomic_load_n(&decideds[i], __ATOMIC_RELAXED);
        wrong |= zero[i] & ~decided[i];
    }
    if (count % 64u != 0)
        wrong |= decided[words - 1] >> (count % 64u);
    return wrong == 0;
}

/* Polls for the answer without sleeping until that time. Whether there is one, or the worker is
 * gone. */
static inline bool pgck_ring_spin(const pgck_ring *ring, uint64_t sequence, int64_t until_ns)
{
    do {
        for (int i = 0; i < 64; i++) {
            if (pgck_ring_answered(ring, sequence) || pgck_ring_gone(ring))
                return true;
            pgck_relax();
        }
    } while (pagecheck_now_ns() < until_ns);
    return false;
}

/* Sleeps until the batch is answered, the worker is gone, or the time has come; as
 * pgck_futex_wait. The ring is read once more between the store of wake_at and the wait. */
static inline int pgck_ring_sleep(const pgck_ring *ring, uint64_t sequence, int64_t until_ns)
{
    struct pagecheck_ring_header *header = ring->header;
    int code = 0;
    uint32_t seen = __atomic_load_n(&header->done, __ATOMIC_ACQUIRE);
    __atomic_store_n(&header->wake_at, sequence, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with the worker's, behind answer */
    if (!pgck_ring_answered(ring, sequence) && !pgck_ring_gone(ring))
        code = pgck_futex_wait(&header->done, seen, until_ns);
    __atomic_store_n(&header->wake_at, UINT64_MAX, __ATOMIC_RELAXED);
    return code;
}

#endif
