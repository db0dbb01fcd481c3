/* Both ends of a ring: submitting, answering, losing workers, distrusting what comes back. */
#include <stdio.h>

#include <errno.h>

#include "check.h"
#include "fixture.h"
#include "pc_bits.h"

static int64_t soon(void)
{
    return pc_clock_now_ns() + SECOND / 50;
}

static void *serve(void *worker)
{
    pc_worker_serve(worker, pc_clock_now_ns() + 20 * SECOND);
    return NULL;
}

static void raise_attention(fixture *f)
{
    pc_ring_raise_attention(&f->feed.ring);
}

enum { PAGES = 1000 };

static pc_job range_job(uint64_t *zero, uint64_t *normal, uint32_t batch)
{
    return (pc_job){.block = 0, .batch_pages = batch, .zero_bits = zero, .normal_bits = normal};
}

/* A thread answers while the feed submits, for batch sizes around every boundary. */
static void test_scan(void)
{
    fixture f;
    pthread_t thread;
    int fd = ram_file(PAGES, UINT64_C(0x8000f00000000001), UINT64_C(0xff0));
    pc_file_block block = ram_block(fd, PAGES, PC_BLOCK_TRUST_HOLES, false);
    fixture_init(&f);
    f.worker.blocks[0] = &block.head;
    pthread_create(&thread, NULL, serve, &f.worker);
    check_begin();
    for (uint32_t batch = 1; batch <= SLOT_PAGES; batch += 9) {
        uint64_t zero[PAGES / 64 + 1] = {0}, normal[PAGES / 64 + 1] = {0};
        const pc_job job = range_job(zero, normal, batch);
        pc_feed_begin(&f.feed, &job);
        pc_feed_more(&f.feed, 0, PAGES / 2);
        while (pc_feed_pump(&f.feed, true, pc_clock_now_ns() + 5 * SECOND) != PC_PUMP_NEED_MORE) {
        }
        pc_feed_more(&f.feed, PAGES / 2, PAGES - PAGES / 2);
        CHECK(pc_feed_pump(&f.feed, false, pc_clock_now_ns() + 5 * SECOND) == PC_PUMP_DONE,
              "batch %u", batch);
        CHECK(normal[0] == UINT64_C(0x8000f00000000001), "normal %llx",
              (unsigned long long)normal[0]);
        CHECK(pc_bits_count(zero, PAGES) == PAGES - 6, "zero pages");
        CHECK(f.feed.pages_decided == PAGES && f.feed.pages_undecided == 0, "counts");
    }
    raise_attention(&f);
    pthread_join(thread, NULL);
    check_end("batches of every size", "");
    fixture_deinit(&f);
    close(fd);
}

/* Nobody answers: the deadline passes, the job is abandoned, late answers reach nobody. */
static void test_abandon(void)
{
    fixture f;
    int fd = ram_file(64, 0, 0);
    pc_file_block block = ram_block(fd, 64, 0, false);
    uint64_t zero[1] = {0}, normal[1] = {0};
    fixture_init(&f);
    f.worker.blocks[0] = &block.head;
    check_begin();
    pc_job job = range_job(zero, normal, 8);
    pc_feed_begin(&f.feed, &job);
    pc_feed_more(&f.feed, 0, 64);
    CHECK(pc_feed_pump(&f.feed, false, soon()) == PC_PUMP_TIMEOUT, "deadline");
    CHECK(pc_feed_outstanding(&f.feed) == SLOTS, "ring full");
    pc_feed_abandon(&f.feed);
    CHECK(f.feed.pages_undecided == 64 && pc_feed_outstanding(&f.feed) == 0, "all undecided");

    uint64_t zero2[1] = {0}, normal2[1] = {0};
    job = range_job(zero2, normal2, 8);
    pc_feed_begin(&f.feed, &job);
    pc_feed_more(&f.feed, 32, 8);
    CHECK(pc_feed_pump(&f.feed, false, soon()) == PC_PUMP_TIMEOUT, "ring still full");
    pc_worker_serve(&f.worker, soon());
    CHECK(pc_feed_pump(&f.feed, false, soon()) == PC_PUMP_TIMEOUT, "stale answers collected");
    pc_worker_serve(&f.worker, soon());
    CHECK(pc_feed_pump(&f.feed, false, soon()) == PC_PUMP_DONE, "the new job's answer");
    CHECK(zero[0] == 0 && normal[0] == 0, "late answers were published");
    CHECK(zero2[0] == UINT64_C(0xff) << 32, "zero2 %llx", (unsigned long long)zero2[0]);
    check_end("an abandoned job", "");
    fixture_deinit(&f);
    close(fd);
}

