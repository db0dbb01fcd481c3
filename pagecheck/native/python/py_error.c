/* The one place where the core's errors become exceptions.
 *
 * Facts: the core has descriptors, and only its callers know what is behind them and whose fault it
 * is that they cannot be used. Decision: built-in exceptions here, an OSError with its errno; who
 * calls names the file and chooses among pagecheck.errors. */
#include "py_error.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

static PyObject **const classes[] = {
    [PC_ERROR_INVALID] = &PyExc_ValueError,
    [PC_ERROR_CLOSED] = &PyExc_ValueError,
    [PC_ERROR_BUSY] = &PyExc_RuntimeError,
    [PC_ERROR_NO_MEMORY] = &PyExc_MemoryError,
};

static void *raise_system(const pc_error *error)
{
    errno = error->number;
    if (error->text[0] == '\0')
        return PyErr_SetFromErrno(PyExc_OSError);
    PyObject *arguments = Py_BuildValue("is", error->number, error->text);
    if (arguments != NULL)
        PyErr_SetObject(PyExc_OSError, arguments);
    Py_XDECREF(arguments);
    return NULL;
}

void *py_raise(const pc_error *error)
{
    if (error->code == PC_ERROR_SYSTEM)
        return raise_system(error);
    /* The text may have been cut inside a character. */
    PyObject *text = PyUnicode_DecodeUTF8(error->text, (Py_ssize_t)strlen(error->text), "replace");
    PyObject *class = *classes[error->code];
    if (text != NULL && error->offset == PC_ERROR_NOWHERE)
        PyErr_SetObject(class, text);
    else if (text != NULL)
        PyErr_Format(class, "%U (offset %llu)", text, (unsigned long long)error->offset);
    Py_XDECREF(text);
    return NULL;
}

void *py_fail(pc_error_code code, const char *format, ...)
{
    pc_error error;
    va_list arguments;
    va_start(arguments, format);
    pc_error_vset(&error, code, format, arguments);
    va_end(arguments);
    return py_raise(&error);
}

void *py_fail_errno(void)
{
    return py_fail(PC_ERROR_SYSTEM, "%s", "");
}

void *py_fail_arguments(Py_ssize_t wanted, Py_ssize_t given)
{
    PyErr_Format(PyExc_TypeError, "takes exactly %zd arguments (%zd given)", wanted, given);
    return NULL;
}

int py_ring_open(int fd, int control_fd, pc_ring *ring)
{
    pc_error error;
    if (pc_ring_open(fd, control_fd, ring, &error))
        return 0;
    py_raise(&error);
    return -1;
}
