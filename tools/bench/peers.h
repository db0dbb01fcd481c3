/* What the kernels are measured against; each walks all pages of a batch the
 * way its users do: one page after the other, in the order given. */
#ifndef PC_BENCH_PEERS_H
#define PC_BENCH_PEERS_H

#include <stdbool.h>

#include "pc_kernel.h"

/* Returns how many of the pages are zero; the pure read returns all of them
 * when every byte was zero, else none. */
typedef uint64_t (*peer_count)(const pc_pages *pages);

uint64_t peer_qemu_count(const pc_pages *pages);
uint64_t peer_isal_count(const pc_pages *pages);

/* The limit: a read in address order by the same loads as the kernel's. */
peer_count peer_read_like(const pc_kernel *kernel);

/* Loads libisal; false: it is not installed and peer_isal_count must not run. */
bool peer_isal_open(void);

#endif
