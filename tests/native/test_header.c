/* include/pagecheck.h against the core: one layout, one protocol of waking, and a distrust of the
 * other side that lets nothing wrong through. */
#include "header_fixture.h"

static void test_round_trips(int64_t spin_ns, const char *of)
{
    pair p;
    int ram = new_ram();
    uint64_t before = blocks_of(ram);
    pair_init(ram, &p);
    p.channel.spin_ns = p.worker.spin_ns = spin_ns;
    start(&p);
    check_begin();
    for (uint32_t count = 1; count <= SLOT_PAGES; count++) {
        uint64_t offsets[SLOT_PAGES], zero[2], decided[2], ticket;
        for (uint32_t i = 0; i < count; i++)
            offsets[i] = (uint64_t)(count - 1 - i) * PAGE;
        for (int range = 0; range < 2; range++) {
            int code = range ? pagecheck_submit_range(&p.channel, 0, 0, count, &ticket)
                             : pagecheck_submit(&p.channel, 0, offsets, count, &ticket);
            CHECK(code == 0, "submit %d", code);
            code = pagecheck_wait(&p.channel, ticket, late(), zero, decided);
            CHECK(code == 0, "wait %d: %s", code, p.channel.error);
            for (uint32_t i = 0; i < count; i++) {
                uint64_t page = range ? i : offsets[i] / PAGE;
                CHECK(decided[i / 64] >> (i % 64) & 1u, "undecided");
                CHECK((zero[i / 64] >> (i % 64) & 1u) == !is_normal(page), "page %u of %u", i,
                      count);
            }
        }
    }
    CHECK(blocks_of(ram) == before, "looking allocated");
    check_end("round trips", of);
    stop(&p);
    pair_deinit(&p);
    close(ram);
}

static void test_full_ring_any_order(void)
{
    pair p;
    int ram = new_ram();
    uint64_t tickets[SLOTS + 1], zero[2], decided[2];
    pair_init(ram, &p);
    check_begin();
    for (uint64_t i = 0; i < SLOTS; i++)
        CHECK(pagecheck_submit_range(&p.channel, 0, 63 + i, 1, &tickets[i]) == 0, "submit");
    CHECK(pagecheck_submit_range(&p.channel, 0, 0, 1, &tickets[SLOTS]) == -EAGAIN, "full");
    answer_now(&p);
    CHECK(pagecheck_submit_range(&p.channel, 0, 0, 1, &tickets[SLOTS]) == -EAGAIN, "not taken");
    static const unsigned order[SLOTS] = {2, 3, 0, 1};
    for (unsigned i = 0; i < SLOTS; i++) {
        unsigned which = order[i];
        CHECK(pagecheck_wait(&p.channel, tickets[which], 0, zero, decided) == 0, "wait");
        CHECK(decided[0] == 1 && zero[0] == (uint64_t)(which > 1), "answer %u", which);
        CHECK(pagecheck_wait(&p.channel, tickets[which], 0, zero, decided) == -EINVAL, "twice");
    }
    CHECK(pagecheck_submit_range(&p.channel, 0, 0, 1, &tickets[SLOTS]) == 0, "room again");
    CHECK(pagecheck_wait(&p.channel, tickets[SLOTS] + 1, 0, zero, decided) == -EINVAL, "future");
    CHECK(pagecheck_wait(&p.channel, 0, 0, zero, decided) == -EINVAL, "ticket 0");
    CHECK(pagecheck_submit_range(&p.channel, 0, 0, 0, &tickets[0]) == -EINVAL, "no pages");
    CHECK(pagecheck_submit_range(&p.channel, 0, 0, SLOT_PAGES + 1, &tickets[0]) == -EINVAL, "many");
    CHECK(pagecheck_submit(&p.channel, 0, NULL, 1, &tickets[0]) == -EINVAL, "no offsets");
    check_end("a full ring, answers in any order", "");
    pair_deinit(&p);
    close(ram);
}

