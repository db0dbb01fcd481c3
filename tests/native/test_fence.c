/* A store fence stands ahead of every submission of every kind: ENQCMD, MOVDIR64B, write(2). The
 * portals run one instruction at a time, as they were compiled, so that a fence that is not
 * executed is missed. */
#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "portal_fixture.h"

#if defined(__x86_64__)

#include "trap.h"

enum { COUNT = 5, FD = 1000 };

static struct {
    bool fenced; /* since the last submission, or since `submit` was called */
    size_t submissions, unfenced;
    long answer; /* of write(2) */
} seen;

static void on_sfence(void)
{
    seen.fenced = true;
}

static void on_submission(void)
{
    seen.submissions++;
    seen.unfenced += !seen.fenced;
    seen.fenced = false;
}

static bool on_enqcmd(const trap_instruction *what, const void *descriptor)
{
    (void)what, (void)descriptor;
    on_submission();
    return seen.submissions == COUNT;
}

static void on_movdir64b(const trap_instruction *what, const void *descriptor)
{
    (void)what, (void)descriptor;
    on_submission();
}

/* Other descriptors are the test's own output. */
static long on_write(int fd, const void *bytes, size_t count)
{
    if (fd != FD)
        return write(fd, bytes, count) < 0 ? -errno : (long)count;
    on_submission();
    return seen.submissions == 1 && seen.answer != 0 ? seen.answer : (long)count;
}

static void submit(pc_portal *portal, size_t submissions, long taken, const char *of)
{
    seen.fenced = false;
    seen.submissions = seen.unfenced = 0;
    trap_step(true);
    long took = portal->ops->submit(portal, descriptors, COUNT);
    trap_step(false);
    CHECK(took == taken, "%s: %ld taken, not %ld", of, took, taken);
    CHECK(seen.submissions == submissions, "%s: %zu submissions seen", of, seen.submissions);
    CHECK(seen.unfenced == 0, "%s: %zu of them without a fence", of, seen.unfenced);
}

static void test_mapped(bool dedicated)
{
    void *page = mmap(NULL, 2 * PC_PORTAL_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check_begin();
    pc_portal *portal = pc_portal_open_at(page, dedicated);
    submit(portal, COUNT, dedicated ? COUNT : COUNT - 1, portal->ops->name);
    submit(portal, COUNT, dedicated ? COUNT : COUNT - 1, portal->ops->name);
    portal->ops->close(portal);
    munmap(page, 2 * PC_PORTAL_BYTES);
    check_end("a fence ahead of every submission:", dedicated ? "movdir64b" : "enqcmd");
}

static void test_write(void)
{
    check_begin();
    pc_portal *portal = pc_portal_open_write(FD);
    submit(portal, 1, COUNT, "write");
    seen.answer = -EAGAIN;
    submit(portal, 1, 0, "write, full");
    seen.answer = -EINTR; /* a signal handler may have written to memory */
    submit(portal, 2, COUNT, "write, interrupted");
    portal->ops->close(portal);
    check_end("a fence ahead of every submission:", "write");
}

/* ---- the same before a device that sees no store that was not fenced ---- */

static dsa_model *trapped;

static void model_fence(void)
{
    dsa_model_fence(trapped);
}

static bool model_enqcmd(const trap_instruction *what, const void *descriptor)
{
    (void)what;
    return dsa_model_enqcmd(trapped, descriptor);
}

static void model_movdir64b(const trap_instruction *what, const void *descriptor)
{
    (void)what;
    dsa_model_movdir64b(trapped, descriptor);
}

static long model_write(int fd, const void *bytes, size_t count)
{
    return fd == FD ? dsa_model_write(trapped, bytes, count) : on_write(fd, bytes, count);
}

static void open_trapped(dsa_model_mode mode)
{
    dsa_model_options options;
    dsa_model_defaults(&options);
    options.mode = mode;
    options.version = 2; /* batches by write(2), too */
    options.threaded = false;
    options.faults = "store-order";
    trapped = dsa_model_open(&options, NULL, 0);
    dsa_model_register(trapped, guest, PAGES * PAGE, false);
    dsa_model_register(trapped, todo, sizeof *todo, true);
}

/* The list is written anew for every batch, as the engine does. True: every record is right. */
static bool run_batches(pc_portal *portal)
{
    bool right = true;
    for (size_t turn = 0; turn < 4; turn++) {
        memset(todo->records, 0, sizeof todo->records);
        memset(&todo->batch_record, 0, sizeof todo->batch_record);
        for (size_t i = 0; i < PAGES; i++)
            todo->list[i].src_addr = address_of(guest + (i + turn) % PAGES * PAGE);
        trap_step(true);
        long took = portal->ops->submit(portal, &todo->batch, 1);
        trap_step(false);
        CHECK(took == 1, "not taken: %ld", took);
        dsa_model_run(trapped, SIZE_MAX);
        right = right && status_of(&todo->batch_record) == DSA_COMP_SUCCESS;
        for (size_t i = 0; i < PAGES; i++)
            right = right && todo->records[i].result == ((i + turn) % PAGES == NORMAL);
    }
    return right;
}

static void test_store_order(dsa_model_mode mode)
{
    void *page = mmap(NULL, 2 * PC_PORTAL_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check_begin();
    for (int fences = 1; fences >= 0; fences--) { /* without: the device needs it */
        trap_hooks.sfence = fences != 0 ? model_fence : NULL;
        trap_hooks.enqcmd = model_enqcmd;
        trap_hooks.movdir64b = model_movdir64b;
        trap_hooks.write = model_write;
        work_init();
        open_trapped(mode);
        pc_portal *portal = mode == DSA_MODEL_WRITE
                                ? pc_portal_open_write(FD)
                                : pc_portal_open_at(page, mode == DSA_MODEL_DEDICATED);
        CHECK(run_batches(portal) == (fences != 0), "%s", fences != 0 ? "wrong" : "right by luck");
        portal->ops->close(portal);
        dsa_model_close(trapped);
        work_deinit();
    }
    munmap(page, 2 * PC_PORTAL_BYTES);
    check_end("the device finds what was written:", mode_name(mode));
}

int main(void)
{
    if (trap_why_not() != NULL) {
        printf("skip: %s\n1 passed, 0 failed\n", trap_why_not());
        return 0;
    }
    trap_install();
    trap_hooks.enqcmd = on_enqcmd;
    trap_hooks.movdir64b = on_movdir64b;
    trap_hooks.sfence = on_sfence;
    trap_hooks.write = on_write;
    test_mapped(false);
    test_mapped(true);
    test_write();
    test_store_order(DSA_MODEL_SHARED);
    test_store_order(DSA_MODEL_DEDICATED);
    test_store_order(DSA_MODEL_WRITE);
    return check_summary();
}

#else

int main(void)
{
    printf("skip: no work queue can be submitted to on this architecture\n1 passed, 0 failed\n");
    return 0;
}

#endif
