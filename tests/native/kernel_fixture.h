/* What the tests of the kernels share: a byte-by-byte answer, and memory between unmapped pages.
 * Include it once per program. */
#ifndef PC_TEST_KERNEL_FIXTURE_H
#define PC_TEST_KERNEL_FIXTURE_H

#include <stdlib.h>
#include <sys/mman.h>

#include "check.h"
#include "pc_kernel.h"

enum { SMALL = PC_KERNEL_PAGE_BYTES };

static const unsigned char values[] = {0x01, 0x80};

static inline bool naive_is_zero(const unsigned char *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (bytes[i]) {
            return false;
        }
    }
    return true;
}

static inline size_t page_offset(const pc_pages *pages, size_t index)
{
    return pages->offsets ? pages->offsets[index] : pages->first + index * pages->page_bytes;
}

static inline uint64_t naive_zero_pages(const pc_pages *pages, size_t begin, size_t end)
{
    uint64_t zero = 0;
    for (size_t i = begin; i < end; i++) {
        const unsigned char *page = pages->base + page_offset(pages, i);
        zero |= (uint64_t)naive_is_zero(page, pages->page_bytes) << (i - begin);
    }
    return zero;
}

/* All groups of a batch, and one that begins and ends inside of it. */
static inline void check_batch(const pc_kernel *kernel, const pc_pages *pages, uint64_t *state)
{
    for (size_t begin = 0; begin < pages->count; begin += PC_KERNEL_GROUP_PAGES) {
        const size_t rest = pages->count - begin;
        const size_t end = begin + (rest < PC_KERNEL_GROUP_PAGES ? rest : PC_KERNEL_GROUP_PAGES);
        const uint64_t expected = naive_zero_pages(pages, begin, end);
        const uint64_t got = kernel->zero_pages(pages, begin, end);
        CHECK(got == expected, "pages %zu to %zu of %zu: %#llx, not %#llx", begin, end,
              pages->count, (unsigned long long)got, (unsigned long long)expected);
    }
    const size_t begin = check_random(state) % pages->count;
    const size_t rest = pages->count - begin;
    const size_t most = rest < PC_KERNEL_GROUP_PAGES ? rest : PC_KERNEL_GROUP_PAGES;
    const size_t end = begin + check_random(state) % (most + 1);
    CHECK(kernel->zero_pages(pages, begin, end) == naive_zero_pages(pages, begin, end),
          "pages %zu to %zu of %zu", begin, end, pages->count);
}

/* Memory with unmapped memory right before and behind it. */
static inline unsigned char *map_fenced(size_t length)
{
    unsigned char *outer = mmap(NULL, length + 2 * SMALL, PROT_NONE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (outer == MAP_FAILED || mprotect(outer + SMALL, length, PROT_READ | PROT_WRITE)) {
        perror("mmap");
        exit(2);
    }
    return outer + SMALL;
}

static inline void unmap_fenced(unsigned char *bytes, size_t length)
{
    munmap(bytes - SMALL, length + 2 * SMALL);
}

typedef struct kernel_test {
    const char *name;
    void (*run)(const pc_kernel *kernel);
} kernel_test;

/* Runs every test with every kernel that this CPU runs; the program's exit status. */
static inline int check_kernels(const kernel_test *tests, size_t count)
{
    for (size_t k = 0; k < pc_kernel_count(); k++) {
        const pc_kernel *kernel = pc_kernel_at(k);
        const char *why_not = pc_kernel_why_not(kernel);
        if (why_not) {
            printf("skip %s: %s\n", kernel->name, why_not);
            continue;
        }
        for (size_t i = 0; i < count; i++) {
            check_begin();
            tests[i].run(kernel);
            check_end(tests[i].name, kernel->name);
        }
    }
    return check_summary();
}

#endif
