/* The AVX-512 kernel: a cache line a load.
 *
 * Runs of pages are read one page after the other, scattered pages eight in step.
 * Measured, a run against a plain read by the same loads: on a Zen 5 1.23 in turn,
 * 0.84 in step (bare loops); on a Xeon of family 6, model 207, 1.00 and 0.95 (this
 * kernel, 1 and 2 threads, 4 KiB and huge pages). There zero pages in random order
 * take half the time of QEMU's method, which reads one page after the other.
 *
 * AVX-512F alone is used; AVX-512BW is asked for because the CPUs that have F
 * without it (Xeon Phi) are slow at this.
 */
#if defined(__x86_64__)

#include <immintrin.h>

#include "pc_kernel.h"

typedef __m512i pc_vec;

#define PC_TARGET __attribute__((target("avx512f")))
#define PC_KERNEL_FN(verb) pc_avx512_##verb
#define PC_VEC_BYTES 64u
#define PC_LOAD(address) _mm512_loadu_si512((const void *)(address))
#define PC_OR(a, b) _mm512_or_si512(a, b)
#define PC_NONZERO(vector) (_mm512_test_epi64_mask(vector, vector) != 0)
#define PC_RUNS_IN_TURN 1

#include "pc_kernel_body.h"

static const char *pc_avx512_why_not(void)
{
    if (!__builtin_cpu_supports("avx512f")) {
        return "this CPU lacks AVX-512F";
    }
    return __builtin_cpu_supports("avx512bw") ? NULL : "this CPU lacks AVX-512BW";
}

const pc_kernel pc_kernel_avx512 = {
    .name = "avx512",
    .is_zero = pc_avx512_is_zero,
    .zero_pages = pc_avx512_zero_pages,
    .sample_pages = pc_avx512_sample_pages,
    .why_not = pc_avx512_why_not,
};

#else
typedef int pc_kernel_avx512_is_not_for_this_architecture;
#endif
