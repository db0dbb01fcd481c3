/* What records that are not answers teach, and how they are counted. */
#ifndef PC_DSA_STATUS_H
#define PC_DSA_STATUS_H

#include "pc_dsa_flight.h"

/* What the record of a batch says of its members (3.8, 3.9). None of them is still to come: the
 * device writes the batch's record after theirs. */
typedef enum pc_batch_end {
    PC_BATCH_RAN,     /* each has a record */
    PC_BATCH_CUT,     /* a fault in the list: those before it have one */
    PC_BATCH_REFUSED, /* its own descriptor was refused: none ran */
    PC_BATCH_BROKEN,  /* an error of the device, or no status that we know */
} pc_batch_end;

pc_batch_end pc_batch_end_of(uint32_t status);

/* Counts a record that is in, and keeps the first failure. */
void pc_dsa_count_record(pc_dsa *dsa, const struct dsa_hw_desc *descriptor,
                         const struct dsa_completion_record *record);
void pc_dsa_keep_failure(pc_dsa *dsa, const struct dsa_hw_desc *descriptor,
                         const struct dsa_completion_record *record);

/* Lowers the members of a batch to `most`; less than 2: no batches. Never raises them. */
void pc_queue_limit_batches(pc_queue *queue, uint32_t most);
/* What a batch's status means for those to come, and for what is left of this one. */
void pc_queue_learn_from_batch(pc_queue *queue, pc_flight *flight, uint32_t status);
/* A descriptor was refused for its size: shorter ones from now on. False: it was of one page as
 * small as there are, so its size was not at fault. */
bool pc_queue_learn_transfer(pc_queue *queue, uint64_t refused_bytes);

#endif
