/* Statuses that say what a device cannot do: the engine leaves that way of asking, not the queue,
 * counts each record, and keeps the first failure. */
#include "dsa_script.h"

enum { SOLID = 0xff };

static struct {
    uint32_t batch;    /* status of every batch; 0: it runs */
    uint32_t most;     /* bytes of a descriptor */
    uint32_t refusals; /* batches that are refused before it runs; UINT32_MAX: all */
    uint32_t done;     /* members that run all the same */
    size_t batches;
} device;

static void member(const hw_desc *d)
{
    if (d->xfer_size > device.most)
        put(d, DSA_COMP_XFER_ERANGE, 0);
    else
        put_truth(d);
}

static void answer_as_device(script *s, const hw_desc *desc)
{
    (void)s;
    if (desc->opcode != DSA_OPCODE_BATCH || device.batch == 0 ||
        device.batches >= device.refusals) {
        put_batch(desc, member);
        return;
    }
    device.batches++;
    for (uint32_t i = 0; i < device.done && i < desc->desc_count; i++)
        member(&list_of(desc)[i]);
    put(desc, device.batch, device.done < desc->desc_count ? device.done : desc->desc_count);
}

static void open_device(bench *b, uint32_t status, uint32_t most, uint64_t transfer)
{
    device.batch = status;
    device.most = most;
    device.refusals = UINT32_MAX;
    device.done = 0;
    device.batches = 0;
    bench_init(b, SOLID);
    bench_open(b, limits_of(128, 128, transfer));
    b->device.answer = answer_as_device;
}

/* Every batch is refused: a few tries, then single descriptors; the CPU decides nothing. */
static void test_refused(uint32_t status, bool at_once)
{
    bench b;
    char of[32];
    check_begin();
    open_device(&b, status, UINT32_MAX, PAGE);
    for (int i = 0; i < 10; i++)
        decide(&b, 60);
    CHECK(b.dsa.queue != NULL, "abandoned: end %d", b.dsa.end);
    CHECK(b.stats.pages_device == 600, "%d by the device", (int)b.stats.pages_device);
    CHECK(b.stats.statuses[status] == device.batches, "counted %d of %zu",
          (int)b.stats.statuses[status], device.batches);
    CHECK(device.batches == (at_once ? 1 : 4), "%zu batches", device.batches);
    snprintf(of, sizeof of, "%02x", status);
    bench_deinit(&b);
    check_end("batches are always refused, status", of);
}

/* One refusal is not a reason to go without batches for ever. */
static void test_refused_now_and_then(uint32_t status)
{
    bench b;
    char of[32];
    check_begin();
    open_device(&b, status, UINT32_MAX, PAGE);
    for (int i = 0; i < 20; i++) {
        device.batches = 0;
        device.refusals = i % 2 == 0;
        decide(&b, 60);
    }
    CHECK(b.dsa.queue != NULL && b.stats.batches == 20, "%d batches", (int)b.stats.batches);
    CHECK(b.stats.pages_device == 1200, "%d by the device", (int)b.stats.pages_device);
    snprintf(of, sizeof of, "%02x", status);
    bench_deinit(&b);
    check_end("batches are refused now and then, status", of);
}

/* Faults on the list, however many in a row, end no queue and leave nothing to the CPU. */
static void test_list_faults(uint32_t done)
{
    bench b;
    char of[32];
    check_begin();
    open_device(&b, DSA_COMP_BATCH_PAGE_FAULT, UINT32_MAX, PAGE);
    device.done = done;
    for (int i = 0; i < 40; i++)
        decide(&b, 60);
    CHECK(b.dsa.queue != NULL, "abandoned: end %d", b.dsa.end);
    CHECK(b.stats.pages_device == 40 * 60, "%d by the device", (int)b.stats.pages_device);
    CHECK(b.stats.page_faults == device.batches && device.batches > 1, "%zu", device.batches);
    CHECK(b.failure.kept == 0, "a fault was kept as a failure");
    snprintf(of, sizeof of, "after %u members", done);
    bench_deinit(&b);
    check_end("faults on the list,", of);
}

/* The device transfers less than its queue says. */
static void test_transfer(uint32_t most_pages)
{
    bench b;
    char of[32];
    check_begin();
    open_device(&b, 0, most_pages * PAGE, 1 << 21);
    for (int i = 0; i < 20; i++)
        decide(&b, RAM_PAGES);
    CHECK(b.dsa.queue != NULL, "abandoned: end %d", b.dsa.end);
    uint64_t refused = b.stats.statuses[DSA_COMP_XFER_ERANGE], by_cpu = b.stats.pages_completed;
    CHECK(refused > 0, "nothing was refused");
    b.device.largest_bytes = 0;
    decide(&b, RAM_PAGES);
    CHECK(b.stats.statuses[DSA_COMP_XFER_ERANGE] == refused, "still refused");
    CHECK(b.device.largest_bytes <= most_pages * PAGE, "%zu bytes", (size_t)b.device.largest_bytes);
    CHECK(b.stats.pages_completed == by_cpu, "by the CPU");
    snprintf(of, sizeof of, "of more than %u pages", most_pages);
    bench_deinit(&b);
    check_end("transfers are refused,", of);
}

