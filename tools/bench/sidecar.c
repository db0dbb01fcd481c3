/* A VMM as the benchmark needs it: packets through direct channels, or checked in-process.
 *
 * `sidecar SOCKET MIB` attaches MIB of half zero, half normal pages (the first 128 are zero), reads
 * one command per line and answers each with numbers on one line:
 *   ping ROUNDS PACE_NS           ns per futex ping-pong with another process
 *   remote ROUNDS PACE_NS         the same with deadlines; the other one asks for the file's size
 * and checks a packet through a mapping of its own check ROUNDS PACE_NS          ns per check of
 * one packet in this process trip ROUNDS PACE_NS SPIN_US   ns per packet through a channel and back
 *   own THREADS PACKETS           wall ns, CPU ns: packets checked by THREADS here
 *   read THREADS PACKETS          the same: their bytes only read
 *   flow THREADS PACKETS OUT PERCENT  wall ns, CPU ns of this process: the same through THREADS
 *                                 channels, OUT packets outstanding; every wait is for PERCENT of
 *                                 them
 */
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "pagecheck.h"
#include "pc_kernel.h"
#include "peers.h"

#define PAGES 128u
#define PAGE_BYTES 4096u
#define THREADS_MAX 8
#define OUT_MAX 64

static pagecheck_client client;
static uint32_t block;
static unsigned char *ram;
static int ram_fd;
static uint64_t ram_pages;
static const pc_kernel *kernel;

typedef struct lane {
    pthread_t thread;
    pagecheck_channel channel;
    uint64_t first, packets;
    uint32_t outstanding;
    int percent;
    uint64_t normal; /* so that no compiler drops the work */
} lane;

static int64_t in(int64_t seconds)
{
    return pagecheck_now_ns() + seconds * INT64_C(1000000000);
}

static int64_t cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "sidecar: %s: %s\n", what, client.error);
    exit(1);
}

static void offsets_of(uint64_t packet, uint64_t *offsets)
{
    uint64_t first = packet * PAGES % ram_pages;
    for (uint32_t i = 0; i < PAGES; i++)
        offsets[i] = (first + i) * PAGE_BYTES;
}

/* What a sender thread does by itself: check, then sort. */
static uint32_t check_packet(const uint64_t *offsets, uint64_t *sorted)
{
    static const uint64_t decided[2] = {UINT64_MAX, UINT64_MAX};
    const pc_pages pages = {
        .base = ram, .offsets = offsets, .count = PAGES, .page_bytes = PAGE_BYTES};
    uint64_t zero[2];
    for (size_t i = 0; i < 2; i++)
        zero[i] = kernel->zero_pages(&pages, i * 64, i * 64 + 64);
    return pagecheck_partition(offsets, zero, decided, PAGES, sorted);
}

static void *own_lane(void *argument)
{
    lane *l = argument;
    uint64_t offsets[PAGES], sorted[PAGES];
    for (uint64_t i = 0; i < l->packets; i++) {
        offsets_of(l->first + i, offsets);
        l->normal += check_packet(offsets, sorted);
    }
    return NULL;
}

static void *read_lane(void *argument)
{
    lane *l = argument;
    const peer_count read_all = peer_read_like(kernel);
    uint64_t offsets[PAGES];
    for (uint64_t i = 0; i < l->packets; i++) {
        offsets_of(l->first + i, offsets);
        const pc_pages pages = {
            .base = ram, .offsets = offsets, .count = PAGES, .page_bytes = PAGE_BYTES};
        l->normal += read_all(&pages);
    }
    return NULL;
}

static void take(lane *l, const uint64_t *offsets, uint64_t ticket)
{
    uint64_t sorted[PAGES], zero[2], decided[2];
    if (pagecheck_wait(&l->channel, ticket, in(20), zero, decided) != 0) {
        fprintf(stderr, "sidecar: %s\n", l->channel.error);
        exit(1);
    }
    l->normal += pagecheck_partition(offsets, zero, decided, PAGES, sorted);
}

