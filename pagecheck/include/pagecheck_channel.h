/* Batches and their tickets on one ring, as a VMM's thread uses them: submit, wait a slice of time,
 * take the answer. No I/O: what a ring cannot show, that the service was killed together with its
 * workers, is detected by pagecheck_client.h, which sets `lost`. */
#ifndef PAGECHECK_CHANNEL_H
#define PAGECHECK_CHANNEL_H

#include "pagecheck_ring.h"

#include <sys/mman.h>

enum { PGCK_FREE, PGCK_OUT, PGCK_FORGOTTEN };

/* A batch in progress, recorded where the other side cannot change it. */
typedef struct pgck_batch {
    uint64_t sequence;
    uint64_t ticket;
    uint32_t count;
    int state;
} pgck_batch;

typedef struct pagecheck_channel {
    int64_t spin_ns;   /* may be set: pagecheck_wait polls this long before it sleeps */
    const char *error; /* the last failure; a static text */
    uint32_t refusal;  /* PAGECHECK_REFUSED_*, where the last wait found a refusal; else 0 */
    uint32_t id;       /* the service's number for it */
    uint32_t slots;
    uint32_t slot_pages;
    /* The rest is internal. */
    pgck_ring ring;
    size_t mapped_bytes;
    uint64_t *own;       /* see pgck_own; NULL: it is closed */
    uint64_t submitted;  /* sequence of the newest batch */
    uint64_t first;      /* where its tickets' serial numbers begin */
    uint64_t connection; /* the client's `number`; 0: it has none */
    pgck_batch *batches;
    bool lost;   /* the service hung up */
    bool broken; /* an answer was invalid: nothing is trusted any more */
    /* Its client's part. */
    int socket;        /* the client's, to see the service hang up; -1: there is none */
    int64_t looked_ns; /* when that was last checked */
    bool is_closing;   /* closing it was asked for, and not answered in time */
} pagecheck_channel;

#define PGCK_WIPEONFORK 18 /* MADV_WIPEONFORK, Linux 4.14 */

/* What the word below holds where the kernel cannot wipe it; getpid is a system call, so it is kept
 * for those kernels. */
static inline uint64_t pgck_process(void)
{
    return (uint64_t)getpid() << 1;
}

/* A word that identifies a structure's owner: 1, where a child of fork finds 0, or the process id.
 * NULL: no memory. */
static inline uint64_t *pgck_own(void)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    void *page = mmap(NULL, sizeof(uint64_t), PROT_READ | PROT_WRITE, flags, -1, 0);
    if (page == MAP_FAILED)
        return NULL;
    bool wiped = madvise(page, sizeof(uint64_t), PGCK_WIPEONFORK) == 0;
    *(uint64_t *)page = wiped ? 1 : pgck_process();
    return (uint64_t *)page;
}

static inline void pgck_disown(uint64_t **own)
{
    if (*own != NULL)
        munmap(*own, sizeof **own);
    *own = NULL;
}

/* 0 where it is open and this process's, else -ENOTCONN or -ECHILD. */
static inline int pgck_whose(const uint64_t *own)
{
    if (own == NULL)
        return -ENOTCONN;
    return *own == 1 || (*own != 0 && *own == pgck_process()) ? 0 : -ECHILD;
}

/* A number that recurs only with negligible probability; never 0. */
static inline uint64_t pgck_unique(const void *of)
{
    uint64_t number = 0;
    long got = syscall(SYS_getrandom, &number, sizeof number, 1 /* GRND_NONBLOCK */);
    if (got != (long)sizeof number)
        number = (uint64_t)pagecheck_now_ns() * UINT64_C(0x9e3779b97f4a7c15) ^ (uintptr_t)of;
    return number | 1u;
}

/* A ticket is its batch's serial number in the upper 36 bits, 12 bits of check, and in the lower 16
 * the batch's count less 1. Serial numbers begin elsewhere in every channel, so that a ticket of
 * another one, or of one that was in the same structure before, is not mistaken for ours. The check
 * bits tell whether it is a ticket at all, so that its count can be trusted; odd: none is 0. */
#define PGCK_SERIALS ((UINT64_C(1) << 36) - 1)

static inline uint64_t pgck_ticket(uint64_t serial, uint32_t count)
{
    uint64_t both = (serial & PGCK_SERIALS) << 28 | (count - 1u);
    return both | ((both * UINT64_C(0x9e3779b97f4a7c15) >> 52) | 1u) << 16;
}

