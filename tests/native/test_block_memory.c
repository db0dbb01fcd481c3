/* A block over memory that is neither a file nor mapped: everything it decides comes from
 * the table of functions. */
#include <stdio.h>

#include "check.h"
#include "fixture.h"
#include "pc_bits.h"

enum { PAGES = 256, NEVER = UINT32_MAX };

/* A buffer with holes. */
typedef struct buffer_block {
    pc_block head;
    unsigned char *bytes;
    uint64_t holes[PAGES / 64];
    uint64_t size;   /* bytes that are there */
    uint32_t broken; /* the page that cannot be read */
    uint32_t part;   /* but for its first bytes */
    bool touch;      /* what `size` says of a mapping that does not exist */
    unsigned sizes, looks, reads;
} buffer_block;

static uint64_t progress;

static buffer_block *buffer_of(const pc_block *block)
{
    return (buffer_block *)(uintptr_t)block;
}

static uint64_t buffer_size(const pc_block *block, bool *touch)
{
    buffer_block *b = buffer_of(block);
    b->sizes++;
    *touch = b->touch;
    return b->size;
}

static uint64_t buffer_next_data(const pc_block *block, uint64_t offset)
{
    buffer_block *b = buffer_of(block);
    uint64_t page = offset / PAGE;
    b->looks++;
    if (!pc_bits_test(b->holes, page))
        return offset;
    return pc_bits_run_end(b->holes, PAGES, page) * PAGE;
}

static size_t buffer_read(const pc_block *block, uint64_t offset, void *to, size_t bytes)
{
    buffer_block *b = buffer_of(block);
    uint64_t broken = (uint64_t)b->broken * PAGE + b->part;
    b->reads++;
    CHECK(offset + bytes <= b->size, "a read past the end: %llu", (unsigned long long)offset);
    if (offset <= broken && broken - offset < bytes)
        bytes = (size_t)(broken - offset);
    memcpy(to, b->bytes + offset, bytes);
    return bytes;
}

static void buffer_free(pc_block *block)
{
    free(buffer_of(block)->bytes);
    free(block);
}

/* Page i is a hole where i % 8 is 2 or 3, and else zero where i % 8 is not 5. */
static buffer_block *buffer_open(void)
{
    static const pc_block_ops ops = {.size = buffer_size,
                                     .next_data = buffer_next_data,
                                     .read = buffer_read,
                                     .free = buffer_free};
    buffer_block *b = calloc(1, sizeof *b);
    if (b == NULL || (b->bytes = calloc(PAGES, PAGE)) == NULL)
        abort();
    b->head = (pc_block){.ops = &ops, .bytes = PAGES * PAGE, .page_bytes = PAGE};
    b->size = PAGES * PAGE;
    b->broken = NEVER;
    for (size_t i = 0; i < PAGES; i++) {
        if (i % 8 == 2 || i % 8 == 3)
            pc_bits_set(b->holes, i, 1);
        if (i % 8 == 5)
            b->bytes[(i + 1) * PAGE - 1] = 1;
    }
    return b;
}

typedef struct words {
    uint64_t zero[PAGES / 64], decided[PAGES / 64], holes;
} words;

static words decide(const buffer_block *b, const uint64_t *offsets, uint32_t count)
{
    words answer;
    pc_decider decider;
    pc_task task = {.block = &b->head,
                    .decider = &decider,
                    .batch = {.offsets = offsets, .count = count},
                    .zero = answer.zero,
                    .decided = answer.decided};
    if (!pc_guard_install() || !pc_decider_init(pc_kernel_auto(), &progress, &decider))
        abort();
    memset(&answer, 0xff, sizeof answer); /* stale bits must not survive */
    answer.holes = 0;
    decider.holes = &answer.holes;
    pc_block_start(&task);
    pc_decider_deinit(&decider);
    return answer;
}

static void check_pages(const words *answer, uint32_t undecided, uint32_t end)
{
    for (uint32_t i = 0; i < PAGES; i++) {
        bool decided = i < end && i != undecided;
        CHECK(pc_bits_test(answer->decided, i) == decided, "page %u: decided", i);
        CHECK(pc_bits_test(answer->zero, i) == (decided && i % 8 != 5), "page %u: zero", i);
    }
}

static void test_whole(void)
{
    buffer_block *b = buffer_open();
    check_begin();
    words answer = decide(b, NULL, PAGES);
    check_pages(&answer, NEVER, PAGES);
    CHECK(b->sizes == 1, "its size was asked for %u times", b->sizes);
    b->head.ops->free(&b->head);
    check_end("a buffer as memory", "");
}

