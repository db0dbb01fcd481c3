/* Where the software DSA device is stricter than any hardware that one might have: stores that no
 * fence has made visible, lists that are fetched late, a PASID that is not the submitter's to name,
 * limits below those of the queue, neighbours, queues that are gone, no page requests, no ATS. */
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "check.h"
#include "dsa_fixture.h"

enum { MEMBERS = 16 };

/* ---- #GP ---- */

static volatile sig_atomic_t faults_seen;

static void on_fault(int number)
{
    (void)number;
    faults_seen++;
}

static void test_pasid(void)
{
    struct sigaction action = {.sa_handler = on_fault}, before;
    dsa_model_options options = still(1, "none");
    dsa_model *model = open_model(&options);

    check_begin();
    sigaction(SIGSEGV, &action, &before);
    for (unsigned bit = 0; bit < 32; bit++) {
        descriptor page = make(COMPVAL, CRAV_RCR, record(0), ZERO.at, PAGE);
        page.bytes[bit / 8] = (uint8_t)(1u << bit % 8);
        CHECK(dsa_model_enqcmd(model, &page), "bit %u: taken", bit);
        CHECK(faults_seen == (sig_atomic_t)bit + 1, "bit %u: no fault", bit);
    }
    sigaction(SIGSEGV, &before, NULL);
    CHECK(counts_of(model).submitted == 0 && counts_of(model).errors == 32, "counts");
    dsa_model_close(model);
    check_end("ENQCMD faults on bits 31:0", "");
}

/* ---- stores that are not visible ---- */

static dsa_model *open_ordered(void)
{
    dsa_model_options options = still(1, "store-order");
    dsa_model *model;

    LIST.writable = true; /* memory that the submitter writes: only that is withheld */
    model = open_model(&options);
    LIST.writable = false;
    dsa_model_fence(model);
    return model;
}

static void test_stale_list(void)
{
    dsa_model *model = open_ordered();
    descriptor batch = make_batch(2), other;

    check_begin();
    dsa_model_fence(model);
    dsa_model_enqcmd(model, &batch);
    dsa_model_run(model, SIZE_MAX);
    CHECK(status(1) == 1 && record(1)[1] == 0 && record(2)[1] == 1, "the first batch");
    clear_records();
    dsa_model_fence(model);
    other = make(COMPVAL, CRAV_RCR, record(1), ONE.at, PAGE);
    memcpy(LIST.at, &other, 64); /* behind the fence */
    dsa_model_enqcmd(model, &batch);
    dsa_model_run(model, SIZE_MAX);
    CHECK(status(1) == 1 && record(1)[1] == 0, "it saw the new list");
    clear_records();
    dsa_model_fence(model);
    dsa_model_enqcmd(model, &batch);
    dsa_model_run(model, SIZE_MAX);
    CHECK(status(1) == 1 && record(1)[1] == 1, "it did not see the new list");
    CHECK(counts_of(model).errors == 0, "errors");
    dsa_model_close(model);
    check_end("a list that is not fenced is an old one", "");
}

/* What is written between the submission and the look is none of the device's business either. */
static void test_later_list(void)
{
    dsa_model *model = open_ordered();
    descriptor batch = make_batch(2);

    check_begin();
    dsa_model_fence(model);
    dsa_model_enqcmd(model, &batch);
    memset(LIST.at, 0xff, 128);
    dsa_model_fence(model);
    dsa_model_run(model, SIZE_MAX);
    CHECK(status(0) == 1 && status(1) == 1 && status(2) == 1, "statuses %x %x %x", status(0),
          status(1), status(2));
    dsa_model_close(model);
    check_end("a later fence lends nothing to an earlier list", "");
}

static void test_stale_record(bool in_batch)
{
    dsa_model *model = open_ordered();
    descriptor batch = make_batch(2), page = make(COMPVAL, CRAV_RCR, record(1), ZERO.at, PAGE);

    check_begin();
    record(1)[0] = 1;
    dsa_model_fence(model);
    record(1)[0] = 0; /* not visible: it will land on the answer */
    dsa_model_enqcmd(model, in_batch ? &batch : &page);
    dsa_model_run(model, SIZE_MAX);
    CHECK(status(1) == 0 && counts_of(model).lost == 1, "status %x, %" PRIu64 " lost", status(1),
          counts_of(model).lost);
    dsa_model_fence(model);
    clear_records();
    dsa_model_fence(model);
    dsa_model_enqcmd(model, in_batch ? &batch : &page);
    dsa_model_run(model, SIZE_MAX);
    CHECK(status(1) == 1, "status %x after a fence", status(1));
    dsa_model_close(model);
    check_end("a record that is not fenced is lost:", in_batch ? "a member's" : "its own");
}

/* ---- lists that are fetched late ---- */

