/* Executes in software the instructions that submit to a work queue and wait for it, where this
 * CPU raises SIGILL for them or the portal page raises SIGSEGV. The code under test runs as it was
 * compiled: the memory operand, the register operand and the flags are the instruction's own.
 * Between trap_step(true) and trap_step(false) the thread runs one instruction at a time, and store
 * fences and write(2) are seen as well.
 *
 * trap_decode() is plain C and runs anywhere; the rest is x86-64. Include it once per program.
 * Source: Intel SDM, volume 2, chapter 2 (prefixes, ModRM, SIB) and the pages of each instruction.
 */
#ifndef PC_TEST_TRAP_H
#define PC_TEST_TRAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum trap_kind {
    TRAP_ENQCMD,    /* F2 0F 38 F8 /r, memory operand */
    TRAP_MOVDIR64B, /* 66 0F 38 F8 /r, memory operand */
    TRAP_UMONITOR,  /* F3 0F AE /6, register operand */
    TRAP_UMWAIT,    /* F2 0F AE /6, register operand */
    TRAP_TPAUSE,    /* 66 0F AE /6, register operand */
} trap_kind;

/* In the order of their encoding. */
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15, TRAP_REGS };

enum { TRAP_BYTES_MAX = 15 }; /* of any instruction */

typedef struct trap_instruction {
    trap_kind kind;
    const uint8_t *at;
    size_t bytes;
    uint64_t from; /* ENQCMD, MOVDIR64B: address of the 64 bytes */
    uint64_t to;   /* the register operand: destination, watched address, or control word */
} trap_instruction;

/* How far the decoder has come. */
typedef struct trap_cursor {
    const uint8_t *at;
    const uint64_t *regs;
    size_t bytes;
    uint8_t rex;
    bool narrow; /* 67: addresses are 32 bits wide */
    uint8_t mandatory;
    uint8_t modrm;
} trap_cursor;

/* Reads no byte that the instruction does not need: the page behind it may not be there. */
static inline uint8_t trap_byte(trap_cursor *c)
{
    size_t at = c->bytes++;
    return at < TRAP_BYTES_MAX ? c->at[at] : 0;
}

static inline int64_t trap_displacement(trap_cursor *c, unsigned bytes)
{
    uint32_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint32_t)trap_byte(c) << 8 * i;
    return bytes == 1 ? (int8_t)value : (int32_t)value;
}

static inline uint64_t trap_address(const trap_cursor *c, uint64_t value)
{
    return c->narrow ? value & UINT32_MAX : value;
}

/* REX counts only directly before the opcode. F2 and F3 win over 66; the later of them wins.
 * Returns the first byte that is none of these; LOCK, FS and GS, which change the meaning, are
 * among those that the decoder knows nothing of. */
static inline uint8_t trap_prefixes(trap_cursor *c)
{
    for (;;) {
        uint8_t byte = trap_byte(c);
        if ((byte & 0xf0) == 0x40) {
            c->rex = byte;
            continue;
        }
        if (byte == 0xf2 || byte == 0xf3)
            c->mandatory = byte;
        else if (byte == 0x66)
            c->mandatory = c->mandatory == 0 ? byte : c->mandatory;
        else if (byte == 0x67)
            c->narrow = true;
        else if (byte != 0x26 && byte != 0x2e && byte != 0x36 && byte != 0x3e)
            return byte;
        c->rex = 0;
    }
}

static inline uint64_t trap_sib(trap_cursor *c, unsigned mod)
{
    uint8_t sib = trap_byte(c);
    unsigned base = sib & 7u, index = (sib >> 3 & 7u) | (c->rex & 2u) << 2;
    uint64_t address = index == 4 ? 0 : c->regs[index] << (sib >> 6);
    if (base == 5 && mod == 0)
        return address + (uint64_t)trap_displacement(c, 4);
    return address + c->regs[base | (c->rex & 1u) << 3];
}

