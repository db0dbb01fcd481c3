/* include/pagecheck.h where its caller errs, runs out of something or forks: what is closed stays
 * closed, what is the parent's stays the parent's, and no old word is taken for an answer. */
#include "header_fixture.h"

#ifndef __aarch64__
#include <sys/resource.h>
#include <sys/wait.h>
#endif

#ifndef __aarch64__
#define GREETING "{\"pagecheck\": {\"protocol\": 1, \"layout\": 3}}\n"
#define CHANNEL "{\"return\": {\"channel\": 7, \"slots\": 4, \"slot_pages\": 128}, \"id\": 1}\n"
#define CLOSED "{\"return\": {}, \"id\": 2}\n"
#endif

/* Descriptor 0 is open, and must stay so. */
static void test_zeroed(void)
{
    pagecheck_client client;
    pagecheck_channel channel;
    uint64_t ticket, offsets[1] = {0}, zero[1] = {~UINT64_C(0)}, decided[1] = {~UINT64_C(0)};
    memset(&client, 0, sizeof client);
    memset(&channel, 0, sizeof channel);
    check_begin();
    int null = open("/dev/null", O_RDONLY);
    if (null < 0 || (fcntl(0, F_GETFD) < 0 && dup2(null, 0) != 0))
        abort();
    CHECK(pagecheck_detach(&client, 0, late()) == -ENOTCONN, "%s", client.error);
    CHECK(pagecheck_check(&client) == -ECONNRESET, "it looks connected");
    CHECK(pagecheck_submit(&channel, 0, offsets, 1, &ticket) == -ENOTCONN, "submitted");
    CHECK(ticket == 0, "ticket %" PRIu64, ticket);
    CHECK(pagecheck_wait(&channel, 1, late(), zero, decided) == -ENOTCONN, "waited");
    CHECK(zero[0] == 0 && decided[0] == 0, "words are left");
    CHECK(pagecheck_forget(&channel, 1) == -ENOTCONN, "forgot");
    CHECK(pagecheck_close_channel(&client, &channel, late()) == -ENOTCONN, "closed");
    pagecheck_channel_unmap(&channel);
    pagecheck_disconnect(&client);
    pagecheck_disconnect(&client);
    CHECK(fcntl(0, F_GETFD) >= 0, "descriptor 0 was closed");
    close(null);
    check_end("zeroed structures are closed ones", "");
}

static void test_old_words(void)
{
    int ram = new_ram();
    pair p;
    uint64_t ticket, zero[2], decided[2];
    pair_init(ram, &p);
    check_begin();
    CHECK(pagecheck_submit_range(&p.channel, 0, 0, 128, &ticket) == 0, "%s", p.channel.error);
    answer_now(&p);
    CHECK(pagecheck_wait(&p.channel, ticket, soon(), zero, decided) == 0, "%s", p.channel.error);
    CHECK(zero[0] != 0 && zero[1] != 0, "nothing is zero");
    CHECK(pagecheck_wait(&p.channel, ticket, soon(), zero, decided) == -EINVAL, "taken twice");
    CHECK((zero[0] | zero[1] | decided[0] | decided[1]) == 0, "its words are left");
    for (uint64_t strange = 0; strange < 3000; strange += 999) {
        zero[0] = decided[0] = ~UINT64_C(0);
        CHECK(pagecheck_wait(&p.channel, ticket + 1 + strange, soon(), zero, decided) == -EINVAL,
              "ticket %" PRIu64, strange);
        CHECK((zero[0] | decided[0]) == 0, "words are left");
    }
    zero[0] = ~UINT64_C(0);
    CHECK(pagecheck_wait(&p.channel, 0, soon(), zero, decided) == -EINVAL, "ticket 0");
    CHECK(zero[0] == 0, "words are left");
    CHECK(pagecheck_submit_range(&p.channel, 0, 0, 1, &ticket) == 0, "the next one");
    answer_now(&p);
    CHECK(pagecheck_wait(&p.channel, ticket, soon(), zero, decided) == 0, "%s", p.channel.error);
    CHECK(zero[0] == 0 && decided[0] == 1, "page 0 is normal");
    pair_deinit(&p);
    check_end("a ticket that is not out leaves no answer behind", "");
    close(ram);
}

