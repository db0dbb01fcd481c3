/* What the DSA engine costs the CPU beside a device that costs nothing: packets of 128 pages from a
 * dense memfd, one after the other, through pc_dsa_start and pc_dsa_finish. It prints one object
 * of JSON, and ends with 1 if a single answer was wrong.
 *
 * usage: dsa_cost count KERNEL zero|normal|half together|apart SAMPLE RUNS PACKETS
 *            for callgrind, which counts inside decide_packets(). The device is a portal that
 * writes all records before its submit returns, so nobody waits. dsa_cost wait DELAY_NS PACKETS
 * REPEATS the software device with a thread of its own: CPU and wall clock inside pc_dsa_finish,
 *            and inside a loop that polls in its place. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "pc_bits.h"
#include "pc_dsa.h"
#include "pc_file_block.h"
#include "pc_guard.h"
#include "pc_portal_model.h"
#include "pc_ring.h"

enum { PAGE = 4096, PACKET = 128, WARM = 32, STEP = 5, LATE = 64 };

#define SECOND INT64_C(1000000000)

typedef struct bench {
    pc_file_block block;
    pc_decider decider;
    struct pc_stats stats;
    struct pc_failure failure;
    pc_dsa dsa;
    uint64_t pages;
    uint64_t *offsets; /* of every page, packet by packet */
    uint64_t *zero, *decided, *unproven;
} bench;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* ---- the device that answers at once ---- */

/* Where the first byte lies that is not zero, or the length. */
static uint32_t zero_bytes(const unsigned char *bytes, uint32_t length)
{
    for (uint32_t at = 0; at < length; at += 8) {
        uint64_t word;
        memcpy(&word, bytes + at, 8);
        if (word != 0)
            return at + (uint32_t)__builtin_ctzll(word) / 8;
    }
    return length;
}

static void answer(const struct dsa_hw_desc *each)
{
    struct dsa_completion_record *record = (void *)(uintptr_t)each->completion_addr;
    const void *bytes = (const void *)(uintptr_t)each->src_addr;
    uint32_t zeros = zero_bytes(bytes, each->xfer_size);
    record->result = zeros != each->xfer_size;
    record->bytes_completed = zeros;
    record->status = DSA_COMP_SUCCESS;
}

static long submit_and_answer(pc_portal *portal, const void *descriptors, size_t count)
{
    const struct dsa_hw_desc *first = descriptors;
    (void)portal;
    for (size_t i = 0; i < count; i++) {
        if (first[i].opcode != DSA_OPCODE_BATCH) {
            answer(&first[i]);
            continue;
        }
        const struct dsa_hw_desc *list = (const void *)(uintptr_t)first[i].desc_list_addr;
        struct dsa_completion_record *record = (void *)(uintptr_t)first[i].completion_addr;
        for (uint32_t member = 0; member < first[i].desc_count; member++)
            answer(&list[member]);
        record->bytes_completed = first[i].desc_count;
        record->status = DSA_COMP_SUCCESS;
    }
    return (long)count;
}

static void close_nothing(pc_portal *portal)
{
    (void)portal;
}

static const pc_portal_ops AT_ONCE = {
    .name = "at once",
    .submit = submit_and_answer,
    .close = close_nothing,
};
static pc_portal portal_at_once = {.ops = &AT_ONCE};

/* ---- pages and packets ---- */

/* Late: normal only behind the bytes that sampling looks at first. The software device is done with
 * such a page at once, and its delay is what is waited for. */
static bool is_normal(const char *kind, uint64_t page)
{
    if (strcmp(kind, "half") == 0) /* a fixed half, by a mixing multiplication */
        return (page * UINT64_C(0x9e3779b97f4a7c15) >> 40 & 1) != 0;
    return strcmp(kind, "zero") != 0;
}

