/* The rules that a descriptor must keep. */
#ifndef DSA_MODEL_CHECK_H
#define DSA_MODEL_CHECK_H

#include "dsa_model_random.h"
#include "dsa_model_state.h"

/* 0, or the status of a rule that the descriptor breaks. */
uint8_t dsa_check(const dsa_model *model, const dsa_descriptor *descriptor, bool in_batch,
                  dsa_random *random, uint32_t *invalid_flags);

#endif
