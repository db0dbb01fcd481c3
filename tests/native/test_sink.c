/* The sink's file: short and interrupted writes, failures, the word to stop; and that pages keep
 * their bits exactly where the file has what they say. */
#include "check.h"
#include "fixture.h"
#include "pc_bits.h"
#include "pc_copy.h"
#include "sink_fixture.h"

enum { PAGES = 200, WORDS = 4, START = 3 };

static uint64_t progress;

typedef struct words {
    uint64_t zero[WORDS], decided[WORDS];
} words;

static void fill(unsigned char *bytes, size_t count, uint64_t *random)
{
    for (size_t i = 0; i < count; i++)
        bytes[i] = (unsigned char)check_random(random);
}

static void test_write(void)
{
    static unsigned char data[3 * PC_SINK_BYTES / 2], back[sizeof data];
    uint64_t random = 3;
    int file = memfd_create("sink", MFD_CLOEXEC);
    pc_sink *sink = sink_open(file, START * PAGE, false, false);
    check_begin();
    fill(data, sizeof data, &random);
    calls.most = 70001;
    calls.interrupt = 3;
    uint64_t before = sink_progress;
    CHECK(pc_sink_write(sink, PAGE, data, sizeof data) == sizeof data, "short");
    CHECK(sink_progress >= before + 2, "no progress");
    CHECK(sink->state->written == sizeof data && sink->state->failure == 0, "state");
    CHECK(pread(file, back, sizeof back, (START + 1) * PAGE) == sizeof back &&
              memcmp(back, data, sizeof back) == 0,
          "other bytes");
    check_end("short and interrupted writes", "");
    pc_sink_close(sink);
    close(file);
}

static void test_failures(void)
{
    static const int errors[] = {ENOSPC, EIO, EFBIG, EDQUOT, EFAULT, 0};
    static unsigned char data[8 * PAGE];
    check_begin();
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        int file = memfd_create("sink", MFD_CLOEXEC);
        pc_sink *sink = sink_open(file, START * PAGE, false, false);
        calls.most = PAGE + 100;
        calls.fail_at = 3;
        calls.error = errors[i];
        size_t put = pc_sink_write(sink, PAGE, data, sizeof data);
        CHECK(put == 2 * (PAGE + 100) && sink->state->written == put, "wrote %d", (int)put);
        int want = errors[i] == EFAULT ? 0 : errors[i] == 0 ? EIO : errors[i];
        CHECK(sink_errno(sink) == want, "errno %d, not %d", sink_errno(sink), want);
        CHECK(want == 0 || sink_place(sink) == START + 3, "at %d", (int)sink_place(sink));
        reset_calls(sink->fd);
        put = pc_sink_write(sink, 0, data, PAGE);
        CHECK(put == (want == 0 ? PAGE : 0) && calls.writes == (want == 0), "after a failure");
        sink->state->failure = 0;
        sink->state->stopped = 1;
        CHECK(pc_sink_write(sink, 0, data, PAGE) == 0, "wrote although it was stopped");
        CHECK(sink->state->failure == 0, "to stop counts as a failure");
        pc_sink_close(sink);
        close(file);
    }
    check_end("failures, and the word to stop", "");
}

static void test_the_first_failure_counts(void)
{
    static unsigned char data[PAGE];
    int file = memfd_create("sink", MFD_CLOEXEC);
    pc_sink *one = sink_open(file, 0, false, false), *other = sink_open(file, 0, true, true);
    munmap(other->state, sizeof *other->state);
    other->state = one->state;
    check_begin();
    calls.fail_read_at = 1;
    calls.error = EIO;
    CHECK(!pc_sink_read(other, 5 * PAGE, PAGE), "read");
    calls.fd = one->fd;
    calls.fail_at = 1;
    CHECK(pc_sink_write(one, 0, data, PAGE) == 0, "wrote");
    CHECK(sink_errno(one) == EIO && sink_place(one) == 5, "%d", sink_errno(one));
    check_end("the first failure counts", "");
    one->state = NULL;
    pc_sink_close(one);
    pc_sink_close(other);
    close(file);
}

static void test_refused(void)
{
    pc_error error;
    int file = memfd_create("sink", MFD_CLOEXEC);
    check_begin();
    pc_sink_file what = {.fd = file, .state_fd = file, .start = 1};
    CHECK(pc_sink_open(&what, &progress, &error) == NULL && error.code == PC_ERROR_INVALID, "odd");
    what.start = (uint64_t)1 << 63;
    CHECK(pc_sink_open(&what, &progress, &error) == NULL && error.code == PC_ERROR_INVALID, "far");
    what = (pc_sink_file){.fd = -1, .state_fd = file};
    CHECK(pc_sink_open(&what, &progress, &error) == NULL && error.number == EBADF, "no file");
    what = (pc_sink_file){.fd = file, .state_fd = -1};
    CHECK(pc_sink_open(&what, &progress, &error) == NULL && error.number == EBADF, "no state");
    check_end("what cannot be a sink", "");
    close(file);
}

