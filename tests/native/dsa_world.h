/* Both ends of a ring of WIDE slots in one process, a worker on RAM with pages that only a whole
 * look tells from zeros, and a scripted device for it. */
#ifndef DSA_WORLD_H
#define DSA_WORLD_H

#include "dsa_script.h"

enum { WIDE = 16, MIXED = 0x9d };

typedef struct world {
    bench b; /* RAM and the scripted device; its engine is not used */
    pc_feed feed;
    pc_worker worker;
    pthread_t thread;
    int stop;
    uint64_t zero[RAM_PAGES / 64], normal[RAM_PAGES / 64];
} world;

static inline void world_init(world *w)
{
    memset(w, 0, sizeof *w);
    bench_init(&w->b, MIXED);
    pc_ring ours, theirs;
    ring_sides(WIDE, &ours, &theirs);
    if (!pc_feed_init(&ours, &w->feed) || !pc_worker_init(&theirs, pc_kernel_auto(), &w->worker))
        abort();
}

/* A block of its own for the worker to free. */
static inline pc_block *block_of(const world *w)
{
    const pc_file_range range = {.bytes = w->b.block.head.bytes,
                                 .page_bytes = PAGE,
                                 .flags = w->b.block.head.flags,
                                 .map = true};
    pc_error error;
    return pc_file_block_open(w->b.block.fd, &range, &error);
}

static inline void world_deinit(world *w)
{
    sem_post(&w->b.device.gate);
    CHECK(pc_worker_deinit(&w->worker, pc_clock_now_ns() + 5 * SECOND), "it does not drain");
    pc_feed_deinit(&w->feed);
    w->b.device.invalid = 0;
    bench_deinit(&w->b);
}

static inline void begin_job(world *w, const uint64_t *offsets, uint32_t batch, uint8_t *zero,
                             uint8_t *decided)
{
    memset(w->zero, 0, sizeof w->zero);
    memset(w->normal, 0, sizeof w->normal);
    const pc_job job = {.batch_pages = batch,
                        .offsets = offsets,
                        .zero_bits = w->zero,
                        .normal_bits = w->normal,
                        .zero_bytes = zero,
                        .decided_bytes = decided};
    pc_feed_begin(&w->feed, &job);
    pc_feed_more(&w->feed, 0, RAM_PAGES);
}

static inline bool ram_is_zero(const world *w, uint64_t offset)
{
    const unsigned char *page = w->b.ram + offset;
    return page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
}

static inline void check_job(const world *w)
{
    for (uint32_t i = 0; i < RAM_PAGES; i++) {
        bool zero = ram_is_zero(w, (uint64_t)i * PAGE);
        CHECK(pc_bits_test(w->zero, i) == zero, "page %u: zero bit", i);
        CHECK(pc_bits_test(w->normal, i) == !zero, "page %u: normal bit", i);
    }
}

static inline void *serve_for_ever(void *argument)
{
    world *w = argument;
    while (!__atomic_load_n(&w->stop, __ATOMIC_ACQUIRE))
        pc_worker_serve(&w->worker, pc_clock_now_ns() + SECOND);
    return NULL;
}

static inline void world_start(world *w, void *(*serve)(void *))
{
    w->stop = 0;
    pthread_create(&w->thread, NULL, serve, w);
}

static inline void world_stop(world *w)
{
    __atomic_store_n(&w->stop, 1, __ATOMIC_RELEASE);
    pc_ring_raise_attention(&w->feed.ring);
    pthread_join(w->thread, NULL);
}

static inline pc_pump pump(world *w, int64_t ns)
{
    return pc_feed_pump(&w->feed, false, pc_clock_now_ns() + ns);
}

static inline size_t kept(world *w)
{
    pthread_mutex_lock(&w->b.device.lock);
    size_t count = w->b.device.count;
    pthread_mutex_unlock(&w->b.device.lock);
    return count;
}

static inline void open_script(world *w, int64_t deadline_ns)
{
    pc_dsa_limits limits = limits_of(64, 128, PAGE);
    limits.deadline_ns = deadline_ns;
    if (!pc_worker_open_queue(&w->worker, script_init(&w->b.device), &limits))
        abort();
}

#endif
