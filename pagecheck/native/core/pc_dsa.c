/* From pages to flights: sampling, descriptors, submission.
 *
 * This is the path that every page takes. A zero page with a descriptor of its own costs two
 * stores into a descriptor that was prepared once, one into its record, and the reading of that
 * record; `tools/bench dsa` counts the instructions. */
#include "pc_dsa.h"

#include <errno.h>

#include "pc_bits.h"
#include "pc_dsa_flight.h"
#include "pc_guard.h"
#include "pc_ring.h"

#define REST_MIN_NS                                                                                \
    1000000 /* of a full queue: others keep it so for microseconds or for seconds                  \
             */
#define REST_MAX_NS 1000000000

/* Guest memory of the group, safe to touch. False: a page went away under the look. */
static bool sample(const pc_dsa *dsa, const pc_task *task, const pc_pages *pages, size_t begin,
                   size_t end, uint64_t *maybe)
{
    pc_guard guard;
    volatile uint64_t found = 0;
    if (!PC_GUARDED(&guard, task->block->base, task->block->bytes,
                    found = task->decider->kernel->sample_pages(pages, begin, end)))
        return false;
    *maybe = found;
    if (!dsa->queue->limits.sample) /* for measurements; the look has populated the pages */
        *maybe = end - begin == 64 ? ~UINT64_C(0) : (UINT64_C(1) << (end - begin)) - 1;
    return true;
}

/* An empty flight for this task; NULL: the queue was given up meanwhile. */
static pc_flight *open_flight(pc_dsa *dsa, pc_task *task)
{
    while (dsa->queue != NULL && dsa->queue->unused == NULL)
        pc_flight_settle_oldest(dsa);
    pc_queue *queue = dsa->queue;
    if (queue == NULL)
        return NULL;
    pc_flight *flight = queue->unused;
    queue->unused = flight->next;
    queue->open = flight;
    flight->next = NULL;
    flight->task = task;
    flight->count = flight->taken = flight->rounds = 0;
    flight->single = false;
    flight->pages = flight->groups = 0; /* its old records mean nothing now */
    task->flights++;
    return flight;
}

/* Submits the open flight and opens the next one. False: the queue was given up. */
static bool next_flight(pc_dsa *dsa, pc_task *task)
{
    pc_dsa_flush(dsa);
    return open_flight(dsa, task) != NULL;
}

/* One page more for a descriptor whose pages end where this one begins. */
static bool extend(struct dsa_hw_desc *tail, pc_member *last, uint32_t index, uint32_t bytes,
                   uint64_t run_bytes)
{
    if (last->index + last->pages != index || tail->xfer_size + (uint64_t)bytes > run_bytes)
        return false;
    tail->xfer_size += bytes;
    last->pages++;
    return true;
}

/* Adds the pages of `maybe` (bit i: page begin + i) to the flight, in their order, until one has no
 * room. Returns those that are left. Inlined twice, so that no page asks whether there are offsets.
 */
