/* The pieces of private memory, from Python; and what is counted of its pages. */
#include "py_pieces.h"

#include <stdlib.h>

#include "py_error.h"

int py_pieces_get(PyObject *pieces, Py_buffer *view, pc_process_range *range)
{
    if (py_words_get(pieces, view, 0, 0, "pieces") != 0)
        return -1;
    range->pieces = view->buf;
    range->piece_count = (size_t)view->len / sizeof *range->pieces;
    if ((size_t)view->len % sizeof *range->pieces == 0)
        return 0;
    py_fail(PC_ERROR_INVALID, "pieces: %zd bytes, a piece has %zu", view->len,
            sizeof *range->pieces);
    PyBuffer_Release(view);
    return -1;
}

static pc_process_walk *new_walk(const pc_process_range *range)
{
    pc_error error;
    pc_process_walk *walk = malloc(sizeof *walk);
    if (walk == NULL)
        return py_fail(PC_ERROR_NO_MEMORY, "no memory for a walk");
    if (pc_process_walk_init(range, walk, &error))
        return walk;
    free(walk);
    return py_raise(&error);
}

pc_process_walk *py_process_walk_new(int fd, unsigned long long address,
                                     unsigned long long page_bytes, unsigned long long pages,
                                     PyObject *pieces)
{
    Py_buffer view;
    pc_process_range range = {.pagemap_fd = fd, .address = address, .page_bytes = page_bytes};
    if (page_bytes == 0 || pages > INT64_MAX / page_bytes)
        return py_fail(PC_ERROR_INVALID, "pages outside of any memory");
    range.bytes = pages * page_bytes;
    if (pieces == NULL) {
        const pc_piece all = {.begin = 0, .end = range.bytes, .absent = PC_ABSENT_ZERO};
        range.pieces = &all;
        range.piece_count = 1;
        return new_walk(&range);
    }
    if (py_pieces_get(pieces, &view, &range) != 0)
        return NULL;
    pc_process_walk *walk = new_walk(&range);
    PyBuffer_Release(&view);
    return walk;
}

static PyObject *swapped_pages(PyObject *module, PyObject *args)
{
    int fd;
    unsigned long long address, page_bytes, pages;
    PyObject *zero, *normal;
    Py_buffer zero_view, normal_view;
    uint64_t swapped;
    (void)module;
    if (!PyArg_ParseTuple(args, "iKKKOO", &fd, &address, &page_bytes, &pages, &zero, &normal))
        return NULL;
    pc_process_walk *walk = py_process_walk_new(fd, address, page_bytes, pages, NULL);
    uint64_t words_bytes = (pages + 63u) / 64u * 8u;
    if (walk == NULL || py_words_get(zero, &zero_view, 0, words_bytes, "zero") != 0) {
        free(walk);
        return NULL;
    }
    if (py_words_get(normal, &normal_view, 0, words_bytes, "normal") != 0) {
        PyBuffer_Release(&zero_view);
        free(walk);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS swapped =
        pc_process_walk_swapped(walk, page_bytes, zero_view.buf, normal_view.buf);
    Py_END_ALLOW_THREADS PyBuffer_Release(&zero_view);
    PyBuffer_Release(&normal_view);
    free(walk);
    return PyLong_FromUnsignedLongLong(swapped);
}

PyMethodDef py_pieces_methods[] = {
    {"swapped_pages", swapped_pages, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
