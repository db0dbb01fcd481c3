/* What a portal sends, and the instructions that send it. ENQCMD, MOVDIR64B, UMONITOR and UMWAIT
 * are the instructions themselves: they trap (trap.h), because this CPU lacks them or because the
 * portal is a page without access, and a recorder or the software device takes the place of the
 * queue. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pc_umwait.h"
#include "portal_fixture.h"
#include "trap.h"

/* The bitfields, of which pc_idxd.h can assert nothing. */
static void test_bitfields(void)
{
    static const unsigned char expected[8] = {0xcd, 0xab, 0x05, 0x80, 0x56, 0x34, 0x12, 0x06};
    struct dsa_hw_desc desc = {
        .pasid = 0x5abcd, .priv = 1, .flags = 0x123456, .opcode = DSA_OPCODE_COMPVAL};
    struct dsa_completion_record record = {.invalid_flags = 0x123456};
    unsigned char bytes[PC_RECORD_BYTES];
    check_begin();
    CHECK(memcmp(&desc, expected, sizeof expected) == 0, "pasid, priv, flags, opcode");
    memcpy(bytes, &record, sizeof bytes);
    CHECK(bytes[16] == 0x56 && bytes[17] == 0x34 && bytes[18] == 0x12, "invalid_flags");
    CHECK((0xc3 & PC_IDXD_STATUS_MASK) == DSA_COMP_PAGE_FAULT_NOBOF,
          "bits 6 and 7 are not part of the code");
    check_end("bitfields of <linux/idxd.h>", "");
}

static void test_why_not(void)
{
    check_begin();
    const char *texts[] = {pc_enqcmd_why_not(), pc_movdir64b_why_not(), pc_umwait_why_not()};
    const char *names[] = {"ENQCMD", "MOVDIR64B", "UMWAIT"};
    for (size_t i = 0; i < 3; i++) {
        CHECK(texts[i] == NULL || strstr(texts[i], names[i]) != NULL, "%s", texts[i]);
#if !defined(__x86_64__)
        CHECK(texts[i] != NULL && strstr(texts[i], "x86-64") != NULL, "%s", names[i]);
#endif
        printf("     %s: %s\n", names[i], texts[i] == NULL ? "there" : texts[i]);
    }
    check_end("why not", "");
}

#if defined(__x86_64__)

/* ---- the recorder: what the portal's page was given ---- */

static struct {
    size_t count;
    size_t retry_at; /* of this one ENQCMD says Retry */
    uint64_t to[MOST];
    raw_descriptor bytes[MOST];
    size_t unfenced;
} recorded;

static void record(const trap_instruction *what, const void *bytes)
{
    static const unsigned char sfence[] = {0x0f, 0xae, 0xf8};
    if (recorded.count == MOST)
        abort();
    recorded.to[recorded.count] = what->to;
    memcpy(recorded.bytes[recorded.count], bytes, sizeof(raw_descriptor));
    recorded.unfenced += memmem(what->at - 48, 48, sfence, sizeof sfence) == NULL;
    recorded.count++;
}

static bool record_enqcmd(const trap_instruction *what, const void *bytes)
{
    record(what, bytes);
    return recorded.count - 1 == recorded.retry_at;
}

static void recorder_start(void)
{
    recorded.count = recorded.unfenced = 0;
    recorded.retry_at = MOST;
    trap_hooks.enqcmd = record_enqcmd;
    trap_hooks.movdir64b = record;
    fill_descriptors(2);
}

/* Two pages: the portal, and what a stride too far would hit. Neither can be accessed, so that a
 * CPU that has the instructions traps too (MOVDIR64B runs on some whose hypervisor hides it). */
