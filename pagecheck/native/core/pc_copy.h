/* Copies what was decided of a batch to the sink of its block. */
#ifndef PC_COPY_H
#define PC_COPY_H

#include "pc_task.h"

/* Makes the sink's file hold pages [begin, end) of the batch as the task's bits say they are: the
 * normal ones, and in an update also the zero ones. A page that cannot be put there loses its bits.
 * `copies`: what each of them was decided from, one behind the other; NULL: the block's mapping. */
void pc_copy_pages(const pc_task *task, size_t begin, size_t end, const unsigned char *copies);

/* The same for the piece at byte `at` of a normal page, at most PC_SINK_BYTES. False: the page has
 * lost its bits. */
bool pc_copy_piece(const pc_task *task, size_t index, uint64_t at, const unsigned char *from,
                   size_t bytes);

#endif
