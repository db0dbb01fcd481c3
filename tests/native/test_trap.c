/* The decoder of trap.h over instructions assembled by hand (and, on x86-64, executed), so that a
 * failure in test_portals is one of the portals. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"
#include "trap.h"

/* What every register holds: its own number in each byte, bit 31 and bit 63 set in some. */
static uint64_t value_of(unsigned reg)
{
    return UINT64_C(0x0101010101010101) * (reg * 16 + 3);
}

static uint32_t low(unsigned reg)
{
    return (uint32_t)value_of(reg);
}

static bool decode(const char *code, size_t bytes, trap_instruction *out)
{
    static uint8_t at[TRAP_BYTES_MAX + 1];
    uint64_t regs[TRAP_REGS];
    for (unsigned i = 0; i < TRAP_REGS; i++)
        regs[i] = value_of(i);
    memset(at, 0x90, sizeof at);
    memcpy(at, code, bytes);
    memset(out, 0, sizeof *out);
    return trap_decode(at, regs, out);
}

#define DECODE(code, out) decode(code, sizeof(code) - 1, out)

static void check_operands(const char *text, const char *code, size_t bytes, trap_kind kind,
                           uint64_t from, uint64_t to)
{
    trap_instruction got;
    CHECK(decode(code, bytes, &got), "%s", text);
    CHECK(got.kind == kind && got.bytes == bytes, "%s: kind %d, %zu bytes", text, (int)got.kind,
          got.bytes);
    CHECK(got.from == from, "%s: from %llx, not %llx", text, (unsigned long long)got.from,
          (unsigned long long)from);
    CHECK(got.to == to, "%s: to %llx, not %llx", text, (unsigned long long)got.to,
          (unsigned long long)to);
}

#define OPERANDS(text, code, kind, from, to)                                                       \
    check_operands(text, code, sizeof(code) - 1, kind, from, to)
#define ENQCMD(text, code, from, to) OPERANDS("enqcmd " text, code, TRAP_ENQCMD, from, to)
#define MOVDIR(text, code, from, to) OPERANDS("movdir64b " text, code, TRAP_MOVDIR64B, from, to)

static void test_memory_operands(void)
{
    check_begin();
    ENQCMD("(%rsi),%rdi", "\xf2\x0f\x38\xf8\x3e", value_of(RSI), value_of(RDI));
    ENQCMD("(%r9),%r10", "\xf2\x45\x0f\x38\xf8\x11", value_of(R9), value_of(R10));
    ENQCMD("18(%rax),%rcx", "\xf2\x0f\x38\xf8\x48\x12", value_of(RAX) + 18, value_of(RCX));
    ENQCMD("-128(%rbp),%rbx", "\xf2\x0f\x38\xf8\x5d\x80", value_of(RBP) - 128, value_of(RBX));
    ENQCMD("0x12345678(%rdx),%rax", "\xf2\x0f\x38\xf8\x82\x78\x56\x34\x12",
           value_of(RDX) + 0x12345678, value_of(RAX));
    ENQCMD("-2(%rdx),%rax (32 bits)", "\xf2\x0f\x38\xf8\x82\xfe\xff\xff\xff", value_of(RDX) - 2,
           value_of(RAX));
    ENQCMD("0(%r13),%rdi", "\xf2\x41\x0f\x38\xf8\x7d\x00", value_of(R13), value_of(RDI));
    check_end("operands in registers", "");

    check_begin();
    ENQCMD("(%rsp),%rdi", "\xf2\x0f\x38\xf8\x3c\x24", value_of(RSP), value_of(RDI));
    ENQCMD("(%r12),%rdi", "\xf2\x41\x0f\x38\xf8\x3c\x24", value_of(R12), value_of(RDI));
    ENQCMD("8(%rsp,%rbp,4),%r8", "\xf2\x44\x0f\x38\xf8\x44\xac\x08",
           value_of(RSP) + 4 * value_of(RBP) + 8, value_of(R8));
    ENQCMD("(%rax,%r12,8),%rcx", "\xf2\x42\x0f\x38\xf8\x0c\xe0", value_of(RAX) + 8 * value_of(R12),
           value_of(RCX));
    ENQCMD("0(%r13,%rcx,2),%r15", "\xf2\x45\x0f\x38\xf8\x7c\x4d\x00",
           value_of(R13) + 2 * value_of(RCX), value_of(R15));
    ENQCMD("0x40(,%rbx,8),%rdx", "\xf2\x0f\x38\xf8\x14\xdd\x40\x00\x00\x00",
           8 * value_of(RBX) + 0x40, value_of(RDX));
    ENQCMD("-8(,%r14,1),%r14", "\xf2\x46\x0f\x38\xf8\x34\x35\xf8\xff\xff\xff", value_of(R14) - 8,
           value_of(R14));
    ENQCMD("-16,%rdx", "\xf2\x0f\x38\xf8\x14\x25\xf0\xff\xff\xff", (uint64_t)-16, value_of(RDX));
    MOVDIR("64(%r8,%r9),%r11", "\x66\x47\x0f\x38\xf8\x5c\x08\x40", value_of(R8) + value_of(R9) + 64,
           value_of(R11));
    check_end("operands with an index", "");
}

