/* What this CPU can do for a work queue. */
#include "py_error.h"

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../core/pc_portal.h"

static const struct {
    const char *name;
    const char *(*why_not)(void);
} instructions[] = {
    {"enqcmd", pc_enqcmd_why_not},
    {"movdir64b", pc_movdir64b_why_not},
    {"umwait", pc_umwait_why_not},
};

static PyObject *cpu_why_not(PyObject *module, PyObject *args)
{
    const char *name;
    (void)module;
    if (!PyArg_ParseTuple(args, "s", &name))
        return NULL;
    for (size_t i = 0; i < sizeof instructions / sizeof *instructions; i++)
        if (strcmp(name, instructions[i].name) == 0)
            return Py_BuildValue("z", instructions[i].why_not());
    return py_fail(PC_ERROR_INVALID, "instruction %s: not one of enqcmd, movdir64b, umwait", name);
}

static PyObject *numa_node(PyObject *module, PyObject *unused)
{
    unsigned int cpu, node;
    (void)module;
    (void)unused;
    if (syscall(SYS_getcpu, &cpu, &node, NULL) != 0)
        return PyLong_FromLong(-1);
    return PyLong_FromUnsignedLong(node);
}

PyMethodDef py_cpu_methods[] = {
    {"numa_node", numa_node, METH_NOARGS, NULL},
    {"cpu_why_not", cpu_why_not, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
