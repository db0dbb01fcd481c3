/* The loop that every batch passes: wait, copy and check the request, decide, answer, wake.
 *
 * Who submits is not believed: the request is copied once and only the copy is used. Waking: who
 * submits stores wake_at, fences and reads the answers again before it sleeps; this side stores the
 * answer, fences and reads wake_at. One of the two sees the other. A sleeper is woken once: answers
 * come in order, so that its answer is there for every later look.
 *
 * With a work queue several batches are begun before the first is answered, so that the CPU
 * prepares one while the device has the others. Danger: a batch that kills its worker must be
 * distinguished from those beside it. So a new worker answers its first batches one by one, and
 * `deciding` names the oldest that is begun: a batch that kills is alone when it does so again. */
#include "pc_worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pc_bits.h"
#include "pc_copy.h"
#include "pc_offsets.h"

typedef struct request {
    uint32_t kind;
    uint32_t block;
    uint64_t first_page;
    uint32_t count;
} request;

bool pc_worker_init(const pc_ring *ring, const pc_kernel *kernel, pc_worker *worker)
{
    memset(worker, 0, sizeof *worker);
    worker->ring = *ring;
    worker->next = 1;
    pc_dsa_init(&ring->control->stats, &ring->control->failure, &worker->dsa);
    const size_t words = ring->shared.slot_pages + ring->shared.slot_pages / 64u;
    worker->offsets = malloc(PC_WINDOW * words * sizeof *worker->offsets);
    for (uint32_t i = 0; worker->offsets != NULL && i < PC_WINDOW; i++) {
        worker->begun[i].offsets = worker->offsets + i * words;
        worker->begun[i].unproven = worker->begun[i].offsets + ring->shared.slot_pages;
    }
    if (worker->offsets == NULL ||
        !pc_decider_init(kernel, &ring->control->progress, &worker->decider))
        return false;
    worker->decider.holes = &ring->control->stats.holes;
    return true;
}

bool pc_worker_deinit(pc_worker *worker, int64_t deadline_ns)
{
    bool drained = pc_dsa_deinit(&worker->dsa, deadline_ns);
    for (uint32_t at = 0; drained && at < PC_BLOCKS_MAX; at++)
        if (worker->blocks[at] != NULL)
            pc_worker_detach(worker, at);
    if (drained)
        pc_worker_queue_state(worker);
    pc_decider_deinit(&worker->decider);
    free(worker->offsets);
    pc_ring_close(&worker->ring);
    memset(worker, 0, sizeof *worker);
    return drained;
}

bool pc_worker_open_queue(pc_worker *worker, pc_portal *portal, const pc_dsa_limits *limits)
{
    if (!pc_dsa_open(&worker->dsa, portal, limits))
        return false;
    for (uint32_t id = 0; id < PC_BLOCKS_MAX; id++) {
        const pc_block *block = worker->blocks[id];
        if (block != NULL && block->base != NULL &&
            !pc_dsa_register(&worker->dsa, block->base, block->bytes)) {
            pc_dsa_close(&worker->dsa, PC_QUEUE_CLOSED, 0);
            errno = ENOSPC;
            return false;
        }
    }
    worker->queue_up = true;
    return true;
}

bool pc_worker_attach(pc_worker *worker, uint32_t id, pc_block *block)
{
    if (block->base != NULL && !pc_dsa_register(&worker->dsa, block->base, block->bytes)) {
        pc_block_free(block);
        return false;
    }
    block->id = id;
    worker->blocks[id % PC_BLOCKS_MAX] = block;
    return true;
}

void pc_worker_detach(pc_worker *worker, uint32_t id)
{
    pc_block *block = worker->blocks[id % PC_BLOCKS_MAX];
    worker->blocks[id % PC_BLOCKS_MAX] = NULL;
    if (block->base != NULL)
        pc_dsa_unregister(&worker->dsa, block->base);
    block->next = worker->retired;
    worker->retired = block;
    pc_worker_queue_state(worker);
}

