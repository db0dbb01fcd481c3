/* The batch algorithm of the zero-check kernels, once for all instruction sets.
 *
 * Facts, measured (docs/performance.md):
 *   - one page after the other, memory in random order is read at half speed:
 *     one stream of loads keeps too few cache misses in flight, and the hardware
 *     prefetcher starts anew at every page. Eight pages read in step run at
 *     nearly full speed in any order;
 *   - in a mix of zero and normal pages, every page of the kind that the branch
 *     predictor did not expect drains the pipeline, so the whole pages must not
 *     be waited for in the loop that tells the two kinds apart;
 *   - prefetching whole pages in software is slower than leaving that to the
 *     hardware; prefetching the lines to be sampled next is faster;
 *   - pages that lie one after the other are read faster in step where loads are
 *     16 or 32 bytes wide, and faster one after the other where they are 64.
 *
 * So all pages of a group are sampled, with the first line of pages to come
 * prefetched, and the candidates (those whose samples are zero; nearly all of
 * them are zero pages) are then read whole, eight at a time: in step, or one
 * after the other where they are a run and PC_RUNS_IN_TURN says so. Which pages
 * are a run decides only the order of the loads, never which bytes are loaded.
 *
 * Danger: a page is called zero only after all its bytes were loaded, and no
 * byte outside it is loaded: the next one may be unmapped.
 *
 * The including file defines PC_KERNEL_FN(verb) (the name of a function),
 * PC_TARGET (its attributes), pc_vec, PC_VEC_BYTES (a divisor of 64),
 * PC_LOAD(address), PC_OR(a, b), PC_NONZERO(vector), and PC_RUNS_IN_TURN (1 or 0).
 */
#include "pc_kernel.h"

#include <string.h>

#define PC_INLINE PC_TARGET __attribute__((always_inline)) static inline
#define PC_LINE_BYTES 64u

/* Pages read in step. Two to four were slower, more than eight no faster. */
#define PC_STREAMS 8u

/* What is read of each stream between two tests; 64 and 256 were both slower. */
#define PC_STEP_BYTES 128u

/* What is read of one stream alone between two tests; 128 was slower, 512 and 4096 no faster. */
#define PC_TURN_BYTES 256u

/* How many pages ahead the first line is prefetched: 0 loses a fifth where all
 * pages are normal, and past 16 nothing is gained. */
#define PC_SAMPLE_AHEAD 16u

/* Pages worth reading whole. */
typedef struct PC_KERNEL_FN(candidates) {
    size_t count;
    const unsigned char *page[PC_KERNEL_GROUP_PAGES];
    uint8_t bit[PC_KERNEL_GROUP_PAGES];
} PC_KERNEL_FN(candidates);

PC_INLINE pc_vec PC_KERNEL_FN(or_line)(const unsigned char *line)
{
    pc_vec bits = PC_LOAD(line);
    for (size_t at = PC_VEC_BYTES; at < PC_LINE_BYTES; at += PC_VEC_BYTES) {
        bits = PC_OR(bits, PC_LOAD(line + at));
    }
    return bits;
}

PC_INLINE pc_vec PC_KERNEL_FN(or_step)(const unsigned char *step)
{
    return PC_OR(PC_KERNEL_FN(or_line)(step), PC_KERNEL_FN(or_line)(step + PC_LINE_BYTES));
}

PC_INLINE pc_vec PC_KERNEL_FN(or_turn)(const unsigned char *bytes)
{
    return PC_OR(PC_KERNEL_FN(or_step)(bytes), PC_KERNEL_FN(or_step)(bytes + PC_STEP_BYTES));
}

/* Fewer bytes than one vector. */
PC_INLINE bool PC_KERNEL_FN(is_zero_short)(const unsigned char *bytes, size_t length)
{
    uint64_t bits = 0;
    size_t at = 0;
    for (; at + 8 <= length; at += 8) {
        uint64_t word;
        memcpy(&word, bytes + at, 8);
        bits |= word;
    }
    for (; at < length; at++) {
        bits |= bytes[at];
    }
    return bits == 0;
}

