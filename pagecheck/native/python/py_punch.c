/* Zero pages of a file turned into holes. */
#include "py_error.h"

#include "../core/pc_guard.h"
#include "../core/pc_punch.h"

static PyObject *punch_zero(PyObject *module, PyObject *args)
{
    const char *name;
    unsigned long long start, end, unit;
    int fd, leased, seek, map;
    (void)module;
    if (!PyArg_ParseTuple(args, "iKKKsppp", &fd, &start, &end, &unit, &name, &leased, &seek, &map))
        return NULL;
    const pc_kernel *kernel = pc_kernel_find(name);
    if (kernel == NULL || pc_kernel_why_not(kernel) != NULL)
        return py_fail(PC_ERROR_INVALID, "kernel %s: cannot be used here", name);
    if (map && !pc_guard_install())
        return py_fail_errno();
    const pc_punch punch = {
        .fd = fd, .unit_bytes = unit, .leased = leased, .seek = seek, .map = map, .kernel = kernel};
    pc_punched out;
    pc_error error;
    bool good;
    Py_BEGIN_ALLOW_THREADS good = pc_punch_zero(&punch, start, end, &out, &error);
    Py_END_ALLOW_THREADS if (!good) return py_raise(&error);
    return Py_BuildValue("KK", (unsigned long long)out.reached, (unsigned long long)out.zero_bytes);
}

PyMethodDef py_punch_methods[] = {
    {"punch_zero", punch_zero, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
