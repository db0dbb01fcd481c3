/* The software model of a DSA work queue: its ways in, its order, its memory, its threads. What one
 * descriptor comes to is in test_dsa_vectors.c, the fault plans are in test_dsa_faults.c. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "dsa_fixture.h"

static descriptor zero_page(size_t index)
{
    return make(COMPVAL, CRAV_RCR, record(index), ZERO.at, PAGE);
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* False: ten seconds passed. */
static bool wait_status(size_t index)
{
    uint64_t deadline = now_ns() + UINT64_C(10000000000);

    while (status(index) == 0) {
        if (now_ns() > deadline)
            return false;
        sched_yield();
    }
    return true;
}

/* ---- ways in ---- */

static void test_shared(void)
{
    dsa_model_options options = still(1, "none");
    dsa_model *model;

    check_begin();
    options.size = 8;
    options.threshold = 5;
    model = open_model(&options);
    for (size_t i = 0; i < 8; i++) {
        descriptor page = zero_page(i);
        CHECK(dsa_model_enqcmd(model, &page) == (i >= 5), "submission %zu", i);
    }
    descriptor page = zero_page(6);
    dsa_model_movdir64b(model, &page);
    CHECK(counts_of(model).dropped == 1 && counts_of(model).retried == 3, "counts");
    CHECK(dsa_model_run(model, 2) == 2, "run 2");
    CHECK(!dsa_model_enqcmd(model, &page), "room was not given back");
    CHECK(dsa_model_run(model, SIZE_MAX) == 4, "run the rest");
    for (size_t i = 0; i < 5; i++)
        CHECK(status(i) == 1, "record %zu", i);
    dsa_model_close(model);
    check_end("shared queue admits up to its threshold", "");
}

static void test_dedicated(void)
{
    dsa_model_options options = still(1, "none");
    dsa_model *model;

    check_begin();
    options.mode = DSA_MODEL_DEDICATED;
    options.size = 8;
    options.threshold = 2;
    model = open_model(&options);
    for (size_t i = 0; i < 9; i++) {
        descriptor page = zero_page(i);
        CHECK(dsa_model_enqcmd(model, &page), "ENQCMD was taken");
        dsa_model_movdir64b(model, &page);
    }
    CHECK(counts_of(model).submitted == 8 && counts_of(model).dropped == 1, "counts");
    CHECK(dsa_model_run(model, SIZE_MAX) == 8 && status(7) == 1 && status(8) == 0, "records");
    dsa_model_close(model);
    check_end("dedicated queue drops what is too much", "");
}

static void test_write(void)
{
    dsa_model_options options = still(1, "none");
    descriptor pages[6];
    dsa_model *model;

    check_begin();
    options.mode = DSA_MODEL_WRITE;
    options.size = 4;
    options.threshold = 4;
    model = open_model(&options);
    for (size_t i = 0; i < 6; i++)
        pages[i] = zero_page(i);
    CHECK(dsa_model_enqcmd(model, pages), "ENQCMD without a portal");
    CHECK(dsa_model_write(model, pages, 63) == 0, "63 bytes");
    CHECK(dsa_model_write(model, pages, 2 * 64 + 63) == 128, "trailing bytes");
    CHECK(dsa_model_write(model, pages + 2, 4 * 64) == 128, "room for two");
    CHECK(dsa_model_write(model, pages + 4, 128) == -EAGAIN, "full");
    dsa_model_run(model, SIZE_MAX);
    pages[5].bytes[8] += 4;
    CHECK(dsa_model_write(model, pages + 4, 128) == 64, "up to the one it refuses");
    CHECK(dsa_model_write(model, pages + 5, 64) == -EINVAL, "misaligned record");
    dsa_model_disable(model);
    CHECK(dsa_model_write(model, pages, 64) == -EAGAIN, "disabled");
    dsa_model_close(model);
    for (size_t i = 0; i < 4; i++)
        CHECK(status(i) == 1, "record %zu", i);
    CHECK(status(4) == 0, "was dropped by disabling");
    check_end("write(2) answers as the kernel does", "");
}