PC_TARGET static bool PC_KERNEL_FN(is_zero)(const void *start, size_t length)
{
    const unsigned char *bytes = start;
    if (length < PC_VEC_BYTES) {
        return PC_KERNEL_FN(is_zero_short)(bytes, length);
    }
    size_t at = 0;
    for (; at + PC_TURN_BYTES <= length; at += PC_TURN_BYTES) {
        if (PC_NONZERO(PC_KERNEL_FN(or_turn)(bytes + at))) {
            return false;
        }
    }
    for (; at + PC_VEC_BYTES <= length; at += PC_VEC_BYTES) {
        if (PC_NONZERO(PC_LOAD(bytes + at))) {
            return false;
        }
    }
    /* The last vector ends with the last byte and overlaps what was read. */
    return !PC_NONZERO(PC_LOAD(bytes + length - PC_VEC_BYTES));
}

/* Page index; base is byte 0 of the offsets, or without them byte 0 of page 0. */
PC_INLINE const unsigned char *PC_KERNEL_FN(page)(const unsigned char *base,
                                                  const uint64_t *offsets, size_t page_bytes,
                                                  size_t index)
{
    return base + (offsets ? offsets[index] : index * page_bytes);
}

static inline const unsigned char *PC_KERNEL_FN(base)(const pc_pages *pages)
{
    return pages->base + (pages->offsets ? 0 : pages->first);
}

/* The end of those pages of [begin, end) that have a page to prefetch. */
static inline size_t PC_KERNEL_FN(prefetch_end)(const pc_pages *pages, size_t end)
{
    const size_t most = pages->count > PC_SAMPLE_AHEAD ? pages->count - PC_SAMPLE_AHEAD : 0;
    return most < end ? most : end;
}

/* One vector of the first line, then of the middle and the last one. Two
 * branches, not arithmetic: where pages of a kind come in a row both are
 * foreseen, and the loads of many pages overlap. */
PC_INLINE bool PC_KERNEL_FN(sample_is_zero)(const unsigned char *page, size_t page_bytes)
{
    if (PC_NONZERO(PC_LOAD(page))) {
        return false;
    }
    const pc_vec middle = PC_LOAD(page + page_bytes / 2);
    const pc_vec last = PC_LOAD(page + page_bytes - PC_VEC_BYTES);
    return !PC_NONZERO(PC_OR(middle, last));
}

/* The same vectors with three branches: where only the last line tells, the middle one is not
 * waited for and need not come from memory. Costs an instruction more where all are zero. */
PC_INLINE bool PC_KERNEL_FN(may_be_zero)(const unsigned char *page, size_t page_bytes)
{
    if (PC_NONZERO(PC_LOAD(page)) || PC_NONZERO(PC_LOAD(page + page_bytes - PC_VEC_BYTES))) {
        return false;
    }
    return !PC_NONZERO(PC_LOAD(page + page_bytes / 2));
}

PC_INLINE size_t PC_KERNEL_FN(add)(PC_KERNEL_FN(candidates) * left, size_t count,
                                   const unsigned char *page, size_t page_bytes, size_t bit)
{
    if (!PC_KERNEL_FN(may_be_zero)(page, page_bytes)) {
        return count;
    }
    left->page[count] = page;
    left->bit[count] = (uint8_t)bit;
    return count + 1;
}

PC_INLINE void PC_KERNEL_FN(sample)(const pc_pages *pages, const uint64_t *offsets, size_t begin,
                                    size_t end, PC_KERNEL_FN(candidates) * left)
{
    const unsigned char *base = PC_KERNEL_FN(base)(pages);
    const size_t bytes = pages->page_bytes;
    const size_t prefetch_end = PC_KERNEL_FN(prefetch_end)(pages, end);
    size_t index = begin;
    size_t count = 0;
    for (; index < prefetch_end; index++) {
        const size_t ahead = index + PC_SAMPLE_AHEAD;
        __builtin_prefetch(PC_KERNEL_FN(page)(base, offsets, bytes, ahead), 0, 3);
        const unsigned char *page = PC_KERNEL_FN(page)(base, offsets, bytes, index);
        count = PC_KERNEL_FN(add)(left, count, page, bytes, index - begin);
    }
    for (; index < end; index++) {
        const unsigned char *page = PC_KERNEL_FN(page)(base, offsets, bytes, index);
        count = PC_KERNEL_FN(add)(left, count, page, bytes, index - begin);
    }
    left->count = count;
}

