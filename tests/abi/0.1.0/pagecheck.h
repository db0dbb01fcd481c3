/* pagecheck for VMM authors: which pages of a batch are zero, asked of `pagecheck serve`.
 *
 * One self-contained header for C11 and C++11 on 64-bit Linux; compile C with -D_GNU_SOURCE or
 * -D_DEFAULT_SOURCE. A Unix socket sets things up; a batch then costs stores into shared memory,
 * and a system call only where somebody sleeps:
 *
 *     pagecheck_client client;
 *     pagecheck_channel channel; // one per sender thread
 *     pagecheck_channel_options options = {16, 128, 0};
 *     uint64_t zero[2], decided[2], ticket; // (128 + 63) / 64 words
 *     int64_t soon = pagecheck_now_ns() + 1000000000;
 *     uint32_t block;
 *     if (pagecheck_connect("/run/pagecheck.sock", soon, &client) != 0 ||
 *         pagecheck_attach(&client, "pc.ram", ram_fd, 4096, NULL, 0, soon, &block) != 0 ||
 *         pagecheck_open_channel(&client, &options, soon, &channel) != 0)
 *         return check_myself(client.error);
 *     // For each packet; up to 16 may be out at a time.
 *     int code = pagecheck_submit(&channel, block, offsets, 128, &ticket);
 *     if (code == 0)
 *         code = pagecheck_wait(&channel, ticket, pagecheck_now_ns() + 100000000, zero, decided);
 *     if (code == -ETIMEDOUT)
 *         pagecheck_forget(&channel, ticket); // a ticket that is lost holds its slot for ever
 *     if (code != 0)
 *         check_myself(channel.error);
 *     else
 *         normal = pagecheck_partition(offsets, zero, decided, 128, sorted);
 *     // sorted[0 .. normal - 1] are sent in full, the others as zero.
 *     pagecheck_close_channel(&client, &channel, soon);
 *     pagecheck_disconnect(&client);
 *
 * Danger: a page wrongly called zero loses a guest's memory.
 * - Only a zero bit says zero. Neither bit is undecided, and undecided pages are normal.
 * - While the guest runs an answer is a hint: the page may have been written since. Look for dirty
 *   pages after the answer, as after a check of your own.
 * - The service can vanish at any time. Every call returns 0 or a negative errno; after a failure
 *   no page is zero and the VMM checks for itself.
 *
 * Threads: a client is used by one thread at a time, and so is a channel; channels are independent
 * of each other and, but for opening and closing, of the client. No thread or signal is used here.
 *
 * fork: clients and channels belong to the process that made them. In its child every call on them
 * fails with -ECHILD and changes nothing; closing them there gives the child's copies back and
 * leaves the parent's alone. Until a child closes its copies the service does not see the parent
 * die. (Before Linux 4.14 this costs every call a getpid.) A zeroed structure is one that is
 * closed.
 *
 * Times: deadlines are absolute CLOCK_MONOTONIC nanoseconds; to pagecheck_wait 0 means: only look.
 *
 * Versions: pagecheck_connect fails with -EPROTONOSUPPORT, naming both sides' versions, unless the
 * service speaks PAGECHECK_PROTOCOL and, among others, the layout PAGECHECK_LAYOUT_VERSION. Either
 * number rises with every change that an older header could not live with; docs/vmm-authors.md says
 * what stays compatible. Names in pgck_ and PGCK_ are the header's own.
 */
#ifndef PAGECHECK_H
#define PAGECHECK_H

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#if !defined(__linux__) || !defined(__LP64__)
#error "pagecheck.h is for 64-bit Linux"
#endif

/* How the functions are defined. libpagecheck, which is made from this header, exports them. */
#ifndef PAGECHECK_API
#define PAGECHECK_API static inline
#endif

#define PAGECHECK_PROTOCOL 1u
#define PAGECHECK_LAYOUT_VERSION 3
#define PGCK_TEXT(number) PGCK_TEXT_OF(number)
#define PGCK_TEXT_OF(number) #number

/* ---- The ring: docs/shm-layout.md, version 3 ---- */

#define PAGECHECK_SEGMENT_MAGIC UINT64_C(0x474e495243504350) /* "PCPCRING" in memory */
#define PAGECHECK_SLOTS_MAX 1024u
#define PAGECHECK_SLOT_PAGES_MAX 65536u
#define PAGECHECK_SLOT_ALIGN 128u

/* A slot's request and answer words are (sequence << 8) | state; sequences start at 1. */
#define PAGECHECK_REQUEST_SUBMITTED 1u
#define PAGECHECK_ANSWER_DONE 1u
#define PAGECHECK_ANSWER_REFUSED 2u

#define PAGECHECK_PAGES_RANGE 1u   /* `count` pages from page index `first_page` */
#define PAGECHECK_PAGES_OFFSETS 2u /* `count` byte offsets in the slot's offsets array */
#define PAGECHECK_REFUSED_COUNT 1u
#define PAGECHECK_REFUSED_KIND 2u
#define PAGECHECK_REFUSED_BLOCK 3u
#define PAGECHECK_REFUSED_PAGES 4u

#define PAGECHECK_ASLEEP (UINT64_C(1) << 32)

/* Four cache lines, each written by one side; integers are native-endian. */
struct pagecheck_ring_header {
    /* Written once, before anybody else has the segment. */
    uint64_t magic;
    uint32_t layout_version;
    uint32_t header_bytes;
    uint64_t segment_bytes;
    uint64_t generation;
    uint32_t slot_count;
    uint32_t slot_pages; /* the most pages a batch may have; a multiple of 64 */
    uint64_t slot_bytes;
    uint64_t reserved_constant[2];
    /* Written by the VMM. */
    uint64_t wake_at; /* the sequence whose answer it sleeps for; UINT64_MAX: it does not sleep */
    uint64_t reserved_submitter[7];
    /* Written by the worker. */
    uint64_t asleep; /* 1 << 32 | the value of `submit` that it sleeps on; 0: it is awake */
    uint32_t done;   /* futex: raised by one when the answer of wake_at is there; at its end too */
    uint32_t reserved_worker[13];
    /* Raised by the VMM and by the service, and only ever added to. */
    uint32_t submit; /* futex: raised by one when the worker is to look */
    /* Written by the service. */
    uint32_t gone; /* 1: nobody answers any more */
    uint32_t reserved_supervisor[14];
};

