/* A feed whose job leaves pages out: what is submitted, and where the answers go. */
#include "check.h"
#include "fixture.h"
#include "pc_bits.h"

enum { PAGES = 2000, WORDS = PAGES / 64 + 1 };

/* A file whose page i begins with a byte that is not zero where i % 3 is 1. */
static int striped_file(void)
{
    int fd = memfd_create("ram", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)PAGES * PAGE) != 0)
        abort();
    for (int i = 1; i < PAGES; i += 3)
        if (pwrite(fd, "\x80", 1, (off_t)i * PAGE) != 1)
            abort();
    return fd;
}

/* Pages are left out in runs of 1 to `longest`, between runs of as many that are asked for. */
static void leave_out(uint64_t *skip, uint64_t longest, uint64_t *random)
{
    memset(skip, 0, WORDS * sizeof *skip);
    for (uint64_t at = 0; at < PAGES;) {
        at += check_random(random) % longest + 1;
        uint64_t count = check_random(random) % longest + 1;
        for (uint64_t i = at; i < at + count && i < PAGES; i++)
            pc_bits_set(skip, i, 1);
        at += count;
    }
}

typedef struct answer {
    uint64_t skip[WORDS], zero[WORDS], normal[WORDS];
} answer;

static void check_answer(const answer *got)
{
    for (uint64_t i = 0; i < PAGES; i++) {
        bool asked = !pc_bits_test(got->skip, i), data = i % 3 == 1;
        CHECK(pc_bits_test(got->zero, i) == (asked && !data), "zero, page %d", (int)i);
        CHECK(pc_bits_test(got->normal, i) == (asked && data), "normal, page %d", (int)i);
    }
}

/* Works through a job in two portions, in this thread; returns how many batches it took. */
static uint64_t run(fixture *f, answer *got, uint32_t batch, uint64_t portion)
{
    memset(got->zero, 0, sizeof got->zero);
    memset(got->normal, 0, sizeof got->normal);
    const pc_job job = {.batch_pages = batch,
                        .zero_bits = got->zero,
                        .normal_bits = got->normal,
                        .skip = got->skip,
                        .page_bytes = PAGE};
    uint64_t before = f->feed.submitted;
    pc_feed_begin(&f->feed, &job);
    pc_feed_more(&f->feed, 0, portion);
    for (bool more = true;;) {
        pc_pump state = pc_feed_pump(&f->feed, more, 0);
        if (state == PC_PUMP_DONE)
            break;
        if (state == PC_PUMP_NEED_MORE) {
            pc_feed_more(&f->feed, portion, PAGES - portion);
            more = false;
        }
        pc_worker_serve(&f->worker, 0);
    }
    return f->feed.submitted - before;
}

static void test_gaps(void)
{
    fixture f;
    answer got;
    uint64_t random = 1;
    int fd = striped_file();
    pc_file_block block = ram_block(fd, PAGES, PC_BLOCK_TRUST_HOLES, false);
    fixture_init(&f);
    f.worker.blocks[0] = &block.head;
    check_begin();
    for (uint64_t longest = 1; longest <= 300; longest += longest / 2 + 1) {
        for (uint32_t batch = 1; batch <= SLOT_PAGES; batch += 21) {
            uint64_t portion = 1 + check_random(&random) % (PAGES - 1);
            leave_out(got.skip, longest, &random);
            uint64_t asked = PAGES - pc_bits_count(got.skip, PAGES);
            uint64_t batches = run(&f, &got, batch, portion);
            check_answer(&got);
            CHECK(f.feed.pages_decided == asked && f.feed.pages_undecided == 0, "counts");
            CHECK(batches <= asked / batch + 2, "%d batches", (int)batches);
        }
    }
    check_end("pages are left out", "");
    fixture_deinit(&f);
    close(fd);
}

static void test_edges(void)
{
    fixture f;
    answer got;
    int fd = striped_file();
    pc_file_block block = ram_block(fd, PAGES, PC_BLOCK_TRUST_HOLES, false);
    fixture_init(&f);
    f.worker.blocks[0] = &block.head;
    check_begin();
    memset(got.skip, 0, sizeof got.skip);
    CHECK(run(&f, &got, 100, 1000) == 20, "nothing is left out");
    check_answer(&got);
    memset(got.skip, 0xff, sizeof got.skip);
    CHECK(run(&f, &got, 100, 1000) == 0, "everything is left out");
    check_answer(&got);
    pc_bits_clear(got.skip, 0, 1);
    pc_bits_clear(got.skip, PAGES - 1, 1);
    CHECK(run(&f, &got, 100, PAGES) == 1, "but the first and the last");
    check_answer(&got);
    check_end("nothing or everything is left out", "");
    fixture_deinit(&f);
    close(fd);
}

/* What a dead worker leaves is submitted again with the same pages; what killed it is set aside. */
static void test_replaced_worker(void)
{
    fixture f;
    answer got;
    pc_ring ours, theirs;
    pc_batch_span oldest;
    uint64_t random = 7;
    int fd = striped_file();
    pc_file_block block = ram_block(fd, PAGES, PC_BLOCK_TRUST_HOLES, false);
    fixture_init(&f);
    f.worker.blocks[0] = &block.head;
    check_begin();
    memset(&got, 0, sizeof got);
    leave_out(got.skip, 5, &random);
    pc_bits_clear(got.skip, 0, 1);
    uint64_t asked = PAGES - pc_bits_count(got.skip, PAGES);
    const pc_job job = {.batch_pages = 100,
                        .zero_bits = got.zero,
                        .normal_bits = got.normal,
                        .skip = got.skip,
                        .page_bytes = PAGE};
    pc_feed_begin(&f.feed, &job);
    pc_feed_more(&f.feed, 0, PAGES);
    CHECK(pc_feed_pump(&f.feed, false, 0) == PC_PUMP_TIMEOUT, "nobody answers");
    CHECK(pc_feed_oldest(&f.feed, &oldest) && oldest.count == 100 && oldest.span > 100, "oldest");

    ring_sides(SLOTS, &ours, &theirs);
    pc_feed_rebind(&f.feed, &ours);
    pc_feed_skip_oldest(&f.feed);
    memset(f.worker.blocks, 0, sizeof f.worker.blocks);
    pc_worker_deinit(&f.worker, 0);
    if (!pc_worker_init(&theirs, pc_kernel_auto(), &f.worker))
        abort();
    f.worker.blocks[0] = &block.head;
    while (pc_feed_pump(&f.feed, false, 0) != PC_PUMP_DONE)
        pc_worker_serve(&f.worker, 0);
    CHECK(f.feed.pages_undecided == 100 && f.feed.pages_decided == asked - 100, "counts");
    for (uint64_t i = 0; i < oldest.span; i++) {
        CHECK(!pc_bits_test(got.zero, i) && !pc_bits_test(got.normal, i), "page %d", (int)i);
        pc_bits_set(got.skip, i, 1);
    }
    check_answer(&got);
    check_end("a replaced worker", "");
    fixture_deinit(&f);
    close(fd);
}

int main(void)
{
    test_gaps();
    test_edges();
    test_replaced_worker();
    return check_summary();
}
