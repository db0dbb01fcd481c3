/* The one place where the core's errors become exceptions. */
#ifndef PY_ERROR_H
#define PY_ERROR_H

#include "py_native.h"

#include "../core/pc_error.h"

/* Each sets an exception and returns NULL, for whatever its caller returns. */
void *py_raise(const pc_error *error);
/* The same for what the binding itself finds. */
__attribute__((format(printf, 2, 3))) void *py_fail(pc_error_code code, const char *format, ...);
/* OSError with errno and its text. */
void *py_fail_errno(void);
/* TypeError, for functions that count their arguments themselves. */
void *py_fail_arguments(Py_ssize_t wanted, Py_ssize_t given);

/* Opens a ring; on failure -1 with an exception. */
int py_ring_open(int fd, int control_fd, pc_ring *ring);

#endif
