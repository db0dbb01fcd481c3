/* Entries of the queue, from their acceptance to their release; all with `lock` held. */
#ifndef DSA_MODEL_QUEUE_H
#define DSA_MODEL_QUEUE_H

#include "dsa_model_state.h"

/* What to execute, or which late record to write, now: marked as running. NULL: nothing is due
 * before `next_ns` (UINT64_MAX: nothing that time alone would bring). */
dsa_entry *dsa_queue_pick(dsa_model *model, bool ignore_delay, uint64_t *next_ns);
void dsa_queue_release(dsa_model *model, dsa_entry *entry);

#endif
