/* Copies decided pages to a sink: runs of neighbours in one write, and in an update only what
 * differs from what the file has.
 *
 * Danger: a page that is called normal whose bytes are not in the file; one that is called zero
 * whose place there is not zero. Decision: each keeps its bits only once that is so. */
#include "pc_copy.h"

#include <string.h>

#include "pc_bits.h"
#include "pc_guard.h"
#include "pc_sink.h"

#define READ_UNASKED_BYTES (8u * PC_SINK_PIECE) /* to look for a hole would cost as much */

typedef enum kind { UNDECIDED, ZERO, NORMAL } kind;

/* Pages of the batch that are neighbours in the block. */
typedef struct run {
    size_t begin;
    size_t end;
    uint64_t offset;           /* of page `begin` in the block */
    const unsigned char *from; /* its bytes, and those of the next ones behind them */
} run;

static uint64_t page_offset(const pc_task *task, size_t index)
{
    return task->batch.offsets != NULL ? task->batch.offsets[index]
                                       : task->batch.first + index * task->block->page_bytes;
}

static kind kind_of(const pc_task *task, size_t index)
{
    if (!pc_bits_test(task->decided, index))
        return UNDECIDED;
    return pc_bits_test(task->zero, index) ? ZERO : NORMAL;
}

static void forget(const pc_task *task, size_t first, size_t count)
{
    pc_bits_clear(task->zero, first, count);
    pc_bits_clear(task->decided, first, count);
}

/* Writes a run of normal pages. One that is gone costs only itself. */
static void write_run(const pc_task *task, run r)
{
    uint64_t page_bytes = task->block->page_bytes;
    while (r.begin < r.end) {
        size_t bytes = (r.end - r.begin) * page_bytes;
        size_t whole = pc_sink_write(task->block->sink, r.offset, r.from, bytes) / page_bytes;
        if (r.begin + whole < r.end)
            forget(task, r.begin + whole++, 1);
        r.begin += whole;
        r.offset += whole * page_bytes;
        r.from += whole * page_bytes;
    }
}

/* Whether a piece, of a mapping whose file may be cut, is not what the file has (NULL: zeros).
 * False with `*gone`: it is not there any more. */
static bool differs(const pc_task *task, const unsigned char *piece, const unsigned char *found,
                    bool *gone)
{
    pc_guard guard;
    volatile bool same = true;
    *gone = !PC_GUARDED(&guard, task->block->base, task->block->bytes,
                        same = found == NULL ? task->decider->kernel->is_zero(piece, PC_SINK_PIECE)
                                             : memcmp(piece, found, PC_SINK_PIECE) == 0);
    return !*gone && !same;
}

/* What is to be done with the piece at byte `at` of the run: a page's kind says that its bytes, or
 * zeros, are to be written; UNDECIDED: nothing. */
static kind wanted(const pc_task *task, const run *r, size_t at, const unsigned char *found)
{
    size_t page = r->begin + at / task->block->page_bytes;
    kind is = kind_of(task, page);
    bool gone = false;
    if (is == ZERO && found != NULL && !task->decider->kernel->is_zero(found, PC_SINK_PIECE))
        return ZERO;
    if (is == NORMAL && differs(task, r->from + at, found, &gone))
        return NORMAL;
    if (gone)
        forget(task, page, 1);
    return UNDECIDED;
}

/* Writes bytes [begin, end) of a run, all of one kind. */
static void write_pieces(const pc_task *task, const run *r, kind is, size_t begin, size_t end)
{
    pc_sink *sink = task->block->sink;
    uint64_t page_bytes = task->block->page_bytes;
    while (begin < end) {
        size_t put = is == NORMAL
                         ? pc_sink_write(sink, r->offset + begin, r->from + begin, end - begin)
                         : pc_sink_clear(sink, r->offset + begin, end - begin);
        begin += put;
        if (begin < end) {
            size_t page = begin / page_bytes;
            forget(task, r->begin + page, 1);
            begin = (page + 1) * page_bytes;
        }
    }
}

