/* Bitmap words; the order of the words in a file is the host's, which is little-endian on every
 * supported architecture. */
#include "pc_bits.h"

#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "bitmap files are little-endian words; this host is not"
#endif

static uint64_t mask_of(uint64_t count)
{
    return count >= 64 ? UINT64_MAX : (UINT64_C(1) << count) - 1;
}

/* Bits of `count` from bit `first` that fall in the first word: mask, and how many they are. */
static uint64_t head_mask(uint64_t first, uint64_t count, uint64_t *taken)
{
    uint64_t shift = first % 64;
    *taken = 64 - shift < count ? 64 - shift : count;
    return mask_of(*taken) << shift;
}

void pc_bits_set(uint64_t *words, uint64_t first, uint64_t count)
{
    uint64_t taken;
    for (; count > 0; first += taken, count -= taken)
        words[first / 64] |= head_mask(first, count, &taken);
}

void pc_bits_clear(uint64_t *words, uint64_t first, uint64_t count)
{
    uint64_t taken;
    for (; count > 0; first += taken, count -= taken)
        words[first / 64] &= ~head_mask(first, count, &taken);
}

void pc_bits_or(uint64_t *words, uint64_t first, uint64_t bits, uint32_t count)
{
    uint64_t shift = first % 64;
    bits &= mask_of(count);
    words[first / 64] |= bits << shift;
    if (shift + count > 64)
        words[first / 64 + 1] |= bits >> (64 - shift);
}

static void or_word(uint64_t *word, uint64_t bits)
{
    if (bits != 0) /* relaxed: the reader joins the writing threads first */
        __atomic_fetch_or(word, bits, __ATOMIC_RELAXED);
}

void pc_bits_set_shared(uint64_t *words, uint64_t first, uint64_t count)
{
    uint64_t taken;
    if (first % 64 != 0 && count > 0) {
        or_word(&words[first / 64], head_mask(first, count, &taken));
        first += taken;
        count -= taken;
    }
    /* Every bit of these is this caller's. */
    memset(&words[first / 64], 0xff, count / 64 * sizeof *words);
    or_word(&words[(first + count) / 64], mask_of(count % 64));
}

void pc_bits_or_shared(uint64_t *words, uint64_t first, uint64_t bits, uint32_t count)
{
    uint64_t shift = first % 64;
    bits &= mask_of(count);
    or_word(&words[first / 64], bits << shift);
    if (shift + count > 64)
        or_word(&words[first / 64 + 1], bits >> (64 - shift));
}

/* Inlined into one function for each set of instructions. */
static inline __attribute__((always_inline)) uint64_t count_words(const uint64_t *words,
                                                                  uint64_t count)
{
    uint64_t total = 0;
    for (uint64_t i = 0; i < count; i++)
        total += (uint64_t)__builtin_popcountll(words[i]);
    return total;
}

#if defined(__x86_64__)
__attribute__((target("popcnt"))) static uint64_t count_by_popcnt(const uint64_t *words,
                                                                  uint64_t count)
{
    return count_words(words, count);
}
#endif

uint64_t pc_bits_count(const uint64_t *words, uint64_t bits)
{
    uint64_t total = 0;
    if (bits % 64 != 0)
        total = (uint64_t)__builtin_popcountll(words[bits / 64] & mask_of(bits % 64));
#if defined(__x86_64__)
    if (__builtin_cpu_supports("popcnt"))
        return total + count_by_popcnt(words, bits / 64);
#endif
    return total + count_words(words, bits / 64);
}

void pc_bits_to_bytes(const uint64_t *words, uint64_t bits, uint8_t *bytes)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    uint64_t i = 0;
    for (; i + 8 <= bits; i += 8) {
        /* Byte k keeps bit k of its copy; adding 0x7f to it raises the top bit if it was set. */
        uint64_t each = (words[i / 64] >> (i % 64) & 0xff) * ones & UINT64_C(0x8040201008040201);
        each = (each | (each + 0x7f * ones)) >> 7 & ones;
        memcpy(bytes + i, &each, sizeof each);
    }
    for (; i < bits; i++)
        bytes[i] = pc_bits_test(words, i);
}

/* Relaxed: bits that others write meanwhile are not looked at. */
static uint64_t load(const uint64_t *words, uint64_t index)
{
    return __atomic_load_n(&words[index], __ATOMIC_RELAXED);
}

bool pc_bits_test(const uint64_t *words, uint64_t index)
{
    return (load(words, index / 64) >> (index % 64) & 1u) != 0;
}

uint64_t pc_bits_run_end(const uint64_t *words, uint64_t bits, uint64_t start)
{
    uint64_t flip = pc_bits_test(words, start) ? UINT64_MAX : 0;
    uint64_t word = (load(words, start / 64) ^ flip) & ~mask_of(start % 64);
    uint64_t index = start / 64;
    while (word == 0) {
        if (++index * 64 >= bits)
            return bits;
        word = load(words, index) ^ flip;
    }
    uint64_t end = index * 64 + (uint64_t)__builtin_ctzll(word);
    return end < bits ? end : bits;
}

bool pc_bits_next_zeros(const uint64_t *words, uint64_t at, uint64_t end, uint64_t most,
                        pc_bits_run *run)
{
    if (at < end && pc_bits_test(words, at))
        at = pc_bits_run_end(words, end, at);
    if (at >= end || most == 0)
        return false;
    run->first = at;
    run->end = pc_bits_run_end(words, end - at < most ? end : at + most, at);
    return true;
}

uint64_t pc_bits_get(const uint64_t *words, uint64_t first, uint32_t count)
{
    uint64_t shift = first % 64;
    uint64_t bits = words[first / 64] >> shift;
    if (shift + count > 64)
        bits |= words[first / 64 + 1] << (64 - shift);
    return bits & mask_of(count);
}
