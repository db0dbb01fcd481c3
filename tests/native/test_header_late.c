/* include/pagecheck.h's connection when a deadline passes: what was not asked can be asked again,
 * what was answered too late is dropped and released, and what cannot go on says to connect
 * again. */
#include "header_fixture.h"

#define OPENED "{\"return\":{\"channel\":7,\"slots\":4,\"slot_pages\":128},\"id\":%u}\n"
#define ATTACHED "{\"return\":{\"block\":9,\"blocks\":[]},\"id\":%u}\n"
#define DONE "{\"return\":{},\"id\":%u}\n"

static const pagecheck_channel_options options = {4, 128, 0};

/* A client and the service's end of its connection, both in this thread: what the service says
 * waits in the socket until the client reads. */
typedef struct peers {
    pagecheck_client client;
    int service;
    char heard[4096];
} peers;

static void say(const peers *p, const char *format, unsigned id, bool with_fd)
{
    char text[200];
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.head = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    struct iovec part = {text, (size_t)snprintf(text, sizeof text, format, id)};
#pragma GCC diagnostic pop
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    int fd = with_fd ? new_segment(SLOTS, SLOT_PAGES, SEALS) : -1;
    memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
    if (with_fd) {
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(sizeof fd);
    }
    if (sendmsg(p->service, &message, MSG_NOSIGNAL) < 0)
        abort();
    if (with_fd)
        close(fd);
}

/* What the service was told since the last look. */
static const char *heard(peers *p)
{
    ssize_t got = recv(p->service, p->heard, sizeof p->heard - 1, MSG_DONTWAIT);
    p->heard[got > 0 ? got : 0] = '\0';
    return p->heard;
}

static void peers_init(peers *p)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(at.sun_path, sizeof at.sun_path, "/tmp/pagecheck-late-%d", (int)getpid());
    if (bind(listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(listener, 1) != 0)
        abort();
    int greeter = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    memset(p, 0, sizeof *p);
    p->client.socket = p->client.passed = -1;
    p->client.own = pgck_own();
    p->client.number = pgck_unique(p);
    if (connect(greeter, (struct sockaddr *)&at, sizeof at) != 0)
        abort();
    p->client.socket = greeter;
    p->service = accept(listener, NULL, NULL);
    close(listener);
    unlink(at.sun_path);
}

static void peers_deinit(peers *p)
{
    pagecheck_disconnect(&p->client);
    close(p->service);
}

static int64_t now_and(int64_t more_ns)
{
    return pagecheck_now_ns() + more_ns;
}

/* The process was stopped between the time that it computed and the call. */
static void test_before_a_byte_was_sent(void)
{
    peers p;
    pagecheck_channel channel;
    uint32_t block;
    peers_init(&p);
    check_begin();
    for (int64_t back = 0; back < 3; back++) {
        int64_t passed = now_and(-back * SECOND);
        CHECK(pagecheck_open_channel(&p.client, &options, passed, &channel) == -ETIMEDOUT, "%s",
              p.client.error);
        CHECK(pagecheck_attach(&p.client, "ram", 0, 4096, NULL, 0, passed, &block) == -ETIMEDOUT,
              "%s", p.client.error);
        CHECK(pagecheck_detach(&p.client, 1, passed) == -ETIMEDOUT, "%s", p.client.error);
    }
    CHECK(p.client.failed == 0 && strstr(p.client.error, "again") == NULL, "%s", p.client.error);
    CHECK(*heard(&p) == '\0', "the service heard %s", p.heard);
    say(&p, DONE, (unsigned)p.client.requests + 1, false);
    CHECK(pagecheck_detach(&p.client, 1, late()) == 0, "%s", p.client.error);
    check_end("nothing was asked, nothing is lost", "");
    peers_deinit(&p);
}

