/* Preloaded into a program: before its Nth call of one of the functions below it gets a signal, or
   the call fails. Also interrupts all calls of a program, and moves the time of day.

   By the environment, which the programs that it starts inherit:

     FAULT_WHO      only in a process whose command line has this in it
     FAULT_AT       the number of the call, from 0
     FAULT_CALL     only calls of this function count
     FAULT_DOES     a signal's number; or minus an error number
     FAULT_LIVES    a folder: each file in it is one time that it may happen
     FAULT_PEER     in place of FAULT_DOES, only messages are counted, and one is `lost`, `late`,
                    sent `twice`, `cut` in the middle with the connection, `unsent` because that
                    ends, or its value is `empty` or an `error`, as of QMP
     FAULT_ALARM_US an interval of SIGALRM, which restarts no call
     FAULT_STEP_S   the time of day jumps ahead and back by so much

   It knows libc, and nothing of what is tested. */

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LATE_US = 1500000 };

static atomic_long calls;
static long at = -1, does, step_s;
static const char *peer, *call;
static char lives[4096];

/* The system call itself: `syscall` is one of the functions below. */
#define raw(...) ((__typeof__(&syscall))dlsym(RTLD_NEXT, "syscall"))(__VA_ARGS__)

static void on_alarm(int number)
{
    (void)number;
}