/* Numbers at the ends of their ranges: refused, and nothing overflows. */
static void test_extremes(void)
{
    static const uint64_t firsts[] = {UINT64_MAX, UINT64_MAX - 1, UINT64_MAX / 4096,
                                      INT64_MAX / 4096, PAGES};
    static const uint64_t places[] = {UINT64_MAX, UINT64_MAX - 4095, INT64_MAX,
                                      INT64_MAX & ~UINT64_C(4095), PAGES * PAGE};
    static const int64_t times[] = {INT64_MIN, INT64_MIN + 1, -1, 0, 1, INT64_MAX};
    int ram = new_ram();
    pair p;
    uint64_t ticket, zero[1], decided[1];
    pair_init(ram, &p);
    check_begin();
    for (size_t i = 0; i < sizeof firsts / sizeof *firsts; i++) {
        CHECK(pagecheck_submit_range(&p.channel, 0, firsts[i], 2, &ticket) == 0, "submitted");
        answer_now(&p);
        CHECK(pagecheck_wait(&p.channel, ticket, soon(), zero, decided) == -EPROTO &&
                  p.channel.refusal == PAGECHECK_REFUSED_PAGES,
              "first page %" PRIu64 ": %s", firsts[i], p.channel.error);
        CHECK(pagecheck_submit(&p.channel, 0, &places[i], 1, &ticket) == 0, "submitted");
        answer_now(&p);
        CHECK(pagecheck_wait(&p.channel, ticket, soon(), zero, decided) == -EPROTO &&
                  p.channel.refusal == PAGECHECK_REFUSED_PAGES,
              "offset %" PRIu64 ": %s", places[i], p.channel.error);
    }
    CHECK(pagecheck_submit_range(&p.channel, 0, 0, UINT32_MAX, &ticket) == -EINVAL, "count");
    CHECK(pagecheck_submit_range(&p.channel, UINT32_MAX, 0, 1, &ticket) == 0, "block");
    answer_now(&p);
    CHECK(pagecheck_wait(&p.channel, ticket, soon(), zero, decided) == -EPROTO &&
              p.channel.refusal == PAGECHECK_REFUSED_BLOCK,
          "%s", p.channel.error);
    p.channel.spin_ns = INT64_MAX;
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        CHECK(pagecheck_submit_range(&p.channel, 0, 0, 1, &ticket) == 0, "submitted");
        int code =
            times[i] == INT64_MAX ? 0 : pagecheck_wait(&p.channel, ticket, times[i], zero, decided);
        CHECK(code == (times[i] == INT64_MAX ? 0 : -ETIMEDOUT), "deadline %" PRId64, times[i]);
        answer_now(&p);
        code = pagecheck_wait(&p.channel, ticket, times[i] < 0 ? 0 : times[i], zero, decided);
        CHECK(code == 0, "deadline %" PRId64 ": %s", times[i], p.channel.error);
    }
    pair_deinit(&p);
    check_end("numbers at the ends of their ranges", "");
    close(ram);
}

#ifndef __aarch64__ /* qemu-aarch64 has no memory that is wiped on fork */
/* The child of a fork may do everything but use what is its parent's. */
static int in_child(pair *p, pagecheck_client *client, uint64_t out)
{
    uint64_t ticket, offsets[1] = {0}, zero[1] = {1}, decided[1] = {1};
    if (pagecheck_submit(&p->channel, 0, offsets, 1, &ticket) != -ECHILD)
        return 1;
    if (pagecheck_wait(&p->channel, out, late(), zero, decided) != -ECHILD || zero[0] != 0)
        return 2;
    if (pagecheck_forget(&p->channel, out) != -ECHILD)
        return 3;
    if (pagecheck_detach(client, 0, late()) != -ECHILD || strstr(client->error, "parent") == NULL)
        return 4;
    if (pagecheck_check(client) != -ECONNRESET)
        return 5;
    if (pagecheck_close_channel(client, &p->channel, late()) != -ECHILD)
        return 6;
    pagecheck_disconnect(client);
    return 0;
}

