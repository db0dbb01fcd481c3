/* What each record means, and what becomes of the pages that it does not prove.
 *
 * A page is zero only by a record of status 1 and result 0 that covers it, or if it lies wholly
 * below the position of the first difference or of the fault (8.2.4: that position is never past
 * the first byte that differs). The position itself may be rounded down, so the page that holds it
 * is looked at by the CPU. What follows is submitted again, a bounded number of times. */
#include "pc_dsa_settle.h"

#include "pc_dsa_status.h"
#include "pc_ring.h"

#define ERRORS_MAX 256u  /* descriptors in a row: such a queue only costs */
#define RUN_PAGES_MIN 8u /* learned at least; with 4, a guest needs twice the descriptors */

#define STATUS_ZERO 0x0001u     /* status 1, result 0 in the second byte */
#define STATUS_MISMATCH 0x0101u /* status 1, result 1 */

/* Status and result, which are one aligned halfword. */
typedef uint16_t __attribute__((may_alias)) record_head;

#define RECORD_MASK (0xff00u | PC_IDXD_STATUS_MASK)

static uint32_t record_word(const struct dsa_completion_record *record)
{
    /* acquire: the position was written before the status */
    return __atomic_load_n((const record_head *)record, __ATOMIC_ACQUIRE) & RECORD_MASK;
}

/* The flight's own memory is reused for what is left of it: every record is in, so the device is
 * done with it. */
typedef struct leftover {
    pc_flight *flight;
    uint32_t count;
} leftover;

static void keep(leftover *left, const pc_task *task, uint32_t index, uint32_t pages)
{
    struct dsa_hw_desc *each = &left->flight->descriptors[left->count];
    const pc_block *block = task->block;
    uint64_t offset = task->batch.offsets != NULL
                          ? task->batch.offsets[index]
                          : task->batch.first + (uint64_t)index * block->page_bytes;
    each->src_addr = (uintptr_t)block->base + offset;
    each->xfer_size = (uint32_t)(pages * block->page_bytes);
    left->flight->members[left->count++] = (pc_member){.index = index, .pages = pages};
}

/* Pages that the record proves zero, counted from the member's first. */
static uint32_t proven(const struct dsa_completion_record *record, const pc_member *member,
                       uint64_t page_bytes)
{
    uint64_t pages = record->bytes_completed / page_bytes;
    return pages < member->pages ? (uint32_t)pages : 0; /* an invalid position proves nothing */
}

/* Where a mismatch is: the position may have been rounded down, so the CPU looks at pages from
 * `at` on until one is not zero. Returns the one behind that. */
static uint32_t find_mismatch(pc_dsa *dsa, const pc_task *task, uint32_t at, uint32_t end)
{
    bool zero = true;
    while (at < end && zero) {
        pc_block_redecide(task, at, (size_t)at + 1);
        dsa->stats->pages_completed++;
        zero = pc_bits_test(task->zero, at++);
    }
    return at;
}

/* A member with a mismatch or a fault inside: its proven pages are zero, the page at fault is for
 * the CPU, and the rest is kept to be submitted again. */
static void refine(pc_dsa *dsa, leftover *left, pc_task *task, const pc_member *member,
                   const struct dsa_completion_record *record, bool fault)
{
    uint32_t at = proven(record, member, task->block->page_bytes);
    uint32_t end = member->index + member->pages;
    pc_bits_set(task->zero, member->index, at);
    dsa->stats->pages_device += at;
    at += member->index;
    if (fault)
        pc_task_put_back(task, at++, 1);
    else
        at = find_mismatch(dsa, task, at, end);
    if (at == end)
        return;
    if (left->flight->rounds < PC_DSA_ROUNDS)
        keep(left, task, at, end - at);
    else
        pc_task_put_back(task, at, end - at);
}

/* Every status but the two that are answers. True: an error, not a fault. */
static bool settle_other(pc_dsa *dsa, pc_queue *queue, leftover *left, pc_task *task,
                         const pc_member *member, uint32_t i)
{
    const struct dsa_hw_desc *descriptor = &left->flight->descriptors[i];
    const struct dsa_completion_record *record = &left->flight->records[i];
    uint32_t word = record_word(record), status = word & 0xffu;
    pc_dsa_count_record(dsa, descriptor, record);
    if (status == DSA_COMP_XFER_ERANGE && pc_queue_learn_transfer(queue, descriptor->xfer_size)) {
        pc_task_put_back(task, member->index, member->pages);
        return false;
    }
    bool fault = status == DSA_COMP_PAGE_FAULT_NOBOF || status == DSA_COMP_PAGE_FAULT_IR;
    if (fault && word >> 8 == 0)
        refine(dsa, left, task, member, record, true);
    else
        pc_task_put_back(task, member->index, member->pages);
    return !fault;
}

/* A member without a record. True: an error; not where its batch never came so far. */
static bool settle_missing(leftover *left, pc_task *task, const pc_member *member, pc_batch_end end)
{
    bool never_ran = end == PC_BATCH_CUT || end == PC_BATCH_REFUSED;
    if (never_ran && left->flight->rounds < PC_DSA_ROUNDS)
        keep(left, task, member->index, member->pages);
    else
        pc_task_put_back(task, member->index, member->pages);
    return !never_ran;
}