/* Words of each kind that the answer has; 1, which every answer has, for what is not a ticket. */
static inline uint32_t pgck_words(uint64_t ticket)
{
    uint32_t count = (uint32_t)(ticket & 0xffffu) + 1u;
    return pgck_ticket(ticket >> 28, count) == ticket ? (count + 63u) / 64u : 1u;
}

/* What is added to the service's numbers of a connection's blocks. Those begin at 0 in each; so a
 * number from before a reconnection, or from another connection, is not that of a block here. It
 * leaves the upper half free: no number becomes UINT32_MAX. 0: there is no connection. */
static inline uint32_t pgck_base(uint64_t connection)
{
    return (uint32_t)(connection >> 33);
}

static inline int pgck_say(pagecheck_channel *channel, int code, const char *text)
{
    channel->error = text;
    return code;
}

static inline bool pgck_gone(const pagecheck_channel *channel)
{
    return channel->lost || pgck_ring_gone(&channel->ring);
}

/* 0, or why the channel cannot be used here. */
static inline int pgck_usable(pagecheck_channel *channel)
{
    int code = pgck_whose(channel->own);
    if (code == 0)
        return 0;
    return pgck_say(channel, code,
                    code == -ECHILD ? "the channel is the parent process's; open one here"
                                    : "the channel is not open");
}

#define PGCK_GONE "the worker is gone; open another channel, or connect again"
#define PGCK_INVALID "an answer was invalid; open another channel"

/* Whether the slot whose turn it is can be used: 0, -EAGAIN, -ECONNRESET, -EPROTO. */
static inline int pgck_room(pagecheck_channel *channel)
{
    pgck_batch *batch = &channel->batches[(channel->submitted + 1) % channel->ring.slots];
    if (channel->broken)
        return pgck_say(channel, -EPROTO, PGCK_INVALID);
    if (pgck_gone(channel))
        return pgck_say(channel, -ECONNRESET, PGCK_GONE);
    if (batch->state == PGCK_FORGOTTEN && pgck_ring_answered(&channel->ring, batch->sequence))
        batch->state = PGCK_FREE;
    if (batch->state != PGCK_FREE)
        return pgck_say(channel, -EAGAIN, "every slot is in use");
    return 0;
}

/* Submits `offsets`, or without them `count` pages from `first` on. */
static inline int pgck_submit(pagecheck_channel *channel, uint32_t block, uint64_t first,
                              const uint64_t *offsets, uint32_t count, uint64_t *ticket)
{
    *ticket = 0; /* no batch's */
    int code = pgck_usable(channel);
    if (code != 0)
        return code;
    if (count == 0 || count > channel->ring.slot_pages)
        return pgck_say(channel, -EINVAL, "no pages, or more than slot_pages");
    code = pgck_room(channel);
    if (code != 0)
        return code;
    uint64_t sequence = ++channel->submitted;
    pgck_batch batch = {sequence, pgck_ticket(channel->first + sequence, count), count, PGCK_OUT};
    channel->batches[sequence % channel->ring.slots] = batch;
    pgck_ring_submit(&channel->ring, sequence, block - pgck_base(channel->connection), first,
                     offsets, count);
    *ticket = batch.ticket;
    return 0;
}

static inline int pgck_refused(pagecheck_channel *channel, uint32_t refusal)
{
    static const char *const texts[] = {
        "refused for an unknown reason",
        "refused: no pages, or too many",
        "refused: neither a range nor offsets",
        "refused: no such block",
        "refused: a page is misaligned or outside its block",
    };
    channel->refusal = refusal;
    return pgck_say(channel, -EPROTO, texts[refusal <= PAGECHECK_REFUSED_PAGES ? refusal : 0]);
}

static inline void pgck_clear(uint64_t ticket, uint64_t *zero, uint64_t *decided)
{
    size_t bytes = pgck_words(ticket) * sizeof *zero;
    memset(zero, 0, bytes);
    memset(decided, 0, bytes);
}

/* 0: the answer is taken; -EAGAIN: not yet; -EPROTO. */
static inline int pgck_take(pagecheck_channel *channel, pgck_batch *batch, uint64_t *zero,
                            uint64_t *decided)
{
    pgck_answer answer = pgck_ring_look(&channel->ring, batch->sequence);
    if (answer == PGCK_ANSWER_NONE)
        return -EAGAIN;
    if (answer == PGCK_ANSWER_REFUSED) {
        batch->state = PGCK_FREE;
        const struct pagecheck_slot *slot = pgck_slot(&channel->ring, batch->sequence);
        return pgck_refused(channel, __atomic_load_n(&slot->refusal, __ATOMIC_RELAXED));
    }
    if (answer != PGCK_ANSWER_DONE ||
        !pgck_ring_copy(&channel->ring, batch->sequence, batch->count, zero, decided)) {
        pgck_clear(batch->ticket, zero, decided);
        channel->broken = true;
        return pgck_say(channel, -EPROTO, PGCK_INVALID);
    }
    batch->state = PGCK_FREE;
    return 0;
}

