/* `Worker`: the worker's end of one ring, with the RAM blocks that it maps or reads. */
#include "py_model.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "../core/pc_file_block.h"
#include "../core/pc_guard.h"
#include "../core/pc_portal_model.h"
#include "../core/pc_process_block.h"
#include "../core/pc_worker.h"
#include "py_pieces.h"

typedef struct {
    PyObject_HEAD pc_worker worker;
    int open;
    int busy;
} WorkerObject;

#define CLOSE_NS 2000000000 /* for a queue that drains while its worker is closed */

static void worker_close_now(WorkerObject *self)
{
    if (!self->open)
        return;
    pc_worker_deinit(&self->worker, pc_clock_now_ns() + CLOSE_NS);
    self->open = 0;
}

static WorkerObject *usable(PyObject *object)
{
    WorkerObject *self = (WorkerObject *)object;
    if (self->open && !self->busy)
        return self;
    return py_fail(PC_ERROR_CLOSED, "worker is closed or in use");
}

static int worker_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    WorkerObject *self = (WorkerObject *)object;
    int fd, control_fd;
    long long spin_ns = 0;
    const char *kernel_name;
    pc_ring ring;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "iis|L", &fd, &control_fd, &kernel_name, &spin_ns))
        return -1;
    const pc_kernel *kernel = pc_kernel_find(kernel_name);
    if (self->open) {
        py_fail(PC_ERROR_BUSY, "worker is open already");
        return -1;
    }
    if (kernel == NULL || pc_kernel_why_not(kernel) != NULL) {
        py_fail(PC_ERROR_INVALID, "kernel %s cannot run here", kernel_name);
        return -1;
    }
    if (!pc_guard_install()) {
        py_fail_errno();
        return -1;
    }
    if (py_ring_open(fd, control_fd, &ring) != 0)
        return -1;
    if (!pc_worker_init(&ring, kernel, &self->worker)) {
        pc_worker_deinit(&self->worker, 0);
        py_fail(PC_ERROR_NO_MEMORY, "no memory for a worker");
        return -1;
    }
    self->worker.spin_ns = spin_ns;
    self->open = 1;
    return 0;
}

