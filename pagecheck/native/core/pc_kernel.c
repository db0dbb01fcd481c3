/* The table of kernels, the choice among them, and the check before first use.
 *
 * Danger: a kernel that this CPU lacks ends the process (SIGILL), and one that
 * a compiler got wrong loses a guest's memory. Nothing runs before why_not.
 */
#include "pc_kernel.h"

#include <string.h>

/* Best first. */
static const pc_kernel *const pc_kernel_table[] = {
#if defined(__x86_64__)
    &pc_kernel_avx512,
    &pc_kernel_avx2,
#endif
#if defined(__aarch64__)
    &pc_kernel_neon,
#endif
    &pc_kernel_portable,
};

size_t pc_kernel_count(void)
{
    return sizeof pc_kernel_table / sizeof pc_kernel_table[0];
}

const pc_kernel *pc_kernel_at(size_t index)
{
    return index < pc_kernel_count() ? pc_kernel_table[index] : NULL;
}

const pc_kernel *pc_kernel_find(const char *name)
{
    for (size_t i = 0; i < pc_kernel_count(); i++) {
        if (strcmp(pc_kernel_table[i]->name, name) == 0) {
            return pc_kernel_table[i];
        }
    }
    return NULL;
}

const char *pc_kernel_why_not(const pc_kernel *kernel)
{
    return kernel->why_not();
}

const pc_kernel *pc_kernel_auto(void)
{
    for (size_t i = 0; i < pc_kernel_count(); i++) {
        if (!pc_kernel_why_not(pc_kernel_table[i])) {
            return pc_kernel_table[i];
        }
    }
    return &pc_kernel_portable;
}

/* The self-check: one zero page and one marked page, each between guards of
 * non-zero bytes, so that a load outside a page turns its answer. A batch names
 * the zero page many times and the marked one once, in another place each time:
 * enough pages that both the loop over full steps and that over the rest run,
 * and every vector of every page read in step is once the only non-zero one.
 * Then a run, pages that lie one after the other, which a kernel may read in
 * another way: each vector of each page, of 16 bytes or more, is once the only
 * non-zero one. */
enum {
    PC_CHECK_PAGES = 11,
    PC_CHECK_GUARD_BYTES = 64,
    PC_CHECK_ZERO = PC_CHECK_GUARD_BYTES,
    PC_CHECK_MARKED = PC_CHECK_ZERO + PC_KERNEL_PAGE_BYTES + PC_CHECK_GUARD_BYTES,
    PC_CHECK_SINGLE_BYTES = PC_CHECK_MARKED + PC_KERNEL_PAGE_BYTES + PC_CHECK_GUARD_BYTES,
    PC_CHECK_RUN_PAGES = 3,
    PC_CHECK_RUN_STEP = 5, /* so that any 16 places hold one for each page of the run */
    PC_CHECK_RUN = PC_CHECK_GUARD_BYTES,
    PC_CHECK_RUN_BYTES = PC_CHECK_RUN + PC_CHECK_RUN_PAGES * PC_KERNEL_PAGE_BYTES +
        PC_CHECK_GUARD_BYTES,
    PC_CHECK_BYTES = PC_CHECK_SINGLE_BYTES > PC_CHECK_RUN_BYTES ? PC_CHECK_SINGLE_BYTES
                                                                : PC_CHECK_RUN_BYTES,
};

static const uint64_t pc_check_all = (1u << PC_CHECK_PAGES) - 1;

/* The answer for a batch whose page `odd` is at `there`, all others at `others`. */
static uint64_t pc_check_batch(const pc_kernel *kernel, const unsigned char *bytes, size_t odd,
                               uint64_t there, uint64_t others)
{
    uint64_t offsets[PC_CHECK_PAGES];
    for (size_t i = 0; i < PC_CHECK_PAGES; i++) {
        offsets[i] = i == odd ? there : others;
    }
    const pc_pages pages = {
        .base = bytes,
        .offsets = offsets,
        .count = PC_CHECK_PAGES,
        .page_bytes = PC_KERNEL_PAGE_BYTES,
    };
    return kernel->zero_pages(&pages, 0, PC_CHECK_PAGES);
}