static void test_disable(void)
{
    dsa_model_options options = still(1, "none");
    dsa_model *model = open_model(&options);

    check_begin();
    for (size_t i = 0; i < 4; i++) {
        descriptor page = zero_page(i);
        dsa_model_enqcmd(model, &page);
    }
    dsa_model_run(model, 1);
    dsa_model_disable(model);
    descriptor page = zero_page(5);
    CHECK(dsa_model_enqcmd(model, &page), "a disabled queue took it");
    CHECK(dsa_model_run(model, SIZE_MAX) == 0, "queued ones were kept");
    CHECK(counts_of(model).lost == 3, "lost %" PRIu64, counts_of(model).lost);
    dsa_model_enable(model);
    CHECK(!dsa_model_enqcmd(model, &page), "an enabled queue refused it");
    dsa_model_close(model);
    CHECK(status(5) == 1, "close did not finish it");
    check_end("disabled in mid-flight, and back", "");
}

static void test_options(void)
{
    struct {
        const char *what;
        uint32_t size, threshold, max_batch, version;
        uint64_t max_transfer;
        const char *faults;
    } const wrong[] = {
        {"size", 0, 1, 8, 1, 4096, "none"},
        {"size", 129, 1, 8, 1, 4096, "none"},
        {"threshold", 8, 9, 8, 1, 4096, "none"},
        {"max_batch", 8, 8, 1, 1, 4096, "none"},
        {"max_batch", 8, 8, 1025, 1, 4096, "none"},
        {"version", 8, 8, 8, 3, 4096, "none"},
        {"max_transfer", 8, 8, 8, 1, 0, "none"},
        {"fault plan", 8, 8, 8, 1, 4096, "odd"},
        {"max_transfer", 8, 8, 8, 1, UINT64_C(0x80000001), "none"},
    };

    check_begin();
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        dsa_model_options options = still(0, wrong[i].faults);
        char why[64] = "";
        options.size = wrong[i].size;
        options.threshold = wrong[i].threshold;
        options.max_batch = wrong[i].max_batch;
        options.version = wrong[i].version;
        options.max_transfer = wrong[i].max_transfer;
        CHECK(dsa_model_open(&options, why, sizeof(why)) == NULL, "%s", wrong[i].what);
        CHECK(strstr(why, wrong[i].what) != NULL, "%s: %s", wrong[i].what, why);
        CHECK(dsa_model_open(&options, NULL, 0) == NULL, "%s", wrong[i].what);
    }
    check_end("options that make no queue are refused", "");
}

/* ---- order ---- */

/* Two descriptors with one record: the first to run writes it. */
static void test_any_order(bool in_batch)
{
    size_t first_won = 0, runs = 200;

    check_begin();
    for (uint64_t seed = 0; seed < runs; seed++) {
        dsa_model_options options = still(seed, "none");
        dsa_model *model = open_model(&options);
        descriptor one = make(COMPVAL, CRAV_RCR, record(1), ZERO.at, PAGE);
        descriptor other = make(COMPVAL, CRAV_RCR, record(1), ONE.at, PAGE);
        descriptor batch = make(BATCH, CRAV_RCR, record(0), LIST.at, 2);
        memcpy(LIST.at, &one, 64);
        memcpy(LIST.at + 64, &other, 64);
        if (in_batch) {
            dsa_model_enqcmd(model, &batch);
        } else {
            dsa_model_enqcmd(model, &one);
            dsa_model_enqcmd(model, &other);
        }
        dsa_model_close(model);
        first_won += record(1)[1] == 0;
    }
    CHECK(first_won > runs / 4 && first_won < runs * 3 / 4, "%zu of %zu", first_won, runs);
    check_end("any order:", in_batch ? "members" : "descriptors");
}

