/* PAGEMAP_SCAN, and reads of the file for kernels before 6.7, which have no such call.
 *
 * Facts: both look at each page table under its lock, so that a page on its way to swap, or being
 * moved, is never seen as absent. That is not so of the pages of hugetlbfs. The call reports pages
 * of a mapping that no page table has, with the categories of the mapping alone, and leaves out
 * what is not mapped. The file's entries say of both 0, and which page is the zero page only to who
 * may see physical addresses; so that one is read there, as any other, which changes nothing.
 * Danger: a process that ends loses its pages before its mappings, so that the call reports pages
 * as absent that were data. A read of the file gives nothing from the moment on that no process has
 * the address space any more, which is before the first page is lost; it takes 0.3 us. */
#include "pc_pagemap.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "pc_bits.h"
#include "pc_block.h"

/* From Linux: include/uapi/linux/fs.h, since 6.7. */
struct scan_argument {
    uint64_t size;
    uint64_t flags;
    uint64_t start;
    uint64_t end;
    uint64_t walk_end;
    uint64_t vec;
    uint64_t vec_len;
    uint64_t max_pages;
    uint64_t category_inverted;
    uint64_t category_mask;
    uint64_t category_anyof_mask;
    uint64_t return_mask;
};
#define SCAN _IOWR('f', 16, struct scan_argument)
#define IS_PRESENT (UINT64_C(1) << 3)
#define IS_SWAPPED (UINT64_C(1) << 4)
#define IS_ZERO (UINT64_C(1) << 5)

/* From Linux: Documentation/admin-guide/mm/pagemap.rst. */
#define ENTRY_PRESENT (UINT64_C(1) << 63)
#define ENTRY_SWAPPED (UINT64_C(1) << 62)
#define ENTRY_ALONE (UINT64_C(1) << 56)
#define ENTRIES 1024u /* in one read */

static pc_page_state state_of(uint64_t categories)
{
    if ((categories & IS_SWAPPED) != 0)
        return PC_PAGE_SWAPPED;
    if ((categories & IS_ZERO) != 0)
        return PC_PAGE_ZERO;
    return (categories & IS_PRESENT) != 0 ? PC_PAGE_PRESENT : PC_PAGE_ABSENT;
}

static bool scan(const pc_pagemap *pagemap, uint64_t begin, uint64_t end, pc_region *regions,
                 size_t most, pc_look *look)
{
    struct scan_argument argument = {.size = sizeof argument,
                                     .start = begin,
                                     .end = end,
                                     .vec = (uintptr_t)regions,
                                     .vec_len = most,
                                     .return_mask = IS_PRESENT | IS_SWAPPED | IS_ZERO};
    int found = ioctl(pagemap->fd, SCAN, &argument);
    if (found < 0)
        return false;
    for (int i = 0; i < found; i++)
        regions[i].state = state_of(regions[i].state);
    *look = (pc_look){(size_t)found, argument.walk_end};
    return true;
}

static pc_page_state state_of_entry(uint64_t entry)
{
    if ((entry & ENTRY_SWAPPED) != 0)
        return PC_PAGE_SWAPPED;
    return (entry & ENTRY_PRESENT) != 0 ? PC_PAGE_PRESENT : PC_PAGE_ABSENT;
}

/* Adds a page to the regions. False: they are full. */
static bool add_page(uint64_t address, pc_page_state state, pc_region *regions, size_t most,
                     size_t *count)
{
    pc_region *last = *count != 0 ? &regions[*count - 1] : NULL;
    if (last != NULL && last->state == state && last->end == address) {
        last->end += PC_HOST_PAGE;
        return true;
    }
    if (*count == most)
        return false;
    regions[(*count)++] = (pc_region){address, address + PC_HOST_PAGE, state};
    return true;
}

static bool read_entries(const pc_pagemap *pagemap, uint64_t begin, uint64_t end,
                         pc_region *regions, size_t most, pc_look *look)
{
    uint64_t entries[ENTRIES];
    *look = (pc_look){0, begin};
    while (look->end < end) {
        uint64_t left = (end - look->end) / PC_HOST_PAGE;
        size_t want = (size_t)(left < ENTRIES ? left : ENTRIES) * sizeof *entries;
        off_t at = (off_t)(look->end / PC_HOST_PAGE * sizeof *entries);
        ssize_t got = pread(pagemap->fd, entries, want, at);
        if (got < 0)
            return false;
        size_t pages = (size_t)got / sizeof *entries;
        for (size_t i = 0; i < pages; i++, look->end += PC_HOST_PAGE)
            if (!add_page(look->end, state_of_entry(entries[i]), regions, most, &look->count))
                return true;
        if (pages == 0) /* the end of the address space, or it is gone */
            look->end = end;
    }
    return true;
}

bool pc_pagemap_look(pc_pagemap *pagemap, uint64_t begin, uint64_t end, pc_region *regions,
                     size_t most, pc_look *look)
{
    if (!pagemap->by_read) {
        if (scan(pagemap, begin, end, regions, most, look))
            return true;
        if (errno != ENOTTY && errno != EINVAL)
            return false;
        pagemap->by_read = true;
    }
    return read_entries(pagemap, begin, end, regions, most, look);
}

static bool look_anew(pc_view *view, pc_pagemap *pagemap, uint64_t address, uint64_t end)
{
    view->begin = address;
    view->next = 0;
    if (pc_pagemap_look(pagemap, address, end, view->regions, view->most, &view->look) &&
        view->look.end > address && (!view->prove || pc_pagemap_is_there(pagemap)))
        return true;
    view->look = (pc_look){0, 0};
    return false;
}

pc_page_state pc_view_at(pc_view *view, pc_pagemap *pagemap, uint64_t address, uint64_t look_end,
                         uint64_t *end)
{
    if ((address < view->begin || address >= view->look.end) &&
        !look_anew(view, pagemap, address, look_end))
        return PC_PAGE_UNKNOWN;
    if (view->next > 0 && view->regions[view->next - 1].end > address)
        view->next = 0;
    while (view->next < view->look.count && view->regions[view->next].end <= address)
        view->next++;
    const pc_region *region = &view->regions[view->next];
    bool found = view->next < view->look.count && region->begin <= address;
    uint64_t until = found                           ? region->end
                     : view->next < view->look.count ? region->begin
                                                     : view->look.end;
    if (until < *end)
        *end = until;
    return found ? (pc_page_state)region->state : PC_PAGE_UNMAPPED;
}

void pc_pagemap_alone(const pc_pagemap *pagemap, uint64_t address, uint32_t count, uint64_t *alone)
{
    uint64_t entries[ENTRIES];
    pc_bits_clear(alone, 0, count);
    for (uint32_t at = 0; at < count;) {
        uint32_t most = count - at < ENTRIES ? count - at : ENTRIES;
        off_t from = (off_t)((address / PC_HOST_PAGE + at) * sizeof *entries);
        ssize_t got = pread(pagemap->fd, entries, most * sizeof *entries, from);
        if (got < (ssize_t)sizeof *entries)
            return;
        uint32_t pages = (uint32_t)((size_t)got / sizeof *entries);
        for (uint32_t i = 0; i < pages; i++)
            if ((entries[i] & ENTRY_PRESENT) != 0 && (entries[i] & ENTRY_ALONE) != 0)
                pc_bits_set(alone, at + i, 1);
        at += pages;
    }
}

bool pc_pagemap_is_there(const pc_pagemap *pagemap)
{
    uint64_t entry;
    return pread(pagemap->fd, &entry, sizeof entry, 0) == (ssize_t)sizeof entry;
}
