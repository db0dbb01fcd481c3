/* The NEON kernel: 16 bytes a load; every 64-bit Arm CPU has it.
 *
 * Runs, too, are read eight pages in step, as with SSE2, whose loads are as wide: not measured. */
#if defined(__aarch64__)

#include <arm_neon.h>

#include "pc_kernel.h"

typedef uint8x16_t pc_vec;

#define PC_TARGET
#define PC_KERNEL_FN(verb) pc_neon_##verb
#define PC_VEC_BYTES 16u
#define PC_LOAD(address) vld1q_u8(address)
#define PC_OR(a, b) vorrq_u8(a, b)
#define PC_NONZERO(vector) (vmaxvq_u32(vreinterpretq_u32_u8(vector)) != 0)
#define PC_RUNS_IN_TURN 0

#include "pc_kernel_body.h"

static const char *pc_neon_why_not(void)
{
    return NULL;
}

const pc_kernel pc_kernel_neon = {
    .name = "neon",
    .is_zero = pc_neon_is_zero,
    .zero_pages = pc_neon_zero_pages,
    .sample_pages = pc_neon_sample_pages,
    .untested = "tested under emulation, never on an Arm CPU",
    .why_not = pc_neon_why_not,
};

#else
typedef int pc_kernel_neon_is_not_for_this_architecture;
#endif
