/* What the tests of the software DSA device share: memory with known bytes, a model that was given
 * it, descriptors and records. Include it once per program. */
#ifndef DSA_FIXTURE_H
#define DSA_FIXTURE_H

#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "dsa_model.h"

enum { PAGE = 4096, CRAV_RCR = 0x0c };
enum { NOOP, BATCH, DRAIN, COMPARE = 5, COMPVAL = 6 };

/* ---- memory that every test has ---- */

typedef struct memory {
    const char *name;
    uint8_t *at;
    size_t bytes;
    bool given, writable;
} memory;

static memory ZERO = {"zero", NULL, 16 * PAGE, true, false};
static memory ONE = {"one", NULL, 2 * PAGE, true, false};
static memory PATTERN = {"pattern", NULL, PAGE, true, false};
static memory EDGE = {"edge", NULL, PAGE, true, false};
static memory RECORDS = {"records", NULL, 2 * PAGE, true, true};
static memory LIST = {"list", NULL, 16 * PAGE, true, false};
static memory READONLY = {"readonly", NULL, PAGE, true, false};
static memory OUTSIDE = {"outside", NULL, PAGE, false, false};
static memory *const ALL[] = {&ZERO, &ONE, &PATTERN, &EDGE, &RECORDS, &LIST, &READONLY, &OUTSIDE};

/* Each stands alone between pages that nobody registers. */
static inline void map_all(void)
{
    for (size_t i = 0; i < sizeof(ALL) / sizeof(*ALL); i++) {
        uint8_t *all = mmap(NULL, ALL[i]->bytes + 2 * PAGE, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (all == MAP_FAILED)
            abort();
        memset(all, 0, ALL[i]->bytes + 2 * PAGE);
        for (size_t at = 0; at < ALL[i]->bytes + 2 * PAGE; at += PAGE)
            *(volatile uint8_t *)(all + at) = 0;
        ALL[i]->at = all + PAGE;
    }
    ONE.at[0x123] = ONE.at[0x1fff] = 0x5a;
    for (size_t i = 0; i < PAGE; i++)
        PATTERN.at[i] = (uint8_t)(0x11 * (i % 8 + 1));
}

static inline dsa_model *open_model(const dsa_model_options *options)
{
    char why[128] = "";
    dsa_model *model = dsa_model_open(options, why, sizeof(why));

    if (model == NULL) {
        printf("no model: %s\n", why);
        abort();
    }
    for (size_t i = 0; i < sizeof(ALL) / sizeof(*ALL); i++)
        if (ALL[i]->given)
            dsa_model_register(model, ALL[i]->at, ALL[i]->bytes, ALL[i]->writable);
    memset(RECORDS.at, 0, RECORDS.bytes);
    return model;
}

static inline dsa_model_options still(uint64_t seed, const char *faults)
{
    dsa_model_options options;

    dsa_model_defaults(&options);
    options.threaded = false;
    options.seed = seed;
    options.faults = faults;
    return options;
}

static inline dsa_model_counts counts_of(dsa_model *model)
{
    dsa_model_counts counts;

    dsa_model_count(model, &counts);
    return counts;
}

/* ---- descriptors and records ---- */

typedef struct descriptor {
    _Alignas(64) uint8_t bytes[64];
} descriptor;

static inline descriptor make(uint8_t opcode, uint8_t flags, const void *record, const void *source,
                              uint32_t size)
{
    descriptor made = {{0}};
    uint64_t record_at = (uintptr_t)record, source_at = (uintptr_t)source;

    made.bytes[4] = flags;
    made.bytes[7] = opcode;
    memcpy(made.bytes + 8, &record_at, 8);
    memcpy(made.bytes + 16, &source_at, 8);
    memcpy(made.bytes + 32, &size, 4);
    return made;
}

static inline uint8_t *record(size_t index)
{
    return RECORDS.at + 32 * index;
}

static inline uint8_t
status(size_t index) /* acquire; pairs with the model's release of the status */
{
    return __atomic_load_n(record(index), __ATOMIC_ACQUIRE) & 0x3f;
}

static inline uint32_t completed(size_t index)
{
    uint32_t number;

    memcpy(&number, record(index) + 4, sizeof(number));
    return number;
}

static inline uint64_t fault_address(size_t index)
{
    uint64_t address;

    memcpy(&address, record(index) + 8, sizeof(address));
    return address;
}

/* Member i compares a page of ZERO (even) or the first of ONE (odd); its record is record(i + 1).
 */
static inline descriptor make_batch(size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const uint8_t *page = i % 2 ? ONE.at : ZERO.at + i % 16 * PAGE;
        descriptor member = make(COMPVAL, CRAV_RCR, record(i + 1), page, PAGE);
        memcpy(LIST.at + 64 * i, &member, sizeof(member));
    }
    return make(BATCH, CRAV_RCR, record(0), LIST.at, (uint32_t)count);
}

static inline void clear_records(void)
{
    memset(RECORDS.at, 0, RECORDS.bytes);
}

/* ---- waiting ---- */

static inline uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* False: ten seconds passed. */
static inline bool wait_status(size_t index)
{
    uint64_t end = now_ns() + UINT64_C(10000000000);

    while (status(index) == 0 && now_ns() < end)
        sched_yield();
    return status(index) != 0;
}

#endif
