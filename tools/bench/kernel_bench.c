/* Times the zero-check kernels against their peers, interleaved in one process
 * on the same mapped memory, and prints one line of JSON per case:
 *   {"case", "order", "threads", "pages", "kernel", "ns": {contestant: [per repeat]}}
 * with nanoseconds per pass over all pages. It judges nothing; kernels.py does
 * the ratios.
 *
 * usage: kernel_bench KERNEL BYTES REPEATS BATCH_PAGES THREADS [GUEST_RAM_FILE]
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "peers.h"

enum { PAGE = 4096, EVICT_BYTES = 96 << 20, MAX_REPEATS = 1000, MAX_THREADS = 256 };

typedef struct arena {
    unsigned char *bytes;
    size_t pages;
    uint64_t *shuffled; /* every page's offset once, in random order */
} arena;

static const pc_kernel *kernel;
static size_t batch_pages;
static volatile uint64_t sink; /* keeps the reads of evict() alive */

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* splitmix64; a fixed seed, so that every run has the same data. */
static uint64_t random_word(void)
{
    static uint64_t state = 20240607;
    uint64_t word = state += 0x9e3779b97f4a7c15u;
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9u;
    word = (word ^ word >> 27) * 0x94d049bb133111ebu;
    return word ^ word >> 31;
}

/* Memory mapped with pages of 4 KiB, as guest RAM in tmpfs is, and touched. */
static unsigned char *map_small_pages(size_t length)
{
    unsigned char *bytes =
        mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED) {
        fail("mmap");
    }
    madvise(bytes, length, MADV_NOHUGEPAGE);
    memset(bytes, 0, length);
    return bytes;
}

static void arena_init(arena *of, size_t length)
{
    of->pages = length / PAGE;
    of->bytes = map_small_pages(length);
    of->shuffled = malloc(of->pages * sizeof *of->shuffled);
    if (!of->shuffled) {
        fail("malloc");
    }
    for (size_t i = 0; i < of->pages; i++) {
        of->shuffled[i] = i * PAGE;
    }
    for (size_t i = of->pages - 1; i > 0; i--) {
        const size_t other = random_word() % (i + 1);
        const uint64_t swap = of->shuffled[i];
        of->shuffled[i] = of->shuffled[other];
        of->shuffled[other] = swap;
    }
}

static void arena_deinit(arena *of)
{
    munmap(of->bytes, of->pages * PAGE);
    free(of->shuffled);
}

/* The contents. */

static void fill_zero(arena *of)
{
    memset(of->bytes, 0, of->pages * PAGE);
}

static void fill_random(unsigned char *page)
{
    for (size_t at = 0; at < PAGE; at += 8) {
        const uint64_t word = random_word() | 0x0101010101010101u; /* no byte is zero */
        memcpy(page + at, &word, 8);
    }
}

static void fill_normal(arena *of)
{
    for (size_t i = 0; i < of->pages; i++) {
        fill_random(of->bytes + i * PAGE);
    }
}

static void fill_last_byte(arena *of)
{
    fill_zero(of);
    for (size_t i = 0; i < of->pages; i++) {
        of->bytes[i * PAGE + PAGE - 1] = 1;
    }
}

static void fill_half(arena *of)
{
    fill_zero(of);
    for (size_t i = 0; i < of->pages; i++) {
        if (random_word() & 1) {
            fill_random(of->bytes + i * PAGE);
        }
    }
}

static void read_file(int file, unsigned char *bytes, size_t length)
{
    for (size_t at = 0; at < length;) {
        const ssize_t got = pread(file, bytes + at, length - at, (off_t)at);
        if (got <= 0) {
            fail("pread");
        }
        at += (size_t)got;
    }
}

/* The contestants. */

static uint64_t ours_count(const pc_pages *pages)
{
    uint64_t zero = 0;
    for (size_t begin = 0; begin < pages->count; begin += PC_KERNEL_GROUP_PAGES) {
        size_t end = begin + PC_KERNEL_GROUP_PAGES;
        end = end < pages->count ? end : pages->count;
        zero += (uint64_t)__builtin_popcountll(kernel->zero_pages(pages, begin, end));
    }
    return zero;
}

