/* The file that a RAM block's pages are copied to while they are decided. */
#ifndef PC_SINK_H
#define PC_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pc_error.h"

#define PC_SINK_PIECE 4096u    /* what is compared and written whole; offsets are multiples */
#define PC_SINK_ERROR_BITS 12u /* of `failure`: below them the errno, above the piece's number */
#define PC_SINK_BYTES (512u * 1024u) /* that are written, or compared, at once */

/* What all workers of a block and their coordinator share of its sink. */
struct pc_sink_state {
    /* Added to by the workers. */
    uint64_t written; /* bytes that were written; the last ones of a worker that was killed may be
                         missing */
    /* Written by the worker that fails first. */
    uint64_t failure; /* errno | number of the file's piece << PC_SINK_ERROR_BITS; 0: none */
    uint64_t reserved_workers[6];
    /* Written by the supervisor. */
    uint64_t stopped; /* not 0: nothing more is written */
    uint64_t reserved_supervisor[7];
};

typedef struct pc_sink {
    int fd;         /* owned */
    uint64_t start; /* byte offset in the file of the block's byte 0 */
    bool update;    /* the file has content: only what differs is written, zeros too */
    bool holes;     /* those of SEEK_DATA are proof of zero, and nobody uses the file position */
    struct pc_sink_state *state;
    unsigned char *found; /* with `update`: PC_SINK_BYTES of what the file has */
    uint64_t *progress;   /* raised after every piece of work */
} pc_sink;

/* What to open; both descriptors are duplicated. */
typedef struct pc_sink_file {
    int fd;
    int state_fd;
    uint64_t start;
    bool update;
    bool holes;
} pc_sink_file;

/* NULL: the error says why. */
pc_sink *pc_sink_open(const pc_sink_file *file, uint64_t *progress, pc_error *error);
void pc_sink_close(pc_sink *sink);

/* Writes at the block's offset; returns how many bytes are there, in order. Less: where they were
 * to come from is gone, or the state says why nothing more is written. */
size_t pc_sink_write(pc_sink *sink, uint64_t offset, const unsigned char *from, size_t bytes);
/* The first byte of [offset, end) that may not be zero in the file, or `end`. */
uint64_t pc_sink_next_data(const pc_sink *sink, uint64_t offset, uint64_t end);
/* The first byte of (offset, end) that is in a hole behind data at `offset`, or `end`. */
uint64_t pc_sink_next_hole(const pc_sink *sink, uint64_t offset, uint64_t end);
/* Reads at most PC_SINK_BYTES of what the file has into `found`, zeros past its end. */
bool pc_sink_read(pc_sink *sink, uint64_t offset, size_t bytes);
/* Writes zeros, at most PC_SINK_BYTES; as pc_sink_write. */
size_t pc_sink_clear(pc_sink *sink, uint64_t offset, size_t bytes);

#endif