static void *portal_page(void)
{
    return mmap(NULL, 2 * PC_PORTAL_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void test_enqcmd(void)
{
    enum { COUNT = 5 };
    void *page = portal_page();
    check_begin();
    pc_portal *portal = pc_portal_open_at(page, false);
    CHECK(strcmp(portal->ops->name, "enqcmd") == 0, "%s", portal->ops->name);
    CHECK(portal->ops->register_memory == NULL && portal->ops->unregister_memory == NULL, "gives");
    for (size_t retry = 0; retry <= COUNT; retry++) { /* COUNT: none */
        recorder_start();
        recorded.retry_at = retry;
        long taken = portal->ops->submit(portal, descriptors, COUNT);
        CHECK(taken == (long)retry, "%ld taken, not %zu", taken, retry);
        size_t sent = retry < COUNT ? retry + 1 : COUNT;
        CHECK(recorded.count == sent, "%zu sent, not %zu", recorded.count, sent);
        CHECK(memcmp(recorded.bytes, descriptors, sent * sizeof(raw_descriptor)) == 0, "bytes");
        CHECK(recorded.unfenced == 0, "no store fence");
        for (size_t i = 0; i < sent; i++)
            CHECK(recorded.to[i] == address_of(page), "to %llx",
                  (unsigned long long)recorded.to[i]);
    }
    recorder_start();
    CHECK(portal->ops->submit(portal, descriptors, 0) == 0 && recorded.count == 0, "nothing");
    portal->ops->close(portal);
    CHECK(msync(page, PC_PORTAL_BYTES, MS_ASYNC) == 0, "the page is not ours any more");
    munmap(page, 2 * PC_PORTAL_BYTES);
    check_end("ENQCMD: bytes, place, Retry", "");
}

static void test_movdir64b(void)
{
    static const size_t parts[] = {1, 3, 0, 60, 136}; /* in all MOST: past the page's end */
    void *page = portal_page();
    size_t sent = 0;
    check_begin();
    pc_portal *portal = pc_portal_open_at(page, true);
    CHECK(strcmp(portal->ops->name, "movdir64b") == 0, "%s", portal->ops->name);
    recorder_start();
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        long taken = portal->ops->submit(portal, descriptors[sent], parts[i]);
        CHECK(taken == (long)parts[i], "%ld taken, not %zu", taken, parts[i]);
        sent += parts[i];
    }
    CHECK(recorded.count == MOST && sent == MOST, "%zu sent", recorded.count);
    CHECK(memcmp(recorded.bytes, descriptors, sizeof descriptors) == 0, "bytes");
    CHECK(recorded.unfenced == 0, "no store fence");
    for (size_t i = 0; i < MOST; i++)
        CHECK(recorded.to[i] == address_of(page) + i % 64 * 64, "%zu: to %llx", i,
              (unsigned long long)recorded.to[i]);
    portal->ops->close(portal);
    munmap(page, 2 * PC_PORTAL_BYTES);
    check_end("MOVDIR64B: bytes, stride", "");
}

static void test_open_at(void)
{
    check_begin();
    errno = 0;
    CHECK(pc_portal_open_at(descriptors[0] + 32, false) == NULL && errno == EINVAL, "misaligned");
    check_end("a misaligned portal is refused", "");
}

/* ---- the instructions, and the software device behind them ---- */

static dsa_model *trapped_model;
static uint64_t trapped_page;
static bool trapped_astray;

static bool model_enqcmd(const trap_instruction *what, const void *bytes)
{
    trapped_astray = trapped_astray || what->to - trapped_page >= PC_PORTAL_BYTES;
    return dsa_model_enqcmd(trapped_model, bytes);
}

static void model_movdir64b(const trap_instruction *what, const void *bytes)
{
    trapped_astray = trapped_astray || what->to - trapped_page >= PC_PORTAL_BYTES;
    dsa_model_movdir64b(trapped_model, bytes);
}

static void test_end_to_end(dsa_model_mode mode)
{
    void *page = portal_page();
    check_begin();
    work_init();
    trapped_page = address_of(page);
    trapped_model = model_new(mode, 4);
    dsa_model_register(trapped_model, guest, PAGES * PAGE, false);
    dsa_model_register(trapped_model, todo, sizeof *todo, true);
    trap_hooks.enqcmd = model_enqcmd;
    trap_hooks.movdir64b = model_movdir64b;
    pc_portal *portal = pc_portal_open_at(page, mode == DSA_MODEL_DEDICATED);
    for (int i = 0; i < 70; i++) /* once round the page */
        check_batch(portal, trapped_model);
    if (mode == DSA_MODEL_SHARED) {
        CHECK(portal->ops->submit(portal, todo->list, PAGES) == 4, "Retry of a full queue");
        CHECK(portal->ops->submit(portal, todo->list, PAGES) == 0, "and again");
    }
    CHECK(!trapped_astray, "outside the portal");
    portal->ops->close(portal);
    dsa_model_close(trapped_model);
    work_deinit();
    munmap(page, 2 * PC_PORTAL_BYTES);
    check_end("a batch of COMPVALs by instruction", mode_name(mode));
}

/* ---- UMONITOR, UMWAIT ---- */

static struct {
    volatile uint8_t line[64] __attribute__((aligned(64)));
    bool write_early; /* by the device, right after UMONITOR */
    bool write_late;  /* while UMWAIT sleeps */
    unsigned waits;
    uint64_t watched, control, deadline;
} waited;

static void on_umonitor(const trap_instruction *what)
{
    waited.watched = what->to;
    if (waited.write_early)
        waited.line[0] = 1;
}

static void on_umwait(const trap_instruction *what, uint64_t tsc_deadline)
{
    waited.waits++;
    waited.control = what->to;
    waited.deadline = tsc_deadline;
    if (waited.write_late)
        waited.line[0] = 1;
}

static void test_umwait_trapped(void)
{
    const uint64_t deadline = UINT64_C(0x123456789abcdef0);
    trap_hooks.umonitor = on_umonitor;
    trap_hooks.umwait = on_umwait;
    check_begin();
    CHECK(!pc_umwait(waited.line, 0, deadline), "nothing was written");
    CHECK(waited.waits == 1 && waited.watched == address_of(waited.line), "line");
    CHECK(waited.control == 1, "control %llx", (unsigned long long)waited.control);
    CHECK(waited.deadline == deadline, "deadline %llx", (unsigned long long)waited.deadline);
    waited.write_late = true;
    CHECK(pc_umwait(waited.line, 0, deadline) && waited.waits == 2, "written while it slept");
    waited.write_late = false;
    CHECK(pc_umwait(waited.line, 0, deadline) && waited.waits == 2, "written before");
    waited.line[0] = 0;
    waited.write_early = true;
    CHECK(pc_umwait(waited.line, 0, deadline) && waited.waits == 2, "written as it was watched");
    check_end("UMWAIT", "trapped");
}

/* The real one: only that it comes back, and says the truth. */
static void test_umwait_real(void)
{
    check_begin();
    CHECK(!pc_umwait(waited.line, 0, 0), "a deadline in the past");
    CHECK(!pc_umwait(waited.line, 0, pc_tsc_now() + 1000), "a near deadline");
    waited.line[0] = 1;
    CHECK(pc_umwait(waited.line, 0, UINT64_MAX), "written before");
    check_end("UMWAIT", "executed");
}

static void test_tsc(void)
{
    check_begin();
    uint64_t before = pc_tsc_now();
    usleep(1000);
    CHECK(pc_tsc_now() > before, "it does not advance");
    check_end("the time stamp counter", "");
}

static void test_instructions(void)
{
    trap_install();
    test_enqcmd();
    test_movdir64b();
    test_end_to_end(DSA_MODEL_SHARED);
    test_end_to_end(DSA_MODEL_DEDICATED);
    if (pc_umwait_why_not() == NULL)
        test_umwait_real();
    else
        test_umwait_trapped();
}
#endif

int main(void)
{
    test_bitfields();
    test_why_not();
#if defined(__x86_64__)
    test_open_at();
    test_tsc();
    if (trap_why_not() == NULL)
        test_instructions();
    else
        printf("skip the instructions: %s\n", trap_why_not());
#endif
    return check_summary();
}
