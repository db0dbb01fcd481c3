/* A process whose memory a test arranges: it does what the lines on its stdin say, one answer each
 * ("ok VALUE" or "error ERRNO"), and ends with its stdin. Numbers are decimal; see target.py. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { WORDS = 9, LINE_BYTES = 1 << 14 };

static const struct {
    const char *name;
    long number;
} calls[] = {
    {"mmap", SYS_mmap},           {"munmap", SYS_munmap},
    {"mremap", SYS_mremap},       {"mprotect", SYS_mprotect},
    {"madvise", SYS_madvise},     {"mlock", SYS_mlock},
    {"openat", SYS_openat},       {"memfd_create", SYS_memfd_create},
    {"ftruncate", SYS_ftruncate}, {"close", SYS_close},
    {"prctl", SYS_prctl},         {"userfaultfd", SYS_userfaultfd},
    {"ioctl", SYS_ioctl},         {"unshare", SYS_unshare},
    {"setresgid", SYS_setresgid}, {"setresuid", SYS_setresuid},
};

static char scratch[LINE_BYTES];

static struct {
    pthread_t thread;
    atomic_bool runs;
    atomic_long rounds;
    volatile char *base;
    size_t size;
    int advice; /* negative: none, the bytes alone change */
    char byte;
} churn;

static char *address(const char *word)
{
    return (char *)strtoul(word, NULL, 10);
}
static size_t count(const char *word)
{
    return strtoul(word, NULL, 10);
}

static void answer(long result)
{
    if (result < 0 && result > -4096)
        printf("error %ld\n", -result);
    else
        printf("ok %ld\n", result);
    fflush(stdout);
}

static long call(char **words)
{
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
        if (strcmp(calls[i].name, words[1]) == 0) {
            long at[6];
            for (int k = 0; k < 6; k++)
                at[k] = words[2 + k] ? strtol(words[2 + k], NULL, 10) : 0;
            long result = syscall(calls[i].number, at[0], at[1], at[2], at[3], at[4], at[5]);
            return result == -1 ? -errno : result;
        }
    return -ENOSYS;
}

static long put(char *to, const char *hex)
{
    long length = 0;
    for (; hex[0] && hex[1]; hex += 2) {
        char byte[3] = {hex[0], hex[1], 0};
        to[length++] = (char)strtoul(byte, NULL, 16);
    }
    return length;
}

static void get(const char *from, size_t size)
{
    fputs("ok ", stdout);
    for (size_t i = 0; i < size; i++)
        printf("%02x", (unsigned char)from[i]);
    puts("");
    fflush(stdout);
}

static long touch(const volatile char *from, size_t size)
{
    long sum = 0;
    for (size_t at = 0; at < size; at += 4096)
        sum |= from[at];
    return sum & 0;
}

/* Writes and takes away, over and over, until it is told to stop. */
static void *churn_on(void *unused)
{
    while (atomic_load(&churn.runs)) {
        memset((char *)churn.base, churn.byte, churn.size);
        if (churn.advice >= 0 && madvise((char *)churn.base, churn.size, churn.advice))
            abort();
        atomic_fetch_add(&churn.rounds, 1);
    }
    return unused;
}

