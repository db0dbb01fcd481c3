/* Deciding pages of another process's private memory: every kind of page, pieces, page sizes; a
 * process that changes or ends; and that looking changes nothing in it. */
#include "process_fixture.h"

#include <sys/syscall.h>
#include <sys/uio.h>

#include "pc_bits.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

enum { PAGES = 1024, WORDS = PAGES / 64 };

static uint64_t progress;

/* What becomes of the calls of process_vm_readv: this program's comes before the C library's. */
static struct {
    uint64_t calls;
    uint64_t fail_at; /* this call */
    int error;
    size_t most;          /* bytes of an answer */
    void (*before)(void); /* of the first call */
    pid_t pid;            /* in place of the given one */
} reads;

static void reset_reads(void)
{
    memset(&reads, 0, sizeof reads);
    reads.fail_at = UINT64_MAX;
    reads.most = SIZE_MAX;
}

ssize_t process_vm_readv(pid_t pid, const struct iovec *ours, unsigned long our_count,
                         const struct iovec *theirs, unsigned long their_count, unsigned long flags)
{
    struct iovec cut[PAGES];
    size_t left = reads.most;
    unsigned long count = 0;
    if (++reads.calls == 1 && reads.before != NULL)
        reads.before();
    if (reads.calls == reads.fail_at) {
        errno = reads.error;
        return -1;
    }
    for (; count < their_count && left > 0; count++) {
        cut[count] = theirs[count];
        if (cut[count].iov_len > left)
            cut[count].iov_len = left;
        left -= cut[count].iov_len;
    }
    return syscall(SYS_process_vm_readv, reads.pid != 0 ? reads.pid : pid, ours, our_count, cut,
                   count, flags);
}

typedef struct words {
    uint64_t zero[WORDS], decided[WORDS];
} words;

typedef struct looking {
    bool by_read;
    bool read_swapped;
    uint64_t page_bytes;
    const pc_piece *pieces; /* NULL: all is PC_ABSENT_ZERO */
    size_t piece_count;
    int file_fd;
    const char *name;
} looking;

static pc_process_block *open_block(const target *t, const looking *how)
{
    pc_error error;
    const pc_piece all = {.end = t->bytes, .absent = PC_ABSENT_ZERO};
    const pc_process_range range = {.pagemap_fd = t->pagemap,
                                    .memory_fd = t->memory,
                                    .file_fd = how->pieces != NULL ? how->file_fd : -1,
                                    .pid = t->pid,
                                    .address = (uintptr_t)t->base,
                                    .bytes = t->bytes,
                                    .page_bytes = how->page_bytes,
                                    .read_swapped = how->read_swapped,
                                    .pieces = how->pieces != NULL ? how->pieces : &all,
                                    .piece_count = how->pieces != NULL ? how->piece_count : 1};
    pc_process_block *block = (pc_process_block *)pc_process_block_open(&range, &error);
    if (block == NULL) {
        printf("%s\n", error.text);
        abort();
    }
    block->pagemap.by_read = how->by_read;
    return block;
}

static words decide(const target *t, const looking *how, const uint64_t *offsets, uint64_t first,
                    uint32_t count)
{
    words answer;
    pc_decider decider;
    pc_process_block *block = open_block(t, how);
    pc_task task = {.block = &block->head,
                    .decider = &decider,
                    .batch = {.offsets = offsets, .first = first, .count = count},
                    .zero = answer.zero,
                    .decided = answer.decided};
    if (!pc_decider_init(pc_kernel_auto(), &progress, &decider))
        abort();
    memset(&answer, 0xff, sizeof answer);     /* stale bits must not survive */
    memset(decider.buffer, 0, PC_READ_BYTES); /* pages that were not copied must not count */
    uint64_t before = progress;
    pc_block_start(&task);
    CHECK(progress > before, "no progress");
    block->head.ops->free(&block->head);
    pc_decider_deinit(&decider);
    return answer;
}

typedef enum verdict { ZERO, NORMAL, UNDECIDED } verdict;

static verdict answered(const words *answer, uint64_t index)
{
    bool zero = pc_bits_test(answer->zero, index);
    if (!pc_bits_test(answer->decided, index))
        return zero ? KINDS : UNDECIDED; /* never both */
    return zero ? ZERO : NORMAL;
}

static verdict expected_page(const unsigned char *kinds, uint64_t page)
{
    return kinds[page] == DATA ? NORMAL : kinds[page] == GUARD ? UNDECIDED : ZERO;
}

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
    uint64_t offsets[PAGES], pages = t->bytes / how->page_bytes, page = 0;
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

