/* From pages to flights: sampling, descriptors, submission; and the loop that drives it all.
 *
 * This is the path that every page takes. A zero page with a descriptor of its own costs two
 * stores into a descriptor that was prepared once, one into its record, and the reading of that
 * record; `tools/bench dsa` counts the instructions.
 * A batch has three steps, and none calls another one back: pc_block_start samples pages and notes
 * those that may be zero; they are filled into flights and submitted; what comes back is settled.
 */
#include <errno.h>
#include <string.h>

#include "pc_dsa_settle.h"
#include "pc_dsa_status.h"
#include "pc_guard.h"
#include "pc_ring.h"

#define BACKOFF_MIN_NS 1000000 /* full queues are left alone: for microseconds or for seconds */
#define BACKOFF_MAX_NS 1000000000

/* ---- sampling ---- */

/* These pages are the CPU's. A full queue that was left alone for long enough is tried with the
 * next ones. */
__attribute__((noinline, cold)) static bool left_to_cpu(pc_queue *queue)
{
    if (queue != NULL && queue->page_max_bytes == 0 && pc_clock_now_ns() >= queue->backoff_until_ns)
        queue->page_max_bytes = queue->limits.transfer_max;
    return false;
}

/* Notes a group whose pages in `maybe` (bit i: page begin + i) may be zero and whose others are
 * not. Nearly always it is one word. */
static void note(pc_dsa *dsa, pc_task *task, size_t begin, uint32_t count, uint64_t maybe)
{
    task->offloaded += count;
    dsa->stats->pages_sampled += count - (uint32_t)__builtin_popcountll(maybe);
    /* Decided is taken back where neither side can decide. */
    if (begin % 64 == 0) {
        task->decided[begin / 64] |= ~UINT64_C(0) >> (64 - count);
        task->unproven[begin / 64] |= maybe;
    } else {
        pc_bits_set(task->decided, begin, count);
        pc_bits_or(task->unproven, begin, maybe, count);
    }
}

/* A pc_offload. It neither submits nor waits. */
static bool offload(void *engine, pc_task *task, const pc_pages *pages, size_t begin, size_t end)
{
    pc_dsa *dsa = engine;
    pc_guard guard;
    volatile uint64_t found = 0;
    if (dsa->queue == NULL || pages->page_bytes > dsa->queue->page_max_bytes ||
        !PC_GUARDED(&guard, task->block->base, task->block->bytes,
                    found = task->decider->kernel->sample_pages(pages, begin, end)))
        return left_to_cpu(dsa->queue);
    if (!dsa->queue->limits.sample) /* for measurements; the look has populated the pages */
        found = ~UINT64_C(0) >> (64 - (end - begin));
    note(dsa, task, begin, (uint32_t)(end - begin), found);
    return true;
}

/* ---- submission ---- */

/* One page more for a descriptor of at most `most` bytes whose pages end where this one begins. */
static bool extend(struct dsa_hw_desc *tail, pc_member *last, uint64_t index, uint32_t bytes,
                   uint32_t most)
{
    if (last->index + last->pages != (uint32_t)index || tail->xfer_size > most)
        return false;
    tail->xfer_size += bytes;
    last->pages++;
    return true;
}

/* Adds the pages of `maybe` (bit i: page begin + i of the flight's task) to the flight, in their
 * order, until one has no room. Returns those that are left. Inlined twice, so that no page asks
 * whether there are offsets. */
__attribute__((always_inline)) static inline uint64_t fill_pages(const pc_queue *queue,
                                                                 pc_flight *flight,
                                                                 const uint64_t *offsets,
                                                                 uint64_t begin, uint64_t maybe)
{
    const pc_task *task = flight->task;
    const uint64_t base = (uintptr_t)task->block->base;
    const uint64_t first = base + task->batch.first;
    const uint32_t bytes = (uint32_t)task->block->page_bytes;
    const uint32_t most = queue->run_bytes > bytes ? (uint32_t)queue->run_bytes - bytes : 0;
    struct dsa_hw_desc *each = flight->descriptors + flight->count;
    pc_member *member = flight->members + flight->count;
    const pc_member *end = flight->members + queue->members;
    uint64_t behind = 0; /* the address behind the last descriptor's pages; no page is at 0 */
    if (flight->count != 0)
        behind = each[-1].src_addr + each[-1].xfer_size;
    for (; maybe != 0; maybe &= maybe - 1) {
        const uint64_t index = begin + (uint32_t)__builtin_ctzll(maybe);
        uint64_t address = offsets != NULL ? base + offsets[index] : first + index * bytes;
        if (address == behind && extend(each - 1, member - 1, index, bytes, most)) {
            behind += bytes;
            continue;
        }
        if (member >= end)
            break;
        behind = address + bytes;
        each->src_addr = address;
        each++->xfer_size = bytes;
        *member++ = (pc_member){.index = (uint32_t)index, .pages = 1};
    }
    flight->count = (uint32_t)(member - flight->members);
    return maybe;
}

/* The same for one word of the task's bitmap, with what settling wants to know of the pages that
 * found room. */