static void test_deadlines_and_forgetting(void)
{
    pair p;
    int ram = new_ram();
    uint64_t tickets[SLOTS], more, zero[2] = {1, 1}, decided[2] = {1, 1};
    pair_init(ram, &p);
    check_begin();
    for (unsigned i = 0; i < SLOTS; i++)
        CHECK(pagecheck_submit_range(&p.channel, 0, 0, 64, &tickets[i]) == 0, "submit");
    int64_t begin = pagecheck_now_ns(), until = soon();
    CHECK(pagecheck_wait(&p.channel, tickets[0], until, zero, decided) == -ETIMEDOUT, "late");
    CHECK(pagecheck_now_ns() >= until && pagecheck_now_ns() - begin < 5 * SECOND, "the time");
    CHECK(zero[0] == 0 && decided[0] == 0, "words of a failure");
    CHECK(zero[1] == 1 && decided[1] == 1, "words past the batch");
    CHECK(pagecheck_wait(&p.channel, tickets[0], 0, zero, decided) == -ETIMEDOUT, "only a look");
    CHECK(pagecheck_wait(&p.channel, tickets[0], -5, zero, decided) == -ETIMEDOUT, "below 0");
    CHECK(pagecheck_forget(&p.channel, tickets[0]) == 0, "forget");
    CHECK(pagecheck_forget(&p.channel, tickets[0]) == -EINVAL, "forgotten already");
    CHECK(pagecheck_wait(&p.channel, tickets[0], 0, zero, decided) == -EINVAL, "forgotten");
    CHECK(pagecheck_submit_range(&p.channel, 0, 0, 1, &more) == -EAGAIN, "its answer is not there");
    answer_now(&p);
    CHECK(pagecheck_wait(&p.channel, tickets[1], 0, zero, decided) == 0, "after a timeout");
    CHECK(pagecheck_submit_range(&p.channel, 0, 0, 1, &more) == 0, "the forgotten one's slot");
    CHECK(pagecheck_wait(&p.channel, more, 0, zero, decided) == -ETIMEDOUT, "old answer taken");
    answer_now(&p);
    CHECK(pagecheck_wait(&p.channel, more, 0, zero, decided) == 0, "the new answer");
    check_end("deadlines and forgetting", "");
    pair_deinit(&p);
    close(ram);
}

static void *mark_gone_later(void *ring)
{
    usleep(20000);
    pc_ring_mark_gone(ring);
    return NULL;
}

static void test_gone(void)
{
    pair p;
    int ram = new_ram();
    uint64_t first, second, zero[2], decided[2];
    pthread_t thread;
    pair_init(ram, &p);
    check_begin();
    CHECK(pagecheck_submit_range(&p.channel, 0, 0, 64, &first) == 0, "submit");
    answer_now(&p);
    CHECK(pagecheck_submit_range(&p.channel, 0, 0, 64, &second) == 0, "submit");
    int64_t begin = pagecheck_now_ns();
    pthread_create(&thread, NULL, mark_gone_later, &p.worker.ring);
    CHECK(pagecheck_wait(&p.channel, second, late(), zero, decided) == -ECONNRESET, "gone");
    CHECK(pagecheck_now_ns() - begin < 10 * SECOND, "nobody woke it");
    CHECK(pagecheck_wait(&p.channel, first, late(), zero, decided) == 0, "was answered in time");
    CHECK(pagecheck_submit_range(&p.channel, 0, 0, 64, &first) == -ECONNRESET, "submit after all");
    pthread_join(thread, NULL);
    check_end("a channel that is gone", "");
    pair_deinit(&p);
    close(ram);
}

/* The service is killed together with its workers: only the socket says so. */
static void test_hang_up(void)
{
    pair p;
    int ram = new_ram(), ends[2];
    uint64_t ticket, zero[2], decided[2];
    pair_init(ram, &p);
    check_begin();
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0)
        abort();
    p.channel.socket = ends[0];
    CHECK(pagecheck_submit_range(&p.channel, 0, 0, 64, &ticket) == 0, "submit");
    CHECK(pagecheck_wait(&p.channel, ticket, pagecheck_now_ns() + SECOND / 4, zero, decided) ==
              -ETIMEDOUT,
          "the other end is there");
    close(ends[1]);
    int64_t begin = pagecheck_now_ns();
    CHECK(pagecheck_wait(&p.channel, ticket, late(), zero, decided) == -ECONNRESET, "hung up");
    CHECK(pagecheck_now_ns() - begin < 10 * SECOND, "too late");
    check_end("a service that hung up", "");
    pair_deinit(&p);
    close(ram);
}

