/* What the tests of the portals share: descriptors of any bytes, and work that the software device
 * behind a portal can execute. Include it once per program. */
#ifndef PC_TEST_PORTAL_FIXTURE_H
#define PC_TEST_PORTAL_FIXTURE_H

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"
#include "pc_idxd.h"
#include "pc_portal_model.h"

/* ---- descriptors that nobody executes ---- */

enum { MOST = 200 };

typedef unsigned char raw_descriptor[PC_DESCRIPTOR_BYTES];

static _Alignas(64) raw_descriptor descriptors[MOST];

static inline void fill_descriptors(uint64_t seed)
{
    unsigned char *byte = descriptors[0];
    for (size_t i = 0; i < sizeof descriptors; i++)
        byte[i] = (unsigned char)check_random(&seed);
}

/* ---- a batch of COMPVALs over a few pages, for the software device behind any portal ---- */

enum { PAGE = 4096, PAGES = 8, NORMAL = 3 };

typedef struct work {
    struct dsa_hw_desc list[PAGES];
    struct dsa_hw_desc batch __attribute__((aligned(64)));
    struct dsa_completion_record batch_record __attribute__((aligned(32)));
    struct dsa_completion_record records[PAGES];
} work;

static unsigned char *guest;
static work *todo;

/* Written to, not MAP_POPULATE: qemu-user has no ear for that. */
static inline void *pages_new(size_t bytes)
{
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memset(pages, 0, bytes);
}

static inline uint64_t address_of(const volatile void *memory)
{
    return (uint64_t)(uintptr_t)memory;
}

/* Page NORMAL has its last byte set; all others are zero. */
static inline void work_init(void)
{
    guest = pages_new(PAGES * PAGE);
    todo = pages_new((sizeof *todo + PAGE - 1) / PAGE * PAGE);
    guest[NORMAL * PAGE + PAGE - 1] = 1;
    for (size_t i = 0; i < PAGES; i++)
        todo->list[i] = (struct dsa_hw_desc){
            .opcode = DSA_OPCODE_COMPVAL,
            .flags = IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR,
            .completion_addr = address_of(&todo->records[i]),
            .src_addr = address_of(guest + i * PAGE),
            .xfer_size = PAGE,
        };
    todo->batch = (struct dsa_hw_desc){
        .opcode = DSA_OPCODE_BATCH,
        .flags = IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR,
        .completion_addr = address_of(&todo->batch_record),
        .desc_list_addr = address_of(todo->list),
        .desc_count = PAGES,
    };
}

static inline void work_deinit(void)
{
    munmap(guest, PAGES * PAGE);
    munmap(todo, (sizeof *todo + PAGE - 1) / PAGE * PAGE);
}

/* Executes nothing by itself: the tests call dsa_model_run(). */
static inline dsa_model *model_new(dsa_model_mode mode, uint32_t size)
{
    dsa_model_options options;
    char why[200];
    dsa_model_defaults(&options);
    options.mode = mode;
    options.size = size;
    options.threshold = size;
    options.threaded = false;
    dsa_model *model = dsa_model_open(&options, why, sizeof why);
    CHECK(model != NULL, "%s", why);
    return model;
}

static inline unsigned status_of(const struct dsa_completion_record *record)
{
    return __atomic_load_n(&record->status, __ATOMIC_ACQUIRE) & PC_IDXD_STATUS_MASK;
}

static inline void check_records(void)
{
    for (size_t i = 0; i < PAGES; i++) {
        const struct dsa_completion_record *record = &todo->records[i];
        CHECK(status_of(record) == DSA_COMP_SUCCESS, "page %zu: status %x", i, status_of(record));
        CHECK(record->result == (i == NORMAL), "page %zu: result %u", i, record->result);
    }
    memset(todo->records, 0, sizeof todo->records);
}

static inline void check_batch(pc_portal *portal, dsa_model *model)
{
    CHECK(portal->ops->submit(portal, &todo->batch, 1) == 1, "taken");
    CHECK(status_of(&todo->batch_record) == 0, "nothing has run");
    while (dsa_model_run(model, 1) != 0) {
    }
    CHECK(status_of(&todo->batch_record) == DSA_COMP_SUCCESS, "batch: status %x",
          status_of(&todo->batch_record));
    check_records();
    memset(&todo->batch_record, 0, sizeof todo->batch_record);
}

static inline const char *mode_name(dsa_model_mode mode)
{
    static const char *const names[] = {[DSA_MODEL_SHARED] = "enqcmd",
                                        [DSA_MODEL_DEDICATED] = "movdir64b",
                                        [DSA_MODEL_WRITE] = "write"};
    return names[mode];
}

#endif