/* A memfd without a hole, mapped as a worker maps a block. */
static void map_ram(bench *b, const char *kind)
{
    unsigned char page[PAGE];
    b->block.head =
        (pc_block){.ops = &pc_file_block_ops, .bytes = b->pages * PAGE, .page_bytes = PAGE};
    b->block.fd = memfd_create("ram", MFD_CLOEXEC);
    for (uint64_t i = 0; i < b->pages; i++) {
        memset(page, is_normal(kind, i) ? 0x55 : 0, PAGE);
        if (strcmp(kind, "late") == 0) {
            memset(page, 0, PAGE);
            page[LATE] = 1;
        }
        if (write(b->block.fd, page, PAGE) != PAGE)
            fail("memfd");
    }
    b->block.dense_bytes = b->block.head.bytes;
    b->block.head.base = mmap(NULL, b->block.head.bytes, PROT_READ, MAP_SHARED, b->block.fd, 0);
    if (b->block.head.base == MAP_FAILED)
        fail("mmap");
}

/* Apart: no page lies behind the one that its packet names before it. */
static void order_pages(bench *b, bool apart)
{
    for (uint64_t i = 0; i < b->pages; i++)
        b->offsets[i] = (apart ? i * STEP % b->pages : i) * PAGE;
}

static void set_up(bench *b, const char *kernel, const char *kind, bool apart, uint64_t packets)
{
    static uint64_t progress;
    const pc_kernel *found = strcmp(kernel, "auto") ? pc_kernel_find(kernel) : pc_kernel_auto();
    memset(b, 0, sizeof *b);
    b->pages = packets * PACKET;
    b->offsets = malloc(b->pages * sizeof *b->offsets);
    b->zero = malloc(b->pages / 8);
    b->decided = malloc(b->pages / 8);
    b->unproven = malloc(b->pages / 8);
    if (packets == 0 || b->pages % STEP == 0 || found == NULL || pc_kernel_why_not(found) != NULL ||
        b->offsets == NULL || b->zero == NULL || b->decided == NULL || b->unproven == NULL ||
        !pc_guard_install() || !pc_decider_init(found, &progress, &b->decider)) {
        fprintf(stderr, "dsa_cost: bad arguments, or no memory\n");
        exit(1);
    }
    map_ram(b, kind);
    order_pages(b, apart);
    pc_dsa_init(&b->stats, &b->failure, &b->dsa);
}

static void open_queue(bench *b, pc_portal *portal, bool sample, bool runs)
{
    const pc_dsa_limits limits = {
        .queue_size = 64,
        .batch_max = PACKET,
        .transfer_max = 2u << 20,
        .deadline_ns = 30 * SECOND,
        .sample = sample,
        .runs = runs,
    };
    if (portal == NULL || !pc_dsa_open(&b->dsa, portal, &limits) ||
        !pc_dsa_register(&b->dsa, b->block.head.base, b->block.head.bytes))
        fail("work queue");
}

static pc_task task_of(bench *b, uint64_t packet)
{
    uint64_t first = packet * PACKET;
    return (pc_task){
        .block = &b->block.head,
        .decider = &b->decider,
        .batch = {.offsets = b->offsets + first, .count = PACKET},
        .zero = b->zero + first / 64,
        .decided = b->decided + first / 64,
        .unproven = b->unproven + first / 64,
    };
}

static void decide(bench *b, uint64_t packet)
{
    pc_task task = task_of(b, packet);
    pc_dsa_start(&b->dsa, &task);
    pc_dsa_finish(&b->dsa, &task);
}

/* callgrind counts while this runs; it must keep its name. */
__attribute__((noinline)) static void decide_packets(bench *b, uint64_t packets)
{
    for (uint64_t packet = 0; packet < packets; packet++)
        decide(b, packet);
}

static void check_answers(const bench *b, const char *kind)
{
    for (uint64_t i = 0; i < b->pages; i++) {
        bool zero = !is_normal(kind, b->offsets[i] / PAGE);
        if (!pc_bits_test(b->decided, i) || pc_bits_test(b->zero, i) != zero) {
            fprintf(stderr, "dsa_cost: page %llu is wrong\n", (unsigned long long)i);
            exit(1);
        }
    }
}

