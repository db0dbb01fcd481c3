/* What a device may answer, and what it should not: nothing but a proof makes a page zero, and
 * every page is decided. */
#include "dsa_script.h"

/* Page kinds: of eight pages in a row the set bits are zero. */
enum { MIXED = 0x9d, SOLID = 0xff, NORMAL = 0x00 };

/* ---- the records of members, in batches and in arrays ---- */

static void unknown(const hw_desc *d)
{
    put(d, 0x3e, 0);
}

static void result_two(const hw_desc *d)
{
    put(d, 0x0201, 0);
}

static void false_predicate(const hw_desc *d)
{
    put(d, DSA_COMP_SUCCESS_PRED, 0);
}

static void no_code(const hw_desc *d)
{
    put(d, 0x40, 0);
}

static void bits_6_and_7(const hw_desc *d)
{
    uint32_t zeros = zero_bytes(d);
    put(d, zeros == d->xfer_size ? 0xc0 | MATCH : 0xc0 | DIFFERS, zeros);
}

static void match_and_garbage(const hw_desc *d)
{
    if (zero_bytes(d) == d->xfer_size)
        put(d, MATCH, UINT32_MAX);
    else
        put_truth(d);
}

static void rounded_down(const hw_desc *d)
{
    uint32_t zeros = zero_bytes(d);
    put(d, zeros == d->xfer_size ? MATCH : DIFFERS, zeros / 512 * 512);
}

static void no_position(const hw_desc *d)
{
    put(d, zero_bytes(d) == d->xfer_size ? MATCH : DIFFERS, 0);
}

static void differs_past_the_end(const hw_desc *d)
{
    put(d, zero_bytes(d) == d->xfer_size ? MATCH : DIFFERS, d->xfer_size + 5 * PAGE);
}

static void differs_at_the_end(const hw_desc *d)
{
    put(d, zero_bytes(d) == d->xfer_size ? MATCH : DIFFERS, d->xfer_size);
}

static void differs_far_away(const hw_desc *d)
{
    put(d, zero_bytes(d) == d->xfer_size ? MATCH : DIFFERS, UINT32_MAX);
}

static void fault(const hw_desc *d)
{
    uint32_t zeros = zero_bytes(d);
    put(d, zeros == d->xfer_size ? MATCH : FAULT, zeros / PAGE * PAGE);
}

static void fault_with_noise(const hw_desc *d)
{
    put(d, 0xc0 | FAULT, zero_bytes(d) / 2);
}

static void fault_refused(const hw_desc *d)
{
    put(d, DSA_COMP_PAGE_FAULT_IR, zero_bytes(d) / 2);
}

static void fault_at_the_end(const hw_desc *d)
{
    put(d, FAULT, d->xfer_size);
}

static void fault_past_the_end(const hw_desc *d)
{
    put(d, FAULT, UINT32_MAX);
}

static void fault_with_result(const hw_desc *d)
{
    put(d, FAULT | 0x100, d->xfer_size - 1);
}

static void error_with_position(const hw_desc *d)
{
    put(d, DSA_COMP_HW_ERR1, d->xfer_size - 1);
}

static const struct kind {
    const char *name;
    void (*member)(const hw_desc *desc);
    bool proves; /* some page by the device */
} kinds[] = {
    {"truth", put_truth, true},
    {"unknown status", unknown, false},
    {"result 2", result_two, false},
    {"status 2", false_predicate, false},
    {"a status byte without a code", no_code, false},
    {"bits 6 and 7 of an answer", bits_6_and_7, true},
    {"a match with a position", match_and_garbage, true},
    {"positions rounded down", rounded_down, true},
    {"no positions", no_position, true},
    {"a difference past the end", differs_past_the_end, true},
    {"a difference at the end", differs_at_the_end, true},
    {"a difference far away", differs_far_away, true},
    {"a fault", fault, true},
    {"a fault, bits 6 and 7", fault_with_noise, false},
    {"a fault, refused", fault_refused, false},
    {"a fault at the end", fault_at_the_end, false},
    {"a fault past the end", fault_past_the_end, false},
    {"a fault with a result", fault_with_result, false},
    {"an error with a position", error_with_position, false},
};

static const struct kind *kind_now;

static void answer_kind(script *s, const hw_desc *desc)
{
    (void)s;
    put_batch(desc, kind_now->member);
}

