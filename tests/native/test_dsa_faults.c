/* The fault plans of the software DSA device: each does what its name says to descriptors, none
 * makes a record lie, and a seed means the same luck every time. Those that strike the queue are in
 * test_dsa_faults_queue.c. */
#include <inttypes.h>
#include <time.h>

#include "check.h"
#include "dsa_fixture.h"

enum { MEMBERS = 16, ROUNDS = 64, DIFFERENCE = 0x123 };

/* What the records of many batches under one plan came to. */
typedef struct tally {
    size_t batch[64], member[64]; /* by status; 0: no record */
    size_t matches;
} tally;

/* A record of a compare pattern tells the truth: member i matches if it is even. */
static void check_truth(const char *plan, size_t member)
{
    size_t index = member + 1, difference = member % 2 ? DIFFERENCE : PAGE;
    uint8_t code = status(index), result = record(index)[1];

    if (code == 1) {
        CHECK(result == member % 2, "%s: result %u of member %zu", plan, result, member);
        CHECK(result != 0 || completed(index) == 0, "%s: match, %u", plan, completed(index));
    }
    if (code == 3 || code == 4)
        CHECK(result == 0 && completed(index) < PAGE, "%s: result %u", plan, result);
    if ((code == 1 && result == 1) || code == 3 || code == 4)
        CHECK(completed(index) <= difference, "%s: %u equal", plan, completed(index));
}

/* What a batch's record says about its members; `plan` is one whose faults do not hide it. */
static void check_batch(const char *plan)
{
    uint8_t code = status(0);

    if (code == 1)
        for (size_t i = 1; i <= MEMBERS; i++)
            CHECK(status(i) <= 1, "%s: batch 01 over member %x", plan, status(i));
    if (code == 1)
        CHECK(completed(0) == MEMBERS, "%s: %u ran", plan, completed(0));
    if (code != 6 && (code != 5 || completed(0) == MEMBERS))
        return;
    CHECK(completed(0) < MEMBERS, "%s: cut short, %u ran", plan, completed(0));
    for (size_t i = completed(0); i < MEMBERS; i++)
        for (size_t byte = 0; byte < 32; byte++)
            CHECK(record(i + 1)[byte] == 0, "%s: member %zu was touched", plan, i);
    if (code == 6) {
        uint64_t at = (uintptr_t)LIST.at + 64 * completed(0);
        CHECK(fault_address(0) == at || fault_address(0) == (at & ~UINT64_C(0xfff)), "%s", plan);
    }
}

/* The C library's, in its place, for the model as well: with each look 0.1 ms is over. So nobody
 * has to sleep until a late record or a disabled queue comes, and a seed decides when they do. */
int clock_gettime(clockid_t clock, struct timespec *now)
{
    static uint64_t ns;

    (void)clock;
    ns += 100000;
    now->tv_sec = (time_t)(ns / 1000000000);
    now->tv_nsec = (long)(ns % 1000000000);
    return 0;
}

/* A record may be late by 20 ms; one that is written into the next round would be a mess. */
static void run_to_the_end(dsa_model *model)
{
    uint64_t began = now_ns();

    dsa_model_run(model, SIZE_MAX);
    while (status(0) == 0 && counts_of(model).faults != 0 && now_ns() - began < 25000000)
        dsa_model_run(model, SIZE_MAX);
}

static tally run_batches(const char *plan, uint64_t seed, dsa_model_counts *counts)
{
    dsa_model_options options = still(seed, plan);
    dsa_model *model = open_model(&options);
    tally seen = {{0}, {0}, 0};

    for (size_t round = 0; round < ROUNDS; round++) {
        descriptor batch = make_batch(MEMBERS);
        clear_records();
        dsa_model_fence(model);
        if (dsa_model_enqcmd(model, &batch))
            continue;
        run_to_the_end(model);
        check_batch(plan);
        seen.batch[status(0)]++;
        for (size_t i = 0; i < MEMBERS; i++) {
            check_truth(plan, i);
            seen.member[status(i + 1)]++;
            seen.matches += status(i + 1) == 1 && record(i + 1)[1] == 0;
        }
    }
    *counts = counts_of(model);
    dsa_model_close(model);
    return seen;
}

