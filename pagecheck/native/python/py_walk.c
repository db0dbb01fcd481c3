/* `Walk` and `ProcessWalk`: where a file, or private memory, has data and holes. */
#include "py_error.h"

#include <stdlib.h>

#include "../core/pc_process_walk.h"
#include "../core/pc_walk.h"
#include "py_pieces.h"

#define LOOK_NS INT64_C(10000000) /* then the caller looks at signals and deadlines */

typedef struct {
    PyObject_HEAD pc_walk walk;
    int busy; /* a thread is inside next; the GIL guards this word */
    Py_buffer views[2];
    int view_count;
    int fd;                   /* of `Walk` */
    pc_process_walk *process; /* of `ProcessWalk` */
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

/* Takes the bitmaps and begins; on failure -1 with an exception. */
static int begin(WalkObject *self, const pc_walk *walk, PyObject *hole, PyObject *zero)
{
    if (add_view(self, hole, walk->pages, "hole") != 0 ||
        add_view(self, zero, walk->pages, "zero") != 0) {
        drop_views(self);
        return -1;
    }
    self->walk = *walk;
    self->walk.hole = self->views[0].buf;
    self->walk.zero = self->views[1].buf;
    self->walk.look_ns = LOOK_NS;
    pc_walk_begin(&self->walk);
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
    self->fd = fd;
    const pc_walk walk = {.seek = pc_walk_seek_file,
                          .context = &self->fd,
                          .start = start,
                          .page_bytes = page_bytes,
                          .pages = pages};
    return begin(self, &walk, hole, zero);
}

static int process_walk_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    WalkObject *self = (WalkObject *)object;
    int fd;
    unsigned long long address, page_bytes, pages;
    PyObject *pieces, *hole, *zero;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "iKKKOOO", &fd, &address, &page_bytes, &pages, &pieces, &hole,
                          &zero))
        return -1;
    if (self->view_count != 0) {
        py_fail(PC_ERROR_BUSY, "walk has begun already");
        return -1;
    }
    free(self->process); /* of an attempt that failed */
    self->process = py_process_walk_new(fd, address, page_bytes, pages, pieces);
    if (self->process == NULL)
        return -1;
    const pc_walk walk = {.seek = pc_process_walk_seek,
                          .context = self->process,
                          .page_bytes = page_bytes,
                          .pages = pages};
    return begin(self, &walk, hole, zero);
}

static void walk_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    drop_views((WalkObject *)object);
    free(((WalkObject *)object)->process);
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

static PyType_Slot process_walk_slots[] = {
    {Py_tp_init, (void *)process_walk_init},
    {Py_tp_dealloc, (void *)walk_dealloc},
    {Py_tp_methods, walk_methods},
    {0, NULL},
};

PyType_Spec py_process_walk_spec = {
    .name = "pagecheck.native._native.ProcessWalk",
    .basicsize = sizeof(WalkObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = process_walk_slots,
};
