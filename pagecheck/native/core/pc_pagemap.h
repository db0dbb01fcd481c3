/* What another process's page tables say of its pages, from its /proc/PID/pagemap.
 *
 * A descriptor of that file stays with the address space that it was opened on: once the process
 * has ended or executed another program, nothing of it is mapped any more. */
#ifndef PC_PAGEMAP_H
#define PC_PAGEMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum pc_page_state {
    PC_PAGE_ABSENT,  /* no page table has it */
    PC_PAGE_ZERO,    /* it is the kernel's zero page */
    PC_PAGE_PRESENT, /* it is in memory; by reads of the file: or the zero page */
    PC_PAGE_SWAPPED, /* its entry is none of a page in memory: swap, migration, guard, marker */
    PC_PAGE_UNMAPPED,
    PC_PAGE_UNKNOWN, /* the look failed */
} pc_page_state;

/* Consecutive pages with one state. The layout is the kernel's struct page_region. */
typedef struct pc_region {
    uint64_t begin; /* address */
    uint64_t end;
    uint64_t state; /* pc_page_state */
} pc_region;

typedef struct pc_pagemap {
    int fd;       /* the caller's */
    bool by_read; /* the file is read: the kernel has no PAGEMAP_SCAN, or a test wants it so */
} pc_pagemap;

/* What one look saw: `count` regions between the address it began at and `end`. */
typedef struct pc_look {
    size_t count;
    uint64_t end;
} pc_look;

/* Looks at the pages of [begin, end), of which all but whole pages are wrong, and fills at most
 * `most` regions (at least 1) in the order of their addresses. Pages that are in no region are not
 * mapped; by reads of the file they are absent. False: nothing is known, errno says why. */
bool pc_pagemap_look(pc_pagemap *pagemap, uint64_t begin, uint64_t end, pc_region *regions,
                     size_t most, pc_look *look);

/* The last look, from which the states of pages are answered as far as it goes. */
typedef struct pc_view {
    pc_region *regions; /* room for `most` */
    size_t most;
    pc_look look; /* all zeros: there was none yet */
    uint64_t begin;
    size_t next; /* the region where the last search ended */
    bool prove;  /* a look fails if pc_pagemap_is_there does not hold after it */
} pc_view;

/* The state of the page at `address`, and of those behind it before `*end`, which is lowered. Pages
 * that the last look did not see are looked at, those before `look_end` with them. */
pc_page_state pc_view_at(pc_view *view, pc_pagemap *pagemap, uint64_t address, uint64_t look_end,
                         uint64_t *end);

/* Which of `count` pages from `address` on this address space alone maps: bit i of `alone` is page
 * i. Not those that are swapped, nor any where nothing is known. */
void pc_pagemap_alone(const pc_pagemap *pagemap, uint64_t address, uint32_t count, uint64_t *alone);

/* Whether the address space is still whole: no process that had it has begun to tear it down. What
 * a look saw before counts only then. */
bool pc_pagemap_is_there(const pc_pagemap *pagemap);

#endif
