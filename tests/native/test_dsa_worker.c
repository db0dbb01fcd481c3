/* A worker with a work queue: several batches begun at once, and blocks that go while a queue
 * drains. */
#include "dsa_world.h"

/* ---- the window ---- */

static void put_error(const hw_desc *d)
{
    put(d, DSA_COMP_HW_ERR1, 0);
}

static uint64_t deciding(const world *w)
{
    return __atomic_load_n(&w->feed.ring.control->deciding, __ATOMIC_RELAXED);
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
        memset(pgck_slot_offsets(pgck_slot(&w.feed.ring.shared, oldest + i)), 0, 32 * 8);
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
    int64_t end = pc_clock_now_ns() + 5 * SECOND;
    while (!__atomic_load_n(&left_queue->drained, __ATOMIC_ACQUIRE) && pc_clock_now_ns() < end)
        usleep(1000);
    CHECK(__atomic_load_n(&left_queue->drained, __ATOMIC_ACQUIRE), "not drained");
    pc_feed_deinit(&w.feed);
    check_end("a device that never lets go", "");
}

/* An answer that makes the CPU decide pages comes while another batch asks which pages are there:
 * what is said of those must not change. */
static void test_holes(void)
{
    bench b;
    answer first, second;
    check_begin();
    bench_init(&b, 0xff);
    b.block.head.flags = PC_BLOCK_ASK_RESIDENT | PC_BLOCK_TRUST_HOLES;
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

int main(void)
{
    test_window(false);
    test_window(true);
    test_window_lost();
    test_serve_tells();
    test_detach_while_draining();
    test_holes();
    test_wedged(); /* last: it leaves its block behind */
    return check_summary();
}
