/* The two calls of a check that needs nobody's help: the path of a migration's packet.
 *
 * Whoever checks pages has slept before, as has the worker, so code and data are not in the caches:
 * what counts is how little is touched. Hence the arguments that are the same for every check of a
 * block in one object, and no PyArg_ParseTuple. */
#include "py_feed.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../core/pc_offsets.h"
#include "py_error.h"

static const char target_name[] = "pagecheck.check_target";

typedef struct check_target {
    uint64_t page_bytes;
    uint64_t block_bytes;
    uint64_t file_end;
    int64_t slice_ns;
    uint32_t block;
    uint32_t batch_pages;
    uint32_t pages_max;
    int fd;
} check_target;

static void free_target(PyObject *capsule)
{
    free(PyCapsule_GetPointer(capsule, target_name));
}

static PyObject *make_target(PyObject *module, PyObject *args)
{
    unsigned int block, batch_pages, pages_max;
    unsigned long long page_bytes, block_bytes, file_end;
    long long slice_ns;
    int fd;
    (void)module;
    if (!PyArg_ParseTuple(args, "IKKIIiKL", &block, &page_bytes, &block_bytes, &batch_pages,
                          &pages_max, &fd, &file_end, &slice_ns))
        return NULL;
    check_target *target = malloc(sizeof *target);
    if (target == NULL)
        return py_fail(PC_ERROR_NO_MEMORY, "no memory for a block's checks");
    *target = (check_target){page_bytes, block_bytes, file_end,  slice_ns,
                             block,      batch_pages, pages_max, fd};
    PyObject *capsule = PyCapsule_New(target, target_name, free_target);
    if (capsule == NULL)
        free(target);
    return capsule;
}

PyMethodDef py_check_methods[] = {
    {"check_target", make_target, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static const check_target *target_of(PyObject *const *args, Py_ssize_t given, Py_ssize_t wanted)
{
    if (given == wanted)
        return PyCapsule_GetPointer(args[0], target_name);
    return py_fail_arguments(wanted, given);
}

static bool make_room(FeedObject *self, size_t count)
{
    if (count <= self->copied_room)
        return true;
    free(self->copied);
    self->copied = malloc(count * sizeof *self->copied);
    self->copied_room = self->copied != NULL ? count : 0;
    return self->copied != NULL;
}

/* Copies the offsets; 0: they are not plain uint64, or not 1 to `most` of them. */
static size_t copy_offsets(FeedObject *self, PyObject *offsets, size_t most)
{
    Py_buffer view;
    size_t count = 0;
    if (PyObject_GetBuffer(offsets, &view, PyBUF_ND | PyBUF_FORMAT) != 0) {
        PyErr_Clear(); /* whoever converts them says what is wrong with them */
        return 0;
    }
    bool plain = view.ndim == 1 && view.itemsize == 8 && view.format != NULL &&
                 (view.format[0] == 'L' || view.format[0] == 'Q') && view.format[1] == '\0';
    if (plain && view.len > 0 && (size_t)view.len / 8u <= most && make_room(self, most)) {
        count = (size_t)view.len / 8u;
        memcpy(self->copied, view.buf, count * sizeof *self->copied);
    }
    PyBuffer_Release(&view);
    return count;
}

PyObject *py_feed_submit_check(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    FeedObject *self = py_feed_usable(object);
    const check_target *target = self != NULL ? target_of(args, given, 2) : NULL;
    if (target == NULL || py_feed_check_job(self, target->batch_pages) != 0 ||
        py_feed_nothing_out(self) != 0)
        return NULL;
    py_feed_drop_views(self);
    bool forked = getpid() != self->pid; /* the ring is the parent's */
    size_t count = forked ? 0 : copy_offsets(self, args[1], target->pages_max);
    if (!pc_offsets_are_pages(self->copied, count, target->page_bytes, target->block_bytes))
        count = 0;
    /* The answers' places come with finish_check; before it nothing is collected. */
    const pc_job job = {.block = target->block,
                        .batch_pages = target->batch_pages,
                        .offsets = count != 0 ? self->copied : NULL};
    pc_feed_begin(&self->feed, &job);
    pc_feed_more(&self->feed, 0, count);
    pc_feed_submit(&self->feed);
    return PyLong_FromSize_t(count);
}

static int take_places(FeedObject *self, PyObject *const *args, uint64_t count)
{
    if (py_feed_add_view(self, args[0], 1, count, "zero") != 0 ||
        py_feed_add_view(self, args[1], 1, count, "decided") != 0 ||
        py_feed_add_view(self, args[2], 1, count * 8u, "partition") != 0)
        return -1;
    self->feed.job.zero_bytes = memset(self->views[0].buf, 0, count);
    self->feed.job.decided_bytes = memset(self->views[1].buf, 0, count);
    self->limit = count;
    return 0;
}

/* Whether every page was decided and lies inside the file, whose size is read only now. */
static bool all_is_well(const FeedObject *self, const check_target *target)
{
    struct stat st;
    return self->feed.pages_undecided == 0 && fstat(target->fd, &st) == 0 &&
           (uint64_t)st.st_size >= target->file_end;
}

/* Not a number, and what is negative, is 0. */
static int64_t nanoseconds(double seconds, int64_t most)
{
    if (!(seconds > 0))
        return 0;
    return seconds * 1e9 < (double)most ? (int64_t)(seconds * 1e9) : most;
}

PyObject *py_feed_finish_check(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    pc_pump result;
    FeedObject *self = py_feed_usable(object);
    const check_target *target = self != NULL ? target_of(args, given, 5) : NULL;
    if (target == NULL)
        return NULL;
    double seconds = PyFloat_AsDouble(args[4]);
    if (seconds == -1.0 && PyErr_Occurred() != NULL)
        return NULL;
    if (self->feed.job.offsets == NULL || self->feed.job.offsets != self->copied ||
        self->view_count != 0)
        return py_fail(PC_ERROR_INVALID, "no check was submitted");
    uint64_t count = self->feed.end;
    if (take_places(self, args + 1, count) != 0)
        return NULL;
    int64_t began_ns = pagecheck_now_ns();
    int64_t deadline_ns = began_ns + nanoseconds(seconds, target->slice_ns);
    self->busy = 1;
    Py_BEGIN_ALLOW_THREADS result = pc_feed_finish(&self->feed, deadline_ns);
    Py_END_ALLOW_THREADS self->busy = 0;
    if (result == PC_PUMP_FAILED)
        return py_fail_errno();
    if (result == PC_PUMP_INTERRUPTED && PyErr_CheckSignals() != 0)
        return NULL;
    uint64_t *partition = self->views[2].buf;
    if (result != PC_PUMP_DONE || !all_is_well(self, target)) {
        memcpy(partition, self->copied, count * sizeof *partition);
        return PyLong_FromLongLong(-began_ns);
    }
    size_t normal = pc_offsets_partition(self->copied, self->views[0].buf, count, partition);
    pc_feed_abandon(&self->feed);
    self->feed.job.offsets = NULL;
    py_feed_drop_views(self);
    return PyLong_FromSize_t(normal);
}
