/* The one folder that knows Python: what its files share. */
#ifndef PY_NATIVE_H
#define PY_NATIVE_H

#include <pyconfig.h> /* says whether the interpreter is free-threaded */

#ifndef Py_GIL_DISABLED /* which knows no limited API before 3.15 */
#define Py_LIMITED_API 0x030b0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../core/pc_ring.h"

extern PyType_Spec py_feed_spec;
extern PyType_Spec py_portal_spec;
extern PyType_Spec py_process_walk_spec;
extern PyType_Spec py_walk_spec;
extern PyType_Spec py_worker_spec;
extern PyMethodDef py_bits_methods[];
extern PyMethodDef py_check_methods[];
extern PyMethodDef py_cpu_methods[];
extern PyMethodDef py_kernel_methods[];
extern PyMethodDef py_layout_methods[];
extern PyMethodDef py_pieces_methods[];
extern PyMethodDef py_punch_methods[];
extern PyMethodDef py_watch_methods[];

/* Offers the constants of the layout; on failure -1 with an exception. */
int py_layout_add_constants(PyObject *module);

/* Takes a contiguous buffer of at least `bytes` bytes aligned to 8; else sets ValueError. */
int py_words_get(PyObject *object, Py_buffer *view, int writable, uint64_t bytes, const char *what);

#endif