/* Keeps packets out; waits for the newest of those that it takes, so that one sleep does. */
static void *flow_lane(void *argument)
{
    lane *l = argument;
    uint64_t offsets[OUT_MAX][PAGES], tickets[OUT_MAX], given = 0, taken = 0;
    while (taken < l->packets) {
        for (; given < l->packets && given - taken < l->outstanding; given++) {
            uint64_t *mine = offsets[given % OUT_MAX];
            offsets_of(l->first + given, mine);
            if (pagecheck_submit(&l->channel, block, mine, PAGES, &tickets[given % OUT_MAX]) != 0)
                die(l->channel.error);
        }
        uint64_t until = taken + ((given - taken) * (uint64_t)l->percent + 99) / 100;
        uint64_t newest = until - 1;
        take(l, offsets[newest % OUT_MAX], tickets[newest % OUT_MAX]);
        for (; taken < newest; taken++)
            take(l, offsets[taken % OUT_MAX], tickets[taken % OUT_MAX]);
        taken = until;
    }
    return NULL;
}

static void run_lanes(lane *lanes, int count, uint64_t packets, void *(*body)(void *))
{
    int64_t wall = pagecheck_now_ns(), cpu = cpu_ns();
    for (int i = 0; i < count; i++) {
        lanes[i].first = packets / (uint64_t)count * (uint64_t)i;
        lanes[i].packets = packets / (uint64_t)count;
        pthread_create(&lanes[i].thread, NULL, body, &lanes[i]);
    }
    for (int i = 0; i < count; i++)
        pthread_join(lanes[i].thread, NULL);
    printf("%" PRId64 " %" PRId64 "\n", pagecheck_now_ns() - wall, cpu_ns() - cpu);
}

static void open_channel(uint32_t slots, uint32_t spin_us, pagecheck_channel *channel)
{
    const pagecheck_channel_options options = {slots, PAGES, spin_us};
    if (pagecheck_open_channel(&client, &options, in(30), channel) != 0)
        die("open-channel");
    channel->spin_ns = (int64_t)spin_us * 1000;
}

static void flow(int count, uint64_t packets, uint32_t outstanding, int percent)
{
    static lane lanes[THREADS_MAX];
    memset(lanes, 0, sizeof lanes);
    for (int i = 0; i < count; i++) {
        open_channel(outstanding, 0, &lanes[i].channel);
        lanes[i].outstanding = outstanding;
        lanes[i].percent = percent;
        /* Its worker touches every page once before the clock runs. */
        lanes[i].packets = ram_pages / PAGES;
        flow_lane(&lanes[i]);
    }
    run_lanes(lanes, count, packets, flow_lane);
    for (int i = 0; i < count; i++)
        pagecheck_close_channel(&client, &lanes[i].channel, in(10));
}

static void own(int count, uint64_t packets, void *(*body)(void *))
{
    static lane lanes[THREADS_MAX];
    memset(lanes, 0, sizeof lanes);
    run_lanes(lanes, count, packets, body);
}

static void pause_for(long pace_ns)
{
    const struct timespec pace = {.tv_sec = 0, .tv_nsec = pace_ns};
    nanosleep(&pace, NULL);
}

static void trip(int rounds, long pace_ns, uint32_t spin_us)
{
    pagecheck_channel channel;
    uint64_t offsets[PAGES], sorted[PAGES], zero[2], decided[2], ticket;
    open_channel(16, spin_us, &channel);
    offsets_of(0, offsets);
    for (int i = -8; i < rounds; i++) {
        pause_for(pace_ns);
        int64_t begin = pagecheck_now_ns();
        if (pagecheck_submit(&channel, block, offsets, PAGES, &ticket) != 0 ||
            pagecheck_wait(&channel, ticket, in(20), zero, decided) != 0)
            die(channel.error);
        uint32_t normal = pagecheck_partition(offsets, zero, decided, PAGES, sorted);
        int64_t took = pagecheck_now_ns() - begin;
        if (normal != 0)
            die("a zero page is not zero");
        if (i >= 0)
            printf("%" PRId64 " ", took);
    }
    printf("\n");
    pagecheck_close_channel(&client, &channel, in(10));
}