static void test_descriptor_plans(void)
{
    static const struct {
        const char *plan;
        uint8_t batch, member; /* a status that must be seen */
        bool others_fine;      /* no other but 01 and, for the batch, 05 */
    } cases[] = {
        {"none", 1, 1, true},
        {"page-fault", 5, 3, true},
        {"page-fault-masked", 5, 3, true},
        {"page-fault-refused", 5, 4, true},
        {"list-fault", 6, 0, true},
        {"abandoned", 5, 0, true},
        {"false-batch-fail", 5, 1, true},
        {"bad-opcode", 0x10, 0x10, false},
        {"invalid-flags", 0x11, 0x11, false},
        {"reserved", 0x12, 0x12, false},
        {"field-value", 0x15, 0x15, false},
        {"overlap", 0x16, 0x16, false},
        {"dualcast", 0x17, 0x17, false},
        {"list-misaligned", 0x18, 1, true},
        {"interrupt-handle", 0x19, 0x19, false},
        {"record-fault", 1, 0, true},
        {"record-misaligned", 1, 0, true},
        {"misaligned", 0x1c, 0x1c, false},
        {"privilege", 1, 0, true},
        {"traffic-class", 0x1e, 0x1e, false},
        {"readback", 0x1f, 0x1f, false},
        {"late-list", 1, 1, true},
        {"hw-error", 0x20, 0x20, false},
        {"hw-error-write", 0x21, 0x21, false},
        {"translation", 0x22, 0x22, false},
        {"lost", 1, 0, true},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        dsa_model_counts counts;
        tally seen;
        size_t odd = 0;
        check_begin();
        seen = run_batches(cases[i].plan, 1, &counts);
        CHECK(seen.batch[cases[i].batch] > 0, "no batch");
        CHECK(seen.member[cases[i].member] > 0, "no member");
        CHECK(seen.matches > 0, "no match is left");
        CHECK((counts.faults > 0) == (i > 0), "%" PRIu64 " faults", counts.faults);
        CHECK(counts.errors == 0, "%" PRIu64 " errors", counts.errors);
        for (size_t code = 0; code < 64; code++)
            if (code > 1 && code != cases[i].member)
                odd += seen.member[code];
        CHECK(odd == 0, "%zu other statuses", odd);
        check_end("plan:", cases[i].plan);
    }
}

static void test_details(void)
{
    dsa_model_counts counts;
    tally seen;
    size_t defined = 0;

    check_begin();
    seen = run_batches("false-batch-fail", 2, &counts);
    CHECK(seen.member[1] == ROUNDS * MEMBERS && seen.batch[5] > 0 && seen.batch[1] > 0, "members");
    check_end("a false failure leaves all members fine", "");

    check_begin();
    seen = run_batches("unknown-status", 2, &counts);
    for (size_t code = 0; code < 64; code++)
        if ((code > 1 && code < 0x0a) || (code > 0x0f && code < 0x23) || code == 0x26)
            defined += seen.member[code] + seen.batch[code];
    defined -= seen.batch[5];
    CHECK(defined == 0 && counts.faults > 0, "%zu statuses that are defined", defined);
    check_end("plan:", "unknown-status");

    check_begin();
    run_batches("lost", 2, &counts);
    CHECK(counts.lost >= 1 && counts.lost <= 3, "%" PRIu64 " lost", counts.lost);
    check_end("few records are lost", "");

    check_begin();
    seen = run_batches("lost-all", 2, &counts);
    CHECK(seen.batch[0] == ROUNDS && seen.member[0] == ROUNDS * MEMBERS, "a record came");
    CHECK(counts.lost == ROUNDS * (MEMBERS + 1), "%" PRIu64 " lost", counts.lost);
    check_end("plan:", "lost-all");
}

/* Bits 11:0 of fault addresses that are seen; on version 2, how many say that there is none. */
static size_t fault_addresses(const char *plan, uint32_t version, size_t *low_bits, size_t *masked)
{
    dsa_model_options options = still(3, plan);
    dsa_model *model;
    size_t faults = 0;

    options.version = version;
    model = open_model(&options);
    *low_bits = *masked = 0;
    for (size_t round = 0; round < 400; round++) {
        descriptor page = make(COMPVAL, CRAV_RCR, record(1), ZERO.at, PAGE);
        clear_records();
        dsa_model_enqcmd(model, &page);
        dsa_model_run(model, SIZE_MAX);
        check_truth(plan, 0);
        if (status(1) != 3)
            continue;
        faults++;
        if (version == 2)
            CHECK((record(1)[2] & 0x0e) == 2, "operand %x", record(1)[2]);
        if (version == 2 && (record(1)[2] & 1)) {
            ++*masked;
            continue;
        }
        *low_bits += (fault_address(1) & 0xfff) != 0;
        CHECK((fault_address(1) & ~UINT64_C(0xfff)) == (uintptr_t)ZERO.at, "another page");
    }
    dsa_model_close(model);
    return faults;
}

