/* Tells whether somebody writes to a file, or closes it after having had it open for writing; and
 * when nobody has a file any more. */
#include "py_error.h"

#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>

static PyObject *watch_open(PyObject *module, PyObject *args)
{
    int fd;
    char path[sizeof "/proc/self/fd/" + 3 * sizeof fd];
    (void)module;
    if (!PyArg_ParseTuple(args, "i", &fd))
        return NULL;
    int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (watch < 0)
        return py_fail_errno();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (inotify_add_watch(watch, path, IN_MODIFY | IN_CLOSE_WRITE) < 0) {
        py_fail_errno();
        close(watch);
        return NULL;
    }
    return PyLong_FromLong(watch);
}

static PyObject *watch_ends_open(PyObject *module, PyObject *args)
{
    (void)module;
    (void)args;
    int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (watch < 0)
        return py_fail_errno();
    return PyLong_FromLong(watch);
}

static PyObject *watch_ends_add(PyObject *module, PyObject *args)
{
    int watch, fd;
    char path[sizeof "/proc/self/fd/" + 3 * sizeof fd];
    (void)module;
    if (!PyArg_ParseTuple(args, "ii", &watch, &fd))
        return NULL;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int number = inotify_add_watch(watch, path, IN_DELETE_SELF);
    if (number < 0)
        return py_fail_errno();
    return PyLong_FromLong(number);
}

PyMethodDef py_watch_methods[] = {
    {"watch_open", watch_open, METH_VARARGS, NULL},
    {"watch_ends_open", watch_ends_open, METH_NOARGS, NULL},
    {"watch_ends_add", watch_ends_add, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
