/* The fault plans of the software DSA device that strike a submission or the whole queue: full,
 * disabled, late, refused by write(2), stuck. Those of descriptors are in test_dsa_faults.c. */
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "dsa_fixture.h"

/* How many of `count` pages a queue with this plan takes; each is executed at once. */
static size_t taken(dsa_model *model, size_t count)
{
    size_t sum = 0;

    for (size_t i = 0; i < count; i++) {
        descriptor page = make(COMPVAL, CRAV_RCR, record(1), ZERO.at, PAGE);
        memset(record(1), 0, 32);
        sum += !dsa_model_enqcmd(model, &page);
        dsa_model_run(model, SIZE_MAX);
    }
    return sum;
}

static void test_queue_plans(void)
{
    dsa_model_options options = still(4, "always-full");
    dsa_model *model = open_model(&options);
    size_t sum;

    check_begin();
    CHECK(taken(model, 1000) == 0 && counts_of(model).retried == 1000, "was taken");
    dsa_model_close(model);
    check_end("plan:", "always-full");

    check_begin();
    options = still(4, "full");
    model = open_model(&options);
    sum = taken(model, 20000);
    CHECK(sum > 100 && sum < 18000, "%zu of 20000", sum);
    dsa_model_close(model);
    check_end("plan:", "full");

    check_begin();
    options = still(4, "disable");
    model = open_model(&options);
    sum = taken(model, 200);
    CHECK(sum >= 1 && sum <= 64, "%zu of 200 in one go", sum);
    CHECK(counts_of(model).lost >= 1, "nothing was lost");
    uint64_t end = now_ns() + 5000000000u;
    while ((sum = taken(model, 1)) == 0 && now_ns() < end)
        usleep(1000);
    CHECK(sum == 1, "did not come back");
    dsa_model_close(model);
    check_end("plan:", "disable");

    check_begin();
    options = still(4, "disable-forever");
    model = open_model(&options);
    sum = taken(model, 200);
    CHECK(sum >= 1 && sum <= 64, "%zu of 200", sum);
    usleep(60000);
    dsa_model_enable(model);
    CHECK(taken(model, 10) == 0, "came back");
    dsa_model_close(model);
    check_end("plan:", "disable-forever");
}

static void test_late(void)
{
    dsa_model_options options = still(4, "late");
    dsa_model *model = open_model(&options);
    size_t late = 0;

    check_begin();
    for (size_t round = 0; round < 40; round++) {
        descriptor batch = make_batch(2);
        uint64_t began = now_ns();
        clear_records();
        CHECK(!dsa_model_enqcmd(model, &batch) && dsa_model_run(model, SIZE_MAX) == 1, "not run");
        if (status(0) != 0)
            continue;
        late++;
        CHECK(status(1) == 1 && status(2) == 1, "members wait for it");
        while (status(0) == 0 && now_ns() - began < UINT64_C(5000000000))
            CHECK(dsa_model_run(model, SIZE_MAX) == 0, "a second execution");
        CHECK(status(0) == 1 && now_ns() - began >= 1000000, "never, or at once");
    }
    CHECK(late > 3 && late < 30 && counts_of(model).faults == late, "%zu late", late);
    while (counts_of(model).faults == late)
        taken(model, 1);
    dsa_model_disable(model);
    dsa_model_close(model);
    CHECK(status(1) == 0, "a late record outlived its queue");
    check_end("plan:", "late");
}

static size_t answers(dsa_model *model, const void *descriptors, size_t count, ssize_t answer)
{
    size_t sum = 0;

    for (size_t i = 0; i < 400; i++) {
        sum += dsa_model_write(model, descriptors, 64 * count) == answer;
        dsa_model_run(model, SIZE_MAX);
        clear_records();
    }
    return sum;
}

static void test_write_plans(void)
{
    dsa_model_options options = still(4, "eagain");
    descriptor pages[4], batch = make_batch(2);
    dsa_model *model;
    size_t sum;

    for (size_t i = 0; i < 4; i++)
        pages[i] = make(COMPVAL, CRAV_RCR, record(i), ZERO.at, PAGE);
    options.mode = DSA_MODEL_WRITE;
    options.version = 2;

    check_begin();
    model = open_model(&options);
    sum = answers(model, pages, 1, -EAGAIN);
    CHECK(sum > 40 && sum < 300, "%zu of 400", sum);
    dsa_model_close(model);
    check_end("plan:", "eagain");

    check_begin();
    options.faults = "eperm";
    model = open_model(&options);
    sum = answers(model, pages, 1, -EPERM);
    CHECK(sum >= 400 - 64 && sum <= 400, "%zu of 400", sum);
    CHECK(answers(model, pages, 1, -EPERM) == 400, "went away");
    dsa_model_close(model);
    check_end("plan:", "eperm");

    check_begin();
    options.faults = "einval-batch";
    model = open_model(&options);
    CHECK(answers(model, &batch, 1, -EINVAL) == 400, "took a batch");
    CHECK(answers(model, pages, 4, 256) == 400, "refused pages");
    dsa_model_close(model);
    check_end("plan:", "einval-batch");

    check_begin();
    options.faults = "short";
    model = open_model(&options);
    sum = answers(model, pages, 4, 256);
    CHECK(sum > 40 && sum < 360, "%zu whole of 400", sum);
    CHECK(answers(model, pages, 4, 0) == 0, "took none");
    CHECK(answers(model, pages, 1, 64) == 400, "one alone cannot be short");
    dsa_model_close(model);
    check_end("plan:", "short");
}

static void test_stuck_close(void)
{
    dsa_model_options options = still(4, "stuck-close");
    int ends[2], state;
    char byte;
    pid_t child;

    check_begin();
    if (pipe(ends) != 0 || (child = fork()) < 0)
        abort();
    if (child == 0) {
        dsa_model *model = open_model(&options);
        byte = taken(model, 3) == 3 && status(1) == 0 ? 'y' : 'n';
        if (write(ends[1], &byte, 1) != 1)
            _exit(1);
        dsa_model_close(model);
        _exit(0);
    }
    CHECK(read(ends[0], &byte, 1) == 1 && byte == 'y', "a record came");
    usleep(50000); /* a chance to return: too short a wait can only miss a failure */
    CHECK(waitpid(child, &state, WNOHANG) == 0, "close returned");
    kill(child, SIGKILL);
    waitpid(child, &state, 0);
    close(ends[0]);
    close(ends[1]);
    check_end("plan:", "stuck-close");
}

int main(void)
{
    map_all();
    test_queue_plans();
    test_late();
    test_write_plans();
    test_stuck_close();
    return check_summary();
}