/* Holes are found where a run of the batch begins: pages 2 and 3 of each eight, here. */
static void test_holes(void)
{
    const uint64_t offsets[] = {2 * PAGE, 3 * PAGE, 4 * PAGE, 5 * PAGE, 18 * PAGE, 13 * PAGE};
    buffer_block *b = buffer_open();
    check_begin();
    b->bytes[2 * PAGE] = b->bytes[3 * PAGE] = b->bytes[18 * PAGE] = 1; /* nobody may look there */
    words answer = decide(b, offsets, 6);
    CHECK(answer.decided[0] == 0x3f && answer.zero[0] == 0x17, "zero %llx decided %llx",
          (unsigned long long)answer.zero[0], (unsigned long long)answer.decided[0]);
    CHECK(answer.holes == 3, "%llu holes", (unsigned long long)answer.holes);
    CHECK(b->looks == 3 && b->reads == 2, "%u looks, %u reads", b->looks, b->reads);
    b->head.ops->free(&b->head);
    check_end("holes that its memory tells of", "");
}

/* A page that cannot be read ends its read: it and what that read had still to bring stay
 * undecided, and what came before it is decided. */
static void test_broken(void)
{
    buffer_block *b = buffer_open();
    check_begin();
    memset(b->holes, 0, sizeof b->holes);
    memset(b->bytes, 0, PAGES * PAGE);
    b->broken = 200;
    words answer = decide(b, NULL, PAGES);
    for (uint32_t i = 0; i < PAGES; i++) {
        CHECK(pc_bits_test(answer.decided, i) == (i < 200), "page %u: decided", i);
        CHECK(pc_bits_test(answer.zero, i) == (i < 200), "page %u: zero", i);
    }
    const uint64_t alone[] = {200 * PAGE, 202 * PAGE};
    answer = decide(b, alone, 2);
    CHECK(answer.decided[0] == 2 && answer.zero[0] == 2, "decided %llx",
          (unsigned long long)answer.decided[0]);
    b->part = PAGE - 1;
    answer = decide(b, NULL, PAGES);
    CHECK(pc_bits_count(answer.decided, PAGES) == 200, "a page that came in part is decided");
    CHECK(pc_bits_count(answer.zero, PAGES) == 200, "a page that came in part is zero");
    b->head.ops->free(&b->head);
    check_end("a read that fails", "");
}

/* A page larger than the buffer: its end cannot be read, so that only a byte before it decides. */
static void test_broken_large_page(void)
{
    buffer_block *b = buffer_open();
    check_begin();
    memset(b->holes, 0, sizeof b->holes);
    memset(b->bytes, 0, PAGES * PAGE);
    b->head.page_bytes = PAGES * PAGE;
    words answer = decide(b, NULL, 1);
    CHECK(answer.decided[0] == 1 && answer.zero[0] == 1, "a page of zeros");
    b->broken = PAGES - 1;
    answer = decide(b, NULL, 1);
    CHECK(answer.decided[0] == 0 && answer.zero[0] == 0, "zeros as far as could be read");
    b->bytes[(PAGES - 1) * PAGE - 1] = 1;
    answer = decide(b, NULL, 1);
    CHECK(answer.decided[0] == 1 && answer.zero[0] == 0, "one byte is not zero");
    b->head.ops->free(&b->head);
    check_end("a read that fails:", "in a large page");
}

static void test_short(void)
{
    buffer_block *b = buffer_open();
    check_begin();
    b->size = 100 * PAGE + 1;
    words answer = decide(b, NULL, PAGES);
    check_pages(&answer, NEVER, 100);
    b->size = 0;
    answer = decide(b, NULL, PAGES);
    check_pages(&answer, NEVER, 0);
    b->head.ops->free(&b->head);
    check_end("memory that is shorter than its block", "");
}

/* Without a mapping there is nothing to touch, whatever the memory says. */
static void test_touch_without_mapping(void)
{
    buffer_block *b = buffer_open();
    check_begin();
    b->touch = true;
    b->head.flags = PC_BLOCK_ASK_RESIDENT;
    words answer = decide(b, NULL, PAGES);
    check_pages(&answer, NEVER, PAGES);
    b->head.ops->free(&b->head);
    check_end("touch without a mapping", "");
}

/* The worker's own way: attached, answered, detached, and then freed. */
static void test_worker(void)
{
    static uint64_t zero[PAGES / 64], normal[PAGES / 64];
    const pc_job job = {.batch_pages = 128, .zero_bits = zero, .normal_bits = normal};
    fixture f;
    fixture_init(&f);
    check_begin();
    CHECK(pc_worker_attach(&f.worker, 0, &buffer_open()->head), "not attached");
    pc_feed_begin(&f.feed, &job);
    pc_feed_more(&f.feed, 0, PAGES);
    for (int i = 0; i < 10 && pc_feed_pump(&f.feed, false, 0) != PC_PUMP_DONE; i++)
        pc_worker_serve(&f.worker, 0);
    for (uint32_t i = 0; i < PAGES; i++) {
        CHECK(pc_bits_test(zero, i) == (i % 8 != 5), "page %u: zero", i);
        CHECK(pc_bits_test(normal, i) == (i % 8 == 5), "page %u: normal", i);
    }
    pc_worker_detach(&f.worker, 0); /* under the sanitizer: leaks are found */
    fixture_deinit(&f);
    check_end("a worker on a buffer", "");
}

int main(void)
{
    test_whole();
    test_holes();
    test_broken();
    test_broken_large_page();
    test_short();
    test_touch_without_mapping();
    test_worker();
    return check_summary();
}