/* A batch of pages, in the block or in a buffer of copies, and the file that it goes to. */
typedef struct world {
    pc_file_block block;
    pc_decider decider;
    pc_task task;
    words bits, before;
    uint64_t offsets[PAGES];
    unsigned char *ram, *copies, *file, *older;
    int ram_fd, file_fd;
    uint64_t pages_per_page; /* of PAGE */
} world;

static const struct way {
    const char *name;
    bool update, holes, copies, listed;
    uint64_t page_bytes;
} ways[] = {
    {"mapped", false, false, false, false, PAGE},
    {"copied", false, false, true, false, PAGE},
    {"mapped, listed", false, false, false, true, PAGE},
    {"copied, listed", false, false, true, true, PAGE},
    {"copied, larger pages", false, false, true, false, 4 * PAGE},
    {"update, mapped", true, false, false, false, PAGE},
    {"update, mapped, holes", true, true, false, false, PAGE},
    {"update, copied", true, false, true, false, PAGE},
    {"update, copied, listed, holes", true, true, true, true, PAGE},
    {"update, mapped, listed", true, false, false, true, PAGE},
    {"update, copied, larger pages, holes", true, true, true, false, 4 * PAGE},
};

static void fill_pages(unsigned char *to, uint64_t pages, uint64_t *random)
{
    for (uint64_t i = 0; i < pages; i++)
        if (check_random(random) % 2 == 0)
            to[i * PAGE + check_random(random) % PAGE] = 1;
}

/* Zero, normal and undecided pages in runs; what is undecided is anything. */
static void make_bits(world *w, uint32_t count, uint64_t *random)
{
    uint64_t page_bytes = w->block.head.page_bytes;
    memset(&w->bits, 0, sizeof w->bits);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t offset =
            w->task.batch.offsets != NULL ? w->offsets[i] : w->task.batch.first + i * page_bytes;
        if (w->copies != NULL)
            memcpy(w->copies + i * page_bytes, w->ram + offset, page_bytes);
        if (check_random(random) % 8 == 0)
            continue;
        pc_bits_set(w->bits.decided, i, 1);
        if (pc_kernel_auto()->is_zero(w->ram + offset, page_bytes))
            pc_bits_set(w->bits.zero, i, 1);
    }
    w->before = w->bits;
}

static void world_start(world *w, const struct way *way, uint64_t *random)
{
    memset(w, 0, sizeof *w);
    w->ram_fd = ram_file(PAGES, 0, 0);
    w->block = ram_block(w->ram_fd, PAGES, 0, true);
    w->block.head.page_bytes = way->page_bytes;
    w->ram = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, w->ram_fd, 0);
    w->copies = way->copies ? malloc(PAGES * PAGE) : NULL;
    w->file_fd = memfd_create("sink", MFD_CLOEXEC);
    uint64_t bytes = (START + PAGES) * PAGE;
    w->older = calloc(1, bytes);
    if (w->ram == MAP_FAILED || w->older == NULL || ftruncate(w->file_fd, (off_t)bytes) != 0 ||
        !pc_guard_install() || !pc_decider_init(pc_kernel_auto(), &progress, &w->decider))
        abort();
    w->file = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, w->file_fd, 0);
    fill_pages(w->ram, PAGES, random);
    if (way->update) {
        fill_pages(w->older + START * PAGE, PAGES, random);
        for (uint64_t i = 0; i < START + PAGES; i++) /* the others stay holes */
            if (!pc_kernel_auto()->is_zero(w->older + i * PAGE, PAGE) || i % 5 == 0)
                memcpy(w->file + i * PAGE, w->older + i * PAGE, PAGE);
    }
    w->block.head.sink = sink_open(w->file_fd, START * PAGE, way->update, way->holes);
    uint32_t count = (uint32_t)(PAGES * PAGE / way->page_bytes);
    for (uint32_t i = 0; i < count; i++)
        w->offsets[i] = (i * 7 % count) / 3 * 3 % count * way->page_bytes; /* some twice */
    w->task = (pc_task){.block = &w->block.head,
                        .decider = &w->decider,
                        .batch = {.offsets = way->listed ? w->offsets : NULL, .count = count},
                        .zero = w->bits.zero,
                        .decided = w->bits.decided};
    make_bits(w, count, random);
}

