/* The loop that every batch passes: wait, copy and check the request, decide, answer, post.
 *
 * The coordinator is checked like any peer: the request is copied once and only the copy is used.
 * Waking: the coordinator stores wake_at, fences and reads the answers again before it sleeps;
 * this side stores the answer, fences and reads wake_at. One of the two sees the other. */
#include "pc_worker.h"

#include <stdlib.h>
#include <string.h>

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
    worker->offsets = malloc(ring->slot_pages * sizeof *worker->offsets);
    return worker->offsets != NULL &&
           pc_decider_init(kernel, &ring->header->progress, &worker->decider);
}

void pc_worker_deinit(pc_worker *worker)
{
    pc_decider_deinit(&worker->decider);
    free(worker->offsets);
    pc_ring_close(&worker->ring);
    memset(worker, 0, sizeof *worker);
}

/* Copies the offsets and checks the copy. */
static bool copy_offsets(pc_worker *worker, struct pc_slot *slot, const pc_block *block,
                         uint32_t count)
{
    uint64_t bad = 0;
    memcpy(worker->offsets, pc_slot_offsets(slot), count * sizeof *worker->offsets);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t offset = worker->offsets[i];
        bad |= offset & (block->page_bytes - 1);
        bad |= (uint64_t)(offset >= block->bytes);
    }
    return bad == 0;
}

/* Returns 0 after deciding the batch into the slot, else why it was refused. */
static uint32_t decide(pc_worker *worker, struct pc_slot *slot, const request *asked)
{
    const pc_ring *ring = &worker->ring;
    if (asked->count == 0 || asked->count > ring->slot_pages)
        return PC_REFUSED_COUNT;
    const pc_block *block = asked->block < PC_BLOCKS_MAX ? worker->blocks[asked->block] : NULL;
    if (block == NULL)
        return PC_REFUSED_BLOCK;
    pc_batch batch = {.count = asked->count};
    uint64_t pages = block->bytes / block->page_bytes;
    if (asked->kind == PC_PAGES_RANGE) {
        if (asked->first_page >= pages || asked->count > pages - asked->first_page)
            return PC_REFUSED_PAGES;
        batch.first = asked->first_page * block->page_bytes;
    } else if (asked->kind == PC_PAGES_OFFSETS) {
        if (!copy_offsets(worker, slot, block, asked->count))
            return PC_REFUSED_PAGES;
        batch.offsets = worker->offsets;
    } else {
        return PC_REFUSED_KIND;
    }
    pc_block_decide(block, &worker->decider, &batch, pc_slot_zero(slot, ring->slot_pages),
                    pc_slot_decided(slot, ring->slot_pages));
    return 0;
}

static bool answer_next(pc_worker *worker)
{
    struct pc_header *header = worker->ring.header;
    struct pc_slot *slot = pc_ring_slot(&worker->ring, worker->next);
    uint64_t expected = worker->next << 8 | PC_REQUEST_SUBMITTED;
    /* acquire; pairs with the release store in pc_feed.c:submit */
    if (__atomic_load_n(&slot->request, __ATOMIC_ACQUIRE) != expected)
        return false;
    /* Each field is loaded exactly once: what is checked is what is used. */
    const request asked = {
        .kind = __atomic_load_n(&slot->kind, __ATOMIC_RELAXED),
        .block = __atomic_load_n(&slot->block, __ATOMIC_RELAXED),
        .first_page = __atomic_load_n(&slot->first_page, __ATOMIC_RELAXED),
        .count = __atomic_load_n(&slot->count, __ATOMIC_RELAXED),
    };
    __atomic_store_n(&header->deciding, worker->next, __ATOMIC_RELAXED);
    uint32_t refusal = decide(worker, slot, &asked);
    slot->refusal = refusal;
    uint64_t state = refusal == 0 ? PC_ANSWER_DONE : PC_ANSWER_REFUSED;
    /* release; pairs with the acquire load in pc_feed.c:collect */
    __atomic_store_n(&slot->answer, worker->next << 8 | state, __ATOMIC_RELEASE);
    __atomic_store_n(&header->deciding, 0, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with the fence in pc_feed.c:wait_for */
    if (worker->next >= __atomic_load_n(&header->wake_at, __ATOMIC_RELAXED))
        sem_post(worker->ring.done); /* EOVERFLOW would mean that wake-ups are waiting already */
    worker->next++;
    return true;
}

static bool attention_raised(pc_worker *worker)
{
    uint64_t now = __atomic_load_n(&worker->ring.header->attention, __ATOMIC_ACQUIRE);
    if (now == worker->attention_seen)
        return false;
    worker->attention_seen = now;
    return true;
}

pc_serve pc_worker_serve(pc_worker *worker, int64_t deadline_ns)
{
    for (;;) {
        if (attention_raised(worker))
            return PC_SERVE_ATTENTION;
        if (answer_next(worker)) {
            if ((worker->next & 63u) == 0 && pc_clock_now_ns() >= deadline_ns)
                return PC_SERVE_TIMEOUT;
            continue;
        }
        switch (pc_wait_until(worker->ring.submit, deadline_ns)) {
        case PC_WAIT_POSTED:
            break; /* read the ring again; a stale post only costs a look */
        case PC_WAIT_TIMEOUT:
            if (attention_raised(worker))
                return PC_SERVE_ATTENTION;
            if (!answer_next(worker))
                return PC_SERVE_TIMEOUT;
            break;
        case PC_WAIT_INTERRUPTED:
            return PC_SERVE_INTERRUPTED;
        case PC_WAIT_FAILED:
            return PC_SERVE_FAILED;
        }
    }
}
