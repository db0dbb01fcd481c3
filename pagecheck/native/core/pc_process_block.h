/* The RAM block that is private memory of another process: looked at through its page tables,
 * copied where a page is in memory, and decided from the copy. */
#ifndef PC_PROCESS_BLOCK_H
#define PC_PROCESS_BLOCK_H

#include <sys/types.h>

#include "pc_block.h"
#include "pc_error.h"
#include "pc_pagemap.h"

#define PC_PIECES_MAX 256u

/* What a page means that no page table has. */
typedef enum pc_absent {
    PC_ABSENT_ZERO,      /* it reads as zeros */
    PC_ABSENT_FILE,      /* it reads as the file does */
    PC_ABSENT_UNDECIDED, /* its bytes may be anywhere */
    PC_UNREADABLE,       /* nothing of the piece may be looked at, present or absent */
} pc_absent;

/* Bytes [begin, end) of the block. */
typedef struct pc_piece {
    uint64_t begin;
    uint64_t end;
    uint64_t absent;      /* pc_absent */
    uint64_t file_offset; /* of `begin`, with PC_ABSENT_FILE */
} pc_piece;

/* What to look at. */
typedef struct pc_process_range {
    int pagemap_fd;
    int memory_fd; /* its /proc/PID/mem, opened on the same address space */
    int file_fd;   /* what PC_ABSENT_FILE means, or -1 */
    pid_t pid;
    uint64_t address; /* of the block's byte 0 in that process */
    uint64_t bytes;
    uint64_t page_bytes;
    bool read_swapped; /* pages that are swapped out are brought in and read */
    const pc_piece *pieces;
    size_t piece_count;
} pc_process_range;

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

/* Whether the numbers are possible, and the pieces in order, without gaps, of whole pages. */
bool pc_process_range_check(const pc_process_range *range, pc_error *error);
/* The piece that has a byte of the block. */
const pc_piece *pc_pieces_find(const pc_piece *pieces, size_t count, uint64_t offset);

/* The descriptors are duplicated and the pieces copied. NULL: the error says why. */
pc_block *pc_process_block_open(const pc_process_range *range, pc_error *error);

#endif