static void test_fault_addresses(void)
{
    size_t low_bits, masked;

    check_begin();
    CHECK(fault_addresses("page-fault", 1, &low_bits, &masked) > 20 && low_bits > 0, "version 1");
    CHECK(fault_addresses("page-fault", 2, &low_bits, &masked) > 20 && masked == 0, "version 2");
    check_end("fault addresses:", "page-fault");
    check_begin();
    CHECK(fault_addresses("page-fault-masked", 1, &low_bits, &masked) > 20, "none");
    CHECK(low_bits == 0, "low bits on version 1");
    CHECK(fault_addresses("page-fault-masked", 2, &low_bits, &masked) > 20, "none");
    CHECK(low_bits == 0 && masked > 0, "version 2: %zu %zu", low_bits, masked);
    check_end("fault addresses:", "page-fault-masked");
}

/* ---- all of them ---- */

/* A number for all that a seed brings: batches and pages, executed in between, records included. */
static uint64_t digest(const char *plan, uint64_t seed)
{
    dsa_model_options options = still(seed, plan);
    dsa_model *model = open_model(&options);
    uint64_t sum = seed;
    dsa_model_counts counts;

    for (size_t round = 0; round < 20; round++) {
        descriptor batch = make_batch(MEMBERS);
        clear_records();
        dsa_model_fence(model);
        sum = sum * 31 + dsa_model_enqcmd(model, &batch);
        for (size_t i = 0; i < 4; i++) {
            descriptor page = make(COMPVAL, CRAV_RCR, record(20 + i), ONE.at, PAGE);
            sum = sum * 31 + dsa_model_enqcmd(model, &page);
        }
        dsa_model_run(model, SIZE_MAX);
        for (size_t byte = 0; byte < 24 * 32; byte++)
            sum = sum * 31 + RECORDS.at[byte];
    }
    counts = counts_of(model);
    sum = sum * 31 + counts.faults * 7 + counts.lost * 3 + counts.executed;
    dsa_model_close(model);
    return sum;
}

static void test_seeds(void)
{
    const char *plan;

    check_begin();
    for (size_t i = 0; (plan = dsa_model_fault_name(i)) != NULL; i++) {
        if (strcmp(plan, "stuck-close") == 0) /* could never be freed */
            continue;
        CHECK(digest(plan, 5) == digest(plan, 5), "%s", plan);
    }
    CHECK(digest("none", 6) == digest("none", 6) && digest("none", 6) != digest("none", 7), "none");
    check_end("a seed brings the same every time", "");
}

/* "random" over many seeds: true, bounded in what is dear, and not always the same. */
static void test_random(void)
{
    size_t with_faults = 0, fields[64] = {0};

    check_begin();
    for (uint64_t seed = 0; seed < 300; seed++) {
        dsa_model_counts counts;
        tally seen = run_batches("random", seed, &counts);
        with_faults += counts.faults > 0;
        /* two records at most by each of two plans, and what waits when the queue is disabled: one
         * entry */
        CHECK(counts.lost <= 5, "seed %" PRIu64 ": %" PRIu64 " lost", seed, counts.lost);
        for (size_t code = 0; code < 64; code++)
            fields[code] += seen.member[code] + seen.batch[code];
    }
    CHECK(with_faults > 150 && with_faults < 300, "%zu of 300 seeds", with_faults);
    CHECK(fields[3] && fields[4] && fields[5] && fields[6] && fields[0x10] && fields[0x22], "few");
    check_end("plan:", "random");
}

static void test_names(void)
{
    const char *plan;
    size_t names = 0;

    check_begin();
    for (; (plan = dsa_model_fault_name(names)) != NULL; names++) {
        dsa_model_options options = still(1, plan);
        dsa_model *model;
        if (strcmp(plan, "stuck-close") == 0) /* could never be freed; it has its own test */
            continue;
        model = dsa_model_open(&options, NULL, 0);
        CHECK(model != NULL, "%s", plan);
        if (model != NULL)
            dsa_model_close(model);
    }
    CHECK(names == 41 && dsa_model_fault_name(1000) == NULL, "%zu names", names);
    check_end("every plan that has a name opens", "");
}

int main(void)
{
    map_all();
    test_descriptor_plans();
    test_details();
    test_fault_addresses();
    test_seeds();
    test_random();
    test_names();
    return check_summary();
}