typedef struct contestant {
    const char *name;
    peer_count count;
    size_t batch_pages; /* 0: all at once */
    uint64_t ns[MAX_REPEATS];
} contestant;

static contestant ours = {.name = "ours", .count = ours_count};
static contestant qemu = {.name = "qemu", .count = peer_qemu_count};
static contestant isal = {.name = "isal", .count = peer_isal_count};
static contestant pure = {.name = "read", .count = peer_read_count};
static bool have_isal;

typedef struct work {
    const contestant *by;
    const arena *of;
    bool shuffled;
    size_t begin, end;
    uint64_t zero;
    pthread_barrier_t *start;
} work;

/* One pass over pages [begin, end), in batches as a caller would give them. */
static void work_pass(work *job)
{
    const size_t step = job->by->batch_pages ? job->by->batch_pages : job->end - job->begin;
    job->zero = 0;
    for (size_t at = job->begin; at < job->end; at += step) {
        const pc_pages pages = {
            .base = job->of->bytes,
            .offsets = job->shuffled ? job->of->shuffled + at : NULL,
            .first = at * PAGE,
            .count = step < job->end - at ? step : job->end - at,
            .page_bytes = PAGE,
        };
        job->zero += job->by->count(&pages);
    }
}

static void *work_thread(void *argument)
{
    work *job = argument;
    pthread_barrier_wait(job->start);
    work_pass(job);
    pthread_barrier_wait(job->start);
    return NULL;
}

/* Sampling touches a line or three per page: without this the next contestant
 * would find them in the cache. */
static void evict(void)
{
    static unsigned char *other;
    if (!other) {
        other = map_small_pages(EVICT_BYTES);
    }
    uint64_t sum = 0;
    for (size_t at = 0; at < EVICT_BYTES; at += 64) {
        sum += other[at];
    }
    sink = sum;
}

static uint64_t time_threads(const contestant *by, const arena *of, size_t threads, uint64_t *zero)
{
    pthread_t thread[MAX_THREADS];
    work job[MAX_THREADS];
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, (unsigned)threads + 1);
    for (size_t i = 0; i < threads; i++) {
        job[i] = (work){by, of,    false, of->pages * i / threads, of->pages * (i + 1) / threads,
                        0,  &start};
        if (pthread_create(&thread[i], NULL, work_thread, &job[i])) {
            fail("pthread_create");
        }
    }
    pthread_barrier_wait(&start);
    const uint64_t before = now_ns();
    pthread_barrier_wait(&start);
    const uint64_t after = now_ns();
    *zero = 0;
    for (size_t i = 0; i < threads; i++) {
        pthread_join(thread[i], NULL);
        *zero += job[i].zero;
    }
    pthread_barrier_destroy(&start);
    return after - before;
}

static uint64_t time_one(const contestant *by, const arena *of, bool shuffled, size_t threads,
                         uint64_t *zero)
{
    evict();
    if (threads > 1) {
        return time_threads(by, of, threads, zero);
    }
    work job = {by, of, shuffled, 0, of->pages, 0, NULL};
    const uint64_t before = now_ns();
    work_pass(&job);
    const uint64_t after = now_ns();
    *zero = job.zero;
    return after - before;
}

static void print_case(const char *name, const arena *of, bool shuffled, size_t threads,
                       size_t repeats, contestant *const *field, size_t contestants)
{
    printf("{\"case\": \"%s\", \"order\": \"%s\", \"threads\": %zu, \"pages\": %zu, "
           "\"kernel\": \"%s\", \"ns\": {",
           name, shuffled ? "random" : "in order", threads, of->pages, kernel->name);
    for (size_t i = 0; i < contestants; i++) {
        printf("%s\"%s\": [", i ? ", " : "", field[i]->name);
        for (size_t repeat = 0; repeat < repeats; repeat++) {
            printf("%s%llu", repeat ? ", " : "", (unsigned long long)field[i]->ns[repeat]);
        }
        printf("]");
    }
    printf("}}\n");
    fflush(stdout);
}

