/* A queue that is abandoned: in time, whatever state its flights are in, and everything that the
 * device may still touch stays until it is drained. */
#include "dsa_script.h"

enum { MIXED = 0x9d, SOLID = 0xff, NORMAL = 0x00 };

/* Nothing ever comes: one deadline for all flights, and no memory is touched any more. */
static void test_silence(uint32_t batch)
{
    bench b;
    answer a[8];
    check_begin();
    bench_init(&b, NORMAL);
    bench_open(&b, limits_of(128, batch, PAGE));
    b.device.gated = true;
    b.dsa.queue->limits.deadline_ns = LATE_NS;
    for (int i = 0; i < 8; i++)
        start(&b, &a[i], NULL, 0, 120);
    int64_t begin = pc_clock_now_ns();
    uint64_t progress = b.progress;
    for (int i = 0; i < 8; i++)
        finish(&b, &a[i]);
    CHECK(pc_clock_now_ns() - begin < 5 * LATE_NS, "%lld ns",
          (long long)(pc_clock_now_ns() - begin));
    CHECK(b.progress >= progress + 8 || batch == 0, "no progress was reported");
    CHECK(b.dsa.queue == NULL && b.dsa.end == PC_QUEUE_LOST && b.stats.timeouts == 1, "end %d",
          b.dsa.end);
    CHECK(pc_dsa_state(&b.dsa) == PC_QUEUE_DRAINING, "drained");
    for (int i = 0; i < 8; i++)
        start(&b, &a[i], NULL, 0, 120); /* by the CPU, at once */
    bench other = b;                    /* another queue beside the one that drains */
    pc_dsa_init(&other.stats, &other.failure, &other.dsa);
    bench_open(&other, limits_of(128, batch, PAGE));
    other.device.answer = answer_truth;
    /* The device wakes up: its records are no longer anybody's. */
    for (size_t i = 0; i < b.device.count; i++) {
        const hw_desc *d = &b.device.kept[i];
        for (uint32_t j = 0; d->opcode == DSA_OPCODE_BATCH && j < d->desc_count; j++)
            put(&list_of(d)[j], MATCH, 0);
        put(d, MATCH, 0);
        decide(&other, RAM_PAGES);
    }
    for (int i = 0; i < 8; i++)
        finish(&b, &a[i]);
    bench_drain(&other);
    bench_deinit(&b);
    check_end("nothing ever comes", batch != 0 ? "(batches)" : "(arrays)");
}

static void test_drain(void)
{
    bench b;
    check_begin();
    bench_init(&b, MIXED);
    bench_open(&b, limits_of(16, 128, PAGE));
    b.device.gated = true;
    b.device.answer = answer_truth;
    decide(&b, RAM_PAGES);
    int64_t begin = pc_clock_now_ns();
    pc_dsa_close(&b.dsa, PC_QUEUE_CLOSED, 0);
    CHECK(pc_clock_now_ns() - begin < SECOND / 10, "closing waited");
    pc_dsa_close(&b.dsa, PC_QUEUE_CLOSED, 0); /* no more than once */
    decide(&b, RAM_PAGES);
    CHECK(pc_dsa_state(&b.dsa) == PC_QUEUE_DRAINING, "not draining");
    begin = pc_clock_now_ns();
    CHECK(!pc_dsa_deinit(&b.dsa, begin + SECOND / 50), "it says that it is drained");
    CHECK(pc_clock_now_ns() - begin < SECOND, "it waited too long");
    CHECK(!__atomic_load_n(&b.device.closed, __ATOMIC_ACQUIRE), "closed");
    sem_post(&b.device.gate);
    CHECK(pc_dsa_deinit(&b.dsa, pc_clock_now_ns() + 5 * SECOND), "not drained");
    CHECK(pc_dsa_state(&b.dsa) == PC_QUEUE_NONE, "state");
    sem_post(&b.device.gate);
    bench_deinit(&b);
    check_end("closing does not wait, draining does, with a bound", "");
}

/* Abandoned with something in every state: in flight, being filled, waiting for room. */
static void test_close_in_between(void)
{
    bench b;
    answer a[3];
    check_begin();
    for (uint32_t batch = 0; batch <= 128; batch += 128) {
        bench_init(&b, MIXED);
        bench_open(&b, limits_of(2, batch, PAGE));
        b.dsa.queue->limits.deadline_ns = SECOND / 100;
        for (int i = 0; i < 3; i++)
            start(&b, &a[i], NULL, 0, RAM_PAGES); /* the second one waits for room in vain */
        CHECK(b.dsa.queue == NULL && b.dsa.end == PC_QUEUE_LOST, "still up");
        for (int i = 0; i < 3; i++)
            finish(&b, &a[i]);
        bench_deinit(&b);
    }
    check_end("abandoned while a flight waits for room", "");
}

