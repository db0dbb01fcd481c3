/* A work queue from its opening until it is drained.
 *
 * Draining is the portal's close, which waits in the kernel until the device holds nothing of this
 * process. It runs in a thread of its own, because a device that hangs keeps it there forever. Only
 * when it has returned are the descriptors and records freed. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "pc_dsa_settle.h"
#include "pc_dsa_status.h"
#include "pc_ring.h"

#define FLIGHT_HEAD_BYTES 128u /* the batch descriptor, and its record on a line of its own */
#define FLIGHT_BYTES (FLIGHT_HEAD_BYTES + PC_DSA_MEMBERS * (PC_DESCRIPTOR_BYTES + PC_RECORD_BYTES))
#define RUN_PAGES_AT_FIRST 16u
#define TRANSFER_MAX (UINT64_C(1) << 31) /* the most of any device; a size has 32 bits */
#define LOOK_NS 1000000

void pc_dsa_init(struct pc_stats *stats, struct pc_failure *failure, pc_dsa *dsa)
{
    memset(dsa, 0, sizeof *dsa);
    dsa->stats = stats;
    dsa->failure = failure;
}

/* What stays the same in every use of a flight's memory. */
static void prepare(pc_flight *flight, unsigned char *memory)
{
    flight->batch = (struct dsa_hw_desc *)memory;
    flight->batch_record = (struct dsa_completion_record *)(memory + PC_DESCRIPTOR_BYTES);
    flight->descriptors = (struct dsa_hw_desc *)(memory + FLIGHT_HEAD_BYTES);
    flight->records = (struct dsa_completion_record *)(flight->descriptors + PC_DSA_MEMBERS);
    flight->batch->opcode = DSA_OPCODE_BATCH;
    flight->batch->flags = IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR;
    flight->batch->completion_addr = (uintptr_t)flight->batch_record;
    flight->batch->desc_list_addr = (uintptr_t)flight->descriptors;
    for (uint32_t i = 0; i < PC_DSA_MEMBERS; i++) {
        struct dsa_hw_desc *each = &flight->descriptors[i];
        each->opcode = DSA_OPCODE_COMPVAL; /* against the pattern 0 that is there already */
        each->flags = IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR; /* 8.1.3: it must have both */
        each->completion_addr = (uintptr_t)&flight->records[i];
    }
}

static void queue_free(pc_queue *queue)
{
    if (queue->region != NULL)
        munmap(queue->region, queue->region_bytes);
    free(queue);
}

