/* The model's view of the memory that is registered with it. */
#ifndef DSA_MODEL_MEMORY_H
#define DSA_MODEL_MEMORY_H

#include "dsa_model_state.h"

int dsa_memory_open(dsa_model *model);
void dsa_memory_close(dsa_model *model);
/* Copies what can be read from `address` on; a short count means that the byte after it faults.
 * `request`: pages that are absent are asked for, not faulted upon. */
size_t dsa_memory_read(dsa_model *model, uint64_t address, void *to, size_t bytes, bool request);
/* A record's status byte, -1: the memory is not there. */
int dsa_memory_status(dsa_model *model, uint64_t address);
bool dsa_memory_write_record(dsa_model *model, const dsa_answer *answer);

#endif