/* The worker dies with batches in its ring: the new ring gets exactly what was not answered. */
static void test_rebind(void)
{
    fixture f;
    pc_ring ours, theirs;
    int fd = ram_file(64, 1, 0);
    pc_file_block block = ram_block(fd, 64, 0, false);
    uint64_t zero[1] = {0}, normal[1] = {0};
    pc_batch_span oldest;
    fixture_init(&f);
    f.worker.blocks[0] = &block.head;
    check_begin();
    const pc_job job = range_job(zero, normal, 8);
    pc_feed_begin(&f.feed, &job);
    pc_feed_more(&f.feed, 0, 64);
    CHECK(pc_feed_pump(&f.feed, false, soon()) == PC_PUMP_TIMEOUT, "nobody answers");
    CHECK(pc_feed_oldest(&f.feed, &oldest) && oldest.position == 0 && oldest.count == 8, "oldest");

    ring_sides(SLOTS, &ours, &theirs);
    pc_feed_rebind(&f.feed, &ours);
    pc_feed_skip_oldest(&f.feed); /* it killed twice */
    memset(f.worker.blocks, 0, sizeof f.worker.blocks);
    pc_worker_deinit(&f.worker, 0);
    if (!pc_worker_init(&theirs, pc_kernel_auto(), &f.worker))
        abort();
    f.worker.blocks[0] = &block.head;
    for (int i = 0; i < 3; i++) {
        pc_feed_pump(&f.feed, false, soon());
        pc_worker_serve(&f.worker, soon());
    }
    CHECK(pc_feed_pump(&f.feed, false, soon()) == PC_PUMP_DONE, "done on the new ring");
    CHECK(zero[0] == ~UINT64_C(0xff) && normal[0] == 0, "zero %llx", (unsigned long long)zero[0]);
    CHECK(f.feed.pages_undecided == 8 && f.feed.pages_decided == 56, "counts");
    check_end("a replaced worker", "");
    fixture_deinit(&f);
    close(fd);
}