/* What a kernel may do with pages, and what leaves their bytes as they are. */
static void disturb(char *at, size_t size, unsigned int *random)
{
    size_t pages = size / 4096, first = (size_t)rand_r(random) % pages;
    size_t count = 1 + (size_t)rand_r(random) % (pages - first);
    char *part = at + first * 4096;
    pid_t child;
    switch (rand_r(random) % 7) {
    case 0:
        madvise(part, count * 4096, 21); /* MADV_PAGEOUT */
        break;
    case 1:
        madvise(at, size, 25); /* MADV_COLLAPSE */
        break;
    case 2:
        mprotect(part, count * 4096, PROT_READ);
        mprotect(at, size, PROT_READ | PROT_WRITE);
        break;
    case 3: /* pages are shared until they are written */
        child = fork();
        if (child == 0)
            _exit(0);
        break;
    case 4:
        madvise(at, size, rand_r(random) % 2 ? MADV_MERGEABLE : MADV_UNMERGEABLE);
        break;
    case 5:
        madvise(at, size, rand_r(random) % 2 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
        break;
    default:
        break;
    }
    for (size_t page = 0; page < count; page += 1 + (size_t)rand_r(random) % 3) {
        volatile char *byte = part + page * 4096;
        *byte = *byte;
    }
}

/* Until it is told to stop. */
static void *disturb_on(void *unused)
{
    unsigned int random = 1;
    signal(SIGCHLD, SIG_IGN); /* children need not be waited for */
    while (atomic_load(&churn.runs)) {
        disturb((char *)churn.base, churn.size, &random);
        atomic_fetch_add(&churn.rounds, 1);
    }
    return unused;
}

static long start_disturbing(char **words)
{
    churn.base = address(words[1]);
    churn.size = count(words[2]);
    atomic_store(&churn.runs, 1);
    return -pthread_create(&churn.thread, NULL, disturb_on, NULL);
}

static long start_churn(char **words)
{
    churn.base = address(words[1]);
    churn.size = count(words[2]);
    churn.advice = atoi(words[3]);
    churn.byte = (char)atoi(words[4]);
    atomic_store(&churn.runs, 1);
    return -pthread_create(&churn.thread, NULL, churn_on, NULL);
}

static long stop_churn(void)
{
    atomic_store(&churn.runs, 0);
    pthread_join(churn.thread, NULL);
    return atomic_load(&churn.rounds);
}

/* A child that writes into its copy and then stays, as long as its parent does. */
static long fork_writer(char *to, size_t size, int byte)
{
    int ready[2];
    if (pipe(ready))
        return -errno;
    pid_t child = fork();
    if (child < 0)
        return -errno;
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        memset(to, byte, size);
        if (write(ready[1], "", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    char done;
    close(ready[1]);
    long result = read(ready[0], &done, 1) == 1 ? child : -ECHILD;
    close(ready[0]);
    return result;
}

static long obey(char **words)
{
    const char *verb = words[0];
    if (strcmp(verb, "call") == 0)
        return call(words);
    if (strcmp(verb, "scratch") == 0)
        return (long)scratch;
    if (strcmp(verb, "put") == 0)
        return put(address(words[1]), words[2]);
    if (strcmp(verb, "fill") == 0)
        return memset(address(words[1]), atoi(words[3]), count(words[2])) ? 0 : -EFAULT;
    if (strcmp(verb, "touch") == 0)
        return touch(address(words[1]), count(words[2]));
    if (strcmp(verb, "churn") == 0)
        return start_churn(words);
    if (strcmp(verb, "disturb") == 0)
        return start_disturbing(words);
    if (strcmp(verb, "rounds") == 0)
        return atomic_load(&churn.rounds);
    if (strcmp(verb, "calm") == 0)
        return stop_churn();
    if (strcmp(verb, "fork") == 0)
        return fork_writer(address(words[1]), count(words[2]), atoi(words[3]));
    if (strcmp(verb, "exec") == 0) {
        execl("/proc/self/exe", "target", (char *)NULL);
        return -errno;
    }
    return -EINVAL;
}

int main(void)
{
    static char line[LINE_BYTES];
    setvbuf(stdin, NULL, _IONBF, 0); /* what was read ahead would be lost with exec */
    answer(getpid());
    while (fgets(line, sizeof(line), stdin)) {
        char *words[WORDS] = {0}, *rest = line;
        for (int i = 0; i < WORDS - 1; i++)
            words[i] = strtok_r(i ? NULL : line, " \n", &rest);
        if (words[0] == NULL)
            continue;
        if (strcmp(words[0], "get") == 0)
            get(address(words[1]), count(words[2]));
        else
            answer(obey(words));
    }
    return 0;
}
