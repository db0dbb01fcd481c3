/* What the files of the model share: the layout of descriptors and records, the queue, and the
 * chance behind everything that the specification leaves open.
 *
 * The numbers are written down here from the specification (341204-006US), not taken from the
 * kernel's header nor from the driver under test: two independent readings must agree.
 */
#ifndef DSA_MODEL_INTERNAL_H
#define DSA_MODEL_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dsa_model.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "descriptors and records are little endian, and the model copies them as they are"
#endif

enum {
    DSA_DESCRIPTOR_BYTES = 64,
    DSA_RECORD_BYTES = 32,
    DSA_MAX_ENTRIES = 128,
    DSA_MAX_BATCH = 1024,
    DSA_MAX_RANGES = 1024,
    DSA_MAX_ENGINES = 4,
    DSA_CHUNK_BYTES = 65536, /* of source memory, copied and compared at a time */
};

/* 8.1 Descriptor */
typedef struct dsa_descriptor {
    uint32_t pasid; /* bits 19:0 PASID, 30:20 reserved, 31 priv */
    uint32_t flags; /* bits 23:0 flags, 31:24 opcode */
    uint64_t record;
    uint64_t source; /* or the address of the descriptor list */
    uint64_t second; /* second source, or the pattern */
    uint32_t size;   /* bytes, or descriptors of a batch */
    uint16_t interrupt;
    uint16_t reserved;
    uint8_t expected;
    uint8_t rest[23];
} dsa_descriptor;
_Static_assert(sizeof(dsa_descriptor) == DSA_DESCRIPTOR_BYTES, "8.1");

#define DSA_PASID_RESERVED 0x7ff00000u
#define DSA_PASID_PRIV 0x80000000u

enum dsa_opcode { /* Table 5-1 */
                  DSA_NOOP = 0x00,
                  DSA_BATCH = 0x01,
                  DSA_DRAIN = 0x02,
                  DSA_COMPARE = 0x05,
                  DSA_COMPVAL = 0x06,
};

enum dsa_flag { /* 8.1.3 */
                DSA_FENCE = 0x000001,
                DSA_BLOCK_ON_FAULT = 0x000002,
                DSA_RECORD_VALID = 0x000004,     /* CRAV */
                DSA_REQUEST_RECORD = 0x000008,   /* RCR */
                DSA_REQUEST_INTERRUPT = 0x00010, /* RCI */
                DSA_CHECK_RESULT = 0x000080,     /* CR */
                DSA_ADDRESS_1_TC = 0x000200,
                DSA_ADDRESS_2_TC = 0x000400,
                DSA_RECORD_TC = 0x001000, /* CR_TCS */
};

enum dsa_status { /* Table 5-6 */
                  DSA_SUCCESS = 0x01,
                  DSA_FALSE_PREDICATE = 0x02,
                  DSA_PAGE_FAULT = 0x03,
                  DSA_PAGE_REFUSED = 0x04,
                  DSA_BATCH_FAIL = 0x05,
                  DSA_LIST_FAULT = 0x06,
                  DSA_BAD_OPCODE = 0x10,
                  DSA_BAD_FLAGS = 0x11,
                  DSA_BAD_RESERVED = 0x12,
                  DSA_BAD_SIZE = 0x13,
                  DSA_BAD_COUNT = 0x14,
                  DSA_BAD_VALUE = 0x15,
                  DSA_OVERLAP = 0x16,
                  DSA_DUALCAST = 0x17,
                  DSA_BAD_LIST = 0x18,
                  DSA_BAD_INTERRUPT = 0x19,
                  DSA_BAD_ADDRESS = 0x1c,
                  DSA_BAD_TRAFFIC_CLASS = 0x1e,
                  DSA_READBACK = 0x1f,
                  DSA_HARDWARE = 0x20,
                  DSA_HARDWARE_WRITE = 0x21,
                  DSA_TRANSLATION = 0x22,
};

/* Operand ids of the fault-info byte (8.2, GENCAP bit 12: version 2). */
enum dsa_operand { DSA_OPERAND_SOURCE = 1, DSA_OPERAND_SECOND = 2 };

/* ---- chance ---- */

typedef struct dsa_random {
    uint64_t state;
} dsa_random;

/* What a stream of numbers is for: each is drawn from by itself, so that the n-th operation meets
 * the same luck however threads interleave. */
enum dsa_stream {
    DSA_STREAM_PLAN,
    DSA_STREAM_SUBMIT,
    DSA_STREAM_ORDER,
    DSA_STREAM_OPERATION,
    DSA_STREAM_LATE
};