static void test_kind(const struct kind *kind, uint32_t batch)
{
    static const uint32_t rams[] = {MIXED, SOLID, NORMAL};
    check_begin();
    kind_now = kind;
    for (size_t i = 0; i < 3; i++) {
        bench b;
        bench_init(&b, rams[i]);
        bench_open(&b, limits_of(16, batch, 1 << 21));
        b.device.answer = answer_kind;
        for (uint32_t count = 1; count <= RAM_PAGES; count += count / 3 + 1)
            decide(&b, count);
        CHECK(!kind->proves || rams[i] == NORMAL || b.stats.pages_device > 0, "all by the CPU");
        CHECK(b.stats.timeouts == 0, "it waited");
        bench_deinit(&b);
    }
    check_end(kind->name, batch != 0 ? "(batches)" : "(arrays)");
}

/* ---- the record of a batch ---- */

/* One batch of four pages a page apart, by hand. */
enum { FOUR = 4 };
static const uint64_t apart[FOUR] = {0, 2 * PAGE, 4 * PAGE, 6 * PAGE};

static void begin_four(bench *b, answer *a, uint32_t zeros)
{
    bench_init(b, zeros);
    bench_open(b, limits_of(16, 128, 1 << 21));
    b->device.gated = true;
    start(b, a, apart, 0, FOUR);
    CHECK(b->device.count == 1 && b->device.kept[0].desc_count == FOUR, "one batch of four");
}

/* Members of `present` tell the truth, then the batch says `word` and `done`. The queue is
 * abandoned where a record may still come, `end` says as what; else all four are decided by the
 * device, those that did not run when they go out again. */
static void test_batch(const char *name, uint32_t word, uint32_t done, uint32_t present,
                       pc_queue_end end)
{
    bench b;
    answer a;
    bool lost = end != PC_QUEUE_CLOSED;
    check_begin();
    begin_four(&b, &a, NORMAL);
    const hw_desc batch = b.device.kept[0];
    for (uint32_t i = 0; i < FOUR; i++)
        if ((present >> i & 1u) != 0)
            put_truth(&list_of(&batch)[i]);
    put(&batch, word, done);
    uint64_t progress = b.progress;
    b.device.answer = answer_truth;
    finish(&b, &a);
    CHECK(b.progress > progress, "no progress was reported");
    CHECK((b.dsa.queue == NULL) == lost, "abandoned: %d", b.dsa.queue == NULL);
    CHECK(!lost || b.dsa.end == end, "end %d", b.dsa.end);
    CHECK(b.stats.pages_device == FOUR || lost, "%d by the device", (int)b.stats.pages_device);
    CHECK(b.stats.statuses[word & 0x3f] > 0, "not counted");
    bool good = (word & 0x3f) == 1 || (word & 0x3f) == 5 || (word & 0x3f) == 6;
    CHECK(b.failure.kept == !good, "kept: %d", (int)b.failure.kept);
    CHECK(good || (memcmp(b.failure.descriptor, &batch, sizeof batch) == 0 &&
                   b.failure.record[0] == (uint8_t)word),
          "another failure was kept");
    /* What comes too late belongs to no page of the next batch. */
    if (lost) {
        for (uint32_t i = 0; i < FOUR; i++)
            put(&list_of(&batch)[i], MATCH, 0);
        put(&batch, DSA_COMP_SUCCESS, FOUR);
        check_answer(&b, &a);
        decide(&b, RAM_PAGES);
        CHECK(pc_dsa_state(&b.dsa) == PC_QUEUE_DRAINING, "it is not drained");
    }
    bench_deinit(&b);
    check_end("batch record:", name);
}