/* Learns how many pages a descriptor should cover. */
static void grow_runs(pc_queue *queue, uint64_t bytes)
{
    if (bytes * 2 > queue->run_bytes)
        queue->run_bytes *= 2;
    if (queue->run_bytes > queue->limits.transfer_max)
        queue->run_bytes = queue->limits.transfer_max;
}

/* Descriptors of one page would never make it grow again, and those of a few only slowly. */
static void shrink_runs(pc_queue *queue, uint64_t page_bytes)
{
    if (queue->run_bytes >= 2 * RUN_PAGES_MIN * page_bytes)
        queue->run_bytes /= 2;
}

/* Makes bits of the whole flight if each page has a record of its own that proves it zero, which is
 * what most flights are. Proof stands alone: it needs no batch record. Returns how many pages. */
static uint32_t settle_all_zero(const pc_flight *flight)
{
    if (flight->pages != flight->count || flight->taken != flight->count)
        return 0;
    const struct dsa_completion_record *records = flight->records;
    const uint32_t count = flight->count;
    uint64_t all = UINT64_MAX, any = 0;
#pragma GCC unroll 16
    for (uint32_t i = 0; i < count; i++) { /* relaxed: nothing else of these records is read */
        uint64_t word = __atomic_load_n((const record_head *)&records[i], __ATOMIC_RELAXED);
        all &= word;
        any |= word;
    }
    if ((all & RECORD_MASK) != STATUS_ZERO || (any & RECORD_MASK) != STATUS_ZERO)
        return 0;
    for (uint32_t i = 0; i < flight->groups; i++) {
        const pc_candidates *group = &flight->group[i];
        flight->task->zero[group->word] |= group->pages;
    }
    return count;
}

/* All records that will come are in; the first `proven` are bits already; `end` is that of the
 * batch. Returns how many members are to be submitted again. */
static uint32_t settle_members(pc_dsa *dsa, pc_queue *queue, pc_flight *flight, uint32_t proven,
                               pc_batch_end end)
{
    pc_task *task = flight->task;
    leftover left = {flight, 0};
    uint32_t zeros = proven, mismatches = 0, device_pages = proven, errors = 0;
    for (uint32_t i = proven; i < flight->count; i++) {
        const pc_member member = flight->members[i];
        const struct dsa_completion_record *record = &flight->records[i];
        uint32_t word = i < flight->taken ? record_word(record) : 0;
        if (word == STATUS_ZERO) {
            if (member.pages == 1) {
                task->zero[member.index / 64] |= UINT64_C(1) << (member.index % 64);
            } else {
                pc_bits_set(task->zero, member.index, member.pages);
                grow_runs(queue, flight->descriptors[i].xfer_size);
            }
            device_pages += member.pages;
            zeros++;
        } else if (word == STATUS_MISMATCH) {
            mismatches++;
            if (member.pages == 1) {
                device_pages++; /* decided, and not zero */
            } else {
                dsa->stats->refined++;
                shrink_runs(queue, task->block->page_bytes);
                refine(dsa, &left, task, &member, record, false);
            }
        } else if ((word & 0xffu) != 0) {
            errors += settle_other(dsa, queue, &left, task, &member, i);
        } else if (i < flight->taken) {
            errors += settle_missing(&left, task, &member, end);
        } else {
            pc_task_put_back(task, member.index, member.pages);
        }
    }
    dsa->stats->pages_device += device_pages;
    dsa->stats->statuses[DSA_COMP_SUCCESS] += zeros + mismatches;
    queue->errors = zeros + mismatches != 0 ? 0 : queue->errors + errors;
    flight->count = left.count;
    flight->pages = 0;
    return left.count;
}

/* Takes the oldest flight off the list. */
static pc_flight *take_oldest(pc_queue *queue)
{
    pc_flight *flight = queue->oldest;
    queue->oldest = flight->next;
    if (queue->oldest == NULL)
        queue->newest = NULL;
    queue->entries -= flight->entries;
    return flight;
}

static uint32_t batch_status(const pc_flight *flight)
{
    return record_word(flight->batch_record) & 0xffu;
}

/* How many members, from the first on, must have a record. Of a batch that an error ended that
 * is unknown, so all are waited for; of a failed one, too: only a fence abandons members, and none
 * is ever asked for. */
static uint32_t must_be_there(const pc_flight *flight)
{
    uint32_t done = flight->batch_record->bytes_completed;
    switch (pc_batch_end_of(batch_status(flight))) {
    case PC_BATCH_CUT:
        return done < flight->taken ? done : flight->taken;
    case PC_BATCH_REFUSED:
        return 0;
    default:
        return flight->taken;
    }
}

static bool is_there(const struct dsa_completion_record *record)
{
    return __atomic_load_n(&record->status, __ATOMIC_ACQUIRE) != 0;
}

