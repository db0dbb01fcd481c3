/* Pages that lie one after the other and pages that do not, in all mixtures: a kernel may read the
 * one kind page after page and the other several pages in step. Every kernel that this CPU can run,
 * against a byte-by-byte answer. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "kernel_fixture.h"

enum { PAGES = 160, MOST = 140 };

/* The only non-zero byte at every place of one page of each list, at several alignments. */
static void test_places(const pc_kernel *kernel)
{
    enum { COUNT = 9, LISTS = 6, SPAN = 18 }; /* one more page than are read at a time */
    static const uint8_t lists[LISTS][COUNT] = {
        {0, 1, 2, 3, 4, 5, 6, 7, 8},     /* one run */
        {0, 2, 4, 6, 8, 10, 12, 14, 16}, /* none */
        {0, 1, 2, 6, 7, 11, 13, 14, 15}, /* runs of three, two and one */
        {0, 9, 4, 12, 2, 14, 5, 7, 3},   /* the first eight end as a run would */
        {8, 7, 6, 5, 4, 3, 2, 1, 0},     /* downwards */
        {16, 1, 2, 3, 4, 5, 6, 7, 8},    /* a run but for its first page */
    };
    static const size_t alignments[] = {0, 1, 63, 4095};
    static unsigned char memory[4096 + SPAN * SMALL];
    for (size_t at = 0; at < LISTS * sizeof alignments / sizeof alignments[0] * SMALL; at++) {
        const size_t place = at % SMALL;
        const uint8_t *list = lists[at / SMALL % LISTS];
        uint64_t offsets[COUNT];
        for (size_t i = 0; i < COUNT; i++)
            offsets[i] = (uint64_t)list[i] * SMALL + alignments[at / SMALL / LISTS];
        const pc_pages pages = {
            .base = memory, .offsets = offsets, .count = COUNT, .page_bytes = SMALL};
        const size_t marked = (place + place / COUNT) % COUNT;
        unsigned char *byte = memory + offsets[marked] + place;
        *byte = values[place / 2 % 2];
        CHECK(kernel->zero_pages(&pages, 0, COUNT) == (0x1ffu & ~(1u << marked)),
              "list %zu, place %zu of page %zu", at / SMALL % LISTS, place, marked);
        *byte = 0;
    }
}

/* `before` scattered pages, a run that ends with the last page of the memory, `after` scattered
 * ones; where the run is not long, another page in its midst makes two of it. */
static size_t list_pages(uint64_t *offsets, size_t before, size_t run, size_t after, bool broken,
                         uint64_t *state)
{
    size_t count = 0;
    for (size_t i = 0; i < before; i++)
        offsets[count++] = check_random(state) % PAGES * SMALL;
    for (size_t i = 0; i < run; i++) {
        if (broken && i == run / 2)
            offsets[count++] = check_random(state) % PAGES * SMALL;
        offsets[count++] = (PAGES - run + i) * SMALL;
    }
    for (size_t i = 0; i < after; i++)
        offsets[count++] = check_random(state) % PAGES * SMALL;
    return count;
}

/* No byte but one, or none, in a few of the pages: most are read whole. */
static void mark_few(unsigned char *memory, uint64_t *state)
{
    memset(memory, 0, PAGES * SMALL);
    for (size_t i = check_random(state) % 12; i > 0; i--)
        memory[check_random(state) % (PAGES * SMALL)] = values[i % 2];
}

/* Runs of every length from every place in a group and over its end, unmapped memory behind. */
static void test_lengths(const pc_kernel *kernel)
{
    static const size_t runs[] = {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 62, 63, 64, 65, 100};
    static const size_t befores[] = {0, 1, 2, 5, 7, 8, 30, 57, 62, 63};
    unsigned char *memory = map_fenced(PAGES * SMALL);
    uint64_t offsets[200];
    uint64_t state = 1;
    for (size_t r = 0; r < sizeof runs / sizeof runs[0]; r++) {
        for (size_t b = 0; b < sizeof befores / sizeof befores[0]; b++) {
            for (size_t more = 0; more < 6; more++) {
                mark_few(memory, &state);
                const pc_pages pages = {
                    .base = memory,
                    .offsets = offsets,
                    .count = list_pages(offsets, befores[b], runs[r], more, more % 2 == 1, &state),
                    .page_bytes = SMALL};
                check_batch(kernel, &pages, &state);
            }
        }
    }
    unmap_fenced(memory, PAGES * SMALL);
}

