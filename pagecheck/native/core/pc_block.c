/* Decides the pages of one batch: through the mapping where touching is safe, else by what the
 * block's memory says of holes and by reading it. The size is asked for once per batch, after it
 * was submitted: an older answer could be stale. */
#include "pc_block.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "pc_bits.h"
#include "pc_copy.h"
#include "pc_guard.h"

#define GROUP_PAGES 64u
#define PIECE_BYTES (256u * 1024u) /* of a large page between two rises of the progress word */
#define ASK_RESIDENT_MIN_BYTES (4u * PC_HOST_PAGE) /* below this the CPU reads for less */
/* Short runs are read unasked once that many lookups in a row found no hole: a lookup costs a
 * fifth to the whole of reading a page, and who lists pages may have left out the holes. */
#define MISSES_MAX 4u
#define SHORT_RUN_BYTES (16u * PC_HOST_PAGE)

bool pc_decider_init(const pc_kernel *kernel, uint64_t *progress, pc_decider *decider)
{
    decider->kernel = kernel;
    decider->progress = progress;
    decider->holes = NULL;
    decider->buffer = aligned_alloc(PC_HOST_PAGE, PC_READ_BYTES);
    decider->resident = malloc(PC_RESIDENT_PAGES);
    if (decider->buffer != NULL && decider->resident != NULL)
        return true;
    pc_decider_deinit(decider);
    return false;
}

void pc_decider_deinit(pc_decider *decider)
{
    free(decider->buffer);
    free(decider->resident);
    memset(decider, 0, sizeof *decider);
}

void pc_block_free(pc_block *block)
{
    if (block->sink != NULL)
        pc_sink_close(block->sink);
    block->ops->free(block);
}

static uint64_t page_offset(const pc_batch *batch, uint64_t page_bytes, size_t index)
{
    return batch->offsets != NULL ? batch->offsets[index] : batch->first + index * page_bytes;
}

static bool mapped_page_is_zero(const pc_task *j, uint64_t offset)
{
    const unsigned char *page = j->block->base + offset;
    for (uint64_t at = 0; at < j->block->page_bytes; at += PIECE_BYTES) {
        uint64_t left = j->block->page_bytes - at;
        if (!j->decider->kernel->is_zero(page + at, left < PIECE_BYTES ? left : PIECE_BYTES))
            return false;
        pc_decider_advance(j->decider);
    }
    return true;
}

static void decide_mapped_page(const pc_task *j, size_t index)
{
    pc_guard guard;
    volatile bool zero = false;
    uint64_t offset = page_offset(&j->batch, j->block->page_bytes, index);
    if (offset + j->block->page_bytes > j->limit)
        return;
    if (!PC_GUARDED(&guard, j->block->base, j->block->bytes, zero = mapped_page_is_zero(j, offset)))
        return;
    if (zero)
        pc_bits_set(j->zero, index, 1);
    pc_bits_set(j->decided, index, 1);
}

static bool group_is_inside(const pc_task *j, size_t begin, size_t end)
{
    if (j->limit == j->block->bytes)
        return true;
    for (size_t i = begin; i < end; i++)
        if (page_offset(&j->batch, j->block->page_bytes, i) + j->block->page_bytes > j->limit)
            return false;
    return true;
}

/* Pages [begin, end) of the batch, at most 64, all of them safe to touch. */
static void decide_mapped_group(pc_task *j, const pc_pages *pages, size_t begin, size_t end)
{
    pc_guard guard;
    volatile uint64_t zero = 0;
    bool inside = group_is_inside(j, begin, end);
    bool whole = j->block->page_bytes <= PIECE_BYTES && inside;
    if (j->offload != NULL && inside && j->offload(j->engine, j, pages, begin, end)) {
        /* Taken. */
    } else if (whole && PC_GUARDED(&guard, j->block->base, j->block->bytes,
                                   zero = j->decider->kernel->zero_pages(pages, begin, end))) {
        pc_bits_or(j->zero, begin, zero, (uint32_t)(end - begin));
        pc_bits_set(j->decided, begin, end - begin);
    } else {
        /* Large pages, a cut file, or a fault: one at a time, so that one costs only itself. */
        for (size_t i = begin; i < end; i++)
            decide_mapped_page(j, i);
    }
    if (j->copies)
        pc_copy_pages(j, begin, end, NULL);
    pc_decider_advance(j->decider);
}

