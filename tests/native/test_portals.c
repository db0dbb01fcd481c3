/* The ways to submit. ENQCMD, MOVDIR64B, UMONITOR and UMWAIT are the instructions themselves: they
 * trap (trap.h), because this CPU lacks them or because the portal is a page without access, and a
 * recorder or the software device takes the place of the queue. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include "check.h"
#include "pc_idxd.h"
#include "pc_portal_model.h"
#include "pc_umwait.h"
#include "trap.h"

enum { MOST = 200 };

typedef unsigned char descriptor[PC_DESCRIPTOR_BYTES];

static _Alignas(64) descriptor descriptors[MOST];

static void fill_descriptors(uint64_t seed)
{
    unsigned char *byte = descriptors[0];
    for (size_t i = 0; i < sizeof descriptors; i++)
        byte[i] = (unsigned char)check_random(&seed);
}

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
    CHECK((0xc3 & PC_IDXD_STATUS_MASK) == DSA_COMP_PAGE_FAULT_NOBOF, "bits 6 and 7 are no code");
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

/* write(2) */

static void test_write_pipe(void)
{
    int ends[2];
    descriptor got[3];
    fill_descriptors(1);
    check_begin();
    CHECK(pipe2(ends, O_NONBLOCK) == 0, "errno %d", errno);
    pc_portal *portal = pc_portal_open_write(ends[1]);
    CHECK(strcmp(portal->ops->name, "write") == 0, "%s", portal->ops->name);
    CHECK(portal->ops->give == NULL && portal->ops->take == NULL, "gives");
    CHECK(portal->ops->submit(portal, descriptors, 3) == 3, "taken");
    CHECK(portal->ops->submit(portal, descriptors, 0) == 0, "nothing");
    CHECK(read(ends[0], got, sizeof got) == sizeof got, "read");
    CHECK(memcmp(got, descriptors, sizeof got) == 0, "bytes");
    portal->ops->close(portal);
    CHECK(read(ends[0], got, sizeof got) == 0, "the other end is open");
    CHECK(fcntl(ends[1], F_GETFD) == -1 && errno == EBADF, "the fd is open");
    close(ends[0]);
    check_end("write: bytes, count, close", "");
}

static void test_write_full(void)
{
    int ends[2];
    check_begin();
    CHECK(pipe2(ends, O_NONBLOCK) == 0, "errno %d", errno);
    int room = fcntl(ends[1], F_SETPIPE_SZ, 4096);
    CHECK(room >= 4096, "errno %d", errno);
    pc_portal *portal = pc_portal_open_write(ends[1]);
    long taken = 0, last;
    while ((last = portal->ops->submit(portal, descriptors, MOST)) == MOST)
        taken += last;
    CHECK(last > 0 && taken + last == room / (long)PC_DESCRIPTOR_BYTES, "short: %ld", last);
    CHECK(portal->ops->submit(portal, descriptors, MOST) == 0, "a full pipe");
    CHECK(portal->ops->submit(portal, descriptors, 1) == 0, "a full pipe, one");
    portal->ops->close(portal);
    close(ends[0]);
    check_end("write: short counts, EAGAIN", "");
}

/* A file that may grow to 100 bytes takes one descriptor and a half. */
static void test_write_ragged(void)
{
    struct rlimit before, limit;
    int fd = memfd_create("ragged", MFD_CLOEXEC);
    check_begin();
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    limit.rlim_cur = 100;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    pc_portal *portal = pc_portal_open_write(fd);
    long first = portal->ops->submit(portal, descriptors, 3);
    long second = portal->ops->submit(portal, descriptors, 3);
    setrlimit(RLIMIT_FSIZE, &before); /* before anything is printed */
    signal(SIGXFSZ, SIG_DFL);
    CHECK(first == 1, "%ld", first);
    CHECK(second == -EFBIG, "%ld", second);
    portal->ops->close(portal);
    check_end("write: a count in the middle of a descriptor", "");
}

static void test_write_errors(void)
{
    int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
    check_begin();
    pc_portal *portal = pc_portal_open_write(fd);
    CHECK(portal->ops->submit(portal, descriptors, 2) == -ENOSPC, "/dev/full");
    close(fd);
    CHECK(portal->ops->submit(portal, descriptors, 2) == -EBADF, "a closed fd");
    portal->ops->close(portal);
    check_end("write: errors", "");
}

static volatile sig_atomic_t alarms;
static int alarm_drains;

/* The second one makes room. */
static void on_alarm(int number)
{
    char bytes[4096];
    (void)number;
    if (++alarms >= 2 && read(alarm_drains, bytes, sizeof bytes) < 0)
        alarms = 100;
}

