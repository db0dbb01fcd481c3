/* A software model of one Intel DSA work queue: it executes the 64-byte descriptors of the
 * specification (341204-006US) and writes the same 32-byte completion records.
 *
 * It is strict where hardware is forgiving and unkind where the specification leaves room, so that
 * a driver that passes here relies on nothing that is not promised. It has no speed of its own.
 * It knows nothing of the program around it and can be used by another project.
 */
#ifndef DSA_MODEL_H
#define DSA_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct dsa_model dsa_model;

typedef enum dsa_model_mode {
    DSA_MODEL_SHARED,    /* ENQCMD */
    DSA_MODEL_DEDICATED, /* MOVDIR64B */
    DSA_MODEL_WRITE,     /* a shared queue behind write(2), as the kernel's cdev gives it */
} dsa_model_mode;

typedef struct dsa_model_options {
    dsa_model_mode mode;
    uint32_t size;         /* entries of the queue, 1 to 128 */
    uint32_t threshold;    /* entries that a shared queue admits, 1 to size */
    uint32_t max_batch;    /* descriptors of a batch, 2 to 1024 */
    uint64_t max_transfer; /* bytes of a descriptor, 1 to 2 GiB */
    uint32_t version;      /* 1 (0x100: Sapphire Rapids) or 2 (0x200: Granite Rapids) */
    uint64_t seed;         /* of everything that is drawn by chance */
    const char *faults;    /* "none", "random", or a name of dsa_model_fault_name() */
    uint64_t delay_ns;     /* from submission to the first look at a descriptor */
    uint32_t engines;      /* that execute side by side, 1 to 4; 1 without threads */
    bool threaded;         /* threads execute, one for each engine; else dsa_model_run() does */
    bool check_residency;  /* a page absent from this process's page table faults, as it would */
    bool prs; /* page requests: absent lists and records are brought in, sources fault */
    bool ats; /* false: a fault on a record is reported nowhere */
} dsa_model_options;

/* What a test may ask afterwards; each counts from 0. */
typedef struct dsa_model_counts {
    uint64_t submitted;  /* descriptors that the queue took */
    uint64_t retried;    /* submissions refused because the queue was full or disabled */
    uint64_t dropped;    /* posted writes that were lost */
    uint64_t executed;   /* descriptors, members of batches included */
    uint64_t batches;    /* batch descriptors among them */
    uint64_t bytes_read; /* of source memory */
    uint64_t errors;     /* descriptors that broke a rule of the specification */
    uint64_t faults;     /* injected by the plan */
    uint64_t lost;       /* records that were never written */
    uint64_t astray;     /* calls of write(2) to a disabled queue, whose portal is gone */
} dsa_model_counts;

/* Fills in what a default queue has: shared, 64 entries, threshold 60, batches of 128, 2 MiB,
 * version 1, seed 0, no faults, one engine with its thread, residency checked, no page requests. */
void dsa_model_defaults(dsa_model_options *options);

/* Names of the fault plans, NULL past the last one. */
const char *dsa_model_fault_name(size_t index);

/* NULL: `why` (which may be NULL) says which option is invalid, or that memory is short. */
dsa_model *dsa_model_open(const dsa_model_options *options, char *why, size_t why_bytes);

/* Waits until everything that was accepted is done, then frees the model. The plan
 * "stuck-close" never returns from here. */
void dsa_model_close(dsa_model *model);

/* Memory that descriptors may name; everything else faults. `register` returns 0 or -ENOSPC. After
 * `unregister` returns, the model does not touch the range. */
int dsa_model_register(dsa_model *model, const void *base, size_t bytes, bool writable);
void dsa_model_unregister(dsa_model *model, const void *base);

/* In the place of a store fence. With the plan "store-order" the device finds descriptor lists and
 * records, where they lie in writable memory, as they were when the last fence before their
 * submission was passed. */
void dsa_model_fence(dsa_model *model);

/* The three ways in. ENQCMD returns ZF: true means Retry; where bits 31:0 of its source are not 0
 * it raises SIGSEGV, as #GP would, and takes nothing. MOVDIR64B has no answer. `write` returns
 * bytes consumed or -errno, like the kernel's cdev. Any number of threads may call them. */
bool dsa_model_enqcmd(dsa_model *model, const void *descriptor);
void dsa_model_movdir64b(dsa_model *model, const void *descriptor);
ssize_t dsa_model_write(dsa_model *model, const void *descriptors, size_t bytes);

/* Takes the queue away in mid-flight, as `accel-config disable-wq` does, and brings it back. */
void dsa_model_disable(dsa_model *model);
void dsa_model_enable(dsa_model *model);
/* As the attribute `state` in sysfs says. */
bool dsa_model_enabled(dsa_model *model);

/* Without a thread: executes up to `most` queued descriptors now; returns how many. */
size_t dsa_model_run(dsa_model *model, size_t most);

void dsa_model_count(dsa_model *model, dsa_model_counts *counts);

#endif
