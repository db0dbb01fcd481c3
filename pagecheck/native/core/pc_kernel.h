/* The zero-check kernels: which pages hold nothing but zero bytes.
 *
 * A kernel only ever loads bytes of the pages that it was asked about. A set
 * bit is proof: every byte of that page was loaded and was zero. The memory
 * may be a running guest's, so a page can change after it was read.
 */
#ifndef PC_KERNEL_H
#define PC_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The smallest page, and the piece in which larger ones are read. */
#define PC_KERNEL_PAGE_BYTES 4096u

/* The most pages that one call of zero_pages decides: one bit each. */
#define PC_KERNEL_GROUP_PAGES 64u

typedef struct pc_pages {
    const unsigned char *base; /* byte 0 of what offsets count from; any alignment */
    const uint64_t *offsets;   /* count byte offsets, any order, duplicates allowed;
                                  NULL: page i is at first + i * page_bytes */
    uint64_t first;            /* byte offset of page 0 when offsets is NULL */
    size_t count;
    size_t page_bytes; /* a multiple of PC_KERNEL_PAGE_BYTES */
} pc_pages;

typedef struct pc_kernel {
    const char *name; /* "avx512", "avx2", "neon", "portable" */

    /* Any address, any length; a length of 0 is zero. */
    bool (*is_zero)(const void *bytes, size_t length);

    /* Decides pages [begin, end), at most PC_KERNEL_GROUP_PAGES of them; bit i
     * is set iff every byte of page begin + i is zero. Prefetches, but never
     * loads from, pages from end up to count: call it for consecutive groups. */
    uint64_t (*zero_pages)(const pc_pages *pages, size_t begin, size_t end);

    /* Looks at a few bytes of each page [begin, end): bit i is set iff page begin + i may be zero.
     * Reads the first byte of every PC_KERNEL_PAGE_BYTES of a page that it does not rule out, so
     * that this process has all of it in its page tables. Prefetches as zero_pages does. */
    uint64_t (*sample_pages)(const pc_pages *pages, size_t begin, size_t end);

    const char *(*why_not)(void); /* NULL: every CPU of this architecture runs it */
    const char *untested;         /* NULL, or why no test machine has run it */
} pc_kernel;

/* The kernels that this architecture can have, best first. */
size_t pc_kernel_count(void);
const pc_kernel *pc_kernel_at(size_t index);       /* NULL: index past the last one */
const pc_kernel *pc_kernel_find(const char *name); /* NULL: not on this architecture */

/* NULL: this CPU can run it; else a static text that says what is missing. */
const char *pc_kernel_why_not(const pc_kernel *kernel);

/* The first that this CPU can run; "portable" always can. */
const pc_kernel *pc_kernel_auto(void);

/* Puts one non-zero byte at every place of a page, aligned and not, with
 * non-zero bytes all around; a few milliseconds, no allocation, 16 KiB of stack.
 * False: the kernel must not be used. */
bool pc_kernel_self_check(const pc_kernel *kernel);

/* Each is defined only where the architecture has it. */
extern const pc_kernel pc_kernel_avx512;
extern const pc_kernel pc_kernel_avx2;
extern const pc_kernel pc_kernel_neon;
extern const pc_kernel pc_kernel_portable;

#endif
