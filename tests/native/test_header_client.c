/* include/pagecheck.h's connection, with services that say what the case wants. */
#include "header_fixture.h"

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
    memset(&control, 0, sizeof control);
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
        {"another id", GREETING,
         "{\"return\": {\"channel\": 7, \"slots\": 4, \"slot_pages\": 128}, \"id\": 2}\n", 0,
         -EPROTO, 1, false},
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
        {"its layout among others",
         "{\"pagecheck\":{\"layouts\":[1, 3 ,7],\"protocol\":1,\"layout\":7}}\n", CHANNEL, 0, 0, 1,
         false},
        {"none of its layouts is ours",
         "{\"pagecheck\":{\"layout\":3,\"layouts\":[4,33],\"protocol\":1}}\n", NULL,
         -EPROTONOSUPPORT, 0, 0, false},
        {"no list of layouts",
         "{\"pagecheck\":{\"layout\":3,\"layouts\":{\"3\":3},\"protocol\":1}}\n", NULL,
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

int main(void)
{
    test_services();
    return check_summary();
}
