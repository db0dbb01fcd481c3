/* The engine's queue: never overrun, and never asked for more than it can do. */
#include "dsa_script.h"

enum { MIXED = 0x9d, SOLID = 0xff };

/* ---- a device in a thread: it answers what is kept, in any order, and drops what is too much ----
 */

typedef struct device {
    script *s;
    pthread_t thread;
    int stop;
    uint32_t faulty; /* of 16 members, so many get a fault at their begin */
    uint32_t most;   /* members of a batch; 0: any number */
    uint64_t seed;
} device;

static device *answering;

static void member_by_chance(const hw_desc *d)
{
    if (check_random(&answering->seed) % 16 < answering->faulty)
        put(d, FAULT, 0);
    else
        put_truth(d);
}

static void *device_run(void *argument)
{
    device *d = argument;
    while (!__atomic_load_n(&d->stop, __ATOMIC_ACQUIRE)) {
        hw_desc desc;
        bool have = false;
        pthread_mutex_lock(&d->s->lock);
        if (d->s->count != 0) {
            size_t at = check_random(&d->seed) % d->s->count;
            desc = d->s->kept[at];
            d->s->kept[at] = d->s->kept[--d->s->count];
            have = true;
        }
        pthread_mutex_unlock(&d->s->lock);
        if (!have)
            sched_yield();
        else if (d->most != 0 && desc.opcode == DSA_OPCODE_BATCH && desc.desc_count > d->most)
            put(&desc, DSA_COMP_DESC_CNT_ERANGE, 0);
        else
            put_batch(&desc, member_by_chance);
    }
    return NULL;
}

static void device_start(device *d)
{
    answering = d;
    pthread_create(&d->thread, NULL, device_run, d);
}

static void device_stop(device *d)
{
    __atomic_store_n(&d->stop, 1, __ATOMIC_RELEASE);
    pthread_join(d->thread, NULL);
}

static void test_never_overrun(uint32_t size, uint32_t batch, uint32_t faulty)
{
    bench b;
    char of[64];
    check_begin();
    bench_init(&b, MIXED);
    bench_open(&b, limits_of(size, batch, 4 * PAGE));
    device d = {.s = &b.device, .faulty = faulty, .seed = size};
    device_start(&d);
    for (int i = 0; i < 3; i++) {
        answer a[8]; /* several batches of pages at once, as a worker has */
        for (int j = 0; j < 8; j++)
            start(&b, &a[j], NULL, 0, RAM_PAGES - (uint32_t)j * 17);
        for (int j = 0; j < 8; j++)
            finish(&b, &a[j]);
    }
    device_stop(&d);
    CHECK(b.device.peak <= size, "%zu in the queue", b.device.peak);
    CHECK(b.device.peak > 0 && b.dsa.queue != NULL && b.stats.timeouts == 0, "abandoned");
    CHECK(b.stats.pages_device > 0, "none by the device");
    CHECK(b.dsa.queue == NULL || b.dsa.queue->entries == 0, "entries are left");
    bench_deinit(&b);
    snprintf(of, sizeof of, "size %u, batches of %u, faults %u/16", size, batch, faulty);
    check_end("never more than the queue holds:", of);
}

/* ---- limits of descriptors ---- */

static void test_limits(uint32_t batch, uint64_t transfer)
{
    bench b;
    char of[64];
    check_begin();
    bench_init(&b, SOLID);
    bench_open(&b, limits_of(64, batch, transfer));
    b.device.answer = answer_truth;
    for (int i = 0; i < 10; i++)
        decide(&b, RAM_PAGES);
    CHECK(b.device.largest_bytes <= transfer, "%llu", (unsigned long long)b.device.largest_bytes);
    CHECK(b.device.largest_batch <= batch, "%u members", b.device.largest_batch);
    CHECK(b.device.batches == 0 || batch >= 2, "a batch");
    CHECK(transfer >= PAGE || b.device.submits == 0, "more than the device transfers");
    CHECK(transfer < 2 * PAGE || b.device.largest_bytes >= 2 * PAGE, "no runs");
    bench_deinit(&b);
    snprintf(of, sizeof of, "%u members, %llu bytes", batch, (unsigned long long)transfer);
    check_end("limits of descriptors:", of);
}

