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

static uint64_t pc_check_answer(const pc_check *check)
{
    return check->kernel->zero_pages(&check->pages, 0, PC_CHECK_PAGES);
}

/* One non-zero byte, in each of the two pages that are read in step and in the
 * one that is read alone. */
static bool pc_check_place(const pc_check *check, size_t place)
{
    const uint64_t all = (1u << PC_CHECK_PAGES) - 1;
    bool good = true;
    for (size_t i = 0; i < PC_CHECK_PAGES; i++) {
        unsigned char *page = check->page[i];
        page[place] = (unsigned char)(1u << place % 8);
        good = good && pc_check_answer(check) == (all & ~((uint64_t)1 << i));
        good = good && !check->kernel->is_zero(page, PC_KERNEL_PAGE_BYTES);
        page[place] = 0;
        good = good && check->kernel->is_zero(page, PC_KERNEL_PAGE_BYTES);
    }
    return good;
}

bool pc_kernel_self_check(const pc_kernel *kernel)
{
    _Alignas(64) unsigned char bytes[PC_CHECK_BYTES + 1];
    for (size_t misaligned = 0; misaligned < 2; misaligned++) {
        pc_check check;
        pc_check_init(&check, kernel, bytes + misaligned);
        bool good = pc_check_answer(&check) == (1u << PC_CHECK_PAGES) - 1;
        for (size_t place = 0; good && place < PC_KERNEL_PAGE_BYTES; place++) {
            good = pc_check_place(&check, place);
        }
        if (!good) {
            return false;
        }
    }
    return true;
}
