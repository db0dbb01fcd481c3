/* `Feed` as the two files that make it share it. */
#ifndef PY_FEED_H
#define PY_FEED_H

#include "py_native.h"

#include "../core/pc_feed.h"

typedef struct {
    PyObject_HEAD pc_feed feed;
    int open;
    pid_t pid;      /* the process that opened it */
    int busy;       /* a thread is inside pump; the GIL guards this word */
    uint64_t limit; /* pages that the job's arrays have room for */
    Py_buffer views[3];
    int view_count;
    uint64_t *copied; /* the offsets of a check: nobody can change them while it runs */
    size_t copied_room;
} FeedObject;

/* NULL with an exception: it is closed, or another thread is in it. */
FeedObject *py_feed_usable(PyObject *object);
/* Takes the next of a job's arrays; on failure -1 with an exception, and all are dropped. */
int py_feed_add_view(FeedObject *self, PyObject *object, int writable, uint64_t bytes,
                     const char *what);
void py_feed_drop_views(FeedObject *self);
/* Whether a job may begin; on failure -1 with an exception. */
int py_feed_check_job(FeedObject *self, unsigned int batch_pages);
int py_feed_nothing_out(FeedObject *self);

PyObject *py_feed_submit_check(PyObject *object, PyObject *const *args, Py_ssize_t given);
PyObject *py_feed_finish_check(PyObject *object, PyObject *const *args, Py_ssize_t given);

#define PY_FASTCALL(function) ((PyCFunction)(void (*)(void))(function))

#endif