static void count(const char *kernel, const char *kind, bool apart, bool sample, bool runs,
                  uint64_t packets)
{
    bench b;
    set_up(&b, kernel, kind, apart, packets);
    open_queue(&b, &portal_at_once, sample, runs);
    for (uint64_t packet = 0; packet < WARM; packet++) /* it learns how long runs may be */
        decide(&b, packet % packets);
    memset(b.zero, 0, b.pages / 8);
    struct pc_stats before = b.stats;
    decide_packets(&b, packets);
    check_answers(&b, kind);
    printf("{\"pages\": %llu, \"descriptors\": %llu, \"completed\": %llu}\n",
           (unsigned long long)b.pages,
           (unsigned long long)(b.stats.descriptors - before.descriptors),
           (unsigned long long)(b.stats.pages_completed - before.pages_completed));
}

/* ---- waiting ---- */

typedef struct span {
    int64_t wall_ns;
    int64_t cpu_ns;
} span;

static span now(void)
{
    struct timespec cpu;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    return (span){pc_clock_now_ns(), cpu.tv_sec * SECOND + cpu.tv_nsec};
}

/* The wait that is compared with: it looks, and looks again. */
static void spin(pc_dsa *dsa, const pc_task *task)
{
    while (task->flights != 0) {
        pc_dsa_poll(dsa);
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
}

static span wait_for_packets(bench *b, uint64_t packets, bool spinning)
{
    span total = {0, 0};
    for (uint64_t packet = 0; packet < packets; packet++) {
        pc_task task = task_of(b, packet);
        pc_dsa_start(&b->dsa, &task);
        span begin = now();
        if (spinning)
            spin(&b->dsa, &task);
        else
            pc_dsa_finish(&b->dsa, &task);
        span end = now();
        total.wall_ns += end.wall_ns - begin.wall_ns;
        total.cpu_ns += end.cpu_ns - begin.cpu_ns;
    }
    return total;
}

static void print_spans(const char *name, const span *spans, uint64_t repeats, uint64_t packets)
{
    printf("\"%s\": [", name);
    for (uint64_t i = 0; i < repeats; i++)
        printf("%s[%.1f, %.1f]", i == 0 ? "" : ", ", (double)spans[i].cpu_ns / (double)packets,
               (double)spans[i].wall_ns / (double)packets);
    printf("]");
}

static pc_portal *software_device(uint64_t delay_ns)
{
    dsa_model_options options;
    char why[128];
    dsa_model_defaults(&options);
    options.delay_ns = delay_ns;
    dsa_model *model = dsa_model_open(&options, why, sizeof why);
    if (model == NULL)
        fail(why);
    return pc_portal_open_model(model, options.mode);
}

static void wait_for(uint64_t delay_ns, uint64_t packets, uint64_t repeats)
{
    bench b;
    span *ours = malloc(repeats * sizeof *ours);
    span *spun = malloc(repeats * sizeof *spun);
    set_up(&b, "auto", "late", true, packets);
    open_queue(&b, software_device(delay_ns), true, true);
    if (ours == NULL || spun == NULL)
        fail("malloc");
    wait_for_packets(&b, packets, false); /* it learns how long an answer takes */
    for (uint64_t i = 0; i < repeats; i++) {
        ours[i] = wait_for_packets(&b, packets, false);
        spun[i] = wait_for_packets(&b, packets, true);
    }
    check_answers(&b, "late");
    printf("{");
    print_spans("ours", ours, repeats, packets);
    printf(", ");
    print_spans("spinning", spun, repeats, packets);
    printf(", \"timeouts\": %llu}\n", (unsigned long long)b.stats.timeouts);
    if (!pc_dsa_deinit(&b.dsa, pc_clock_now_ns() + 10 * SECOND))
        fail("draining");
}

int main(int argc, char **argv)
{
    if (argc == 8 && strcmp(argv[1], "count") == 0)
        count(argv[2], argv[3], strcmp(argv[4], "apart") == 0, atoi(argv[5]) != 0,
              atoi(argv[6]) != 0, strtoull(argv[7], NULL, 10));
    else if (argc == 5 && strcmp(argv[1], "wait") == 0)
        wait_for(strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10),
                 strtoull(argv[4], NULL, 10));
    else
        return 2;
    return 0;
}
