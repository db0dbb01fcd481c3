/* A ring in shared memory with both of its ends in one process, and RAM files to look at. */
#ifndef PC_TEST_FIXTURE_H
#define PC_TEST_FIXTURE_H

#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pc_feed.h"
#include "pc_file_block.h"
#include "pc_guard.h"
#include "pc_worker.h"

enum { PAGE = 4096, SLOTS = 4, SLOT_PAGES = 128 };

#define SECOND INT64_C(1000000000)

typedef struct fixture {
    pc_feed feed;
    pc_worker worker;
} fixture;

/* A new, formatted segment; its size can be sealed. */
static inline int ring_file(uint32_t slots, uint32_t slot_pages)
{
    uint64_t bytes = pgck_segment_bytes(slots, slot_pages);
    int fd = memfd_create("ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0)
        abort();
    void *segment = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (segment == MAP_FAILED || !pc_ring_format(segment, bytes, slots, slot_pages, 1))
        abort();
    munmap(segment, bytes);
    return fd;
}

/* One side of a ring; without a control segment where `control` is -1. */
static inline pc_ring ring_side(int segment, int control)
{
    pc_ring ring;
    pc_error error;
    if (!pc_ring_open(segment, control, &ring, &error)) {
        fprintf(stderr, "%s\n", error.text);
        abort();
    }
    return ring;
}

/* Both sides of a new ring. */
static inline void ring_sides(uint32_t slots, pc_ring *ours, pc_ring *theirs)
{
    int segment = ring_file(slots, SLOT_PAGES), control = memfd_create("control", MFD_CLOEXEC);
    if (control < 0 || ftruncate(control, (off_t)sizeof(struct pc_control)) != 0)
        abort();
    *ours = ring_side(segment, control);
    *theirs = ring_side(segment, control);
    close(control);
    close(segment);
}

static inline void fixture_init(fixture *f)
{
    pc_ring ours, theirs;
    memset(f, 0, sizeof *f);
    ring_sides(SLOTS, &ours, &theirs);
    if (!pc_guard_install() || !pc_feed_init(&ours, &f->feed) ||
        !pc_worker_init(&theirs, pc_kernel_auto(), &f->worker))
        abort();
}

static inline void fixture_deinit(fixture *f)
{
    memset(f->worker.blocks, 0, sizeof f->worker.blocks); /* they are the test's */
    pc_worker_deinit(&f->worker, 0);
    pc_feed_deinit(&f->feed);
}

/* A memfd of `pages` pages; pages whose bit is set in `data` get one non-zero byte at the end,
 * pages whose bit is set in `zeros` are written with zeros, the others are holes. */
static inline int ram_file(uint64_t pages, uint64_t data, uint64_t zeros)
{
    static const char page[PAGE];
    int fd = memfd_create("ram", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)(pages * PAGE)) != 0)
        abort();
    for (uint64_t i = 0; i < pages && i < 64; i++) {
        if (((data | zeros) >> i & 1) && pwrite(fd, page, PAGE, (off_t)(i * PAGE)) != PAGE)
            abort();
        if ((data >> i & 1) && pwrite(fd, "\x80", 1, (off_t)((i + 1) * PAGE - 1)) != 1)
            abort();
    }
    return fd;
}

static inline pc_file_block ram_block(int fd, uint64_t pages, uint32_t flags, bool map)
{
    pc_file_block block = {.head = {.ops = &pc_file_block_ops,
                                    .bytes = pages * PAGE,
                                    .page_bytes = PAGE,
                                    .flags = flags},
                           .fd = fd};
    if (map) {
        block.head.base = mmap(NULL, pages * PAGE, PROT_READ, MAP_SHARED, fd, 0);
        if (block.head.base == MAP_FAILED)
            abort();
    }
    return block;
}

static inline uint64_t blocks_of(int fd)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        abort();
    return (uint64_t)st.st_blocks;
}

#endif