static void test_late_list(void)
{
    enum { LONG = 200 };
    dsa_model_options options = still(1, "late-list");
    dsa_model *model;
    size_t seen = 0;

    check_begin();
    options.threaded = true;
    options.max_batch = LONG;
    model = open_model(&options);
    for (size_t round = 0; round < 200 && seen < 3; round++) {
        descriptor last = make(COMPVAL, CRAV_RCR, record(LONG), ZERO.at, PAGE);
        descriptor other = make(COMPVAL, CRAV_RCR, record(LONG), ONE.at, PAGE), batch;
        clear_records();
        batch = make_batch(LONG);
        memcpy(LIST.at + 64 * (LONG - 1), &last, 64);
        CHECK(!dsa_model_enqcmd(model, &batch), "not taken");
        CHECK(wait_status(1), "no record");
        memcpy(LIST.at + 64 * (LONG - 1), &other, 64); /* the first member has run */
        CHECK(wait_status(0) && status(0) == 1, "batch %x", status(0));
        seen += record(LONG)[1] == 1;
    }
    CHECK(seen >= 3, "the list was fetched at once, always");
    dsa_model_close(model);
    check_end("plan:", "late-list");
}

/* ---- several engines ---- */

static void test_engines(uint32_t engines)
{
    dsa_model_options options = still(3, "none");
    char of[16];
    dsa_model *model;

    check_begin();
    options.threaded = true;
    options.engines = engines;
    options.size = options.threshold = 32;
    model = open_model(&options);
    for (size_t round = 0; round < 100; round++) {
        clear_records();
        for (size_t i = 0; i < 32; i++) {
            descriptor page = make(COMPVAL, CRAV_RCR, record(i), i % 2 ? ONE.at : ZERO.at, PAGE);
            while (dsa_model_enqcmd(model, &page))
                sched_yield();
        }
        for (size_t i = 0; i < 32; i++)
            CHECK(wait_status(i) && record(i)[1] == i % 2, "record %zu", i);
    }
    CHECK(counts_of(model).executed == 3200 && counts_of(model).errors == 0, "counts");
    dsa_model_close(model);
    snprintf(of, sizeof of, "%u", engines);
    check_end("engines:", of);
}

/* ---- limits below those of the queue ---- */

static void test_size_limit(void)
{
    check_begin();
    for (uint64_t seed = 0; seed < 20; seed++) {
        dsa_model_options options = still(seed, "transfer-size");
        dsa_model *model = open_model(&options);
        uint32_t refused = 0;
        for (uint32_t pages = 1; pages <= 16; pages++) {
            descriptor all = make(COMPVAL, CRAV_RCR, record(0), ZERO.at, pages * PAGE);
            clear_records();
            dsa_model_enqcmd(model, &all);
            dsa_model_run(model, SIZE_MAX);
            CHECK(status(0) == (refused ? 0x13 : 1) || (!refused && status(0) == 0x13),
                  "%u pages: %x after a refusal", pages, status(0));
            refused += status(0) == 0x13;
        }
        CHECK(refused >= 8 && refused <= 15, "%u refused", refused);
        dsa_model_close(model);
    }
    check_end("plan:", "transfer-size");
}

static void test_count_limit(void)
{
    check_begin();
    for (uint64_t seed = 0; seed < 20; seed++) {
        dsa_model_options options = still(seed, "descriptor-count");
        dsa_model *model = open_model(&options);
        bool refused = false;
        for (uint32_t members = 2; members <= 70; members++) {
            descriptor batch = make_batch(members);
            clear_records();
            dsa_model_enqcmd(model, &batch);
            dsa_model_run(model, SIZE_MAX);
            CHECK(!refused || status(0) == 0x14, "%u members: %x", members, status(0));
            refused = refused || status(0) == 0x14;
            CHECK((status(1) == 0) == refused, "a member ran");
        }
        CHECK(refused, "never");
        dsa_model_close(model);
    }
    check_end("plan:", "descriptor-count");
}

/* ---- a neighbour ---- */

static void test_neighbour(void)
{
    dsa_model_options options = still(2, "neighbour");
    dsa_model *model = open_model(&options);
    uint64_t end = now_ns() + UINT64_C(10000000000), full = 0, taken = 0;

    check_begin();
    while ((full < 3 || taken < 100) && now_ns() < end) {
        descriptor page = make(COMPVAL, CRAV_RCR, record(1), ZERO.at, PAGE);
        clear_records();
        if (dsa_model_enqcmd(model, &page)) {
            full++; /* with nothing of ours in it */
            continue;
        }
        taken++;
        dsa_model_run(model, SIZE_MAX);
        CHECK(status(1) == 1, "status %x", status(1));
    }
    CHECK(full >= 3 && taken >= 100, "%" PRIu64 " times full, %" PRIu64 " taken", full, taken);
    dsa_model_close(model);
    check_end("plan:", "neighbour");
}

/* ---- a queue that is gone ---- */

