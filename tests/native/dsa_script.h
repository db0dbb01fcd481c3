/* What the tests of the DSA engine share: a portal whose answers the test writes, whenever it
 * likes, and RAM with pages that only a whole look tells from zeros. Include it once per program.
 */
#ifndef DSA_SCRIPT_H
#define DSA_SCRIPT_H

#include <errno.h>
#include <stdio.h>

#include "check.h"
#include "fixture.h"
#include "pc_bits.h"
#include "pc_dsa_flight.h"

enum {
    KEPT = 1024,
    RAM_PAGES = 256,
    FAULT = 0x03,
    LATE_NS = 200000000 /* for devices that are silent */
};
enum { MATCH = 0x0001, DIFFERS = 0x0101 }; /* status, and result in the second byte */

typedef struct dsa_hw_desc hw_desc;
typedef struct dsa_completion_record hw_record;

/* ---- the portal ---- */

typedef struct script script;

struct script {
    pc_portal head;
    long (*submit)(script *s, const hw_desc *list, size_t count); /* NULL: answer() at once */
    void (*answer)(script *s, const hw_desc *desc);               /* NULL: none for now */
    hw_desc kept[KEPT]; /* as submitted, newest last, without those that were answered */
    size_t count, peak; /* of them */
    size_t submits, batches, singles, invalid;
    uint32_t largest_batch;
    uint64_t largest_bytes;
    pthread_mutex_t lock;
    sem_t gate; /* close waits for it where `gated` */
    bool gated;
    bool disabled; /* as its state would say */
    size_t asked;  /* for its state */
    void (*on_asked)(script *s);
    int closed;
};

static inline hw_record *record_of(const hw_desc *desc)
{
    return (hw_record *)(uintptr_t)desc->completion_addr;
}

static inline const hw_desc *list_of(const hw_desc *batch)
{
    return (const hw_desc *)(uintptr_t)batch->desc_list_addr;
}

/* As a device does: the status byte last. */
static inline void put(const hw_desc *desc, uint32_t word, uint32_t bytes)
{
    hw_record *record = record_of(desc);
    record->result = (uint8_t)(word >> 8);
    record->bytes_completed = bytes;
    __atomic_store_n(&record->status, (uint8_t)word, __ATOMIC_RELEASE);
}

/* Bytes before the first that is not zero. */
static inline uint32_t zero_bytes(const hw_desc *desc)
{
    const unsigned char *at = (const unsigned char *)(uintptr_t)desc->src_addr;
    uint32_t i = 0;
    while (i < desc->xfer_size && at[i] == 0)
        i++;
    return i;
}

static inline void put_truth(const hw_desc *desc)
{
    uint32_t zeros = zero_bytes(desc);
    put(desc, zeros == desc->xfer_size ? MATCH : DIFFERS, zeros == desc->xfer_size ? 0 : zeros);
}

/* Members in the order of their list, then the batch. */
static inline void put_batch(const hw_desc *desc, void (*member)(const hw_desc *desc))
{
    if (desc->opcode != DSA_OPCODE_BATCH) {
        member(desc);
        return;
    }
    for (uint32_t i = 0; i < desc->desc_count; i++)
        member(&list_of(desc)[i]);
    put(desc, DSA_COMP_SUCCESS, desc->desc_count);
}

static inline void answer_truth(script *s, const hw_desc *desc)
{
    (void)s;
    put_batch(desc, put_truth);
}

static inline void script_note(script *s, const hw_desc *desc)
{
    bool batch = desc->opcode == DSA_OPCODE_BATCH;
    s->batches += batch;
    s->singles += !batch;
    for (uint32_t i = 0; i < (batch ? desc->desc_count : 1); i++) {
        const hw_desc *each = batch ? &list_of(desc)[i] : desc;
        s->invalid +=
            each->xfer_size == 0 || each->xfer_size % PAGE != 0 || each->comp_pattern != 0;
        if (each->xfer_size > s->largest_bytes)
            s->largest_bytes = each->xfer_size;
    }
    if (batch && desc->desc_count > s->largest_batch)
        s->largest_batch = desc->desc_count;
}

/* Takes them all; those without an answer are kept. */
static inline long script_take(script *s, const hw_desc *list, size_t count)
{
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < count; i++) {
        script_note(s, &list[i]);
        if (s->answer != NULL) {
            s->answer(s, &list[i]);
        } else {
            if (s->count == KEPT)
                abort();
            s->kept[s->count++] = list[i];
        }
    }
    if (s->count > s->peak)
        s->peak = s->count;
    pthread_mutex_unlock(&s->lock);
    return (long)count;
}

static inline long script_submit(pc_portal *portal, const void *descriptors, size_t count)
{
    script *s = (script *)portal;
    s->submits++;
    return s->submit != NULL ? s->submit(s, descriptors, count)
                             : script_take(s, descriptors, count);
}

static inline bool script_enabled(pc_portal *portal)
{
    script *s = (script *)portal;
    s->asked++;
    if (s->on_asked != NULL)
        s->on_asked(s);
    return !s->disabled;
}