/* Every repeat times each contestant once; who begins goes round. The first,
 * untimed one also compares the answers: a wrong peer proves nothing. */
static void run_case(const char *name, const arena *of, bool shuffled, size_t threads,
                     size_t repeats, bool with_read)
{
    contestant *field[4];
    size_t contestants = 0;
    field[contestants++] = &ours;
    if (threads == 1) {
        field[contestants++] = &qemu;
        if (have_isal) {
            field[contestants++] = &isal;
        }
    }
    if (with_read) {
        field[contestants++] = &pure;
    }
    uint64_t expected = 0;
    for (size_t round = 0; round <= repeats; round++) {
        for (size_t i = 0; i < contestants; i++) {
            contestant *by = field[(i + round) % contestants];
            uint64_t zero;
            const uint64_t ns = time_one(by, of, shuffled, threads, &zero);
            if (round > 0) {
                by->ns[round - 1] = ns;
            } else if (i == 0) {
                expected = zero;
            } else if (zero != expected) {
                fprintf(stderr, "%s: %s found %llu zero pages, ours %llu\n", name, by->name,
                        (unsigned long long)zero, (unsigned long long)expected);
                exit(1);
            }
        }
    }
    print_case(name, of, shuffled, threads, repeats, field, contestants);
}

static void run_made_up(size_t length, size_t repeats, size_t threads)
{
    static const struct {
        const char *name;
        void (*fill)(arena *of);
    } contents[] = {
        {"zero", fill_zero},
        {"half", fill_half},
        {"normal", fill_normal},
        {"last-byte", fill_last_byte},
    };
    arena of;
    arena_init(&of, length);
    for (size_t i = 0; i < sizeof contents / sizeof contents[0]; i++) {
        contents[i].fill(&of);
        const bool zero = i == 0;
        run_case(contents[i].name, &of, false, 1, repeats, zero);
        run_case(contents[i].name, &of, true, 1, repeats, false);
        if (zero && threads > 1) {
            run_case(contents[i].name, &of, false, threads, repeats, true);
        }
    }
    arena_deinit(&of);
}

static void run_guest(const char *path, size_t repeats)
{
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (file < 0 || fstat(file, &status) < 0) {
        fail(path);
    }
    arena of;
    arena_init(&of, (size_t)status.st_size / PAGE * PAGE);
    read_file(file, of.bytes, of.pages * PAGE);
    close(file);
    run_case("guest", &of, false, 1, repeats, false);
    run_case("guest", &of, true, 1, repeats, false);
    arena_deinit(&of);
}

int main(int argc, char **argv)
{
    if (argc < 6) {
        fprintf(stderr, "usage: kernel_bench KERNEL BYTES REPEATS BATCH_PAGES THREADS [GUEST]\n");
        return 2;
    }
    kernel = strcmp(argv[1], "auto") ? pc_kernel_find(argv[1]) : pc_kernel_auto();
    const size_t length = strtoull(argv[2], NULL, 0) / PAGE * PAGE;
    const size_t repeats = strtoull(argv[3], NULL, 0);
    const size_t threads = strtoull(argv[5], NULL, 0);
    batch_pages = strtoull(argv[4], NULL, 0);
    if (!kernel || pc_kernel_why_not(kernel) || !length || !repeats || repeats > MAX_REPEATS ||
        !batch_pages || threads > MAX_THREADS) {
        fprintf(stderr, "kernel_bench: a value is out of range, or the kernel cannot run here\n");
        return 2;
    }
    ours.batch_pages = batch_pages;
    have_isal = peer_isal_open();
    run_made_up(length, repeats, threads);
    if (argc > 6) {
        run_guest(argv[6], repeats);
    }
    return 0;
}
