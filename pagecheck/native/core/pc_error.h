/* Why a function of the core failed: one value, filled where the rule or the call is. The core
 * knows no exceptions; native/python/py_error.c makes them. */
#ifndef PC_ERROR_H
#define PC_ERROR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum pc_error_code {
    PC_ERROR_INVALID,   /* an argument: outside its range, or of the wrong kind */
    PC_ERROR_CLOSED,    /* the object is not open */
    PC_ERROR_BUSY,      /* not now: open already, in use, unanswered */
    PC_ERROR_NO_MEMORY, /* malloc's, not the kernel's */
    PC_ERROR_SYSTEM,    /* a system call; `number` says why */
} pc_error_code;

#define PC_ERROR_NOWHERE UINT64_MAX

typedef struct pc_error {
    pc_error_code code;
    int number;      /* errno of PC_ERROR_SYSTEM */
    uint64_t offset; /* the byte in the file or memory that is meant, or PC_ERROR_NOWHERE */
    char text[160];  /* what failed; empty: the number says all */
} pc_error;

/* Fills the value; `number` becomes errno where the code is PC_ERROR_SYSTEM. */
__attribute__((format(printf, 3, 0))) void pc_error_vset(pc_error *error, pc_error_code code,
                                                         const char *format, va_list arguments);
/* The same; always false. */
__attribute__((format(printf, 3, 4))) bool pc_error_set(pc_error *error, pc_error_code code,
                                                        const char *format, ...);

#endif
