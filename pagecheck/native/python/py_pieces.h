/* Private memory of another process: what its walk, its block and its functions take alike. */
#ifndef PY_PIECES_H
#define PY_PIECES_H

#include "py_native.h"

#include "../core/pc_process_walk.h"

/* Takes the pieces' buffer and puts it into the range; on failure -1 with an exception. */
int py_pieces_get(PyObject *pieces, Py_buffer *view, pc_process_range *range);

/* A walk, for free(); on failure NULL with an exception. Without `pieces` all is PC_ABSENT_ZERO. */
pc_process_walk *py_process_walk_new(int fd, unsigned long long address,
                                     unsigned long long page_bytes, unsigned long long pages,
                                     PyObject *pieces);

#endif
