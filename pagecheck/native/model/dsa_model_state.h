/* The state of one model: the queue's entries, the registered memory, its engines. */
#ifndef DSA_MODEL_STATE_H
#define DSA_MODEL_STATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "dsa_model.h"
#include "dsa_model_outcome.h"
#include "dsa_model_plan.h"
#include "dsa_model_spec.h"

enum {
    DSA_MAX_ENTRIES = 128,
    DSA_MAX_RANGES = 1024,
    DSA_MAX_ENGINES = 4,
    DSA_CHUNK_BYTES = 65536, /* of source memory, copied and compared at a time */
};

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
    const dsa_view *view; /* of the descriptor that it executes */
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

static inline uint64_t dsa_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Without `lock`. */
static inline void dsa_count(dsa_model *model, uint64_t *count, uint64_t by)
{
    pthread_mutex_lock(&model->lock);
    *count += by;
    pthread_mutex_unlock(&model->lock);
}

#endif