/* That long from now, but no later than the deadline. */
static inline int64_t pgck_until(int64_t ns, int64_t deadline_ns)
{
    int64_t now = pagecheck_now_ns();
    return ns < deadline_ns - now ? now + ns : deadline_ns;
}

/* Returns when it is time to check again: 0; -EAGAIN, a slice has passed; or a negative errno when
 * it cannot sleep. */
static inline int pgck_sleep(const pagecheck_channel *channel, uint64_t sequence,
                             int64_t deadline_ns, int64_t slice_ns)
{
    int64_t spin_ns = channel->spin_ns < slice_ns ? channel->spin_ns : slice_ns;
    if (spin_ns > 0 && pgck_ring_spin(&channel->ring, sequence, pgck_until(spin_ns, deadline_ns)))
        return 0;
    int code = pgck_ring_sleep(&channel->ring, sequence, pgck_until(slice_ns, deadline_ns));
    if (code == -EINTR) /* signals do not end a wait */
        return 0;
    return code == -ETIMEDOUT ? -EAGAIN : code;
}

/* Takes a batch's answer, as pagecheck_wait does, but returns -EAGAIN when it has slept for
 * `slice_ns`, so that the caller can check whether the service still runs. */
static inline int pgck_wait_slice(pagecheck_channel *channel, pgck_batch *batch,
                                  int64_t deadline_ns, int64_t slice_ns, uint64_t *zero,
                                  uint64_t *decided)
{
    for (;;) {
        bool gone = pgck_gone(channel); /* read first: what was answered before that counts */
        int code = pgck_take(channel, batch, zero, decided);
        if (code != -EAGAIN)
            return code;
        if (gone)
            return pgck_say(channel, -ECONNRESET, PGCK_GONE);
        if (deadline_ns <= 0 || pagecheck_now_ns() >= deadline_ns)
            return pgck_say(channel, -ETIMEDOUT, "no answer yet");
        code = pgck_sleep(channel, batch->sequence, deadline_ns, slice_ns);
        if (code == -EAGAIN)
            return code;
        if (code != 0)
            return pgck_say(channel, code, "cannot sleep on a futex");
    }
}

static inline pgck_batch *pgck_find(pagecheck_channel *channel, uint64_t ticket)
{
    /* How many batches were submitted after it. */
    uint64_t since = (channel->first + channel->submitted - (ticket >> 28)) & PGCK_SERIALS;
    pgck_batch *batch = &channel->batches[(channel->submitted - since) % channel->ring.slots];
    if (batch->ticket == ticket && batch->state == PGCK_OUT)
        return batch;
    channel->error = "no batch in progress has this ticket";
    return NULL;
}

/* Abandons a ticket; its slot is used again once its answer is there. 0 or -EINVAL. */
PAGECHECK_API int pagecheck_forget(pagecheck_channel *channel, uint64_t ticket)
{
    int code = pgck_usable(channel);
    pgck_batch *batch = code == 0 ? pgck_find(channel, ticket) : NULL;
    if (batch == NULL)
        return code != 0 ? code : -EINVAL;
    batch->state = PGCK_FORGOTTEN;
    return 0;
}

/* Sorts a batch's offsets into `out`, another array: normal and undecided pages first, then zero
 * pages, each in their order. Returns how many are not zero. */
PAGECHECK_API uint32_t pagecheck_partition(const uint64_t *offsets, const uint64_t *zero,
                                           const uint64_t *decided, uint32_t count, uint64_t *out)
{
    uint32_t normal = count;
    for (uint64_t i = 0; i < count; i += 64) { /* 32 bits would never pass the highest count */
        uint64_t inside = count - i < 64 ? (UINT64_C(1) << (count - i)) - 1 : UINT64_MAX;
        normal -= (uint32_t)__builtin_popcountll(zero[i / 64] & decided[i / 64] & inside);
    }
    uint32_t next_normal = 0, next_zero = normal;
    for (uint32_t i = 0; i < count; i++) { /* no branch: zero pages follow no pattern */
        uint32_t is_zero = (uint32_t)((zero[i / 64] & decided[i / 64]) >> (i % 64) & 1u);
        out[is_zero ? next_zero : next_normal] = offsets[i];
        next_zero += is_zero;
        next_normal += 1u - is_zero;
    }
    return normal;
}

#endif