static void test_fork(void)
{
    int ram = new_ram(), ends[2], status = -1;
    pair p;
    pagecheck_client client;
    uint64_t ticket, zero[1], decided[1];
    char byte;
    pair_init(ram, &p);
    memset(&client, 0, sizeof client);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        abort();
    client.socket = ends[0];
    client.passed = -1;
    client.own = pgck_own();
    check_begin();
    CHECK(pagecheck_submit_range(&p.channel, 0, 2, 1, &ticket) == 0, "%s", p.channel.error);
    pid_t child = fork();
    if (child == 0)
        _exit(in_child(&p, &client, ticket));
    CHECK(waitpid(child, &status, 0) == child && status == 0, "the child's step %d",
          WEXITSTATUS(status));
    CHECK(recv(ends[1], &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN,
          "the child shut the connection down, or spoke on it");
    answer_now(&p);
    CHECK(pagecheck_wait(&p.channel, ticket, soon(), zero, decided) == 0, "%s", p.channel.error);
    CHECK(zero[0] == 1, "the parent's answer");
    pagecheck_disconnect(&client);
    CHECK(recv(ends[1], &byte, 1, MSG_DONTWAIT) == 0, "the parent's end shuts it down");
    pair_deinit(&p);
    check_end("fork", "");
    close(ends[1]);
    close(ram);
}
#endif

/* Who only polls learns of a service that was killed with its workers, too. */
static void test_polling(void)
{
    int ram = new_ram(), ends[2], code;
    pair p;
    uint64_t ticket, zero[1], decided[1];
    pair_init(ram, &p);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        abort();
    p.channel.socket = ends[0];
    check_begin();
    CHECK(pagecheck_submit_range(&p.channel, 0, 2, 1, &ticket) == 0, "%s", p.channel.error);
    CHECK(pagecheck_wait(&p.channel, ticket, 0, zero, decided) == -ETIMEDOUT, "answered");
    close(ends[1]);
    int64_t until = late();
    do
        code = pagecheck_wait(&p.channel, ticket, 0, zero, decided);
    while (code == -ETIMEDOUT && pagecheck_now_ns() < until);
    CHECK(code == -ECONNRESET, "%d: %s", code, p.channel.error);
    CHECK(pagecheck_submit_range(&p.channel, 0, 2, 1, &ticket) == -ECONNRESET, "goes on");
    pair_deinit(&p);
    check_end("a poller learns that the worker is gone", "");
    close(ram);
}

/* The same for who only submits, into a ring that stays full. */
static void test_submitting(void)
{
    int ram = new_ram(), ends[2], code;
    pair p;
    uint64_t ticket;
    pair_init(ram, &p);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        abort();
    p.channel.socket = ends[0];
    check_begin();
    for (uint32_t i = 0; i < p.channel.slots; i++)
        CHECK(pagecheck_submit_range(&p.channel, 0, 2, 1, &ticket) == 0, "%s", p.channel.error);
    CHECK(pagecheck_submit_range(&p.channel, 0, 2, 1, &ticket) == -EAGAIN, "there is room");
    close(ends[1]);
    int64_t until = late();
    do
        code = pagecheck_submit_range(&p.channel, 0, 2, 1, &ticket);
    while (code == -EAGAIN && pagecheck_now_ns() < until);
    CHECK(code == -ECONNRESET, "%d: %s", code, p.channel.error);
    pair_deinit(&p);
    check_end("a submitter learns that the worker is gone", "");
    close(ram);
}

#ifndef __aarch64__ /* qemu-aarch64 passes descriptors on as the host does */
typedef struct serving {
    int listener;
    char heard[1024];
} serving;

static void say(int to, const char *text, int fd)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.head = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
    struct iovec part = {(void *)(uintptr_t)text, strlen(text)};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
    if (fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(sizeof fd);
    }
    if (sendmsg(to, &message, MSG_NOSIGNAL) < 0)
        abort();
}

/* Greets, opens a channel, and notes what it is told next. It is a process of its own, so that the
 * limit on descriptors is the client's only. */
static void serve_one(serving *s, int report)
{
    char line[1024];
    int to = accept(s->listener, NULL, NULL);
    say(to, GREETING, -1);
    ssize_t got = recv(to, line, sizeof line - 1, 0);
    say(to, CHANNEL, new_segment(SLOTS, SLOT_PAGES, SEALS));
    got = recv(to, line, sizeof line, 0);
    say(to, CLOSED, -1);
    if (write(report, line, got > 0 ? (size_t)got : 0) != got)
        _exit(1);
    _exit(0);
}

static void test_no_descriptor_left(void)
{
    static const pagecheck_channel_options options = {4, 128, 0};
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    struct rlimit usual, tight;
    pagecheck_client client;
    pagecheck_channel channel;
    char heard[1024] = "";
    int report[2];
    serving s = {.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    snprintf(at.sun_path, sizeof at.sun_path, "/tmp/pagecheck-defects-%d", (int)getpid());
    if (pipe(report) != 0 || bind(s.listener, (struct sockaddr *)&at, sizeof at) != 0 ||
        listen(s.listener, 1) != 0)
        abort();
    pid_t child = fork();
    if (child == 0)
        serve_one(&s, report[1]);
    close(report[1]);
    check_begin();
    CHECK(pagecheck_connect(at.sun_path, late(), &client) == 0, "%s", client.error);
    getrlimit(RLIMIT_NOFILE, &usual);
    int lowest = dup(0);
    close(lowest);
    tight = (struct rlimit){(rlim_t)lowest, usual.rlim_max};
    setrlimit(RLIMIT_NOFILE, &tight);
    int code = pagecheck_open_channel(&client, &options, late(), &channel);
    setrlimit(RLIMIT_NOFILE, &usual);
    CHECK(code == -EMFILE, "%d: %s", code, client.error);
    CHECK(client.failed == 0, "the connection cannot be used any more: %d", client.failed);
    pagecheck_channel_unmap(&channel); /* harmless */
    waitpid(child, NULL, 0);
    CHECK(read(report[0], heard, sizeof heard - 1) > 0 && strstr(heard, "close-channel") != NULL &&
              strstr(heard, "7") != NULL,
          "the service was told: %s", heard);
    pagecheck_disconnect(&client);
    check_end("no descriptor is left", "");
    close(report[0]);
    close(s.listener);
    unlink(at.sun_path);
}

#endif

int main(void)
{
    test_zeroed();
    test_old_words();
    test_extremes();
    test_polling();
    test_submitting();
#ifndef __aarch64__
    test_fork();
    test_no_descriptor_left();
#endif
    return check_summary();
}
