/* include/pagecheck.h against the core: one layout, one protocol of waking, and a distrust of the
 * other side that lets nothing wrong through. */
#include <pagecheck.h>

#include <stdio.h>

#include "check.h"
#include "fixture.h"

#define SAME(ours, theirs, field)                                                                  \
    _Static_assert(offsetof(struct ours, field) == offsetof(struct theirs, field) &&               \
                       sizeof(((struct ours *)0)->field) == sizeof(((struct theirs *)0)->field),   \
                   #field)
#define HEADER(field) SAME(pagecheck_ring_header, pc_header, field)
#define SLOT(field) SAME(pagecheck_slot, pc_slot, field)

HEADER(magic);
HEADER(layout_version);
HEADER(header_bytes);
HEADER(segment_bytes);
HEADER(generation);
HEADER(slot_count);
HEADER(slot_pages);
HEADER(slot_bytes);
HEADER(reserved_constant);
HEADER(wake_at);
HEADER(reserved_submitter);
HEADER(asleep);
HEADER(done);
HEADER(reserved_worker);
HEADER(submit);
HEADER(gone);
HEADER(reserved_supervisor);
SLOT(request);
SLOT(kind);
SLOT(block);
SLOT(first_page);
SLOT(count);
SLOT(reserved_submitter);
SLOT(answer);
SLOT(refusal);
SLOT(reserved_worker);
_Static_assert(sizeof(struct pagecheck_ring_header) == sizeof(struct pc_header), "header");
_Static_assert(sizeof(struct pagecheck_slot) == sizeof(struct pc_slot), "slot");
_Static_assert(PAGECHECK_LAYOUT_VERSION == PC_LAYOUT_VERSION, "version");
_Static_assert(PAGECHECK_SEGMENT_MAGIC == PC_SEGMENT_MAGIC, "magic");
_Static_assert(PAGECHECK_SLOTS_MAX == PC_SLOTS_MAX, "slots");
_Static_assert(PAGECHECK_SLOT_PAGES_MAX == PC_SLOT_PAGES_MAX, "slot pages");
_Static_assert(PAGECHECK_SLOT_ALIGN == PC_SLOT_ALIGN, "slot align");
_Static_assert(PAGECHECK_ASLEEP == PC_ASLEEP, "asleep");
_Static_assert(PAGECHECK_REQUEST_SUBMITTED == PC_REQUEST_SUBMITTED, "request");
_Static_assert(PAGECHECK_ANSWER_DONE == PC_ANSWER_DONE, "done");
_Static_assert(PAGECHECK_ANSWER_REFUSED == PC_ANSWER_REFUSED, "refused");
_Static_assert(PAGECHECK_PAGES_RANGE == PC_PAGES_RANGE, "range");
_Static_assert(PAGECHECK_PAGES_OFFSETS == PC_PAGES_OFFSETS, "offsets");
_Static_assert(PAGECHECK_REFUSED_COUNT == PC_REFUSED_COUNT, "count");
_Static_assert(PAGECHECK_REFUSED_KIND == PC_REFUSED_KIND, "kind");
_Static_assert(PAGECHECK_REFUSED_BLOCK == PC_REFUSED_BLOCK, "block");
_Static_assert(PAGECHECK_REFUSED_PAGES == PC_REFUSED_PAGES, "pages");

enum { PAGES = 1024, SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };

/* A channel as a VMM has it, and its worker. */
typedef struct pair {
    pagecheck_channel channel;
    pc_worker worker;
    pc_block block;
    pthread_t thread;
} pair;

static int64_t soon(void)
{
    return pagecheck_now_ns() + SECOND / 50;
}

static int64_t late(void)
{
    return pagecheck_now_ns() + 60 * SECOND;
}

static int new_segment(uint32_t slots, uint32_t slot_pages, int seals)
{
    uint64_t bytes = pc_layout_segment_bytes(slots, slot_pages);
    int fd = memfd_create("ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0)
        abort();
    void *segment = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (segment == MAP_FAILED || !pc_ring_format(segment, bytes, slots, slot_pages, 1))
        abort();
    munmap(segment, bytes);
    if (seals != 0 && fcntl(fd, F_ADD_SEALS, seals) != 0)
        abort();
    return fd;
}

static void pair_init(int ram, pair *p)
{
    pc_ring ring;
    memset(p, 0, sizeof *p);
    int fd = new_segment(SLOTS, SLOT_PAGES, SEALS);
    if (pagecheck_channel_map(fd, &p->channel) != 0 || pc_ring_open(fd, -1, &ring) != NULL ||
        !pc_guard_install() || !pc_worker_init(&ring, pc_kernel_auto(), &p->worker))
        abort();
    close(fd);
    p->block = ram_block(ram, PAGES, PC_BLOCK_TRUST_HOLES, false);
    p->worker.blocks[0] = &p->block;
}

static void pair_deinit(pair *p)
{
    memset(p->worker.blocks, 0, sizeof p->worker.blocks); /* they are the test's */
    pc_worker_deinit(&p->worker, 0);
    pagecheck_channel_unmap(&p->channel);
}

static void *serve(void *worker)
{
    pc_worker_serve(worker, late());
    return NULL;
}

static void start(pair *p)
{
    pthread_create(&p->thread, NULL, serve, &p->worker);
}

static void stop(pair *p)
{
    pc_ring_raise_attention(&p->worker.ring);
    pthread_join(p->thread, NULL);
}

/* A worker that answers what waits, in this thread. */
static void answer_now(pair *p)
{
    pc_worker_serve(&p->worker, soon());
}

/* Pages 0, 1, 63 and 64 hold data; 2 is written with zeros, the others are holes. */
static int new_ram(void)
{
    int fd = ram_file(PAGES, UINT64_C(0x8000000000000003), 4);
    if (pwrite(fd, "x", 1, 64 * PAGE + 7) != 1)
        abort();
    return fd;
}

static bool is_normal(uint64_t page)
{
    return page < 2 || page == 63 || page == 64;
}

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

static void test_hostile_answers(void)
{
    static const struct {
        const char *name;
        uint64_t sequence, state, zero, decided;
        uint32_t refusal;
        int expected;
    } cases[] = {
        {"zero without decided", 1, PC_ANSWER_DONE, 1, 0, 0, -EPROTO},
        {"decided past the batch", 1, PC_ANSWER_DONE, 0, UINT64_C(1) << 8, 0, -EPROTO},
        {"zero past the batch", 1, PC_ANSWER_DONE, UINT64_C(3) << 8, UINT64_C(3) << 8, 0, -EPROTO},
        {"answer of a later batch", 2, PC_ANSWER_DONE, 0xff, 0xff, 0, -EPROTO},
        {"unknown state", 1, 77, 0xff, 0xff, 0, -EPROTO},
        {"state 0", 1, 0, 0xff, 0xff, 0, -EPROTO},
        {"answer of no batch", 0, PC_ANSWER_DONE, 0xff, 0xff, 0, -ETIMEDOUT},
        {"refused", 1, PC_ANSWER_REFUSED, 0xff, 0xff, PC_REFUSED_BLOCK, -EPROTO},
        {"refused without sense", 1, PC_ANSWER_REFUSED, 0xff, 0xff, UINT32_MAX, -EPROTO},
        {"sound", 1, PC_ANSWER_DONE, 0xf, 0xff, 0, 0},
    };
    int ram = new_ram();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pair p;
        uint64_t ticket, other, zero[2] = {9, 9}, decided[2] = {9, 9};
        pair_init(ram, &p);
        check_begin();
        CHECK(pagecheck_submit_range(&p.channel, 0, 0, 8, &ticket) == 0, "submit");
        CHECK(pagecheck_submit_range(&p.channel, 0, 0, 8, &other) == 0, "submit");
        struct pc_slot *slot = pc_ring_slot(&p.worker.ring, 1);
        *pc_slot_zero(slot, SLOT_PAGES) = cases[i].zero;
        *pc_slot_decided(slot, SLOT_PAGES) = cases[i].decided;
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
        {"magic", offsetof(struct pc_header, magic), 1},
        {"version", offsetof(struct pc_header, layout_version), 99 | UINT64_C(256) << 32},
        {"header bytes", offsetof(struct pc_header, layout_version), 3 | UINT64_C(128) << 32},
        {"slots", offsetof(struct pc_header, slot_count), UINT64_C(0xffffffff)},
        {"no slots", offsetof(struct pc_header, slot_count), UINT64_C(128) << 32},
        {"more slots", offsetof(struct pc_header, slot_count), 5 | UINT64_C(128) << 32},
        {"slot pages", offsetof(struct pc_header, slot_count), SLOTS | UINT64_C(65) << 32},
        {"many slot pages", offsetof(struct pc_header, slot_count), SLOTS | UINT64_C(192) << 32},
        {"slot bytes", offsetof(struct pc_header, slot_bytes), 8},
        {"segment bytes", offsetof(struct pc_header, segment_bytes), 1 << 30},
        {"used before", sizeof(struct pc_header), 1 << 8 | 1},
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

/* ---- The connection, with a service that says what the case wants ---- */

#define GREETING "{\"pagecheck\": {\"protocol\": 1, \"layout\": 3}}\n"
#define CHANNEL "{\"return\": {\"channel\": 7, \"slots\": 4, \"slot_pages\": 128}, \"id\": 1}\n"

typedef struct script {
    const char *name, *greeting, *reply; /* no reply: hangs up; "": says nothing */
    int connects, opens, passed;         /* expected codes; descriptors beside the reply */
    bool in_bytes;                       /* sends every byte by itself */
} script;

typedef struct service {
    const script *says;
    int listener;
} service;

static void say(int to, const char *text, int passed, bool in_bytes)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(3 * sizeof(int))];
    } control;
    int fd = new_segment(SLOTS, SLOT_PAGES, SEALS), fds[3] = {fd, fd, fd};
    for (size_t at = 0, n; at < strlen(text); at += n) {
        struct iovec part = {(void *)(uintptr_t)(text + at), in_bytes ? 1 : strlen(text)};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
        size_t bytes = (size_t)passed * sizeof *fds;
        n = part.iov_len;
        if (passed > 0 && at == 0) {
            control.head = (struct cmsghdr){CMSG_LEN(bytes), SOL_SOCKET, SCM_RIGHTS};
            memcpy(CMSG_DATA(&control.head), fds, bytes);
            message.msg_control = &control;
            message.msg_controllen = CMSG_SPACE(bytes);
        }
        if (sendmsg(to, &message, MSG_NOSIGNAL) < 0)
            break; /* the client has heard enough */
    }
    close(fd);
}