pc_queue_state pc_worker_queue_state(pc_worker *worker)
{
    pc_queue_state state = pc_dsa_state(&worker->dsa);
    while (worker->dsa.draining == NULL && worker->retired != NULL) {
        pc_block *block = worker->retired;
        worker->retired = block->next;
        pc_block_free(block);
    }
    return state;
}

const pc_block *pc_worker_block(const pc_worker *worker, uint32_t id)
{
    const pc_block *block = worker->blocks[id % PC_BLOCKS_MAX];
    return block != NULL && block->id == id ? block : NULL;
}

void pc_worker_copy_to(pc_worker *worker, uint32_t id, pc_sink *sink)
{
    worker->blocks[id % PC_BLOCKS_MAX]->sink = sink;
}

/* Copies the offsets and checks the copy. */
static bool copy_offsets(uint64_t *copy, struct pagecheck_slot *slot, const pc_block *block,
                         uint32_t count)
{
    memcpy(copy, pgck_slot_offsets(slot), count * sizeof *copy);
    return pc_offsets_are_pages(copy, count, block->page_bytes, block->bytes);
}

/* Returns 0 after it began to decide the batch into the slot, else why it is refused. */
static uint32_t begin(pc_worker *worker, struct pagecheck_slot *slot, const request *asked,
                      pc_begun *begun)
{
    const pc_ring *ring = &worker->ring;
    if (asked->count == 0 || asked->count > ring->shared.slot_pages)
        return PAGECHECK_REFUSED_COUNT;
    const pc_block *block = pc_worker_block(worker, asked->block);
    if (block == NULL)
        return PAGECHECK_REFUSED_BLOCK;
    pc_task *task = &begun->task;
    const bool device = worker->dsa.queue != NULL;
    *task = (pc_task){.block = block,
                      .decider = &worker->decider,
                      .copies = block->sink != NULL && (!device || block->base == NULL),
                      .batch = {.count = asked->count},
                      .zero = pgck_slot_zero(slot, ring->shared.slot_pages),
                      .decided = pgck_slot_decided(slot, ring->shared.slot_pages),
                      .unproven = begun->unproven};
    uint64_t pages = block->bytes / block->page_bytes;
    if (asked->kind == PAGECHECK_PAGES_RANGE) {
        if (asked->first_page >= pages || asked->count > pages - asked->first_page)
            return PAGECHECK_REFUSED_PAGES;
        task->batch.first = asked->first_page * block->page_bytes;
    } else if (asked->kind == PAGECHECK_PAGES_OFFSETS) {
        if (!copy_offsets(begun->offsets, slot, block, asked->count))
            return PAGECHECK_REFUSED_PAGES;
        task->batch.offsets = begun->offsets;
    } else {
        return PAGECHECK_REFUSED_KIND;
    }
    if (device)
        pc_dsa_start(&worker->dsa, task);
    else
        pc_block_start(task);
    return 0;
}

static bool request_waits(const pc_worker *worker)
{
    const struct pagecheck_slot *slot = pgck_slot(&worker->ring.shared, worker->next);
    /* acquire; pairs with the release store in pgck_ring_submit */
    return __atomic_load_n(&slot->request, __ATOMIC_ACQUIRE) ==
           (worker->next << 8 | PAGECHECK_REQUEST_SUBMITTED);
}

/* Begins the next batch, if there is one. */
static bool begin_next(pc_worker *worker)
{
    struct pagecheck_slot *slot = pgck_slot(&worker->ring.shared, worker->next);
    if (!request_waits(worker))
        return false;
    /* Each field is loaded exactly once: what is checked is what is used. */
    const request asked = {
        .kind = __atomic_load_n(&slot->kind, __ATOMIC_RELAXED),
        .block = __atomic_load_n(&slot->block, __ATOMIC_RELAXED),
        .first_page = __atomic_load_n(&slot->first_page, __ATOMIC_RELAXED),
        .count = __atomic_load_n(&slot->count, __ATOMIC_RELAXED),
    };
    uint32_t at = (worker->oldest + (uint32_t)(worker->next - 1 - worker->answered)) % PC_WINDOW;
    pc_begun *begun = &worker->begun[at];
    __atomic_store_n(&worker->ring.control->deciding, worker->answered + 1, __ATOMIC_RELAXED);
    begun->begun_ns = pc_clock_now_ns();
    begun->task.flights = begun->task.offloaded = 0;
    begun->refusal = begin(worker, slot, &asked, begun);
    worker->next++;
    return true;
}

