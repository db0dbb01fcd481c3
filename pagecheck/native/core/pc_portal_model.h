/* The software device behind the same table of functions as a real work queue. */
#ifndef PC_PORTAL_MODEL_H
#define PC_PORTAL_MODEL_H

#include "../model/dsa_model.h"
#include "pc_portal.h"

/* Submits to `model` as a real queue of `mode`, which is the mode that it was opened with, would
 * be submitted to. Taken over: closing the portal closes it. NULL: no memory, and the model is
 * still the caller's. */
pc_portal *pc_portal_open_model(dsa_model *model, dsa_model_mode mode);

#endif