static pc_queue *queue_new(pc_portal *portal, const pc_dsa_limits *limits)
{
    pc_queue *queue = calloc(1, sizeof *queue);
    if (queue == NULL)
        return NULL;
    queue->portal = portal;
    queue->limits = *limits;
    if (queue->limits.transfer_max > TRANSFER_MAX)
        queue->limits.transfer_max = TRANSFER_MAX;
    queue->page_max_bytes = queue->limits.transfer_max;
    queue->members = PC_DSA_MEMBERS;
    pc_queue_limit_batches(queue, limits->batch_max);
    queue->run_bytes = RUN_PAGES_AT_FIRST * 4096u;
    if (queue->run_bytes > limits->transfer_max)
        queue->run_bytes = limits->transfer_max;
    if (!limits->runs)
        queue->run_bytes = 0; /* and it stays so: only the answer to a run makes it grow */
    queue->region_bytes = (size_t)PC_DSA_FLIGHTS * FLIGHT_BYTES;
    void *region = mmap(NULL, queue->region_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (region == MAP_FAILED) {
        free(queue);
        return NULL;
    }
    queue->region = region;
    for (uint32_t i = 0; i < PC_DSA_FLIGHTS; i++) {
        pc_flight *flight = &queue->flights[i];
        prepare(flight, queue->region + (size_t)i * FLIGHT_BYTES);
        flight->next = queue->unused;
        queue->unused = flight;
    }
    return queue;
}

bool pc_dsa_open(pc_dsa *dsa, pc_portal *portal, const pc_dsa_limits *limits)
{
    pc_queue *queue = NULL;
    if (dsa->queue == NULL)
        queue = queue_new(portal, limits);
    if (queue == NULL) {
        portal->ops->close(portal); /* nothing was submitted: it has nothing to wait for */
        errno = ENOMEM;
        return false;
    }
    if (portal->ops->register_memory != NULL) {
        int error = -portal->ops->register_memory(portal, queue->region, queue->region_bytes, true);
        if (error != 0) {
            portal->ops->close(portal);
            queue_free(queue);
            errno = error;
            return false;
        }
    }
    pc_pace_init(&dsa->pace);
    dsa->queue = queue;
    dsa->stats->opens++;
    dsa->stats->queue_state = PC_QUEUE_UP;
    return true;
}

static void *drain(void *argument)
{
    pc_queue *queue = argument;
    queue->portal->ops->close(queue->portal);
    /* release; pairs with the acquire load in pc_dsa_state */
    __atomic_store_n(&queue->drained, 1, __ATOMIC_RELEASE);
    return NULL;
}

/* No thread can be had: the queue stays open and its memory stays, until the process ends. */
static void drain_in_a_thread(pc_queue *queue)
{
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&thread, NULL, drain, queue) == 0)
        pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void pc_dsa_close(pc_dsa *dsa, pc_queue_end end, int error)
{
    pc_queue *queue = dsa->queue;
    if (queue == NULL)
        return;
    dsa->queue = NULL; /* first: nothing below submits again */
    dsa->end = end;
    dsa->error = error;
    queue->next = dsa->draining;
    dsa->draining = queue;
    dsa->stats->queue_state = pc_queue_word(PC_QUEUE_DRAINING, end);
    queue->overdue = queue->oldest;
    queue->oldest = queue->newest = NULL;
    /* Before the thread starts: it may free the queue's portal, not the flights. */
    for (pc_flight *each = queue->overdue; each != NULL; each = each->next)
        pc_flight_abandon(dsa, each);
    for (pc_flight *each = queue->ready; each != NULL; each = each->next)
        pc_flight_abandon(dsa, each);
    queue->ready = NULL;
    drain_in_a_thread(queue);
}

/* The device holds nothing of it any more. If every record is there by now, it was late, and
 * nothing is wrong but that others keep it busy. */
static void reap(pc_dsa *dsa, pc_queue *queue)
{
    bool late = queue->overdue != NULL;
    for (const pc_flight *each = queue->overdue; each != NULL; each = each->next)
        late = late && pc_flight_is_done(each);
    if (late && dsa->end == PC_QUEUE_LOST)
        dsa->end = PC_QUEUE_LATE;
    queue_free(queue);
}

pc_queue_state pc_dsa_state(pc_dsa *dsa)
{
    pc_queue **link = &dsa->draining;
    while (*link != NULL) {
        pc_queue *queue = *link;
        if (__atomic_load_n(&queue->drained, __ATOMIC_ACQUIRE) != 0) {
            *link = queue->next;
            reap(dsa, queue);
        } else {
            link = &queue->next;
        }
    }
    pc_queue_state state = PC_QUEUE_NONE;
    pc_queue_end end = dsa->end;
    if (dsa->queue != NULL) {
        state = PC_QUEUE_UP;
        end = dsa->queue->backoff_ns != 0 ? PC_QUEUE_FULL : PC_QUEUE_CLOSED;
    } else if (dsa->draining != NULL) {
        state = PC_QUEUE_DRAINING;
    }
    dsa->stats->queue_state = pc_queue_word(state, end);
    return state;
}

bool pc_dsa_deinit(pc_dsa *dsa, int64_t deadline_ns)
{
    pc_dsa_close(dsa, PC_QUEUE_CLOSED, 0);
    while (pc_dsa_state(dsa) == PC_QUEUE_DRAINING) {
        struct timespec pause = {.tv_nsec = LOOK_NS};
        if (pc_clock_now_ns() >= deadline_ns)
            return false;
        nanosleep(&pause, NULL);
    }
    return true;
}

bool pc_dsa_register(pc_dsa *dsa, const void *base, size_t bytes)
{
    if (dsa->queue == NULL || dsa->queue->portal->ops->register_memory == NULL)
        return true;
    return dsa->queue->portal->ops->register_memory(dsa->queue->portal, base, bytes, false) == 0;
}

void pc_dsa_unregister(pc_dsa *dsa, const void *base)
{
    if (dsa->queue != NULL && dsa->queue->portal->ops->unregister_memory != NULL)
        dsa->queue->portal->ops->unregister_memory(dsa->queue->portal, base);
}