struct pagecheck_slot {
    /* Written by the VMM; `request` last, with release. */
    uint64_t request;
    uint32_t kind;
    uint32_t block;
    uint64_t first_page;
    uint32_t count;
    uint32_t reserved_submitter[9];
    /* Written by the worker; `answer` last, with release. */
    uint64_t answer;
    uint32_t refusal;
    uint32_t reserved_worker[13];
    /* Then: uint64_t offsets[slot_pages], by the VMM;
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

/* ---- What the caller holds ---- */

typedef struct pagecheck_client {
    char error[256]; /* what the last failure was, with the service's class and text */
    /* The rest is the header's own. */
    uint64_t *own; /* see pgck_own; NULL: it is closed */
    int socket;
    bool cut;           /* a descriptor was lost: this process had no room for it */
    int passed;         /* a descriptor that came and was not claimed, or -1 */
    size_t passed_at;   /* where in `line` the line begins that it came with */
    int failed;         /* why the connection cannot be used any more, a negative errno; or 0 */
    bool names_layouts; /* the service takes `layouts` of open-channel */
    bool is_mid_line;   /* a request was sent in part: no other one can follow it */
    uint32_t looks;     /* reads that are left once a deadline has passed */
    uint64_t number;    /* of this connection; no other one has it */
    uint64_t requests;
    char *line;           /* what came, from malloc */
    size_t room;          /* bytes of `line` */
    size_t filled, taken; /* those that came, and of them the last line's */
} pagecheck_client;

/* A part of the block as the guest and the VMM see it; all in bytes. */
typedef struct pagecheck_region {
    uint64_t guest_phys_addr;
    uint64_t memory_size;
    uint64_t userspace_addr;
    uint64_t mmap_offset; /* of its first byte, in the file */
} pagecheck_region;

typedef struct pagecheck_channel_options {
    uint32_t slots;      /* batches that can be out at a time */
    uint32_t slot_pages; /* the most pages of a batch, a multiple of 64 */
    uint32_t spin_us;    /* the worker looks this long before it sleeps; burns its CPU */
} pagecheck_channel_options;

enum { PGCK_FREE, PGCK_OUT, PGCK_FORGOTTEN };

/* A batch that is out, remembered where the other side cannot change it. */
typedef struct pgck_batch {
    uint64_t sequence;
    uint64_t ticket;
    uint32_t count;
    int state;
} pgck_batch;

typedef struct pagecheck_channel {
    int64_t spin_ns;   /* may be set: pagecheck_wait looks this long before it sleeps */
    const char *error; /* what the last failure was; a static text */
    uint32_t refusal;  /* PAGECHECK_REFUSED_*, where the last wait found a refusal; else 0 */
    uint32_t id;       /* the service's number for it */
    uint32_t slots;
    uint32_t slot_pages;
    /* The rest is the header's own. */
    struct pagecheck_ring_header *header;
    uint64_t *own;     /* see pgck_own; NULL: it is closed */
    int64_t looked_ns; /* when we last looked whether the service hung up */
    size_t mapped_bytes;
    uint64_t slot_bytes;
    uint64_t submitted;  /* sequence of the newest batch */
    uint64_t first;      /* where its tickets' serial numbers begin */
    uint64_t connection; /* the client's `number`; 0: it has none */
    pgck_batch *batches;
    int socket;      /* the client's, to see the service hang up; -1: there is none */
    bool lost;       /* the service hung up */
    bool is_closing; /* closing it was asked for, and not answered in time */
    bool broken;     /* an answer made no sense: nothing is believed any more */
} pagecheck_channel;

/* ---- Batches ----
 *
 * The slots hold the truth; the futex words only wake. Who goes to sleep says so, fences, and looks
 * once more; who has something to say stores it, fences, and looks who sleeps. One of the two sees
 * the other:
 *
 *     this header                             the worker
 *     store request (release), fence,         store asleep, fence,
 *         read asleep and submit                  read request (acquire)
 *     store wake_at, fence,                   store answer (release), fence,
 *         read answer and gone (acquire)          read wake_at
 *
 * The service stores gone (release) before it raises done: who saw done raised sees gone. */

/* A sleeper looks this often whether the service hung up: a service that was killed together with
 * its workers raises no word. */
#define PGCK_LOOK_NS INT64_C(100000000)

/* Linux's numbers under names of our own: not every libc has them without its extensions. */
#define PGCK_FUTEX_WAKE 1
#define PGCK_FUTEX_WAIT_BITSET 9
#define PGCK_FUTEX_ANY 0xffffffffu /* FUTEX_BITSET_MATCH_ANY */
#define PGCK_GET_SEALS 1034        /* F_GET_SEALS */
#define PGCK_SEALS 7               /* F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW */

/* CLOCK_MONOTONIC. */
PAGECHECK_API int64_t pagecheck_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * INT64_C(1000000000) + (int64_t)now.tv_nsec;
}

#define PGCK_WIPEONFORK 18 /* MADV_WIPEONFORK, Linux 4.14 */

/* What the word below holds where the kernel cannot wipe it; getpid is a system call, so it is kept
 * for those kernels. */
static inline uint64_t pgck_process(void)
{
    return (uint64_t)getpid() << 1;
}

/* A word that tells whose a structure is: 1, where a child of fork finds 0 instead, or the process.
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

/* A number that is met again by an improbable accident only; never 0. */
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
 * another one, or of one that was in the same structure before, is not taken for ours. The check
 * tells whether it is a ticket at all, and its count can be believed; it is odd: none is 0. */
#define PGCK_SERIALS ((UINT64_C(1) << 36) - 1)

static inline uint64_t pgck_ticket(uint64_t serial, uint32_t count)
{
    uint64_t both = (serial & PGCK_SERIALS) << 28 | (count - 1u);
    return both | ((both * UINT64_C(0x9e3779b97f4a7c15) >> 52) | 1u) << 16;
}

/* Words of each kind that the answer has; 1, which every answer has, for what is no ticket. */
static inline uint32_t pgck_words(uint64_t ticket)
{
    uint32_t count = (uint32_t)(ticket & 0xffffu) + 1u;
    return pgck_ticket(ticket >> 28, count) == ticket ? (count + 63u) / 64u : 1u;
}

/* What is added to the service's numbers of a connection's blocks. Those begin at 0 in each; so a
 * number from before connecting again, or from a connection beside, is no block's here. It leaves
 * the upper half free: no number becomes UINT32_MAX. 0: there is no connection. */
static inline uint32_t pgck_base(uint64_t connection)
{
    return (uint32_t)(connection >> 33);
}

static inline void pgck_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

static inline int pgck_say(pagecheck_channel *channel, int code, const char *text)
{
    channel->error = text;
    return code;
}

static inline struct pagecheck_slot *pgck_slot(const pagecheck_channel *channel, uint64_t sequence)
{
    char *slots = (char *)(channel->header + 1);
    uint64_t at = sequence % channel->slots * channel->slot_bytes;
    return (struct pagecheck_slot *)(void *)(slots + at);
}

static inline uint64_t *pgck_offsets(struct pagecheck_slot *slot)
{
    return (uint64_t *)(void *)(slot + 1);
}

static inline bool pgck_answered(const pagecheck_channel *channel, uint64_t sequence)
{
    const struct pagecheck_slot *slot = pgck_slot(channel, sequence);
    return __atomic_load_n(&slot->answer, __ATOMIC_ACQUIRE) >> 8 >= sequence;
}

static inline bool pgck_gone(const pagecheck_channel *channel)
{
    return channel->lost || __atomic_load_n(&channel->header->gone, __ATOMIC_ACQUIRE) != 0;
}