/* RIP is that of the next instruction. */
static void test_rip(void)
{
    static const char wide[] = "\xf2\x0f\x38\xf8\x35\xfc\xff\xff\xff"; /* enqcmd -4(%rip),%rsi */
    static const char narrow[] = "\x67\x66\x0f\x38\xf8\x3d\x10\x00\x00\x00"; /* 16(%eip),%edi */
    trap_instruction got;
    check_begin();
    CHECK(DECODE(wide, &got) && got.kind == TRAP_ENQCMD && got.bytes == 9, "wide");
    CHECK(got.from == (uint64_t)(uintptr_t)got.at + 9 - 4, "from");
    CHECK(got.to == value_of(RSI), "to");
    CHECK(DECODE(narrow, &got) && got.kind == TRAP_MOVDIR64B && got.bytes == 10, "narrow");
    CHECK(got.from == (uint32_t)(uintptr_t)got.at + 10 + 16, "from");
    CHECK(got.to == low(RDI), "to");
    check_end("operands beside the code", "");
}

static void test_prefixes(void)
{
    check_begin();
    MOVDIR("(%rsi),%rdi", "\x66\x0f\x38\xf8\x3e", value_of(RSI), value_of(RDI));
    MOVDIR("(%esi),%edi", "\x67\x66\x0f\x38\xf8\x3e", low(RSI), low(RDI));
    MOVDIR("(%esi),%edi, 67 last", "\x66\x67\x0f\x38\xf8\x3e", low(RSI), low(RDI));
    ENQCMD("16(%r9d,%ecx,2),%r10d", "\x67\xf2\x45\x0f\x38\xf8\x54\x49\x10",
           (uint32_t)(low(R9) + 2 * low(RCX) + 16), low(R10));
    ENQCMD("(%rsi),%rdi, REX.W", "\xf2\x48\x0f\x38\xf8\x3e", value_of(RSI), value_of(RDI));
    ENQCMD("%ds:(%rsi),%rdi", "\x3e\xf2\x0f\x38\xf8\x3e", value_of(RSI), value_of(RDI));
    ENQCMD("(%rsi),%rdi, REX before F2 lost", "\x4f\xf2\x0f\x38\xf8\x3e", value_of(RSI),
           value_of(RDI));
    ENQCMD("(%rsi),%rdi, 66 beside F2", "\xf2\x66\x0f\x38\xf8\x3e", value_of(RSI), value_of(RDI));
    ENQCMD("longest", "\x3e\x3e\x3e\x67\xf2\x41\x0f\x38\xf8\xbc\x24\x01\x00\x00\x00", low(R12) + 1,
           low(RDI));
    check_end("prefixes", "");
}

