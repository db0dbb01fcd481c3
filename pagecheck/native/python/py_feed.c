/* `Feed`: the coordinator's end of one ring. */
#include "py_feed.h"

#include <stdlib.h>
#include <unistd.h>

#include "py_error.h"

void py_feed_drop_views(FeedObject *self)
{
    while (self->view_count > 0)
        PyBuffer_Release(&self->views[--self->view_count]);
    self->limit = 0;
}

static FeedObject *opened(PyObject *object)
{
    FeedObject *self = (FeedObject *)object;
    return self->open ? self : py_fail(PC_ERROR_CLOSED, "feed is closed");
}

static FeedObject *not_busy(FeedObject *self)
{
    return self->busy ? py_fail(PC_ERROR_BUSY, "feed is in use by another thread") : self;
}

FeedObject *py_feed_usable(PyObject *object)
{
    FeedObject *self = opened(object);
    return self == NULL ? NULL : not_busy(self);
}

static int feed_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    FeedObject *self = (FeedObject *)object;
    int fd, control_fd = -1;
    long long spin_ns = 0;
    pc_ring ring;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "i|iL", &fd, &control_fd, &spin_ns))
        return -1;
    if (self->open) {
        py_fail(PC_ERROR_BUSY, "feed is open already");
        return -1;
    }
    if (py_ring_open(fd, control_fd, &ring) != 0)
        return -1;
    if (!pc_feed_init(&ring, &self->feed)) {
        pc_feed_deinit(&self->feed);
        py_fail(PC_ERROR_NO_MEMORY, "no memory for a feed");
        return -1;
    }
    self->feed.spin_ns = spin_ns;
    self->pid = getpid();
    self->open = 1;
    return 0;
}

static void feed_close_now(FeedObject *self)
{
    py_feed_drop_views(self);
    if (self->open)
        pc_feed_deinit(&self->feed);
    self->open = 0;
    free(self->copied);
    self->copied = NULL;
    self->copied_room = 0;
}

