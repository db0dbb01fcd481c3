/* Bitmaps of little-endian 64-bit words: bit i % 64 of word i / 64 is page i. */
#ifndef PC_BITS_H
#define PC_BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Plain writes: for words that no one else writes meanwhile. */
void pc_bits_set(uint64_t *words, uint64_t first, uint64_t count);
void pc_bits_clear(uint64_t *words, uint64_t first, uint64_t count);
/* ORs the low `count` (at most 64) bits of `bits` in at bit `first`. */
void pc_bits_or(uint64_t *words, uint64_t first, uint64_t bits, uint32_t count);

/* Atomic ORs: several threads of the coordinator publish in one bitmap. */
void pc_bits_set_shared(uint64_t *words, uint64_t first, uint64_t count);
void pc_bits_or_shared(uint64_t *words, uint64_t first, uint64_t bits, uint32_t count);

uint64_t pc_bits_count(const uint64_t *words, uint64_t bits);
/* One byte per bit, 0 or 1. */
void pc_bits_to_bytes(const uint64_t *words, uint64_t bits, uint8_t *bytes);
bool pc_bits_test(const uint64_t *words, uint64_t index);
/* First index after `start` whose bit differs from bit `start`, or `bits`. */
uint64_t pc_bits_run_end(const uint64_t *words, uint64_t bits, uint64_t start);

typedef struct pc_bits_run {
    uint64_t first;
    uint64_t end;
} pc_bits_run;

/* The next run of 0 bits in [at, end), of which at most `most` are taken. False: there is none.
 * Other threads may write other bits of the same words meanwhile. */
bool pc_bits_next_zeros(const uint64_t *words, uint64_t at, uint64_t end, uint64_t most,
                        pc_bits_run *run);
/* The `count` (at most 64) bits from bit `first` on. */
uint64_t pc_bits_get(const uint64_t *words, uint64_t first, uint32_t count);

#endif
