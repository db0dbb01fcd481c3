/* Memory as it was at the last fence; with `lock` held. */
#ifndef DSA_MODEL_FENCE_H
#define DSA_MODEL_FENCE_H

#include "dsa_model_state.h"

void dsa_view_take(dsa_model *model, const dsa_descriptor *descriptor, dsa_view *view);
void dsa_view_drop(dsa_view *view);

#endif
