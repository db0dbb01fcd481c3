/* `Walk`: where a file has data and holes. */
#include "py_error.h"

#include <unistd.h>

#include "../core/pc_walk.h"

#define LOOK_NS INT64_C(10000000) /* then the caller looks at signals and deadlines */

typedef struct {
    PyObject_HEAD pc_walk walk;
    int busy; /* a thread is inside next; the GIL guards this word */
    Py_buffer views[2];
    int view_count;
} WalkObject;

static void drop_views(WalkObject *self)
{
    while (self->view_count > 0)
        PyBuffer_Release(&self->views[--self->view_count]);
}

static int add_view(WalkObject *self, PyObject *object, uint64_t pages, const char *what)
{
    uint64_t bytes = (pages + 63u) / 64u * 8u;
    if (py_words_get(object, &self->views[self->view_count], 1, bytes, what) != 0)
        return -1;
    self->view_count++;
    return 0;
}

static int walk_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    WalkObject *self = (WalkObject *)object;
    int fd;
    unsigned long long start, page_bytes, pages;
    PyObject *hole, *zero;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "iKKKOO", &fd, &start, &page_bytes, &pages, &hole, &zero))
        return -1;
    if (self->view_count != 0) {
        py_fail(PC_ERROR_BUSY, "walk has begun already");
        return -1;
    }
    if (page_bytes == 0 || start > INT64_MAX || pages > (INT64_MAX - start) / page_bytes) {
        py_fail(PC_ERROR_INVALID, "pages outside of any file");
        return -1;
    }
    if (add_view(self, hole, pages, "hole") != 0 || add_view(self, zero, pages, "zero") != 0) {
        drop_views(self);
        return -1;
    }
    self->walk = (pc_walk){.seek = lseek,
                           .fd = fd,
                           .start = start,
                           .page_bytes = page_bytes,
                           .pages = pages,
                           .hole = self->views[0].buf,
                           .zero = self->views[1].buf,
                           .look_ns = LOOK_NS};
    pc_walk_begin(&self->walk);
    return 0;
}

static void walk_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    drop_views((WalkObject *)object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF(type);
}

static PyObject *walk_next(PyObject *object, PyObject *args)
{
    WalkObject *self = (WalkObject *)object;
    unsigned long long most;
    pc_stretch found;
    bool some;
    if (!PyArg_ParseTuple(args, "K", &most))
        return NULL;
    if (self->view_count == 0)
        return py_fail(PC_ERROR_CLOSED, "walk has not begun");
    if (self->busy)
        return py_fail(PC_ERROR_BUSY, "walk is in use by another thread");
    self->busy = 1;
    Py_BEGIN_ALLOW_THREADS some = pc_walk_next(&self->walk, most, &found);
    Py_END_ALLOW_THREADS self->busy = 0;
    if (!some)
        Py_RETURN_NONE;
    return Py_BuildValue("KKK", (unsigned long long)found.first, (unsigned long long)found.span,
                         (unsigned long long)found.pages);
}

static PyMethodDef walk_methods[] = {
    {"next", walk_next, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot walk_slots[] = {
    {Py_tp_init, (void *)walk_init},
    {Py_tp_dealloc, (void *)walk_dealloc},
    {Py_tp_methods, walk_methods},
    {0, NULL},
};

PyType_Spec py_walk_spec = {
    .name = "pagecheck.native._native.Walk",
    .basicsize = sizeof(WalkObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = walk_slots,
};