/* What a broken or hostile worker may leave in its slot. */
static void test_distrust(void)
{
    static const struct {
        const char *name;
        uint64_t sequence, state, zero, decided;
        pc_pump expected;
    } cases[] = {
        {"zero without decided", 1, PAGECHECK_ANSWER_DONE, 1, 0, PC_PUMP_BROKEN},
        {"bits past the batch", 1, PAGECHECK_ANSWER_DONE, 0, UINT64_C(1) << 8, PC_PUMP_BROKEN},
        {"answer of a later batch", 2, PAGECHECK_ANSWER_DONE, 0, 0, PC_PUMP_BROKEN},
        {"refused", 1, PAGECHECK_ANSWER_REFUSED, 0, 0, PC_PUMP_BROKEN},
        {"unknown state", 1, 77, 0xff, 0xff, PC_PUMP_BROKEN},
        {"answer of no batch", 0, PAGECHECK_ANSWER_DONE, 0xff, 0xff, PC_PUMP_TIMEOUT},
        {"sound", 1, PAGECHECK_ANSWER_DONE, 0xf, 0xff, PC_PUMP_DONE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f;
        uint64_t zero[1] = {0}, normal[1] = {0};
        fixture_init(&f);
        check_begin();
        const pc_job job = range_job(zero, normal, 8);
        pc_feed_begin(&f.feed, &job);
        pc_feed_more(&f.feed, 0, 8);
        pc_feed_pump(&f.feed, false, soon());
        struct pagecheck_slot *slot = pgck_slot(&f.worker.ring.shared, 1);
        *pgck_slot_zero(slot, SLOT_PAGES) = cases[i].zero;
        *pgck_slot_decided(slot, SLOT_PAGES) = cases[i].decided;
        __atomic_store_n(&slot->answer, cases[i].sequence << 8 | cases[i].state, __ATOMIC_RELEASE);
        pc_pump got = pc_feed_pump(&f.feed, false, soon());
        CHECK(got == cases[i].expected, "pump %d, not %d", (int)got, (int)cases[i].expected);
        if (cases[i].expected != PC_PUMP_DONE)
            CHECK(zero[0] == 0 && normal[0] == 0, "it was published");
        else
            CHECK(zero[0] == 0xf && normal[0] == 0xf0, "not published");
        check_end("worker's answer:", cases[i].name);
        fixture_deinit(&f);
    }
}

/* A worker that answers another batch than the oldest keeps nobody past the deadline. */
static void test_only_the_newest_is_answered(void)
{
    fixture f;
    uint64_t zero[1] = {0}, normal[1] = {0};
    fixture_init(&f);
    check_begin();
    const pc_job job = range_job(zero, normal, 8);
    pc_feed_begin(&f.feed, &job);
    pc_feed_more(&f.feed, 0, 8 * SLOTS);
    CHECK(pc_feed_pump(&f.feed, false, soon()) == PC_PUMP_TIMEOUT, "nobody answers");
    struct pagecheck_slot *slot = pgck_slot(&f.worker.ring.shared, SLOTS);
    __atomic_store_n(&slot->answer, (uint64_t)SLOTS << 8 | PAGECHECK_ANSWER_DONE, __ATOMIC_RELEASE);
    alarm(60); /* a pump that does not return ends the program */
    CHECK(pc_feed_pump(&f.feed, false, soon()) == PC_PUMP_TIMEOUT, "the oldest has no answer");
    alarm(0);
    CHECK(zero[0] == 0 && normal[0] == 0, "it was published");
    check_end("a worker that answers only the newest batch", "");
    fixture_deinit(&f);
}

/* What a broken coordinator may ask; the worker refuses and touches nothing. */
static void test_refusals(void)
{
    static const struct {
        const char *name;
        uint32_t kind, block;
        uint64_t first_page;
        uint32_t count, refusal;
        uint64_t offset;
    } cases[] = {
        {"no pages", PAGECHECK_PAGES_RANGE, 0, 0, 0, PAGECHECK_REFUSED_COUNT, 0},
        {"more than a slot", PAGECHECK_PAGES_RANGE, 0, 0, SLOT_PAGES + 1, PAGECHECK_REFUSED_COUNT,
         0},
        {"unknown block", PAGECHECK_PAGES_RANGE, 1, 0, 1, PAGECHECK_REFUSED_BLOCK, 0},
        {"block out of range", PAGECHECK_PAGES_RANGE, UINT32_MAX, 0, 1, PAGECHECK_REFUSED_BLOCK, 0},
        {"unknown kind", 9, 0, 0, 1, PAGECHECK_REFUSED_KIND, 0},
        {"past the end", PAGECHECK_PAGES_RANGE, 0, 60, 5, PAGECHECK_REFUSED_PAGES, 0},
        {"far past the end", PAGECHECK_PAGES_RANGE, 0, UINT64_MAX, 1, PAGECHECK_REFUSED_PAGES, 0},
        {"misaligned offset", PAGECHECK_PAGES_OFFSETS, 0, 0, 1, PAGECHECK_REFUSED_PAGES, 12},
        {"offset at the end", PAGECHECK_PAGES_OFFSETS, 0, 0, 1, PAGECHECK_REFUSED_PAGES, 64 * PAGE},
        {"huge offset", PAGECHECK_PAGES_OFFSETS, 0, 0, 1, PAGECHECK_REFUSED_PAGES,
         UINT64_MAX - PAGE + 1},
        {"good", PAGECHECK_PAGES_OFFSETS, 0, 0, 1, 0, 63 * PAGE},
    };
    int fd = ram_file(64, 0, 0);
    pc_file_block block = ram_block(fd, 64, 0, false);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f;
        fixture_init(&f);
        f.worker.blocks[0] = &block.head;
        check_begin();
        struct pagecheck_slot *slot = pgck_slot(&f.feed.ring.shared, 1);
        slot->kind = cases[i].kind;
        slot->block = cases[i].block;
        slot->first_page = cases[i].first_page;
        slot->count = cases[i].count;
        *pgck_slot_offsets(slot) = cases[i].offset;
        __atomic_store_n(&slot->request, UINT64_C(1) << 8 | PAGECHECK_REQUEST_SUBMITTED,
                         __ATOMIC_RELEASE);
        pc_worker_serve(&f.worker, soon());
        const uint64_t state =
            cases[i].refusal == 0 ? PAGECHECK_ANSWER_DONE : PAGECHECK_ANSWER_REFUSED;
        CHECK(slot->answer == (UINT64_C(1) << 8 | state), "answer %llx",
              (unsigned long long)slot->answer);
        CHECK(slot->refusal == cases[i].refusal, "refusal %u", slot->refusal);
        check_end("request:", cases[i].name);
        fixture_deinit(&f);
    }
    close(fd);
}