static void worker_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    worker_close_now((WorkerObject *)object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static PyObject *worker_close(PyObject *object, PyObject *unused)
{
    (void)unused;
    if (((WorkerObject *)object)->busy)
        return py_fail(PC_ERROR_BUSY, "worker is in use by another thread");
    worker_close_now((WorkerObject *)object);
    Py_RETURN_NONE;
}

/* False, with an exception: another block has it. */
static bool id_is_free(const WorkerObject *self, unsigned int id)
{
    if (self->worker.blocks[id % PC_BLOCKS_MAX] == NULL)
        return true;
    py_fail(PC_ERROR_INVALID, "block %u: its id is in use", id);
    return false;
}

/* Takes the block over, or raises why there is none. */
static PyObject *attach(WorkerObject *self, unsigned int id, pc_block *block, const pc_error *error)
{
    if (block == NULL)
        return py_raise(error);
    if (!pc_worker_attach(&self->worker, id, block)) {
        errno = ENOSPC;
        return py_fail_errno();
    }
    Py_RETURN_NONE;
}

static PyObject *worker_attach(PyObject *object, PyObject *args)
{
    unsigned int id, flags;
    int fd, map;
    unsigned long long start, bytes, page_bytes, dense_bytes;
    pc_error error;
    WorkerObject *self = usable(object);
    if (self == NULL || !PyArg_ParseTuple(args, "IiKKKIKp", &id, &fd, &start, &bytes, &page_bytes,
                                          &flags, &dense_bytes, &map))
        return NULL;
    if (!id_is_free(self, id))
        return NULL;
    const pc_file_range range = {start, bytes, page_bytes, dense_bytes, flags, map != 0};
    return attach(self, id, pc_file_block_open(fd, &range, &error), &error);
}

static PyObject *worker_attach_process(PyObject *object, PyObject *args)
{
    unsigned int id;
    int pagemap_fd, memory_fd, file_fd, pid, read_swapped;
    unsigned long long address, bytes, page_bytes;
    PyObject *pieces;
    Py_buffer view;
    pc_error error;
    WorkerObject *self = usable(object);
    if (self == NULL ||
        !PyArg_ParseTuple(args, "IiiiiKKKpO", &id, &pagemap_fd, &memory_fd, &file_fd, &pid,
                          &address, &bytes, &page_bytes, &read_swapped, &pieces) ||
        !id_is_free(self, id))
        return NULL;
    pc_process_range range = {.pagemap_fd = pagemap_fd,
                              .memory_fd = memory_fd,
                              .file_fd = file_fd,
                              .pid = pid,
                              .address = address,
                              .bytes = bytes,
                              .page_bytes = page_bytes,
                              .read_swapped = read_swapped != 0};
    if (py_pieces_get(pieces, &view, &range) != 0)
        return NULL;
    pc_block *block = pc_process_block_open(&range, &error);
    PyBuffer_Release(&view);
    return attach(self, id, block, &error);
}

static PyObject *worker_copy_to(PyObject *object, PyObject *args)
{
    unsigned int id;
    int fd, state_fd, update, holes;
    unsigned long long start;
    pc_error error;
    WorkerObject *self = usable(object);
    if (self == NULL ||
        !PyArg_ParseTuple(args, "IiiKpp", &id, &fd, &state_fd, &start, &update, &holes))
        return NULL;
    const pc_block *block = pc_worker_block(&self->worker, id);
    if (block == NULL || block->sink != NULL)
        return py_fail(PC_ERROR_INVALID, "block %u: is unknown, or has a sink", id);
    const pc_sink_file file = {
        .fd = fd, .state_fd = state_fd, .start = start, .update = update != 0, .holes = holes != 0};
    pc_sink *sink = pc_sink_open(&file, self->worker.decider.progress, &error);
    if (sink == NULL)
        return py_raise(&error);
    pc_worker_copy_to(&self->worker, id, sink);
    Py_RETURN_NONE;
}

static PyObject *worker_detach(PyObject *object, PyObject *args)
{
    unsigned int id;
    WorkerObject *self = usable(object);
    if (self == NULL || !PyArg_ParseTuple(args, "I", &id))
        return NULL;
    if (pc_worker_block(&self->worker, id) != NULL)
        pc_worker_detach(&self->worker, id);
    Py_RETURN_NONE;
}

static PyObject *worker_serve(PyObject *object, PyObject *args)
{
    long long deadline_ns;
    pc_serve result;
    WorkerObject *self = usable(object);
    if (self == NULL || !PyArg_ParseTuple(args, "L", &deadline_ns))
        return NULL;
    self->busy = 1;
    Py_BEGIN_ALLOW_THREADS result = pc_worker_serve(&self->worker, deadline_ns);
    Py_END_ALLOW_THREADS self->busy = 0;
    if (result == PC_SERVE_FAILED)
        return py_fail_errno();
    if (result == PC_SERVE_INTERRUPTED && PyErr_CheckSignals() != 0)
        return NULL;
    return PyLong_FromLong((long)result);
}

static PyObject *open_queue(WorkerObject *self, pc_portal *portal, const pc_dsa_limits *limits)
{
    if (portal == NULL || !pc_worker_open_queue(&self->worker, portal, limits))
        return py_fail_errno();
    Py_RETURN_NONE;
}

static PyObject *worker_open_queue(PyObject *object, PyObject *args)
{
    int fd, state_fd = -1;
    const char *submit;
    unsigned int size, batch_max;
    unsigned long long transfer_max;
    long long deadline_ns;
    WorkerObject *self = usable(object);
    if (self == NULL || !PyArg_ParseTuple(args, "isIIKL|i", &fd, &submit, &size, &batch_max,
                                          &transfer_max, &deadline_ns, &state_fd))
        return NULL;
    const pc_dsa_limits limits = {size, batch_max, transfer_max, deadline_ns, true, true};
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (own < 0)
        return py_fail_errno();
    pc_portal *portal = strcmp(submit, "write") == 0
                            ? pc_portal_open_write(own)
                            : pc_portal_open_mapped(own, strcmp(submit, "movdir64b") == 0);
    if (portal == NULL) {
        int saved = errno;
        close(own);
        errno = saved;
    } else if (state_fd >= 0 && !pc_portal_set_state(portal, state_fd)) {
        int saved = errno;
        portal->ops->close(portal);
        portal = NULL;
        errno = saved;
    }
    return open_queue(self, portal, &limits);
}

static PyObject *worker_open_model(PyObject *object, PyObject *args)
{
    dsa_model_options options;
    long long deadline_ns;
    WorkerObject *self = usable(object);
    if (self == NULL)
        return NULL;
    dsa_model *model = py_model_open(args, &deadline_ns, &options);
    if (model == NULL)
        return NULL;
    bool batches = options.mode != DSA_MODEL_WRITE || options.version >= 2;
    bool shared = options.mode != DSA_MODEL_DEDICATED;
    const pc_dsa_limits limits = {shared ? options.threshold : options.size,
                                  batches ? options.max_batch : 0,
                                  options.max_transfer,
                                  deadline_ns,
                                  true,
                                  true};
    pc_portal *portal = pc_portal_open_model(model, options.mode);
    if (portal == NULL)
        dsa_model_close(model);
    return open_queue(self, portal, &limits);
}

static PyObject *worker_close_queue(PyObject *object, PyObject *unused)
{
    WorkerObject *self = usable(object);
    (void)unused;
    if (self == NULL)
        return NULL;
    pc_dsa_close(&self->worker.dsa, PC_QUEUE_CLOSED, 0);
    self->worker.queue_up = false;
    Py_RETURN_NONE;
}

static PyObject *worker_queue_state(PyObject *object, PyObject *unused)
{
    WorkerObject *self = usable(object);
    (void)unused;
    if (self == NULL)
        return NULL;
    pc_queue_state state = pc_worker_queue_state(&self->worker);
    return Py_BuildValue("iii", (int)state, (int)self->worker.dsa.end, self->worker.dsa.error);
}

static PyObject *worker_queue_failure(PyObject *object, PyObject *unused)
{
    WorkerObject *self = usable(object);
    (void)unused;
    if (self == NULL)
        return NULL;
    const struct pc_failure *failure = self->worker.dsa.failure;
    if (failure->kept == 0)
        Py_RETURN_NONE;
    return Py_BuildValue("y#y#", failure->descriptor, (Py_ssize_t)sizeof failure->descriptor,
                         failure->record, (Py_ssize_t)sizeof failure->record);
}

static PyMethodDef worker_methods[] = {
    {"open_queue", worker_open_queue, METH_VARARGS, NULL},
    {"open_model", worker_open_model, METH_VARARGS, NULL},
    {"close_queue", worker_close_queue, METH_NOARGS, NULL},
    {"queue_state", worker_queue_state, METH_NOARGS, NULL},
    {"queue_failure", worker_queue_failure, METH_NOARGS, NULL},
    {"attach", worker_attach, METH_VARARGS, NULL},
    {"attach_process", worker_attach_process, METH_VARARGS, NULL},
    {"copy_to", worker_copy_to, METH_VARARGS, NULL},
    {"detach", worker_detach, METH_VARARGS, NULL},
    {"serve", worker_serve, METH_VARARGS, NULL},
    {"close", worker_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot worker_slots[] = {
    {Py_tp_init, (void *)worker_init},
    {Py_tp_dealloc, (void *)worker_dealloc},
    {Py_tp_methods, worker_methods},
    {0, NULL},
};

PyType_Spec py_worker_spec = {
    .name = "pagecheck.native._native.Worker",
    .basicsize = sizeof(WorkerObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = worker_slots,
};
