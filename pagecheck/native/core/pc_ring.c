/* Maps and checks a channel's segments; waits on futex words with a monotonic deadline. */
#include "pc_ring.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

bool pc_ring_format(void *segment, uint64_t bytes, uint32_t slot_count, uint32_t slot_pages,
                    uint64_t generation)
{
    struct pc_header *header = segment;
    if (slot_count == 0 || slot_count > PC_SLOTS_MAX || slot_pages == 0 ||
        slot_pages > PC_SLOT_PAGES_MAX || slot_pages % 64u != 0 ||
        bytes < pc_layout_segment_bytes(slot_count, slot_pages)) {
        return false;
    }
    header->magic = PC_SEGMENT_MAGIC;
    header->layout_version = PC_LAYOUT_VERSION;
    header->header_bytes = (uint32_t)pc_layout_header_bytes();
    header->segment_bytes = pc_layout_segment_bytes(slot_count, slot_pages);
    header->generation = generation;
    header->slot_count = slot_count;
    header->slot_pages = slot_pages;
    header->slot_bytes = pc_layout_slot_bytes(slot_pages);
    header->wake_at = UINT64_MAX;
    return true;
}

static const char *check_header(const struct pc_header *header, uint64_t file_bytes)
{
    if (header->magic != PC_SEGMENT_MAGIC)
        return "no channel segment (wrong magic)";
    if (header->layout_version != PC_LAYOUT_VERSION)
        return "channel segment of another layout version";
    if (header->slot_count == 0 || header->slot_count > PC_SLOTS_MAX || header->slot_pages == 0 ||
        header->slot_pages > PC_SLOT_PAGES_MAX || header->slot_pages % 64u != 0)
        return "channel segment with an impossible geometry";
    if (header->header_bytes != pc_layout_header_bytes() ||
        header->slot_bytes != pc_layout_slot_bytes(header->slot_pages) ||
        header->segment_bytes != pc_layout_segment_bytes(header->slot_count, header->slot_pages) ||
        header->segment_bytes > file_bytes)
        return "channel segment whose sizes disagree";
    return NULL;
}

static const char *map_control(int fd, pc_ring *ring)
{
    struct stat st;
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    if (fd >= 0 && (fstat(fd, &st) != 0 || st.st_size < (off_t)sizeof *ring->control))
        return "control segment too short";
    void *control = mmap(NULL, sizeof *ring->control, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (control == MAP_FAILED)
        return "cannot map the control segment";
    ring->control = control;
    return NULL;
}

const char *pc_ring_open(int fd, int control_fd, pc_ring *ring)
{
    struct stat st;
    memset(ring, 0, sizeof *ring);
    if (fstat(fd, &st) != 0)
        return "cannot stat the channel segment";
    if (st.st_size < (off_t)pc_layout_header_bytes())
        return "channel segment too short";
    ring->mapped_bytes = (size_t)st.st_size;
    ring->header = mmap(NULL, ring->mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (ring->header == MAP_FAILED) {
        ring->header = NULL;
        return "cannot map the channel segment";
    }
    struct pc_header copy = *ring->header;
    const char *wrong = check_header(&copy, (uint64_t)st.st_size);
    if (wrong == NULL)
        wrong = map_control(control_fd, ring);
    if (wrong != NULL) {
        pc_ring_close(ring);
        return wrong;
    }
    ring->slot_count = copy.slot_count;
    ring->slot_pages = copy.slot_pages;
    ring->slot_bytes = copy.slot_bytes;
    return NULL;
}

void pc_ring_close(pc_ring *ring)
{
    int saved = errno; /* the caller reports the failure that led here */
    if (ring->control != NULL)
        munmap(ring->control, sizeof *ring->control);
    if (ring->header != NULL)
        munmap(ring->header, ring->mapped_bytes);
    memset(ring, 0, sizeof *ring);
    errno = saved;
}

struct pc_slot *pc_ring_slot(const pc_ring *ring, uint64_t sequence)
{
    uint64_t index = sequence % ring->slot_count;
    char *slots = (char *)ring->header + pc_layout_header_bytes();
    return (struct pc_slot *)(void *)(slots + index * ring->slot_bytes);
}

int64_t pc_clock_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

pc_wait pc_futex_wait(const uint32_t *word, uint32_t seen, int64_t deadline_ns)
{
    if (deadline_ns < 0)
        deadline_ns = 0;
    const struct timespec until = {
        .tv_sec = (time_t)(deadline_ns / INT64_C(1000000000)),
        .tv_nsec = (long)(deadline_ns % INT64_C(1000000000)),
    };
    /* Of the waits, only this one takes an absolute time, on CLOCK_MONOTONIC. Source: futex(2). */
    if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET, seen, &until, NULL, FUTEX_BITSET_MATCH_ANY) ==
            0 ||
        errno == EAGAIN)
        return PC_WAIT_POSTED;
    if (errno == ETIMEDOUT)
        return PC_WAIT_TIMEOUT;
    return errno == EINTR ? PC_WAIT_INTERRUPTED : PC_WAIT_FAILED;
}

void pc_futex_wake(const uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void pc_ring_wake_worker(const pc_ring *ring)
{
    struct pc_header *header = ring->header;
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with the fence in pc_worker.c:sleep_until */
    uint32_t now = __atomic_load_n(&header->submit, __ATOMIC_RELAXED);
    /* A worker that sleeps on an older value is on its way already. */
    if (__atomic_load_n(&header->asleep, __ATOMIC_RELAXED) != (PC_ASLEEP | now))
        return;
    __atomic_fetch_add(&header->submit, 1, __ATOMIC_RELEASE);
    pc_futex_wake(&header->submit);
}

void pc_ring_raise_attention(const pc_ring *ring)
{
    __atomic_fetch_add(&ring->control->attention, 1, __ATOMIC_RELEASE);
    /* Whatever a hostile ring says of its worker's sleep. */
    __atomic_fetch_add(&ring->header->submit, 1, __ATOMIC_RELEASE);
    pc_futex_wake(&ring->header->submit);
}

void pc_ring_mark_gone(const pc_ring *ring)
{
    /* In this order: who reads `done` after it was raised here, as every sleeper does, sees `gone`.
     * release; pairs with the acquire load in pc_feed.c:is_gone */
    __atomic_store_n(&ring->header->gone, 1, __ATOMIC_RELEASE);
    __atomic_fetch_add(&ring->header->done, 1, __ATOMIC_RELEASE); /* its worker is no more */
    pc_futex_wake(&ring->header->done);
}