static void test_headers(void)
{
    static const struct {
        const char *name;
        size_t offset;
        uint64_t value;
    } cases[] = {
        {"magic", offsetof(struct pagecheck_ring_header, magic), 1},
        {"version", offsetof(struct pagecheck_ring_header, layout_version), 99},
        {"slots", offsetof(struct pagecheck_ring_header, slot_count), UINT64_C(0xffffffff)},
        {"slot pages", offsetof(struct pagecheck_ring_header, slot_count),
         SLOTS | UINT64_C(65) << 32},
        {"slot bytes", offsetof(struct pagecheck_ring_header, slot_bytes), 8},
        {"segment bytes", offsetof(struct pagecheck_ring_header, segment_bytes), 1 << 30},
    };
    pc_ring ring;
    pc_error error;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int fd = ring_file(SLOTS, SLOT_PAGES);
        if (pwrite(fd, &cases[i].value, sizeof(uint64_t), (off_t)cases[i].offset) < 0)
            abort();
        check_begin();
        CHECK(!pc_ring_open(fd, -1, &ring, &error), "was opened");
        CHECK(error.code == PC_ERROR_INVALID, "%s", error.text);
        check_end("damaged header:", cases[i].name);
        close(fd);
    }
    check_begin();
    int fd = ring_file(SLOTS, SLOT_PAGES);
    if (ftruncate(fd, (off_t)pgck_segment_bytes(SLOTS, SLOT_PAGES) - 1) != 0)
        abort();
    CHECK(!pc_ring_open(fd, -1, &ring, &error), "was opened");
    CHECK(error.code == PC_ERROR_INVALID, "%s", error.text);
    check_end("damaged header:", "a file shorter than its segment");
    close(fd);
    check_begin();
    fd = memfd_create("short", MFD_CLOEXEC);
    CHECK(!pc_ring_open(fd, -1, &ring, &error), "was opened");
    CHECK(error.code == PC_ERROR_INVALID, "%s", error.text);
    check_end("damaged header:", "empty segment");
    close(fd);
    check_begin();
    CHECK(!pc_ring_open(fd, -1, &ring, &error), "was opened");
    CHECK(error.code == PC_ERROR_SYSTEM && error.number == EBADF, "%d", error.number);
    check_end("damaged header:", "no segment");
}

int main(void)
{
    test_scan();
    test_abandon();
    test_rebind();
    test_distrust();
    test_only_the_newest_is_answered();
    test_refusals();
    test_headers();
    return check_summary();
}
