/* Functions over bitmaps and offset arrays. */
#include "py_error.h"

#include <string.h>

#include "../core/pc_bits.h"
#include "../core/pc_offsets.h"

int py_words_get(PyObject *object, Py_buffer *view, int writable, uint64_t bytes, const char *what)
{
    if (PyObject_GetBuffer(object, view, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0)
        return -1;
    if ((uint64_t)view->len >= bytes && (uintptr_t)view->buf % 8u == 0)
        return 0;
    py_fail(PC_ERROR_INVALID, "%s: %zd bytes, needs %llu aligned to 8", what, view->len,
            (unsigned long long)bytes);
    PyBuffer_Release(view);
    return -1;
}

/* Takes words for that many bits; the bound keeps the arithmetic from wrapping around. */
static int bits_get(PyObject *words, Py_buffer *view, unsigned long long bits)
{
    if (bits > UINT64_MAX / 2) {
        py_fail(PC_ERROR_INVALID, "%llu bits: out of range", bits);
        return -1;
    }
    return py_words_get(words, view, 0, (bits + 63u) / 64u * 8u, "words");
}

/* Parses (words, bits, first, count) and takes the words. */
static int range_args(PyObject *args, Py_buffer *view, unsigned long long *first,
                      unsigned long long *count)
{
    PyObject *words;
    if (!PyArg_ParseTuple(args, "OKK", &words, first, count))
        return -1;
    if (*count > UINT64_MAX / 2 || *first > UINT64_MAX / 2) {
        py_fail(PC_ERROR_INVALID, "bit range is out of range");
        return -1;
    }
    return py_words_get(words, view, 1, (*first + *count + 63u) / 64u * 8u, "words");
}

static PyObject *bits_set(PyObject *module, PyObject *args)
{
    Py_buffer view;
    unsigned long long first, count;
    (void)module;
    if (range_args(args, &view, &first, &count) != 0)
        return NULL;
    pc_bits_set_shared(view.buf, first, count);
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}

static PyObject *bits_clear(PyObject *module, PyObject *args)
{
    Py_buffer view;
    unsigned long long first, count;
    (void)module;
    if (range_args(args, &view, &first, &count) != 0)
        return NULL;
    pc_bits_clear(view.buf, first, count);
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}

static PyObject *bits_count(PyObject *module, PyObject *args)
{
    PyObject *words;
    Py_buffer view;
    unsigned long long bits;
    (void)module;
    if (!PyArg_ParseTuple(args, "OK", &words, &bits) || bits_get(words, &view, bits) != 0)
        return NULL;
    uint64_t total = pc_bits_count(view.buf, bits);
    PyBuffer_Release(&view);
    return PyLong_FromUnsignedLongLong(total);
}

static PyObject *bits_run(PyObject *module, PyObject *args)
{
    PyObject *words;
    Py_buffer view;
    unsigned long long bits, start;
    (void)module;
    if (!PyArg_ParseTuple(args, "OKK", &words, &bits, &start) || bits_get(words, &view, bits) != 0)
        return NULL;
    PyObject *result = NULL;
    if (start < bits)
        result = Py_BuildValue("NK", PyBool_FromLong(pc_bits_test(view.buf, start)),
                               (unsigned long long)pc_bits_run_end(view.buf, bits, start));
    else
        py_fail(PC_ERROR_INVALID, "start is past the last bit");
    PyBuffer_Release(&view);
    return result;
}

static PyObject *offsets_check(PyObject *module, PyObject *args)
{
    PyObject *offsets;
    Py_buffer view;
    unsigned long long page_bytes, block_bytes;
    (void)module;
    if (!PyArg_ParseTuple(args, "OKK", &offsets, &page_bytes, &block_bytes) ||
        py_words_get(offsets, &view, 0, 0, "offsets") != 0)
        return NULL;
    int64_t bad = pc_offsets_check(view.buf, (size_t)view.len / 8u, page_bytes, block_bytes);
    PyBuffer_Release(&view);
    return PyLong_FromLongLong(bad);
}

static PyObject *offsets_partition(PyObject *module, PyObject *args)
{
    PyObject *objects[3];
    Py_buffer offsets, zero, out;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOO", &objects[0], &objects[1], &objects[2]) ||
        py_words_get(objects[0], &offsets, 0, 0, "offsets") != 0)
        return NULL;
    PyObject *result = NULL;
    uint64_t count = (uint64_t)offsets.len / 8u;
    if (py_words_get(objects[1], &zero, 0, count, "zero") == 0) {
        if (py_words_get(objects[2], &out, 1, count * 8u, "out") == 0) {
            result = PyLong_FromSize_t(
                pc_offsets_partition(offsets.buf, zero.buf, (size_t)count, out.buf));
            PyBuffer_Release(&out);
        }
        PyBuffer_Release(&zero);
    }
    PyBuffer_Release(&offsets);
    return result;
}

PyMethodDef py_bits_methods[] = {
    {"bits_set", bits_set, METH_VARARGS, NULL},
    {"bits_clear", bits_clear, METH_VARARGS, NULL},
    {"bits_count", bits_count, METH_VARARGS, NULL},
    {"bits_run", bits_run, METH_VARARGS, NULL},
    {"offsets_check", offsets_check, METH_VARARGS, NULL},
    {"offsets_partition", offsets_partition, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
