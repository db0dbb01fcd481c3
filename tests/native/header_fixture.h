/* A channel as a VMM has it, in one process with the worker behind it. */
#ifndef PC_TEST_HEADER_FIXTURE_H
#define PC_TEST_HEADER_FIXTURE_H

#include <pagecheck.h>

#include <stdio.h>

#include "check.h"
#include "fixture.h"

enum { PAGES = 1024, SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };

/* A channel as a VMM has it, and its worker. */
typedef struct pair {
    pagecheck_channel channel;
    pc_worker worker;
    pc_file_block block;
    pthread_t thread;
} pair;

static inline int64_t soon(void)
{
    return pagecheck_now_ns() + SECOND / 50;
}

static inline int64_t late(void)
{
    return pagecheck_now_ns() + 60 * SECOND;
}

static inline int new_segment(uint32_t slots, uint32_t slot_pages, int seals)
{
    int fd = ring_file(slots, slot_pages);
    if (seals != 0 && fcntl(fd, F_ADD_SEALS, seals) != 0)
        abort();
    return fd;
}

static inline void pair_init(int ram, pair *p)
{
    memset(p, 0, sizeof *p);
    int fd = new_segment(SLOTS, SLOT_PAGES, SEALS);
    pc_ring ring = ring_side(fd, -1);
    if (pagecheck_channel_map(fd, &p->channel) != 0 || !pc_guard_install() ||
        !pc_worker_init(&ring, pc_kernel_auto(), &p->worker))
        abort();
    close(fd);
    p->block = ram_block(ram, PAGES, PC_BLOCK_TRUST_HOLES, false);
    p->worker.blocks[0] = &p->block.head;
}

static inline void pair_deinit(pair *p)
{
    memset(p->worker.blocks, 0, sizeof p->worker.blocks); /* they are the test's */
    pc_worker_deinit(&p->worker, 0);
    pagecheck_channel_unmap(&p->channel);
}

static inline void *serve(void *worker)
{
    pc_worker_serve(worker, late());
    return NULL;
}

static inline void start(pair *p)
{
    pthread_create(&p->thread, NULL, serve, &p->worker);
}

static inline void stop(pair *p)
{
    pc_ring_raise_attention(&p->worker.ring);
    pthread_join(p->thread, NULL);
}

/* A worker that answers what waits, in this thread. */
static inline void answer_now(pair *p)
{
    pc_worker_serve(&p->worker, soon());
}

/* Pages 0, 1, 63 and 64 hold data; 2 is written with zeros, the others are holes. */
static inline int new_ram(void)
{
    int fd = ram_file(PAGES, UINT64_C(0x8000000000000003), 4);
    if (pwrite(fd, "x", 1, 64 * PAGE + 7) != 1)
        abort();
    return fd;
}

static inline bool is_normal(uint64_t page)
{
    return page < 2 || page == 63 || page == 64;
}

/* Descriptors that are open; none may be left behind. */
static inline int count_fds(void)
{
    int count = 0;
    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

#endif