static int is_meant(void)
{
    const char *who = getenv("FAULT_WHO");
    static char line[1 << 16];
    int fd = (int)raw(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? 0 : raw(SYS_read, fd, line, sizeof(line));

    if (fd >= 0)
        raw(SYS_close, fd);
    return who && size > 0 && memmem(line, (size_t)size, who, strlen(who));
}

static void start_alarm(const char *text)
{
    struct sigaction action = {.sa_handler = on_alarm};
    struct itimerval every = {{0, atol(text)}, {0, atol(text)}};

    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
}

__attribute__((constructor)) static void begin(void)
{
    const char *text;

    if ((text = getenv("FAULT_STEP_S")))
        step_s = atol(text);
    if ((text = getenv("FAULT_ALARM_US")))
        start_alarm(text);
    if (!is_meant())
        return;
    if ((text = getenv("FAULT_LIVES")))
        snprintf(lives, sizeof(lives), "%s", text);
    if ((text = getenv("FAULT_DOES")))
        does = atol(text);
    peer = getenv("FAULT_PEER");
    call = getenv("FAULT_CALL");
    if ((text = getenv("FAULT_AT")))
        at = atol(text);
}

/* Whether this process is the one that took a life: no two take the same. */
static int take_life(void)
{
    for (int number = 0; number < 8; number++) {
        char path[sizeof(lives) + 8];

        snprintf(path, sizeof(path), "%s/%d", lives, number);
        if (raw(SYS_unlinkat, AT_FDCWD, path, 0) == 0)
            return 1;
    }
    return 0;
}

/* The error number with which the call is to fail, or 0. */
static int point(const char *name)
{
    int before = errno, error = 0;

    if (at >= 0 && !peer && (!call || strcmp(call, name) == 0) &&
        atomic_fetch_add(&calls, 1) == at && take_life()) {
        if (does > 0)
            raw(SYS_kill, raw(SYS_getpid), (int)does);
        else
            error = (int)-does;
    }
    errno = before;
    return error;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Such as answer -1 and errno where they fail. */
#define WRAP(type, name, parameters, arguments)                                                    \
    type name parameters                                                                           \
    {                                                                                              \
        static __typeof__(&name) real;                                                             \
        int error = point(#name);                                                                  \
                                                                                                   \
        if (error) {                                                                               \
            errno = error;                                                                         \
            return (type) - 1;                                                                     \
        }                                                                                          \
        if (!real)                                                                                 \
            real = REAL(name);                                                                     \
        return real arguments;                                                                     \
    }

/* Such as answer an error number. */
#define WRAP_NUMBER(name, parameters, arguments)                                                   \
    int name parameters                                                                            \
    {                                                                                              \
        static __typeof__(&name) real;                                                             \
        int error = point(#name);                                                                  \
                                                                                                   \
        if (error)                                                                                 \
            return error;                                                                          \
        if (!real)                                                                                 \
            real = REAL(name);                                                                     \
        return real arguments;                                                                     \
    }

WRAP(ssize_t, pread, (int a, void *b, size_t c, off_t d), (a, b, c, d))
WRAP(ssize_t, pread64, (int a, void *b, size_t c, off64_t d), (a, b, c, d))
WRAP(ssize_t, pwrite, (int a, const void *b, size_t c, off_t d), (a, b, c, d))
WRAP(ssize_t, pwrite64, (int a, const void *b, size_t c, off64_t d), (a, b, c, d))
WRAP(ssize_t, preadv2, (int a, const struct iovec *b, int c, off_t d, int e), (a, b, c, d, e))
WRAP(ssize_t, preadv64v2, (int a, const struct iovec *b, int c, off64_t d, int e), (a, b, c, d, e))
WRAP(ssize_t, process_vm_readv,
     (pid_t a, const struct iovec *b, unsigned long c, const struct iovec *d, unsigned long e,
      unsigned long f),
     (a, b, c, d, e, f))
WRAP(int, fallocate, (int a, int b, off_t c, off_t d), (a, b, c, d))
WRAP(int, fallocate64, (int a, int b, off64_t c, off64_t d), (a, b, c, d))
WRAP(int, ftruncate, (int a, off_t b), (a, b))
WRAP(int, ftruncate64, (int a, off64_t b), (a, b))
WRAP(int, fsync, (int a), (a))
WRAP(int, fdatasync, (int a), (a))
WRAP(int, rename, (const char *a, const char *b), (a, b))
WRAP(int, renameat, (int a, const char *b, int c, const char *d), (a, b, c, d))
WRAP(int, renameat2, (int a, const char *b, int c, const char *d, unsigned e), (a, b, c, d, e))
WRAP(int, unlink, (const char *a), (a))
WRAP(int, unlinkat, (int a, const char *b, int c), (a, b, c))
WRAP(int, rmdir, (const char *a), (a))
WRAP(int, mkdir, (const char *a, mode_t b), (a, b))
WRAP(int, mkdirat, (int a, const char *b, mode_t c), (a, b, c))
WRAP(int, fchmod, (int a, mode_t b), (a, b))
WRAP(int, chmod, (const char *a, mode_t b), (a, b))
WRAP(int, flock, (int a, int b), (a, b))
WRAP(void *, mmap, (void *a, size_t b, int c, int d, int e, off_t f), (a, b, c, d, e, f))
WRAP(void *, mmap64, (void *a, size_t b, int c, int d, int e, off64_t f), (a, b, c, d, e, f))
WRAP(int, mincore, (void *a, size_t b, unsigned char *c), (a, b, c))
WRAP(int, madvise, (void *a, size_t b, int c), (a, b, c))
WRAP(int, memfd_create, (const char *a, unsigned b), (a, b))
WRAP(int, shm_open, (const char *a, int b, mode_t c), (a, b, c))
WRAP(int, shm_unlink, (const char *a), (a))
WRAP(int, socketpair, (int a, int b, int c, int d[2]), (a, b, c, d))
WRAP(int, connect, (int a, const struct sockaddr *b, socklen_t c), (a, b, c))
WRAP(int, accept4, (int a, struct sockaddr *b, socklen_t *c, int d), (a, b, c, d))
WRAP(ssize_t, send, (int a, const void *b, size_t c, int d), (a, b, c, d))
WRAP(ssize_t, recv, (int a, void *b, size_t c, int d), (a, b, c, d))
WRAP(ssize_t, recvmsg, (int a, struct msghdr *b, int c), (a, b, c))
WRAP(int, poll, (struct pollfd * a, nfds_t b, int c), (a, b, c))
WRAP(pid_t, waitpid, (pid_t a, int *b, int c), (a, b, c))
WRAP(off_t, lseek, (int a, off_t b, int c), (a, b, c)) /* Python calls lseek64 */
WRAP_NUMBER(posix_spawn,
            (pid_t * a, const char *b, const posix_spawn_file_actions_t *c,
             const posix_spawnattr_t *d, char *const e[], char *const f[]),
            (a, b, c, d, e, f))
WRAP_NUMBER(pthread_create, (pthread_t * a, const pthread_attr_t *b, void *(*c)(void *), void *d),
            (a, b, c, d))

static ssize_t send_real(int fd, const struct msghdr *message, int flags)
{
    return REAL(sendmsg)(fd, message, flags);
}

/* An answer of QMP with the same id and another value; 0: the message is no answer. */
static int send_other(int fd, const char *text, size_t size)
{
    const char *id = memmem(text, size, "\"id\": ", 6);
    char said[256], number[64];

    if (!id || sscanf(id + 6, "%63[^,} ]", number) != 1)
        return 0;
    if (strcmp(peer, "empty") == 0)
        snprintf(said, sizeof(said), "{\"return\": {}, \"id\": %s}\r\n", number);
    else
        snprintf(said, sizeof(said),
                 "{\"id\": %s, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\r\n",
                 number);
    raw(SYS_sendto, fd, said, strlen(said), MSG_NOSIGNAL, NULL, 0);
    return 1;
}

static ssize_t send_faulty(int fd, const struct msghdr *message, int flags)
{
    const char *text = message->msg_iov[0].iov_base;
    size_t size = message->msg_iov[0].iov_len;

    if (strcmp(peer, "late") == 0 || strcmp(peer, "twice") == 0) {
        if (*peer == 'l')
            usleep(LATE_US);
        else
            send_real(fd, message, flags);
        return send_real(fd, message, flags);
    }
    if (strcmp(peer, "cut") == 0)
        raw(SYS_sendto, fd, text, size / 2, MSG_NOSIGNAL, NULL, 0);
    if (strcmp(peer, "cut") == 0 || strcmp(peer, "unsent") == 0)
        shutdown(fd, SHUT_RDWR);
    else if (strcmp(peer, "lost") != 0 && !send_other(fd, text, size))
        return send_real(fd, message, flags);
    return (ssize_t)size;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    static atomic_long messages;
    int error = point("sendmsg");

    if (error) {
        errno = error;
        return -1;
    }
    if (peer && at >= 0 && message->msg_iovlen == 1 && atomic_fetch_add(&messages, 1) == at &&
        take_life())
        return send_faulty(fd, message, flags);
    return send_real(fd, message, flags);
}

long syscall(long number, ...)
{
    int error = point("syscall");
    va_list list;
    long a[6];

    if (error) {
        errno = error;
        return -1;
    }
    va_start(list, number);
    for (int index = 0; index < 6; index++)
        a[index] = va_arg(list, long);
    va_end(list);
    return raw(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static __typeof__(&clock_gettime) real;
    static atomic_long asked;
    int answer;

    if (!real)
        real = REAL(clock_gettime);
    answer = real(clock, now);
    if (step_s && clock == CLOCK_REALTIME && atomic_fetch_add(&asked, 1) % 2)
        now->tv_sec += atomic_load(&asked) % 4 < 2 ? step_s : -step_s;
    return answer;
}
