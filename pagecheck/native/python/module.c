/* pagecheck.native._native: types and functions are documented in native/_native.pyi. */
#include "py_native.h"

#include <errno.h>
#include <sys/mman.h>

#include "../core/pc_block.h"
#include "../core/pc_feed.h"
#include "../core/pc_worker.h"

int py_ring_open(int fd, int control_fd, pc_ring *ring)
{
    errno = 0;
    const char *wrong = pc_ring_open(fd, control_fd, ring);
    if (wrong == NULL)
        return 0;
    if (errno == 0) {
        PyErr_SetString(PyExc_ValueError, wrong);
        return -1;
    }
    PyObject *arguments = Py_BuildValue("is", errno, wrong);
    if (arguments != NULL)
        PyErr_SetObject(PyExc_OSError, arguments);
    Py_XDECREF(arguments);
    return -1;
}

static PyObject *segment_bytes(PyObject *module, PyObject *args)
{
    unsigned int slots, slot_pages;
    (void)module;
    if (!PyArg_ParseTuple(args, "II", &slots, &slot_pages))
        return NULL;
    return PyLong_FromUnsignedLongLong(pc_layout_segment_bytes(slots, slot_pages));
}

static PyObject *segment_format(PyObject *module, PyObject *args)
{
    int fd;
    unsigned int slots, slot_pages;
    unsigned long long generation;
    (void)module;
    if (!PyArg_ParseTuple(args, "iIIK", &fd, &slots, &slot_pages, &generation))
        return NULL;
    uint64_t bytes = pc_layout_segment_bytes(slots, slot_pages);
    void *segment = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (segment == MAP_FAILED)
        return PyErr_SetFromErrno(PyExc_OSError);
    bool formatted = pc_ring_format(segment, bytes, slots, slot_pages, generation);
    munmap(segment, bytes);
    if (!formatted) {
        PyErr_Format(PyExc_ValueError, "%u slots of %u pages: out of range", slots, slot_pages);
        return NULL;
    }
    Py_RETURN_NONE;
}

#define FIELD(type, field)                                                                         \
    {#type "." #field, offsetof(struct pc_##type, field), sizeof(((struct pc_##type *)0)->field)}

static const struct {
    const char *name;
    size_t offset;
    size_t bytes;
} fields[] = {
    FIELD(header, magic),        FIELD(header, layout_version),
    FIELD(header, header_bytes), FIELD(header, segment_bytes),
    FIELD(header, generation),   FIELD(header, slot_count),
    FIELD(header, slot_pages),   FIELD(header, slot_bytes),
    FIELD(header, wake_at),      FIELD(header, asleep),
    FIELD(header, done),         FIELD(header, submit),
    FIELD(header, gone),         FIELD(control, attention),
    FIELD(control, progress),    FIELD(control, looks),
    FIELD(control, deciding),    FIELD(control, stats),
    FIELD(control, failure),     FIELD(failure, kept),
    FIELD(failure, descriptor),  FIELD(failure, record),
    FIELD(slot, request),        FIELD(slot, kind),
    FIELD(slot, block),          FIELD(slot, first_page),
    FIELD(slot, count),          FIELD(slot, answer),
    FIELD(slot, refusal),        FIELD(stats, descriptors),
    FIELD(stats, batches),       FIELD(stats, pages_device),
    FIELD(stats, pages_sampled), FIELD(stats, pages_completed),
    FIELD(stats, pages_cpu),     FIELD(stats, page_faults),
    FIELD(stats, refined),       FIELD(stats, retries),
    FIELD(stats, queue_full),    FIELD(stats, timeouts),
    FIELD(stats, opens),         FIELD(stats, submit_ns),
    FIELD(stats, wait_ns),       FIELD(stats, cpu_ns),
    FIELD(stats, queue_state),   FIELD(stats, statuses),
    FIELD(stats, answered),      FIELD(stats, refused),
    FIELD(stats, zero),          FIELD(stats, normal),
    FIELD(stats, undecided),     FIELD(stats, holes),
    FIELD(stats, bytes),         FIELD(stats, latency_ns),
    FIELD(stats, latencies),
};

static PyObject *layout(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    PyObject *table = PyDict_New();
    for (size_t i = 0; table != NULL && i < sizeof fields / sizeof *fields; i++) {
        PyObject *entry =
            Py_BuildValue("nn", (Py_ssize_t)fields[i].offset, (Py_ssize_t)fields[i].bytes);
        if (entry == NULL || PyDict_SetItemString(table, fields[i].name, entry) != 0)
            Py_CLEAR(table);
        Py_XDECREF(entry);
    }
    return table;
}

static PyMethodDef module_methods[] = {
    {"layout", layout, METH_NOARGS, NULL},
    {"segment_bytes", segment_bytes, METH_VARARGS, NULL},
    {"segment_format", segment_format, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

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
    {"LAYOUT_VERSION", PC_LAYOUT_VERSION}, {"CONTROL_BYTES", sizeof(struct pc_control)},
    {"SLOTS_MAX", PC_SLOTS_MAX},           {"SLOT_PAGES_MAX", PC_SLOT_PAGES_MAX},
    {"BLOCKS_MAX", PC_BLOCKS_MAX},         {"TOUCH_FREELY", PC_BLOCK_TOUCH_FREELY},
    {"TRUST_HOLES", PC_BLOCK_TRUST_HOLES}, {"ASK_RESIDENT", PC_BLOCK_ASK_RESIDENT},
    {"PUMP_DONE", PC_PUMP_DONE},           {"PUMP_HUNGRY", PC_PUMP_HUNGRY},
    {"PUMP_TIMEOUT", PC_PUMP_TIMEOUT},     {"PUMP_INTERRUPTED", PC_PUMP_INTERRUPTED},
    {"PUMP_BROKEN", PC_PUMP_BROKEN},       {"PUMP_GONE", PC_PUMP_GONE},
    {"SERVE_TIMEOUT", PC_SERVE_TIMEOUT},   {"SERVE_ATTENTION", PC_SERVE_ATTENTION},
    {"SERVE_QUEUE", PC_SERVE_QUEUE},       {"SERVE_INTERRUPTED", PC_SERVE_INTERRUPTED},
    {"QUEUE_NONE", PC_QUEUE_NONE},         {"QUEUE_UP", PC_QUEUE_UP},
    {"QUEUE_DRAINING", PC_QUEUE_DRAINING}, {"QUEUE_CLOSED", PC_QUEUE_CLOSED},
    {"QUEUE_LOST", PC_QUEUE_LOST},         {"QUEUE_FULL", PC_QUEUE_FULL},
    {"QUEUE_REFUSED", PC_QUEUE_REFUSED},   {"QUEUE_BROKEN", PC_QUEUE_BROKEN},
    {"QUEUE_LATE", PC_QUEUE_LATE},         {"QUEUE_DISABLED", PC_QUEUE_DISABLED},
};

static int module_exec(PyObject *module)
{
    if (PyModule_AddFunctions(module, module_methods) != 0 ||
        PyModule_AddFunctions(module, py_bits_methods) != 0 ||
        PyModule_AddFunctions(module, py_cpu_methods) != 0 ||
        PyModule_AddFunctions(module, py_kernel_methods) != 0 ||
        PyModule_AddFunctions(module, py_watch_methods) != 0 ||
        add_type(module, &py_feed_spec, "Feed") != 0 ||
        add_type(module, &py_portal_spec, "Portal") != 0 ||
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