static void decide_mapped(pc_task *j, size_t begin, size_t end)
{
    const pc_pages pages = {
        .base = j->block->base,
        .offsets = j->batch.offsets,
        .first = j->batch.first,
        .count = j->batch.count,
        .page_bytes = j->block->page_bytes,
    };
    for (size_t at = begin; at < end; at += GROUP_PAGES)
        decide_mapped_group(j, &pages, at, end - at < GROUP_PAGES ? end : at + GROUP_PAGES);
}

static size_t read_at(const pc_task *j, uint64_t offset, size_t want)
{
    return j->block->ops->read(j->block, offset, j->decider->buffer, want);
}

/* Reads a normal page again, from its beginning, for the sink. */
static void copy_large_page(const pc_task *j, size_t index, uint64_t offset)
{
    for (uint64_t at = 0; at < j->block->page_bytes; at += PC_READ_BYTES) {
        uint64_t left = j->block->page_bytes - at;
        size_t want = left < PC_READ_BYTES ? (size_t)left : PC_READ_BYTES;
        if (read_at(j, offset + at, want) < want)
            pc_bits_clear(j->decided, index, 1);
        else if (pc_copy_piece(j, index, at, j->decider->buffer, want))
            continue;
        return;
    }
}

/* A page larger than the buffer, piece by piece up to the first byte that is not zero. */
static void read_large_page(const pc_task *j, size_t index, uint64_t offset)
{
    bool zero = true;
    for (uint64_t at = 0; zero && at < j->block->page_bytes; at += PC_READ_BYTES) {
        uint64_t left = j->block->page_bytes - at;
        size_t want = left < PC_READ_BYTES ? (size_t)left : PC_READ_BYTES;
        size_t have = read_at(j, offset + at, want);
        zero = j->decider->kernel->is_zero(j->decider->buffer, have);
        if (zero && have < want)
            return; /* undecided: the rest was not seen */
        pc_decider_advance(j->decider);
    }
    if (zero)
        pc_bits_set(j->zero, index, 1);
    pc_bits_set(j->decided, index, 1);
    if (zero && j->copies)
        pc_copy_pages(j, index, index + 1, NULL);
    else if (j->copies)
        copy_large_page(j, index, offset);
}

/* Pages [begin, end): consecutive in the block and together no larger than the buffer. */
static void read_pages(const pc_task *j, size_t begin, size_t end, uint64_t offset)
{
    uint64_t page_bytes = j->block->page_bytes;
    size_t have = read_at(j, offset, (end - begin) * page_bytes);
    const pc_pages pages = {
        .base = j->decider->buffer,
        .count = have / page_bytes, /* a page that came short stays undecided */
        .page_bytes = page_bytes,
    };
    for (size_t at = 0; at < pages.count; at += GROUP_PAGES) {
        size_t stop = pages.count - at < GROUP_PAGES ? pages.count : at + GROUP_PAGES;
        pc_bits_or(j->zero, begin + at, j->decider->kernel->zero_pages(&pages, at, stop),
                   (uint32_t)(stop - at));
    }
    pc_bits_set(j->decided, begin, pages.count);
    if (j->copies)
        pc_copy_pages(j, begin, begin + pages.count, j->decider->buffer);
    pc_decider_advance(j->decider);
}

static void decide_by_reading(const pc_task *j, size_t begin, size_t end, uint64_t offset)
{
    uint64_t page_bytes = j->block->page_bytes;
    if (page_bytes > PC_READ_BYTES) {
        for (size_t i = begin; i < end; i++)
            read_large_page(j, i, offset + (i - begin) * page_bytes);
        return;
    }
    size_t step = (size_t)(PC_READ_BYTES / page_bytes);
    for (size_t at = begin; at < end; at += step) {
        size_t stop = end - at < step ? end : at + step;
        read_pages(j, at, stop, offset + (at - begin) * page_bytes);
    }
}

/* How many pages of a hole are in front of the pages [begin, end). */
static uint64_t hole_in_front(pc_task *j, size_t begin, size_t end, uint64_t offset)
{
    uint64_t page_bytes = j->block->page_bytes;
    if (j->misses >= MISSES_MAX && (end - begin) * page_bytes <= SHORT_RUN_BYTES)
        return 0;
    uint64_t pages = (j->block->ops->next_data(j->block, offset) - offset) / page_bytes;
    j->misses = pages == 0 ? j->misses + 1 : 0;
    return pages < end - begin ? pages : end - begin;
}

/* Pages [begin, end), consecutive in the block, that must not be touched: the hole in front of
 * them is answered as such, the rest is read. */
