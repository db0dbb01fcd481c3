/* The shared words for Python: where each lies, by name, and the geometry. The headers alone state
 * them; docs/shm-layout.md is made from the same headers, and its test finds a word missing here.
 */
#include "py_error.h"

#include "../core/pc_sink.h"

#include <sys/mman.h>
#include <sys/stat.h>

typedef struct word {
    const char *name;
    size_t offset;
    size_t bytes;
} word;

#define WORD(type, field) {#field, offsetof(struct type, field), sizeof(((struct type *)0)->field)}
#define STATISTIC(name) WORD(pc_stats, name),
#define STATISTIC_ARRAY(name, count) WORD(pc_stats, name),

static const word header_words[] = {
    WORD(pagecheck_ring_header, magic),        WORD(pagecheck_ring_header, layout_version),
    WORD(pagecheck_ring_header, header_bytes), WORD(pagecheck_ring_header, segment_bytes),
    WORD(pagecheck_ring_header, generation),   WORD(pagecheck_ring_header, slot_count),
    WORD(pagecheck_ring_header, slot_pages),   WORD(pagecheck_ring_header, slot_bytes),
    WORD(pagecheck_ring_header, wake_at),      WORD(pagecheck_ring_header, asleep),
    WORD(pagecheck_ring_header, done),         WORD(pagecheck_ring_header, submit),
    WORD(pagecheck_ring_header, gone),         {NULL, 0, 0},
};

static const word slot_words[] = {
    WORD(pagecheck_slot, request), WORD(pagecheck_slot, kind),
    WORD(pagecheck_slot, block),   WORD(pagecheck_slot, first_page),
    WORD(pagecheck_slot, count),   WORD(pagecheck_slot, answer),
    WORD(pagecheck_slot, refusal), {NULL, 0, 0},
};

static const word control_words[] = {
    WORD(pc_control, attention),
    WORD(pc_control, progress),
    WORD(pc_control, deciding),
    WORD(pc_control, looks),
    WORD(pc_control, stats),
    WORD(pc_control, failure),
    {NULL, 0, 0},
};

static const word stats_words[] = {PC_STATISTICS(STATISTIC, STATISTIC_ARRAY){NULL, 0, 0}};

static const word failure_words[] = {
    WORD(pc_failure, kept),
    WORD(pc_failure, descriptor),
    WORD(pc_failure, record),
    {NULL, 0, 0},
};

static const word sink_words[] = {
    WORD(pc_sink_state, written),
    WORD(pc_sink_state, failure),
    WORD(pc_sink_state, stopped),
    {NULL, 0, 0},
};

static const struct {
    const char *name;
    const word *words;
} parts[] = {
    {"header", header_words}, {"slot", slot_words},       {"control", control_words},
    {"stats", stats_words},   {"failure", failure_words}, {"sink", sink_words},
};

static const struct {
    const char *name;
    uint64_t value;
} constants[] = {
    {"SEGMENT_MAGIC", PAGECHECK_SEGMENT_MAGIC},
    {"LAYOUT_VERSION", PAGECHECK_LAYOUT_VERSION},
    {"HEADER_BYTES", sizeof(struct pagecheck_ring_header)},
    {"SLOT_HEAD_BYTES", sizeof(struct pagecheck_slot)},
    {"CONTROL_BYTES", sizeof(struct pc_control)},
    {"SLOTS_MAX", PAGECHECK_SLOTS_MAX},
    {"SLOT_PAGES_MAX", PAGECHECK_SLOT_PAGES_MAX},
    {"BLOCKS_MAX", PC_BLOCKS_MAX},
    {"LATENCY_FIRST_NS", PC_LATENCY_FIRST_NS},
    {"QUEUE_END_SHIFT", PC_QUEUE_END_SHIFT},
    {"SINK_STATE_BYTES", sizeof(struct pc_sink_state)},
    {"SINK_ERROR_BITS", PC_SINK_ERROR_BITS},
    {"SINK_PIECE", PC_SINK_PIECE},
};

/* A new reference; NULL: no memory. */
static PyObject *places(const word *words)
{
    PyObject *table = PyDict_New();
    for (const word *at = words; table != NULL && at->name != NULL; at++) {
        PyObject *place = Py_BuildValue("nn", (Py_ssize_t)at->offset, (Py_ssize_t)at->bytes);
        if (place == NULL || PyDict_SetItemString(table, at->name, place) != 0)
            Py_CLEAR(table);
        Py_XDECREF(place);
    }
    return table;
}

static PyObject *layout(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    PyObject *all = PyDict_New();
    for (size_t i = 0; all != NULL && i < sizeof parts / sizeof *parts; i++) {
        PyObject *table = places(parts[i].words);
        if (table == NULL || PyDict_SetItemString(all, parts[i].name, table) != 0)
            Py_CLEAR(all);
        Py_XDECREF(table);
    }
    return all;
}

static PyObject *segment_bytes(PyObject *module, PyObject *args)
{
    unsigned int slots, slot_pages;
    (void)module;
    if (!PyArg_ParseTuple(args, "II", &slots, &slot_pages))
        return NULL;
    return PyLong_FromUnsignedLongLong(pgck_segment_bytes(slots, slot_pages));
}

static PyObject *segment_format(PyObject *module, PyObject *args)
{
    int fd;
    unsigned int slots, slot_pages;
    unsigned long long generation;
    (void)module;
    if (!PyArg_ParseTuple(args, "iIIK", &fd, &slots, &slot_pages, &generation))
        return NULL;
    uint64_t bytes = pgck_segment_bytes(slots, slot_pages);
    struct stat st;
    if (fstat(fd, &st) != 0)
        return py_fail_errno();
    if ((uint64_t)st.st_size < bytes) { /* a store past its end would be a SIGBUS */
        return py_fail(PC_ERROR_INVALID, "segment of %llu bytes: %u slots of %u pages need %llu",
                       (unsigned long long)st.st_size, slots, slot_pages,
                       (unsigned long long)bytes);
    }
    void *segment = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (segment == MAP_FAILED)
        return py_fail_errno();
    bool formatted = pc_ring_format(segment, bytes, slots, slot_pages, generation);
    munmap(segment, bytes);
    if (!formatted)
        return py_fail(PC_ERROR_INVALID, "%u slots of %u pages: out of range", slots, slot_pages);
    Py_RETURN_NONE;
}

PyMethodDef py_layout_methods[] = {
    {"layout", layout, METH_NOARGS, NULL},
    {"segment_bytes", segment_bytes, METH_VARARGS, NULL},
    {"segment_format", segment_format, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int py_layout_add_constants(PyObject *module)
{
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(constants[i].value);
        int failed = value == NULL || PyModule_AddObjectRef(module, constants[i].name, value) != 0;
        Py_XDECREF(value);
        if (failed)
            return -1;
    }
    return 0;
}
