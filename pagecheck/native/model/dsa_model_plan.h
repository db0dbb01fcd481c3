/* What can go wrong, and how often it still will. */
#ifndef DSA_MODEL_PLAN_H
#define DSA_MODEL_PLAN_H

#include <stdint.h>

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

#endif