static void test_drain(void)
{
    check_begin();
    for (uint64_t seed = 0; seed < 50; seed++) {
        dsa_model_options options = still(seed, "none");
        dsa_model *model = open_model(&options);
        descriptor drain = make(DRAIN, CRAV_RCR, record(8), NULL, 0), later = zero_page(9);
        for (size_t i = 0; i < 8; i++) {
            descriptor page = zero_page(i);
            dsa_model_enqcmd(model, &page);
        }
        dsa_model_enqcmd(model, &drain);
        dsa_model_enqcmd(model, &later);
        while (dsa_model_run(model, 1) != 0)
            for (size_t i = 0; i < 8; i++)
                CHECK(status(8) == 0 || status(i) != 0, "drained before %zu", i);
        CHECK(status(8) == 1 && status(9) == 1, "not all ran");
        dsa_model_close(model);
    }
    check_end("a drain waits for what is before it", "");
}

static void test_round_down(void)
{
    size_t exact = 0, nothing = 0, between = 0;

    check_begin();
    for (uint64_t seed = 0; seed < 200; seed++) {
        dsa_model_options options = still(seed, "none");
        dsa_model *model = open_model(&options);
        descriptor page = make(COMPVAL, CRAV_RCR, record(0), ONE.at, PAGE);
        dsa_model_enqcmd(model, &page);
        dsa_model_close(model);
        exact += completed(0) == 0x123;
        nothing += completed(0) == 0;
        between += completed(0) > 0 && completed(0) < 0x123;
    }
    CHECK(exact > 10 && nothing > 10 && between > 10, "%zu %zu %zu", exact, nothing, between);
    check_end("a difference is reported at or before its byte", "");
}

static void test_members_first(void)
{
    dsa_model_options options = still(5, "none");
    dsa_model *model;

    check_begin();
    options.threaded = true;
    model = open_model(&options);
    for (size_t round = 0; round < 300; round++) {
        descriptor batch = make_batch(16);
        clear_records();
        CHECK(!dsa_model_enqcmd(model, &batch), "not taken");
        CHECK(wait_status(0), "round %zu: no record", round);
        for (size_t i = 0; i <= 16; i++) {
            CHECK(status(i) == 1, "round %zu: record %zu is %x", round, i, status(i));
            for (size_t byte = 16; byte < 32; byte++)
                CHECK(record(i)[byte] != 0, "round %zu: the status came first", round);
        }
    }
    dsa_model_close(model);
    check_end("members' records come before the batch's", "");
}

/* ---- memory ---- */

static uint8_t compare_once(dsa_model *model, const void *source)
{
    descriptor page = make(COMPVAL, CRAV_RCR, record(0), source, PAGE);

    clear_records();
    dsa_model_enqcmd(model, &page);
    dsa_model_run(model, SIZE_MAX);
    return status(0);
}

