/* The walk that a scan makes over private memory before its batches are submitted.
 *
 * One look at the page tables answers for up to LOOK_BYTES, or as many regions as there is room
 * for. Memory that was never touched costs 1 us a look; where every page has an entry a look takes
 * half a millisecond, so that a run of data ends with the look: its pages can be read while the
 * next look is made. */
#include "pc_process_walk.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "pc_bits.h"

#define LOOK_BYTES (UINT64_C(256) << 20)
#define CHUNK_PAGES 4096u /* whole words of the bitmaps */

bool pc_process_walk_init(const pc_process_range *range, pc_process_walk *walk, pc_error *error)
{
    if (!pc_process_range_check(range, error))
        return false;
    walk->pagemap = (pc_pagemap){.fd = range->pagemap_fd};
    walk->address = range->address;
    walk->bytes = range->bytes;
    walk->view =
        (pc_view){.regions = walk->regions, .most = PC_PROCESS_WALK_REGIONS, .prove = true};
    walk->piece_count = range->piece_count;
    memcpy(walk->pieces, range->pieces, range->piece_count * sizeof *range->pieces);
    return true;
}

/* Whether the page at `at` is a hole, and those behind it before `*end`. False, with errno: nothing
 * is known. */
static bool look(pc_process_walk *walk, uint64_t at, bool *hole, uint64_t *end)
{
    const pc_piece *piece = pc_pieces_find(walk->pieces, walk->piece_count, at);
    *hole = false;
    *end = piece->end;
    if (piece->absent != PC_ABSENT_ZERO)
        return true;
    uint64_t look_end = walk->bytes - at < LOOK_BYTES ? walk->bytes : at + LOOK_BYTES;
    uint64_t until = walk->address + piece->end;
    pc_page_state state = pc_view_at(&walk->view, &walk->pagemap, walk->address + at,
                                     walk->address + look_end, &until);
    *hole = state == PC_PAGE_ABSENT;
    *end = until - walk->address;
    return state != PC_PAGE_UNKNOWN;
}

off_t pc_process_walk_seek(void *context, off_t from, int whence)
{
    pc_process_walk *walk = context;
    bool hole;
    for (uint64_t at = (uint64_t)from, end; at < walk->bytes; at = end) {
        if (!look(walk, at, &hole, &end)) {
            errno = EIO;
            return -1;
        }
        if (hole == (whence == SEEK_HOLE))
            return (off_t)at;
        if (whence == SEEK_HOLE && walk->address + end == walk->view.look.end)
            return (off_t)end; /* no farther than the look */
    }
    if (whence == SEEK_HOLE)
        return (off_t)walk->bytes;
    errno = ENXIO;
    return -1;
}

/* Whether a page of [begin, end) has a bit in neither bitmap; `begin` begins a word. */
static bool any_undecided(const uint64_t *zero, const uint64_t *normal, uint64_t begin,
                          uint64_t end)
{
    for (uint64_t page = begin; page < end; page += 64) {
        uint32_t count = end - page < 64 ? (uint32_t)(end - page) : 64;
        uint64_t decided = pc_bits_get(zero, page, count) | pc_bits_get(normal, page, count);
        if (decided != ~UINT64_C(0) >> (64 - count))
            return true;
    }
    return false;
}

uint64_t pc_process_walk_swapped(pc_process_walk *walk, uint64_t page_bytes, const uint64_t *zero,
                                 const uint64_t *normal)
{
    uint64_t pages = walk->bytes / page_bytes, swapped = 0, counted = 0; /* pages before it are */
    for (uint64_t page = 0; page < pages; page += CHUNK_PAGES) {
        uint64_t stop = pages - page < CHUNK_PAGES ? pages : page + CHUNK_PAGES;
        if (!any_undecided(zero, normal, page, stop))
            continue;
        uint64_t at = walk->address + page * page_bytes, end = walk->address + stop * page_bytes;
        for (uint64_t until; at < end; at = until) {
            until = end;
            pc_page_state state = pc_view_at(&walk->view, &walk->pagemap, at, end, &until);
            uint64_t last = (until - 1 - walk->address) / page_bytes;
            uint64_t first = (at - walk->address) / page_bytes;
            if (state != PC_PAGE_SWAPPED)
                continue;
            for (first = first < counted ? counted : first; first <= last; first++)
                swapped += !pc_bits_test(zero, first) && !pc_bits_test(normal, first);
            counted = last + 1;
        }
    }
    return swapped;
}