/* The futex words are shared between processes: no call says PRIVATE. */
static inline void pgck_wake_worker(struct pagecheck_ring_header *header)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with the worker's, behind asleep */
    uint32_t now = __atomic_load_n(&header->submit, __ATOMIC_RELAXED);
    /* A worker that sleeps on an older value is on its way already. */
    if (__atomic_load_n(&header->asleep, __ATOMIC_RELAXED) != (PAGECHECK_ASLEEP | now))
        return;
    __atomic_fetch_add(&header->submit, 1u, __ATOMIC_RELEASE);
    syscall(SYS_futex, &header->submit, PGCK_FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* 0, which promises nothing, or a negative errno. */
static inline int pgck_futex_wait(const uint32_t *word, uint32_t seen, int64_t deadline_ns)
{
    struct timespec until;
    until.tv_sec = (time_t)(deadline_ns / INT64_C(1000000000));
    until.tv_nsec = (long)(deadline_ns % INT64_C(1000000000));
    /* Of the waits, only this one takes an absolute time, on CLOCK_MONOTONIC. Source: futex(2). */
    long woken =
        syscall(SYS_futex, word, PGCK_FUTEX_WAIT_BITSET, seen, &until, NULL, PGCK_FUTEX_ANY);
    return woken == 0 || errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

static inline bool pgck_hung_up(int fd)
{
    struct pollfd at = {fd, 0, 0};
    return fd >= 0 && poll(&at, 1, 0) > 0 && (at.revents & (POLLHUP | POLLERR)) != 0;
}

/* 0, or why nothing can be done with the channel here. */
static inline int pgck_usable(pagecheck_channel *channel)
{
    int code = pgck_whose(channel->own);
    if (code == 0)
        return 0;
    return pgck_say(channel, code,
                    code == -ECHILD ? "the channel is the parent process's; open one here"
                                    : "the channel is not open");
}

/* For who only polls: a service that was killed together with its workers raises no word, so its
 * socket is looked at, ten times a second at most. */
static inline void pgck_look(pagecheck_channel *channel)
{
    int64_t now = pagecheck_now_ns();
    if (channel->socket < 0 || now - channel->looked_ns < PGCK_LOOK_NS)
        return;
    channel->looked_ns = now;
    channel->lost = channel->lost || pgck_hung_up(channel->socket);
}

#define PGCK_NOBODY "nobody answers any more; open another channel, or connect again"
#define PGCK_SAID_NONSENSE "an answer made no sense; open another channel"

/* Whether the slot whose turn it is can be used: 0, -EAGAIN, -ECONNRESET, -EPROTO. */
static inline int pgck_room(pagecheck_channel *channel)
{
    pgck_batch *batch = &channel->batches[(channel->submitted + 1) % channel->slots];
    if (channel->broken)
        return pgck_say(channel, -EPROTO, PGCK_SAID_NONSENSE);
    if (pgck_gone(channel))
        return pgck_say(channel, -ECONNRESET, PGCK_NOBODY);
    if (batch->state == PGCK_FORGOTTEN && pgck_answered(channel, batch->sequence))
        batch->state = PGCK_FREE;
    if (batch->state != PGCK_FREE)
        return pgck_say(channel, -EAGAIN, "every slot is in use");
    return 0;
}

/* The pages are `offsets`, or without them `count` pages from `first` on. */
static inline int pgck_submit(pagecheck_channel *channel, uint32_t block, uint64_t first,
                              const uint64_t *offsets, uint32_t count, uint64_t *ticket)
{
    *ticket = 0; /* no batch's */
    int code = pgck_usable(channel);
    if (code != 0)
        return code;
    if (count == 0 || count > channel->slot_pages)
        return pgck_say(channel, -EINVAL, "no pages, or more than slot_pages");
    code = pgck_room(channel);
    if (code == -EAGAIN) {
        pgck_look(channel);
        code = pgck_room(channel);
    }
    if (code != 0)
        return code;
    uint64_t sequence = ++channel->submitted;
    struct pagecheck_slot *slot = pgck_slot(channel, sequence);
    pgck_batch batch = {sequence, pgck_ticket(channel->first + sequence, count), count, PGCK_OUT};
    channel->batches[sequence % channel->slots] = batch;
    slot->kind = offsets != NULL ? PAGECHECK_PAGES_OFFSETS : PAGECHECK_PAGES_RANGE;
    slot->block = block - pgck_base(channel->connection);
    slot->first_page = first;
    slot->count = count;
    if (offsets != NULL)
        memcpy(pgck_offsets(slot), offsets, count * sizeof *offsets);
    /* release; pairs with the worker's acquire load, behind which it reads the rest */
    __atomic_store_n(&slot->request, sequence << 8 | PAGECHECK_REQUEST_SUBMITTED, __ATOMIC_RELEASE);
    pgck_wake_worker(channel->header);
    *ticket = batch.ticket;
    return 0;
}

/* Gives a batch out: `count` pages at byte offsets in the block.
 * -EINVAL: `count` is 0 or more than slot_pages. -EAGAIN: the slot whose turn it is has a ticket
 * that was not taken, or a forgotten one without its answer; slots are used in turn, so waiting for
 * the oldest ticket helps, and forgetting it when its answer may be late. -ECONNRESET and -EPROTO
 * as of pagecheck_wait. After a failure `ticket` is 0, which is nobody's. */
PAGECHECK_API int pagecheck_submit(pagecheck_channel *channel, uint32_t block,
                                   const uint64_t *offsets, uint32_t count, uint64_t *ticket)
{
    /* Without offsets it would be a range. */
    return pgck_submit(channel, block, 0, offsets, offsets != NULL ? count : 0, ticket);
}

/* The same for `count` pages from page index `first_page` on. */
PAGECHECK_API int pagecheck_submit_range(pagecheck_channel *channel, uint32_t block,
                                         uint64_t first_page, uint32_t count, uint64_t *ticket)
{
    return pgck_submit(channel, block, first_page, NULL, count, ticket);
}

static inline int pgck_refused(pagecheck_channel *channel, uint32_t refusal)
{
    static const char *const texts[] = {
        "refused for no known reason",
        "refused: no pages, or too many",
        "refused: neither a range nor offsets",
        "refused: no such block",
        "refused: a page is misaligned or outside its block",
    };
    channel->refusal = refusal;
    return pgck_say(channel, -EPROTO, texts[refusal <= PAGECHECK_REFUSED_PAGES ? refusal : 0]);
}

/* Copies the bits, each word loaded once, and checks the copy: a zero bit without its decided bit
 * or a bit past the batch is no answer. */
static inline bool pgck_copy(const pagecheck_channel *channel, const pgck_batch *batch,
                             uint64_t *zero, uint64_t *decided)
{
    const uint64_t *from = pgck_offsets(pgck_slot(channel, batch->sequence)) + channel->slot_pages;
    uint32_t words = (batch->count + 63u) / 64u;
    uint64_t wrong = 0;
    for (uint32_t i = 0; i < words; i++) {
        zero[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
        decided[i] = __atomic_load_n(&from[channel->slot_pages / 64u + i], __ATOMIC_RELAXED);
        wrong |= zero[i] & ~decided[i];
    }
    if (batch->count % 64u != 0)
        wrong |= decided[words - 1] >> (batch->count % 64u);
    return wrong == 0;
}

static inline void pgck_clear(uint64_t ticket, uint64_t *zero, uint64_t *decided)
{
    size_t bytes = pgck_words(ticket) * sizeof *zero;
    memset(zero, 0, bytes);
    memset(decided, 0, bytes);
}

/* 0: the answer is taken; -EAGAIN: there is none yet; -EPROTO. */
static inline int pgck_take(pagecheck_channel *channel, pgck_batch *batch, uint64_t *zero,
                            uint64_t *decided)
{
    struct pagecheck_slot *slot = pgck_slot(channel, batch->sequence);
    /* acquire; pairs with the worker's release store, before which it wrote the rest */
    uint64_t answer = __atomic_load_n(&slot->answer, __ATOMIC_ACQUIRE);
    if (answer >> 8 < batch->sequence)
        return -EAGAIN;
    if (answer == (batch->sequence << 8 | PAGECHECK_ANSWER_REFUSED)) {
        batch->state = PGCK_FREE;
        return pgck_refused(channel, __atomic_load_n(&slot->refusal, __ATOMIC_RELAXED));
    }
    if (answer != (batch->sequence << 8 | PAGECHECK_ANSWER_DONE) ||
        !pgck_copy(channel, batch, zero, decided)) {
        pgck_clear(batch->ticket, zero, decided);
        channel->broken = true;
        return pgck_say(channel, -EPROTO, PGCK_SAID_NONSENSE);
    }
    batch->state = PGCK_FREE;
    return 0;
}

/* Looks for the answer without sleeping, for a bounded time. */
static inline bool pgck_spin(const pagecheck_channel *channel, uint64_t sequence,
                             int64_t deadline_ns)
{
    /* No longer: sleepers look whether the service hung up. */
    int64_t spin_ns = channel->spin_ns < PGCK_LOOK_NS ? channel->spin_ns : PGCK_LOOK_NS;
    int64_t until_ns = pagecheck_now_ns() + spin_ns;
    do {
        for (int i = 0; i < 64; i++) {
            if (pgck_answered(channel, sequence) || pgck_gone(channel))
                return true;
            pgck_relax();
        }
    } while (pagecheck_now_ns() < (until_ns < deadline_ns ? until_ns : deadline_ns));
    return false;
}

/* Returns when it is time to look again: 0, or a negative errno when it cannot sleep. */
static inline int pgck_sleep(pagecheck_channel *channel, uint64_t sequence, int64_t deadline_ns)
{
    struct pagecheck_ring_header *header = channel->header;
    if (channel->spin_ns > 0 && pgck_spin(channel, sequence, deadline_ns))
        return 0;
    int64_t until_ns = pagecheck_now_ns() + PGCK_LOOK_NS;
    int code = 0;
    if (until_ns > deadline_ns || channel->socket < 0)
        until_ns = deadline_ns;
    uint32_t seen = __atomic_load_n(&header->done, __ATOMIC_ACQUIRE);
    __atomic_store_n(&header->wake_at, sequence, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with the worker's, behind answer */
    if (!pgck_answered(channel, sequence) && !pgck_gone(channel))
        code = pgck_futex_wait(&header->done, seen, until_ns);
    __atomic_store_n(&header->wake_at, UINT64_MAX, __ATOMIC_RELAXED);
    if (code != -ETIMEDOUT)
        return code;
    channel->lost = pgck_hung_up(channel->socket);
    return 0;
}

static inline pgck_batch *pgck_find(pagecheck_channel *channel, uint64_t ticket)
{
    /* How many batches were given out after it. */
    uint64_t since = (channel->first + channel->submitted - (ticket >> 28)) & PGCK_SERIALS;
    pgck_batch *batch = &channel->batches[(channel->submitted - since) % channel->slots];
    if (batch->ticket == ticket && batch->state == PGCK_OUT)
        return batch;
    channel->error = "no such ticket is out";
    return NULL;
}

/* Takes a batch's answer; tickets in any order, each once. `zero` and `decided` have
 * (count + 63) / 64 words, bit i % 64 of word i / 64 is page i; they are 0 after a failure.
 * -ETIMEDOUT: not yet; the ticket can be waited for again, or forgotten. -ECONNRESET: nobody
 * answers any more. -EPROTO: the batch was refused (channel->refusal is not 0, the ticket is used
 * up), or an answer made no sense and the channel is good for nothing. -EINVAL: no such ticket is
 * out: it was taken or forgotten, or is another channel's; the words are 0 all the same, so that
 * what they held is not taken for an answer, but of what never was a ticket only the first of each.
 * Signals do not end the wait. */
PAGECHECK_API int pagecheck_wait(pagecheck_channel *channel, uint64_t ticket, int64_t deadline_ns,
                                 uint64_t *zero, uint64_t *decided)
{
    channel->refusal = 0;
    int unusable = pgck_usable(channel);
    pgck_batch *batch = unusable == 0 ? pgck_find(channel, ticket) : NULL;
    pgck_clear(ticket, zero, decided);
    if (batch == NULL)
        return unusable != 0 ? unusable : -EINVAL;
    if (channel->broken)
        return pgck_say(channel, -EPROTO, PGCK_SAID_NONSENSE);
    for (;;) {
        bool gone = pgck_gone(channel); /* read first: what was answered before that counts */
        int code = pgck_take(channel, batch, zero, decided);
        if (code != -EAGAIN)
            return code;
        if (gone)
            return pgck_say(channel, -ECONNRESET, PGCK_NOBODY);
        if (deadline_ns <= 0 || pagecheck_now_ns() >= deadline_ns) {
            pgck_look(channel);
            if (!channel->lost)
                return pgck_say(channel, -ETIMEDOUT, "no answer yet");
            continue; /* what was answered before the end counts */
        }
        code = pgck_sleep(channel, batch->sequence, deadline_ns);
        if (code != 0)
            return pgck_say(channel, code, "cannot sleep on a futex");
    }
}

/* Gives a ticket up; its slot is used again once its answer is there. 0 or -EINVAL. */
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
    for (uint32_t i = 0; i < count; i++) { /* no branch: which pages are zero has no pattern */
        uint32_t is_zero = (uint32_t)((zero[i / 64] & decided[i / 64]) >> (i % 64) & 1u);
        out[is_zero ? next_zero : next_normal] = offsets[i];
        next_zero += is_zero;
        next_normal += 1u - is_zero;
    }
    return normal;
}

/* ---- The segment ---- */

/* May be called twice, and on a zeroed structure. */
PAGECHECK_API void pagecheck_channel_unmap(pagecheck_channel *channel)
{
    if (channel->own == NULL)
        return;
    pgck_disown(&channel->own);
    if (channel->header != NULL)
        munmap(channel->header, channel->mapped_bytes);
    if (channel->socket >= 0)
        close(channel->socket);
    free(channel->batches);
    channel->header = NULL;
    channel->batches = NULL;
    channel->socket = -1;
}

/* A static text that says what is wrong, or NULL. Every word is loaded once. */
static inline const char *pgck_geometry(pagecheck_channel *channel, uint64_t file_bytes)
{
    struct pagecheck_ring_header *header = channel->header;
    uint32_t slots = __atomic_load_n(&header->slot_count, __ATOMIC_RELAXED);
    uint32_t pages = __atomic_load_n(&header->slot_pages, __ATOMIC_RELAXED);
    if (__atomic_load_n(&header->magic, __ATOMIC_RELAXED) != PAGECHECK_SEGMENT_MAGIC)
        return "no channel segment (wrong magic)";
    if (__atomic_load_n(&header->layout_version, __ATOMIC_RELAXED) != PAGECHECK_LAYOUT_VERSION)
        return "channel segment of another layout version";
    if (slots == 0 || slots > PAGECHECK_SLOTS_MAX || pages == 0 ||
        pages > PAGECHECK_SLOT_PAGES_MAX || pages % 64u != 0)
        return "channel segment with an impossible geometry";
    uint64_t slot_bytes = sizeof(struct pagecheck_slot) + pages * UINT64_C(8) + pages / 64u * 16u;
    slot_bytes = (slot_bytes + PAGECHECK_SLOT_ALIGN - 1) / PAGECHECK_SLOT_ALIGN;
    slot_bytes *= PAGECHECK_SLOT_ALIGN;
    if (__atomic_load_n(&header->header_bytes, __ATOMIC_RELAXED) != sizeof *header ||
        __atomic_load_n(&header->slot_bytes, __ATOMIC_RELAXED) != slot_bytes ||
        __atomic_load_n(&header->segment_bytes, __ATOMIC_RELAXED) > file_bytes ||
        file_bytes < sizeof *header + slots * slot_bytes)
        return "channel segment whose sizes disagree";
    channel->slots = slots;
    channel->slot_pages = pages;
    channel->slot_bytes = slot_bytes;
    return NULL;
}

/* A static text that says what is wrong, or NULL; `code` then is what that means. */
static inline const char *pgck_map(int fd, pagecheck_channel *channel, int *code)
{
    struct stat st;
    /* What is not sealed could shrink below the mapping, which would be SIGBUS. */
    int seals = fcntl(fd, PGCK_GET_SEALS);
    if (seals < 0 || (seals & PGCK_SEALS) != PGCK_SEALS)
        return "channel segment without its seals";
    if (fstat(fd, &st) != 0 || st.st_size < (off_t)sizeof *channel->header)
        return "channel segment too short";
    channel->mapped_bytes = (size_t)st.st_size;
    void *mapped = mmap(NULL, channel->mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) {
        /* EAGAIN: too much is locked in memory, where what is mapped is to be locked (mlockall). */
        *code = errno == EAGAIN || errno == ENOMEM ? -ENOMEM : errno == ENFILE ? -ENFILE : -EPROTO;
        return "cannot map the channel segment";
    }
    channel->header = (struct pagecheck_ring_header *)mapped;
    const char *wrong = pgck_geometry(channel, channel->mapped_bytes);
    if (wrong != NULL)
        return wrong;
    for (uint32_t i = 0; i < channel->slots; i++)
        if (__atomic_load_n(&pgck_slot(channel, i)->request, __ATOMIC_RELAXED) != 0)
            return "channel segment that was used before";
    channel->batches = (pgck_batch *)calloc(channel->slots, sizeof *channel->batches);
    if (channel->batches != NULL)
        return NULL;
    *code = -ENOMEM;
    return "no memory";
}

/* Maps a new channel's segment and checks its seals, size and header; `fd` stays the caller's.
 * 0, -EPROTO, -ENOMEM or -ENFILE; after a failure there is nothing to unmap. Needs no client, but
 * without pagecheck_channel_watch nobody notices a service that was killed. */
PAGECHECK_API int pagecheck_channel_map(int fd, pagecheck_channel *channel)
{
    memset(channel, 0, sizeof *channel);
    channel->socket = -1;
    channel->own = pgck_own();
    if (channel->own == NULL)
        return pgck_say(channel, -ENOMEM, "no memory");
    channel->first = pgck_unique(channel);
    int code = -EPROTO;
    const char *wrong = pgck_map(fd, channel, &code);
    if (wrong == NULL)
        return 0;
    pagecheck_channel_unmap(channel);
    return pgck_say(channel, code, wrong);
}

/* For a channel that was mapped without a client: looks at the connection, whose descriptor stays
 * the caller's, as at a client's. 0, or a negative errno; then the one before is still looked at.
 */
PAGECHECK_API int pagecheck_channel_watch(pagecheck_channel *channel, int socket)
{
    int code = pgck_usable(channel);
    if (code != 0)
        return code;
    int copy = fcntl(socket, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) {
        code = -errno;
        return pgck_say(channel, code, "cannot duplicate the descriptor of the connection");
    }
    if (channel->socket >= 0)
        close(channel->socket);
    channel->socket = copy;
    return 0;
}

/* ---- JSON, as far as the service's lines need it ---- */

static inline const char *pgck_blank(const char *at)
{
    return at + strspn(at, " \t\r");
}

/* What ends the name or value at `at`: a comma, colon or bracket; or NULL. No depth is too deep. */
static inline const char *pgck_value_end(const char *at)
{
    size_t depth = 0;
    bool quoted = false;
    for (; *at != '\0'; at++) {
        if (*at == '"')
            quoted = !quoted;
        else if (quoted)
            at += *at == '\\' && at[1] != '\0';
        else if (depth == 0 && strchr(",:}]", *at) != NULL)
            return at;
        else if (*at == '[' || *at == '{')
            depth++;
        else if (*at == ']' || *at == '}')
            depth--;
    }
    return NULL;
}

/* The value of an object's member, or NULL. */
static inline const char *pgck_member(const char *object, const char *key)
{
    size_t length = strlen(key);
    const char *at = object != NULL && *object == '{' ? object : NULL;
    while (at != NULL && (at == object || *at == ',')) {
        const char *name = pgck_blank(at + 1);
        const char *colon = pgck_value_end(name);
        if (colon == NULL || *colon != ':')
            return NULL;
        const char *value = pgck_blank(colon + 1);
        if (*name == '"' && strncmp(name + 1, key, length) == 0 && name[length + 1] == '"')
            return value;
        at = pgck_value_end(value);
    }
    return NULL;
}

/* UINT64_MAX: no such member, or no whole number. */
static inline uint64_t pgck_number(const char *object, const char *key)
{
    const char *at = pgck_member(object, key);
    size_t digits = at != NULL ? strspn(at, "0123456789") : 0;
    bool whole = digits > 0 && digits < 20 && strchr(",} \t\r", at[digits]) != NULL;
    return whole ? strtoull(at, NULL, 10) : UINT64_MAX;
}

/* Whether an array of whole numbers, an object's member, holds this one. */
static inline bool pgck_has_number(const char *object, const char *key, uint64_t wanted)
{
    const char *at = pgck_member(object, key);
    for (bool inside = at != NULL && *at == '['; inside; inside = *at == ',') {
        at = pgck_blank(at + 1);
        size_t digits = strspn(at, "0123456789");
        if (digits > 0 && digits < 20 && strtoull(at, NULL, 10) == wanted)
            return true;
        at = pgck_blank(at + digits);
    }
    return false;
}

/* ---- The connection ----
 *
 * The calls on a client return 0 or a negative errno, with client->error saying more. -EREMOTEIO:
 * the service answered with an error; nothing else has changed. -ETIMEDOUT: it did not answer in
 * time; the connection is good, the answer is dropped by its id when it comes, with its descriptor,
 * and what it attached or opened is given back. -EINVAL, -EMSGSIZE, -ENOMEM, -EMFILE and the errno
 * of a system call: nothing was asked. After -ECONNRESET, the service hung up, and -EPROTO, it
 * broke the protocol or took half a request, the connection cannot be used: `error` says so, and
 * every call returns the same until pagecheck_disconnect; connect again. */

__attribute__((format(printf, 3, 4))) static inline int pgck_fail(pagecheck_client *client,
                                                                  int code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(client->error, sizeof client->error, format, arguments);
    va_end(arguments);
    return code;
}

/* What a failed call means on a socket whose calls end after a time. */
static inline int pgck_errno(pagecheck_client *client, const char *doing)
{
    int code = errno == EPIPE ? ECONNRESET : errno == EAGAIN ? ETIMEDOUT : errno;
    return pgck_fail(client, -code, "%s: %s", doing, strerror(code));
}

/* Gives the socket's next call its time. */
static inline int pgck_limit(pagecheck_client *client, int64_t deadline_ns)
{
    int64_t left_us = deadline_ns > 0 ? (deadline_ns - pagecheck_now_ns()) / 1000 : 0;
    struct timeval left;
    if (left_us <= 0)
        return pgck_fail(client, -ETIMEDOUT, "the deadline passed before the service was asked");
    left.tv_sec = (time_t)(left_us / 1000000);
    left.tv_usec = (suseconds_t)(left_us % 1000000);
    if (setsockopt(client->socket, SOL_SOCKET, SO_RCVTIMEO, &left, sizeof left) != 0 ||
        setsockopt(client->socket, SOL_SOCKET, SO_SNDTIMEO, &left, sizeof left) != 0)
        return pgck_errno(client, "setsockopt");
    return 0;
}

#define PGCK_LINE_BYTES (1u << 20)    /* longer ones the service does not send */
#define PGCK_REQUEST_BYTES (1u << 18) /* longer ones it does not take */
#define PGCK_LOOKS (PGCK_LINE_BYTES / 4096u)

/* Room for the head of a control message and one descriptor; the kernel would fill CMSG_SPACE with
 * two. */
typedef union pgck_control {
    struct cmsghdr head;
    char bytes[CMSG_SPACE(sizeof(int))];
} pgck_control;

static inline void pgck_message(struct iovec *part, pgck_control *control, struct msghdr *message)
{
    memset(message, 0, sizeof *message);
    memset(control, 0, sizeof *control);
    message->msg_iov = part;
    message->msg_iovlen = 1;
    message->msg_control = control;
    message->msg_controllen = CMSG_LEN(sizeof(int));
}

/* Sends a line; a descriptor goes with its first bytes. Nothing is sent where the deadline has
 * passed (whoever was stopped meanwhile can ask once more), but what was begun is ended if it can
 * be. */
static inline int pgck_send(pagecheck_client *client, char *line, int fd, int64_t deadline_ns)
{
    struct iovec part = {line, strlen(line)};
    client->is_mid_line = false;
    if (part.iov_len > PGCK_REQUEST_BYTES)
        return pgck_fail(client, -EMSGSIZE, "a request of %zu bytes, more than the service takes",
                         part.iov_len);
    while (part.iov_len > 0) {
        struct msghdr message;
        pgck_control control;
        pgck_message(&part, &control, &message);
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
        if (fd < 0)
            message.msg_controllen = 0;
        int code = pgck_limit(client, deadline_ns);
        if (code != 0 && !client->is_mid_line)
            return code;
        int flags = MSG_NOSIGNAL | (code != 0 ? MSG_DONTWAIT : 0);
        ssize_t sent = sendmsg(client->socket, &message, flags);
        if (sent < 0 && errno != EINTR)
            return pgck_errno(client, "sendmsg");
        if (sent > 0) {
            part.iov_base = (char *)part.iov_base + sent;
            part.iov_len -= (size_t)sent;
            client->is_mid_line = part.iov_len > 0;
            fd = -1;
        }
    }
    return 0;
}

/* Room for more of a line: a reply repeats what was asked for. */
static inline int pgck_grow(pagecheck_client *client)
{
    if (client->filled < client->room)
        return 0;
    if (client->room >= PGCK_LINE_BYTES)
        return pgck_fail(client, -EPROTO, "the service sent too long a line");
    size_t room = client->room == 0 ? 4096 : 2 * client->room;
    char *line = (char *)realloc(client->line, room);
    if (line == NULL)
        return pgck_fail(client, -ENOMEM, "no memory");
    client->line = line;
    client->room = room;
    return 0;
}

static inline void pgck_drop_passed(pagecheck_client *client)
{
    if (client->passed >= 0)
        close(client->passed);
    client->passed = -1;
    client->cut = false;
}

/* Keeps a descriptor, or that one was lost, for the last line that has begun: the kernel ends a
 * read behind bytes that descriptors came with. */
static inline void pgck_note_passed(pagecheck_client *client, struct cmsghdr *rights)
{
    size_t at = client->filled - 1; /* its last byte may be the end of that line */
    while (at > 0 && client->line[at - 1] != '\n')
        at--;
    pgck_drop_passed(client);
    client->passed_at = at;
    client->cut = rights == NULL;
    if (rights != NULL)
        memcpy(&client->passed, CMSG_DATA(rights), sizeof(int));
}

#define PGCK_NO_ANSWER "the service did not answer in time"

static inline int pgck_receive(pagecheck_client *client, int64_t deadline_ns)
{
    struct msghdr message;
    pgck_control control;
    int code = pgck_grow(client);
    if (code != 0)
        return code;
    struct iovec part = {client->line + client->filled, client->room - client->filled};
    pgck_message(&part, &control, &message);
    /* What came while this process did not run counts, but not for ever. */
    bool is_late = pgck_limit(client, deadline_ns) != 0;
    if (is_late && client->looks-- == 0)
        return pgck_fail(client, -ETIMEDOUT, PGCK_NO_ANSWER);
    ssize_t got =
        recvmsg(client->socket, &message, MSG_CMSG_CLOEXEC | (is_late ? MSG_DONTWAIT : 0));
    if (got < 0 && errno == EAGAIN)
        return pgck_fail(client, -ETIMEDOUT, PGCK_NO_ANSWER);
    if (got < 0)
        return errno == EINTR ? 0 : pgck_errno(client, "recvmsg");
    bool has_fd = control.head.cmsg_type == SCM_RIGHTS;
    has_fd = has_fd && control.head.cmsg_len == CMSG_LEN(sizeof(int));
    if (got == 0)
        return pgck_fail(client, -ECONNRESET, "the service hung up");
    client->filled += (size_t)got;
    if (has_fd || (message.msg_flags & MSG_CTRUNC) != 0)
        pgck_note_passed(client, has_fd ? &control.head : NULL);
    return 0;
}

/* Reads the next line into client->line. */
static inline int pgck_line(pagecheck_client *client, int64_t deadline_ns)
{
    char *end = NULL;
    client->filled -= client->taken;
    if (client->filled > 0)
        memmove(client->line, client->line + client->taken, client->filled);
    if (client->passed_at < client->taken)
        pgck_drop_passed(client); /* it was the last line's, and nobody took it */
    else
        client->passed_at -= client->taken;
    client->taken = 0;
    while (client->filled == 0 ||
           (end = (char *)memchr(client->line, '\n', client->filled)) == NULL) {
        int code = pgck_receive(client, deadline_ns);
        if (code != 0)
            return code;
    }
    *end = '\0';
    client->taken = (size_t)(end - client->line) + 1;
    return 0;
}

/* The text of {"class": .., "desc": ..} as it came. */
static inline int pgck_error(pagecheck_client *client, const char *error)
{
    const char *end = pgck_value_end(error);
    int length = end != NULL && end - error < 200 ? (int)(end - error) : 200;
    return pgck_fail(client, -EREMOTEIO, "the service says %.*s", length, error);
}

/* What a reply that came too late attached or opened is nobody's: asks the service to take it back,
 * and does not wait for that. What it cannot be told goes with the connection. */
static inline int pgck_give_back(pagecheck_client *client, const char *answer, int64_t deadline_ns)
{
    char request[160];
    uint64_t channel = pgck_number(answer, "channel"), block = pgck_number(answer, "block");
    if (channel > UINT32_MAX && block > UINT32_MAX)
        return 0;
    bool opened = channel <= UINT32_MAX;
    snprintf(request, sizeof request,
             "{\"execute\":\"%s\",\"arguments\":{\"%s\":%" PRIu64 "},\"id\":0}\n",
             opened ? "close-channel" : "detach", opened ? "channel" : "block",
             opened ? channel : block);
    int code = pgck_send(client, request, -1, deadline_ns);
    return client->is_mid_line ? code : 0;
}

/* Whether a line answers another request than the newest, or is an event. The first request's id is
 * 1; what is told back is asked for with 0. */
static inline bool pgck_is_late(const pagecheck_client *client, const char *reply)
{
    return pgck_member(reply, "event") != NULL || pgck_number(reply, "id") < client->requests;
}

/* Sends a request, if there is one, and waits for its answer, of which `key` is a member. */
static inline int pgck_exchange(pagecheck_client *client, char *request, int fd, const char *key,
                                int64_t deadline_ns, const char **answer)
{
    int code = request != NULL ? pgck_send(client, request, fd, deadline_ns) : 0;
    while (code == 0 && (code = pgck_line(client, deadline_ns)) == 0) {
        const char *reply = pgck_blank(client->line);
        const char *error = pgck_member(reply, "error");
        *answer = pgck_member(reply, key);
        if (pgck_is_late(client, reply)) {
            code = pgck_give_back(client, *answer, deadline_ns);
            continue;
        }
        if (error != NULL) /* it is that one's, or the connection's */
            return pgck_error(client, error);
        if (*answer != NULL && (request == NULL || pgck_number(reply, "id") == client->requests))
            return 0;
        code = pgck_fail(client, -EPROTO, "the service sent no answer: %.100s", reply);
    }
    return code;
}

/* Nothing more can be asked of this connection. */
static inline int pgck_end(pagecheck_client *client, int code)
{
    static const char *const end = "; connect again";
    size_t at = strlen(client->error), most = sizeof client->error - strlen(end) - 1;
    memcpy(client->error + (at < most ? at : most), end, strlen(end) + 1);
    return client->failed = code;
}

/* Asks for something; a descriptor that came with the answer is client->passed. */
static inline int pgck_ask(pagecheck_client *client, char *request, int fd, int64_t deadline_ns,
                           const char **answer)
{
    int usable = pgck_whose(client->own);
    if (usable != 0)
        return pgck_fail(client, usable,
                         usable == -ECHILD ? "the client is the parent process's; connect here"
                                           : "the client is not connected");
    if (client->failed != 0)
        return pgck_fail(client, client->failed, "the connection is closed; connect again");
    client->looks = PGCK_LOOKS;
    client->requests++; /* the id that `request` has */
    int code = pgck_exchange(client, request, fd, "return", deadline_ns, answer);
    if (code == -ECONNRESET || code == -EPROTO)
        return pgck_end(client, code);
    if (client->is_mid_line) /* the service would take the next request for the rest of this one */
        return pgck_end(client, -EPROTO);
    return code;
}

/* The same for what has one argument, a number, and returns nothing. */
static inline int pgck_tell(pagecheck_client *client, const char *command, const char *argument,
                            uint32_t value, int64_t deadline_ns)
{
    char request[160];
    const char *answer;
    snprintf(request, sizeof request,
             "{\"execute\":\"%s\",\"arguments\":{\"%s\":%" PRIu32 "},\"id\":%" PRIu64 "}\n",
             command, argument, value, client->requests + 1);
    return pgck_ask(client, request, -1, deadline_ns, &answer);
}

/* Hangs up; the service forgets what this client attached, and its channels end with -ECONNRESET.
 * They are still to be closed or unmapped. May be called twice, and on a zeroed structure; in a
 * child of the process that connected it closes the child's copies only. */
PAGECHECK_API void pagecheck_disconnect(pagecheck_client *client)
{
    bool ours = pgck_whose(client->own) == 0;
    client->failed = -ENOTCONN;
    if (client->own == NULL)
        return;
    pgck_disown(&client->own);
    pgck_drop_passed(client);
    if (client->socket >= 0) {
        if (ours)
            shutdown(client->socket, SHUT_RDWR); /* the channels have copies of the descriptor */
        close(client->socket);
    }
    free(client->line);
    client->line = NULL;
    client->room = client->filled = client->taken = 0;
    client->socket = client->passed = -1;
}

/* 0 while the service has not hung up, else -ECONNRESET. Asks nothing of it. */
PAGECHECK_API int pagecheck_check(const pagecheck_client *client)
{
    return pgck_whose(client->own) != 0 || pgck_hung_up(client->socket) ? -ECONNRESET : 0;
}

static inline int pgck_connect(pagecheck_client *client, const char *path, int64_t deadline_ns)
{
    struct sockaddr_un address;
    int code;
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    if (strlen(path) >= sizeof address.sun_path)
        return pgck_fail(client, -ENAMETOOLONG, "%s: too long for a socket", path);
    memcpy(address.sun_path, path, strlen(path));
    client->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (client->socket < 0)
        return pgck_errno(client, "socket");
    do { /* it waits while the service's backlog is full */
        code = pgck_limit(client, deadline_ns);
        if (code != 0)
            return code;
        code = connect(client->socket, (const struct sockaddr *)&address, sizeof address);
    } while (code != 0 && errno == EINTR);
    return code != 0 ? pgck_errno(client, path) : 0;
}

/* Whether protocol and layout are spoken on both sides. */
static inline int pgck_versions(pagecheck_client *client, const char *greeting)
{
    client->names_layouts = pgck_member(greeting, "layouts") != NULL;
    bool layout = client->names_layouts
                      ? pgck_has_number(greeting, "layouts", PAGECHECK_LAYOUT_VERSION)
                      : pgck_number(greeting, "layout") == PAGECHECK_LAYOUT_VERSION;
    if (layout && pgck_number(greeting, "protocol") == PAGECHECK_PROTOCOL)
        return 0;
    return pgck_fail(client, -EPROTONOSUPPORT,
                     "we speak protocol %u, layout %u, the service others, update one of the two: "
                     "%.120s",
                     PAGECHECK_PROTOCOL, (unsigned)PAGECHECK_LAYOUT_VERSION, greeting);
}

/* Connects, and reads and checks the greeting. After a failure there is nothing to disconnect. */
PAGECHECK_API int pagecheck_connect(const char *path, int64_t deadline_ns, pagecheck_client *client)
{
    const char *greeting = NULL;
    memset(client, 0, sizeof *client);
    client->socket = client->passed = -1;
    client->own = pgck_own();
    if (client->own == NULL)
        return pgck_fail(client, -ENOMEM, "no memory");
    client->number = pgck_unique(client);
    client->looks = PGCK_LOOKS;
    int code = pgck_connect(client, path, deadline_ns);
    if (code == 0)
        code = pgck_exchange(client, NULL, -1, "pagecheck", deadline_ns, &greeting);
    if (code == 0)
        code = pgck_versions(client, greeting);
    if (code != 0)
        pagecheck_disconnect(client);
    return code;
}

/* The request, from malloc; NULL: no memory. */
static inline char *pgck_attach_request(const char *name, uint64_t page_size, uint64_t id,
                                        const pagecheck_region *regions, uint32_t nregions)
{
    size_t room = 160 + strlen(name) + nregions * (size_t)160;
    char *request = (char *)malloc(room);
    if (request == NULL)
        return NULL;
    size_t at = (size_t)snprintf(request, room,
                                 "{\"execute\":\"attach\",\"id\":%" PRIu64
                                 ",\"arguments\":{\"name\":\"%s\",\"page_size\":%" PRIu64 "%s",
                                 id, name, page_size, nregions != 0 ? ",\"regions\":" : "");
    for (uint32_t i = 0; i < nregions; i++)
        at +=
            (size_t)snprintf(request + at, room - at,
                             "%c{\"guest_phys_addr\":%" PRIu64 ",\"memory_size\":%" PRIu64
                             ",\"userspace_addr\":%" PRIu64 ",\"mmap_offset\":%" PRIu64 "}",
                             i == 0 ? '[' : ',', regions[i].guest_phys_addr, regions[i].memory_size,
                             regions[i].userspace_addr, regions[i].mmap_offset);
    snprintf(request + at, room - at, "%s}}\n", nregions != 0 ? "]" : "");
    return request;
}

/* Hands the RAM behind `fd` over for reading; `fd` stays the caller's. `name` is printable, without
 * quotes and backslashes; `regions` may be NULL. Offsets of pages are bytes from the file's start.
 * `block` is good for this connection alone; another one refuses it. -EINVAL: such a name. */
PAGECHECK_API int pagecheck_attach(pagecheck_client *client, const char *name, int fd,
                                   uint64_t page_size, const pagecheck_region *regions,
                                   uint32_t nregions, int64_t deadline_ns, uint32_t *block)
{
    const char *answer = NULL;
    *block = UINT32_MAX; /* no block's */
    for (const char *at = name; *at != '\0'; at++)
        if ((unsigned char)*at < ' ' || *at == '"' || *at == '\\')
            return pgck_fail(client, -EINVAL, "block name that JSON cannot hold as it is");
    if (nregions > PGCK_REQUEST_BYTES / 64) /* none is shorter */
        return pgck_fail(client, -EMSGSIZE, "%" PRIu32 " regions, more than the service takes",
                         nregions);
    char *request = pgck_attach_request(name, page_size, client->requests + 1, regions, nregions);
    if (request == NULL)
        return pgck_fail(client, -ENOMEM, "no memory");
    int code = pgck_ask(client, request, fd, deadline_ns, &answer);
    free(request);
    uint64_t number = code == 0 ? pgck_number(answer, "block") : 0;
    if (number > UINT32_MAX)
        return pgck_end(client, pgck_fail(client, -EPROTO, "attach: no block: %.150s", answer));
    if (code == 0)
        *block = (uint32_t)number + pgck_base(client->number);
    return code;
}

/* No batch of the block may be out. */
PAGECHECK_API int pagecheck_detach(pagecheck_client *client, uint32_t block, int64_t deadline_ns)
{
    return pgck_tell(client, "detach", "block", block - pgck_base(client->number), deadline_ns);
}

/* Unmaps the channel whatever it returns. -ETIMEDOUT: the service may not know of it yet; close it
 * again, or it stays there as long as the connection. 0 also where it was closed before, or went
 * with another connection: its number may be another one's by now. */
PAGECHECK_API int pagecheck_close_channel(pagecheck_client *client, pagecheck_channel *channel,
                                          int64_t deadline_ns)
{
    bool is_this = channel->connection != 0 && channel->connection == client->number;
    pagecheck_channel_unmap(channel);
    if (!is_this && pgck_whose(client->own) == 0)
        return 0;
    int code = pgck_tell(client, "close-channel", "channel", channel->id, deadline_ns);
    if (code == -EREMOTEIO && channel->is_closing)
        code = 0; /* it was told before, and answered too late */
    channel->is_closing = code == -ETIMEDOUT;
    if (!channel->is_closing)
        channel->connection = 0;
    return code;
}

/* Takes the answer's segment: it must be what the answer says. */
static inline int pgck_open_answered(pagecheck_client *client, const char *answer,
                                     pagecheck_channel *channel)
{
    uint64_t id = pgck_number(answer, "channel");
    if (id > UINT32_MAX)
        return pgck_fail(client, -EPROTO, "open-channel: no number: %.150s", answer);
    if (client->passed < 0 && client->cut)
        return pgck_fail(client, -EMFILE, "open-channel: no descriptor is left in this process");
    if (client->passed < 0)
        return pgck_fail(client, -EPROTO, "open-channel: no segment: %.150s", answer);
    int mapped = pagecheck_channel_map(client->passed, channel);
    if (mapped != 0)
        return pgck_fail(client, mapped, "open-channel: %s", channel->error);
    channel->id = (uint32_t)id;
    channel->connection = client->number;
    channel->socket = fcntl(client->socket, F_DUPFD_CLOEXEC, 0);
    if (channel->socket >= 0 && pgck_number(answer, "slots") == channel->slots &&
        pgck_number(answer, "slot_pages") == channel->slot_pages)
        return 0;
    int code = channel->socket < 0 ? pgck_errno(client, "open-channel: dup")
                                   : pgck_fail(client, -EPROTO, "open-channel: another geometry");
    pagecheck_channel_unmap(channel);
    return code;
}

/* Opens a channel; after a failure there is nothing to close. -EMFILE, -ENFILE, -ENOMEM: this
 * process has no room for it; the connection is good. */
PAGECHECK_API int pagecheck_open_channel(pagecheck_client *client,
                                         const pagecheck_channel_options *options,
                                         int64_t deadline_ns, pagecheck_channel *channel)
{
    char request[200];
    const char *answer = NULL;
    memset(channel, 0, sizeof *channel);
    channel->socket = -1;
    snprintf(request, sizeof request,
             "{\"execute\":\"open-channel\",\"id\":%" PRIu64 ",\"arguments\":{\"slots\":%" PRIu32
             ",\"slot_pages\":%" PRIu32 ",\"spin_us\":%" PRIu32 "%s}}\n",
             client->requests + 1, options->slots, options->slot_pages, options->spin_us,
             client->names_layouts ? ",\"layouts\":[" PGCK_TEXT(PAGECHECK_LAYOUT_VERSION) "]" : "");
    int code = pgck_ask(client, request, -1, deadline_ns, &answer);
    if (code != 0)
        return code;
    uint64_t id = pgck_number(answer, "channel");
    code = pgck_open_answered(client, answer, channel);
    pgck_drop_passed(client);
    if (code == 0)
        return 0;
    if (code == -EPROTO)
        return pgck_end(client, code);
    char error[sizeof client->error];
    memcpy(error, client->error, sizeof error);
    channel->connection = 0; /* closing it tells nobody */
    pgck_tell(client, "close-channel", "channel", (uint32_t)id, deadline_ns);
    memcpy(client->error, error, sizeof error);
    return code; /* whatever became of that: the service closes it with the connection */
}

#endif
