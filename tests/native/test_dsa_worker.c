/* A worker with a work queue: several batches begun at once, blocks that go while a queue drains,
 * and the software device in every mode under random faults. `test_dsa_worker N`: N seeds each. */
#include "dsa_script.h"
#include "pc_portal_model.h"

enum { WIDE = 16, MIXED = 0x9d, SEEDS = 6 };

/* ---- both ends of a ring of WIDE slots ---- */

typedef struct world {
    bench b; /* RAM and the scripted device; its engine is not used */
    pc_feed feed;
    pc_worker worker;
    pthread_t thread;
    int stop;
    uint64_t zero[RAM_PAGES / 64], normal[RAM_PAGES / 64];
} world;

static void world_init(world *w)
{
    char submit[64], done[64];
    memset(w, 0, sizeof *w);
    bench_init(&w->b, MIXED);
    uint64_t bytes = pc_layout_segment_bytes(WIDE, SLOT_PAGES);
    int segment = memfd_create("ring", MFD_CLOEXEC);
    if (segment < 0 || ftruncate(segment, (off_t)bytes) != 0)
        abort();
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, segment, 0);
    if (memory == MAP_FAILED || !pc_ring_format(memory, bytes, WIDE, SLOT_PAGES, 1))
        abort();
    munmap(memory, bytes);
    snprintf(submit, sizeof submit, "/pagecheck-dsa-%d-s", (int)getpid());
    snprintf(done, sizeof done, "/pagecheck-dsa-%d-d", (int)getpid());
    sem_close(sem_open(submit, O_CREAT, 0600, 0));
    sem_close(sem_open(done, O_CREAT, 0600, 0));
    pc_ring ours, theirs;
    if (pc_ring_open(segment, submit, done, &ours) != NULL ||
        pc_ring_open(segment, submit, done, &theirs) != NULL)
        abort();
    sem_unlink(submit);
    sem_unlink(done);
    close(segment);
    if (!pc_feed_init(&ours, &w->feed) || !pc_worker_init(&theirs, pc_kernel_auto(), &w->worker))
        abort();
}

/* A block of its own for the worker to free. */
static pc_block *block_of(const world *w)
{
    pc_block *block = malloc(sizeof *block);
    *block = w->b.block;
    block->fd = dup(block->fd);
    block->base = mmap(NULL, block->bytes, PROT_READ, MAP_SHARED, block->fd, 0);
    return block;
}

static void world_deinit(world *w)
{
    sem_post(&w->b.device.gate);
    CHECK(pc_worker_deinit(&w->worker, pc_clock_now_ns() + 5 * SECOND), "it does not drain");
    pc_feed_deinit(&w->feed);
    w->b.device.nonsense = 0;
    bench_deinit(&w->b);
}

