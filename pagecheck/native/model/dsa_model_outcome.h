/* What an operation comes to, and the record that tells of it. */
#ifndef DSA_MODEL_OUTCOME_H
#define DSA_MODEL_OUTCOME_H

#include <stdbool.h>
#include <stdint.h>

#include "dsa_model_spec.h"

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

#endif