static inline void script_close(pc_portal *portal)
{
    script *s = (script *)portal;
    while (s->gated && sem_wait(&s->gate) != 0) {
    }
    __atomic_store_n(&s->closed, 1, __ATOMIC_RELEASE);
}

static inline pc_portal *script_init(script *s)
{
    static const pc_portal_ops ops = {.name = "script",
                                      .retries = 8,
                                      .submit = script_submit,
                                      .enabled = script_enabled,
                                      .close = script_close};
    memset(s, 0, sizeof *s);
    s->head.ops = &ops;
    pthread_mutex_init(&s->lock, NULL);
    sem_init(&s->gate, 0, 0);
    return &s->head;
}

/* ---- RAM and one engine ---- */

typedef struct bench {
    unsigned char *ram;  /* writable */
    pc_file_block block; /* the same, read-only */
    uint64_t progress;
    struct pc_stats stats;
    struct pc_failure failure;
    pc_decider decider;
    pc_dsa dsa;
    script device;
} bench;

typedef struct answer {
    pc_task task;
    uint64_t zero[RAM_PAGES / 64], decided[RAM_PAGES / 64], unproven[RAM_PAGES / 64];
} answer;

/* Every page is there; page i is zero where (1 << i % 8) is in `zeros`. The byte of the others is
 * where no sample looks. */
static inline void bench_init(bench *b, uint32_t zeros)
{
    memset(b, 0, sizeof *b);
    int fd = ram_file(RAM_PAGES, 0, 0);
    b->ram = mmap(NULL, RAM_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    for (size_t i = 0; i < RAM_PAGES; i++)
        b->ram[i * PAGE + 1000] = (zeros >> i % 8 & 1u) != 0 ? 0 : 1;
    b->block = ram_block(fd, RAM_PAGES, PC_BLOCK_TOUCH_FREELY, true);
    if (!pc_guard_install() || !pc_decider_init(pc_kernel_auto(), &b->progress, &b->decider))
        abort();
    pc_dsa_init(&b->stats, &b->failure, &b->dsa);
}

static inline pc_dsa_limits limits_of(uint32_t size, uint32_t batch, uint64_t transfer)
{
    return (pc_dsa_limits){size, batch, transfer, 20 * SECOND, true, true};
}

static inline void bench_open(bench *b, pc_dsa_limits limits)
{
    if (!pc_dsa_open(&b->dsa, script_init(&b->device), &limits))
        abort();
}

static inline void bench_drain(bench *b)
{
    CHECK(b->device.invalid == 0, "%zu invalid descriptors", b->device.invalid);
    sem_post(&b->device.gate);
    CHECK(pc_dsa_deinit(&b->dsa, pc_clock_now_ns() + 5 * SECOND), "it does not drain");
}

static inline void bench_deinit(bench *b)
{
    bench_drain(b);
    munmap(b->ram, RAM_PAGES * PAGE);
    munmap((void *)(uintptr_t)b->block.head.base, b->block.head.bytes);
    close(b->block.fd);
    pc_decider_deinit(&b->decider);
}

static inline void start(bench *b, answer *a, const uint64_t *offsets, uint64_t first,
                         uint32_t count)
{
    memset(a, 0xff, sizeof *a); /* stale bits must not survive */
    a->task = (pc_task){.block = &b->block.head,
                        .decider = &b->decider,
                        .batch = {.offsets = offsets, .first = first * PAGE, .count = count},
                        .zero = a->zero,
                        .decided = a->decided,
                        .unproven = a->unproven};
    pc_dsa_start(&b->dsa, &a->task);
}

static inline bool page_is_zero(const bench *b, const answer *a, uint32_t index)
{
    const pc_batch *batch = &a->task.batch;
    uint64_t offset = batch->offsets != NULL ? batch->offsets[index] : batch->first + index * PAGE;
    const unsigned char *page = b->ram + offset;
    return page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
}

/* Every page decided, and rightly; no bit past the end. */
static inline void check_answer(const bench *b, const answer *a)
{
    uint32_t count = a->task.batch.count;
    CHECK(a->task.flights == 0, "%u flights left", a->task.flights);
    for (uint32_t i = 0; i < count; i++) {
        CHECK(pc_bits_test(a->decided, i), "page %u is undecided", i);
        CHECK(pc_bits_test(a->zero, i) == page_is_zero(b, a, i), "page %u", i);
    }
    for (uint32_t i = count; i < (count + 63) / 64 * 64; i++)
        CHECK(!pc_bits_test(a->decided, i) && !pc_bits_test(a->zero, i), "bit %u", i);
}

static inline void finish(bench *b, answer *a)
{
    pc_dsa_finish(&b->dsa, &a->task);
    check_answer(b, a);
}

/* One batch of `count` pages from the first on. */
static inline void decide(bench *b, uint32_t count)
{
    answer a;
    start(b, &a, NULL, 0, count);
    finish(b, &a);
}

#endif