/* Without a client: the wait ends after a slice, changes nothing, and can go on. */
static void test_slices(int64_t spin_ns, const char *of)
{
    pair p;
    int ram = new_ram();
    uint64_t ticket, zero[2], decided[2];
    pair_init(ram, &p);
    p.channel.spin_ns = spin_ns;
    check_begin();
    CHECK(pagecheck_submit_range(&p.channel, 0, 0, 64, &ticket) == 0, "submit");
    pgck_batch *batch = pgck_find(&p.channel, ticket);
    for (int i = 0; i < 3; i++) {
        int code = pgck_wait_slice(&p.channel, batch, late(), SECOND / 1000, zero, decided);
        CHECK(code == -EAGAIN, "slice %d: %d", i, code);
        CHECK(p.channel.ring.header->wake_at == UINT64_MAX, "it says that it sleeps");
    }
    int64_t now = pagecheck_now_ns();
    int code = pgck_wait_slice(&p.channel, batch, now, SECOND, zero, decided);
    CHECK(code == -ETIMEDOUT, "at the deadline: %d", code);
    p.channel.lost = true; /* as whoever looks at the socket says it */
    code = pgck_wait_slice(&p.channel, batch, late(), INT64_MAX, zero, decided);
    CHECK(code == -ECONNRESET, "lost: %d", code);
    p.channel.lost = false;
    answer_now(&p);
    code = pgck_wait_slice(&p.channel, batch, late(), INT64_MAX, zero, decided);
    CHECK(code == 0 && decided[0] == UINT64_MAX, "answered: %d", code);
    check_end("a wait in slices", of);
    pair_deinit(&p);
    close(ram);
}

static void test_hostile_answers(void)
{
    static const struct {
        const char *name;
        uint64_t sequence, state, zero, decided;
        uint32_t refusal;
        int expected;
    } cases[] = {
        {"zero without decided", 1, PAGECHECK_ANSWER_DONE, 1, 0, 0, -EPROTO},
        {"decided past the batch", 1, PAGECHECK_ANSWER_DONE, 0, UINT64_C(1) << 8, 0, -EPROTO},
        {"zero past the batch", 1, PAGECHECK_ANSWER_DONE, UINT64_C(3) << 8, UINT64_C(3) << 8, 0,
         -EPROTO},
        {"answer of a later batch", 2, PAGECHECK_ANSWER_DONE, 0xff, 0xff, 0, -EPROTO},
        {"unknown state", 1, 77, 0xff, 0xff, 0, -EPROTO},
        {"state 0", 1, 0, 0xff, 0xff, 0, -EPROTO},
        {"answer of no batch", 0, PAGECHECK_ANSWER_DONE, 0xff, 0xff, 0, -ETIMEDOUT},
        {"refused", 1, PAGECHECK_ANSWER_REFUSED, 0xff, 0xff, PAGECHECK_REFUSED_BLOCK, -EPROTO},
        {"refused without sense", 1, PAGECHECK_ANSWER_REFUSED, 0xff, 0xff, UINT32_MAX, -EPROTO},
        {"sound", 1, PAGECHECK_ANSWER_DONE, 0xf, 0xff, 0, 0},
    };
    int ram = new_ram();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pair p;
        uint64_t ticket, other, zero[2] = {9, 9}, decided[2] = {9, 9};
        pair_init(ram, &p);
        check_begin();
        CHECK(pagecheck_submit_range(&p.channel, 0, 0, 8, &ticket) == 0, "submit");
        CHECK(pagecheck_submit_range(&p.channel, 0, 0, 8, &other) == 0, "submit");
        struct pagecheck_slot *slot = pgck_slot(&p.worker.ring.shared, 1);
        *pgck_slot_zero(slot, SLOT_PAGES) = cases[i].zero;
        *pgck_slot_decided(slot, SLOT_PAGES) = cases[i].decided;
        slot->refusal = cases[i].refusal;
        __atomic_store_n(&slot->answer, cases[i].sequence << 8 | cases[i].state, __ATOMIC_RELEASE);
        int code = pagecheck_wait(&p.channel, ticket, 0, zero, decided);
        CHECK(code == cases[i].expected, "%d, not %d", code, cases[i].expected);
        CHECK(zero[0] == (code == 0 ? cases[i].zero : 0), "zero %llx", (unsigned long long)zero[0]);
        CHECK(decided[0] == (code == 0 ? cases[i].decided : 0), "decided");
        CHECK(p.channel.refusal == cases[i].refusal, "refusal %u", p.channel.refusal);
        bool ends = code == -EPROTO && cases[i].refusal == 0;
        code = pagecheck_wait(&p.channel, other, 0, zero, decided);
        CHECK(code == (ends ? -EPROTO : -ETIMEDOUT), "the next wait %d", code);
        code = pagecheck_submit_range(&p.channel, 0, 0, 8, &other);
        CHECK(code == (ends ? -EPROTO : 0), "the next submit %d", code);
        check_end("worker's answer:", cases[i].name);
        pair_deinit(&p);
    }
    close(ram);
}

