/* What goes wrong with the next descriptor. */
#ifndef DSA_MODEL_FAULTS_H
#define DSA_MODEL_FAULTS_H

#include "dsa_model_random.h"
#include "dsa_model_state.h"

/* False: there is no plan of that name. */
bool dsa_plan_init(dsa_plan *plan, const char *name, uint64_t seed);
/* Which fault meets this descriptor, if any; one that is returned is counted as injected. */
dsa_fault dsa_plan_draw(dsa_model *model, const dsa_descriptor *descriptor, dsa_random *random);
/* One kind alone, with `lock` held; counted too. */
bool dsa_plan_hits(dsa_model *model, dsa_fault fault, dsa_random *random);
/* The status and fields of an injected error that says nothing about the data. False: `fault` is
 * of another sort. */
bool dsa_plan_error(dsa_fault fault, dsa_random *random, dsa_outcome *outcome);

#endif
