/* The portal page of a work queue, mapped: ENQCMD to a shared queue, MOVDIR64B to a dedicated one.
 *
 * Facts: both instructions read 64 bytes of ordinary memory and send them to the device as one
 * write, which may pass older stores of this CPU, so that the device would find a descriptor list
 * or a zeroed record that is not written yet. Decision: a store fence stands before each of them,
 * inside the same function, as in idxd-config's test/accfg_test.h.
 *
 * ENQCMD answers: ZF set means Retry, the queue has not taken the descriptor. MOVDIR64B is posted:
 * to a full or disabled queue it is lost silently, so the caller counts. */
#include "pc_portal.h"

#include <errno.h>

#if defined(__x86_64__)

#include <immintrin.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct pc_portal_mapped {
    pc_portal head;
    unsigned char *page;
    size_t next; /* offset in the page of the next MOVDIR64B */
    int fd;      /* -1: the page is the caller's */
} pc_portal_mapped;

/* True: Retry. */
__attribute__((target("enqcmd"))) static bool pc_enqcmd(void *to, const void *descriptor)
{
    pc_portal_fence();
    return _enqcmd(to, descriptor) != 0;
}

__attribute__((target("movdir64b"))) static void pc_movdir64b(void *to, const void *descriptor)
{
    pc_portal_fence();
    _movdir64b(to, descriptor);
}

/* Always to the same place: one ENQCMD of a CPU is in flight at a time, and striding gains
 * nothing. */
static long pc_submit_enqcmd(pc_portal *portal, const void *descriptors, size_t count)
{
    const pc_portal_mapped *mapped = (const pc_portal_mapped *)portal;
    const unsigned char *descriptor = descriptors;
    size_t taken = 0;
    while (taken < count && !pc_enqcmd(mapped->page, descriptor + taken * PC_DESCRIPTOR_BYTES))
        taken++;
    return (long)taken;
}

/* Every aligned place in the page is the same queue; posted writes to different ones may be in
 * flight together, those to one place wait for each other. Source: idxd_wq_portal_addr in Linux'
 * drivers/dma/idxd/idxd.h. */
static long pc_submit_movdir64b(pc_portal *portal, const void *descriptors, size_t count)
{
    pc_portal_mapped *mapped = (pc_portal_mapped *)portal;
    const unsigned char *descriptor = descriptors;
    for (size_t i = 0; i < count; i++) {
        pc_movdir64b(mapped->page + mapped->next, descriptor + i * PC_DESCRIPTOR_BYTES);
        mapped->next = (mapped->next + PC_DESCRIPTOR_BYTES) % PC_PORTAL_BYTES;
    }
    return (long)count;
}

/* The last reference to the file is gone when both are: the kernel then drains the queue. */
static void pc_close_mapped(pc_portal *portal)
{
    pc_portal_mapped *mapped = (pc_portal_mapped *)portal;
    if (mapped->fd >= 0) {
        munmap(mapped->page, PC_PORTAL_BYTES);
        close(mapped->fd);
    }
    pc_portal_close_state(portal);
    free(mapped);
}

static const pc_portal_ops pc_ops_enqcmd = {
    .name = "enqcmd",
    .retries = 64, /* some microseconds; a full queue is overload: more would only add to it */
    .submit = pc_submit_enqcmd,
    .close = pc_close_mapped,
};

static const pc_portal_ops pc_ops_movdir64b = {
    .name = "movdir64b",
    .submit = pc_submit_movdir64b,
    .close = pc_close_mapped,
};

static pc_portal *pc_portal_new(void *page, int fd, bool dedicated)
{
    pc_portal_mapped *mapped = malloc(sizeof *mapped);
    if (mapped == NULL)
        return NULL;
    *mapped = (pc_portal_mapped){
        .head.ops = dedicated ? &pc_ops_movdir64b : &pc_ops_enqcmd,
        .page = page,
        .fd = fd,
    };
    return &mapped->head;
}

pc_portal *pc_portal_open_at(void *address, bool dedicated)
{
    if ((uintptr_t)address % PC_DESCRIPTOR_BYTES != 0) { /* both instructions fault there */
        errno = EINVAL;
        return NULL;
    }
    return pc_portal_new(address, -1, dedicated);
}

pc_portal *pc_portal_open_mapped(int fd, bool dedicated)
{
    if ((dedicated ? pc_movdir64b_why_not() : pc_enqcmd_why_not()) != NULL) {
        errno = ENOSYS;
        return NULL;
    }
    /* The driver refuses a second page and, without CAP_SYS_RAWIO, the first (CVE-2024-21823). */
    void *page = mmap(NULL, PC_PORTAL_BYTES, PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (page == MAP_FAILED)
        return NULL;
    pc_portal *portal = pc_portal_new(page, fd, dedicated);
    if (portal == NULL) {
        munmap(page, PC_PORTAL_BYTES);
        errno = ENOMEM;
    }
    return portal;
}

#else

pc_portal *pc_portal_open_at(void *address, bool dedicated)
{
    (void)address;
    (void)dedicated;
    errno = ENOSYS;
    return NULL;
}

pc_portal *pc_portal_open_mapped(int fd, bool dedicated)
{
    (void)fd;
    (void)dedicated;
    errno = ENOSYS;
    return NULL;
}

#endif