/* No transfer at all, not of one page: that is an error like others. */
static void test_no_transfer(void)
{
    bench b;
    check_begin();
    open_device(&b, 0, 0, 1 << 21);
    for (int i = 0; i < 20 && b.dsa.queue != NULL; i++)
        decide(&b, RAM_PAGES);
    CHECK(b.dsa.queue == NULL && b.dsa.end == PC_QUEUE_BROKEN, "end %d", b.dsa.end);
    bench_deinit(&b);
    check_end("transfers are refused,", "all of them");
}

/* ---- the first failure ---- */

static uint32_t says;

static void answer_with(script *s, const hw_desc *desc)
{
    (void)s;
    record_of(desc)->fault_addr = 0x1234567890abcdef;
    put(desc, says, 77);
}

static void test_first_failure(void)
{
    bench b;
    check_begin();
    bench_init(&b, SOLID);
    bench_open(&b, limits_of(16, 0, PAGE));
    b.device.answer = answer_with;
    says = FAULT;
    decide(&b, 1);
    CHECK(b.failure.kept == 0, "a page fault");
    says = 0xc0 | DSA_COMP_HW_ERR1;
    decide(&b, 1);
    says = DSA_COMP_INVALID_FLAGS;
    decide(&b, 1);
    const hw_desc *desc = (const hw_desc *)(const void *)b.failure.descriptor;
    const hw_record *record = (const hw_record *)(const void *)b.failure.record;
    CHECK(b.failure.kept == 1, "not kept");
    CHECK(desc->opcode == DSA_OPCODE_COMPVAL && desc->xfer_size == PAGE &&
              desc->src_addr == (uintptr_t)b.block.head.base,
          "the descriptor");
    CHECK(record->status == (0xc0 | DSA_COMP_HW_ERR1) && record->bytes_completed == 77 &&
              record->fault_addr == 0x1234567890abcdef,
          "the record, status %x", record->status);
    bench_deinit(&b);
    check_end("the first failure is kept", "");
}

/* A record that does not come is one: what was asked for is kept. */
static void test_missing_is_kept(uint32_t batch)
{
    bench b;
    answer a;
    check_begin();
    bench_init(&b, SOLID);
    bench_open(&b, limits_of(16, batch, PAGE));
    b.dsa.queue->limits.deadline_ns = LATE_NS / 10;
    start(&b, &a, NULL, 0, 3);
    const hw_desc missing = batch != 0 ? b.device.kept[0] : b.device.kept[1];
    if (batch == 0) {
        put_truth(&b.device.kept[0]);
        put_truth(&b.device.kept[2]);
    }
    finish(&b, &a);
    CHECK(b.failure.kept == 1 && memcmp(b.failure.descriptor, &missing, sizeof missing) == 0,
          "kept: %d", (int)b.failure.kept);
    CHECK(b.failure.record[0] == 0, "status %x", b.failure.record[0]);
    bench_deinit(&b);
    check_end("what is not answered is kept", batch != 0 ? "(a batch)" : "(one of an array)");
}

static void answer_all(script *s)
{
    for (size_t i = 0; i < s->count; i++)
        put_truth(&s->kept[i]);
}

/* The last record comes while it is looked for: what is kept was submitted all the same. */
static void test_missing_comes(void)
{
    bench b;
    answer a;
    check_begin();
    bench_init(&b, SOLID);
    bench_open(&b, limits_of(2 * PC_DSA_MEMBERS, 0, PAGE));
    b.dsa.queue->limits.deadline_ns = LATE_NS / 10;
    b.device.on_asked = answer_all;
    for (uint32_t i = 0; i < PC_DSA_FLIGHTS * PC_DSA_MEMBERS; i++) /* of an earlier use */
        b.dsa.queue->flights[i / PC_DSA_MEMBERS].records[i % PC_DSA_MEMBERS].status = 1;
    start(&b, &a, NULL, 0, 3);
    const hw_desc last = b.device.kept[2];
    finish(&b, &a);
    CHECK(b.failure.kept == 1 && memcmp(b.failure.descriptor, &last, sizeof last) == 0, "kept: %d",
          (int)b.failure.kept);
    bench_deinit(&b);
    check_end("what is not answered is kept", "(and comes at that moment)");
}

int main(void)
{
    static const uint8_t refusals[] = {0x10, 0x11, 0x12, 0x13, 0x15, 0x16,
                                       0x17, 0x18, 0x19, 0x1c, 0x1e};
    for (size_t i = 0; i < sizeof refusals; i++) {
        test_refused(refusals[i], refusals[i] == DSA_COMP_BAD_OPCODE);
        if (refusals[i] != DSA_COMP_BAD_OPCODE)
            test_refused_now_and_then(refusals[i]);
    }
    for (uint32_t done = 0; done < 60; done += 29)
        test_list_faults(done);
    for (uint32_t pages = 1; pages <= 8; pages += pages < 3 ? 1 : 5)
        test_transfer(pages);
    test_no_transfer();
    test_first_failure();
    test_missing_is_kept(0);
    test_missing_is_kept(128);
    test_missing_comes();
    return check_summary();
}