__attribute__((noinline)) static uint64_t fill(const pc_queue *queue, pc_flight *flight,
                                               uint32_t word, uint64_t maybe)
{
    const uint64_t *offsets = flight->task->batch.offsets;
    const uint64_t first = UINT64_C(64) * word;
    uint64_t left = offsets != NULL ? fill_pages(queue, flight, offsets, first, maybe)
                                    : fill_pages(queue, flight, NULL, first, maybe);
    uint64_t taken = maybe ^ left;
    flight->pages += (uint32_t)__builtin_popcountll(taken);
    if (taken != 0 && flight->groups < PC_DSA_MEMBERS)
        flight->group[flight->groups++] = (pc_candidates){.pages = taken, .word = word};
    return left;
}

/* The descriptors to submit; their records are empty. */
static const struct dsa_hw_desc *prepare(pc_flight *flight)
{
    struct dsa_completion_record *records = flight->records;
    const uint32_t count = flight->count;
#pragma GCC unroll 16
    for (uint32_t i = 0; i < count; i++)
        records[i].status = 0; /* also touches it, so that the device finds it */
    if (!flight->batched)
        return flight->descriptors;
    flight->batch_record->status = 0;
    flight->batch->desc_count = flight->count;
    return flight->batch;
}

/* Returns how many of the flight's entries the queue took, or -errno. */
static long try_to_submit(pc_dsa *dsa, pc_queue *queue, const struct dsa_hw_desc *first,
                          uint32_t entries)
{
    long done = 0;
    const unsigned retries = queue->portal->ops->retries;
    for (unsigned tries = 0; entries != 0 && tries <= retries; tries++) {
        long took = queue->portal->ops->submit(queue->portal, first + done, entries - (size_t)done);
        if (took < 0)
            return done != 0 ? done : took;
        done += took;
        if (done == (long)entries)
            return done;
        dsa->stats->retries++;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    return done;
}

static void append(pc_queue *queue, pc_flight *flight)
{
    flight->next = NULL;
    if (queue->oldest == NULL)
        queue->oldest = flight;
    else
        queue->newest->next = flight;
    queue->newest = flight;
}

/* The CPU decides the pages of a flight that the device has nothing of. */
static void withdraw(pc_dsa *dsa, pc_flight *flight)
{
    pc_flight_abandon(dsa, flight);
    pc_flight_push(&dsa->queue->unused, flight);
}

/* The kernel refused the first descriptor. If only batches are refused, it is submitted without. */
__attribute__((noinline, cold)) static void refused(pc_dsa *dsa, pc_flight *flight, int error)
{
    if (error == EINVAL && flight->batched) {
        pc_queue_limit_batches(dsa->queue, 0);
        pc_flight_make_ready(dsa->queue, flight);
        return;
    }
    withdraw(dsa, flight);
    pc_dsa_close(dsa, PC_QUEUE_REFUSED, error);
}

/* The queue took nothing: others keep it full, or it was disabled. */
__attribute__((noinline, cold)) static void not_taken(pc_dsa *dsa, pc_flight *flight)
{
    pc_queue *queue = dsa->queue;
    dsa->stats->queue_full++;
    withdraw(dsa, flight);
    if (!pc_portal_is_enabled(queue->portal)) {
        pc_dsa_close(dsa, PC_QUEUE_DISABLED, 0);
        return;
    }
    queue->backoff_ns = queue->backoff_ns == 0 ? BACKOFF_MIN_NS : queue->backoff_ns * 2;
    if (queue->backoff_ns > BACKOFF_MAX_NS)
        queue->backoff_ns = BACKOFF_MAX_NS;
    queue->backoff_until_ns = pc_clock_now_ns() + queue->backoff_ns;
    queue->page_max_bytes = 0;
    dsa->stats->queue_state = pc_queue_word(PC_QUEUE_UP, PC_QUEUE_FULL);
}

/* Submits one flight, for which there is room; of an array that is larger than the whole queue, as
 * much as fits. */
static void submit_one(pc_dsa *dsa, pc_flight *flight)
{
    pc_queue *queue = dsa->queue;
    const struct dsa_hw_desc *first = prepare(flight);
    if (flight->entries > queue->limits.queue_size)
        flight->entries = queue->limits.queue_size; /* the CPU decides what is over */
    flight->submitted_ns = pc_clock_now_ns();
    long took = try_to_submit(dsa, queue, first, flight->entries);
    dsa->stats->submit_ns += (uint64_t)(pc_clock_now_ns() - flight->submitted_ns);
    if (took < 0) {
        refused(dsa, flight, (int)-took);
        return;
    }
    if (took == 0) {
        not_taken(dsa, flight);
        return;
    }
    queue->backoff_ns = 0;
    flight->entries = (uint32_t)took;
    flight->taken = flight->batched ? flight->count : (uint32_t)took;
    queue->entries += flight->entries;
    flight->rounds++;
    dsa->stats->batches += flight->batched;
    dsa->stats->descriptors += flight->taken;
    append(queue, flight);
}

/* ---- the loop ---- */

/* As a batch or as an array, and whether the queue has room for that. */
static bool has_room(const pc_queue *queue, pc_flight *flight)
{
    flight->batched = flight->count > 1 && queue->limits.batch_max >= 2 && !flight->single;
    flight->entries = flight->batched ? 1 : flight->count;
    return queue->entries + flight->entries <= queue->limits.queue_size || queue->oldest == NULL;
}

/* Submits what is ready, as far as there is room. */
static void submit_ready(pc_dsa *dsa)
{
    pc_queue *queue;
    while ((queue = dsa->queue) != NULL && queue->ready != NULL) {
        if (queue->page_max_bytes == 0) /* it became full meanwhile */
            withdraw(dsa, pc_flight_pop(&queue->ready));
        else if (has_room(queue, queue->ready))
            submit_one(dsa, pc_flight_pop(&queue->ready));
        else
            return;
    }
}

static void settle_oldest(pc_dsa *dsa)
{
    pc_queue_end end;
    if (!pc_flight_settle_oldest(dsa, &end))
        pc_dsa_close(dsa, end, 0);
}

static bool is_ready(const pc_dsa *dsa)
{
    return dsa->queue != NULL && dsa->queue->ready != NULL;
}

/* Submits what is ready, and waits for room. In the end nothing is ready. */
static void submit_all(pc_dsa *dsa)
{
    while (is_ready(dsa)) {
        submit_ready(dsa);
        if (is_ready(dsa))
            settle_oldest(dsa);
    }
}

/* An empty flight for this task; NULL: the queue takes nothing any more. */
static pc_flight *open_flight(pc_dsa *dsa, pc_task *task)
{
    submit_all(dsa);
    while (dsa->queue != NULL && dsa->queue->unused == NULL) {
        settle_oldest(dsa);
        submit_all(dsa);
    }
    if (dsa->queue == NULL || dsa->queue->page_max_bytes < task->block->page_bytes)
        return NULL;
    pc_flight *flight = pc_flight_pop(&dsa->queue->unused);
    flight->task = task;
    flight->count = flight->rounds = 0;
    flight->single = false;
    flight->pages = flight->groups = 0;
    task->flights++;
    return flight;
}

static uint32_t words_of(const pc_task *task)
{
    return (task->batch.count + 63u) / 64u;
}

static bool is_proven(const pc_task *task)
{
    const uint64_t *word = task->unproven;
    const uint64_t *end = word + words_of(task);
    while (word < end && *word == 0)
        word++;
    return word == end;
}

/* Fills the task's unproven pages into flights, in their order, and submits them. What is put back
 * meanwhile is of pages that were filled before, and is left alone. */
__attribute__((noinline)) static void submit_unproven(pc_dsa *dsa, pc_task *task)
{
    const uint32_t words = words_of(task);
    pc_flight *flight = NULL;
    for (uint32_t word = 0; word < words; word++) {
        uint64_t left = task->unproven[word];
        task->unproven[word] = 0;
        while (left != 0) {
            if (flight == NULL && (flight = open_flight(dsa, task)) == NULL) {
                task->unproven[word] |= left; /* these and the rest are the CPU's */
                return;
            }
            left = fill(dsa->queue, flight, word, left);
            if (left != 0) {
                pc_flight_make_ready(dsa->queue, flight);
                flight = NULL;
            }
        }
    }
    if (flight != NULL)
        pc_flight_make_ready(dsa->queue, flight);
    submit_all(dsa);
}

void pc_dsa_start(pc_dsa *dsa, pc_task *task)
{
    memset(task->unproven, 0, words_of(task) * sizeof *task->unproven);
    task->offload = offload;
    task->engine = dsa;
    task->flights = task->offloaded = 0;
    pc_block_start(task);
    if (!is_proven(task))
        submit_unproven(dsa, task);
}

void pc_dsa_poll(pc_dsa *dsa)
{
    while (dsa->queue != NULL && dsa->queue->oldest != NULL) {
        const pc_flight *oldest = dsa->queue->oldest;
        const struct dsa_completion_record *record =
            oldest->batched ? oldest->batch_record : &oldest->records[oldest->taken - 1];
        if (__atomic_load_n(&record->status, __ATOMIC_ACQUIRE) == 0)
            return;
        settle_oldest(dsa);
        submit_ready(dsa);
    }
}

/* What no record has proved: by the CPU. */
__attribute__((noinline, cold)) static void decide_unproven(pc_dsa *dsa, pc_task *task)
{
    const uint32_t count = task->batch.count;
    for (uint64_t at = 0, end; at < count; at = end) {
        end = pc_bits_run_end(task->unproven, count, at);
        if (!pc_bits_test(task->unproven, at))
            continue;
        pc_block_redecide(task, at, end);
        pc_bits_clear(task->unproven, at, end - at);
        dsa->stats->pages_completed += end - at;
    }
}

void pc_dsa_finish(pc_dsa *dsa, pc_task *task)
{
    while (task->flights != 0) {
        submit_all(dsa); /* then what is not settled is at the device */
        if (task->flights != 0)
            settle_oldest(dsa);
    }
    if (!is_proven(task))
        decide_unproven(dsa, task);
}
