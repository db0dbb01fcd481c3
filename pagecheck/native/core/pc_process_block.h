/* The RAM block that is private memory of another process: looked at through its page tables,
 * copied where a page is in memory, and decided from the copy. */
#ifndef PC_PROCESS_BLOCK_H
#define PC_PROCESS_BLOCK_H

#include "pc_block.h"
#include "pc_error.h"
#include "pc_pagemap.h"
#include "pc_process_range.h"

typedef struct pc_process_block {
    pc_block head;
    pc_pagemap pagemap; /* its descriptor is owned */
    int memory_fd;      /* owned */
    int file_fd;        /* owned, or -1 */
    pid_t pid;
    uint64_t address;
    bool read_swapped;
    size_t piece_count;
    pc_piece pieces[]; /* in order, without gaps */
} pc_process_block;

/* The descriptors are duplicated and the pieces copied. NULL: the error says why. */
pc_block *pc_process_block_open(const pc_process_range *range, pc_error *error);

#endif