static void test_write_interrupted(void)
{
    const struct itimerval every = {.it_interval.tv_usec = 5000, .it_value.tv_usec = 5000};
    const struct itimerval never = {.it_value.tv_usec = 0};
    struct sigaction action = {.sa_handler = on_alarm}; /* without SA_RESTART */
    int ends[2];
    check_begin();
    CHECK(pipe(ends) == 0, "errno %d", errno);
    pc_portal *portal = pc_portal_open_write(ends[1]);
    for (int room = fcntl(ends[1], F_SETPIPE_SZ, 4096); room > 0; room -= 4096)
        CHECK(portal->ops->submit(portal, descriptors, 64) == 64, "room %d", room);
    alarms = 0;
    alarm_drains = ends[0];
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
    long taken = portal->ops->submit(portal, descriptors, 1); /* waits in the full pipe */
    setitimer(ITIMER_REAL, &never, NULL);
    signal(SIGALRM, SIG_DFL);
    CHECK(taken == 1, "%ld", taken);
    CHECK(alarms >= 2 && alarms < 100, "%d signals", (int)alarms);
    portal->ops->close(portal);
    close(ends[0]);
    check_end("write: EINTR is not an answer", "");
}

/* A batch of COMPVALs over a few pages, for any portal with the software device behind it. */

enum { PAGE = 4096, PAGES = 8, NORMAL = 3 };

typedef struct work {
    struct dsa_hw_desc list[PAGES];
    struct dsa_hw_desc batch __attribute__((aligned(64)));
    struct dsa_completion_record batch_record __attribute__((aligned(32)));
    struct dsa_completion_record records[PAGES];
} work;

static unsigned char *guest;
static work *todo;

/* Written to, not MAP_POPULATE: qemu-user has no ear for that. */
static void *pages_new(size_t bytes)
{
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memset(pages, 0, bytes);
}

static uint64_t address_of(const volatile void *memory)
{
    return (uint64_t)(uintptr_t)memory;
}

/* Page NORMAL has its last byte set; all others are zero. */
static void work_init(void)
{
    guest = pages_new(PAGES * PAGE);
    todo = pages_new((sizeof *todo + PAGE - 1) / PAGE * PAGE);
    guest[NORMAL * PAGE + PAGE - 1] = 1;
    for (size_t i = 0; i < PAGES; i++)
        todo->list[i] = (struct dsa_hw_desc){
            .opcode = DSA_OPCODE_COMPVAL,
            .flags = IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR,
            .completion_addr = address_of(&todo->records[i]),
            .src_addr = address_of(guest + i * PAGE),
            .xfer_size = PAGE,
        };
    todo->batch = (struct dsa_hw_desc){
        .opcode = DSA_OPCODE_BATCH,
        .flags = IDXD_OP_FLAG_CRAV | IDXD_OP_FLAG_RCR,
        .completion_addr = address_of(&todo->batch_record),
        .desc_list_addr = address_of(todo->list),
        .desc_count = PAGES,
    };
}

static void work_deinit(void)
{
    munmap(guest, PAGES * PAGE);
    munmap(todo, (sizeof *todo + PAGE - 1) / PAGE * PAGE);
}

/* Executes nothing by itself: the tests call dsa_model_run(). */
static dsa_model *model_new(dsa_model_mode mode, uint32_t size)
{
    dsa_model_options options;
    char why[200];
    dsa_model_defaults(&options);
    options.mode = mode;
    options.size = size;
    options.threshold = size;
    options.threaded = false;
    dsa_model *model = dsa_model_open(&options, why, sizeof why);
    CHECK(model != NULL, "%s", why);
    return model;
}

static unsigned status_of(const struct dsa_completion_record *record)
{
    return __atomic_load_n(&record->status, __ATOMIC_ACQUIRE) & PC_IDXD_STATUS_MASK;
}

static void check_records(void)
{
    for (size_t i = 0; i < PAGES; i++) {
        const struct dsa_completion_record *record = &todo->records[i];
        CHECK(status_of(record) == DSA_COMP_SUCCESS, "page %zu: status %x", i, status_of(record));
        CHECK(record->result == (i == NORMAL), "page %zu: result %u", i, record->result);
    }
    memset(todo->records, 0, sizeof todo->records);
}

static void check_batch(pc_portal *portal, dsa_model *model)
{
    CHECK(portal->ops->submit(portal, &todo->batch, 1) == 1, "taken");
    CHECK(status_of(&todo->batch_record) == 0, "nothing has run");
    while (dsa_model_run(model, 1) != 0) {
    }
    CHECK(status_of(&todo->batch_record) == DSA_COMP_SUCCESS, "batch: status %x",
          status_of(&todo->batch_record));
    check_records();
    memset(&todo->batch_record, 0, sizeof todo->batch_record);
}

/* The portal that calls the model */

