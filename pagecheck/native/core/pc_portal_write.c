/* write(2) to a work queue's character device: the kernel submits, one descriptor at a time.
 *
 * Where it refuses the mapping (no CAP_SYS_RAWIO) this is the only way in. It checks each
 * descriptor first, and on DSA 1.0 refuses batch descriptors with EINVAL. It orders nothing for its
 * caller (see pc_portal_fence). Source: idxd_cdev_write and idxd_submit_user_descriptor in Linux'
 * drivers/dma/idxd. */
#include "pc_portal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

typedef struct pc_portal_file {
    pc_portal head;
    int fd;
} pc_portal_file;

/* The kernel counts bytes of whole descriptors. EAGAIN: it has used up its own retries of ENQCMDS
 * (32 by default) for the first one. */
static long pc_submit_write(pc_portal *portal, const void *descriptors, size_t count)
{
    const pc_portal_file *file = (const pc_portal_file *)portal;
    ssize_t wrote;
    if (!pc_portal_is_enabled(portal)) /* the kernel's own portal would be gone */
        return 0;
    do {
        pc_portal_fence();
        wrote = write(file->fd, descriptors, count * PC_DESCRIPTOR_BYTES);
    } while (wrote < 0 && errno == EINTR);
    if (wrote < 0)
        return errno == EAGAIN ? 0 : -errno;
    return wrote / (ssize_t)PC_DESCRIPTOR_BYTES;
}

static void pc_close_write(pc_portal *portal)
{
    pc_portal_file *file = (pc_portal_file *)portal;
    close(file->fd);
    pc_portal_close_state(portal);
    free(file);
}

static const pc_portal_ops pc_ops_write = {
    .name = "write",
    .retries = 2, /* the kernel has tried 32 times for each answer */
    .submit = pc_submit_write,
    .close = pc_close_write,
};

pc_portal *pc_portal_open_write(int fd)
{
    pc_portal_file *file = malloc(sizeof *file);
    if (file == NULL)
        return NULL;
    *file = (pc_portal_file){.head.ops = &pc_ops_write, .fd = fd};
    return &file->head;
}