/* Without offsets a batch is one run: from the first page, and up to the last, of the memory. */
static void test_ranges(const pc_kernel *kernel)
{
    unsigned char *memory = map_fenced(PAGES * SMALL);
    uint64_t state = 2;
    for (size_t count = 1; count <= MOST; count++) {
        mark_few(memory, &state);
        const pc_pages from_first = {.base = memory, .count = count, .page_bytes = SMALL};
        check_batch(kernel, &from_first, &state);
        const pc_pages to_last = {
            .base = memory, .first = (PAGES - count) * SMALL, .count = count, .page_bytes = SMALL};
        check_batch(kernel, &to_last, &state);
    }
    unmap_fenced(memory, PAGES * SMALL);
}

/* The pieces of a large page are a run; each is once the only one with a byte in it. */
static void test_large(const pc_kernel *kernel)
{
    static const size_t page_sizes[] = {8192, 12288, 32768, 36864, 65536, 262144, 2u << 20};
    for (size_t p = 0; p < sizeof page_sizes / sizeof page_sizes[0]; p++) {
        const size_t bytes = page_sizes[p];
        unsigned char *memory = map_fenced(2 * bytes);
        const uint64_t offsets[] = {bytes, 0};
        const pc_pages pages = {
            .base = memory, .offsets = offsets, .count = 2, .page_bytes = bytes};
        CHECK(kernel->zero_pages(&pages, 0, 2) == 3, "zero pages of %zu", bytes);
        for (size_t at = 0; at < bytes; at += SMALL) {
            const size_t place = at + at / SMALL * 67 % SMALL;
            memory[place] = 1;
            CHECK(kernel->zero_pages(&pages, 0, 2) == 1, "byte %zu of %zu", place, bytes);
            memory[place] = 0;
        }
        unmap_fenced(memory, 2 * bytes);
    }
}

/* A guest writes while its pages are read. */

typedef struct writer {
    unsigned char *changing[2]; /* pages */
    _Atomic bool begun, end;
} writer;

static void *write_on(void *argument)
{
    writer *by = argument;
    for (size_t at = 0; !atomic_load(&by->end); at = (at + 61) % SMALL) {
        for (size_t i = 0; i < 2; i++) {
            volatile unsigned char *byte = by->changing[i] + at;
            const unsigned char before = *byte;
            *byte = 1;
            *byte = before;
        }
        atomic_store(&by->begun, true);
    }
    return NULL;
}

/* Page 5 always has a byte that is not zero, page 11 is zero but for bytes that come and go; what
 * is said of the others is exact at all times. */
static void check_while_written(const pc_kernel *kernel, size_t stride)
{
    enum { COUNT = 19, ROUNDS = 4000, STEADY = 5, UNSTEADY = 11 };
    static unsigned char memory[COUNT * 2 * SMALL];
    uint64_t offsets[COUNT];
    for (size_t i = 0; i < COUNT; i++)
        offsets[i] = i * stride * SMALL;
    memory[offsets[STEADY] + 1000] = 1;
    writer by = {.changing = {memory + offsets[STEADY], memory + offsets[UNSTEADY]}};
    pthread_t thread;
    if (pthread_create(&thread, NULL, write_on, &by)) {
        perror("pthread_create");
        exit(2);
    }
    while (!atomic_load(&by.begun))
        sched_yield();
    const pc_pages pages = {
        .base = memory, .offsets = offsets, .count = COUNT, .page_bytes = SMALL};
    const uint64_t either = 1u << UNSTEADY;
    const uint64_t expected = ((1u << COUNT) - 1) & ~(1u << STEADY);
    for (size_t round = 0; round < ROUNDS; round++) {
        const uint64_t got = kernel->zero_pages(&pages, 0, COUNT) | either;
        CHECK(got == expected, "every %zu pages: %#llx", stride, (unsigned long long)got);
    }
    atomic_store(&by.end, true);
    pthread_join(thread, NULL);
    memset(memory, 0, sizeof memory);
}

static void test_written(const pc_kernel *kernel)
{
    check_while_written(kernel, 1);
    check_while_written(kernel, 2);
}

int main(void)
{
    static const kernel_test tests[] = {
        {"places", test_places}, {"lengths", test_lengths}, {"ranges", test_ranges},
        {"large", test_large},   {"written", test_written},
    };
    return check_kernels(tests, sizeof tests / sizeof tests[0]);
}