static void world_end(world *w)
{
    pc_sink_close(w->block.head.sink);
    pc_decider_deinit(&w->decider);
    munmap((void *)(uintptr_t)w->block.head.base, PAGES * PAGE);
    munmap(w->ram, PAGES * PAGE);
    munmap(w->file, (START + PAGES) * PAGE);
    free(w->copies);
    free(w->older);
    close(w->ram_fd);
    close(w->file_fd);
}

/* The file has what the bits say, and nothing else was written. */
static void check_file(const world *w, const struct way *way)
{
    uint64_t page_bytes = way->page_bytes;
    static bool asked[PAGES];
    memset(asked, 0, sizeof asked);
    for (uint32_t i = 0; i < w->task.batch.count; i++) {
        uint64_t offset = way->listed ? w->offsets[i] : i * page_bytes;
        const unsigned char *there = w->file + START * PAGE + offset;
        bool decided = pc_bits_test(w->bits.decided, i), zero = pc_bits_test(w->bits.zero, i);
        CHECK(decided || !zero, "page %d: both", (int)i);
        CHECK(!decided || zero == pc_bits_test(w->before.zero, i), "page %d: changed", (int)i);
        CHECK(!decided || pc_bits_test(w->before.decided, i), "page %d: new", (int)i);
        if (decided && (way->update || !zero))
            CHECK(memcmp(there, w->ram + offset, page_bytes) == 0, "page %d: other bytes", (int)i);
        for (uint64_t at = offset; at < offset + page_bytes; at += PAGE)
            asked[at / PAGE] |= pc_bits_test(w->before.decided, i);
    }
    for (uint64_t i = 0; i < START + PAGES; i++)
        if (i < START || !asked[i - START])
            CHECK(memcmp(w->file + i * PAGE, w->older + i * PAGE, PAGE) == 0, "wrote %d", (int)i);
}

/* How many pieces of the decided pages the file does not have. */
static uint64_t missing(const world *w, const struct way *way)
{
    uint64_t pieces = 0;
    static bool seen[PAGES];
    memset(seen, 0, sizeof seen);
    for (uint32_t i = 0; i < w->task.batch.count; i++) {
        uint64_t offset = way->listed ? w->offsets[i] : i * way->page_bytes;
        bool zero = pc_bits_test(w->bits.zero, i);
        if (!pc_bits_test(w->bits.decided, i) || (zero && !way->update))
            continue;
        for (uint64_t at = offset; at < offset + way->page_bytes; at += PAGE) {
            bool other = memcmp(w->file + START * PAGE + at, w->ram + at, PAGE) != 0;
            pieces += !way->update || (other && !seen[at / PAGE]);
            seen[at / PAGE] = true;
        }
    }
    return pieces;
}

static void test_pages(const struct way *way)
{
    world w;
    uint64_t random = 11;
    check_begin();
    for (int round = 0; round < 20; round++) {
        world_start(&w, way, &random);
        uint64_t want = missing(&w, way);
        calls.most = round % 2 == 0 ? SIZE_MAX : 5000;
        pc_copy_pages(&w.task, 0, w.task.batch.count, w.copies);
        check_file(&w, way);
        CHECK(memcmp(&w.bits, &w.before, sizeof w.bits) == 0, "a page lost its bits");
        CHECK(w.block.head.sink->state->written == want * PAGE, "%d bytes, not %d pieces",
              (int)w.block.head.sink->state->written, (int)want);
        world_end(&w);
    }
    check_end("pages and their bits:", way->name);
}

static void test_failing_pages(const struct way *way)
{
    world w;
    uint64_t random = 5;
    check_begin();
    for (uint64_t fail_at = 1; fail_at < 30; fail_at++) {
        world_start(&w, way, &random);
        calls.most = 3 * PAGE + 1;
        calls.error = fail_at % 3 == 0 ? EFAULT : ENOSPC;
        calls.fail_at = fail_at;
        calls.fail_read_at = fail_at % 2 == 0 ? fail_at : UINT64_MAX;
        pc_copy_pages(&w.task, 0, w.task.batch.count, w.copies);
        check_file(&w, way);
        CHECK(memcmp(&w.bits, &w.before, sizeof w.bits) != 0, "nothing failed");
        world_end(&w);
    }
    check_end("failures and their bits:", way->name);
}

