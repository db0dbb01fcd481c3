/* The software device as Python names it: for `Worker` and `Portal`. */
#include "py_model.h"

#include <string.h>

static int mode_named(const char *name)
{
    static const char *const names[] = {"shared", "dedicated", "write"};
    for (int i = 0; i < 3; i++)
        if (strcmp(name, names[i]) == 0)
            return i;
    return -1;
}

dsa_model *py_model_open(PyObject *args, long long *deadline_ns, dsa_model_options *options)
{
    const char *mode, *faults;
    unsigned int size, threshold, batch, version, engines = 1;
    int prs = 0, ats = 1;
    unsigned long long transfer, seed, delay_ns;
    char why[200];
    const char *format = deadline_ns == NULL ? "sIIIKIKsK|Ipp" : "sIIIKIKsKIppL";
    if (!PyArg_ParseTuple(args, format, &mode, &size, &threshold, &batch, &transfer, &version,
                          &seed, &faults, &delay_ns, &engines, &prs, &ats, deadline_ns))
        return NULL;
    if (mode_named(mode) < 0)
        return py_fail(PC_ERROR_INVALID, "no such mode");
    dsa_model_defaults(options);
    options->mode = (dsa_model_mode)mode_named(mode);
    options->size = size;
    options->threshold = threshold;
    options->max_batch = batch;
    options->max_transfer = transfer;
    options->version = version;
    options->seed = seed;
    options->faults = faults;
    options->delay_ns = delay_ns;
    options->engines = engines;
    options->prs = prs != 0;
    options->ats = ats != 0;
    dsa_model *model = dsa_model_open(options, why, sizeof why);
    if (model == NULL)
        py_fail(PC_ERROR_INVALID, "%s", why);
    return model;
}
