/* The software model of a DSA work queue with its own thread: what a submitter may rely on while it
 * executes, and what is left when it is closed. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "check.h"
#include "dsa_fixture.h"

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
        dsa_model_register(model, map, BIG, false);
        CHECK(!dsa_model_enqcmd(model, &all), "not taken");
        do
            at = counts_of(model).bytes_read - before;
        while (at < round % 8 * 16 * PAGE);
        dsa_model_unregister(model, map);
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
        descriptor page = make(COMPVAL, CRAV_RCR, record(i), ZERO.at, PAGE);
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
    test_members_first();
    test_take();
    test_close_finishes();
    test_load();
    test_signals();
    return check_summary();
}
