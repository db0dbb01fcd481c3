/* pagecheck.native._native: types and functions are documented in native/_native.pyi. */
#include "py_native.h"

#include "../core/pc_file_block.h"
#include "../core/pc_feed.h"
#include "../core/pc_process_range.h"
#include "../core/pc_worker.h"

static int add_type(PyObject *module, PyType_Spec *spec, const char *name)
{
    PyObject *type = PyType_FromSpec(spec);
    int failed = type == NULL || PyModule_AddObjectRef(module, name, type) != 0;
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static const struct {
    const char *name;
    long value;
} constants[] = {
    {"TOUCH_FREELY", PC_BLOCK_TOUCH_FREELY},
    {"TRUST_HOLES", PC_BLOCK_TRUST_HOLES},
    {"ASK_RESIDENT", PC_BLOCK_ASK_RESIDENT},
    {"ABSENT_ZERO", PC_ABSENT_ZERO},
    {"ABSENT_FILE", PC_ABSENT_FILE},
    {"ABSENT_UNDECIDED", PC_ABSENT_UNDECIDED},
    {"UNREADABLE", PC_UNREADABLE},
    {"PIECES_MAX", PC_PIECES_MAX},
    {"PUMP_DONE", PC_PUMP_DONE},
    {"PUMP_NEED_MORE", PC_PUMP_NEED_MORE},
    {"PUMP_TIMEOUT", PC_PUMP_TIMEOUT},
    {"PUMP_INTERRUPTED", PC_PUMP_INTERRUPTED},
    {"PUMP_BROKEN", PC_PUMP_BROKEN},
    {"PUMP_GONE", PC_PUMP_GONE},
    {"SERVE_TIMEOUT", PC_SERVE_TIMEOUT},
    {"SERVE_ATTENTION", PC_SERVE_ATTENTION},
    {"SERVE_QUEUE", PC_SERVE_QUEUE},
    {"SERVE_INTERRUPTED", PC_SERVE_INTERRUPTED},
    {"QUEUE_NONE", PC_QUEUE_NONE},
    {"QUEUE_UP", PC_QUEUE_UP},
    {"QUEUE_DRAINING", PC_QUEUE_DRAINING},
    {"QUEUE_CLOSED", PC_QUEUE_CLOSED},
    {"QUEUE_LOST", PC_QUEUE_LOST},
    {"QUEUE_FULL", PC_QUEUE_FULL},
    {"QUEUE_REFUSED", PC_QUEUE_REFUSED},
    {"QUEUE_BROKEN", PC_QUEUE_BROKEN},
    {"QUEUE_LATE", PC_QUEUE_LATE},
    {"QUEUE_DISABLED", PC_QUEUE_DISABLED},
};

static int module_exec(PyObject *module)
{
    if (PyModule_AddFunctions(module, py_layout_methods) != 0 ||
        py_layout_add_constants(module) != 0 ||
        PyModule_AddFunctions(module, py_bits_methods) != 0 ||
        PyModule_AddFunctions(module, py_check_methods) != 0 ||
        PyModule_AddFunctions(module, py_cpu_methods) != 0 ||
        PyModule_AddFunctions(module, py_kernel_methods) != 0 ||
        PyModule_AddFunctions(module, py_pieces_methods) != 0 ||
        PyModule_AddFunctions(module, py_punch_methods) != 0 ||
        PyModule_AddFunctions(module, py_watch_methods) != 0 ||
        add_type(module, &py_feed_spec, "Feed") != 0 ||
        add_type(module, &py_portal_spec, "Portal") != 0 ||
        add_type(module, &py_process_walk_spec, "ProcessWalk") != 0 ||
        add_type(module, &py_walk_spec, "Walk") != 0 ||
        add_type(module, &py_worker_spec, "Worker") != 0)
        return -1;
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (PyModule_AddIntConstant(module, constants[i].name, constants[i].value) != 0)
            return -1;
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, (void *)module_exec},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pagecheck.native._native",
    .m_doc = "The C helper; see native/_native.pyi.",
    .m_size = 0,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