/* Counts a batch before its answer is stored: who has the answer finds it counted. The bits are in
 * the ring, where a hostile submitter may change them under us: counts stay plausible whatever they
 * say. */
static void count(struct pc_stats *stats, const pc_begun *begun)
{
    const pc_task *task = &begun->task;
    if (begun->refusal != 0) {
        stats->refused++;
        return;
    }
    uint64_t zero = pc_bits_count(task->zero, task->batch.count);
    uint64_t decided = pc_bits_count(task->decided, task->batch.count);
    if (zero > decided)
        zero = decided;
    uint64_t took_ns = (uint64_t)(pc_clock_now_ns() - begun->begun_ns);
    stats->pages_cpu += task->batch.count - task->offloaded;
    stats->answered++;
    stats->zero += zero;
    stats->normal += decided - zero;
    stats->undecided += task->batch.count - decided;
    stats->bytes += decided * task->block->page_bytes;
    stats->latency_ns += took_ns;
    stats->latencies[pc_latency_bucket(took_ns)]++;
}

/* Takes the last step of a batch that is not refused. */
static void finish(pc_worker *worker, pc_task *task)
{
    if (task->offload != NULL)
        pc_dsa_finish(&worker->dsa, task);
    if (task->block->sink != NULL && !task->copies)
        pc_copy_pages(task, 0, task->batch.count, NULL);
}

