/* include/pagecheck.h where the kernel refuses what it asks for: seccomp plays the kernel. */
#include "header_fixture.h"

#ifndef __aarch64__ /* qemu-aarch64 has no seccomp for its guests */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/wait.h>

/* From now on a system call fails with `code` where an argument (counted from 0) is `value`. */
static void refuse(int call, unsigned argument, uint32_t value, uint32_t code)
{
    const uint32_t number = offsetof(struct seccomp_data, nr);
    const uint32_t at = (uint32_t)(offsetof(struct seccomp_data, args) + 8 * argument);
    struct sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, number),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at), /* the lower half */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | code),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof steps / sizeof *steps, steps};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        _exit(99);
}

/* What a process of its own returns: a filter is for ever. */
static int ran_apart(int (*run)(void))
{
    int status = -1;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        _exit(run());
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static pair p;
static uint64_t out;

/* All that a child of fork may not do. */
static int in_child(void)
{
    uint64_t ticket, zero[1] = {1}, decided[1] = {1};
    if (pagecheck_submit_range(&p.channel, 0, 2, 1, &ticket) != -ECHILD)
        return 1;
    if (pagecheck_wait(&p.channel, out, late(), zero, decided) != -ECHILD || zero[0] != 0)
        return 2;
    pagecheck_channel_unmap(&p.channel);
    return pagecheck_forget(&p.channel, out) == -ENOTCONN ? 0 : 3;
}

/* Before Linux 4.14. */
static int forks_unwiped(void)
{
    uint64_t zero[1], decided[1];
    refuse(SYS_madvise, 2, PGCK_WIPEONFORK, EINVAL);
    pair_init(new_ram(), &p);
    if (*p.channel.own == 1 || pagecheck_submit_range(&p.channel, 0, 2, 1, &out) != 0)
        return 11;
    int step = ran_apart(in_child);
    if (step != 0)
        return step;
    answer_now(&p);
    if (pagecheck_wait(&p.channel, out, soon(), zero, decided) != 0 || zero[0] != 1)
        return 12;
    pair_deinit(&p);
    return 0;
}

static void test_fork(void)
{
    check_begin();
    int step = ran_apart(forks_unwiped);
    CHECK(step == 0, "step %d", step);
    check_end("fork, where the kernel wipes nothing", "");
}

static int maps(int code)
{
    pagecheck_channel channel;
    int fd = new_segment(SLOTS, SLOT_PAGES, SEALS);
    refuse(SYS_mmap, 3, MAP_SHARED, (uint32_t)code);
    int result = pagecheck_channel_map(fd, &channel);
    pagecheck_channel_unmap(&channel);
    return -result;
}

static int maps_with_enomem(void)
{
    return maps(ENOMEM);
}

static int maps_with_eagain(void)
{
    return maps(EAGAIN);
}

static int maps_with_enfile(void)
{
    return maps(ENFILE);
}

static int maps_with_eperm(void)
{
    return maps(EPERM);
}

/* The service is at fault for none of them but the last, as where it sealed the segment against
 * writing. */
static void test_map(void)
{
    check_begin();
    CHECK(ran_apart(maps_with_enomem) == ENOMEM, "ENOMEM");
    CHECK(ran_apart(maps_with_eagain) == ENOMEM, "EAGAIN: too much is locked");
    CHECK(ran_apart(maps_with_enfile) == ENFILE, "ENFILE");
    CHECK(ran_apart(maps_with_eperm) == EPROTO, "EPERM");
    check_end("mapping a channel", "");
}
#endif

/* A channel that was mapped without a client. */
static void test_watch(void)
{
    int ram = new_ram(), ends[2], code;
    uint64_t ticket, zero[1], decided[1];
    pair mapped;
    pagecheck_channel closed;
    pair_init(ram, &mapped);
    memset(&closed, 0, sizeof closed);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        abort();
    check_begin();
    CHECK(pagecheck_channel_watch(&closed, ends[0]) == -ENOTCONN, "%s", closed.error);
    CHECK(pagecheck_channel_watch(&mapped.channel, ends[0]) == 0, "%s", mapped.channel.error);
    CHECK(pagecheck_channel_watch(&mapped.channel, -1) == -EBADF, "%s", mapped.channel.error);
    CHECK(pagecheck_channel_watch(&mapped.channel, ends[0]) == 0, "%s", mapped.channel.error);
    CHECK(fcntl(ends[0], F_GETFD) >= 0, "the caller's descriptor is closed");
    CHECK(pagecheck_submit_range(&mapped.channel, 0, 2, 1, &ticket) == 0, "submit");
    CHECK(pagecheck_wait(&mapped.channel, ticket, 0, zero, decided) == -ETIMEDOUT, "answered");
    close(ends[1]);
    int64_t until = late();
    do
        code = pagecheck_wait(&mapped.channel, ticket, 0, zero, decided);
    while (code == -ETIMEDOUT && pagecheck_now_ns() < until);
    CHECK(code == -ECONNRESET, "%d: %s", code, mapped.channel.error);
    pair_deinit(&mapped);
    check_end("a mapped channel learns that its service is gone", "");
    close(ends[0]);
    close(ram);
}

int main(void)
{
    test_watch();
#ifndef __aarch64__
    test_map();
    test_fork();
#endif
    return check_summary();
}
