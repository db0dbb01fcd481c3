/* Deciding pages of another process's private memory: every kind of page, pieces, page sizes; and
 * that looking changes nothing in it. */
#include "process_block_fixture.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

static verdict expected(const unsigned char *kinds, uint64_t offset, uint64_t page_bytes)
{
    verdict all = ZERO;
    for (uint64_t page = offset / PAGE; page < (offset + page_bytes) / PAGE; page++) {
        verdict one = expected_page(kinds, page);
        if (one == NORMAL)
            return NORMAL;
        all = one != ZERO ? one : all;
    }
    return all;
}

static void check_range(const target *t, const looking *how, uint64_t first, uint32_t count)
{
    words answer = decide(t, how, NULL, first * how->page_bytes, count);
    for (uint32_t i = 0; i < count; i++) {
        verdict want = expected(t->kinds, (first + i) * how->page_bytes, how->page_bytes);
        CHECK(answered(&answer, i) == want, "%s, page %d: %d, not %d", how->name, (int)(first + i),
              answered(&answer, i), want);
    }
}

static void check_offsets(const target *t, const looking *how, uint32_t count, uint64_t *random)
{
    uint64_t offsets[PAGES] = {0}, pages = t->bytes / how->page_bytes, page = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t move = check_random(random) % 8; /* the next one, near or anywhere */
        page = move < 4 ? page + move : check_random(random);
        offsets[i] = page % pages * how->page_bytes;
    }
    words answer = decide(t, how, offsets, 0, count);
    for (uint32_t i = 0; i < count; i++) {
        verdict want = expected(t->kinds, offsets[i], how->page_bytes);
        CHECK(answered(&answer, i) == want, "%s, offset %llx: %d, not %d", how->name,
              (unsigned long long)offsets[i], answered(&answer, i), want);
    }
}

static void check_target(const target *t, const looking *how, void *random)
{
    uint32_t pages = (uint32_t)(t->bytes / how->page_bytes);
    check_range(t, how, 0, pages);
    check_range(t, how, pages / 3, pages / 2);
    for (uint32_t count = 1; count <= pages; count += count / 2 + 1)
        check_offsets(t, how, count, random);
}

static void test_kinds(const looking *way)
{
    uint64_t random = 1;
    check_begin();
    check_kinds(way, check_target, &random);
    check_end("kinds of pages, page sizes, offsets:", way->name);
}

/* A file of /proc about the target. */
static void read_proc(pid_t pid, const char *what, char *to, size_t size)
{
    char name[64];
    snprintf(name, sizeof name, "/proc/%d/%s", (int)pid, what);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd >= 0 ? read(fd, to, size - 1) : -1;
    if (got < 0)
        abort();
    to[got] = '\0';
    close(fd);
}

/* What a look may not change: memory in use, page tables, minor faults. */
enum { ANON_HUGE = 2, USES = 6 };
static const char *const uses[USES] = {
    "Rss:", "Anonymous:", "AnonHugePages:", "Swap:", "VmPTE:", "faults"};

static void read_usage(const target *t, long long usage[USES])
{
    pid_t pid = t->pid;
    char text[8192];
    size_t length;
    target_settle(t);
    read_proc(pid, "smaps_rollup", text, sizeof text / 2);
    length = strlen(text);
    read_proc(pid, "status", text + length, sizeof text - length);
    for (int i = 0; i < USES - 1; i++) {
        const char *at = strstr(text, uses[i]);
        usage[i] = at != NULL ? atoll(at + strlen(uses[i])) : -1;
    }
    read_proc(pid, "stat", text, sizeof text);
    const char *at = strrchr(text, ')');
    for (int field = 2; field < 10 && at != NULL; field++)
        at = strchr(at + 1, ' ');
    usage[USES - 1] = at != NULL ? atoll(at) : -1;
}

static void test_nothing_changes(const looking *way)
{
    unsigned char kinds[PAGES];
    uint64_t random = 2;
    check_begin();
    fill_kinds(kinds, PAGES, 5, &random);
    target t = target_start((uint64_t)64 << 20, kinds, PAGES, NULL);
    looking how = *way;
    long long before[USES], after[USES];
    read_usage(&t, before);
    for (uint64_t at = 0; at < t.bytes / PAGE; at += PAGES)
        decide(&t, &how, NULL, at * PAGE, PAGES);
    how.page_bytes = (uint64_t)2 << 20;
    decide(&t, &how, NULL, 0, 32);
    read_usage(&t, after);
    for (int i = 0; i < USES; i++)
        CHECK(before[i] >= 0 && after[i] == before[i], "%s %lld, was %lld", uses[i], after[i],
              before[i]);
    target_end(&t);
    check_end("nothing changes in the process:", way->name);
}

enum { PIECE = 64 };

