/* The software model of a DSA work queue: its ways in, what it refuses, and its order. Its memory
 * is in test_dsa_model_memory.c, its thread in test_dsa_model_threads.c; what one descriptor comes
 * to is in test_dsa_vectors.c, the fault plans are in test_dsa_faults.c and
 * test_dsa_faults_queue.c. */
#include <errno.h>
#include <inttypes.h>

#include "check.h"
#include "dsa_fixture.h"

static descriptor zero_page(size_t index)
{
    return make(COMPVAL, CRAV_RCR, record(index), ZERO.at, PAGE);
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
    CHECK(!dsa_model_enqcmd(model, &page), "room was not released");
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
    return check_summary();
}