static void test_late_answers(void)
{
    peers p;
    pagecheck_channel channel;
    uint32_t block;
    peers_init(&p);
    check_begin();
    int fds = count_fds();
    CHECK(pagecheck_open_channel(&p.client, &options, soon(), &channel) == -ETIMEDOUT, "%s",
          p.client.error);
    CHECK(pagecheck_attach(&p.client, "ram", 0, 4096, NULL, 0, soon(), &block) == -ETIMEDOUT, "%s",
          p.client.error);
    CHECK(block == UINT32_MAX && p.client.failed == 0, "%d: %s", p.client.failed, p.client.error);
    heard(&p);
    say(&p, OPENED, 1, true);
    say(&p, "{\"event\":\"PROGRESS\",\"id\":%u}\n", 2, false);
    say(&p, ATTACHED, 2, false);
    say(&p, "{\"error\":{\"class\":\"UsageError\",\"desc\":\"late\"},\"id\":%u}\n", 1, false);
    say(&p, DONE, 0, false);
    say(&p, DONE, 3, false);
    CHECK(pagecheck_detach(&p.client, 1, late()) == 0, "%s", p.client.error);
    CHECK(count_fds() == fds, "%d descriptors, not %d", count_fds(), fds);
    heard(&p);
    CHECK(strstr(p.heard, "\"close-channel\",\"arguments\":{\"channel\":7}") != NULL, "%s",
          p.heard);
    CHECK(strstr(p.heard, "\"detach\",\"arguments\":{\"block\":9}") != NULL, "%s", p.heard);
    say(&p, DONE, 0, false); /* of what was released */
    say(&p, OPENED, 4, true);
    CHECK(pagecheck_open_channel(&p.client, &options, late(), &channel) == 0, "%s", p.client.error);
    CHECK(channel.id == 7, "channel %u", channel.id);
    pagecheck_channel_unmap(&channel);
    CHECK(count_fds() == fds, "%d descriptors, not %d", count_fds(), fds);
    check_end("late answers are dropped by their ids and released", "");
    peers_deinit(&p);
}

/* The kernel hands a late line and the next one with its descriptor over in one read: the
 * descriptor is the last line's. */
static void test_whose_descriptor(void)
{
    peers p;
    pagecheck_channel channel;
    peers_init(&p);
    check_begin();
    int fds = count_fds();
    CHECK(pagecheck_detach(&p.client, 1, soon()) == -ETIMEDOUT, "%s", p.client.error);
    say(&p, DONE, 1, false);
    say(&p, OPENED, 2, true);
    CHECK(pagecheck_open_channel(&p.client, &options, late(), &channel) == 0, "%s", p.client.error);
    pagecheck_channel_unmap(&channel);
    say(&p, OPENED, 2, true); /* and of a line that nobody asked for, at once with the next */
    say(&p, DONE, 3, false);
    CHECK(pagecheck_detach(&p.client, 1, late()) == 0, "%s", p.client.error);
    CHECK(count_fds() == fds, "%d descriptors, not %d", count_fds(), fds);
    check_end("a descriptor is its own line's", "");
    peers_deinit(&p);
}

/* What came while this process did not run is taken, and an endless service does not hold it. */
static void test_what_came_meanwhile(void)
{
    peers p;
    peers_init(&p);
    check_begin();
    p.client.looks = PGCK_LOOKS;
    say(&p, DONE, 1, false);
    CHECK(pgck_line(&p.client, 0) == 0, "%s", p.client.error);
    CHECK(pgck_line(&p.client, 0) == -ETIMEDOUT, "%s", p.client.error);
    p.client.looks = 2;
    for (int i = 0; i < 2; i++) {
        say(&p, "{\"event\":%u", 1, false);
        CHECK(pgck_receive(&p.client, 0) == 0, "%s", p.client.error);
    }
    say(&p, "{\"event\":%u", 1, false);
    CHECK(pgck_receive(&p.client, 0) == -ETIMEDOUT, "it reads on");
    check_end("what came meanwhile counts, not for ever", "");
    peers_deinit(&p);
}