static const unsigned char *place(const unsigned char *bytes, size_t at)
{
    return bytes != NULL ? bytes + at : NULL;
}

/* Writes what differs of bytes [begin, end) of a run from `found`, what the file has there; NULL:
 * zeros. */
static void write_differences(const pc_task *task, const run *r, size_t begin, size_t end,
                              const unsigned char *found)
{
    for (size_t at = begin, to; at < end; at = to) {
        kind is = wanted(task, r, at, place(found, at - begin));
        to = at + PC_SINK_PIECE;
        while (is != UNDECIDED && to < end && wanted(task, r, to, place(found, to - begin)) == is)
            to += PC_SINK_PIECE;
        if (is != UNDECIDED)
            write_pieces(task, r, is, at, to);
    }
}

/* Compares with what the file has and writes bytes [begin, end) of a run, at most PC_SINK_BYTES. */
static void update_data(const pc_task *task, const run *r, size_t begin, size_t end)
{
    pc_sink *sink = task->block->sink;
    uint64_t page_bytes = task->block->page_bytes;
    if (pc_sink_read(sink, r->offset + begin, end - begin)) {
        write_differences(task, r, begin, end, sink->found);
    } else {
        size_t first = begin / page_bytes, stop = (end + page_bytes - 1) / page_bytes;
        forget(task, r->begin + first, stop - first);
    }
}

/* The same; what the file has no data for is not read. */
static void update_part(const pc_task *task, const run *r, size_t begin, size_t end)
{
    pc_sink *sink = task->block->sink;
    for (size_t data, hole; begin < end; begin = hole) {
        data = pc_sink_next_data(sink, r->offset + begin, r->offset + end) - r->offset;
        data -= data % PC_SINK_PIECE;
        write_differences(task, r, begin, data, NULL);
        hole = end;
        if (end - data > READ_UNASKED_BYTES)
            hole = pc_sink_next_hole(sink, r->offset + data, r->offset + end) - r->offset;
        hole += -hole % PC_SINK_PIECE;
        if (data < hole)
            update_data(task, r, data, hole);
    }
}

static bool any_decided(const pc_task *task, const run *r)
{
    for (size_t i = r->begin; i < r->end; i++)
        if (kind_of(task, i) != UNDECIDED)
            return true;
    return false;
}

static void update_run(const pc_task *task, const run *r)
{
    size_t bytes = (r->end - r->begin) * task->block->page_bytes;
    for (size_t at = 0; at < bytes && any_decided(task, r); at += PC_SINK_BYTES)
        update_part(task, r, at, bytes - at < PC_SINK_BYTES ? bytes : at + PC_SINK_BYTES);
}

void pc_copy_pages(const pc_task *task, size_t begin, size_t end, const unsigned char *copies)
{
    const pc_block *block = task->block;
    while (begin < end) {
        run r = {.begin = begin, .end = begin + 1, .offset = page_offset(task, begin)};
        kind is = kind_of(task, begin);
        while (r.end < end &&
               page_offset(task, r.end) == r.offset + (r.end - begin) * block->page_bytes &&
               (block->sink->update || kind_of(task, r.end) == is))
            r.end++;
        r.from = copies != NULL ? copies : place(block->base, r.offset);
        if (copies != NULL)
            copies += (r.end - begin) * block->page_bytes;
        if (block->sink->update)
            update_run(task, &r);
        else if (is == NORMAL)
            write_run(task, r);
        begin = r.end;
    }
}

bool pc_copy_piece(const pc_task *task, size_t index, uint64_t at, const unsigned char *from,
                   size_t bytes)
{
    const run r = {
        .begin = index, .end = index + 1, .offset = page_offset(task, index) + at, .from = from};
    if (task->block->sink->update)
        update_part(task, &r, 0, bytes);
    else if (pc_sink_write(task->block->sink, r.offset, from, bytes) < bytes)
        forget(task, index, 1);
    return kind_of(task, index) == NORMAL;
}