/* The memory operand. No immediate follows, so the instruction ends behind the displacement. */
static inline uint64_t trap_memory(trap_cursor *c)
{
    unsigned mod = c->modrm >> 6, rm = c->modrm & 7u;
    uint64_t address;
    if (mod == 0 && rm == 5) {
        address = (uint64_t)trap_displacement(c, 4);
        return trap_address(c, address + (uint64_t)(uintptr_t)(c->at + c->bytes));
    }
    address = rm == 4 ? trap_sib(c, mod) : c->regs[rm | (c->rex & 1u) << 3];
    if (mod != 0)
        address += (uint64_t)trap_displacement(c, mod == 1 ? 1 : 4);
    return trap_address(c, address);
}

static inline bool trap_decode_store(trap_cursor *c, trap_instruction *out)
{
    if (trap_byte(c) != 0xf8 || (c->mandatory != 0xf2 && c->mandatory != 0x66))
        return false;
    c->modrm = trap_byte(c);
    if (c->modrm >> 6 == 3)
        return false;
    out->kind = c->mandatory == 0xf2 ? TRAP_ENQCMD : TRAP_MOVDIR64B;
    out->to = trap_address(c, c->regs[(c->modrm >> 3 & 7u) | (c->rex & 4u) << 1]);
    out->from = trap_memory(c);
    return true;
}

static inline bool trap_decode_wait(trap_cursor *c, trap_instruction *out)
{
    c->modrm = trap_byte(c);
    if (c->modrm >> 6 != 3 || (c->modrm >> 3 & 7u) != 6 || c->mandatory == 0)
        return false;
    uint64_t operand = c->regs[(c->modrm & 7u) | (c->rex & 1u) << 3];
    out->kind = c->mandatory == 0xf3   ? TRAP_UMONITOR
                : c->mandatory == 0xf2 ? TRAP_UMWAIT
                                       : TRAP_TPAUSE;
    out->to = out->kind == TRAP_UMONITOR ? trap_address(c, operand) : operand & UINT32_MAX;
    out->from = 0;
    return true;
}

/* False: another instruction. `at` is also its address, as RIP-relative operands see it. */
static inline bool trap_decode(const uint8_t *at, const uint64_t regs[TRAP_REGS],
                               trap_instruction *out)
{
    trap_cursor c = {.at = at, .regs = regs};
    if (trap_prefixes(&c) != 0x0f)
        return false;
    uint8_t opcode = trap_byte(&c);
    bool known = opcode == 0x38   ? trap_decode_store(&c, out)
                 : opcode == 0xae ? trap_decode_wait(&c, out)
                                  : false;
    out->at = at;
    out->bytes = c.bytes;
    return known && c.bytes <= TRAP_BYTES_MAX;
}

#if defined(__x86_64__)

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>

/* What stands in for the device. All are called inside the signal handler of the thread that
 * executed the instruction, which holds no lock of theirs. */
static struct {
    bool (*enqcmd)(const trap_instruction *what, const void *descriptor); /* true: Retry */
    void (*movdir64b)(const trap_instruction *what, const void *descriptor);
    void (*umonitor)(const trap_instruction *what);
    void (*umwait)(const trap_instruction *what, uint64_t tsc_deadline);
    /* Seen while stepping only. `write` takes the place of the system call; -errno is an error. */
    void (*sfence)(void);
    long (*write)(int fd, const void *bytes, size_t count);
} trap_hooks;

enum {
    TRAP_ZF = 0x40,
    TRAP_TF = 0x100,
    TRAP_FLAGS = 0x8d5, /* CF PF AF ZF SF OF */
};

static inline void trap_registers(const greg_t *saved, uint64_t regs[TRAP_REGS])
{
    static const int order[TRAP_REGS] = {
        REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
        REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
    };
    for (size_t i = 0; i < TRAP_REGS; i++)
        regs[i] = (uint64_t)saved[order[i]];
}

/* Returns false where the hook is missing. ENQCMD, UMWAIT and TPAUSE clear all six flags but for
 * their answer; the others leave them alone. */