static void begin_job(world *w, const uint64_t *offsets, uint32_t batch, uint8_t *zero,
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

static bool ram_is_zero(const world *w, uint64_t offset)
{
    const unsigned char *page = w->b.ram + offset;
    return page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
}

static void check_job(const world *w)
{
    for (uint32_t i = 0; i < RAM_PAGES; i++) {
        bool zero = ram_is_zero(w, (uint64_t)i * PAGE);
        CHECK(pc_bits_test(w->zero, i) == zero, "page %u: zero bit", i);
        CHECK(pc_bits_test(w->normal, i) == !zero, "page %u: normal bit", i);
    }
}

static void *serve_for_ever(void *argument)
{
    world *w = argument;
    while (!__atomic_load_n(&w->stop, __ATOMIC_ACQUIRE))
        pc_worker_serve(&w->worker, pc_clock_now_ns() + SECOND);
    return NULL;
}

static void world_start(world *w, void *(*serve)(void *))
{
    w->stop = 0;
    pthread_create(&w->thread, NULL, serve, w);
}

static void world_stop(world *w)
{
    __atomic_store_n(&w->stop, 1, __ATOMIC_RELEASE);
    __atomic_fetch_add(&w->feed.ring.header->attention, 1, __ATOMIC_RELEASE);
    sem_post(w->feed.ring.submit);
    pthread_join(w->thread, NULL);
}

static pc_pump pump(world *w, int64_t ns)
{
    return pc_feed_pump(&w->feed, false, pc_clock_now_ns() + ns);
}

static size_t kept(world *w)
{
    pthread_mutex_lock(&w->b.device.lock);
    size_t count = w->b.device.count;
    pthread_mutex_unlock(&w->b.device.lock);
    return count;
}

static void open_script(world *w, int64_t deadline_ns)
{
    pc_dsa_limits limits = limits_of(64, 128, PAGE);
    limits.deadline_ns = deadline_ns;
    if (!pc_worker_open_queue(&w->worker, script_init(&w->b.device), &limits))
        abort();
}

/* ---- the window ---- */

static void put_error(const hw_desc *d)
{
    put(d, DSA_COMP_HW_ERR1, 0);
}

static uint64_t deciding(const world *w)
{
    return __atomic_load_n(&w->feed.ring.header->deciding, __ATOMIC_RELAXED);
}

/* PC_WINDOW batches are begun; then the coordinator's own words change, and the answers come in
 * the wrong order: by then only the worker's copies count. */
static void test_window(bool errors)
{
    world w;
    uint64_t offsets[RAM_PAGES];
    uint8_t zero[RAM_PAGES], decided[RAM_PAGES];
    check_begin();
    world_init(&w);
    open_script(&w, 20 * SECOND);
    pc_worker_attach(&w.worker, 0, block_of(&w));
    w.b.device.answer = answer_truth;
    world_start(&w, serve_for_ever);
    begin_job(&w, NULL, 16, NULL, NULL); /* the first batches are answered one by one */
    CHECK(pump(&w, 5 * SECOND) == PC_PUMP_DONE, "first job");
    check_job(&w);
    world_stop(&w);
    w.b.device.answer = NULL;
    for (uint32_t i = 0; i < RAM_PAGES; i++)
        offsets[i] = (uint64_t)((i * 7 + i / 32) % RAM_PAGES) * PAGE; /* no two batches alike */
    memset(zero, 2, sizeof zero);
    begin_job(&w, offsets, RAM_PAGES / PC_WINDOW, zero, decided);
    CHECK(pump(&w, 0) == PC_PUMP_TIMEOUT, "nobody serves yet");
    world_start(&w, serve_for_ever);
    int64_t end = pc_clock_now_ns() + 10 * SECOND;
    while (kept(&w) < PC_WINDOW && pc_clock_now_ns() < end)
        sched_yield();
    CHECK(kept(&w) == PC_WINDOW, "%zu batches at the device", kept(&w));
    uint64_t oldest = w.feed.submitted - PC_WINDOW + 1;
    CHECK(deciding(&w) == oldest, "deciding %llu", (unsigned long long)deciding(&w));
    for (uint64_t i = 0; i < PC_WINDOW; i++)
        memset(pc_slot_offsets(pc_ring_slot(&w.feed.ring, oldest + i)), 0, 32 * 8);
    put_batch(&w.b.device.kept[0], errors ? put_error : put_truth);
    while (deciding(&w) == oldest && pc_clock_now_ns() < end)
        sched_yield();
    CHECK(deciding(&w) == oldest + 1, "deciding %llu", (unsigned long long)deciding(&w));
    pthread_mutex_lock(&w.b.device.lock);
    w.b.device.answer = answer_truth;
    for (size_t i = w.b.device.count; i-- > 1;)
        put_batch(&w.b.device.kept[i], errors ? put_error : put_truth);
    w.b.device.count = 0;
    pthread_mutex_unlock(&w.b.device.lock);
    CHECK(pump(&w, 5 * SECOND) == PC_PUMP_DONE, "second job");
    for (uint32_t i = 0; i < RAM_PAGES; i++)
        CHECK(decided[i] == 1 && zero[i] == ram_is_zero(&w, offsets[i]), "page %u", i);
    world_stop(&w);
    world_deinit(&w);
    check_end("a window of batches:", errors ? "all errors" : "answered in the wrong order");
}

/* The device falls silent with a full window: all is answered within one deadline. */
static void test_window_lost(void)
{
    world w;
    check_begin();
    world_init(&w);
    open_script(&w, SECOND / 5);
    w.b.device.gated = true;
    pc_worker_attach(&w.worker, 0, block_of(&w));
    w.b.device.answer = answer_truth;
    world_start(&w, serve_for_ever);
    begin_job(&w, NULL, 16, NULL, NULL);
    CHECK(pump(&w, 5 * SECOND) == PC_PUMP_DONE, "first job");
    pthread_mutex_lock(&w.b.device.lock);
    w.b.device.answer = NULL;
    pthread_mutex_unlock(&w.b.device.lock);
    begin_job(&w, NULL, 16, NULL, NULL);
    int64_t begin = pc_clock_now_ns();
    CHECK(pump(&w, 5 * SECOND) == PC_PUMP_DONE, "second job");
    CHECK(pc_clock_now_ns() - begin < SECOND, "%lld ns", (long long)(pc_clock_now_ns() - begin));
    check_job(&w);
    world_stop(&w);
    CHECK(pc_worker_queue_state(&w.worker) == PC_QUEUE_DRAINING, "not draining");
    CHECK(w.worker.dsa.stats->timeouts == 1, "timeouts");
    world_deinit(&w);
    check_end("a window of batches:", "lost");
}

static void test_serve_tells(void)
{
    world w;
    check_begin();
    world_init(&w);
    open_script(&w, SECOND / 50);
    pc_worker_attach(&w.worker, 0, block_of(&w));
    begin_job(&w, NULL, 16, NULL, NULL);
    CHECK(pump(&w, 0) == PC_PUMP_TIMEOUT, "nobody serves yet");
    CHECK(pc_worker_serve(&w.worker, pc_clock_now_ns() + 5 * SECOND) == PC_SERVE_QUEUE, "lost");
    CHECK(pc_worker_serve(&w.worker, pc_clock_now_ns() + SECOND / 50) == PC_SERVE_TIMEOUT, "once");
    CHECK(w.worker.next - 1 == w.worker.answered, "something is begun and not answered");
    CHECK(pump(&w, 0) == PC_PUMP_DONE, "not all answered");
    check_job(&w);
    world_deinit(&w);
    check_end("serve tells that the queue is gone, once", "");
}

/* ---- blocks and a queue that drains ---- */

static bool is_mapped(const void *at)
{
    unsigned char resident[1];
    return mincore((void *)(uintptr_t)at, PAGE, resident) == 0;
}

static void test_detach_while_draining(void)
{
    world w;
    check_begin();
    world_init(&w);
    open_script(&w, SECOND / 50);
    w.b.device.gated = true;
    pc_block *block = block_of(&w);
    const void *base = block->base;
    pc_worker_attach(&w.worker, 0, block);
    begin_job(&w, NULL, 128, NULL, NULL);
    CHECK(pump(&w, 0) == PC_PUMP_TIMEOUT, "nobody serves yet");
    CHECK(pc_worker_serve(&w.worker, pc_clock_now_ns() + 5 * SECOND) == PC_SERVE_QUEUE, "lost");
    CHECK(pc_worker_serve(&w.worker, pc_clock_now_ns()) == PC_SERVE_TIMEOUT, "by the CPU");
    CHECK(pump(&w, 0) == PC_PUMP_DONE, "not all answered");
    pc_worker_detach(&w.worker, 0);
    CHECK(is_mapped(base), "unmapped while the device may read it");
    pc_worker_attach(&w.worker, 0, block_of(&w)); /* the id is free again */
    begin_job(&w, NULL, 128, NULL, NULL);
    CHECK(pump(&w, 0) == PC_PUMP_TIMEOUT, "nobody serves yet");
    CHECK(pc_worker_serve(&w.worker, pc_clock_now_ns()) == PC_SERVE_TIMEOUT, "by the CPU");
    CHECK(pump(&w, 0) == PC_PUMP_DONE, "not all answered");
    check_job(&w);
    put_batch(&w.b.device.kept[0], put_truth); /* it reads the pages and writes the records */
    CHECK(pc_worker_queue_state(&w.worker) == PC_QUEUE_DRAINING && is_mapped(base), "freed");
    sem_post(&w.b.device.gate);
    int64_t end = pc_clock_now_ns() + 5 * SECOND;
    while (pc_worker_queue_state(&w.worker) == PC_QUEUE_DRAINING && pc_clock_now_ns() < end)
        usleep(1000);
    CHECK(!is_mapped(base), "still mapped");
    pc_worker_detach(&w.worker, 0);
    world_deinit(&w);
    check_end("a block goes while a queue drains", "");
}

/* The device never lets go: the worker ends in time and leaves what the device may touch. */
static void test_wedged(void)
{
    static pc_block *left_block;
    static pc_queue *left_queue;
    static world w;
    check_begin();
    world_init(&w);
    open_script(&w, SECOND / 50);
    w.b.device.gated = true;
    left_block = block_of(&w);
    left_queue = w.worker.dsa.queue;
    pc_worker_attach(&w.worker, 0, left_block);
    begin_job(&w, NULL, 128, NULL, NULL);
    CHECK(pump(&w, 0) == PC_PUMP_TIMEOUT, "nobody serves yet");
    CHECK(pc_worker_serve(&w.worker, pc_clock_now_ns() + 5 * SECOND) == PC_SERVE_QUEUE, "lost");
    CHECK(pc_worker_serve(&w.worker, pc_clock_now_ns()) == PC_SERVE_TIMEOUT, "by the CPU");
    CHECK(pump(&w, 0) == PC_PUMP_DONE, "not all answered");
    int64_t begin = pc_clock_now_ns();
    CHECK(!pc_worker_deinit(&w.worker, begin + SECOND / 20), "it says that it is drained");
    CHECK(pc_clock_now_ns() - begin < SECOND, "it waited too long");
    CHECK(is_mapped(left_block->base), "unmapped while the device may read it");
    put_batch(&w.b.device.kept[0], put_truth);
    sem_post(&w.b.device.gate);
    while (!__atomic_load_n(&left_queue->drained, __ATOMIC_ACQUIRE))
        usleep(1000);
    pc_feed_deinit(&w.feed);
    check_end("a device that never lets go", "");
}

/* An answer that makes the CPU decide pages comes while another batch asks which pages are there:
 * what it was told of those must not change. */
static void test_holes(void)
{
    bench b;
    answer first, second;
    check_begin();
    bench_init(&b, 0xff);
    b.block.flags = PC_BLOCK_ASK_RESIDENT | PC_BLOCK_TRUST_HOLES;
    for (int i = 129; i < 160; i += 2)
        CHECK(fallocate(b.block.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, i * PAGE, PAGE) ==
                  0,
              "errno %d", errno);
    uint64_t before = blocks_of(b.block.fd);
    bench_open(&b, limits_of(1, 0, 1 << 21));
    start(&b, &first, NULL, 0, 16);
    CHECK(b.device.count == 1 && b.device.kept[0].xfer_size == 16 * PAGE, "a run of 16");
    put_error(&b.device.kept[0]);
    b.device.answer = answer_truth;
    start(&b, &second, NULL, 128, 32);
    pc_dsa_finish(&b.dsa, &first.task);
    pc_dsa_finish(&b.dsa, &second.task);
    CHECK(blocks_of(b.block.fd) == before, "%llu blocks, not %llu",
          (unsigned long long)blocks_of(b.block.fd), (unsigned long long)before);
    check_answer(&b, &first);
    check_answer(&b, &second);
    bench_deinit(&b);
    check_end("holes stay holes", "");
}

/* ---- the software device ---- */

typedef struct plan {
    dsa_model_mode mode;
    uint32_t version;
    uint64_t seed;
    const char *faults;
} plan;

static plan plan_now;

static void open_model(world *w)
{
    dsa_model_options options;
    dsa_model_defaults(&options);
    uint64_t seed = plan_now.seed;
    options.mode = plan_now.mode;
    options.version = plan_now.version;
    options.faults = plan_now.faults;
    options.seed = plan_now.seed++;
    options.size = 1 + (uint32_t)(check_random(&seed) % 128);
    options.threshold = 1 + (uint32_t)(check_random(&seed) % options.size);
    options.max_batch = 2 + (uint32_t)(check_random(&seed) % 200);
    options.max_transfer = PAGE << check_random(&seed) % 8;
    options.delay_ns = check_random(&seed) % 3 * 20000;
    options.threaded = true;
    dsa_model *model = dsa_model_open(&options, NULL, 0);
    pc_portal *portal = model == NULL ? NULL : pc_portal_open_model(model, options.mode);
    if (portal == NULL)
        abort();
    bool batches = options.mode != DSA_MODEL_WRITE || options.version >= 2;
    pc_dsa_limits limits =
        limits_of(options.mode == DSA_MODEL_DEDICATED ? options.size : options.threshold,
                  batches ? options.max_batch : 0, options.max_transfer);
    limits.deadline_ns = SECOND / 50;
    if (!pc_worker_open_queue(&w->worker, portal, &limits))
        abort();
}

/* As DsaEngine.tend does, without its pauses. */
static void *serve_with_model(void *argument)
{
    world *w = argument;
    open_model(w);
    while (!__atomic_load_n(&w->stop, __ATOMIC_ACQUIRE)) {
        pc_worker_serve(&w->worker, pc_clock_now_ns() + SECOND / 100);
        if (pc_worker_queue_state(&w->worker) == PC_QUEUE_NONE)
            open_model(w);
    }
    return NULL;
}

static void test_model(dsa_model_mode mode, uint32_t version, const char *faults, uint64_t seed)
{
    world w;
    char of[96];
    uint64_t draw = seed;
    check_begin();
    world_init(&w);
    for (size_t i = 0; i < RAM_PAGES; i++)
        w.b.ram[i * PAGE + 1000] = (unsigned char)(check_random(&draw) % 3 == 0);
    pc_worker_attach(&w.worker, 0, block_of(&w));
    plan_now = (plan){mode, version, seed, faults};
    world_start(&w, serve_with_model);
    for (uint32_t i = 0; i < 6; i++) {
        begin_job(&w, NULL, 5 + i * 21, NULL, NULL);
        CHECK(pump(&w, 20 * SECOND) == PC_PUMP_DONE, "job %u", i);
        check_job(&w);
    }
    const struct pc_stats *stats = w.worker.dsa.stats;
    world_stop(&w);
    CHECK(stats->pages_device + stats->pages_sampled + stats->pages_completed + stats->pages_cpu ==
              6 * RAM_PAGES,
          "pages are not counted once each");
    world_deinit(&w);
    snprintf(of, sizeof of, "mode %d, version %u, %s, seed %llu", (int)mode, version, faults,
             (unsigned long long)seed);
    check_end("software device:", of);
}

int main(int argc, char **argv)
{
    uint64_t seeds = argc > 1 ? strtoull(argv[1], NULL, 10) : SEEDS;
    test_window(false);
    test_window(true);
    test_window_lost();
    test_serve_tells();
    test_detach_while_draining();
    test_holes();
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        test_model(DSA_MODEL_SHARED, 1, seed == 1 ? "none" : "random", seed * 1000);
        test_model(DSA_MODEL_DEDICATED, 1, seed == 1 ? "none" : "random", seed * 1000);
        test_model(DSA_MODEL_WRITE, 1, seed == 1 ? "none" : "random", seed * 1000);
        test_model(DSA_MODEL_WRITE, 2, seed == 1 ? "none" : "random", seed * 1000);
    }
    test_wedged(); /* last: it leaves its block behind */
    return check_summary();
}
