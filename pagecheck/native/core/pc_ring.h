/* A channel's segments as this process maps them, and what the supervisor does with them.
 *
 * How the ring is used, and how its two sides sleep and wake, is in include/pagecheck_ring.h. */
#ifndef PC_RING_H
#define PC_RING_H

#include <stdbool.h>

#include "pc_error.h"
#include "pc_layout.h"

typedef struct pc_ring {
    pgck_ring shared;
    struct pc_control *control;
    size_t mapped_bytes;
} pc_ring;

/* Writes the constant words of a new, zeroed segment. False: a count is out of range. */
bool pc_ring_format(void *segment, uint64_t bytes, uint32_t slot_count, uint32_t slot_pages,
                    uint64_t generation);

/* Maps the segment behind `fd` and checks its header against the file's size; `control_fd` is the
 * control segment, or -1 for a side that has none: then its words are private and stay 0.
 * False: the error says why. */
bool pc_ring_open(int fd, int control_fd, pc_ring *ring, pc_error *error);
void pc_ring_close(pc_ring *ring);

/* Makes the worker look at its socket. */
void pc_ring_raise_attention(const pc_ring *ring);
/* Says that the worker is gone, and wakes the submitter. */
void pc_ring_mark_gone(const pc_ring *ring);

int64_t pc_clock_now_ns(void);

#endif