static inline bool trap_execute(const trap_instruction *what, const uint64_t *regs, greg_t *flags)
{
    _Alignas(64) unsigned char descriptor[64];
    if (what->kind == TRAP_ENQCMD || what->kind == TRAP_MOVDIR64B)
        memcpy(descriptor, (const void *)(uintptr_t)what->from, sizeof descriptor);
    switch (what->kind) {
    case TRAP_ENQCMD:
        if (trap_hooks.enqcmd == NULL)
            return false;
        *flags &= ~(greg_t)TRAP_FLAGS;
        *flags |= trap_hooks.enqcmd(what, descriptor) ? TRAP_ZF : 0;
        return true;
    case TRAP_MOVDIR64B:
        if (trap_hooks.movdir64b == NULL)
            return false;
        trap_hooks.movdir64b(what, descriptor);
        return true;
    case TRAP_UMONITOR:
        if (trap_hooks.umonitor == NULL)
            return false;
        trap_hooks.umonitor(what);
        return true;
    case TRAP_UMWAIT:
    case TRAP_TPAUSE:
        if (trap_hooks.umwait == NULL)
            return false;
        *flags &= ~(greg_t)TRAP_FLAGS;
        trap_hooks.umwait(what, regs[RDX] << 32 | (regs[RAX] & UINT32_MAX));
        return true;
    }
    return false;
}

/* Tells of what the thread executes next, while stepping. A write(2) that has a hook is skipped. */
static inline void trap_look(greg_t *saved)
{
    static const uint8_t sfence[] = {0x0f, 0xae, 0xf8}, syscall[] = {0x0f, 0x05};
    for (;;) {
        const uint8_t *at = (const uint8_t *)saved[REG_RIP];
        if (memcmp(at, sfence, sizeof sfence) == 0 && trap_hooks.sfence != NULL)
            trap_hooks.sfence();
        if (memcmp(at, syscall, sizeof syscall) != 0 || saved[REG_RAX] != SYS_write ||
            trap_hooks.write == NULL)
            return;
        saved[REG_RAX] = trap_hooks.write((int)saved[REG_RDI], (const void *)saved[REG_RSI],
                                          (size_t)saved[REG_RDX]);
        saved[REG_RIP] += (greg_t)sizeof syscall;
    }
}

static inline void trap_on_step(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info;
    trap_look(((ucontext_t *)context)->uc_mcontext.gregs);
}

/* One instruction at a time from here on, in this thread; or no longer. */
static inline void trap_step(bool on)
{
    if (on)
        __asm__ volatile("pushfq\n\torq %0, (%%rsp)\n\tpopfq" ::"i"(TRAP_TF) : "memory", "cc");
    else
        __asm__ volatile("pushfq\n\tandq %0, (%%rsp)\n\tpopfq" ::"i"(~TRAP_TF) : "memory", "cc");
}

static inline void trap_on_signal(int number, siginfo_t *fault, void *context)
{
    greg_t *saved = ((ucontext_t *)context)->uc_mcontext.gregs;
    uint64_t regs[TRAP_REGS];
    trap_instruction what;
    (void)fault;
    trap_registers(saved, regs);
    if (trap_decode((const uint8_t *)saved[REG_RIP], regs, &what) &&
        trap_execute(&what, regs, &saved[REG_EFL])) {
        saved[REG_RIP] += (greg_t)what.bytes;
        if ((saved[REG_EFL] & TRAP_TF) != 0)
            trap_look(saved); /* it runs before the next step is told */
    } else
        signal(number, SIG_DFL); /* it is executed again and ends the process as it should */
}

/* NULL, or why traps cannot work in this process. */
static inline const char *trap_why_not(void)
{
    char line[512];
    bool valgrind = false;
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL)
        valgrind = valgrind || strstr(line, "/vgpreload_") != NULL;
    if (maps != NULL)
        fclose(maps);
    return valgrind ? "valgrind does not take the flags back from a signal handler" : NULL;
}

static inline void trap_install(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = trap_on_signal;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    action.sa_sigaction = trap_on_step;
    sigaction(SIGTRAP, &action, NULL);
}

#endif

#endif