static void test_batches(void)
{
    const pc_queue_end up = PC_QUEUE_CLOSED, lost = PC_QUEUE_LOST, broken = PC_QUEUE_BROKEN;
    test_batch("success", DSA_COMP_SUCCESS, FOUR, 0xf, up);
    test_batch("success, a member is missing", DSA_COMP_SUCCESS, FOUR, 0xb, lost);
    test_batch("success, all are missing", DSA_COMP_SUCCESS, FOUR, 0, lost);
    test_batch("failed, all are there", DSA_COMP_BATCH_FAIL, FOUR, 0xf, up);
    test_batch("failed, few counted, all are there", DSA_COMP_BATCH_FAIL, 1, 0xf, up);
    /* Only a fence lets members go unanswered, and none is ever asked for. */
    test_batch("failed, the last two are missing", DSA_COMP_BATCH_FAIL, 2, 0x3, lost);
    test_batch("failed, none counted, all are missing", DSA_COMP_BATCH_FAIL, 0, 0, lost);
    test_batch("list fault", DSA_COMP_BATCH_PAGE_FAULT, 2, 0x3, up);
    test_batch("list fault at the first", DSA_COMP_BATCH_PAGE_FAULT, 0, 0, up);
    test_batch("list fault, a write", 0x80 | DSA_COMP_BATCH_PAGE_FAULT, 1, 0x1, up);
    test_batch("list fault, the wrong one is missing", DSA_COMP_BATCH_PAGE_FAULT, 2, 0x5, lost);
    test_batch("list fault past the end", DSA_COMP_BATCH_PAGE_FAULT, 900, 0x3, lost);
    test_batch("list fault past the end, all there", DSA_COMP_BATCH_PAGE_FAULT, 900, 0xf, up);
    test_batch("bad opcode", DSA_COMP_BAD_OPCODE, 0, 0, up);
    test_batch("invalid flags", DSA_COMP_INVALID_FLAGS, 0, 0, up);
    test_batch("reserved field", DSA_COMP_NOZERO_RESERVE, 0, 0, up);
    test_batch("transfer size", DSA_COMP_XFER_ERANGE, 0, 0, up);
    test_batch("count out of range", DSA_COMP_DESC_CNT_ERANGE, 77, 0, up);
    test_batch("bad value of a field", 0x15, 0, 0, up);
    test_batch("misaligned list", DSA_COMP_DESCLIST_ALIGN, 0, 0, up);
    test_batch("interrupt handle", DSA_COMP_INT_HANDLE_INVAL, 0, 0, up);
    test_batch("misaligned address", DSA_COMP_ADDR_ALIGN, 0, 0, up);
    test_batch("traffic class", DSA_COMP_TRAFFIC_CLASS_CONF, 0, 0, up);
    test_batch("refused, but some ran", DSA_COMP_INVALID_FLAGS, 0, 0x6, up);
    test_batch("unknown, all are there", 0x3f, 0, 0xf, up);
    test_batch("unknown, one is missing", 0x3f, 0, 0x7, broken);
    test_batch("no code, one is missing", 0x40, 0, 0xe, broken);
    test_batch("hardware error, all are there", DSA_COMP_HW_ERR1, 0, 0xf, up);
    test_batch("hardware error, all are missing", DSA_COMP_HW_ERR1, 0, 0, broken);
    test_batch("hardware error on a write, one is missing", DSA_COMP_HW_ERR_DRB, 3, 0x7, broken);
    test_batch("translation error, all are missing", DSA_COMP_TRANSLATION_FAIL, 0, 0, broken);
}

/* Members answer, the batch never does: their proofs count, the wait ends in time. */
static void test_batch_without_record(void)
{
    bench b;
    answer a;
    check_begin();
    begin_four(&b, &a, 0x05); /* pages 0 and 2 of eight */
    b.dsa.queue->limits.deadline_ns = LATE_NS;
    const hw_desc batch = b.device.kept[0];
    for (uint32_t i = 0; i < FOUR - 1; i++)
        put_truth(&list_of(&batch)[i]);
    int64_t begin = pc_clock_now_ns();
    finish(&b, &a);
    int64_t took = pc_clock_now_ns() - begin;
    CHECK(took < 5 * LATE_NS, "%lld ns", (long long)took);
    CHECK(b.stats.timeouts == 1 && b.dsa.end == PC_QUEUE_LOST, "not lost");
    CHECK(b.stats.pages_device == 2, "%llu proofs", (unsigned long long)b.stats.pages_device);
    put(&list_of(&batch)[FOUR - 1], MATCH, 0); /* page 6 is not */
    check_answer(&b, &a);
    bench_deinit(&b);
    check_end("batch record:", "never");
}

/* A thread writes the batch's record first, the members' later, as no device may. */
static void *batch_first(void *argument)
{
    const hw_desc *batch = argument;
    put(batch, DSA_COMP_SUCCESS, FOUR);
    for (uint32_t i = 0; i < FOUR; i++) {
        usleep(200);
        put(&list_of(batch)[i], MATCH, 0); /* a lie, so late that it must count for nothing */
    }
    return NULL;
}

