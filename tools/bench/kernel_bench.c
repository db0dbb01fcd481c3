/* Times the zero-check kernels against their peers, interleaved in one process
 * on the same mapped memory, and prints one line of JSON per case:
 *   {"case", "order", "memory", "threads", "pages", "kernel", "ns": {contestant: [per repeat]}}
 * with nanoseconds of CPU time per pass over all pages (of several threads: of
 * the one that took longest), so that what else runs on the machine counts for
 * little. It judges nothing; kernels.py does the ratios.
 *
 * A pass goes slice by slice, and after each slice another contestant has its
 * turn with another slice: what slows the machine for a while slows all of them.
 *
 * usage: kernel_bench KERNEL BYTES REPEATS BATCH_PAGES THREADS CASES [GUEST_RAM_FILE]
 * CASES: "all", or "zero": the zero pages in order alone
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

enum { PAGE = 4096, SLICES = 16, MAX_REPEATS = 1000, MAX_THREADS = 256 };

typedef struct arena {
    unsigned char *bytes;
    size_t pages;
    uint64_t *shuffled; /* every page's offset once, in random order */
    const char *memory; /* which pages the host maps it with */
} arena;

static const pc_kernel *kernel;
static size_t batch_pages;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* Of the calling thread. */
static uint64_t cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
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

/* Shared memory in pages of 4 KiB, as guest RAM is mapped. */
static unsigned char *map_small_pages(size_t length)
{
    const int file = memfd_create("kernel_bench", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t)length) < 0) {
        fail("memfd_create");
    }
    unsigned char *bytes = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (bytes == MAP_FAILED) {
        fail("mmap");
    }
    close(file);
    madvise(bytes, length, MADV_NOHUGEPAGE);
    return bytes;
}

/* The same in huge pages, where the host has them. */
static unsigned char *map_huge_pages(size_t length)
{
    unsigned char *bytes =
        mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED) {
        fail("mmap");
    }
    madvise(bytes, length, MADV_HUGEPAGE);
    return bytes;
}

