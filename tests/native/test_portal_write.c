/* The portal that submits by write(2), over pipes and files in the place of the queue's node: every
 * byte arrives, and a short or a failed write says how much was taken. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include "portal_fixture.h"

static void test_write_pipe(void)
{
    int ends[2];
    raw_descriptor got[3];
    fill_descriptors(1);
    check_begin();
    CHECK(pipe2(ends, O_NONBLOCK) == 0, "errno %d", errno);
    pc_portal *portal = pc_portal_open_write(ends[1]);
    CHECK(strcmp(portal->ops->name, "write") == 0, "%s", portal->ops->name);
    CHECK(portal->ops->register_memory == NULL && portal->ops->unregister_memory == NULL, "gives");
    CHECK(portal->ops->submit(portal, descriptors, 3) == 3, "taken");
    CHECK(portal->ops->submit(portal, descriptors, 0) == 0, "nothing");
    CHECK(read(ends[0], got, sizeof got) == sizeof got, "read");
    CHECK(memcmp(got, descriptors, sizeof got) == 0, "bytes");
    portal->ops->close(portal);
    CHECK(read(ends[0], got, sizeof got) == 0, "the other end is open");
    CHECK(fcntl(ends[1], F_GETFD) == -1 && errno == EBADF, "the fd is open");
    close(ends[0]);
    check_end("write: bytes, count, close", "");
}

static void test_write_full(void)
{
    int ends[2];
    check_begin();
    CHECK(pipe2(ends, O_NONBLOCK) == 0, "errno %d", errno);
    int room = fcntl(ends[1], F_SETPIPE_SZ, 4096);
    CHECK(room >= 4096, "errno %d", errno);
    pc_portal *portal = pc_portal_open_write(ends[1]);
    long taken = 0, last;
    while ((last = portal->ops->submit(portal, descriptors, MOST)) == MOST)
        taken += last;
    CHECK(last > 0 && taken + last == room / (long)PC_DESCRIPTOR_BYTES, "short: %ld", last);
    CHECK(portal->ops->submit(portal, descriptors, MOST) == 0, "a full pipe");
    CHECK(portal->ops->submit(portal, descriptors, 1) == 0, "a full pipe, one");
    portal->ops->close(portal);
    close(ends[0]);
    check_end("write: short counts, EAGAIN", "");
}

/* A file that may grow to 100 bytes takes one descriptor and a half. */
static void test_write_ragged(void)
{
    struct rlimit before, limit;
    int fd = memfd_create("ragged", MFD_CLOEXEC);
    check_begin();
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    limit.rlim_cur = 100;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    pc_portal *portal = pc_portal_open_write(fd);
    long first = portal->ops->submit(portal, descriptors, 3);
    long second = portal->ops->submit(portal, descriptors, 3);
    setrlimit(RLIMIT_FSIZE, &before); /* before anything is printed */
    signal(SIGXFSZ, SIG_DFL);
    CHECK(first == 1, "%ld", first);
    CHECK(second == -EFBIG, "%ld", second);
    portal->ops->close(portal);
    check_end("write: a count in the middle of a descriptor", "");
}

static void test_write_errors(void)
{
    int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
    check_begin();
    pc_portal *portal = pc_portal_open_write(fd);
    CHECK(portal->ops->submit(portal, descriptors, 2) == -ENOSPC, "/dev/full");
    close(fd);
    CHECK(portal->ops->submit(portal, descriptors, 2) == -EBADF, "a closed fd");
    portal->ops->close(portal);
    check_end("write: errors", "");
}

static volatile sig_atomic_t alarms;
static int alarm_drains;

/* The second one makes room; a later one would wait for ever in an empty pipe. */
static void on_alarm(int number)
{
    char bytes[4096];
    (void)number;
    if (++alarms == 2 && read(alarm_drains, bytes, sizeof bytes) < 0)
        alarms = 100;
}

static void test_write_interrupted(void)
{
    const struct itimerval every = {.it_interval.tv_usec = 5000, .it_value.tv_usec = 5000};
    const struct itimerval never = {.it_value.tv_usec = 0};
    struct sigaction action = {.sa_handler = on_alarm}; /* without SA_RESTART */
    int ends[2];
    check_begin();
    CHECK(pipe(ends) == 0, "errno %d", errno);
    pc_portal *portal = pc_portal_open_write(ends[1]);
    for (int room = fcntl(ends[1], F_SETPIPE_SZ, 4096); room > 0; room -= 4096)
        CHECK(portal->ops->submit(portal, descriptors, 64) == 64, "room %d", room);
    alarms = 0;
    alarm_drains = ends[0];
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
    long taken = portal->ops->submit(portal, descriptors, 1); /* waits in the full pipe */
    setitimer(ITIMER_REAL, &never, NULL);
    signal(SIGALRM, SIG_IGN); /* of one that is late, under valgrind, too */
    CHECK(taken == 1, "%ld", taken);
    CHECK(alarms >= 2 && alarms < 100, "%d signals", (int)alarms);
    portal->ops->close(portal);
    close(ends[0]);
    check_end("write: EINTR is not an answer", "");
}

int main(void)
{
    test_write_pipe();
    test_write_full();
    test_write_ragged();
    test_write_errors();
    test_write_interrupted();
    return check_summary();
}
