/* The portable kernel: plain C words; every CPU runs it. */
#include "pc_kernel.h"

#include <string.h>

typedef uint64_t pc_vec;

static inline uint64_t pc_portable_load(const unsigned char *address)
{
    uint64_t word;
    memcpy(&word, address, sizeof word); /* any alignment */
    return word;
}

#define PC_TARGET
#define PC_KERNEL_FN(verb) pc_portable_##verb
#define PC_VEC_BYTES 8u
#define PC_LOAD(address) pc_portable_load(address)
#define PC_OR(a, b) ((a) | (b))
#define PC_NONZERO(vector) ((vector) != 0)

#include "pc_kernel_body.h"

static const char *pc_portable_why_not(void)
{
    return NULL;
}

const pc_kernel pc_kernel_portable = {
    .name = "portable",
    .is_zero = pc_portable_is_zero,
    .zero_pages = pc_portable_zero_pages,
    .why_not = pc_portable_why_not,
};
