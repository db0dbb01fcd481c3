/* Where another process's memory has pages: as a file's holes, for pc_walk. */
#ifndef PC_PROCESS_WALK_H
#define PC_PROCESS_WALK_H

#include <sys/types.h>

#include "pc_pagemap.h"
#include "pc_process_range.h"

#define PC_PROCESS_WALK_REGIONS 1024u

typedef struct pc_process_walk {
    pc_pagemap pagemap; /* its descriptor is the caller's */
    uint64_t address;   /* of the block's byte 0 in that process */
    uint64_t bytes;
    pc_region regions[PC_PROCESS_WALK_REGIONS]; /* of the view */
    pc_view view;
    size_t piece_count;
    pc_piece pieces[PC_PIECES_MAX];
} pc_process_walk;

/* `walk` is large: not on a stack. False: the error says why. */
bool pc_process_walk_init(const pc_process_range *range, pc_process_walk *walk, pc_error *error);

/* The next page that is data (SEEK_DATA) or a hole (SEEK_HOLE), as a byte of the block: a
 * hole is what no page table has and what reads as zeros for that reason. */
off_t pc_process_walk_seek(void *walk, off_t at, int whence);

/* How many of the pages that have a bit in neither bitmap have a part that is swapped out now. */
uint64_t pc_process_walk_swapped(pc_process_walk *walk, uint64_t page_bytes, const uint64_t *zero,
                                 const uint64_t *normal);

#endif
