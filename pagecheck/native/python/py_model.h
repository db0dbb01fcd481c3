/* The software device as Python names it. */
#ifndef PY_MODEL_H
#define PY_MODEL_H

#include "py_native.h"

#include "../model/dsa_model.h"

#define PY_MODEL_ARGUMENTS 12 /* at most; the last three may be left out */

/* Opens a device from (mode, size, threshold, batch, transfer, version, seed, faults, delay_ns,
 * and if they are given engines, prs, ats); NULL: TypeError, or ValueError with what is wrong. */
dsa_model *py_model_open(PyObject *args, dsa_model_options *options);

#endif