static void test_refusals(void)
{
    pair p;
    int ram = new_ram();
    uint64_t outside = (uint64_t)PAGES * PAGE, ticket, zero[2], decided[2];
    pair_init(ram, &p);
    start(&p);
    check_begin();
    CHECK(pagecheck_submit(&p.channel, 0, &outside, 1, &ticket) == 0, "submit");
    CHECK(pagecheck_wait(&p.channel, ticket, late(), zero, decided) == -EPROTO, "outside");
    CHECK(p.channel.refusal == PAGECHECK_REFUSED_PAGES, "refusal %u", p.channel.refusal);
    CHECK(strstr(p.channel.error, "outside") != NULL, "%s", p.channel.error);
    CHECK(pagecheck_submit_range(&p.channel, 5, 0, 1, &ticket) == 0, "submit");
    CHECK(pagecheck_wait(&p.channel, ticket, late(), zero, decided) == -EPROTO, "no block");
    CHECK(p.channel.refusal == PAGECHECK_REFUSED_BLOCK, "refusal %u", p.channel.refusal);
    CHECK(pagecheck_submit_range(&p.channel, 0, 0, 1, &ticket) == 0, "submit");
    CHECK(pagecheck_wait(&p.channel, ticket, late(), zero, decided) == 0, "the channel is good");
    CHECK(p.channel.refusal == 0 && decided[0] == 1, "answer");
    check_end("refusals", "");
    stop(&p);
    pair_deinit(&p);
    close(ram);
}

