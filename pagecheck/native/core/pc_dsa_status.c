/* What becomes of a record that is not an answer: it is counted, the first one is kept, and what
 * the device cannot do is not asked of it again.
 *
 * Facts: a queue can be worse than sysfs says: an opcode that its mask hides, a shorter transfer, a
 * smaller batch, a flag that its version does not know. What a descriptor is refused for, the next
 * one like it is refused for, too.
 * Decision: the way that is refused is left, not the queue: smaller batches, then single
 * descriptors; shorter runs. It is abandoned only for errors of single descriptors, many in a row.
 */
#include "pc_dsa_status.h"

#include <string.h>

#define UNBATCHED_MAX 4u       /* batches in a row that did not run: no batches from then on */
#define TRANSFER_MAX_MIN 4096u /* refused for a page of this size, a transfer is an error */

/* Faults are not failures: pages come and go. */
static bool is_failure(uint32_t status)
{
    switch (status) {
    case DSA_COMP_SUCCESS:
    case DSA_COMP_PAGE_FAULT_NOBOF:
    case DSA_COMP_PAGE_FAULT_IR:
    case DSA_COMP_BATCH_FAIL:
    case DSA_COMP_BATCH_PAGE_FAULT:
        return false;
    default:
        return true;
    }
}

void pc_dsa_keep_failure(pc_dsa *dsa, const struct dsa_hw_desc *descriptor,
                         const struct dsa_completion_record *record)
{
    struct pc_failure *failure = dsa->failure;
    if (failure->kept != 0)
        return;
    memcpy(failure->descriptor, descriptor, sizeof failure->descriptor);
    memcpy(failure->record, record, sizeof failure->record);
    /* release; pairs with whoever reads `kept` in the coordinator */
    __atomic_store_n(&failure->kept, 1, __ATOMIC_RELEASE);
}

void pc_dsa_count_record(pc_dsa *dsa, const struct dsa_hw_desc *descriptor,
                         const struct dsa_completion_record *record)
{
    uint32_t status = __atomic_load_n(&record->status, __ATOMIC_ACQUIRE) & PC_IDXD_STATUS_MASK;
    dsa->stats->statuses[status]++;
    dsa->stats->page_faults += status == DSA_COMP_PAGE_FAULT_NOBOF ||
                               status == DSA_COMP_PAGE_FAULT_IR ||
                               status == DSA_COMP_BATCH_PAGE_FAULT;
    if (is_failure(status))
        pc_dsa_keep_failure(dsa, descriptor, record);
}

pc_batch_end pc_batch_end_of(uint32_t status)
{
    switch (status) {
    case DSA_COMP_SUCCESS:
    case DSA_COMP_BATCH_FAIL:
        return PC_BATCH_RAN;
    case DSA_COMP_BATCH_PAGE_FAULT:
        return PC_BATCH_CUT;
    case DSA_COMP_BAD_OPCODE:
    case DSA_COMP_INVALID_FLAGS:
    case DSA_COMP_NOZERO_RESERVE:
    case DSA_COMP_XFER_ERANGE:
    case DSA_COMP_DESC_CNT_ERANGE:
    case DSA_COMP_DR_ERANGE: /* 15: a field has a value that it may not have */
    case DSA_COMP_OVERLAP_BUFFERS:
    case DSA_COMP_DCAST_ERR:
    case DSA_COMP_DESCLIST_ALIGN:
    case DSA_COMP_INT_HANDLE_INVAL:
    case DSA_COMP_ADDR_ALIGN:
    case DSA_COMP_TRAFFIC_CLASS_CONF:
        return PC_BATCH_REFUSED;
    default: /* 1a, 1b and 1d are never in a record */
        return PC_BATCH_BROKEN;
    }
}

void pc_queue_limit_batches(pc_queue *queue, uint32_t most)
{
    if (most < queue->limits.batch_max)
        queue->limits.batch_max = most;
    uint32_t members = queue->limits.batch_max;
    /* Without batches a flight takes an entry for each member: leave room for a second flight. */
    if (members < 2)
        members = queue->limits.queue_size > 1 ? queue->limits.queue_size / 2 : 1;
    if (members < queue->members)
        queue->members = members;
}

void pc_queue_learn_from_batch(pc_queue *queue, pc_flight *flight, uint32_t status)
{
    pc_batch_end end = pc_batch_end_of(status);
    if (end == PC_BATCH_RAN) {
        queue->unbatched = 0;
        return;
    }
    /* A list that faulted is written once more before it is submitted again; if that is not enough,
     * the descriptors go without one. */
    flight->single = end != PC_BATCH_CUT || flight->rounds > 1;
    /* sysfs does not always tell: a mask of opcodes that was saved on one kernel can lack BATCH on
     * another. */
    if (status == DSA_COMP_DESC_CNT_ERANGE) /* several may be on their way: halve by this one */
        pc_queue_limit_batches(queue, flight->count / 2);
    else if (status == DSA_COMP_BAD_OPCODE || ++queue->unbatched >= UNBATCHED_MAX)
        pc_queue_limit_batches(queue, 0);
}

bool pc_queue_learn_transfer(pc_queue *queue, uint64_t refused_bytes)
{
    uint64_t most = refused_bytes / 2;
    if (most < TRANSFER_MAX_MIN)
        return false;
    if (most < queue->limits.transfer_max)
        queue->limits.transfer_max = most;
    if (most < queue->page_max_bytes)
        queue->page_max_bytes = most;
    if (queue->run_bytes > queue->limits.transfer_max)
        queue->run_bytes = queue->limits.transfer_max;
    return true;
}
