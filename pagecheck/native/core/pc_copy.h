/* Copies what was decided of a batch to the sink of its block. */
#ifndef PC_COPY_H
#define PC_COPY_H

#include "pc_task.h"

/* Makes the sink's file hold pages [begin, end) of the batch as the task's bits say they are: the
 * normal ones, and in an update also the zero ones. A page that cannot be put there loses its bits.
 * `copies`: what each of them was decided from, one behind the other; NULL: the block's mapping. */
void pc_copy_pages(const pc_task *task, size_t begin, size_t end, const unsigned char *copies);

/* The same for a piece of a normal page, at most PC_SINK_BYTES. False: it is not all there. */
bool pc_copy_piece(const pc_task *task, uint64_t offset, const unsigned char *from, size_t bytes);

#endif