static void test_half_a_request(void)
{
    static pagecheck_region regions[1000];
    peers p;
    int small = 1;
    uint32_t block;
    pagecheck_channel channel;
    peers_init(&p);
    setsockopt(p.client.socket, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    check_begin();
    int code = pagecheck_attach(&p.client, "ram", 0, 4096, regions, 1000, soon(), &block);
    CHECK(code == -EPROTO && strstr(p.client.error, "connect again") != NULL, "%d: %s", code,
          p.client.error);
    code = pagecheck_open_channel(&p.client, &options, late(), &channel);
    CHECK(code == -EPROTO && strstr(p.client.error, "connect again") != NULL, "%d: %s", code,
          p.client.error);
    pagecheck_channel_unmap(&channel);
    check_end("half a request ends the connection", "");
    peers_deinit(&p);
}

/* Refused here, and the connection is as good as before. */
static void test_not_asked(void)
{
    static pagecheck_region regions[4000];
    peers p;
    uint32_t block;
    peers_init(&p);
    check_begin();
    int code = pagecheck_attach(&p.client, "ram", 0, 4096, regions, 4000, late(), &block);
    CHECK(code == -EMSGSIZE, "%d: %s", code, p.client.error);
    code = pagecheck_attach(&p.client, "ram", 0, 4096, regions, UINT32_MAX, late(), &block);
    CHECK(code == -EMSGSIZE, "%d: %s", code, p.client.error); /* none of them is looked at */
    code = pagecheck_attach(&p.client, "ram", 9999, 4096, NULL, 0, late(), &block);
    CHECK(code == -EBADF, "%d: %s", code, p.client.error);
    CHECK(*heard(&p) == '\0', "%s", p.heard);
    say(&p, ATTACHED, (unsigned)p.client.requests + 1, false);
    code = pagecheck_attach(&p.client, "ram", 0, 4096, NULL, 0, late(), &block);
    CHECK(code == 0 && block == 9 + pgck_base(p.client.number), "%d: %s", code, p.client.error);
    check_end("what cannot be asked", "");
    peers_deinit(&p);
}

static void test_hung_up(void)
{
    peers p;
    peers_init(&p);
    check_begin();
    shutdown(p.service, SHUT_RDWR);
    for (int i = 0; i < 2; i++) {
        int code = pagecheck_detach(&p.client, 1, late());
        CHECK(code == -ECONNRESET && strstr(p.client.error, "connect again") != NULL, "%d: %s",
              code, p.client.error);
    }
    memset(p.client.error, 'x', sizeof p.client.error - 1);
    CHECK(pgck_end(&p.client, -EPROTO) == -EPROTO &&
              strstr(p.client.error, "x; connect again") != NULL &&
              strlen(p.client.error) < sizeof p.client.error,
          "a long error");
    check_end("who hung up is to be connected to again", "");
    peers_deinit(&p);
}

/* Closed twice, never opened, or of another connection: the service is told nothing, since its
 * number may be somebody else's. */
static void test_closing(void)
{
    peers p, other;
    pagecheck_channel channel;
    peers_init(&p);
    peers_init(&other);
    check_begin();
    memset(&channel, 0, sizeof channel);
    CHECK(pagecheck_close_channel(&p.client, &channel, late()) == 0, "%s", p.client.error);
    say(&p, OPENED, 1, true);
    CHECK(pagecheck_open_channel(&p.client, &options, late(), &channel) == 0, "%s", p.client.error);
    heard(&p);
    say(&p, DONE, 2, false);
    CHECK(pagecheck_close_channel(&p.client, &channel, late()) == 0, "%s", p.client.error);
    CHECK(strstr(heard(&p), "close-channel") != NULL, "%s", p.heard);
    CHECK(pagecheck_close_channel(&p.client, &channel, late()) == 0, "%s", p.client.error);
    CHECK(*heard(&p) == '\0', "%s", p.heard);
    say(&p, OPENED, 3, true);
    CHECK(pagecheck_open_channel(&p.client, &options, late(), &channel) == 0, "%s", p.client.error);
    CHECK(pagecheck_close_channel(&other.client, &channel, late()) == 0, "%s", other.client.error);
    CHECK(*heard(&other) == '\0', "%s", other.heard);
    CHECK(channel.ring.header == NULL, "it is mapped");
    CHECK(pagecheck_open_channel(&p.client, &options, 0, &channel) == -ETIMEDOUT, "opened");
    CHECK(pagecheck_close_channel(&p.client, &channel, late()) == 0, "a channel that did not open");
    check_end("closing what is not open", "");
    peers_deinit(&p);
    peers_deinit(&other);
}

/* A close that the service was not told of, or did not answer in time, is asked for once more: its
 * channel and worker would stay for as long as the connection. */
static void test_closing_again(void)
{
    peers p;
    pagecheck_channel channel;
    peers_init(&p);
    check_begin();
    say(&p, OPENED, 1, true);
    CHECK(pagecheck_open_channel(&p.client, &options, late(), &channel) == 0, "%s", p.client.error);
    heard(&p);
    CHECK(pagecheck_close_channel(&p.client, &channel, now_and(-SECOND)) == -ETIMEDOUT, "%s",
          p.client.error);
    CHECK(channel.ring.header == NULL && *heard(&p) == '\0', "%s", p.heard);
    CHECK(pagecheck_close_channel(&p.client, &channel, soon()) == -ETIMEDOUT, "%s", p.client.error);
    CHECK(strstr(heard(&p), "\"close-channel\",\"arguments\":{\"channel\":7}") != NULL, "%s",
          p.heard);
    say(&p, DONE, 3, false); /* too late */
    say(&p, "{\"error\":{\"class\":\"UsageError\",\"desc\":\"is not open\"},\"id\":%u}\n", 4,
        false);
    CHECK(pagecheck_close_channel(&p.client, &channel, late()) == 0, "%s", p.client.error);
    CHECK(strstr(heard(&p), "close-channel") != NULL, "%s", p.heard);
    CHECK(pagecheck_close_channel(&p.client, &channel, late()) == 0, "%s", p.client.error);
    CHECK(*heard(&p) == '\0', "%s", p.heard);
    say(&p, OPENED, 5, true);
    CHECK(pagecheck_open_channel(&p.client, &options, late(), &channel) == 0, "%s", p.client.error);
    pagecheck_channel_unmap(&channel); /* which tells nobody */
    heard(&p);
    say(&p, DONE, 6, false);
    CHECK(pagecheck_close_channel(&p.client, &channel, late()) == 0, "%s", p.client.error);
    CHECK(strstr(heard(&p), "close-channel") != NULL, "%s", p.heard);
    check_end("closing again what the service did not hear of", "");
    peers_deinit(&p);
}

/* Both connections have a block 9. */
static void test_blocks_of_other_connections(void)
{
    peers p, other;
    pagecheck_channel channel;
    uint32_t mine, theirs;
    uint64_t ticket;
    peers_init(&p);
    peers_init(&other);
    check_begin();
    say(&p, ATTACHED, 1, false);
    say(&other, ATTACHED, 1, false);
    CHECK(pagecheck_attach(&p.client, "ram", 0, 4096, NULL, 0, late(), &mine) == 0, "%s",
          p.client.error);
    CHECK(pagecheck_attach(&other.client, "ram", 0, 4096, NULL, 0, late(), &theirs) == 0, "%s",
          other.client.error);
    CHECK(mine != theirs && mine != UINT32_MAX, "both are %" PRIu32, mine);
    say(&p, OPENED, 2, true);
    CHECK(pagecheck_open_channel(&p.client, &options, late(), &channel) == 0, "%s", p.client.error);
    CHECK(pagecheck_submit_range(&channel, mine, 0, 1, &ticket) == 0, "%s", channel.error);
    CHECK(pgck_slot(&channel.ring, 1)->block == 9, "block %" PRIu32,
          pgck_slot(&channel.ring, 1)->block);
    CHECK(pagecheck_submit_range(&channel, theirs, 0, 1, &ticket) == 0, "%s", channel.error);
    CHECK(pgck_slot(&channel.ring, 2)->block != 9, "a stranger's block");
    CHECK(pagecheck_submit_range(&channel, UINT32_MAX, 0, 1, &ticket) == 0, "%s", channel.error);
    CHECK(pgck_slot(&channel.ring, 3)->block > 1u << 30, "no block's");
    heard(&p);
    CHECK(pagecheck_detach(&p.client, theirs, soon()) == -ETIMEDOUT, "%s", p.client.error);
    CHECK(strstr(heard(&p), "{\"block\":9}") == NULL && *p.heard != '\0', "%s", p.heard);
    CHECK(pagecheck_detach(&p.client, mine, soon()) == -ETIMEDOUT, "%s", p.client.error);
    CHECK(strstr(heard(&p), "{\"block\":9}") != NULL, "%s", p.heard);
    pagecheck_channel_unmap(&channel);
    check_end("a block is its connection's", "");
    peers_deinit(&p);
    peers_deinit(&other);
}

int main(void)
{
    test_before_a_byte_was_sent();
    test_late_answers();
    test_whose_descriptor();
    test_what_came_meanwhile();
    test_half_a_request();
    test_not_asked();
    test_hung_up();
    test_closing();
    test_closing_again();
    test_blocks_of_other_connections();
    return check_summary();
}