/* The size in a descriptor has 32 bits, whatever the queue says that it can do. */
static void test_size_of_32_bits(void)
{
    const uint64_t page = UINT64_C(1) << 32;
    bench b;
    check_begin();
    bench_init(&b, SOLID);
    bench_open(&b, limits_of(64, 128, UINT64_C(1) << 40));
    b.device.answer = answer_truth;
    int fd = memfd_create("huge", MFD_CLOEXEC);
    CHECK(ftruncate(fd, (off_t)page) == 0, "errno %d", errno);
    void *base = mmap(NULL, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(base != MAP_FAILED, "errno %d", errno);
    madvise(base, page, MADV_HUGEPAGE);
    pc_file_block huge = {.head = {.ops = &pc_file_block_ops,
                                   .base = base,
                                   .bytes = page,
                                   .page_bytes = page,
                                   .flags = PC_BLOCK_TOUCH_FREELY},
                          .fd = fd};
    uint64_t zero = ~UINT64_C(0), decided = ~UINT64_C(0), unproven;
    pc_task task = {.block = &huge.head,
                    .decider = &b.decider,
                    .batch = {.count = 1},
                    .zero = &zero,
                    .decided = &decided,
                    .unproven = &unproven};
    pc_dsa_start(&b.dsa, &task);
    pc_dsa_finish(&b.dsa, &task);
    CHECK(zero == 1 && decided == 1, "zero %llx", (unsigned long long)zero);
    CHECK(b.device.submits == 0, "a size of more than 32 bits was submitted");
    munmap(base, page);
    close(fd);
    bench_deinit(&b);
    check_end("limits of descriptors:", "32 bits");
}

/* Runs are of pages that follow each other in the batch and in memory. */
static void test_runs(void)
{
    uint64_t offsets[RAM_PAGES];
    uint64_t seed = 5;
    bench b;
    check_begin();
    bench_init(&b, MIXED);
    bench_open(&b, limits_of(64, 128, 1 << 21));
    b.device.answer = answer_truth;
    for (int turn = 0; turn < 40; turn++) {
        answer a;
        for (uint32_t i = 0; i < RAM_PAGES; i++) {
            uint64_t draw = check_random(&seed);
            uint64_t next = i == 0 ? 0 : offsets[i - 1] + PAGE;
            switch (turn % 4) {
            case 0: /* backwards */
                offsets[i] = (RAM_PAGES - 1 - i) * PAGE;
                break;
            case 1: /* twice each */
                offsets[i] = i / 2 * PAGE;
                break;
            case 2: /* jumps now and then */
                offsets[i] =
                    draw % 5 != 0 && next < RAM_PAGES * PAGE ? next : draw % RAM_PAGES * PAGE;
                break;
            default:
                offsets[i] = draw % RAM_PAGES * PAGE;
            }
        }
        start(&b, &a, offsets, 0, RAM_PAGES);
        finish(&b, &a);
    }
    CHECK(b.stats.pages_device > 0, "none by the device");
    bench_deinit(&b);
    check_end("offsets in any order, duplicates", "");
}

/* ---- submission ---- */

static long refuses(script *s, const hw_desc *list, size_t count)
{
    (void)s, (void)list, (void)count;
    return -EPERM;
}

static long takes_nothing(script *s, const hw_desc *list, size_t count)
{
    (void)s, (void)list, (void)count;
    return 0;
}

static long takes_one(script *s, const hw_desc *list, size_t count)
{
    return script_take(s, list, count != 0);
}

static long takes_one_then_refuses(script *s, const hw_desc *list, size_t count)
{
    return s->submits % 2 == 1 ? script_take(s, list, count != 0) : -ENXIO;
}

static long takes_no_batches(script *s, const hw_desc *list, size_t count)
{
    return list->opcode == DSA_OPCODE_BATCH ? -EINVAL : script_take(s, list, count);
}

static void test_submission(const char *name, uint32_t batch,
                            long (*submit)(script *s, const hw_desc *list, size_t count), bool up,
                            pc_queue_end end, int error)
{
    bench b;
    check_begin();
    bench_init(&b, SOLID);
    bench_open(&b, limits_of(128, batch, PAGE));
    b.device.answer = answer_truth;
    b.device.submit = submit;
    for (int i = 0; i < 40; i++)
        decide(&b, RAM_PAGES);
    CHECK((b.dsa.queue != NULL) == up, "up: %d", b.dsa.queue != NULL);
    CHECK(up || (b.dsa.end == end && b.dsa.error == error), "end %d, %d", b.dsa.end, b.dsa.error);
    CHECK(b.device.submits < 60000, "%zu submissions", b.device.submits);
    CHECK(b.device.batches == 0 || submit != takes_no_batches, "a batch");
    CHECK(!up || submit == takes_nothing || b.stats.pages_device > 0, "none by the device");
    bench_deinit(&b);
    check_end(name, batch != 0 ? "(batches)" : "(arrays)");
}

static void test_submissions(void)
{
    for (uint32_t batch = 0; batch <= 128; batch += 128) {
        test_submission("the kernel refuses", batch, refuses, false, PC_QUEUE_REFUSED, EPERM);
        test_submission("always full", batch, takes_nothing, true, PC_QUEUE_CLOSED, 0);
        test_submission("one at a time", batch, takes_one, true, PC_QUEUE_CLOSED, 0);
        test_submission("one, then an error", batch, takes_one_then_refuses, batch == 0,
                        PC_QUEUE_REFUSED, ENXIO);
    }
    test_submission("the kernel refuses batches", 128, takes_no_batches, true, PC_QUEUE_CLOSED, 0);
}

/* The device takes smaller batches than the queue says, and has several that are too large. */
static void test_batches_too_large(uint32_t most)
{
    bench b;
    answer a[4];
    char of[32];
    check_begin();
    bench_init(&b, SOLID);
    bench_open(&b, limits_of(16, 128, PAGE));
    for (int i = 0; i < 4; i++)
        start(&b, &a[i], NULL, 0, 128);
    device d = {.s = &b.device, .most = most};
    device_start(&d);
    for (int i = 0; i < 4; i++)
        finish(&b, &a[i]);
    for (int i = 0; i < 20; i++)
        decide(&b, RAM_PAGES);
    CHECK(b.dsa.queue != NULL, "abandoned: end %d", b.dsa.end);
    uint64_t before = b.stats.pages_device;
    b.device.batches = 0;
    b.device.largest_batch = 0;
    decide(&b, RAM_PAGES);
    device_stop(&d);
    CHECK(b.device.largest_batch <= most, "%u members", b.device.largest_batch);
    CHECK(b.device.batches > 0 || most < 2, "no batches any more");
    CHECK(b.stats.pages_device > before, "none by the device");
    bench_deinit(&b);
    snprintf(of, sizeof of, "of more than %u", most);
    check_end("batches are refused:", of);
}

static void answer_singles_only(script *s, const hw_desc *desc)
{
    (void)s;
    if (desc->opcode == DSA_OPCODE_BATCH)
        put(desc, DSA_COMP_BAD_OPCODE, 0);
    else
        put_truth(desc);
}

/* A mask of opcodes without BATCH, which sysfs does not always tell. */
static void test_batches_unsupported(void)
{
    bench b;
    check_begin();
    bench_init(&b, SOLID);
    bench_open(&b, limits_of(64, 128, PAGE));
    b.device.answer = answer_singles_only;
    decide(&b, RAM_PAGES); /* two flights are out before the first refusal is seen */
    CHECK(b.device.batches <= 2, "%zu batches", b.device.batches);
    b.device.batches = 0;
    uint64_t before = b.stats.pages_device;
    decide(&b, RAM_PAGES);
    CHECK(b.device.batches == 0, "%zu batches", b.device.batches);
    CHECK(b.stats.pages_device > before, "none by the device");
    CHECK(b.dsa.queue != NULL, "abandoned: end %d", b.dsa.end);
    bench_deinit(&b);
    check_end("batches are refused:", "all of them, as an opcode");
}

/* A batch that was refused is submitted again as 64 descriptors, for which the other task leaves no
 * room: a poll does not wait for it, the end of its task does. */
static void test_again_waits_for_room(void)
{
    bench b;
    answer refused, other;
    check_begin();
    bench_init(&b, SOLID);
    bench_open(&b, limits_of(64, 128, PAGE));
    start(&b, &refused, NULL, 0, 64);
    start(&b, &other, NULL, 64, 64);
    CHECK(b.device.count == 2, "%zu submissions", b.device.count);
    put(&b.device.kept[0], DSA_COMP_INVALID_FLAGS, 0);
    pc_dsa_poll(&b.dsa);
    CHECK(b.device.submits == 2 && b.dsa.queue->ready != NULL, "submitted without room");
    CHECK(refused.task.flights == 1 && other.task.flights == 1, "%u flights and %u",
          refused.task.flights, other.task.flights);
    put_batch(&b.device.kept[1], put_truth);
    b.device.answer = answer_truth;
    finish(&b, &refused);
    finish(&b, &other);
    CHECK(b.device.singles == 64 && b.stats.queue_full == 0, "%zu descriptors", b.device.singles);
    CHECK(b.stats.pages_device == 128 && b.stats.pages_completed == 0, "%d by the CPU",
          (int)b.stats.pages_completed);
    bench_deinit(&b);
    check_end("what is submitted again waits for room", "");
}

int main(void)
{
    static const uint32_t sizes[] = {1, 2, 3, 7, 128};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (uint32_t batch = 0; batch <= 128; batch += 64)
            for (uint32_t faulty = 0; faulty <= 8; faulty += 8)
                test_never_overrun(sizes[i], batch, faulty);
    for (uint32_t batch = 0; batch <= 8; batch++)
        for (uint64_t transfer = PAGE - 1; transfer < 64 * PAGE; transfer += 3 * PAGE + 1)
            test_limits(batch, transfer);
    test_size_of_32_bits();
    test_runs();
    test_submissions();
    for (uint32_t most = 1; most <= 64; most *= 4)
        test_batches_too_large(most);
    test_batches_unsupported();
    test_again_waits_for_room();
    return check_summary();
}
