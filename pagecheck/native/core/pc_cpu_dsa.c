/* Whether this CPU has the instructions that a DSA work queue is driven with.
 *
 * Danger: one that is missing ends the process (SIGILL). Source: Intel SDM, CPUID leaf 7,
 * subleaf 0, ECX. The bits say nothing of the system: ENQCMD also needs a PASID, which the kernel
 * gives a process that opened a work queue. */
#include "pc_portal.h"

#if defined(__x86_64__)

#include <cpuid.h>

enum {
    PC_CPUID_WAITPKG = 5,
    PC_CPUID_MOVDIR64B = 28,
    PC_CPUID_ENQCMD = 29,
};

static bool pc_cpuid_has(unsigned bit)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (ecx >> bit & 1u) != 0;
}

const char *pc_enqcmd_why_not(void)
{
    return pc_cpuid_has(PC_CPUID_ENQCMD) ? NULL : "this CPU lacks ENQCMD";
}

const char *pc_movdir64b_why_not(void)
{
    return pc_cpuid_has(PC_CPUID_MOVDIR64B) ? NULL : "this CPU lacks MOVDIR64B";
}

const char *pc_umwait_why_not(void)
{
    return pc_cpuid_has(PC_CPUID_WAITPKG) ? NULL : "this CPU lacks UMWAIT";
}

#else

const char *pc_enqcmd_why_not(void)
{
    return "ENQCMD needs an x86-64 CPU";
}

const char *pc_movdir64b_why_not(void)
{
    return "MOVDIR64B needs an x86-64 CPU";
}

const char *pc_umwait_why_not(void)
{
    return "UMWAIT needs an x86-64 CPU";
}

#endif