static bool pc_check_place(const pc_kernel *kernel, unsigned char *bytes, size_t place)
{
    unsigned char *marked = bytes + PC_CHECK_MARKED;
    const size_t odd = place % PC_CHECK_PAGES;
    const uint64_t bit = (uint64_t)1 << odd;
    marked[place] = (unsigned char)(1u << place % 8);
    bool good = !kernel->is_zero(marked, PC_KERNEL_PAGE_BYTES);
    good = good && pc_check_batch(kernel, bytes, odd, PC_CHECK_MARKED, PC_CHECK_ZERO) ==
                       (pc_check_all & ~bit);
    if (place % 61 == 0) { /* one zero page among normal ones */
        good = good && pc_check_batch(kernel, bytes, odd, PC_CHECK_ZERO, PC_CHECK_MARKED) == bit;
    }
    marked[place] = 0;
    return good;
}

static bool pc_check_places(const pc_kernel *kernel, unsigned char *bytes)
{
    memset(bytes, 0xff, PC_CHECK_BYTES);
    memset(bytes + PC_CHECK_ZERO, 0, PC_KERNEL_PAGE_BYTES);
    memset(bytes + PC_CHECK_MARKED, 0, PC_KERNEL_PAGE_BYTES);
    bool good = kernel->is_zero(bytes + PC_CHECK_ZERO, PC_KERNEL_PAGE_BYTES);
    good = good && kernel->is_zero(bytes, 0) && !kernel->is_zero(bytes, 1);
    good = good && pc_check_batch(kernel, bytes, 0, PC_CHECK_MARKED, PC_CHECK_ZERO) == pc_check_all;
    for (size_t place = 0; good && place < PC_KERNEL_PAGE_BYTES; place++) {
        good = pc_check_place(kernel, bytes, place);
    }
    return good;
}

/* The answer for a run of pages, or for those at offsets. */
static uint64_t pc_check_run(const pc_kernel *kernel, const unsigned char *run,
                             const uint64_t *offsets)
{
    const pc_pages pages = {
        .base = run,
        .offsets = offsets,
        .count = PC_CHECK_RUN_PAGES,
        .page_bytes = PC_KERNEL_PAGE_BYTES,
    };
    return kernel->zero_pages(&pages, 0, PC_CHECK_RUN_PAGES);
}

/* First and last page are where a run has them, the one between is not. */
static bool pc_check_not_a_run(const pc_kernel *kernel, unsigned char *run)
{
    static const uint64_t offsets[PC_CHECK_RUN_PAGES] = {
        0, 0, (PC_CHECK_RUN_PAGES - 1) * PC_KERNEL_PAGE_BYTES};
    run[PC_KERNEL_PAGE_BYTES / 4] = 1;
    const bool good = pc_check_run(kernel, run, offsets) == 4;
    run[PC_KERNEL_PAGE_BYTES / 4] = 0;
    return good;
}

static bool pc_check_runs(const pc_kernel *kernel, unsigned char *bytes)
{
    const uint64_t all = (1u << PC_CHECK_RUN_PAGES) - 1;
    unsigned char *run = bytes + PC_CHECK_RUN;
    memset(bytes, 0xff, PC_CHECK_BYTES);
    memset(run, 0, PC_CHECK_RUN_PAGES * PC_KERNEL_PAGE_BYTES);
    bool good = pc_check_run(kernel, run, NULL) == all && pc_check_not_a_run(kernel, run);
    for (size_t place = 0; good && place < PC_KERNEL_PAGE_BYTES; place += PC_CHECK_RUN_STEP) {
        const size_t odd = place % PC_CHECK_RUN_PAGES;
        unsigned char *marked = run + odd * PC_KERNEL_PAGE_BYTES + place;
        *marked = (unsigned char)(1u << place % 8);
        good = pc_check_run(kernel, run, NULL) == (all & ~((uint64_t)1 << odd));
        *marked = 0;
    }
    return good;
}

bool pc_kernel_self_check(const pc_kernel *kernel)
{
    _Alignas(64) unsigned char bytes[PC_CHECK_BYTES + 1];
    return pc_check_places(kernel, bytes) && pc_check_places(kernel, bytes + 1) &&
           pc_check_runs(kernel, bytes) && pc_check_runs(kernel, bytes + 1);
}