static void test_batch_record_first(void)
{
    bench b;
    answer a;
    pthread_t thread;
    check_begin();
    begin_four(&b, &a, NORMAL);
    hw_desc batch = b.device.kept[0];
    put(&list_of(&batch)[0], DIFFERS, 0);
    put(&batch, DSA_COMP_SUCCESS, FOUR);
    finish(&b, &a);
    CHECK(b.dsa.queue == NULL && b.dsa.end == PC_QUEUE_LOST, "still up");
    pthread_create(&thread, NULL, batch_first, &batch);
    bench other = b; /* the same engine's memory, seen by the next queue */
    pc_dsa_init(&other.stats, &other.failure, &other.dsa);
    bench_open(&other, limits_of(16, 128, 1 << 21));
    other.device.answer = answer_truth;
    for (int i = 0; i < 50; i++)
        decide(&other, RAM_PAGES);
    pthread_join(thread, NULL);
    decide(&other, RAM_PAGES);
    bench_drain(&other);
    check_answer(&b, &a);
    bench_deinit(&b);
    check_end("batch record:", "before those of its members");
}

/* ---- records of an earlier use ---- */

static size_t takes;

static long take_some(script *s, const hw_desc *list, size_t count)
{
    return script_take(s, list, count < takes ? count : takes);
}

/* Flights are used again and again; what the queue did not take has old records that say zero. */
static void test_stale_records(void)
{
    bench b;
    check_begin();
    bench_init(&b, SOLID);
    bench_open(&b, limits_of(128, 0, PAGE));
    b.device.answer = answer_truth;
    b.device.submit = take_some;
    for (int round = 0; round < 6; round++) {
        takes = 128;
        memset(b.ram, 0, RAM_PAGES * PAGE);
        for (int i = 0; i < 4; i++)
            decide(&b, RAM_PAGES);
        for (size_t i = 0; i < RAM_PAGES; i++)
            b.ram[i * PAGE + 1000] = 1;
        for (takes = 0; takes < 5; takes++)
            decide(&b, RAM_PAGES);
    }
    CHECK(b.dsa.queue != NULL, "abandoned");
    bench_deinit(&b);
    check_end("records of an earlier use", "");
}

/* The rest of a run is submitted again in the memory of its flight. */
static void fault_at_once(const hw_desc *d)
{
    put(d, FAULT, 0);
}

static void answer_fault_at_once(script *s, const hw_desc *desc)
{
    (void)s;
    put_batch(desc, fault_at_once);
}

static void test_rounds(void)
{
    bench b;
    check_begin();
    bench_init(&b, MIXED);
    for (uint32_t batch = 0; batch <= 128; batch += 128) {
        bench_open(&b, limits_of(16, batch, 1 << 21));
        b.device.answer = answer_fault_at_once;
        answer a;
        start(&b, &a, NULL, 0, 16);
        finish(&b, &a);
        CHECK(b.device.batches + b.device.singles == PC_DSA_ROUNDS, "%zu submissions",
              b.device.batches + b.device.singles);
        bench_drain(&b);
    }
    bench_deinit(&b);
    check_end("a run is submitted three times at most", "");
}

/* ---- errors in a row ---- */

static void test_errors(void)
{
    bench b;
    check_begin();
    bench_init(&b, SOLID);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        bool error = kinds[i].member == unknown || kinds[i].member == error_with_position;
        if (!error && kinds[i].member != fault_at_the_end)
            continue;
        kind_now = &kinds[i];
        bench_open(&b, limits_of(16, 128, PAGE));
        b.device.answer = answer_kind;
        for (int turn = 0; turn < 8 && b.dsa.queue != NULL; turn++)
            decide(&b, RAM_PAGES);
        CHECK((b.dsa.queue == NULL) == error, "%s", kinds[i].name);
        CHECK(!error || b.dsa.end == PC_QUEUE_BROKEN, "end %d", b.dsa.end);
        bench_drain(&b);
    }
    bench_deinit(&b);
    check_end("a queue is abandoned for errors, not for faults", "");
}

int main(void)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        test_kind(&kinds[i], 128);
        test_kind(&kinds[i], 0);
    }
    test_batches();
    test_batch_without_record();
    test_batch_record_first();
    test_stale_records();
    test_rounds();
    test_errors();
    return check_summary();
}
