/* Random pages, limits and answers, truthful or faulty, early, late or never: the engine's answers
 * are compared with memory. `test_dsa_fuzz N SEED`: N worlds from this seed on. */
#include "dsa_script.h"

enum { WORLDS = 300, TASKS = 6 };

static uint64_t seed;

static uint32_t draw(uint32_t below)
{
    return (uint32_t)(check_random(&seed) % below);
}

/* Answers that a device may give, or that prove nothing. In a quiet world all are truthful. */
static bool quiet;

static void member(const hw_desc *d)
{
    uint32_t zeros = zero_bytes(d), size = d->xfer_size;
    uint32_t noise = draw(4) << 6, prefix = draw(2) != 0 ? zeros : draw(zeros + 1);
    switch (quiet ? 99u : draw(24)) {
    case 0:
        put(d, noise | FAULT, prefix);
        return;
    case 1:
        put(d, noise | DSA_COMP_PAGE_FAULT_IR, prefix);
        return;
    case 2:
        put(d, noise | FAULT, size + draw(3) * PAGE);
        return;
    case 3:
        put(d, noise | FAULT | (1 + draw(255)) << 8, draw(size));
        return;
    case 4:
        put(d, noise | (2 + draw(62)) | 0x200, draw(size));
        return;
    case 5:
        put(d, noise | DSA_COMP_SUCCESS | (2 + draw(254)) << 8, draw(size));
        return;
    case 6:
        put(d, 0x40 << draw(2), 0);
        return;
    }
    noise = quiet ? 0 : noise;
    if (zeros == size)
        put(d, noise | MATCH, quiet ? 0 : draw(UINT32_MAX));
    else
        put(d, noise | DIFFERS, draw(20) != 0 || quiet ? prefix : size + draw(3) * PAGE);
}

static void answer_one(const hw_desc *d)
{
    if (d->opcode != DSA_OPCODE_BATCH) {
        member(d);
        return;
    }
    uint32_t count = d->desc_count, some = draw(count), kind = quiet ? 99 : draw(40);
    static const uint8_t refusals[] = {0x10, 0x11, 0x12, 0x13, 0x14, 0x15,
                                       0x16, 0x17, 0x18, 0x19, 0x1c, 0x1e};
    if (kind == 0) {
        put(d, refusals[draw(sizeof refusals)], draw(count));
        return;
    }
    for (uint32_t i = 0; i < (kind <= 2 ? some : count); i++)
        member(&list_of(d)[i]);
    switch (kind) {
    case 1:
        put(d, DSA_COMP_BATCH_PAGE_FAULT, some);
        return;
    case 2: /* and nothing more: a record is lost */
        put(d, draw(2) != 0 ? DSA_COMP_SUCCESS : DSA_COMP_BATCH_FAIL, draw(2) != 0 ? some : count);
        return;
    case 3:
        put(d, 0x20 + draw(32), draw(UINT32_MAX));
        return;
    default:
        put(d, draw(2) != 0 ? DSA_COMP_SUCCESS : DSA_COMP_BATCH_FAIL, count);
    }
}

/* Some are answered at once, some while later ones are submitted, and some never. */
static void answer_some(script *s, uint32_t of_eight)
{
    for (size_t i = s->count; i-- > 0;)
        if (draw(8) < of_eight) {
            hw_desc d = s->kept[i];
            s->kept[i] = s->kept[--s->count];
            answer_one(&d);
        }
}

static uint32_t size_now;

static uint32_t full_for;

static long submit(script *s, const hw_desc *list, size_t count)
{
    size_t takes = count;
    if (!quiet && full_for == 0 && draw(100) == 0)
        full_for = draw(60); /* more than one flight is tried */
    if (full_for != 0) {
        full_for--;
        s->disabled = full_for == 0 && draw(8) == 0;
        return 0;
    }
    if (!quiet) {
        switch (draw(60)) {
        case 0:
            return draw(8) != 0 ? 0 : -EPERM;
        case 1:
            return draw(2) != 0 ? 0 : -EINVAL;
        case 2:
            takes = draw((uint32_t)count + 1);
            break;
        }
    }
    script_take(s, list, takes);
    s->invalid += s->count > size_now; /* overrun */
    answer_some(s, quiet ? 8 : 7);
    if (quiet || draw(50) != 0) /* else the queue is lost: nobody answers while the engine waits */
        answer_some(s, 8);
    return (long)takes;
}

static bool known_zero[RAM_PAGES];