static void *play(void *argument)
{
    service *s = argument;
    char byte = 0;
    int to = accept(s->listener, NULL, NULL);
    say(to, s->says->greeting, 0, s->says->in_bytes);
    while (byte != '\n' && recv(to, &byte, 1, 0) == 1) {
    }
    if (byte == '\n' && s->says->reply != NULL) {
        say(to, s->says->reply, s->says->passed, s->says->in_bytes);
        while (recv(to, &byte, 1, 0) == 1) {
        }
    }
    close(to);
    return NULL;
}

/* Descriptors that are open; none may be left behind. */
static int count_fds(void)
{
    int count = 0;
    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void test_script(const script *says)
{
    static pagecheck_client client;
    const pagecheck_channel_options options = {4, 128, 0};
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    service s = {says, socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    pagecheck_channel channel;
    pthread_t thread;
    int before = count_fds();
    snprintf(at.sun_path, sizeof at.sun_path, "/tmp/pagecheck-test-%d", (int)getpid());
    if (bind(s.listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(s.listener, 1) != 0)
        abort();
    pthread_create(&thread, NULL, play, &s);
    check_begin();
    int64_t until = pagecheck_now_ns() + (says->opens == -ETIMEDOUT ? SECOND / 4 : 20 * SECOND);
    int code = pagecheck_connect(at.sun_path, until, &client);
    CHECK(code == says->connects, "connect: %d: %s", code, client.error);
    if (code == 0) {
        code = pagecheck_open_channel(&client, &options, until, &channel);
        CHECK(code == says->opens, "open: %d: %s", code, client.error);
        CHECK(code != 0 || (channel.id == 7 && channel.slots == 4), "channel %u", channel.id);
        if (code == 0)
            pagecheck_channel_unmap(&channel);
        else if (code != -EREMOTEIO)
            CHECK(pagecheck_detach(&client, 0, until) == code, "it goes on");
        pagecheck_disconnect(&client);
    }
    CHECK(pagecheck_detach(&client, 0, until) == -ENOTCONN, "after the end");
    pthread_join(thread, NULL);
    CHECK(count_fds() == before, "%d descriptors, not %d", count_fds(), before);
    check_end("service:", says->name);
    close(s.listener);
    unlink(at.sun_path);
}

static void test_services(void)
{
    static char deep[200001], endless[3 << 20];
    memset(deep, '[', sizeof deep - 2);
    deep[sizeof deep - 2] = '\n';
    memset(endless, 'x', sizeof endless - 1);
    const script scripts[] = {
        {"as it should be", GREETING, CHANNEL, 0, 0, 1, false},
        {"byte by byte", GREETING, CHANNEL, 0, 0, 1, true},
        {"events before the reply", GREETING, "{\"event\": \"X\"}\n\t{ \"event\" :[]}\n" CHANNEL, 0,
         0, 1, false},
        {"unknown members",
         "{\"x\":[{\"]\":\"\\\"}\"}],\"pagecheck\":{\"layout\":3,\"protocol\":1}}\n", CHANNEL, 0, 0,
         1, false},
#ifndef __aarch64__ /* qemu-aarch64 leaves open what it has no room to pass on */
        {"three descriptors", GREETING, CHANNEL, 0, 0, 3, false},
#endif
        {"no descriptor", GREETING, CHANNEL, 0, -EPROTO, 0, false},
        {"another id", GREETING, "{\"return\": {\"channel\": 7}, \"id\": 2}\n", 0, -EPROTO, 1,
         false},
        {"another geometry", GREETING,
         "{\"return\": {\"channel\": 7, \"slots\": 8, \"slot_pages\": 128}, \"id\": 1}\n", 0,
         -EPROTO, 1, false},
        {"a number that is none", GREETING,
         "{\"return\": {\"channel\": -7, \"slots\": 4, \"slot_pages\": 128}, \"id\": 1}\n", 0,
         -EPROTO, 1, false},
        {"an error", GREETING, "{\"error\": {\"class\": \"UsageError\", \"desc\": \"no\"}}\n", 0,
         -EREMOTEIO, 1, false},
        {"hangs up", GREETING, NULL, 0, -ECONNRESET, 0, false},
        {"says nothing", GREETING, "", 0, -ETIMEDOUT, 0, false},
        {"no JSON", GREETING, "\\\"{:,\n", 0, -EPROTO, 1, false},
        {"a deep line", GREETING, deep, 0, -EPROTO, 1, false},
        {"an endless line", GREETING, endless, 0, -EPROTO, 1, false},
        {"half a line", GREETING, "{\"event\": {\"desc\": \"x", 0, -ETIMEDOUT, 0, false},
        {"another protocol", "{\"pagecheck\": {\"protocol\": 2, \"layout\": 3}}\n", NULL,
         -EPROTONOSUPPORT, 0, 0, false},
        {"another layout", "{\"pagecheck\": {\"protocol\": 1, \"layout\": 30}}\n", NULL,
         -EPROTONOSUPPORT, 0, 0, false},
        {"QMP", "{\"QMP\": {\"version\": {}}}\n", NULL, -EPROTO, 0, 0, false},
        {"refuses us", "{\"error\": {\"class\": \"AccessError\", \"desc\": \"no\"}}\n", NULL,
         -EREMOTEIO, 0, 0, false},
    };
    for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++)
        test_script(&scripts[i]);
    pagecheck_client client;
    check_begin();
    CHECK(pagecheck_connect("/nowhere/at/all", late(), &client) == -ENOENT, "%s", client.error);
    CHECK(pagecheck_connect("/nowhere", 0, &client) == -ETIMEDOUT, "%s", client.error);
    check_end("no service", "");
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
    test_hostile_answers();
    test_refusals();
    test_damaged_segments();
    test_unsafe_segments();
    test_partition();
    test_services();
    test_stress(0, "without spinning");
    test_stress(20000, "with spinning");
    return check_summary();
}