__attribute__((always_inline)) static inline uint64_t fill(const pc_queue *queue, pc_flight *flight,
                                                           const pc_pages *pages,
                                                           const uint64_t *offsets, uint32_t begin,
                                                           uint64_t maybe)
{
    const uint32_t bytes = (uint32_t)pages->page_bytes;
    const uint64_t run_bytes = queue->run_bytes;
    struct dsa_hw_desc *each = flight->descriptors + flight->count;
    pc_member *member = flight->members + flight->count;
    const pc_member *end = flight->members + queue->members;
    uint64_t behind = 0; /* the address behind the last descriptor's pages; no page is at 0 */
    if (flight->count != 0)
        behind = each[-1].src_addr + each[-1].xfer_size;
    for (; maybe != 0; maybe &= maybe - 1) {
        size_t index = begin + (size_t)__builtin_ctzll(maybe);
        uint64_t address = (uintptr_t)pages->base;
        address += offsets != NULL ? offsets[index] : pages->first + index * pages->page_bytes;
        if (address == behind && extend(each - 1, member - 1, (uint32_t)index, bytes, run_bytes)) {
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

/* The same with what settling wants to know of the pages that found room. */
static uint64_t fill_open(const pc_queue *queue, const pc_pages *pages, uint32_t begin,
                          uint64_t maybe)
{
    pc_flight *flight = queue->open;
    uint64_t left = pages->offsets != NULL
                        ? fill(queue, flight, pages, pages->offsets, begin, maybe)
                        : fill(queue, flight, pages, NULL, begin, maybe);
    uint64_t taken = maybe ^ left;
    flight->pages += (uint32_t)__builtin_popcountll(taken);
    if (taken != 0 && flight->groups < PC_DSA_MEMBERS)
        flight->group[flight->groups++] = (pc_candidates){.pages = taken, .begin = begin};
    return left;
}

/* These pages are the CPU's. A rest that is over ends with them: the next ones are a try. */
__attribute__((noinline, cold)) static bool leave(pc_queue *queue)
{
    if (queue != NULL && queue->takes_bytes == 0 && pc_clock_now_ns() >= queue->rest_until_ns)
        queue->takes_bytes = queue->limits.transfer_max;
    return false;
}

bool pc_dsa_offload(pc_dsa *dsa, pc_task *task, const pc_pages *pages, size_t begin, size_t end)
{
    uint64_t maybe;
    uint32_t count = (uint32_t)(end - begin), first = (uint32_t)begin;
    if (dsa->queue == NULL || pages->page_bytes > dsa->queue->takes_bytes ||
        !sample(dsa, task, pages, begin, end, &maybe))
        return leave(dsa->queue);
    pc_bits_set(task->decided, begin, count); /* taken back where neither side can decide */
    task->offloaded += count;
    dsa->stats->pages_sampled += count - (uint32_t)__builtin_popcountll(maybe);
    while (maybe != 0) {
        if (dsa->queue != NULL && dsa->queue->open != NULL)
            maybe = fill_open(dsa->queue, pages, first, maybe);
        if (maybe != 0 && !next_flight(dsa, task)) {
            pc_flight_complete(dsa, task, first + (uint32_t)__builtin_ctzll(maybe), 1);
            maybe &= maybe - 1;
        }
    }
    return true;
}

void pc_dsa_flush(pc_dsa *dsa)
{
    if (dsa->queue == NULL || dsa->queue->open == NULL)
        return;
    pc_flight *flight = dsa->queue->open;
    dsa->queue->open = NULL;
    pc_flight_launch(dsa, flight);
}

void pc_dsa_finish(pc_dsa *dsa, pc_task *task)
{
    while (task->flights != 0)
        pc_flight_settle_oldest(dsa);
}

void pc_dsa_poll(pc_dsa *dsa)
{
    while (dsa->queue != NULL && dsa->queue->oldest != NULL) {
        const pc_flight *oldest = dsa->queue->oldest;
        const struct dsa_completion_record *record =
            oldest->batched ? oldest->batch_record : &oldest->records[oldest->taken - 1];
        if (__atomic_load_n(&record->status, __ATOMIC_ACQUIRE) == 0)
            return;
        pc_flight_settle_oldest(dsa);
    }
}

/* The descriptors to submit, and how many entries of the queue they take. */
static const struct dsa_hw_desc *arrange(const pc_queue *queue, pc_flight *flight)
{
    struct dsa_completion_record *records = flight->records;
    const uint32_t count = flight->count;
    flight->batched = count > 1 && queue->limits.batch_max >= 2 && !flight->single;
    flight->entries = flight->batched ? 1 : count;
#pragma GCC unroll 8
    for (uint32_t i = 0; i < count; i++)
        records[i].status = 0; /* also touches it, so that the device finds it */
    if (!flight->batched)
        return flight->descriptors;
    flight->batch_record->status = 0;
    flight->batch->desc_count = flight->count;
    return flight->batch;
}

/* Returns how many of the flight's entries the queue took, or -errno. */
static long submit(pc_dsa *dsa, pc_queue *queue, const struct dsa_hw_desc *first, uint32_t entries)
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

/* The kernel refused the first descriptor. Only batches refused: go on without them. */
static void refused(pc_dsa *dsa, pc_queue *queue, pc_flight *flight, int error)
{
    if (error == EINVAL && flight->batched) {
        pc_queue_limit_batches(queue, 0);
        pc_flight_launch(dsa, flight);
        return;
    }
    pc_flight_abandon(dsa, flight);
    pc_dsa_close(dsa, PC_QUEUE_REFUSED, error);
}

/* Entries of the queue for this flight: a new one waits for others to end, one that goes out
 * again (from inside such a wait) takes what is there. False: the queue was given up. */
static bool make_room(pc_dsa *dsa, pc_queue *queue, pc_flight *flight)
{
    uint32_t size = queue->limits.queue_size;
    while (flight->rounds == 0 && queue->oldest != NULL &&
           queue->entries + flight->entries > size) {
        pc_flight_settle_oldest(dsa);
        if (dsa->queue == NULL)
            return false;
    }
    uint32_t free = queue->entries < size ? size - queue->entries : 0;
    if (flight->entries > free)
        flight->entries = free; /* the CPU decides what is over */
    return true;
}

/* The queue took nothing: others keep it full, or it is no longer there. */
__attribute__((noinline, cold)) static void not_taken(pc_dsa *dsa, pc_queue *queue,
                                                      pc_flight *flight)
{
    dsa->stats->queue_full++;
    pc_flight_abandon(dsa, flight);
    if (!pc_portal_is_enabled(queue->portal)) {
        pc_dsa_close(dsa, PC_QUEUE_DISABLED, 0);
        return;
    }
    queue->rest_ns = queue->rest_ns == 0 ? REST_MIN_NS : queue->rest_ns * 2;
    if (queue->rest_ns > REST_MAX_NS)
        queue->rest_ns = REST_MAX_NS;
    queue->rest_until_ns = pc_clock_now_ns() + queue->rest_ns;
    queue->takes_bytes = 0;
    dsa->stats->queue_state = PC_QUEUE_UP | (uint64_t)PC_QUEUE_FULL << 8;
}

void pc_flight_launch(pc_dsa *dsa, pc_flight *flight)
{
    pc_queue *queue = dsa->queue;
    flight->taken = 0;
    const struct dsa_hw_desc *first = arrange(queue, flight);
    if (!make_room(dsa, queue, flight)) {
        pc_flight_abandon(dsa, flight); /* it was in no list when the queue was given up */
        return;
    }
    flight->submitted_ns = pc_clock_now_ns();
    if (queue->takes_bytes == 0) { /* it was full while this one was filled */
        pc_flight_abandon(dsa, flight);
        return;
    }
    long took = submit(dsa, queue, first, flight->entries);
    dsa->stats->submit_ns += (uint64_t)(pc_clock_now_ns() - flight->submitted_ns);
    if (took < 0) {
        refused(dsa, queue, flight, (int)-took);
        return;
    }
    if (took == 0) {
        not_taken(dsa, queue, flight);
        return;
    }
    queue->rest_ns = 0;
    flight->entries = (uint32_t)took;
    flight->taken = flight->batched ? flight->count : (uint32_t)took;
    queue->entries += flight->entries;
    flight->rounds++;
    dsa->stats->batches += flight->batched;
    dsa->stats->descriptors += flight->taken;
    append(queue, flight);
}