static const looking ways[] = {
    {.page_bytes = PAGE, .name = "PAGEMAP_SCAN"},
    {.page_bytes = PAGE, .by_read = true, .name = "reads of pagemap"},
};

static void test_kinds(const looking *way)
{
    static const uint64_t page_bytes[] = {PAGE, 2 * PAGE, 32 * PAGE, 128 * PAGE, 256 * PAGE};
    static const uint64_t longest[] = {1, 3, 40, 600};
    unsigned char kinds[PAGES];
    uint64_t random = 1;
    check_begin();
    for (size_t l = 0; l < sizeof longest / sizeof *longest; l++) {
        fill_kinds(kinds, PAGES, longest[l], &random);
        target t = target_start((uint64_t)PAGES * PAGE, kinds, PAGES, NULL);
        for (size_t p = 0; p < sizeof page_bytes / sizeof *page_bytes; p++) {
            looking how = *way;
            how.page_bytes = page_bytes[p];
            uint32_t pages = (uint32_t)(t.bytes / how.page_bytes);
            check_range(&t, &how, 0, pages);
            check_range(&t, &how, pages / 3, pages / 2);
            for (uint32_t count = 1; count <= pages; count += count / 2 + 1)
                check_offsets(&t, &how, count, &random);
        }
        target_end(&t);
    }
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
    /* The file: page 16 + i is data for odd i; it ends 8 pages before the piece does. */
    if (ftruncate(file, (16 + PIECE - 8) * PAGE) != 0)
        abort();
    for (uint64_t i = 1; i < PIECE - 8; i += 2)
        if (pwrite(file, "x", 1, (off_t)((16 + i) * PAGE + i)) != 1)
            abort();
    fill_kinds(kinds, PAGES, 3, &random);
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

/* Pages [100, 200) cannot be read, [300, 400) are not mapped, [500, 600) are there no more. */
static void act(const target *t, char command)
{
    unsigned char *base = t->base;
    if (command == 'p' && (mprotect(base + 100 * PAGE, 100 * PAGE, PROT_NONE) != 0 ||
                           munmap(base + 300 * PAGE, 100 * PAGE) != 0 ||
                           madvise(base + 500 * PAGE, 100 * PAGE, MADV_DONTNEED) != 0))
        abort();
    if (command == 'h') { /* as far as the kernel can */
        madvise(base, t->bytes, MADV_HUGEPAGE);
        madvise(base, t->bytes, MADV_COLLAPSE);
    }
    pid_t us = getpid();
    if (command == 'f' && fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        while (getppid() == us) /* it may have ended before it was asked for its signal */
            pause();
        _exit(0);
    }
    if (command == 'x') {
        dup2(t->commands, 0); /* these alone are kept */
        dup2(t->answers, 1);
        execl("/bin/sh", "sh", "-c", "echo; read x", (char *)NULL);
        abort();
    }
}

static void test_changes(const looking *way)
{
    unsigned char kinds[PAGES];
    check_begin();
    memset(kinds, DATA, sizeof kinds);
    target t = target_start((uint64_t)PAGES * PAGE, kinds, PAGES, NULL);
    target_do(&t, 'p');
    words answer = decide(&t, way, NULL, 0, PAGES);
    for (uint64_t i = 0; i < PAGES; i++) {
        verdict want = i / 100 == 1 ? UNDECIDED : i / 100 == 5 ? ZERO : NORMAL;
        if (i / 100 == 3) /* the file's entries do not tell it from absent: who calls must know */
            want = way->by_read ? ZERO : UNDECIDED;
        CHECK(answered(&answer, i) == want, "page %d: %d, not %d", (int)i, answered(&answer, i),
              want);
    }
    target_end(&t);
    check_end("no access, not mapped, released:", way->name);
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

static void test_short_copies(const looking *way)
{
    unsigned char kinds[PAGES];
    uint64_t random = 4;
    check_begin();
    fill_kinds(kinds, PAGES, 2, &random);
    target t = target_start((uint64_t)PAGES * PAGE, kinds, PAGES, NULL);
    for (size_t most = 1; most <= 5 && most < PAGES; most++) {
        reset_reads();
        reads.most = most * PAGE + (most % 2) * 100;
        words answer = decide(&t, way, NULL, 0, PAGES);
        for (uint64_t i = 0; i < PAGES; i++) {
            verdict found = answered(&answer, i);
            CHECK(found == expected_page(kinds, i) || (found == UNDECIDED && kinds[i] != ABSENT),
                  "page %d: %d", (int)i, found);
        }
        CHECK(reads.calls > 8, "%d calls", (int)reads.calls);
    }
    reset_reads();
    target_end(&t);
    check_end("copies that end early:", way->name);
}

static void test_errors(const looking *way)
{
    static const int errors[] = {ESRCH, EPERM, ENOMEM};
    unsigned char kinds[PAGES];
    check_begin();
    memset(kinds, ZEROS, sizeof kinds);
    target t = target_start((uint64_t)PAGES * PAGE, kinds, PAGES, NULL);
    for (size_t e = 0; e < sizeof errors / sizeof *errors; e++) {
        reset_reads();
        reads.error = errors[e];
        reads.fail_at = 2; /* the second 128 pages */
        words answer = decide(&t, way, NULL, 0, PAGES);
        for (uint64_t i = 0; i < PAGES; i++)
            CHECK(answered(&answer, i) == (i < 128 ? ZERO : UNDECIDED), "page %d", (int)i);
        CHECK(reads.calls == 2, "%d calls", (int)reads.calls);
    }
    reset_reads();
    target_end(&t);
    check_end("the process may not be read any more:", way->name);
}

static void check_all_undecided(const target *t, const looking *way, const char *what)
{
    words answer = decide(t, way, NULL, 0, PAGES);
    for (uint64_t i = 0; i < PAGES; i++)
        CHECK(answered(&answer, i) == UNDECIDED, "%s: page %d", what, (int)i);
}

static target victim;

static void kill_victim(void)
{
    target_kill(&victim);
}

/* A process that ended, that executed another program, or whose pid another one has. */
static void test_another_process(const looking *way)
{
    unsigned char kinds[PAGES], zeros[PAGES];
    check_begin();
    memset(kinds, DATA, sizeof kinds);
    memset(zeros, ZEROS, sizeof zeros);
    target t = target_start((uint64_t)PAGES * PAGE, kinds, PAGES, NULL);
    target_do(&t, 'x');
    check_all_undecided(&t, way, "executed another program");
    target_end(&t);
    t = target_start((uint64_t)PAGES * PAGE, kinds, PAGES, NULL);
    target_kill(&t);
    check_all_undecided(&t, way, "ended");
    target_end(&t);

    /* It ends between the look and the copy, and its pid is that of one with zeros there. */
    victim = target_start((uint64_t)PAGES * PAGE, kinds, PAGES, NULL);
    target other = target_start((uint64_t)PAGES * PAGE, zeros, PAGES, &victim);
    reads.before = kill_victim;
    reads.pid = other.pid;
    check_all_undecided(&victim, way, "another one has its pid");
    CHECK(reads.calls == 1, "%d calls", (int)reads.calls);
    reset_reads();
    target_end(&victim);
    target_end(&other);
    check_end("another process:", way->name);
}

/* A process that ends loses its pages one by one, while they are looked at. */
static void test_ending(const looking *way)
{
    enum { MANY = 16 * PAGES };
    unsigned char *kinds = malloc(MANY);
    check_begin();
    if (kinds == NULL)
        abort();
    memset(kinds, DATA, MANY);
    for (int round = 0; round < 10; round++) {
        target t = target_start((uint64_t)MANY * PAGE, kinds, MANY, NULL);
        const looking how = {.page_bytes = 16 * PAGE, .by_read = way->by_read, .name = way->name};
        if (kill(t.pid, SIGKILL) != 0)
            abort();
        for (bool ended = false; !ended;) {
            siginfo_t info = {0};
            ended = waitid(P_PID, (id_t)t.pid, &info, WEXITED | WNOHANG) == 0 && info.si_pid != 0;
            words answer = decide(&t, &how, NULL, 0, PAGES);
            CHECK(pc_bits_count(answer.zero, PAGES) == 0, "%d pages are zero",
                  (int)pc_bits_count(answer.zero, PAGES));
        }
        target_end(&t);
    }
    free(kinds);
    check_end("a process that ends meanwhile:", way->name);
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
        test_changes(&ways[i]);
        test_shared_pages(&ways[i]);
        test_huge_pages(&ways[i]);
        test_short_copies(&ways[i]);
        test_errors(&ways[i]);
        test_another_process(&ways[i]);
        test_ending(&ways[i]);
    }
    return check_summary();
}