/* ---- abandoned with a flight that waits to be submitted ---- */

static void stale_match(bench *b)
{
    for (uint32_t i = 0; i < PC_DSA_FLIGHTS * PC_DSA_MEMBERS; i++) {
        hw_record *record = &b->dsa.queue->flights[i / PC_DSA_MEMBERS].records[i % PC_DSA_MEMBERS];
        record->result = 0;
        record->status = 1;
    }
}

/* For the first time, while the device keeps the only entry: its records are from another use. */
static void test_abandoned_before_it_is_submitted(void)
{
    bench b;
    answer a;
    check_begin();
    bench_init(&b, NORMAL);
    bench_open(&b, limits_of(1, 128, PAGE));
    b.dsa.queue->limits.deadline_ns = SECOND / 100;
    stale_match(&b);
    start(&b, &a, NULL, 0, RAM_PAGES);
    CHECK(b.dsa.queue == NULL && b.dsa.end == PC_QUEUE_LOST, "end %d", b.dsa.end);
    CHECK(b.device.count == 1, "%zu submissions", b.device.count);
    finish(&b, &a);
    CHECK(b.stats.pages_device == 0, "%d by the device", (int)b.stats.pages_device);
    bench_deinit(&b);
    check_end("abandoned while a flight waits to be submitted", "(for the first time)");
}

static long takes_two(script *s, const hw_desc *list, size_t count)
{
    return s->submits > 2 ? 0 : script_take(s, list, count);
}

/* Pages 0 to 27 of each batch are zero, and its list faulted behind the first 100. */
static void put_cut(const hw_desc *batch)
{
    for (uint32_t i = 0; i < 100; i++)
        put_truth(&list_of(batch)[i]);
    put(batch, DSA_COMP_BATCH_PAGE_FAULT, 100);
}

/* Again, while the queue takes no more: its records, 28 of which say zero, are of other members. */
static void test_abandoned_before_it_is_submitted_again(void)
{
    bench b;
    answer a;
    check_begin();
    bench_init(&b, NORMAL);
    bench_open(&b, limits_of(2, 128, PAGE));
    b.device.submit = takes_two;
    for (size_t i = 0; i < RAM_PAGES; i++)
        b.ram[i * PAGE + 1000] = i % 128 < 28 ? 0 : 1;
    start(&b, &a, NULL, 0, RAM_PAGES);
    CHECK(b.device.count == 2, "%zu submissions", b.device.count);
    put_cut(&b.device.kept[0]);
    put_cut(&b.device.kept[1]);
    finish(&b, &a);
    CHECK(b.stats.queue_full == 1, "%d times full", (int)b.stats.queue_full);
    CHECK(b.stats.pages_device == 200 && b.stats.pages_completed == 56, "%d by the device",
          (int)b.stats.pages_device);
    bench_deinit(&b);
    check_end("abandoned while a flight waits to be submitted", "(again)");
}

/* The file is cut while the device has its pages: the old bits are taken back. */
static void test_cut_file(void)
{
    bench b;
    answer a;
    check_begin();
    bench_init(&b, SOLID);
    bench_open(&b, limits_of(16, 128, PAGE));
    start(&b, &a, NULL, 0, 64);
    CHECK(b.device.count == 1, "%zu", b.device.count);
    CHECK(ftruncate(b.block.fd, 32 * PAGE) == 0, "errno %d", errno);
    const hw_desc *d = &b.device.kept[0];
    for (uint32_t i = 0; i < d->desc_count; i++)
        put(&list_of(d)[i], i < 32 ? MATCH : FAULT, 0);
    put(d, DSA_COMP_BATCH_FAIL, d->desc_count);
    pc_dsa_finish(&b.dsa, &a.task);
    CHECK(a.zero[0] == UINT32_MAX && a.decided[0] == UINT32_MAX, "zero %llx decided %llx",
          (unsigned long long)a.zero[0], (unsigned long long)a.decided[0]);
    bench_deinit(&b);
    check_end("a file that is cut while the device looks", "");
}

int main(void)
{
    test_silence(128);
    test_silence(0);
    test_drain();
    test_close_in_between();
    test_abandoned_before_it_is_submitted();
    test_abandoned_before_it_is_submitted_again();
    test_cut_file();
    return check_summary();
}