PC_INLINE pc_vec PC_KERNEL_FN(or_streams)(const unsigned char *const at[], size_t streams,
                                          size_t done)
{
    pc_vec bits = PC_KERNEL_FN(or_step)(at[0] + done);
#pragma GCC unroll 8
    for (size_t s = 1; s < streams; s++) {
        bits = PC_OR(bits, PC_KERNEL_FN(or_step)(at[s] + done));
    }
    return bits;
}

/* Clears the bits of the streams that are not zero here; those streams then
 * repeat one that goes on, so that the reading loop keeps its shape. */
PC_TARGET static unsigned PC_KERNEL_FN(drop_normal)(const unsigned char *at[], size_t streams,
                                                    size_t done, unsigned zero)
{
    for (size_t s = 0; s < streams; s++) {
        if (PC_NONZERO(PC_KERNEL_FN(or_step)(at[s] + done))) {
            zero &= ~(1u << s);
        }
    }
    for (size_t s = 0; zero && s < streams; s++) {
        at[s] = zero >> s & 1 ? at[s] : at[__builtin_ctz(zero)];
    }
    return zero;
}

/* PC_KERNEL_PAGE_BYTES of each stream, in step; bit s: those of start[s] are zero. */
PC_INLINE unsigned PC_KERNEL_FN(read_in_step)(const unsigned char *const start[], size_t streams)
{
    const unsigned char *at[PC_STREAMS];
    memcpy(at, start, streams * sizeof at[0]);
    unsigned zero = (1u << streams) - 1;
    for (size_t done = 0; zero && done < PC_KERNEL_PAGE_BYTES; done += PC_STEP_BYTES) {
        if (PC_NONZERO(PC_KERNEL_FN(or_streams)(at, streams, done))) {
            zero = PC_KERNEL_FN(drop_normal)(at, streams, done, zero);
        }
    }
    return zero;
}

PC_INLINE bool PC_KERNEL_FN(piece_is_zero)(const unsigned char *piece)
{
    for (size_t at = 0; at < PC_KERNEL_PAGE_BYTES; at += PC_TURN_BYTES) {
        if (PC_NONZERO(PC_KERNEL_FN(or_turn)(piece + at))) {
            return false;
        }
    }
    return true;
}

/* The same, one after the other. */
PC_INLINE unsigned PC_KERNEL_FN(read_in_turn)(const unsigned char *const start[], size_t streams)
{
    unsigned zero = 0;
    for (size_t s = 0; s < streams; s++) {
        zero |= (unsigned)PC_KERNEL_FN(piece_is_zero)(start[s]) << s;
    }
    return zero;
}

/* Not proof of a run, and need not be: in turn, too, every stream is read from its own start. */
static inline bool PC_KERNEL_FN(is_run)(const unsigned char *const start[], size_t streams)
{
    return start[streams - 1] - start[0] == (ptrdiff_t)((streams - 1) * PC_KERNEL_PAGE_BYTES);
}

/* A constant count where it can be one: the compiler unrolls that loop. */
PC_TARGET static unsigned PC_KERNEL_FN(read_some)(const unsigned char *const start[],
                                                  size_t streams)
{
    if (PC_RUNS_IN_TURN && PC_KERNEL_FN(is_run)(start, streams)) {
        return PC_KERNEL_FN(read_in_turn)(start, streams);
    }
    return streams == PC_STREAMS ? PC_KERNEL_FN(read_in_step)(start, PC_STREAMS)
                                 : PC_KERNEL_FN(read_in_step)(start, streams);
}

PC_TARGET static uint64_t PC_KERNEL_FN(read_small)(const PC_KERNEL_FN(candidates) * left)
{
    uint64_t zero = 0;
    for (size_t i = 0; i < left->count; i += PC_STREAMS) {
        const size_t rest = left->count - i;
        const size_t streams = rest < PC_STREAMS ? rest : PC_STREAMS;
        const unsigned some = PC_KERNEL_FN(read_some)(left->page + i, streams);
        for (size_t s = 0; s < streams; s++) {
            zero |= (uint64_t)(some >> s & 1) << left->bit[i + s];
        }
    }
    return zero;
}

