/* A channel's ring as one side sees it: the mapped segments, the checked geometry, and waking.
 *
 * The truth is in the slots; the futex words only wake. Danger: a wake-up that is lost between a
 * look and a sleep. Decision: who goes to sleep says so first, fences, and looks once more; who has
 * something to say stores it, fences, and looks who sleeps. One of the two sees the other. */
#ifndef PC_RING_H
#define PC_RING_H

#include <stdbool.h>

#include "pc_layout.h"

typedef struct pc_ring {
    struct pc_header *header;
    struct pc_control *control;
    size_t mapped_bytes;
    uint32_t slot_count; /* private copies, checked at open: the segment's are never read again */
    uint32_t slot_pages;
    uint64_t slot_bytes;
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

/* Maps the segment behind `fd` and checks its header against the file's size; `control_fd` is the
 * control segment, or -1 for a side that has none: then its words are private and stay 0.
 * Returns NULL, or a static text that says what is wrong (errno is set where a call failed). */
const char *pc_ring_open(int fd, int control_fd, pc_ring *ring);
void pc_ring_close(pc_ring *ring);

struct pc_slot *pc_ring_slot(const pc_ring *ring, uint64_t sequence);

/* After a store that the worker is to see: wakes it if it sleeps. */
void pc_ring_wake_worker(const pc_ring *ring);
/* Makes the worker look at its socket. */
void pc_ring_raise_attention(const pc_ring *ring);
/* Says that nobody answers any more, and wakes who waits for it. */
void pc_ring_mark_gone(const pc_ring *ring);

/* Sleeps until the word is no longer `seen`, at most until the absolute CLOCK_MONOTONIC time; a
 * past time only polls. */
pc_wait pc_futex_wait(const uint32_t *word, uint32_t seen, int64_t deadline_ns);
void pc_futex_wake(const uint32_t *word);

int64_t pc_clock_now_ns(void);

static inline void pc_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

#endif