static void test_waits(void)
{
    check_begin();
    OPERANDS("umonitor %rdi", "\xf3\x0f\xae\xf7", TRAP_UMONITOR, 0, value_of(RDI));
    OPERANDS("umonitor %r12", "\xf3\x41\x0f\xae\xf4", TRAP_UMONITOR, 0, value_of(R12));
    OPERANDS("umonitor %edi", "\x67\xf3\x0f\xae\xf7", TRAP_UMONITOR, 0, low(RDI));
    OPERANDS("umwait %esi", "\xf2\x0f\xae\xf6", TRAP_UMWAIT, 0, low(RSI));
    OPERANDS("umwait %r9d", "\xf2\x41\x0f\xae\xf1", TRAP_UMWAIT, 0, low(R9));
    OPERANDS("tpause %ecx", "\x66\x0f\xae\xf1", TRAP_TPAUSE, 0, low(RCX));
    OPERANDS("tpause %r15d", "\x66\x41\x0f\xae\xf7", TRAP_TPAUSE, 0, low(R15));
    check_end("instructions that wait", "");
}

static void test_others(void)
{
    trap_instruction got;
    check_begin();
    CHECK(!DECODE("\xf3\x0f\x38\xf8\x3e", &got), "enqcmds");
    CHECK(!DECODE("\xf2\x0f\x38\xf8\xfe", &got), "enqcmd of a register");
    CHECK(!DECODE("\x0f\x38\xf8\x3e", &got), "no mandatory prefix");
    CHECK(!DECODE("\xf2\x0f\x38\xf9\x3e", &got), "0f 38 f9");
    CHECK(!DECODE("\x0f\xae\xf0", &got), "mfence");
    CHECK(!DECODE("\x66\x0f\xae\x30", &got), "clwb");
    CHECK(!DECODE("\xf2\x0f\xae\xee", &got), "0f ae /5");
    CHECK(!DECODE("\xf0\x66\x0f\x38\xf8\x3e", &got), "lock");
    CHECK(!DECODE("\x64\x66\x0f\x38\xf8\x3e", &got), "fs:");
    CHECK(!DECODE("\x0f\x0b", &got), "ud2");
    CHECK(!DECODE("\x3e\x3e\x3e\x3e\x67\xf2\x41\x0f\x38\xf8\xbc\x24\x01\x00\x00", &got),
          "16 bytes");
    check_end("other instructions", "");
}

#if defined(__x86_64__)

static bool answer;
static trap_instruction seen;
static unsigned char seen_bytes[64];

static bool on_enqcmd(const trap_instruction *what, const void *descriptor)
{
    seen = *what;
    memcpy(seen_bytes, descriptor, sizeof seen_bytes);
    return answer;
}

/* Executes ENQCMD with all six flags set before it; returns them as LAHF and SETO show them. */
static unsigned enqcmd_flags(const void *from, void *to)
{
    unsigned char overflow;
    uint16_t ax;
    __asm__ volatile("movb $0x7f, %%al\n\t"
                     "addb $1, %%al\n\t" /* OF */
                     "movb $0xd5, %%ah\n\t"
                     "sahf\n\t" /* the others */
                     ".byte 0xf2, 0x0f, 0x38, 0xf8, 0x3e\n\t"
                     "lahf\n\t"
                     "seto %1"
                     : "=&a"(ax), "=q"(overflow)
                     : "S"(from), "D"(to)
                     : "cc", "memory");
    return (ax >> 8 & 0xd5u) | (unsigned)overflow << 11;
}

static void test_executed(void)
{
    _Alignas(64) unsigned char descriptor[64];
    void *portal = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (unsigned i = 0; i < sizeof descriptor; i++)
        descriptor[i] = (unsigned char)(i * 5 + 1);
    trap_install();
    trap_hooks.enqcmd = on_enqcmd;
    check_begin();
    for (int retry = 0; retry < 2; retry++) {
        answer = retry != 0;
        unsigned flags = enqcmd_flags(descriptor, portal);
        CHECK(flags == (answer ? (unsigned)TRAP_ZF : 0), "flags %x", flags);
        CHECK(seen.from == (uintptr_t)descriptor && seen.to == (uintptr_t)portal, "operands");
        CHECK(memcmp(seen_bytes, descriptor, sizeof descriptor) == 0, "bytes");
    }
    check_end("ENQCMD is executed and sets ZF alone", "");
    munmap(portal, 4096);
}

#endif

int main(void)
{
    test_memory_operands();
    test_rip();
    test_prefixes();
    test_waits();
    test_others();
#if defined(__x86_64__)
    if (trap_why_not() == NULL)
        test_executed();
    else
        printf("skip ENQCMD executed: %s\n", trap_why_not());
#endif
    return check_summary();
}
