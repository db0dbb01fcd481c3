/* The decision of one batch of a block's pages.
 *
 * Where the block's bytes come from is a table of functions: a file (pc_file_block.c), or the
 * memory of another process (pc_process_block.c), which is never mapped. Danger: reading a hole of
 * tmpfs, memfd or hugetlbfs through a mapping allocates it. A mapping is therefore touched only
 * where that cannot happen: where `size` says so of the whole block, or at pages that mincore
 * reports resident. What is left: a hole punched between that look and the touch is allocated
 * again. For everything else the table is asked, whose functions allocate nothing. */
#ifndef PC_BLOCK_H
#define PC_BLOCK_H

#include "pc_task.h"

bool pc_decider_init(const pc_kernel *kernel, uint64_t *progress, pc_decider *decider);
void pc_decider_deinit(pc_decider *decider);

/* Closes its sink, then the block itself. */
void pc_block_free(pc_block *block);

/* Decides a batch whose pages are whole, aligned and inside the block. The words are overwritten:
 * a zero bit is set only for a page that was seen to be zero or is a hole; a page that could not
 * be read has neither bit. Pages that `offload` took have what that gave them. */
void pc_block_start(pc_task *task);

/* Decides pages [begin, end) of the batch again, by the CPU and from the beginning: the bits that
 * the task had of them are cleared first. */
void pc_block_redecide(const pc_task *task, size_t begin, size_t end);

#endif
