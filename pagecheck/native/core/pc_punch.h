/* Zero pages of a file, turned into holes: each is read, found to be zero and punched in one go.
 *
 * Danger: what is written between the look at a page and its hole is lost. Decision: whoever calls
 * this keeps writers away: by a write lease, which is asked for again right before each hole, or by
 * holding the VM. Without a lease at most PC_PUNCH_BYTES, or one unit, lie between a look and its
 * hole. Under a lease the file cannot be truncated, so that it may be mapped, which spares copying
 * it; elsewhere, and where a hole might get a page that way, it is read. A lease is taken away from
 * who keeps it for long, and then the file may be cut: whoever maps installs the guard first.
 */
#ifndef PC_PUNCH_H
#define PC_PUNCH_H

#include <stdbool.h>
#include <stdint.h>

#include "pc_error.h"
#include "pc_kernel.h"

/* A huge page of x86: a hole in a part of one would make the kernel split it. */
#define PC_PUNCH_BYTES (UINT64_C(2) << 20)
#define PC_PUNCH_LEASED_BYTES (UINT64_C(16) << 20) /* fewer holes cost less on disk */
#define PC_PUNCH_PIECE_BYTES ((size_t)128 << 10)   /* read at once: it stays in the L2 cache */

typedef struct pc_punch {
    int fd;              /* open for reading and writing */
    uint64_t unit_bytes; /* the smallest hole: a power of two, a multiple of 4096 */
    bool leased;         /* nothing is punched without a write lease on fd */
    bool seek; /* SEEK_DATA tells holes, which are left alone, and the file offset is ours */
    bool map;  /* there is no hole, which might get a page by being mapped */
    const pc_kernel *kernel;
} pc_punch;

typedef struct pc_punched {
    uint64_t reached; /* the byte before which everything was decided; less than the end where the
                         lease is lost, or the file ends */
    uint64_t zero_bytes; /* what was found to be zero and is a hole now */
} pc_punched;

/* Looks at the units that begin in [start, end), and makes holes of those that are zero. False:
 * `out` says how far it came. */
bool pc_punch_zero(const pc_punch *punch, uint64_t start, uint64_t end, pc_punched *out,
                   pc_error *error);

#endif