static void feed_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    feed_close_now((FeedObject *)object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static PyObject *feed_close(PyObject *object, PyObject *unused)
{
    FeedObject *self = (FeedObject *)object;
    (void)unused;
    if (not_busy(self) == NULL)
        return NULL;
    feed_close_now(self);
    Py_RETURN_NONE;
}

int py_feed_add_view(FeedObject *self, PyObject *object, int writable, uint64_t bytes,
                     const char *what)
{
    if (py_words_get(object, &self->views[self->view_count], writable, bytes, what) != 0) {
        py_feed_drop_views(self);
        return -1;
    }
    self->view_count++;
    return 0;
}

int py_feed_check_job(FeedObject *self, unsigned int batch_pages)
{
    if (batch_pages > 0 && batch_pages <= self->feed.ring.shared.slot_pages)
        return 0;
    py_fail(PC_ERROR_INVALID, "batch of %u pages is out of range", batch_pages);
    return -1;
}

int py_feed_nothing_out(FeedObject *self)
{
    if (pc_feed_outstanding(&self->feed) == 0)
        return 0;
    py_fail(PC_ERROR_BUSY, "a job's batches are still in progress");
    return -1;
}

static PyObject *feed_begin_range(PyObject *object, PyObject *args)
{
    unsigned int block, batch_pages;
    unsigned long long pages, page_bytes;
    PyObject *zero, *normal, *skip;
    FeedObject *self = py_feed_usable(object);
    if (self == NULL || !PyArg_ParseTuple(args, "IIKKOOO", &block, &batch_pages, &pages,
                                          &page_bytes, &zero, &normal, &skip))
        return NULL;
    if (py_feed_check_job(self, batch_pages) != 0 || py_feed_nothing_out(self) != 0)
        return NULL;
    py_feed_drop_views(self);
    uint64_t bytes = (pages + 63u) / 64u * 8u;
    if (py_feed_add_view(self, zero, 1, bytes, "zero") != 0 ||
        py_feed_add_view(self, normal, 1, bytes, "normal") != 0 ||
        py_feed_add_view(self, skip, 0, bytes, "skip") != 0)
        return NULL;
    const pc_job job = {.block = block,
                        .batch_pages = batch_pages,
                        .zero_bits = self->views[0].buf,
                        .normal_bits = self->views[1].buf,
                        .skip = self->views[2].buf,
                        .page_bytes = page_bytes};
    pc_feed_begin(&self->feed, &job);
    self->limit = pages;
    Py_RETURN_NONE;
}

static int begin_offsets(FeedObject *self, unsigned int block, unsigned int batch_pages,
                         PyObject *offsets, PyObject *zero, PyObject *decided)
{
    if (py_feed_check_job(self, batch_pages) != 0 || py_feed_nothing_out(self) != 0)
        return -1;
    py_feed_drop_views(self);
    if (py_feed_add_view(self, offsets, 0, 8, "offsets") != 0)
        return -1;
    uint64_t pages = (uint64_t)self->views[0].len / 8u;
    if (py_feed_add_view(self, zero, 1, pages, "zero") != 0 ||
        py_feed_add_view(self, decided, 1, pages, "decided") != 0)
        return -1;
    const pc_job job = {.block = block,
                        .batch_pages = batch_pages,
                        .offsets = self->views[0].buf,
                        .zero_bytes = self->views[1].buf,
                        .decided_bytes = self->views[2].buf};
    pc_feed_begin(&self->feed, &job);
    self->limit = pages;
    return 0;
}

static PyObject *feed_begin_offsets(PyObject *object, PyObject *args)
{
    unsigned int block, batch_pages;
    PyObject *offsets, *zero, *decided;
    FeedObject *self = py_feed_usable(object);
    if (self == NULL ||
        !PyArg_ParseTuple(args, "IIOOO", &block, &batch_pages, &offsets, &zero, &decided) ||
        begin_offsets(self, block, batch_pages, offsets, zero, decided) != 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *feed_more(PyObject *object, PyObject *args)
{
    unsigned long long position, count;
    FeedObject *self = py_feed_usable(object);
    if (self == NULL || !PyArg_ParseTuple(args, "KK", &position, &count))
        return NULL;
    if (position > self->limit || count > self->limit - position ||
        self->feed.next != self->feed.end)
        return py_fail(PC_ERROR_INVALID, "pages outside the job, or earlier pages not submitted");
    pc_feed_more(&self->feed, position, count);
    Py_RETURN_NONE;
}

static PyObject *feed_pump(PyObject *object, PyObject *args)
{
    int more_follow;
    long long deadline_ns;
    pc_pump result;
    FeedObject *self = py_feed_usable(object);
    if (self == NULL || !PyArg_ParseTuple(args, "pL", &more_follow, &deadline_ns))
        return NULL;
    if (self->feed.job.offsets != NULL && self->feed.job.zero_bytes == NULL)
        return py_fail(PC_ERROR_INVALID, "a check is submitted and has no room for its answers");
    self->busy = 1;
    Py_BEGIN_ALLOW_THREADS result = pc_feed_pump(&self->feed, more_follow != 0, deadline_ns);
    Py_END_ALLOW_THREADS self->busy = 0;
    if (result == PC_PUMP_FAILED)
        return py_fail_errno();
    if (result == PC_PUMP_INTERRUPTED && PyErr_CheckSignals() != 0)
        return NULL;
    return PyLong_FromLong((long)result);
}

static PyObject *feed_end(PyObject *object, PyObject *unused)
{
    FeedObject *self = py_feed_usable(object);
    (void)unused;
    if (self == NULL)
        return NULL;
    pc_feed_abandon(&self->feed);
    self->feed.job.offsets = NULL;
    py_feed_drop_views(self);
    uint64_t decided = self->feed.pages_decided, undecided = self->feed.pages_undecided;
    self->feed.pages_decided = self->feed.pages_undecided = 0; /* no other job's counts */
    return Py_BuildValue("KK", (unsigned long long)decided, (unsigned long long)undecided);
}

static PyObject *feed_oldest(PyObject *object, PyObject *unused)
{
    pc_batch_span oldest;
    FeedObject *self = py_feed_usable(object);
    (void)unused;
    if (self == NULL)
        return NULL;
    if (!pc_feed_oldest(&self->feed, &oldest))
        Py_RETURN_NONE;
    uint64_t deciding = __atomic_load_n(&self->feed.ring.control->deciding, __ATOMIC_RELAXED);
    return Py_BuildValue("KIN", (unsigned long long)oldest.position, oldest.count,
                         PyBool_FromLong(deciding == self->feed.collected + 1));
}

static PyObject *feed_skip_oldest(PyObject *object, PyObject *unused)
{
    FeedObject *self = py_feed_usable(object);
    (void)unused;
    if (self == NULL)
        return NULL;
    pc_feed_skip_oldest(&self->feed);
    Py_RETURN_NONE;
}

static PyObject *feed_rebind(PyObject *object, PyObject *args)
{
    int fd, control_fd;
    pc_ring ring;
    FeedObject *self = py_feed_usable(object);
    if (self == NULL || !PyArg_ParseTuple(args, "ii", &fd, &control_fd))
        return NULL;
    if (py_ring_open(fd, control_fd, &ring) != 0)
        return NULL;
    if (ring.shared.slots != self->feed.ring.shared.slots ||
        ring.shared.slot_pages != self->feed.ring.shared.slot_pages) {
        pc_ring_close(&ring);
        return py_fail(PC_ERROR_INVALID, "the new segment has another geometry");
    }
    pc_feed_rebind(&self->feed, &ring);
    Py_RETURN_NONE;
}

static PyObject *feed_raise_attention(PyObject *object, PyObject *unused)
{
    FeedObject *self = opened(object); /* also while another thread pumps */
    (void)unused;
    if (self == NULL)
        return NULL;
    pc_ring_raise_attention(&self->feed.ring);
    Py_RETURN_NONE;
}

static PyObject *feed_mark_gone(PyObject *object, PyObject *unused)
{
    FeedObject *self = opened(object);
    (void)unused;
    if (self == NULL)
        return NULL;
    pc_ring_mark_gone(&self->feed.ring);
    Py_RETURN_NONE;
}

static PyObject *feed_progress(PyObject *object, PyObject *unused)
{
    FeedObject *self = py_feed_usable(object);
    (void)unused;
    if (self == NULL)
        return NULL;
    return PyLong_FromUnsignedLongLong(
        __atomic_load_n(&self->feed.ring.control->progress, __ATOMIC_RELAXED));
}

static PyObject *feed_occupied(PyObject *object, PyObject *unused)
{
    FeedObject *self = py_feed_usable(object);
    (void)unused;
    if (self == NULL)
        return NULL;
    return PyLong_FromUnsignedLongLong(self->feed.submitted - self->feed.collected);
}

static PyObject *feed_counts(PyObject *object, PyObject *unused)
{
    FeedObject *self = py_feed_usable(object);
    (void)unused;
    if (self == NULL)
        return NULL;
    return Py_BuildValue("KKK", (unsigned long long)self->feed.pages_decided,
                         (unsigned long long)self->feed.pages_undecided,
                         (unsigned long long)pc_feed_outstanding(&self->feed));
}

static PyMethodDef feed_methods[] = {
    {"begin_range", feed_begin_range, METH_VARARGS, NULL},
    {"begin_offsets", feed_begin_offsets, METH_VARARGS, NULL},
    {"submit_check", PY_FASTCALL(py_feed_submit_check), METH_FASTCALL, NULL},
    {"finish_check", PY_FASTCALL(py_feed_finish_check), METH_FASTCALL, NULL},
    {"more", feed_more, METH_VARARGS, NULL},
    {"pump", feed_pump, METH_VARARGS, NULL},
    {"end", feed_end, METH_NOARGS, NULL},
    {"oldest", feed_oldest, METH_NOARGS, NULL},
    {"skip_oldest", feed_skip_oldest, METH_NOARGS, NULL},
    {"rebind", feed_rebind, METH_VARARGS, NULL},
    {"raise_attention", feed_raise_attention, METH_NOARGS, NULL},
    {"mark_gone", feed_mark_gone, METH_NOARGS, NULL},
    {"progress", feed_progress, METH_NOARGS, NULL},
    {"occupied", feed_occupied, METH_NOARGS, NULL},
    {"counts", feed_counts, METH_NOARGS, NULL},
    {"close", feed_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot feed_slots[] = {
    {Py_tp_init, (void *)feed_init},
    {Py_tp_dealloc, (void *)feed_dealloc},
    {Py_tp_methods, feed_methods},
    {0, NULL},
};

PyType_Spec py_feed_spec = {
    .name = "pagecheck.native._native.Feed",
    .basicsize = sizeof(FeedObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = feed_slots,
};