/* A page of several pieces: in address order, its pieces in step. */
PC_TARGET static bool PC_KERNEL_FN(large_is_zero)(const unsigned char *page, size_t page_bytes)
{
    const size_t pieces = page_bytes / PC_KERNEL_PAGE_BYTES;
    for (size_t piece = 0; piece < pieces; piece += PC_STREAMS) {
        const unsigned char *start[PC_STREAMS];
        size_t streams = 0;
        for (; streams < PC_STREAMS && piece + streams < pieces; streams++) {
            start[streams] = page + (piece + streams) * PC_KERNEL_PAGE_BYTES;
        }
        if (PC_KERNEL_FN(read_some)(start, streams) != (1u << streams) - 1) {
            return false;
        }
    }
    return true;
}

PC_TARGET static uint64_t PC_KERNEL_FN(zero_pages)(const pc_pages *pages, size_t begin, size_t end)
{
    PC_KERNEL_FN(candidates) left;
    if (pages->offsets) {
        PC_KERNEL_FN(sample)(pages, pages->offsets, begin, end, &left);
    } else {
        PC_KERNEL_FN(sample)(pages, NULL, begin, end, &left);
    }
    if (pages->page_bytes == PC_KERNEL_PAGE_BYTES) {
        return PC_KERNEL_FN(read_small)(&left);
    }
    uint64_t zero = 0;
    for (size_t i = 0; i < left.count; i++) {
        const bool one = PC_KERNEL_FN(large_is_zero)(left.page[i], pages->page_bytes);
        zero |= (uint64_t)one << left.bit[i];
    }
    return zero;
}

static inline uint64_t pc_rotate_down(uint64_t bits, unsigned by)
{
    return bits >> by % 64 | bits << (0 - by) % 64;
}

/* The same three vectors as above, and one of every piece in between: the device must find the
 * whole page in this process's page tables. */
PC_INLINE bool PC_KERNEL_FN(sample_pieces)(const unsigned char *page, size_t page_bytes)
{
    bool zero = PC_KERNEL_FN(sample_is_zero)(page, page_bytes);
    for (size_t at = PC_KERNEL_PAGE_BYTES; zero && at < page_bytes; at += PC_KERNEL_PAGE_BYTES) {
        zero = !PC_NONZERO(PC_LOAD(page + at));
    }
    return zero;
}

/* Give it constants where they can be had: where a device decides, this loop is a large part of
 * what a page costs the CPU. So only pages that have a page to prefetch are in the first loop. */
PC_INLINE uint64_t PC_KERNEL_FN(sample_each)(const pc_pages *pages, const uint64_t *offsets,
                                             size_t page_bytes, size_t begin, size_t end)
{
    const unsigned char *base = PC_KERNEL_FN(base)(pages);
    const size_t prefetch_end = PC_KERNEL_FN(prefetch_end)(pages, end);
    size_t index = begin;
    uint64_t maybe = 0; /* every page comes in as bit 0 and leaves upwards over bit 63 */
#pragma GCC unroll 4
    for (; index < prefetch_end; index++) {
        const size_t ahead = index + PC_SAMPLE_AHEAD;
        __builtin_prefetch(PC_KERNEL_FN(page)(base, offsets, page_bytes, ahead), 0, 3);
        const unsigned char *page = PC_KERNEL_FN(page)(base, offsets, page_bytes, index);
        maybe = pc_rotate_down(maybe | PC_KERNEL_FN(sample_pieces)(page, page_bytes), 1);
    }
    for (; index < end; index++) {
        const unsigned char *page = PC_KERNEL_FN(page)(base, offsets, page_bytes, index);
        maybe = pc_rotate_down(maybe | PC_KERNEL_FN(sample_pieces)(page, page_bytes), 1);
    }
    return pc_rotate_down(maybe, 64 - (unsigned)(end - begin)); /* the first page's is bit 0 */
}

PC_TARGET static uint64_t PC_KERNEL_FN(sample_pages)(const pc_pages *pages, size_t begin,
                                                     size_t end)
{
    if (pages->page_bytes != PC_KERNEL_PAGE_BYTES) {
        return PC_KERNEL_FN(sample_each)(pages, pages->offsets, pages->page_bytes, begin, end);
    }
    return pages->offsets
               ? PC_KERNEL_FN(sample_each)(pages, pages->offsets, PC_KERNEL_PAGE_BYTES, begin, end)
               : PC_KERNEL_FN(sample_each)(pages, NULL, PC_KERNEL_PAGE_BYTES, begin, end);
}
