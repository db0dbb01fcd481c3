/* A process with private memory of one kind, as a VMM has it: what the benchmarks look at.
 *
 * private_ram BYTES FILL PAGES, where FILL says what is in it (absent: never touched; zero: zeros
 * that were written; half: a random half of the pages is full; full; second: as full, but each
 * second page was never touched) and PAGES which pages it may get (huge or small). Prints the
 * address of the first byte. Then it reads lines "BYTES NS": for NS nanoseconds it changes a word
 * in each cache line of the first BYTES, again and again, and it answers with how many bytes it
 * passed.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

enum { PAGE = 4096, LINE = 64, CHUNK = 64 * 1024 };

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* xorshift64: which pages are full in "half" must not follow any order. */
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void fill(unsigned char *base, size_t bytes, const char *how)
{
    bool half = strcmp(how, "half") == 0, second = strcmp(how, "second") == 0;
    bool zero = strcmp(how, "zero") == 0;
    uint64_t random = 1;
    if (strcmp(how, "absent") == 0)
        return;
    for (size_t at = 0; at < bytes; at += second ? 2 * PAGE : PAGE) {
        bool empty = zero || (half && (next_random(&random) & (1u << 20)) != 0);
        memset(base + at, empty ? 0 : 0x55, PAGE);
    }
}

/* Passes over the memory until the time is over; how many bytes it passed. */
static uint64_t pass(unsigned char *base, size_t bytes, int64_t ns)
{
    const int64_t start = now_ns();
    uint64_t passed = 0;
    size_t at = 0;
    while (now_ns() - start < ns) {
        for (size_t stop = at + CHUNK; at < stop; at += LINE)
            (*(volatile uint64_t *)(void *)(base + at))++;
        at = at < bytes ? at : 0;
        passed += CHUNK;
    }
    return passed;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    size_t bytes = strtoull(argv[1], NULL, 10);
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    unsigned char *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (base == MAP_FAILED)
        return 1;
    /* Kernels without huge pages know neither advice. */
    madvise(base, bytes, strcmp(argv[3], "huge") == 0 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    fill(base, bytes, argv[2]);
    printf("%" PRIuPTR "\n", (uintptr_t)base);
    fflush(stdout);
    size_t loop_bytes;
    int64_t ns;
    while (scanf("%zu %" SCNd64, &loop_bytes, &ns) == 2) {
        if (loop_bytes < CHUNK || loop_bytes > bytes || loop_bytes % CHUNK != 0)
            return 2;
        printf("%" PRIu64 "\n", pass(base, loop_bytes, ns));
        fflush(stdout);
    }
    return 0;
}
