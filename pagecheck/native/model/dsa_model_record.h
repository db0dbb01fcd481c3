/* Completion records. */
#ifndef DSA_MODEL_RECORD_H
#define DSA_MODEL_RECORD_H

#include "dsa_model_random.h"
#include "dsa_model_state.h"

/* `fenced` is the record's status as of the last fence. */
bool dsa_record_usable(dsa_model *model, const dsa_descriptor *descriptor, uint8_t fenced);
void dsa_record_fill(const dsa_model *model, const dsa_descriptor *descriptor,
                     const dsa_outcome *outcome, dsa_random *random, dsa_answer *answer);
/* False: it was wanted and could not be written. */
bool dsa_record_write(dsa_model *model, const dsa_answer *answer);

#endif