/* Ends the oldest batch that was begun and answers it. */
static void answer_oldest(pc_worker *worker)
{
    struct pagecheck_ring_header *header = worker->ring.shared.header;
    pc_begun *begun = &worker->begun[worker->oldest];
    uint64_t sequence = worker->answered + 1;
    struct pagecheck_slot *slot = pgck_slot(&worker->ring.shared, sequence);
    if (begun->refusal == 0)
        finish(worker, &begun->task);
    count(worker->dsa.stats, begun);
    slot->refusal = begun->refusal;
    uint64_t state = begun->refusal == 0 ? PAGECHECK_ANSWER_DONE : PAGECHECK_ANSWER_REFUSED;
    /* release; pairs with the acquire load in pgck_ring_look */
    __atomic_store_n(&slot->answer, sequence << 8 | state, __ATOMIC_RELEASE);
    worker->answered = sequence;
    worker->oldest = (worker->oldest + 1) % PC_WINDOW;
    bool more = worker->next - 1 > sequence;
    __atomic_store_n(&worker->ring.control->deciding, more ? sequence + 1 : 0, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with the fence in pgck_ring_sleep */
    uint64_t wake_at = __atomic_load_n(&header->wake_at, __ATOMIC_RELAXED);
    if (sequence < wake_at || worker->woken_for == wake_at)
        return;
    worker->woken_for = wake_at;
    __atomic_fetch_add(&header->done, 1, __ATOMIC_RELEASE);
    pgck_futex_wake(&header->done);
}

/* The next piece of work; false: there is none. */
static bool work(pc_worker *worker)
{
    uint64_t begun = worker->next - 1 - worker->answered;
    if (begun == 0) {
        worker->oldest = 0; /* the CPU engine stays with one copy of the offsets */
        if (!begin_next(worker))
            return false;
        /* The first batches of a worker are answered one by one, see above. */
        if (worker->dsa.queue == NULL || worker->answered < PC_WINDOW)
            answer_oldest(worker);
        return true;
    }
    pc_dsa_poll(&worker->dsa);
    if (worker->begun[worker->oldest].task.flights == 0 || begun == PC_WINDOW ||
        worker->dsa.queue == NULL || !begin_next(worker))
        answer_oldest(worker);
    return true;
}

static bool in_flight(const pc_worker *worker)
{
    return worker->next - 1 > worker->answered;
}

/* Brings the statistics up to date before the worker sleeps; the CPU engine saves the call. */
static void note_cpu_time(pc_worker *worker)
{
    struct timespec now;
    if (worker->dsa.stats->opens == 0)
        return;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    worker->dsa.stats->cpu_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static bool attention_raised(pc_worker *worker)
{
    uint64_t now = __atomic_load_n(&worker->ring.control->attention, __ATOMIC_ACQUIRE);
    if (now == worker->attention_seen)
        return false;
    worker->attention_seen = now;
    return true;
}

/* Why to return to the caller; PC_SERVE_TIMEOUT: there is no reason. */
static pc_serve reason_to_return(pc_worker *worker)
{
    if (attention_raised(worker))
        return PC_SERVE_ATTENTION;
    if (worker->queue_up && worker->dsa.queue == NULL) {
        worker->queue_up = false;
        return PC_SERVE_QUEUE;
    }
    return PC_SERVE_TIMEOUT;
}

static pc_serve end_with(pc_worker *worker, pc_serve result)
{
    while (in_flight(worker))
        answer_oldest(worker);
    note_cpu_time(worker);
    return result;
}

static bool something_waits(const pc_worker *worker)
{
    return request_waits(worker) || __atomic_load_n(&worker->ring.control->attention,
                                                    __ATOMIC_ACQUIRE) != worker->attention_seen;
}

/* Looks for work without sleeping, for a bounded time. */
static bool spin(const pc_worker *worker, int64_t deadline_ns)
{
    int64_t until_ns = pc_clock_now_ns() + worker->spin_ns;
    if (until_ns > deadline_ns)
        until_ns = deadline_ns;
    do {
        for (int i = 0; i < 64; i++) {
            if (something_waits(worker))
                return true;
            pgck_relax();
        }
    } while (pc_clock_now_ns() < until_ns);
    return false;
}

/* Sleeps until there is something to look at, at most until the absolute time; 0 or a negative
 * errno. */
static int sleep_until(pc_worker *worker, int64_t deadline_ns)
{
    struct pagecheck_ring_header *header = worker->ring.shared.header;
    int code = 0;
    if (worker->spin_ns > 0 && spin(worker, deadline_ns))
        return 0;
    uint32_t seen = __atomic_load_n(&header->submit, __ATOMIC_ACQUIRE);
    __atomic_store_n(&header->asleep, PAGECHECK_ASLEEP | seen, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with the fence in pgck_ring_wake_worker */
    if (!something_waits(worker))
        code = pgck_futex_wait(&header->submit, seen, deadline_ns);
    __atomic_store_n(&header->asleep, 0, __ATOMIC_RELAXED);
    return code;
}

pc_serve pc_worker_serve(pc_worker *worker, int64_t deadline_ns)
{
    uint64_t *looks = &worker->ring.control->looks;
    __atomic_store_n(looks, *looks + 1, __ATOMIC_RELAXED);
    for (;;) {
        pc_serve why = reason_to_return(worker);
        if (why != PC_SERVE_TIMEOUT)
            return end_with(worker, why);
        if (work(worker)) {
            if ((worker->next & 63u) == 0 && pc_clock_now_ns() >= deadline_ns)
                return end_with(worker, PC_SERVE_TIMEOUT);
            continue;
        }
        note_cpu_time(worker);
        switch (sleep_until(worker, deadline_ns)) {
        case 0: /* a submitter that only ever wakes must not hold the caller either */
            if (pc_clock_now_ns() >= deadline_ns)
                return end_with(worker, PC_SERVE_TIMEOUT);
            break;
        case -ETIMEDOUT:
            why = reason_to_return(worker);
            if (why != PC_SERVE_TIMEOUT || !work(worker))
                return end_with(worker, why);
            break;
        case -EINTR:
            return PC_SERVE_INTERRUPTED;
        default: /* errno says why */
            return PC_SERVE_FAILED;
        }
    }
}
