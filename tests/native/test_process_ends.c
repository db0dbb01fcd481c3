/* Deciding pages of a process that changes its memory, may not be read any more, executes another
 * program or ends. */
#include "process_block_fixture.h"

/* Pages [100, 200) cannot be read, [300, 400) are not mapped, [500, 600) are there no more. */
static void act(const target *t, char command)
{
    unsigned char *base = t->base;
    if (command == 'p' && (mprotect(base + 100 * PAGE, 100 * PAGE, PROT_NONE) != 0 ||
                           munmap(base + 300 * PAGE, 100 * PAGE) != 0 ||
                           madvise(base + 500 * PAGE, 100 * PAGE, MADV_DONTNEED) != 0))
        abort();
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
        test_changes(&ways[i]);
        test_short_copies(&ways[i]);
        test_errors(&ways[i]);
        test_another_process(&ways[i]);
        test_ending(&ways[i]);
    }
    return check_summary();
}