static const char *const mode_names[] = {[DSA_MODEL_SHARED] = "enqcmd",
                                         [DSA_MODEL_DEDICATED] = "movdir64b",
                                         [DSA_MODEL_WRITE] = "write"};

static void test_model(dsa_model_mode mode)
{
    dsa_model_counts counts;
    check_begin();
    work_init();
    dsa_model *model = model_new(mode, PAGES);
    pc_portal *portal = pc_portal_open_model(model, mode);
    CHECK(strcmp(portal->ops->name, mode_names[mode]) == 0, "%s", portal->ops->name);
    CHECK(portal->ops->give(portal, guest, PAGES * PAGE, false) == 0, "give");
    CHECK(portal->ops->give(portal, todo, sizeof *todo, true) == 0, "give");
    if (mode == DSA_MODEL_WRITE) /* version 1: no batches through the kernel */
        CHECK(portal->ops->submit(portal, &todo->batch, 1) == -EINVAL, "a batch");
    else
        check_batch(portal, model);
    CHECK(portal->ops->submit(portal, todo->list, PAGES) == PAGES, "singles");
    while (dsa_model_run(model, 1) != 0) {
    }
    check_records();
    portal->ops->take(portal, guest);
    CHECK(portal->ops->submit(portal, todo->list, 1) == 1, "one");
    dsa_model_run(model, 1);
    CHECK(status_of(&todo->records[0]) == DSA_COMP_PAGE_FAULT_NOBOF, "what was taken: status %x",
          status_of(&todo->records[0]));
    dsa_model_count(model, &counts);
    CHECK(counts.errors == (mode == DSA_MODEL_WRITE), "%u errors", (unsigned)counts.errors);
    CHECK(counts.dropped == 0 && counts.retried == 0, "lost or refused");
    portal->ops->close(portal);
    work_deinit();
    check_end("software device", mode_names[mode]);
}

static void test_model_full(dsa_model_mode mode)
{
    dsa_model_counts counts;
    check_begin();
    work_init();
    dsa_model *model = model_new(mode, 4);
    pc_portal *portal = pc_portal_open_model(model, mode);
    portal->ops->give(portal, guest, PAGES * PAGE, false);
    portal->ops->give(portal, todo, sizeof *todo, true);
    long taken = portal->ops->submit(portal, todo->list, PAGES);
    dsa_model_count(model, &counts);
    if (mode == DSA_MODEL_DEDICATED) {
        CHECK(taken == PAGES && counts.dropped == PAGES - 4, "%ld taken, %u lost", taken,
              (unsigned)counts.dropped);
    } else {
        CHECK(taken == 4, "%ld taken", taken);
        CHECK(portal->ops->submit(portal, todo->list + 4, PAGES - 4) == 0, "it is full");
    }
    portal->ops->close(portal);
    work_deinit();
    check_end("software device, full", mode_names[mode]);
}

#if defined(__x86_64__)

/* The recorder: what the portal's page was given. */

static struct {
    size_t count;
    size_t retry_at; /* of this one ENQCMD says Retry */
    uint64_t to[MOST];
    descriptor bytes[MOST];
    size_t unfenced;
} recorded;

static void record(const trap_instruction *what, const void *bytes)
{
    static const unsigned char sfence[] = {0x0f, 0xae, 0xf8};
    if (recorded.count == MOST)
        abort();
    recorded.to[recorded.count] = what->to;
    memcpy(recorded.bytes[recorded.count], bytes, sizeof(descriptor));
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
    CHECK(portal->ops->give == NULL && portal->ops->take == NULL, "gives");
    for (size_t retry = 0; retry <= COUNT; retry++) { /* COUNT: none */
        recorder_start();
        recorded.retry_at = retry;
        long taken = portal->ops->submit(portal, descriptors, COUNT);
        CHECK(taken == (long)retry, "%ld taken, not %zu", taken, retry);
        size_t sent = retry < COUNT ? retry + 1 : COUNT;
        CHECK(recorded.count == sent, "%zu sent, not %zu", recorded.count, sent);
        CHECK(memcmp(recorded.bytes, descriptors, sent * sizeof(descriptor)) == 0, "bytes");
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

/* The instructions, and the software device behind them */

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
    dsa_model_give(trapped_model, guest, PAGES * PAGE, false);
    dsa_model_give(trapped_model, todo, sizeof *todo, true);
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
    check_end("a batch of COMPVALs by instruction", mode_names[mode]);
}

/* UMONITOR, UMWAIT */

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
    CHECK(pc_tsc_now() > before, "it stands still");
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
    test_write_pipe();
    test_write_full();
    test_write_ragged();
    test_write_errors();
    test_write_interrupted();
    for (dsa_model_mode mode = DSA_MODEL_SHARED; mode <= DSA_MODEL_WRITE; mode++) {
        test_model(mode);
        test_model_full(mode);
    }
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
