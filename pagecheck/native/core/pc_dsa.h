/* The DSA engine: pages that may be zero are submitted to a work queue, and what comes back becomes
 * bits.
 *
 * Facts: a device answers late, never, in part, or with any status; a posted write is lost
 * silently; a queue is full or is disabled. Only a record with status 1 and result 0 proves a page
 * zero. While the device may hold a descriptor it may still read the page and write the record.
 * Danger: a record that is written after its memory got a new meaning would call another page zero.
 * Decision: a flight is the unit that is submitted, waited for and settled. Each page that may be
 * zero is in one flight or in its task's bitmap of unproven pages: there before it is submitted,
 * and there again where records do not prove it. What is left there in the end is decided by the
 * CPU. Calls go one way: the loop that submits (pc_dsa_submit.c) settles flights (pc_dsa_settle.c),
 * and settling only puts flights on the list of those to submit again; it says when the queue has
 * to be abandoned, and the loop does that (pc_dsa_queue.c). Once a record that must come does not,
 * the whole queue is abandoned: its memory stays, untouched, until a thread of its own has drained
 * and closed the portal, and nothing is submitted until the queue was opened again. The caller
 * never waits for that thread. A queue that is full has lost nothing: it is left alone, for longer
 * and longer, and the CPU decides meanwhile. */
#ifndef PC_DSA_H
#define PC_DSA_H

#include "pc_block.h"
#include "pc_dsa_wait.h"
#include "pc_idxd.h"
#include "pc_layout.h"
#include "pc_portal.h"

#define PC_DSA_MEMBERS 128u /* descriptors of a flight at most: one multifd packet */
#define PC_DSA_FLIGHTS 16u  /* flights at the device at most */
#define PC_DSA_ROUNDS 3u    /* times that one flight is submitted before the CPU takes the rest */

typedef enum pc_queue_state {
    PC_QUEUE_NONE,     /* none was opened, or the last one is drained and closed */
    PC_QUEUE_UP,       /* flights are submitted */
    PC_QUEUE_DRAINING, /* abandoned or closed; the device may still hold something */
} pc_queue_state;

/* Why a queue was abandoned. */
typedef enum pc_queue_end {
    PC_QUEUE_CLOSED,   /* on request */
    PC_QUEUE_LOST,     /* a record did not come in time, or is missing */
    PC_QUEUE_FULL,     /* not abandoned: it takes nothing at the moment, and is tried again later */
    PC_QUEUE_REFUSED,  /* the kernel refused a submission; `error` says why */
    PC_QUEUE_BROKEN,   /* only errors came back */
    PC_QUEUE_LATE,     /* LOST, but by the time it was drained every record had come: it is busy */
    PC_QUEUE_DISABLED, /* the kernel says so */
} pc_queue_end;

/* The word `queue_state` of the statistics. */
static inline uint64_t pc_queue_word(pc_queue_state state, pc_queue_end end)
{
    return (uint64_t)state | (uint64_t)end << PC_QUEUE_END_SHIFT;
}

typedef struct pc_dsa_limits {
    uint32_t queue_size;   /* descriptors in the queue at most; never exceeded */
    uint32_t batch_max;    /* members of a batch descriptor; less than 2: no batches */
    uint64_t transfer_max; /* bytes of a descriptor */
    int64_t deadline_ns;   /* from the submission of a flight to its last record */
    bool sample;           /* false, for measurements: every page is submitted */
    bool runs;             /* false, for measurements: every page has a descriptor of its own */
} pc_dsa_limits;

typedef struct pc_flight pc_flight;
typedef struct pc_queue pc_queue;

typedef struct pc_dsa {
    struct pc_stats *stats;
    struct pc_failure *failure;
    pc_queue *queue;    /* NULL: none is up */
    pc_queue *draining; /* abandoned, not yet known to be drained */
    pc_queue_end end;   /* of the last queue */
    int error;          /* errno, with PC_QUEUE_REFUSED */
    pc_pace pace;
} pc_dsa;

void pc_dsa_init(struct pc_stats *stats, struct pc_failure *failure, pc_dsa *dsa);
/* Abandons the queue and waits for the draining until the absolute time. What is not drained by
 * then is left to the end of the process. False: something is left. */
bool pc_dsa_deinit(pc_dsa *dsa, int64_t deadline_ns);

/* Takes the portal over, in every case. False: no memory, or the portal has no room for it. */
bool pc_dsa_open(pc_dsa *dsa, pc_portal *portal, const pc_dsa_limits *limits);
/* Abandons the queue; the CPU decides what is in flight, when its tasks are finished. */
void pc_dsa_close(pc_dsa *dsa, pc_queue_end end, int error);
/* Frees what has been drained since. */
pc_queue_state pc_dsa_state(pc_dsa *dsa);

/* Memory that pages lie in; see pc_portal_ops. */
bool pc_dsa_register(pc_dsa *dsa, const void *base, size_t bytes);
void pc_dsa_unregister(pc_dsa *dsa, const void *base);

/* Begins to decide a batch, as pc_block_start does, whose words it gives the same meaning: what may
 * be zero and may be touched is submitted. `unproven` holds as many words as `zero`. The task and
 * all that it names must stay until pc_dsa_finish. */
void pc_dsa_start(pc_dsa *dsa, pc_task *task);
/* Settles what has come back already; does not wait. */
void pc_dsa_poll(pc_dsa *dsa);
/* Waits, within the limits' deadline, until every page of the task is decided or was found to be
 * undecidable. */
void pc_dsa_finish(pc_dsa *dsa, pc_task *task);

#endif
