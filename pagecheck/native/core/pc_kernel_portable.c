/* The portable kernel: no instruction set but what the compiler assumes.
 *
 * Runs, too, are read eight pages in step: with SSE2 on a Xeon of family 6, model 207, 0.87 of the
 * time that one after the other takes. */
#include "pc_kernel.h"

#include <string.h>

/* The compiler's own vectors: SSE2 on x86-64, two words where there are none. */
typedef uint64_t pc_vec __attribute__((vector_size(16)));

static inline pc_vec pc_portable_load(const unsigned char *address)
{
    pc_vec vector;
    memcpy(&vector, address, sizeof vector); /* any alignment */
    return vector;
}

#define PC_TARGET
#define PC_KERNEL_FN(verb) pc_portable_##verb
#define PC_VEC_BYTES 16u
#define PC_LOAD(address) pc_portable_load(address)
#define PC_OR(a, b) ((a) | (b))
#define PC_NONZERO(vector) (((vector)[0] | (vector)[1]) != 0)
#define PC_RUNS_IN_TURN 0

#include "pc_kernel_body.h"

static const char *pc_portable_why_not(void)
{
    return NULL;
}

const pc_kernel pc_kernel_portable = {
    .name = "portable",
    .is_zero = pc_portable_is_zero,
    .zero_pages = pc_portable_zero_pages,
    .sample_pages = pc_portable_sample_pages,
    .why_not = pc_portable_why_not,
};
