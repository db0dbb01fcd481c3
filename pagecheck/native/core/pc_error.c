/* Filling an error value. */
#include "pc_error.h"

#include <errno.h>
#include <stdio.h>

void pc_error_vset(pc_error *error, pc_error_code code, const char *format, va_list arguments)
{
    int number = errno;
    error->code = code;
    error->number = code == PC_ERROR_SYSTEM ? number : 0;
    error->offset = PC_ERROR_NOWHERE;
    vsnprintf(error->text, sizeof error->text, format, arguments);
}

bool pc_error_set(pc_error *error, pc_error_code code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    pc_error_vset(error, code, format, arguments);
    va_end(arguments);
    return false;
}
