/* Private memory of another process that is copied while it is decided: every kind of page, page
 * sizes, and copies that go wrong. What is called normal is in the file, whole. */
#include "process_block_fixture.h"
#include "sink_fixture.h"

static int new_file(void)
{
    int file = memfd_create("sink", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t)PAGES * PAGE) != 0)
        abort();
    return file;
}

static words decide_and_copy(const target *t, const looking *how, int file, bool update)
{
    words answer;
    pc_decider decider;
    pc_process_block *block = open_block(t, how);
    pc_task task = {.block = &block->head,
                    .decider = &decider,
                    .copies = true,
                    .batch = {.count = (uint32_t)(t->bytes / how->page_bytes)},
                    .zero = answer.zero,
                    .decided = answer.decided};
    if (!pc_decider_init(pc_kernel_auto(), &progress, &decider))
        abort();
    block->head.sink = sink_open(file, 0, update, update);
    memset(decider.buffer, 0xee, PC_READ_BYTES); /* what was not copied must not be written */
    pc_block_start(&task);
    pc_block_free(&block->head);
    pc_decider_deinit(&decider);
    return answer;
}

/* Whether the file has what the target has in the page; one of a kind that cannot be read has
 * nothing. */
static void check_page(const target *t, const looking *how, const words *answer, uint64_t page,
                       const unsigned char *file, bool update)
{
    uint64_t offset = page * how->page_bytes;
    static unsigned char theirs[256 * PAGE];
    verdict found = answered(answer, page);
    if (found == UNDECIDED || (found == ZERO && !update))
        return;
    memset(theirs, 0, how->page_bytes);
    for (uint64_t at = offset; at < offset + how->page_bytes; at += PAGE) {
        CHECK(t->kinds[at / PAGE] != GUARD, "page %d cannot be read", (int)page);
        if (t->kinds[at / PAGE] == DATA)
            make_page(theirs + (at - offset), DATA, at / PAGE);
    }
    CHECK(memcmp(theirs, file + offset, how->page_bytes) == 0, "%s, page %d, verdict %d", how->name,
          (int)page, found);
}

/* A page of which a part cannot be read cannot be copied. */
static verdict expected_whole(const unsigned char *kinds, uint64_t offset, uint64_t page_bytes)
{
    verdict all = ZERO;
    for (uint64_t page = offset / PAGE; page < (offset + page_bytes) / PAGE; page++) {
        verdict one = expected_page(kinds, page);
        if (one == UNDECIDED)
            return UNDECIDED;
        all = one == NORMAL ? NORMAL : all;
    }
    return all;
}

static void check_target(const target *t, const looking *how, bool update)
{
    int file = new_file();
    unsigned char *bytes = mmap(NULL, t->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (bytes == MAP_FAILED)
        abort();
    for (uint64_t i = 0; update && i < PAGES; i += 3)
        bytes[i * PAGE + i] = 9;
    words answer = decide_and_copy(t, how, file, update);
    bool undisturbed = reads.fail_at == UINT64_MAX && reads.most == SIZE_MAX;
    for (uint64_t page = 0; page < t->bytes / how->page_bytes; page++) {
        check_page(t, how, &answer, page, bytes, update);
        verdict want = expected_whole(t->kinds, page * how->page_bytes, how->page_bytes);
        CHECK(!undisturbed || answered(&answer, page) == want,
              "%s, page %d of %d bytes: %d, not %d", how->name, (int)page, (int)how->page_bytes,
              answered(&answer, page), want);
    }
    munmap(bytes, t->bytes);
    close(file);
}

static void check_reads(const target *t, const looking *how, void *update)
{
    const bool *updates = update;
    reset_reads();
    check_target(t, how, *updates);
    for (uint64_t fail_at = 1; fail_at < 5; fail_at++) {
        reset_reads();
        reads.fail_at = fail_at;
        reads.error = fail_at % 2 == 0 ? EFAULT : ESRCH;
        check_target(t, how, *updates);
    }
    reset_reads();
    reads.most = 3 * PAGE + 5;
    check_target(t, how, *updates);
}

static void test_kinds(bool update)
{
    check_begin();
    check_kinds(&ways[0], check_reads, &update);
    check_end("every kind of page", update ? "update" : "");
}

static void act(const target *t, char command)
{
    (void)t;
    (void)command;
}

int main(void)
{
    reset_reads();
    if (!page_tables_are_ours())
        return 0;
    test_kinds(false);
    test_kinds(true);
    return check_summary();
}