static void decide_untouched(pc_task *j, size_t begin, size_t end, uint64_t offset)
{
    uint64_t page_bytes = j->block->page_bytes;
    uint64_t hole_pages = hole_in_front(j, begin, end, offset);
    if (hole_pages != 0) {
        pc_bits_set(j->zero, begin, hole_pages);
        pc_bits_set(j->decided, begin, hole_pages);
        if (j->decider->holes != NULL)
            *j->decider->holes += hole_pages;
        if (j->copies)
            pc_copy_pages(j, begin, begin + hole_pages, NULL);
        begin += hole_pages;
        offset += hole_pages * page_bytes;
    }
    if (begin < end)
        decide_by_reading(j, begin, end, offset);
    else
        pc_decider_advance(j->decider);
}

static bool all_resident(const unsigned char *resident, size_t count)
{
    unsigned char all = 1;
    for (size_t i = 0; i < count; i++)
        all &= resident[i];
    return (all & 1u) != 0;
}

/* Consecutive pages [begin, end) of a mapping that has, or may have, holes. */
static void decide_by_residency(pc_task *j, size_t begin, size_t end, uint64_t offset)
{
    size_t per_page = (size_t)(j->block->page_bytes / PC_HOST_PAGE);
    size_t most = PC_RESIDENT_PAGES / per_page;
    unsigned char *resident = j->decider->resident;
    while (begin < end) {
        size_t step = end - begin < most ? end - begin : most;
        if (mincore((void *)(uintptr_t)(j->block->base + offset), step * j->block->page_bytes,
                    resident) != 0) {
            decide_untouched(j, begin, end, offset);
            return;
        }
        for (size_t from = 0; from < step;) {
            bool in = all_resident(resident + from * per_page, per_page);
            size_t to = from + 1;
            while (to < step && all_resident(resident + to * per_page, per_page) == in)
                to++;
            if (in)
                decide_mapped(j, begin + from, begin + to);
            else
                decide_untouched(j, begin + from, begin + to, offset + from * j->block->page_bytes);
            from = to;
        }
        begin += step;
        offset += step * j->block->page_bytes;
    }
}

static void decide_run(pc_task *j, size_t begin, size_t end, uint64_t offset)
{
    uint64_t page_bytes = j->block->page_bytes;
    if (offset + page_bytes > j->limit)
        return;
    uint64_t inside = (j->limit - offset) / page_bytes;
    if (inside < end - begin)
        end = begin + (size_t)inside; /* the rest is past the end: undecided */
    bool ask = j->block->base != NULL && (j->block->flags & PC_BLOCK_ASK_RESIDENT) != 0 &&
               page_bytes / PC_HOST_PAGE <= PC_RESIDENT_PAGES &&
               (j->offload != NULL || (end - begin) * page_bytes >= ASK_RESIDENT_MIN_BYTES);
    if (ask)
        decide_by_residency(j, begin, end, offset);
    else
        decide_untouched(j, begin, end, offset);
}

static void decide_by_runs(pc_task *j, size_t begin, size_t stop)
{
    uint64_t page_bytes = j->block->page_bytes;
    while (begin < stop) {
        uint64_t offset = page_offset(&j->batch, page_bytes, begin);
        size_t end = begin + 1;
        if (j->batch.offsets == NULL)
            end = stop;
        while (end < stop && j->batch.offsets[end] == offset + (end - begin) * page_bytes)
            end++;
        decide_run(j, begin, end, offset);
        begin = end;
    }
}

/* Pages [begin, end): what the memory looks like is asked anew. */
static void decide_range(pc_task *j, size_t begin, size_t end)
{
    const pc_block *block = j->block;
    bool touch = false;
    if (block->ops->decide != NULL) {
        block->ops->decide(j, begin, end);
        return;
    }
    j->limit = block->ops->size(block, &touch);
    if (j->limit > block->bytes)
        j->limit = block->bytes;
    if (touch && block->base != NULL)
        decide_mapped(j, begin, end);
    else
        decide_by_runs(j, begin, end);
}

void pc_block_start(pc_task *task)
{
    size_t words = (task->batch.count + 63u) / 64u;
    memset(task->zero, 0, words * sizeof *task->zero);
    memset(task->decided, 0, words * sizeof *task->decided);
    decide_range(task, 0, task->batch.count);
}

void pc_block_redecide(const pc_task *task, size_t begin, size_t end)
{
    pc_task by_cpu = *task;
    by_cpu.offload = NULL;
    pc_bits_clear(task->zero, begin, end - begin);
    pc_bits_clear(task->decided, begin, end - begin);
    decide_range(&by_cpu, begin, end);
}
