/* Maps and checks a channel's segments; what their supervisor says in them. */
#include "pc_ring.h"

#include <sys/mman.h>
#include <sys/stat.h>

bool pc_ring_format(void *segment, uint64_t bytes, uint32_t slot_count, uint32_t slot_pages,
                    uint64_t generation)
{
    struct pagecheck_ring_header *header = segment;
    if (!pgck_ring_fits(slot_count, slot_pages) ||
        bytes < pgck_segment_bytes(slot_count, slot_pages))
        return false;
    header->magic = PAGECHECK_SEGMENT_MAGIC;
    header->layout_version = PAGECHECK_LAYOUT_VERSION;
    header->header_bytes = (uint32_t)sizeof *header;
    header->segment_bytes = pgck_segment_bytes(slot_count, slot_pages);
    header->generation = generation;
    header->slot_count = slot_count;
    header->slot_pages = slot_pages;
    header->slot_bytes = pgck_slot_bytes(slot_pages);
    header->wake_at = UINT64_MAX;
    return true;
}

static bool map_control(int fd, pc_ring *ring, pc_error *error)
{
    struct stat st;
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    if (fd >= 0 && fstat(fd, &st) != 0)
        return pc_error_set(error, PC_ERROR_SYSTEM, "cannot stat the control segment");
    if (fd >= 0 && st.st_size < (off_t)sizeof *ring->control)
        return pc_error_set(error, PC_ERROR_INVALID, "control segment too short");
    void *control = mmap(NULL, sizeof *ring->control, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (control == MAP_FAILED)
        return pc_error_set(error, PC_ERROR_SYSTEM, "cannot map the control segment");
    ring->control = control;
    return true;
}

bool pc_ring_open(int fd, int control_fd, pc_ring *ring, pc_error *error)
{
    struct stat st;
    memset(ring, 0, sizeof *ring);
    if (fstat(fd, &st) != 0)
        return pc_error_set(error, PC_ERROR_SYSTEM, "cannot stat the channel segment");
    if (st.st_size < (off_t)sizeof(struct pagecheck_ring_header))
        return pc_error_set(error, PC_ERROR_INVALID, "channel segment too short");
    size_t bytes = (size_t)st.st_size;
    void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED)
        return pc_error_set(error, PC_ERROR_SYSTEM, "cannot map the channel segment");
    const char *wrong = pgck_ring_init(mapped, bytes, &ring->shared);
    ring->shared.header = mapped;
    ring->mapped_bytes = bytes;
    bool opened = wrong == NULL ? map_control(control_fd, ring, error)
                                : pc_error_set(error, PC_ERROR_INVALID, "%s", wrong);
    if (!opened)
        pc_ring_close(ring);
    return opened;
}

void pc_ring_close(pc_ring *ring)
{
    if (ring->control != NULL)
        munmap(ring->control, sizeof *ring->control);
    if (ring->shared.header != NULL)
        munmap(ring->shared.header, ring->mapped_bytes);
    memset(ring, 0, sizeof *ring);
}

int64_t pc_clock_now_ns(void)
{
    return pagecheck_now_ns();
}

void pc_ring_raise_attention(const pc_ring *ring)
{
    __atomic_fetch_add(&ring->control->attention, 1, __ATOMIC_RELEASE);
    /* Whatever a hostile ring says of its worker's sleep. */
    __atomic_fetch_add(&ring->shared.header->submit, 1, __ATOMIC_RELEASE);
    pgck_futex_wake(&ring->shared.header->submit);
}

void pc_ring_mark_gone(const pc_ring *ring)
{
    /* In this order: whoever reads `done` after it was raised here, as every sleeper does, sees
     * `gone`. release; pairs with the acquire load in pgck_ring_gone */
    __atomic_store_n(&ring->shared.header->gone, 1, __ATOMIC_RELEASE);
    __atomic_fetch_add(&ring->shared.header->done, 1, __ATOMIC_RELEASE);
    pgck_futex_wake(&ring->shared.header->done);
}
