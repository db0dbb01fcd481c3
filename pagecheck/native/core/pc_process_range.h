/* What of another process's memory is a RAM block: where it is, and what its absent pages mean. */
#ifndef PC_PROCESS_RANGE_H
#define PC_PROCESS_RANGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "pc_error.h"

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

/* Whether the numbers are possible, and the pieces in order, without gaps, of whole pages. */
bool pc_process_range_check(const pc_process_range *range, pc_error *error);
/* The piece that has a byte of the block. */
const pc_piece *pc_pieces_find(const pc_piece *pieces, size_t count, uint64_t offset);

#endif