static void test_damaged_segments(void)
{
    static const struct {
        const char *name;
        size_t offset;
        uint64_t value;
    } cases[] = {
        {"magic", offsetof(struct pagecheck_ring_header, magic), 1},
        {"version", offsetof(struct pagecheck_ring_header, layout_version),
         99 | UINT64_C(256) << 32},
        {"header bytes", offsetof(struct pagecheck_ring_header, layout_version),
         3 | UINT64_C(128) << 32},
        {"slots", offsetof(struct pagecheck_ring_header, slot_count), UINT64_C(0xffffffff)},
        {"no slots", offsetof(struct pagecheck_ring_header, slot_count), UINT64_C(128) << 32},
        {"more slots", offsetof(struct pagecheck_ring_header, slot_count), 5 | UINT64_C(128) << 32},
        {"slot pages", offsetof(struct pagecheck_ring_header, slot_count),
         SLOTS | UINT64_C(65) << 32},
        {"many slot pages", offsetof(struct pagecheck_ring_header, slot_count),
         SLOTS | UINT64_C(192) << 32},
        {"slot bytes", offsetof(struct pagecheck_ring_header, slot_bytes), 8},
        {"segment bytes", offsetof(struct pagecheck_ring_header, segment_bytes), 1 << 30},
        {"used before", sizeof(struct pagecheck_ring_header), 1 << 8 | 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pagecheck_channel channel;
        int fd = new_segment(SLOTS, SLOT_PAGES, SEALS);
        if (pwrite(fd, &cases[i].value, 8, (off_t)cases[i].offset) != 8)
            abort();
        check_begin();
        CHECK(pagecheck_channel_map(fd, &channel) == -EPROTO, "was mapped");
        check_end("damaged segment:", cases[i].name);
        close(fd);
    }
}

static void test_unsafe_segments(void)
{
    static const int seals[] = {0, SEALS & ~F_SEAL_SHRINK, SEALS & ~F_SEAL_GROW,
                                SEALS & ~F_SEAL_SEAL, SEALS | F_SEAL_WRITE};
    pagecheck_channel channel;
    check_begin();
    for (size_t i = 0; i < sizeof seals / sizeof *seals; i++) {
        int fd = new_segment(SLOTS, SLOT_PAGES, seals[i]);
        CHECK(pagecheck_channel_map(fd, &channel) == -EPROTO, "seals %d", seals[i]);
        close(fd);
    }
    int fd = memfd_create("short", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || fcntl(fd, F_ADD_SEALS, SEALS) != 0)
        abort();
    CHECK(pagecheck_channel_map(fd, &channel) == -EPROTO, "an empty segment");
    CHECK(pagecheck_channel_map(-1, &channel) == -EPROTO, "no descriptor");
    CHECK(pagecheck_channel_map(0, &channel) == -EPROTO, "no memfd");
    pagecheck_channel_unmap(&channel); /* harmless */
    check_end("segments that could shrink", "");
    close(fd);
}

static void test_partition(void)
{
    enum { COUNT = 70 };
    uint64_t offsets[COUNT], out[COUNT], zero[2] = {0}, decided[2] = {0};
    check_begin();
    for (uint64_t i = 0; i < COUNT; i++) {
        offsets[i] = i * PAGE;
        zero[i / 64] |= (uint64_t)(i % 2) << (i % 64);
        decided[i / 64] |= (uint64_t)(i % 3 != 0) << (i % 64);
    }
    uint32_t normal = pagecheck_partition(offsets, zero, decided, COUNT, out), at = 0;
    for (int wanted = 0; wanted < 2; wanted++)
        for (uint64_t i = 0; i < COUNT; i++)
            if ((i % 2 == 1 && i % 3 != 0) == (wanted == 1))
                CHECK(out[at++] == i * PAGE, "place %u", at - 1);
    CHECK(normal == COUNT - 23, "%u normal", normal);
    check_end("normal pages first", "");
}

/* ---- Many channels at once ---- */

enum { CHANNELS = 4 };
static int batches_each = 20000;

typedef struct sender {
    pair pair;
    uint64_t seed;
    bool is_hasty;
    int wrong;
} sender;

typedef struct parcel {
    uint64_t offsets[SLOT_PAGES];
    uint64_t ticket;
    uint32_t count;
} parcel;

/* Takes one answer. Some channels have deadlines so near that many pass; on the others a lost
 * wake-up is a timeout. */
static int take(sender *s, const parcel *one)
{
    uint64_t zero[2], decided[2];
    int code;
    do {
        int64_t until = late();
        if (s->is_hasty)
            until = pagecheck_now_ns() + (int64_t)(check_random(&s->seed) % 200000);
        code = pagecheck_wait(&s->pair.channel, one->ticket, until, zero, decided);
    } while (code == -ETIMEDOUT && s->is_hasty);
    int wrong = code != 0;
    for (uint32_t i = 0; code == 0 && i < one->count; i++) {
        uint64_t is_zero = zero[i / 64] >> (i % 64) & 1u;
        wrong += is_zero == (uint64_t)is_normal(one->offsets[i] / PAGE);
    }
    return wrong;
}

static void *send_batches(void *argument)
{
    sender *s = argument;
    parcel out[SLOTS];
    int given = 0, taken = 0;
    while (taken < batches_each) {
        int window = 1 + (int)(check_random(&s->seed) % SLOTS);
        while (given < batches_each && given - taken < window) {
            parcel *one = &out[given++ % SLOTS];
            one->count = 1 + (uint32_t)(check_random(&s->seed) % 16);
            for (uint32_t i = 0; i < one->count; i++)
                one->offsets[i] = check_random(&s->seed) % 128 * PAGE;
            s->wrong +=
                pagecheck_submit(&s->pair.channel, 0, one->offsets, one->count, &one->ticket) != 0;
        }
        s->wrong += take(s, &out[taken++ % SLOTS]);
    }
    return NULL;
}

static void test_stress(int64_t spin_ns, const char *of)
{
    static sender senders[CHANNELS];
    pthread_t threads[CHANNELS];
    int ram = new_ram();
    check_begin();
    for (unsigned i = 0; i < CHANNELS; i++) {
        pair_init(ram, &senders[i].pair);
        senders[i].seed = i;
        senders[i].is_hasty = i % 2 == 1;
        senders[i].wrong = 0;
        senders[i].pair.channel.spin_ns = senders[i].pair.worker.spin_ns = spin_ns;
        start(&senders[i].pair);
    }
    for (unsigned i = 0; i < CHANNELS; i++)
        pthread_create(&threads[i], NULL, send_batches, &senders[i]);
    for (unsigned i = 0; i < CHANNELS; i++) {
        pthread_join(threads[i], NULL);
        stop(&senders[i].pair);
        CHECK(senders[i].wrong == 0, "channel %u: %d wrong", i, senders[i].wrong);
        pair_deinit(&senders[i].pair);
    }
    check_end("four channels", of);
    close(ram);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        batches_each = atoi(argv[1]);
    test_round_trips(0, "without spinning");
    test_round_trips(20000, "with spinning");
    test_full_ring_any_order();
    test_deadlines_and_forgetting();
    test_gone();
    test_hang_up();
    test_slices(0, "without spinning");
    test_slices(20000, "with spinning");
    test_hostile_answers();
    test_refusals();
    test_damaged_segments();
    test_unsafe_segments();
    test_partition();
    test_stress(0, "without spinning");
    test_stress(20000, "with spinning");
    return check_summary();
}
