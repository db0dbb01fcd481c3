/* The operations. */
#ifndef DSA_MODEL_EXEC_H
#define DSA_MODEL_EXEC_H

#include "dsa_model_state.h"

/* Executes an entry's descriptor, members and their records included, and leaves its own record in
 * `answer`. */
void dsa_execute(dsa_engine *engine, const dsa_descriptor *descriptor, uint64_t number,
                 dsa_answer *answer);

#endif