static void test_astray(void)
{
    dsa_model_options options = still(1, "none");
    descriptor page = make(COMPVAL, CRAV_RCR, record(1), ZERO.at, PAGE);
    dsa_model *model;

    check_begin();
    options.mode = DSA_MODEL_WRITE;
    model = open_model(&options);
    CHECK(dsa_model_enabled(model), "not enabled");
    CHECK(dsa_model_write(model, &page, 64) == 64, "not taken");
    dsa_model_disable(model);
    CHECK(!dsa_model_enabled(model) && counts_of(model).astray == 0, "enabled");
    CHECK(dsa_model_write(model, &page, 64) == -EAGAIN && counts_of(model).astray == 1, "written");
    dsa_model_enable(model);
    CHECK(dsa_model_enabled(model), "not enabled again");
    CHECK(dsa_model_write(model, &page, 64) == 64 && counts_of(model).astray == 1, "not taken");
    dsa_model_close(model);
    check_end("a write to a disabled queue is reported", "");
}

/* ---- absent pages ---- */

static void absent(memory *m)
{
    if (madvise(m->at, m->bytes, MADV_DONTNEED) != 0)
        abort();
}

static uint8_t absent_record(bool prs)
{
    dsa_model_options options = still(1, "none");
    descriptor page = make(COMPVAL, CRAV_RCR, record(0), ZERO.at, PAGE);
    dsa_model *model;
    uint8_t code;

    options.prs = prs;
    model = open_model(&options);
    absent(&RECORDS);
    dsa_model_enqcmd(model, &page);
    dsa_model_run(model, SIZE_MAX);
    CHECK(counts_of(model).lost == !prs, "%" PRIu64 " lost", counts_of(model).lost);
    dsa_model_close(model);
    code = status(0);
    clear_records();
    return code;
}

static uint8_t absent_list(bool prs)
{
    dsa_model_options options = still(1, "none");
    descriptor batch;
    dsa_model *model;

    options.prs = prs;
    model = open_model(&options);
    batch = make(BATCH, CRAV_RCR, record(0), LIST.at, 2);
    absent(&LIST); /* with page requests: zeros, which are NOOPs without a record */
    dsa_model_enqcmd(model, &batch);
    dsa_model_run(model, SIZE_MAX);
    dsa_model_close(model);
    memset(LIST.at, 0, LIST.bytes);
    return status(0);
}

static void test_page_requests(void)
{
    check_begin();
    CHECK(absent_record(false) == 0, "a record without page requests");
    CHECK(absent_record(true) == 1, "a record with page requests");
    CHECK(absent_list(false) == 6, "a list without page requests");
    CHECK(absent_list(true) == 1, "a list with page requests");
    check_end("page requests bring lists and records in", "");
}

/* What becomes of faults on records: lost, or written by the kernel and late. */
static void record_faults(uint32_t version, bool prs, bool ats, uint64_t *lost, size_t *failed)
{
    dsa_model_options options = still(4, "record-fault");
    dsa_model *model;

    options.version = version;
    options.prs = prs;
    options.ats = ats;
    model = open_model(&options);
    *failed = 0;
    for (size_t round = 0; round < 100; round++) {
        descriptor batch = make_batch(MEMBERS);
        uint64_t began = now_ns(), before = counts_of(model).lost;
        clear_records();
        dsa_model_enqcmd(model, &batch);
        do
            dsa_model_run(model, SIZE_MAX);
        while (status(0) == 0 && counts_of(model).lost == before &&
               now_ns() - began < UINT64_C(10000000000));
        *failed += status(0) == 5;
    }
    CHECK(counts_of(model).faults == 3, "%" PRIu64 " faults", counts_of(model).faults);
    *lost = counts_of(model).lost;
    dsa_model_close(model);
}

static void test_record_faults(void)
{
    uint64_t lost;
    size_t failed;

    check_begin();
    record_faults(1, false, true, &lost, &failed);
    CHECK(lost == 3, "version 1: %" PRIu64 " lost", lost);
    record_faults(2, false, true, &lost, &failed);
    CHECK(lost == 0 && failed > 0, "version 2: %" PRIu64 " lost, %zu failed", lost, failed);
    record_faults(2, false, false, &lost, &failed);
    CHECK(lost == 3, "version 2 without ATS: %" PRIu64 " lost", lost);
    record_faults(1, true, true, &lost, &failed);
    CHECK(lost == 0 && failed == 0, "page requests: %" PRIu64 " lost, %zu failed", lost, failed);
    check_end("faults on records", "");
}

int main(void)
{
    map_all();
    test_pasid();
    test_stale_list();
    test_later_list();
    test_stale_record(false);
    test_stale_record(true);
    test_late_list();
    for (uint32_t engines = 1; engines <= 4; engines++)
        test_engines(engines);
    test_size_limit();
    test_count_limit();
    test_neighbour();
    test_astray();
    test_page_requests();
    test_record_faults();
    return check_summary();
}