static void test_absent(void)
{
    dsa_model_options options = still(3, "none");
    dsa_model *model = open_model(&options);
    int fd = memfd_create("sparse", MFD_CLOEXEC);
    unsigned char resident = 0xff;
    uint8_t *map;
    struct stat file;

    check_begin();
    if (fd < 0 || ftruncate(fd, 4 * PAGE) != 0)
        abort();
    map = mmap(NULL, 4 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
    dsa_model_give(model, map, 4 * PAGE, false);
    CHECK(compare_once(model, map) == 3, "a hole: status %x", status(0));
    CHECK(fstat(fd, &file) == 0 && file.st_blocks == 0, "looking allocated a page");
    CHECK(mincore(map, PAGE, &resident) == 0 && (resident & 1) == 0, "looking made it resident");
    CHECK(pwrite(fd, "", 1, 0) == 1, "pwrite");
    CHECK(compare_once(model, map) == 3, "in the file, but not in this page table");
    CHECK(*(volatile uint8_t *)map == 0, "touch");
    CHECK(compare_once(model, map) == 1, "present: status %x", status(0));
    CHECK(fstat(fd, &file) == 0 && file.st_blocks == PAGE / 512, "one page");
    CHECK(compare_once(model, map + PAGE / 2) == 3 && completed(0) == PAGE / 2, "half present");
    CHECK(ftruncate(fd, 0) == 0, "ftruncate");
    CHECK(compare_once(model, map) == 3, "truncated: status %x", status(0));
    dsa_model_close(model);
    munmap(map, 4 * PAGE);
    close(fd);
    check_end("an absent page faults and stays absent", "");
}

/* Without the question to the page table, the copy itself meets the end of the file. */
static void test_truncated(void)
{
    dsa_model_options options = still(3, "none");
    int fd = memfd_create("short", MFD_CLOEXEC);
    dsa_model *model;
    uint8_t *map;

    check_begin();
    options.check_residency = false;
    model = open_model(&options);
    if (fd < 0 || ftruncate(fd, 4 * PAGE) != 0)
        abort();
    map = mmap(NULL, 4 * PAGE, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    dsa_model_give(model, map, 4 * PAGE, false);
    CHECK(compare_once(model, map + 3 * PAGE) == 1, "whole: status %x", status(0));
    CHECK(ftruncate(fd, PAGE) == 0, "ftruncate");
    CHECK(compare_once(model, map + 3 * PAGE) == 3 && completed(0) == 0, "status %x", status(0));
    CHECK(compare_once(model, map + PAGE / 2) == 3 && completed(0) == PAGE / 2, "across the end");
    dsa_model_close(model);
    munmap(map, 4 * PAGE);
    close(fd);
    check_end("a truncated file faults", "");
}

static void test_give(void)
{
    dsa_model_options options = still(3, "none");
    dsa_model *model = open_model(&options);
    int given = 0;

    check_begin();
    CHECK(compare_once(model, OUTSIDE.at) == 3, "not given");
    dsa_model_give(model, OUTSIDE.at, PAGE / 2, false);
    dsa_model_give(model, OUTSIDE.at + PAGE / 2, PAGE / 2, false);
    CHECK(compare_once(model, OUTSIDE.at) == 1, "two ranges side by side");
    dsa_model_take(model, OUTSIDE.at + PAGE / 2);
    CHECK(compare_once(model, OUTSIDE.at) == 3 && completed(0) == PAGE / 2, "one taken");
    dsa_model_take(model, OUTSIDE.at);
    while (given < 100000 && dsa_model_give(model, OUTSIDE.at, PAGE, false) == 0)
        given++;
    CHECK(given >= 64 && given < 100000, "%d ranges", given);
    CHECK(dsa_model_give(model, OUTSIDE.at, PAGE, false) == -ENOSPC, "not ENOSPC");
    dsa_model_take(model, OUTSIDE.at);
    CHECK(dsa_model_give(model, OUTSIDE.at, PAGE, false) == 0, "no room after take");
    dsa_model_close(model);
    check_end("only given memory is read", "");
}

/* The page that the model is about to look at is overwritten the moment it was taken: a difference
 * would be one that it saw too late. */
static void test_take(void)
{
    enum { BIG = 512 * PAGE, ROUNDS = 600 };
    dsa_model_options options = still(7, "none");
    uint8_t *map =
        mmap(NULL, BIG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    size_t cut = 0;
    dsa_model *model;

    check_begin();
    options.threaded = true;
    model = open_model(&options);
    for (size_t round = 0; round < ROUNDS; round++) {
        descriptor all = make(COMPVAL, CRAV_RCR, record(0), map, BIG);
        uint64_t before = counts_of(model).bytes_read, at;
        clear_records();
        memset(map, 0, BIG);
        dsa_model_give(model, map, BIG, false);
        CHECK(!dsa_model_enqcmd(model, &all), "not taken");
        do
            at = counts_of(model).bytes_read - before;
        while (at < round % 8 * 16 * PAGE);
        dsa_model_take(model, map);
        if (at < BIG)
            memset(map + at, 0xff, BIG - at);
        CHECK(wait_status(0), "no record");
        CHECK(status(0) == 3 || (status(0) == 1 && record(0)[1] == 0), "it saw a difference");
        cut += status(0) == 3;
    }
    dsa_model_close(model);
    munmap(map, BIG);
    CHECK(cut > 0, "each was over before it was taken: this shows nothing");
    check_end("taken memory is not looked at again", "");
}

/* ---- threads ---- */

static void test_close_finishes(void)
{
    dsa_model_options options = still(9, "none");
    dsa_model *model;
    uint64_t began;

    check_begin();
    options.threaded = true;
    options.delay_ns = 30000000;
    model = open_model(&options);
    began = now_ns();
    for (size_t i = 0; i < 32; i++) {
        descriptor page = zero_page(i);
        CHECK(!dsa_model_enqcmd(model, &page), "not taken");
    }
    CHECK(counts_of(model).executed == 0, "executed before its time");
    dsa_model_close(model);
    CHECK(now_ns() - began >= options.delay_ns, "no delay");
    CHECK(now_ns() - began < 32 * options.delay_ns / 2, "delays do not overlap");
    for (size_t i = 0; i < 32; i++)
        CHECK(status(i) == 1, "record %zu", i);
    check_end("close waits for what was accepted", "");
}

static volatile sig_atomic_t signals_seen;

static void on_signal(int number)
{
    (void)number;
    signals_seen++;
}

typedef struct submitter {
    dsa_model *model;
    size_t first; /* of its records */
    size_t bad;
} submitter;

static void *submit_many(void *argument)
{
    submitter *own = argument;

    for (size_t round = 0; round < 300; round++) {
        size_t at = own->first + round % 8;
        bool differs = round % 3 == 0;
        descriptor page = make(COMPVAL, CRAV_RCR, record(at), differs ? ONE.at : ZERO.at, PAGE);
        memset(record(at), 0, 32);
        while (dsa_model_enqcmd(own->model, &page))
            sched_yield();
        if (!wait_status(at) || status(at) != 1 || record(at)[1] != differs)
            own->bad++;
    }
    return NULL;
}

static void test_load(void)
{
    dsa_model_options options = still(11, "none");
    dsa_model *model;
    pthread_t threads[4];
    submitter submitters[4];

    check_begin();
    options.threaded = true;
    options.size = options.threshold = 2;
    model = open_model(&options);
    for (size_t i = 0; i < 4; i++) {
        submitters[i] = (submitter){model, 8 * i, 0};
        pthread_create(&threads[i], NULL, submit_many, &submitters[i]);
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        CHECK(submitters[i].bad == 0, "thread %zu: %zu bad", i, submitters[i].bad);
    }
    CHECK(counts_of(model).executed == 1200 && counts_of(model).submitted == 1200, "counts");
    CHECK(counts_of(model).bytes_read == 1200 * PAGE, "bytes read");
    dsa_model_close(model);
    check_end("four threads, a queue of two", "");
}

/* With the signal blocked here, it stays pending unless the model's thread would take it. */
static void test_signals(void)
{
    dsa_model_options options = still(9, "none");
    dsa_model *model;
    sigset_t one, before, waiting;

    check_begin();
    options.threaded = true;
    model = open_model(&options);
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &one, &before);
    signal(SIGUSR1, on_signal);
    kill(getpid(), SIGUSR1);
    dsa_model_close(model); /* its thread has run by now */
    CHECK(sigpending(&waiting) == 0 && sigismember(&waiting, SIGUSR1), "was delivered elsewhere");
    CHECK(signals_seen == 0, "the handler ran");
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    CHECK(signals_seen == 1, "the handler never ran");
    signal(SIGUSR1, SIG_DFL);
    check_end("signals are not for the model's thread", "");
}

int main(void)
{
    map_all();
    test_shared();
    test_dedicated();
    test_write();
    test_disable();
    test_options();
    test_any_order(true);
    test_any_order(false);
    test_drain();
    test_round_down();
    test_members_first();
    test_absent();
    test_truncated();
    test_give();
    test_take();
    test_close_finishes();
    test_load();
    test_signals();
    return check_summary();
}
