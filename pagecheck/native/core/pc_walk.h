/* A walk over the holes of a file, or of another process's memory, page by page: what SEEK_DATA and
 * SEEK_HOLE report becomes bits for the pages in holes, and stretches of those that have to be
 * looked at. */
#ifndef PC_WALK_H
#define PC_WALK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "pc_bits.h"

/* Pages [first, first + span), of which `pages` have data and every other one's bit is set. */
typedef struct pc_stretch {
    uint64_t first;
    uint64_t span;
    uint64_t pages;
} pc_stretch;

typedef struct pc_walk {
    /* As lseek; a hole may be reported to begin too early, but only behind `at`. */
    off_t (*seek)(void *context, off_t at, int whence);
    void *context;
    uint64_t start; /* byte offset in the file of page 0 */
    uint64_t page_bytes;
    uint64_t pages;
    /* Bitmaps over the pages, shared with other threads. */
    uint64_t *hole;
    uint64_t *zero;  /* gets the same bits */
    int64_t look_ns; /* how long a call looks things up */
    /* How far it has come, which is not the caller's: */
    uint64_t done;    /* the pages before it are holes, or in a run that was found */
    off_t data;       /* where the next data was found to be; -1: not looked up yet */
    bool single;      /* the last run was one page */
    bool all_data;    /* a lookup failed: nothing is known from `done` on */
    pc_bits_run next; /* the run that the next stretch begins with, if it is not empty */
} pc_walk;

/* The lseek of the file whose descriptor `fd` points to; the file's offset is moved. */
off_t pc_walk_seek_file(void *fd, off_t at, int whence);

/* Begins at page 0. */
void pc_walk_begin(pc_walk *walk);
/* The next stretch: a single run of pages, however long, or several with `most` pages at most. It
 * ends early once `look_ns` have passed, and may even be empty. False: there are no more, and the
 * pages that were in none are holes. */
bool pc_walk_next(pc_walk *walk, uint64_t most, pc_stretch *stretch);

#endif
