/* Maps and checks a channel segment, and waits on its semaphores with a monotonic deadline. */
#include "pc_ring.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

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

const char *pc_ring_open(int fd, const char *submit_name, const char *done_name, pc_ring *ring)
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
    if (wrong == NULL && (ring->submit = sem_open(submit_name, 0)) == SEM_FAILED) {
        ring->submit = NULL;
        wrong = "cannot open the submit semaphore";
    }
    if (wrong == NULL && (ring->done = sem_open(done_name, 0)) == SEM_FAILED) {
        ring->done = NULL;
        wrong = "cannot open the done semaphore";
    }
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
    if (ring->submit != NULL)
        sem_close(ring->submit);
    if (ring->done != NULL)
        sem_close(ring->done);
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

pc_wait pc_wait_until(sem_t *semaphore, int64_t deadline_ns)
{
    if (deadline_ns < 0)
        deadline_ns = 0;
    struct timespec until = {
        .tv_sec = (time_t)(deadline_ns / INT64_C(1000000000)),
        .tv_nsec = (long)(deadline_ns % INT64_C(1000000000)),
    };
    if (sem_clockwait(semaphore, CLOCK_MONOTONIC, &until) == 0)
        return PC_WAIT_POSTED;
    if (errno == ETIMEDOUT)
        return PC_WAIT_TIMEOUT;
    return errno == EINTR ? PC_WAIT_INTERRUPTED : PC_WAIT_FAILED;
}