/* Whether a record is missing, from member `begin` on, that the device may still write. */
static bool record_is_missing(const pc_flight *flight, uint32_t begin)
{
    if (begin == flight->taken)
        return false;
    uint32_t end = must_be_there(flight);
    for (uint32_t i = begin; i < end; i++)
        if (!is_there(&flight->records[i]))
            return true;
    return false;
}

bool pc_flight_is_done(const pc_flight *flight)
{
    if (flight->batched)
        return is_there(flight->batch_record) && !record_is_missing(flight, 0);
    for (uint32_t i = 0; i < flight->taken; i++)
        if (!is_there(&flight->records[i]))
            return false;
    return true;
}

/* The batch's own record. */
static pc_batch_end settle_batch(pc_dsa *dsa, pc_queue *queue, pc_flight *flight)
{
    uint32_t status = batch_status(flight);
    if (status == DSA_COMP_SUCCESS) { /* as nearly all: nothing to learn */
        dsa->stats->statuses[DSA_COMP_SUCCESS]++;
        queue->unbatched = 0;
        return PC_BATCH_RAN;
    }
    pc_dsa_count_record(dsa, flight->batch, flight->batch_record);
    pc_queue_learn_from_batch(queue, flight, status);
    return pc_batch_end_of(status);
}

/* Waits for every record of the flight. False: not all came in time. */
static bool wait_for(pc_dsa *dsa, const pc_flight *flight, int64_t deadline_ns)
{
    const struct dsa_completion_record *records =
        flight->batched ? flight->batch_record : flight->records;
    const uint32_t count = flight->batched ? 1 : flight->taken;
    uint32_t at = 0;
    while (at < count && is_there(&records[at]))
        at++;
    if (at == count)
        return true;
    int64_t begin = pc_clock_now_ns();
    bool came = true;
    for (; came && at < count; at++)
        came = pc_pace_wait(&dsa->pace, &records[at].status, flight->submitted_ns, deadline_ns);
    dsa->stats->wait_ns += (uint64_t)(pc_clock_now_ns() - begin);
    return came;
}

/* Keeps what was waited for in vain: the batch, or the first descriptor without a record. */
static void keep_missing(pc_dsa *dsa, const pc_flight *flight)
{
    uint32_t at = 0;
    if (flight->batched) {
        pc_dsa_keep_failure(dsa, flight->batch, flight->batch_record);
        return;
    }
    while (at + 1 < flight->taken && is_there(&flight->records[at])) /* it may come just now */
        at++;
    pc_dsa_keep_failure(dsa, &flight->descriptors[at], &flight->records[at]);
}

/* Why a queue is abandoned whose oldest flight has not all of its records. */
static pc_queue_end why_incomplete(pc_dsa *dsa, const pc_flight *flight, bool came)
{
    dsa->stats->timeouts += !came;
    if (came)
        return pc_batch_end_of(batch_status(flight)) == PC_BATCH_BROKEN ? PC_QUEUE_BROKEN
                                                                        : PC_QUEUE_LOST;
    if (!pc_portal_is_enabled(dsa->queue->portal))
        return PC_QUEUE_DISABLED;
    keep_missing(dsa, flight);
    return PC_QUEUE_LOST;
}

bool pc_flight_settle_oldest(pc_dsa *dsa, pc_queue_end *end)
{
    pc_queue *queue = dsa->queue;
    pc_flight *flight = queue->oldest;
    bool came = wait_for(dsa, flight, flight->submitted_ns + queue->limits.deadline_ns);
    uint32_t proven = came ? settle_all_zero(flight) : 0;
    if (!came || (flight->batched && record_is_missing(flight, proven))) {
        *end = why_incomplete(dsa, flight, came);
        return false;
    }
    take_oldest(queue);
    pc_batch_end batch = flight->batched ? settle_batch(dsa, queue, flight) : PC_BATCH_RAN;
    uint32_t again = settle_members(dsa, queue, flight, proven, batch);
    pc_decider_advance(flight->task->decider);
    if (again != 0) {
        pc_flight_make_ready(queue, flight);
    } else {
        flight->task->flights--;
        pc_flight_push(&queue->unused, flight);
    }
    *end = PC_QUEUE_BROKEN;
    return queue->errors < ERRORS_MAX;
}

void pc_flight_abandon(pc_dsa *dsa, pc_flight *flight)
{
    pc_task *task = flight->task;
    if (flight->batched && flight->taken != 0 && is_there(flight->batch_record))
        pc_dsa_count_record(dsa, flight->batch, flight->batch_record);
    for (uint32_t i = 0; i < flight->count; i++) {
        const pc_member member = flight->members[i];
        uint32_t word = i < flight->taken ? record_word(&flight->records[i]) : 0;
        if ((word & 0xffu) != 0)
            pc_dsa_count_record(dsa, &flight->descriptors[i], &flight->records[i]);
        if (word == STATUS_ZERO) {
            pc_bits_set(task->zero, member.index, member.pages);
            dsa->stats->pages_device += member.pages;
        } else {
            pc_task_put_back(task, member.index, member.pages);
        }
    }
    flight->count = 0;
    task->flights--;
}
