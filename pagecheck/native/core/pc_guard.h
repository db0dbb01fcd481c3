/* Reads of a mapping whose file may be truncated under it: SIGBUS becomes a return value.
 *
 * The handler is process-wide; workers install it, and who punches through a mapping. It acts on
 * faults inside the address range that this thread announced; every other SIGBUS keeps its old
 * meaning. */
#ifndef PC_GUARD_H
#define PC_GUARD_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct pc_guard {
    sigjmp_buf back;
    const unsigned char *begin;
    const unsigned char *end;
} pc_guard;

bool pc_guard_install(void); /* false: sigaction failed, errno says why */
void pc_guard_enter(pc_guard *guard, const void *begin, size_t bytes);
void pc_guard_leave(void);

/* Runs the statement; true when it ended, false when a page under it went away. Automatic
 * variables that the statement changes are indeterminate after false. */
#define PC_GUARDED(guard, begin, bytes, statement)                                                 \
    (sigsetjmp((guard)->back, 0) == 0                                                              \
         ? (pc_guard_enter((guard), (begin), (bytes)), (statement), pc_guard_leave(), true)        \
         : false)

#endif