static void fill(bench *b)
{
    uint32_t zeros = draw(8), run = 0;
    bool zero = false;
    for (size_t i = 0; i < RAM_PAGES; i++) {
        if (run == 0) {
            run = 1 + draw(draw(30) + 1);
            zero = draw(8) <= zeros;
        }
        run--;
        known_zero[i] = zero;
        memset(b->ram + i * PAGE, 0, PAGE);
        if (!zero)
            b->ram[i * PAGE + draw(PAGE)] = (unsigned char)(1 + draw(255));
    }
    if (draw(2) != 0) {
        b->block.head.flags = PC_BLOCK_ASK_RESIDENT | PC_BLOCK_TRUST_HOLES;
        for (size_t i = 0; i < RAM_PAGES; i++)
            if (known_zero[i] && draw(3) == 0 &&
                fallocate(b->block.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                          (off_t)(i * PAGE), PAGE) != 0)
                abort();
    } else {
        b->block.head.flags = PC_BLOCK_TOUCH_FREELY;
    }
}

/* Against what was written: reading a hole to compare it would allocate it. */
static void check_known(const answer *a)
{
    const pc_batch *batch = &a->task.batch;
    CHECK(a->task.flights == 0, "%u flights left", a->task.flights);
    for (uint32_t i = 0; i < batch->count; i++) {
        uint64_t offset =
            batch->offsets != NULL ? batch->offsets[i] : batch->first + (uint64_t)i * PAGE;
        CHECK(pc_bits_test(a->decided, i), "page %u is undecided", i);
        CHECK(pc_bits_test(a->zero, i) == known_zero[offset / PAGE], "page %u", i);
    }
    for (uint32_t i = batch->count; i < (batch->count + 63) / 64 * 64; i++)
        CHECK(!pc_bits_test(a->decided, i) && !pc_bits_test(a->zero, i), "bit %u", i);
}

/* The queue that was lost wakes up and lies: nobody may hear it. */
static void lie(script *s)
{
    for (size_t i = 0; i < s->count; i++) {
        const hw_desc *d = &s->kept[i];
        for (uint32_t j = 0; d->opcode == DSA_OPCODE_BATCH && j < d->desc_count; j++)
            put(&list_of(d)[j], MATCH, 0);
        put(d, MATCH, 0);
    }
    s->count = 0;
}

static void one_world(uint64_t number)
{
    static bench b;
    static answer a[TASKS];
    static uint64_t offsets[TASKS][RAM_PAGES];
    char of[64];
    seed = number;
    quiet = draw(4) == 0;
    full_for = 0;
    check_begin();
    bench_init(&b, 0);
    fill(&b);
    uint64_t before = blocks_of(b.block.fd);
    size_now = 1 + draw(draw(2) != 0 ? 128 : 4);
    uint32_t batch = draw(3) == 0 ? draw(4) : draw(1025);
    pc_dsa_limits limits = limits_of(size_now, batch, PAGE + draw(1 << (13 + draw(9))));
    limits.deadline_ns = quiet ? 20 * SECOND : SECOND / 500;
    bench_open(&b, limits);
    b.device.submit = submit;
    b.device.gated = true;
    for (int turn = 0; turn < 6; turn++) {
        for (int t = 0; t < TASKS; t++) {
            uint32_t count = 1 + draw(RAM_PAGES), first = draw(RAM_PAGES - count + 1);
            bool any = draw(2) != 0;
            for (uint32_t i = 0; any && i < count; i++)
                offsets[t][i] =
                    i != 0 && draw(3) != 0 && offsets[t][i - 1] + PAGE < b.block.head.bytes
                        ? offsets[t][i - 1] + PAGE
                        : (uint64_t)draw(RAM_PAGES) * PAGE;
            if (b.dsa.queue != NULL && draw(2) != 0)
                b.dsa.queue->backoff_until_ns = 1; /* tried again */
            start(&b, &a[t], any ? offsets[t] : NULL, first, count);
            if (draw(4) == 0)
                pc_dsa_poll(&b.dsa);
        }
        if (b.dsa.queue == NULL)
            lie(&b.device);
        for (int t = 0; t < TASKS; t++)
            pc_dsa_finish(&b.dsa, &a[t].task);
        if (b.dsa.queue == NULL)
            lie(&b.device);
        CHECK(blocks_of(b.block.fd) == before, "looking allocated");
        for (int t = 0; t < TASKS; t++)
            check_known(&a[t]);
        if (b.dsa.queue == NULL && draw(2) != 0)
            break;
    }
    CHECK(!quiet || b.dsa.queue != NULL, "abandoned: end %d", b.dsa.end);
    snprintf(of, sizeof of, "%llu: end %d", (unsigned long long)number, b.dsa.end);
    bench_deinit(&b);
    if (!check_good)
        printf("world %s\n", of);
}

int main(int argc, char **argv)
{
    uint64_t worlds = argc > 1 ? strtoull(argv[1], NULL, 10) : WORLDS;
    uint64_t from = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    bool good = true;
    for (uint64_t i = 0; i < worlds; i++) {
        one_world(from + i);
        good = good && check_good;
    }
    check_good = good;
    check_end("random worlds", "");
    return check_summary();
}
