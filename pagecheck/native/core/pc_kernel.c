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

/* The self-check: three pages with non-zero bytes before, between and behind,
 * so that a load outside a page turns its answer. */
enum {
    PC_CHECK_PAGES = 3,
    PC_CHECK_GUARD_BYTES = 64,
    PC_CHECK_STRIDE = PC_KERNEL_PAGE_BYTES + PC_CHECK_GUARD_BYTES,
    PC_CHECK_BYTES = PC_CHECK_GUARD_BYTES + PC_CHECK_PAGES * PC_CHECK_STRIDE,
};

typedef struct pc_check {
    const pc_kernel *kernel;
    unsigned char *page[PC_CHECK_PAGES];
    uint64_t offsets[PC_CHECK_PAGES];
    pc_pages pages;
} pc_check;

static void pc_check_init(pc_check *check, const pc_kernel *kernel, unsigned char *bytes)
{
    memset(bytes, 0xff, PC_CHECK_BYTES);
    check->kernel = kernel;
    for (size_t i = 0; i < PC_CHECK_PAGES; i++) {
        check->offsets[i] = PC_CHECK_GUARD_BYTES + i * PC_CHECK_STRIDE;
        check->page[i] = bytes + check->offsets[i];
        memset(check->page[i], 0, PC_KERNEL_PAGE_BYTES);
    }
    check->pages = (pc_pages){
        .base = bytes,
        .offsets = check->offsets,
        .count = PC_CHECK_PAGES,
        .page_bytes = PC_KERNEL_PAGE_BYTES,
    };
}

/* With a non-zero byte at `place` in the pages that `marked` names, exactly the
 * other pages must be zero, in the batch and each alone. */
static bool pc_check_marked(const pc_check *check, size_t place, uint64_t marked)
{
    const uint64_t all = (1u << PC_CHECK_PAGES) - 1;
    for (size_t i = 0; i < PC_CHECK_PAGES; i++) {
        check->page[i][place] = (unsigned char)((marked >> i & 1) << place % 8);
    }
    bool good = check->kernel->zero_pages(&check->pages, 0, PC_CHECK_PAGES) == (all & ~marked);
    const size_t alone = place % PC_CHECK_PAGES;
    good = good && check->kernel->is_zero(check->page[alone], PC_KERNEL_PAGE_BYTES) ==
                       !(marked >> alone & 1);
    for (size_t i = 0; i < PC_CHECK_PAGES; i++) {
        check->page[i][place] = 0;
    }
    return good;
}

static bool pc_check_places(const pc_check *check)
{
    bool good = pc_check_marked(check, 0, 0);
    for (size_t place = 0; good && place < PC_KERNEL_PAGE_BYTES; place++) {
        /* Each page is once the marked one and once a zero one among them. */
        good = pc_check_marked(check, place, 2) && pc_check_marked(check, place, 5);
    }
    return good;
}

/* More pages than are read in step, which is another loop: every third is zero. */
static bool pc_check_group(pc_check *check)
{
    uint64_t offsets[PC_KERNEL_GROUP_PAGES];
    uint64_t expected = 0;
    for (size_t i = 0; i < PC_KERNEL_GROUP_PAGES; i++) {
        offsets[i] = check->offsets[i % PC_CHECK_PAGES];
        expected |= (uint64_t)(i % PC_CHECK_PAGES == 1) << i;
    }
    pc_pages pages = check->pages;
    pages.offsets = offsets;
    pages.count = PC_KERNEL_GROUP_PAGES;
    bool good = check->kernel->zero_pages(&pages, 0, pages.count) == UINT64_MAX;
    for (size_t place = 1; good && place < PC_KERNEL_PAGE_BYTES; place += 61) {
        check->page[0][place] = check->page[2][PC_KERNEL_PAGE_BYTES - 1 - place] = 0x80;
        good = check->kernel->zero_pages(&pages, 0, pages.count) == expected;
        check->page[0][place] = check->page[2][PC_KERNEL_PAGE_BYTES - 1 - place] = 0;
    }
    return good;
}

bool pc_kernel_self_check(const pc_kernel *kernel)
{
    _Alignas(64) unsigned char bytes[PC_CHECK_BYTES + 1];
    for (size_t misaligned = 0; misaligned < 2; misaligned++) {
        pc_check check;
        pc_check_init(&check, kernel, bytes + misaligned);
        if (!pc_check_places(&check) || !pc_check_group(&check)) {
            return false;
        }
    }
    return true;
}
