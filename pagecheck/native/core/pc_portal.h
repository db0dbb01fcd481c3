/* How descriptors reach a work queue: one table of functions for each way.
 *
 * ENQCMD to the mapped portal of a shared queue, MOVDIR64B to that of a dedicated one, write(2)
 * where the kernel refuses the mapping, and the software device. One thread uses a portal; `close`
 * may be called by another one, as the last call.
 *
 * Danger: a device goes on reading pages and writing records after the caller has stopped waiting.
 * Only the end of `close` says that it no longer does. */
#ifndef PC_PORTAL_H
#define PC_PORTAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PC_DESCRIPTOR_BYTES 64u
#define PC_RECORD_BYTES 32u
#define PC_PORTAL_BYTES 4096u /* what the kernel lets a process map of a queue */

typedef struct pc_portal pc_portal;

typedef struct pc_portal_ops {
    const char *name; /* "enqcmd", "movdir64b", "write" */
    unsigned retries; /* how often to submit again what a full queue did not take */

    /* Submits `count` descriptors that lie one after the other, aligned to 64 bytes; what they
     * name must be written already: a fence of its own orders it. Returns how many the queue took,
     * from the first on: 0 when it was full or disabled (ENQCMD's Retry, EAGAIN), or -errno when it
     * refused the first. MOVDIR64B has no answer: all are counted as taken, and the caller keeps
     * within the queue's size. */
    long (*submit)(pc_portal *portal, const void *descriptors, size_t count);

    /* Names memory that descriptors may use from now on, and memory that none uses any more.
     * NULL: the device finds everything in the page tables. -errno: too many ranges. */
    int (*register_memory)(pc_portal *portal, const void *base, size_t bytes, bool writable);
    void (*unregister_memory)(pc_portal *portal, const void *base);

    /* Whether the queue is enabled. NULL: sysfs says it, see pc_portal_is_enabled. */
    bool (*enabled)(pc_portal *portal);

    /* Waits until the device holds nothing of ours and frees the portal. It may block for as long
     * as the device likes. Source: idxd_cdev_release drains the PASID or the queue. */
    void (*close)(pc_portal *portal);
} pc_portal_ops;

/* The head of every kind of portal. */
struct pc_portal {
    const pc_portal_ops *ops;
    int state; /* the queue's attribute `state` in sysfs, open; 0: none is known */
};

/* Stands ahead of every submission of every kind, inside `submit`: ENQCMD, MOVDIR64B and the
 * kernel's ENQCMDS may pass older stores of this CPU, and the device would then find a descriptor
 * list or a record that is not written yet. write(2) does not fence for its caller: between the
 * copy of the descriptor and the enqueue of idxd_submit_user_descriptor there is no barrier. */
static inline void pc_portal_fence(void)
{
#if defined(__x86_64__)
    __asm__ volatile("sfence" ::: "memory");
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* for a software device: there is no other here */
#endif
}

/* NULL: this CPU has the instruction; else a static text that says what is missing. */
const char *pc_enqcmd_why_not(void);
const char *pc_movdir64b_why_not(void);
const char *pc_umwait_why_not(void);

/* Maps the queue behind `fd` (open for reading and writing). Taken over: closing the portal unmaps
 * and closes it. NULL: errno says why (EPERM: the kernel wants CAP_SYS_RAWIO; ENOSYS: this CPU
 * lacks the instruction), and `fd` is still the caller's. */
pc_portal *pc_portal_open_mapped(int fd, bool dedicated);

/* The same with write(2) only. NULL: no memory. */
pc_portal *pc_portal_open_write(int fd);

/* The attribute `state` of the portal's queue in sysfs; `fd` is duplicated. False: errno says why.
 */
bool pc_portal_set_state(pc_portal *portal, int fd);
/* Whether the queue is enabled, as far as that is known: a full one and a disabled one answer
 * alike. One system call. */
bool pc_portal_is_enabled(pc_portal *portal);
/* For the portals' own `close`. */
void pc_portal_close_state(pc_portal *portal);

/* For tests: a portal at an address that the caller owns and keeps. */
pc_portal *pc_portal_open_at(void *address, bool dedicated);

#endif
