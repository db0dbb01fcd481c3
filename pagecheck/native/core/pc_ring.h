/* A channel's ring as one side sees it: the mapped segment, its checked geometry and the two
 * semaphores. The truth is in the slots; a semaphore is only a wake-up. */
#ifndef PC_RING_H
#define PC_RING_H

#include <semaphore.h>
#include <stdbool.h>

#include "pc_layout.h"

typedef struct pc_ring {
    struct pc_header *header;
    size_t mapped_bytes;
    uint32_t slot_count; /* private copies, checked at open: the segment's are never read again */
    uint32_t slot_pages;
    uint64_t slot_bytes;
    sem_t *submit; /* the coordinator posts, the worker waits */
    sem_t *done;   /* the worker posts, the coordinator waits */
} pc_ring;

typedef enum pc_wait {
    PC_WAIT_POSTED,
    PC_WAIT_TIMEOUT,
    PC_WAIT_INTERRUPTED,
    PC_WAIT_FAILED,
} pc_wait;

/* Writes the constant words of a new, zeroed segment. False: a count is out of range. */
bool pc_ring_format(void *segment, uint64_t bytes, uint32_t slot_count, uint32_t slot_pages,
                    uint64_t generation);

/* Maps the segment behind `fd` and checks its header against the file's size.
 * Returns NULL, or a static text that says what is wrong (errno is set where a call failed). */
const char *pc_ring_open(int fd, const char *submit_name, const char *done_name, pc_ring *ring);
void pc_ring_close(pc_ring *ring);

struct pc_slot *pc_ring_slot(const pc_ring *ring, uint64_t sequence);

/* Waits for a post until the absolute CLOCK_MONOTONIC time; a past time only polls. */
pc_wait pc_wait_until(sem_t *semaphore, int64_t deadline_ns);

int64_t pc_clock_now_ns(void);

#endif
