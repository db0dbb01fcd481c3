/* The software device as Python names it. */
#ifndef PY_MODEL_H
#define PY_MODEL_H

#include "py_error.h"

#include "../model/dsa_model.h"

/* Opens a device from (mode, size, threshold, batch, transfer, version, seed, faults, delay_ns,
 * engines, prs, ats, deadline_ns). With `deadline_ns` NULL that one is not there, and the three
 * before it may be left out. NULL: TypeError, or ValueError with what is wrong. */
dsa_model *py_model_open(PyObject *args, long long *deadline_ns, dsa_model_options *options);

#endif