/* Pages of pieces that mean other things; in a private mapping of a file the file counts. */
static void test_pieces(const looking *way)
{
    static const pc_piece pieces[] = {
        {0, PIECE * PAGE, PC_ABSENT_ZERO, 0},
        {PIECE * PAGE, 2 * PIECE * PAGE, PC_UNREADABLE, 0},
        {2 * PIECE * PAGE, 3 * PIECE * PAGE, PC_ABSENT_UNDECIDED, 0},
        {3 * PIECE * PAGE, 4 * PIECE * PAGE, PC_ABSENT_FILE, 16 * PAGE},
        {4 * PIECE * PAGE, PAGES * PAGE, PC_ABSENT_ZERO, 0},
    };
    unsigned char kinds[PAGES];
    uint64_t random = 3;
    int file = memfd_create("ram", MFD_CLOEXEC);
    looking how = *way;
    how.pieces = pieces;
    how.piece_count = sizeof pieces / sizeof *pieces;
    how.file_fd = file;
    check_begin();
    /* The file: page 16 + i is data for odd i; it ends in the 8th page before the piece does. */
    if (ftruncate(file, (16 + PIECE - 8) * PAGE + PAGE / 2) != 0)
        abort();
    for (uint64_t i = 1; i < PIECE - 8; i += 2)
        if (pwrite(file, "x", 1, (off_t)((16 + i) * PAGE + i)) != 1)
            abort();
    fill_kinds(kinds, PAGES, 3, &random);
    memset(&kinds[4 * PIECE - 8], ABSENT, 8); /* those that the file does not have */
    target t = target_start((uint64_t)PAGES * PAGE, kinds, PAGES, NULL);
    words answer = decide(&t, &how, NULL, 0, PAGES);
    for (uint64_t i = 0; i < PAGES; i++) {
        verdict want = expected_page(kinds, i);
        if (i / PIECE == 1 || (i / PIECE == 2 && kinds[i] == ABSENT))
            want = UNDECIDED;
        else if (i / PIECE == 3 && kinds[i] == ABSENT)
            want = i % PIECE >= PIECE - 8 ? UNDECIDED : i % 2 == 1 ? NORMAL : ZERO;
        CHECK(answered(&answer, i) == want, "page %d: %d, not %d", (int)i, answered(&answer, i),
              want);
    }
    target_end(&t);
    close(file);
    check_end("pieces:", way->name);
}

/* What the target does: huge pages, a child. */
static void act(const target *t, char command)
{
    if (command == 'h') { /* as far as the kernel can */
        madvise(t->base, t->bytes, MADV_HUGEPAGE);
        madvise(t->base, t->bytes, MADV_COLLAPSE);
    }
    pid_t us = getpid();
    if (command == 'f' && fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        while (getppid() == us) /* it may have ended before it was asked for its signal */
            pause();
        _exit(0);
    }
}

/* Decides all, with as many copies as are wanted; nothing changes in the target. */
static void check_quiet(const target *t, const looking *way, uint64_t calls)
{
    long long before[USES], after[USES];
    reset_reads();
    read_usage(t, before);
    words answer = decide(t, way, NULL, 0, PAGES);
    read_usage(t, after);
    for (uint64_t i = 0; i < PAGES; i++)
        CHECK(answered(&answer, i) == expected_page(t->kinds, i), "page %d", (int)i);
    for (int i = 0; i < USES; i++)
        CHECK(after[i] == before[i], "%s %lld, was %lld", uses[i], after[i], before[i]);
    CHECK(reads.calls == calls, "%d calls", (int)reads.calls);
}

/* Pages that a child has as well are read without a pin: a pinned one would be copied first. */
static void test_shared_pages(const looking *way)
{
    unsigned char kinds[PAGES];
    uint64_t random = 5;
    check_begin();
    fill_kinds(kinds, PAGES, 1, &random);
    target t = target_start((uint64_t)PAGES * PAGE, kinds, PAGES, NULL);
    target_do(&t, 'f');
    check_quiet(&t, way, 0);
    target_end(&t);
    check_end("pages that a child has as well:", way->name);
}

/* In at least one huge page, between small ones. */
static void test_huge_pages(const looking *way)
{
    unsigned char kinds[PAGES];
    uint64_t random = 6;
    check_begin();
    fill_kinds(kinds, PAGES, 1, &random);
    for (size_t i = 0; i < PAGES; i++) /* there is no huge page with a guard */
        kinds[i] = kinds[i] == GUARD ? DATA : kinds[i];
    target t = target_start((uint64_t)PAGES * PAGE, kinds, PAGES, NULL);
    target_do(&t, 'h');
    long long usage[USES];
    read_usage(&t, usage);
    if (usage[ANON_HUGE] == 0)
        printf("no huge pages: the test is of small ones\n");
    check_quiet(&t, way, PAGES / 128);
    target_do(&t, 'f');
    check_quiet(&t, way, 0);
    target_end(&t);
    check_end("huge pages, then with a child:", way->name);
}

int main(void)
{
    reset_reads();
    if (!page_tables_are_ours())
        return 0;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        test_kinds(&ways[i]);
        test_nothing_changes(&ways[i]);
        test_pieces(&ways[i]);
        test_shared_pages(&ways[i]);
        test_huge_pages(&ways[i]);
    }
    return check_summary();
}
