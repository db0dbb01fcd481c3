/* Functions over the kernels: listing them, self-testing them, and checking memory with one. */
#include "py_error.h"

#include <string.h>
#include <sys/vfs.h>

#include "../core/pc_kernel.h"

static PyObject *kernels(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list != NULL && i < pc_kernel_count(); i++) {
        const pc_kernel *kernel = pc_kernel_at(i);
        PyObject *item =
            Py_BuildValue("szz", kernel->name, pc_kernel_why_not(kernel), kernel->untested);
        if (item == NULL || PyList_Append(list, item) != 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *kernel_auto(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyUnicode_FromString(pc_kernel_auto()->name);
}

static const pc_kernel *runnable(const char *name)
{
    const pc_kernel *kernel = pc_kernel_find(name);
    const char *why = kernel == NULL ? "no such kernel" : pc_kernel_why_not(kernel);
    if (why == NULL)
        return kernel;
    return py_fail(PC_ERROR_INVALID, "kernel %s: %s", name, why);
}

static PyObject *kernel_self_check(PyObject *module, PyObject *args)
{
    const char *name;
    bool right;
    (void)module;
    if (!PyArg_ParseTuple(args, "s", &name))
        return NULL;
    const pc_kernel *kernel = runnable(name);
    if (kernel == NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS right = pc_kernel_self_check(kernel);
    Py_END_ALLOW_THREADS return PyBool_FromLong(right);
}

/* Runs the kernel over all pages in groups of 64; the words are the caller's. */
static void check_pages(const pc_kernel *kernel, const pc_pages *pages, uint64_t *zero)
{
    for (size_t at = 0; at < pages->count; at += 64) {
        size_t end = pages->count - at < 64 ? pages->count : at + 64;
        zero[at / 64] = kernel->zero_pages(pages, at, end);
    }
}

static PyObject *kernel_zero_pages(PyObject *module, PyObject *args)
{
    const char *name;
    Py_buffer memory;
    PyObject *offsets, *out;
    unsigned long long page_bytes;
    pc_error error;
    (void)module;
    if (!PyArg_ParseTuple(args, "sy*KOO", &name, &memory, &page_bytes, &offsets, &out))
        return NULL;
    PyObject *result = NULL;
    Py_buffer at = {0}, words = {0};
    const pc_kernel *kernel = runnable(name);
    if (kernel == NULL || py_words_get(offsets, &at, 0, 0, "offsets") != 0)
        goto release_memory;
    size_t count = (size_t)at.len / 8u;
    if (py_words_get(out, &words, 1, (count + 63u) / 64u * 8u, "out") != 0)
        goto release_offsets;
    if (page_bytes == 0 || page_bytes % PC_KERNEL_PAGE_BYTES != 0) {
        py_fail(PC_ERROR_INVALID, "page size %llu is not a multiple of 4096", page_bytes);
        goto release_words;
    }
    const uint64_t *offset = at.buf;
    for (size_t i = 0; i < count; i++) {
        if (page_bytes > (uint64_t)memory.len || offset[i] > (uint64_t)memory.len - page_bytes) {
            pc_error_set(&error, PC_ERROR_INVALID, "page %zu is outside the memory", i);
            error.offset = offset[i];
            py_raise(&error);
            goto release_words;
        }
    }
    const pc_pages pages = {
        .base = memory.buf, .offsets = offset, .count = count, .page_bytes = page_bytes};
    Py_BEGIN_ALLOW_THREADS check_pages(kernel, &pages, words.buf);
    Py_END_ALLOW_THREADS result = Py_None;
    Py_INCREF(result);
release_words:
    PyBuffer_Release(&words);
release_offsets:
    PyBuffer_Release(&at);
release_memory:
    PyBuffer_Release(&memory);
    return result;
}

static PyObject *file_system_magic(PyObject *module, PyObject *args)
{
    int fd;
    struct statfs fs;
    (void)module;
    if (!PyArg_ParseTuple(args, "i", &fd))
        return NULL;
    if (fstatfs(fd, &fs) != 0)
        return py_fail_errno();
    return PyLong_FromUnsignedLong((unsigned long)fs.f_type & 0xffffffffu);
}

PyMethodDef py_kernel_methods[] = {
    {"kernels", kernels, METH_NOARGS, NULL},
    {"kernel_auto", kernel_auto, METH_NOARGS, NULL},
    {"kernel_self_check", kernel_self_check, METH_VARARGS, NULL},
    {"kernel_zero_pages", kernel_zero_pages, METH_VARARGS, NULL},
    {"file_system_magic", file_system_magic, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