static void check(int rounds, long pace_ns)
{
    uint64_t offsets[PAGES], sorted[PAGES];
    offsets_of(0, offsets);
    for (int i = -8; i < rounds; i++) {
        pause_for(pace_ns);
        int64_t begin = pagecheck_now_ns();
        uint32_t normal = check_packet(offsets, sorted);
        int64_t took = pagecheck_now_ns() - begin;
        if (i >= 0 && normal == 0)
            printf("%" PRId64 " ", took);
    }
    printf("\n");
}

static void futex_wait(uint32_t *word, uint32_t seen, bool bounded)
{
    while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == seen)
        if (bounded)
            pgck_futex_wait(word, seen, in(1));
        else
            syscall(SYS_futex, word, FUTEX_WAIT, seen, NULL, NULL, 0);
}

static void futex_raise(uint32_t *word)
{
    __atomic_fetch_add(word, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void answer_for_ever(uint32_t *there, uint32_t *back, bool checks)
{
    uint64_t offsets[PAGES], sorted[PAGES];
    struct stat st;
    if (checks)
        ram = mmap(NULL, ram_pages * PAGE_BYTES, PROT_READ, MAP_SHARED, ram_fd, 0);
    if (ram == MAP_FAILED)
        _exit(1);
    offsets_of(0, offsets);
    for (uint32_t seen = 0;; seen++) {
        futex_wait(there, seen, checks);
        if (checks && (fstat(ram_fd, &st) != 0 || check_packet(offsets, sorted) != 0))
            _exit(1);
        futex_raise(back);
    }
}

static void ping(int rounds, long pace_ns, bool checks)
{
    uint32_t *pair =
        mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint32_t *there = pair, *back = pair + 32;
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        answer_for_ever(there, back, checks);
    }
    for (int i = -8; i < rounds; i++) {
        pause_for(pace_ns);
        int64_t begin = pagecheck_now_ns();
        uint32_t seen = __atomic_load_n(back, __ATOMIC_RELAXED);
        futex_raise(there);
        futex_wait(back, seen, checks);
        int64_t took = pagecheck_now_ns() - begin;
        if (i >= 0)
            printf("%" PRId64 " ", took);
    }
    printf("\n");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    munmap(pair, PAGE_BYTES);
}

static int make_ram(uint64_t bytes)
{
    int fd = memfd_create("bench-ram", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0)
        return -1;
    ram = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (ram == MAP_FAILED)
        return -1;
    ram_pages = bytes / PAGE_BYTES;
    uint64_t state = 1;
    for (uint64_t i = 0; i < ram_pages; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        memset(ram + i * PAGE_BYTES, i >= PAGES && state >> 63 ? 0x55 : 0, PAGE_BYTES);
    }
    return fd;
}

int main(int argc, char **argv)
{
    char word[16];
    long a, b, c, d;
    char line[128];
    int fd = ram_fd = argc == 3 ? make_ram((uint64_t)atol(argv[2]) << 20) : -1;
    kernel = pc_kernel_auto();
    if (fd < 0 || pagecheck_connect(argv[1], in(10), &client) != 0 ||
        pagecheck_attach(&client, "bench", fd, PAGE_BYTES, NULL, 0, in(10), &block) != 0)
        die("cannot start");
    while (fgets(line, sizeof line, stdin) != NULL) {
        a = b = c = d = 0;
        if (sscanf(line, "%15s %ld %ld %ld %ld", word, &a, &b, &c, &d) < 1)
            continue;
        if (strcmp(word, "ping") == 0)
            ping((int)a, b, false);
        else if (strcmp(word, "remote") == 0)
            ping((int)a, b, true);
        else if (strcmp(word, "check") == 0)
            check((int)a, b);
        else if (strcmp(word, "trip") == 0)
            trip((int)a, b, (uint32_t)c);
        else if (strcmp(word, "own") == 0)
            own((int)a, (uint64_t)b, own_lane);
        else if (strcmp(word, "read") == 0)
            own((int)a, (uint64_t)b, read_lane);
        else if (strcmp(word, "flow") == 0)
            flow((int)a, (uint64_t)b, (uint32_t)c, (int)d);
        fflush(stdout);
    }
    pagecheck_disconnect(&client);
    return 0;
}