static void arena_init(arena *of, size_t length, bool huge)
{
    of->pages = length / PAGE;
    of->bytes = huge ? map_huge_pages(length) : map_small_pages(length);
    of->memory = huge ? "huge pages" : "4 KiB pages";
    memset(of->bytes, 0, length);
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
static contestant pure = {.name = "read"};
static bool have_isal;

typedef struct work {
    const contestant *by;
    const arena *of;
    bool shuffled;
    size_t begin, end;
    uint64_t zero, ns;
    pthread_barrier_t *start;
} work;

/* Pages [begin, end), in batches as a caller would submit them. */
static void work_pass(work *job)
{
    const size_t step = job->by->batch_pages ? job->by->batch_pages : job->end - job->begin;
    const uint64_t before = cpu_ns();
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
    job->ns = cpu_ns() - before;
}

static void *work_thread(void *argument)
{
    work *job = argument;
    pthread_barrier_wait(job->start);
    work_pass(job);
    return NULL;
}

static void forget_line(const unsigned char *line)
{
#if defined(__x86_64__)
    __builtin_ia32_clflush(line);
#elif defined(__aarch64__)
    __asm__ volatile("dc civac, %0" ::"r"(line) : "memory");
#else
#error "how does this CPU drop a cache line?"
#endif
}

/* Takes the lines that are sampled, and those that come with them, out of all caches: the
 * contestant before left them there. What is read whole goes by itself, given more memory than
 * cache. */
static void forget(const work *job)
{
    static const size_t lines[] = {0, 64, PAGE / 2, PAGE / 2 + 64, PAGE - 128, PAGE - 64};
    for (size_t i = job->begin; i < job->end; i++) {
        const size_t offset = job->shuffled ? job->of->shuffled[i] : i * PAGE;
        for (size_t line = 0; line < sizeof lines / sizeof lines[0]; line++) {
            forget_line(job->of->bytes + offset + lines[line]);
        }
    }
    __sync_synchronize();
}

/* The job on several threads; the time is that of the one that took longest. */
static void time_threads(work *whole, size_t threads)
{
    pthread_t thread[MAX_THREADS];
    work job[MAX_THREADS];
    pthread_barrier_t start;
    const size_t pages = whole->end - whole->begin;
    pthread_barrier_init(&start, NULL, (unsigned)threads);
    for (size_t i = 0; i < threads; i++) {
        job[i] = *whole;
        job[i].begin = whole->begin + pages * i / threads;
        job[i].end = whole->begin + pages * (i + 1) / threads;
        job[i].start = &start;
        if (pthread_create(&thread[i], NULL, work_thread, &job[i])) {
            fail("pthread_create");
        }
    }
    for (size_t i = 0; i < threads; i++) {
        pthread_join(thread[i], NULL);
        whole->zero += job[i].zero;
        whole->ns = whole->ns > job[i].ns ? whole->ns : job[i].ns;
    }
    pthread_barrier_destroy(&start);
}

static void time_slice(work *job, size_t slice, size_t threads, bool whole)
{
    job->begin = job->of->pages * slice / SLICES;
    job->end = job->of->pages * (slice + 1) / SLICES;
    job->zero = job->ns = 0;
    if (!whole) {
        forget(job);
    }
    if (threads > 1) {
        time_threads(job, threads);
    } else {
        work_pass(job);
    }
}

static void print_case(const char *name, const arena *of, bool shuffled, size_t threads,
                       size_t repeats, contestant *const *field, size_t contestants)
{
    printf("{\"case\": \"%s\", \"order\": \"%s\", \"memory\": \"%s\", \"threads\": %zu, "
           "\"pages\": %zu, \"kernel\": \"%s\", \"ns\": {",
           name, shuffled ? "random" : "in order", of->memory, threads, of->pages, kernel->name);
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

/* One pass of each contestant; at any time each is at another slice. */
static void run_round(const arena *of, bool shuffled, size_t threads, contestant *const *field,
                      size_t contestants, bool whole, uint64_t *ns, uint64_t *zero)
{
    memset(ns, 0, contestants * sizeof *ns);
    memset(zero, 0, contestants * sizeof *zero);
    for (size_t turn = 0; turn < SLICES; turn++) {
        for (size_t n = 0; n < contestants; n++) {
            const size_t i = (turn + n) % contestants; /* who begins goes round */
            work job = {.by = field[i], .of = of, .shuffled = shuffled};
            time_slice(&job, (turn + i * SLICES / contestants) % SLICES, threads, whole);
            ns[i] += job.ns;
            zero[i] += job.zero;
        }
    }
}

/* whole: every page is zero, and so is read whole by each contestant. The first, untimed round
 * compares the answers: a wrong peer proves nothing. */
static void run_case(const char *name, const arena *of, bool shuffled, size_t threads,
                     size_t repeats, bool whole)
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
    if (whole && !shuffled) {
        field[contestants++] = &pure;
    }
    uint64_t ns[4], zero[4];
    for (size_t round = 0; round <= repeats; round++) {
        run_round(of, shuffled, threads, field, contestants, whole, ns, zero);
        for (size_t i = 0; i < contestants; i++) {
            if (zero[i] != zero[0]) {
                fprintf(stderr, "%s: %s found %llu zero pages, ours %llu\n", name, field[i]->name,
                        (unsigned long long)zero[i], (unsigned long long)zero[0]);
                exit(1);
            }
            if (round > 0) {
                field[i]->ns[round - 1] = ns[i];
            }
        }
    }
    print_case(name, of, shuffled, threads, repeats, field, contestants);
}

/* Zero pages in order: one thread and all of them. */
static void run_zero(size_t length, size_t repeats, size_t threads, bool huge)
{
    arena of;
    arena_init(&of, length, huge);
    run_case("zero", &of, false, 1, repeats, true);
    if (threads > 1) {
        run_case("zero", &of, false, threads, repeats, true);
    }
    arena_deinit(&of);
}

static void run_made_up(size_t length, size_t repeats)
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
    arena_init(&of, length, false);
    for (size_t i = 0; i < sizeof contents / sizeof contents[0]; i++) {
        contents[i].fill(&of);
        if (i > 0) {
            run_case(contents[i].name, &of, false, 1, repeats, false);
        }
        run_case(contents[i].name, &of, true, 1, repeats, i == 0);
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
    arena_init(&of, (size_t)status.st_size / PAGE * PAGE, false);
    read_file(file, of.bytes, of.pages * PAGE);
    close(file);
    run_case("guest", &of, false, 1, repeats, false);
    run_case("guest", &of, true, 1, repeats, false);
    arena_deinit(&of);
}

int main(int argc, char **argv)
{
    if (argc < 7) {
        fprintf(stderr,
                "usage: kernel_bench KERNEL BYTES REPEATS BATCH_PAGES THREADS all|zero [GUEST]\n");
        return 2;
    }
    kernel = strcmp(argv[1], "auto") ? pc_kernel_find(argv[1]) : pc_kernel_auto();
    const size_t length = strtoull(argv[2], NULL, 0) / PAGE * PAGE;
    const size_t repeats = strtoull(argv[3], NULL, 0);
    const size_t threads = strtoull(argv[5], NULL, 0);
    const bool all = strcmp(argv[6], "zero") != 0;
    batch_pages = strtoull(argv[4], NULL, 0);
    if (!kernel || pc_kernel_why_not(kernel) || !length || !repeats || repeats > MAX_REPEATS ||
        !batch_pages || threads > MAX_THREADS) {
        fprintf(stderr, "kernel_bench: a value is out of range, or the kernel cannot run here\n");
        return 2;
    }
    ours.batch_pages = batch_pages;
    pure.count = peer_read_like(kernel);
    have_isal = peer_isal_open();
    run_zero(length, repeats, threads, false);
    run_zero(length, repeats, threads, true);
    if (all) {
        run_made_up(length, repeats);
    }
    if (all && argc > 7) {
        run_guest(argv[7], repeats);
    }
    return 0;
}