static inline uint64_t dsa_mix(uint64_t word) /* the last step of splitmix64 */
{
    word = (word ^ word >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    word = (word ^ word >> 27) * UINT64_C(0x94d049bb133111eb);
    return word ^ word >> 31;
}

static inline dsa_random dsa_random_stream(uint64_t seed, uint64_t stream, uint64_t number)
{
    return (dsa_random){dsa_mix(dsa_mix(dsa_mix(seed + 1) + stream + 1) + number)};
}

static inline uint64_t dsa_draw(dsa_random *random)
{
    return dsa_mix(random->state += UINT64_C(0x9e3779b97f4a7c15));
}

/* 0 to below - 1. The bias of the remainder does not matter here. */
static inline uint64_t dsa_draw_below(dsa_random *random, uint64_t below)
{
    return dsa_draw(random) % below;
}

/* ---- what an operation comes to ---- */

enum dsa_field { /* the record's fields that the status defines; the others are poison */
                 DSA_FIELD_RESULT = 1,
                 DSA_FIELD_COMPLETED = 2,
                 DSA_FIELD_FAULT = 4,
                 DSA_FIELD_FLAGS = 8,
};

typedef struct dsa_outcome {
    uint8_t status;
    uint8_t fields;
    uint8_t result;
    uint8_t operand; /* of the fault */
    bool masked;     /* version 2 says that it has no fault address */
    bool write_bit;  /* status bit 7 is noise */
    uint32_t completed;
    uint32_t invalid_flags;
    uint64_t fault_address;
} dsa_outcome;

/* A record that is complete but not written yet; `wanted` false: none will be. */
typedef struct dsa_answer {
    bool wanted;
    bool late; /* the kernel writes it, from the event log */
    uint64_t address;
    uint8_t bytes[DSA_RECORD_BYTES];
} dsa_answer;

/* ---- faults ---- */

typedef enum dsa_fault {
    DSA_FAULT_PAGE,
    DSA_FAULT_PAGE_MASKED,
    DSA_FAULT_PAGE_REFUSED,
    DSA_FAULT_LIST,
    DSA_FAULT_ABANDONED,
    DSA_FAULT_FALSE_FAIL,
    DSA_FAULT_OPCODE,
    DSA_FAULT_FLAGS,
    DSA_FAULT_RESERVED,
    DSA_FAULT_SIZE,
    DSA_FAULT_COUNT,
    DSA_FAULT_VALUE,
    DSA_FAULT_OVERLAP,
    DSA_FAULT_DUALCAST,
    DSA_FAULT_LIST_ALIGNMENT,
    DSA_FAULT_INTERRUPT,
    DSA_FAULT_RECORD,
    DSA_FAULT_RECORD_ALIGNMENT,
    DSA_FAULT_ALIGNMENT,
    DSA_FAULT_PRIVILEGE,
    DSA_FAULT_TRAFFIC_CLASS,
    DSA_FAULT_READBACK,
    DSA_FAULT_HARDWARE,
    DSA_FAULT_HARDWARE_WRITE,
    DSA_FAULT_TRANSLATION,
    DSA_FAULT_UNKNOWN,
    DSA_FAULT_LATE,
    DSA_FAULT_LOST,
    DSA_FAULT_LOST_ALL,
    DSA_FAULT_FULL,
    DSA_FAULT_ALWAYS_FULL,
    DSA_FAULT_DISABLE,
    DSA_FAULT_DISABLE_FOREVER,
    DSA_FAULT_EAGAIN,
    DSA_FAULT_EPERM,
    DSA_FAULT_EINVAL_BATCH,
    DSA_FAULT_SHORT,
    DSA_FAULT_STUCK_CLOSE,
    DSA_FAULT_STORE_ORDER,
    DSA_FAULT_LATE_LIST,
    DSA_FAULT_NEIGHBOUR,
    DSA_FAULTS,
    DSA_FAULT_NONE = DSA_FAULTS,
} dsa_fault;

typedef struct dsa_plan {
    uint32_t one_in[DSA_FAULTS]; /* 0: never */
    uint32_t left[DSA_FAULTS];   /* how often still; UINT32_MAX: without end */
    uint64_t disable_at;         /* when this many descriptors have been taken */
    uint64_t eperm_at;           /* the call from which write(2) is refused */
    uint64_t full_for;           /* submissions that the present stretch still refuses */
    uint32_t size_most;          /* bytes: of more, "transfer-size" refuses a comparison */
    uint32_t count_most;         /* members: of more, "descriptor-count" refuses a batch */
} dsa_plan;

/* ---- the queue ---- */

typedef enum dsa_entry_state {
    DSA_ENTRY_FREE,
    DSA_ENTRY_QUEUED,
    DSA_ENTRY_RUNNING, /* somebody executes it or writes its record */
    DSA_ENTRY_HELD,    /* executed; the record is late */
} dsa_entry_state;

/* What a descriptor's list and records were at the last fence before its submission. */
typedef struct dsa_view {
    dsa_descriptor *list; /* NULL: memory is seen as it is */
    uint8_t *statuses;    /* of the members' records, as many as the descriptor's size says */
    uint8_t status;       /* of its own record; 0 where that is not known */
} dsa_view;

typedef struct dsa_entry {
    dsa_entry_state state;
    dsa_view view;
    uint64_t number; /* of the descriptor among those that the queue took, from 0 */
    uint64_t due_ns; /* CLOCK_MONOTONIC: not looked at before */
    bool executed;   /* the answer is there */
    dsa_descriptor descriptor;
    dsa_answer answer;
} dsa_entry;

typedef struct dsa_range {
    uint64_t base, bytes;
    bool writable;
    bool taken;      /* no new use; free once `users` is 0 */
    uint32_t users;  /* accesses under way */
    uint8_t *fenced; /* its bytes when the last fence was passed; NULL: not kept */
} dsa_range;

/* One processing engine: what it works with belongs to it alone. */
typedef struct dsa_engine {
    dsa_model *model;
    pthread_mutex_t lock; /* held while it executes; taken before the model's, never after */
    pthread_t thread;
    uint8_t *chunk, *other_chunk;
    dsa_descriptor *list;
    const dsa_view *view; /* of the descriptor in hand */
} dsa_engine;

struct dsa_model {
    dsa_model_options options;
    pthread_mutex_t lock; /* everything but what an engine's lock guards */
    pthread_cond_t wake;  /* the engines: an entry came, or the end */
    pthread_cond_t freed; /* those who wait for a range or for an empty queue */
    bool closing;
    bool enabled;
    uint64_t back_ns; /* when a queue that the plan disabled comes back; 0: not by itself */
    uint64_t submissions, write_calls;
    dsa_entry entries[DSA_MAX_ENTRIES];
    uint32_t occupied;
    dsa_range ranges[DSA_MAX_RANGES];
    uint32_t range_count;
    dsa_plan plan;
    dsa_model_counts counts;
    uint32_t others; /* entries that another submitter has in the queue, until `others_until_ns` */
    uint64_t others_until_ns;
    dsa_engine engines[DSA_MAX_ENGINES];
    uint64_t page_bytes;
    int pagemap; /* /proc/self/pagemap, -1: residency is not checked */
    int memory;  /* /proc/self/mem, where process_vm_readv is not allowed; else -1 */
};

uint64_t dsa_now_ns(void);

/* dsa_model_queue.c; all with `lock` held */
void dsa_queue_disable(dsa_model *model, uint64_t back_ns);
/* What to execute, or which late record to write, now: marked as running. NULL: nothing is due
 * before `next_ns` (UINT64_MAX: nothing that time alone would bring). */
dsa_entry *dsa_queue_pick(dsa_model *model, bool ignore_delay, uint64_t *next_ns);
void dsa_queue_release(dsa_model *model, dsa_entry *entry);

/* dsa_model_check.c: 0, or the status of a rule that the descriptor breaks. */
uint8_t dsa_check(const dsa_model *model, const dsa_descriptor *descriptor, bool in_batch,
                  dsa_random *random, uint32_t *invalid_flags);
uint8_t dsa_opcode_of(const dsa_descriptor *descriptor);

/* dsa_model_exec.c: executes an entry's descriptor, members and their records included, and leaves
 * its own record in `answer`. */
void dsa_execute(dsa_engine *engine, const dsa_descriptor *descriptor, uint64_t number,
                 dsa_answer *answer);

/* dsa_model_record.c; `fenced` is the record's status as of the last fence */
bool dsa_record_usable(dsa_model *model, const dsa_descriptor *descriptor, uint8_t fenced);
void dsa_record_fill(const dsa_model *model, const dsa_descriptor *descriptor,
                     const dsa_outcome *outcome, dsa_random *random, dsa_answer *answer);
/* False: it was wanted and could not be written. */
bool dsa_record_write(dsa_model *model, const dsa_answer *answer);

/* dsa_model_memory.c */
int dsa_memory_open(dsa_model *model);
void dsa_memory_close(dsa_model *model);
/* Copies what can be read from `address` on; a short count means that the byte after it faults.
 * `request`: pages that are absent are asked for, not faulted upon. */
size_t dsa_memory_read(dsa_model *model, uint64_t address, void *to, size_t bytes, bool request);
/* A record's status byte, -1: the memory is not there. */
int dsa_memory_status(dsa_model *model, uint64_t address);
bool dsa_memory_write_record(dsa_model *model, const dsa_answer *answer);

/* dsa_model_fence.c; with `lock` held */
void dsa_view_take(dsa_model *model, const dsa_descriptor *descriptor, dsa_view *view);
void dsa_view_drop(dsa_view *view);

/* dsa_model_faults.c */
/* False: there is no plan of that name. */
bool dsa_plan_init(dsa_plan *plan, const char *name, uint64_t seed);
/* Which fault meets this descriptor, if any; one that is returned is counted as injected. */
dsa_fault dsa_plan_draw(dsa_model *model, const dsa_descriptor *descriptor, dsa_random *random);
/* One kind alone, with `lock` held; counted too. */
bool dsa_plan_hits(dsa_model *model, dsa_fault fault, dsa_random *random);
/* The status and fields of an injected error that says nothing about the data. False: `fault` is
 * of another sort. */
bool dsa_plan_error(dsa_fault fault, dsa_random *random, dsa_outcome *outcome);

void dsa_count(dsa_model *model, uint64_t *count, uint64_t by);

#endif
