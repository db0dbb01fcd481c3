/* UMONITOR and UMWAIT: see pc_umwait.h. */
#include "pc_umwait.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <x86intrin.h>

/* UMWAIT's control word: bit 0 set asks for C0.1, which wakes sooner than C0.2. */
#define PC_UMWAIT_C01 1u

uint64_t pc_tsc_now(void)
{
    return __rdtsc();
}

/* The byte is read again once the line is watched: a write between the caller's last look and
 * UMONITOR would wake nobody. The device writes the byte last; acquire keeps our reads of the rest
 * of the record, and of its members' records, behind it. */
__attribute__((target("waitpkg"))) bool pc_umwait(const volatile uint8_t *status, uint8_t current,
                                                  uint64_t tsc_deadline)
{
    _umonitor((void *)(uintptr_t)status);
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* the builtins do not say that they touch memory */
    if (__atomic_load_n(status, __ATOMIC_ACQUIRE) != current)
        return true;
    (void)_umwait(PC_UMWAIT_C01, tsc_deadline);
    return __atomic_load_n(status, __ATOMIC_ACQUIRE) != current;
}

#else
typedef int pc_umwait_is_not_for_this_architecture;
#endif