static void test_cut_source(bool update)
{
    world w;
    uint64_t random = 7;
    const struct way way = {.update = update, .page_bytes = PAGE};
    check_begin();
    world_start(&w, &way, &random);
    for (uint32_t i = 0; i < PAGES; i++)
        w.ram[i * PAGE] = 1;
    pc_bits_set(w.bits.decided, 0, PAGES);
    pc_bits_clear(w.bits.zero, 0, PAGES);
    if (ftruncate(w.ram_fd, 100 * PAGE) != 0)
        abort();
    pc_copy_pages(&w.task, 0, PAGES, NULL);
    CHECK(pc_bits_count(w.bits.decided, PAGES) == 100 &&
              pc_bits_run_end(w.bits.decided, PAGES, 0) == 100,
          "%d pages", (int)pc_bits_count(w.bits.decided, PAGES));
    CHECK(w.block.head.sink->state->failure == 0, "no failure of the sink");
    for (uint32_t i = 0; i < 100; i++)
        CHECK(memcmp(w.file + (START + i) * PAGE, w.ram + i * PAGE, PAGE) == 0, "page %d", (int)i);
    check_end("a source that was truncated", update ? "update" : "");
    world_end(&w);
}

static void test_a_file_that_ends(void)
{
    world w;
    uint64_t random = 13;
    const struct way way = {.update = true, .page_bytes = PAGE};
    check_begin();
    world_start(&w, &way, &random);
    if (ftruncate(w.file_fd, (START + 20) * PAGE + 77) != 0)
        abort();
    memset(w.block.head.sink->found, 1, PC_SINK_BYTES); /* what an earlier read may have left */
    CHECK(pc_sink_read(w.block.head.sink, 20 * PAGE, 2 * PAGE), "errno %d",
          sink_errno(w.block.head.sink));
    CHECK(pc_kernel_auto()->is_zero(w.block.head.sink->found + PAGE, PAGE), "not zeros behind it");
    pc_copy_pages(&w.task, 0, PAGES, NULL);
    CHECK(memcmp(&w.bits, &w.before, sizeof w.bits) == 0, "a page lost its bits");
    if (ftruncate(w.file_fd, (START + PAGES) * PAGE) != 0)
        abort();
    for (uint32_t i = 0; i < PAGES; i++)
        if (pc_bits_test(w.bits.decided, i))
            CHECK(memcmp(w.file + (START + i) * PAGE, w.ram + i * PAGE, PAGE) == 0, "page %d",
                  (int)i);
    check_end("a file that ends early", "");
    world_end(&w);
}

/* One page of several megabytes, piece by piece. */
static void test_large_page(bool map, bool update)
{
    enum { LARGE = 4 << 20 };
    world w;
    static unsigned char bytes[2 * LARGE];
    uint64_t random = 17;
    const struct way way = {.update = update, .page_bytes = PAGE};
    check_begin();
    world_start(&w, &way, &random);
    int fd = memfd_create("ram", MFD_CLOEXEC);
    fill(bytes, LARGE, &random);
    memset(bytes, 0, LARGE / 2);
    if (pwrite(fd, bytes, LARGE, 0) != LARGE || ftruncate(fd, 2 * LARGE) != 0 ||
        ftruncate(w.file_fd, 0) != 0 || ftruncate(w.file_fd, START * PAGE + 2 * LARGE) != 0)
        abort();
    memset(bytes + LARGE, 0, LARGE);
    pc_file_block block = ram_block(fd, 2 * LARGE / PAGE, PC_BLOCK_TOUCH_FREELY, map);
    block.head.page_bytes = LARGE;
    block.head.sink = w.block.head.sink;
    pc_task task = {.block = &block.head,
                    .decider = &w.decider,
                    .copies = true,
                    .batch = {.count = 2},
                    .zero = w.bits.zero,
                    .decided = w.bits.decided};
    if (update && pwrite(w.file_fd, "old", 3, START * PAGE + 2 * LARGE - PAGE) != 3)
        abort();
    pc_block_start(&task);
    CHECK(w.bits.decided[0] == 3 && w.bits.zero[0] == 2, "bits");
    static unsigned char back[2 * LARGE];
    CHECK(pread(w.file_fd, back, sizeof back, START * PAGE) == sizeof back &&
              memcmp(back, bytes, sizeof back) == 0,
          "other bytes");
    CHECK(block.head.sink->state->written == (update ? LARGE / 2 + PAGE : LARGE), "%d written",
          (int)block.head.sink->state->written);
    w.block.head.sink->state->stopped = 1;
    pc_block_start(&task);
    CHECK(w.bits.decided[0] == (update ? 0 : 2) && w.bits.zero[0] == (update ? 0 : 2), "stopped");
    check_end(map ? "a large page, mapped" : "a large page, read", update ? "update" : "");
    if (map)
        munmap((void *)(uintptr_t)block.head.base, 2 * LARGE);
    close(fd);
    world_end(&w);
}

int main(void)
{
    test_write();
    test_failures();
    test_the_first_failure_counts();
    test_refused();
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        test_pages(&ways[i]);
        test_failing_pages(&ways[i]);
    }
    for (int update = 0; update < 2; update++) {
        test_cut_source(update);
        test_large_page(true, update);
        test_large_page(false, update);
    }
    test_a_file_that_ends();
    return check_summary();
}
