/* What the page tables of another process tell of a block, and copies of its pages.
 *
 * Facts: reading a page that no page table has makes the process allocate one, and often a huge
 * zero page; process_vm_readv takes a pid, which may be another program by now; it stops at the
 * first page that it cannot have. It pins, and before a page is pinned that is not this process's
 * alone (KSM, a child that was forked) the kernel makes it a copy of its own, so that what was
 * merged takes memory again: gup_must_unshare() in mm/internal.h. Reads of /proc/PID/mem do not
 * pin, and stay with the address space, but take 1.4 times as long. A look at the page tables costs
 * 7 ns a page, an entry of them 20 ns, a call 0.3 us, a copy 1 us a page.
 * Danger: between the look and the copy a running process may give the page back, so that the copy
 * makes it allocate. That cannot be prevented; the answer is right all the same.
 * Decision: for each PC_READ_BYTES the entries are read, and what is in memory and this process's
 * alone is copied, all of it in one call; a look says of the other pages what they are, and those
 * in memory are read. All of it counts only if the address space that the descriptor of the page
 * tables stays with is still whole afterwards: that of a process which ended, or executed another
 * program, is not. What is left to whoever believes the whole scan: another mapping at the same
 * addresses, an address space that outlives its process because others hold it, memory that the
 * kernel takes from a process which it kills for want of memory. */
#include "pc_process_block.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "pc_bits.h"
#include "pc_copy.h"

#define PARTS (PC_READ_BYTES / PC_HOST_PAGE)
#define WORDS (PARTS / 64u)
#define LOOK_GAP (64u * PC_HOST_PAGE)  /* looking at so many costs as much as another call */
#define ENTRY_GAP (16u * PC_HOST_PAGE) /* reading the entries of so many, likewise */
#define ENTRIES_MAX 1024u              /* that are read at once */

/* Consecutive parts (of PC_HOST_PAGE bytes) of a step. */
typedef struct part_run {
    uint64_t offset; /* in the block */
    uint32_t first;  /* the first part's index in the step */
    uint32_t count;
} part_run;

/* What is decided from one look and one copy: part i is copied to PC_HOST_PAGE * i of the buffer.
 */
typedef struct step {
    pc_process_block *block;
    const pc_decider *decider;
    part_run runs[PARTS];
    size_t run_count;
    uint32_t parts;
    uint64_t known_begin; /* byte offsets of the block whose entries were read */
    uint64_t known_end;
    uint64_t alone[ENTRIES_MAX / 64u]; /* a bit for each page of them: this process's alone */
    pc_region regions[PARTS];          /* of the view */
    pc_view view;
    /* The copy: */
    struct iovec theirs[PARTS];
    struct iovec ours[PARTS];
    size_t vectors;
    /* A bit for each part: */
    uint64_t copied[WORDS];
    uint64_t zero[WORDS];
    uint64_t decided[WORDS];
} step;

typedef enum action { LEAVE, CALL_ZERO, COPY, READ_MEMORY, READ_FILE } action;

/* The end of run `run`, or of the last one behind it that is near, `gap` bytes at most. */
static uint64_t end_of_near(const step *s, size_t run, uint64_t gap)
{
    uint64_t end = s->runs[run].offset + (uint64_t)s->runs[run].count * PC_HOST_PAGE;
    while (++run < s->run_count && s->runs[run].offset >= end && s->runs[run].offset - end <= gap)
        end = s->runs[run].offset + (uint64_t)s->runs[run].count * PC_HOST_PAGE;
    return end;
}

/* Whether the part at `offset` of run `run`, and, before `*end`, those behind it, are in memory and
 * this process's alone; or, all of them, not. */
static bool is_alone(step *s, size_t run, uint64_t offset, uint64_t *end)
{
    if (offset < s->known_begin || offset >= s->known_end) {
        uint64_t most = offset + (uint64_t)ENTRIES_MAX * PC_HOST_PAGE;
        uint64_t near = end_of_near(s, run, ENTRY_GAP);
        s->known_begin = offset;
        s->known_end = near < most ? near : most;
        pc_pagemap_alone(&s->block->pagemap, s->block->address + offset,
                         (uint32_t)((s->known_end - offset) / PC_HOST_PAGE), s->alone);
    }
    uint64_t first = (offset - s->known_begin) / PC_HOST_PAGE;
    uint64_t count = (s->known_end - s->known_begin) / PC_HOST_PAGE;
    uint64_t until = s->known_begin + pc_bits_run_end(s->alone, count, first) * PC_HOST_PAGE;
    if (until < *end)
        *end = until;
    return pc_bits_test(s->alone, first);
}

/* What to do with the part at `offset` of run `run`, and, before `*end`, with those behind it. */
static action next_action(step *s, size_t run, uint64_t offset, uint64_t *end)
{
    pc_process_block *block = s->block;
    const pc_piece *piece = pc_pieces_find(block->pieces, block->piece_count, offset);
    if (*end > piece->end)
        *end = piece->end;
    if (piece->absent == PC_UNREADABLE)
        return LEAVE;
    if (is_alone(s, run, offset, end))
        return COPY;
    uint64_t until = block->address + *end;
    uint64_t look_end = block->address + end_of_near(s, run, LOOK_GAP);
    pc_page_state state =
        pc_view_at(&s->view, &block->pagemap, block->address + offset, look_end, &until);
    *end = until - block->address;
    switch (state) {
    case PC_PAGE_ZERO:
        return CALL_ZERO;
    case PC_PAGE_PRESENT:
        return READ_MEMORY;
    case PC_PAGE_SWAPPED: /* with a userfaultfd: or a marker, and a read would wait for the page */
        return block->read_swapped && piece->absent != PC_ABSENT_UNDECIDED ? READ_MEMORY : LEAVE;
    case PC_PAGE_ABSENT:
        return piece->absent == PC_ABSENT_ZERO   ? CALL_ZERO
               : piece->absent == PC_ABSENT_FILE ? READ_FILE
                                                 : LEAVE;
    case PC_PAGE_UNMAPPED:
    case PC_PAGE_UNKNOWN:
        break;
    }
    return LEAVE;
}

static void add_vector(step *s, uint64_t offset, uint32_t part, uint32_t count)
{
    unsigned char *theirs = (unsigned char *)(uintptr_t)(s->block->address + offset);
    unsigned char *ours = s->decider->buffer + (size_t)part * PC_HOST_PAGE;
    size_t bytes = (size_t)count * PC_HOST_PAGE;
    size_t last = s->vectors - 1;
    if (s->vectors != 0 &&
        (unsigned char *)s->theirs[last].iov_base + s->theirs[last].iov_len == theirs &&
        (unsigned char *)s->ours[last].iov_base + s->ours[last].iov_len == ours) {
        s->theirs[last].iov_len = s->ours[last].iov_len += bytes;
        return;
    }
    s->theirs[s->vectors] = (struct iovec){theirs, bytes};
    s->ours[s->vectors++] = (struct iovec){ours, bytes};
}

/* Reads parts from the address space, but for those that cannot be had. */
static void read_memory(step *s, uint64_t offset, uint32_t part, uint32_t count)
{
    const pc_process_block *block = s->block;
    for (uint32_t at = 0; at < count;) {
        unsigned char *to = s->decider->buffer + (size_t)(part + at) * PC_HOST_PAGE;
        uint64_t from = block->address + offset + (uint64_t)at * PC_HOST_PAGE;
        ssize_t got = pread(block->memory_fd, to, (size_t)(count - at) * PC_HOST_PAGE, (off_t)from);
        uint32_t whole = got < 0 ? 0 : (uint32_t)((size_t)got / PC_HOST_PAGE);
        pc_bits_set(s->copied, part + at, whole);
        at += whole == 0 ? 1 : whole;
    }
}

static void read_file(step *s, uint64_t offset, uint32_t part, uint32_t count)
{
    const pc_process_block *block = s->block;
    const pc_piece *piece = pc_pieces_find(block->pieces, block->piece_count, offset);
    unsigned char *to = s->decider->buffer + (size_t)part * PC_HOST_PAGE;
    size_t have = 0, want = (size_t)count * PC_HOST_PAGE;
    while (have < want) {
        ssize_t got = pread(block->file_fd, to + have, want - have,
                            (off_t)(piece->file_offset + (offset - piece->begin) + have));
        if (got <= 0)
            break;
        have += (size_t)got;
    }
    pc_bits_set(s->copied, part, have / PC_HOST_PAGE);
}

static void plan_run(step *s, size_t run)
{
    const part_run *r = &s->runs[run];
    uint64_t stop = r->offset + (uint64_t)r->count * PC_HOST_PAGE;
    for (uint64_t at = r->offset, end; at < stop; at = end) {
        end = stop;
        action what = next_action(s, run, at, &end);
        uint32_t part = r->first + (uint32_t)((at - r->offset) / PC_HOST_PAGE);
        uint32_t count = (uint32_t)((end - at) / PC_HOST_PAGE);
        if (what == COPY)
            add_vector(s, at, part, count);
        else if (what == READ_MEMORY)
            read_memory(s, at, part, count);
        else if (what == READ_FILE)
            read_file(s, at, part, count);
        else if (what == CALL_ZERO)
            pc_bits_set(s->zero, part, count);
    }
}

/* Passes over `bytes` of the vectors from `*at` on, and notes their parts as copied. */
static void pass(step *s, size_t *at, size_t bytes, bool copied)
{
    while (bytes > 0) {
        struct iovec *ours = &s->ours[*at], *theirs = &s->theirs[*at];
        size_t step_bytes = bytes < ours->iov_len ? bytes : ours->iov_len;
        size_t from = (size_t)((unsigned char *)ours->iov_base - s->decider->buffer);
        if (copied)
            pc_bits_set(s->copied, from / PC_HOST_PAGE, step_bytes / PC_HOST_PAGE);
        ours->iov_base = (unsigned char *)ours->iov_base + step_bytes;
        theirs->iov_base = (unsigned char *)theirs->iov_base + step_bytes;
        theirs->iov_len = ours->iov_len -= step_bytes;
        bytes -= step_bytes;
        if (ours->iov_len == 0)
            (*at)++;
    }
}

/* Copies what was planned, without the pages that cannot be had. False: the process is gone, or it
 * is another one, or it must not be read any more. */
static bool copy(step *s)
{
    for (size_t at = 0; at < s->vectors;) {
        ssize_t got = process_vm_readv(s->block->pid, s->ours + at, s->vectors - at, s->theirs + at,
                                       s->vectors - at, 0);
        if (got < 0 && errno != EFAULT)
            return false;
        size_t whole = got < 0 ? 0 : (size_t)got / PC_HOST_PAGE * PC_HOST_PAGE;
        pass(s, &at, whole, true);
        if (at < s->vectors)
            pass(s, &at, PC_HOST_PAGE, false);
    }
    return pc_pagemap_is_there(&s->block->pagemap);
}

static void compare(step *s)
{
    const pc_pages pages = {
        .base = s->decider->buffer, .count = s->parts, .page_bytes = PC_HOST_PAGE};
    for (size_t word = 0; word < WORDS; word++) {
        s->decided[word] = s->zero[word] | s->copied[word];
        if (s->copied[word] == 0)
            continue;
        size_t end = s->parts - word * 64 < 64 ? s->parts : (word + 1) * 64;
        s->zero[word] |= s->decider->kernel->zero_pages(&pages, word * 64, end) & s->copied[word];
    }
}

/* Fills the step's bits. False: the process is not there any more, and nothing is decided. */
static bool take(step *s)
{
    s->vectors = 0;
    s->known_begin = s->known_end = 0;
    s->view = (pc_view){.regions = s->regions, .most = PARTS};
    memset(s->copied, 0, sizeof s->copied);
    memset(s->zero, 0, sizeof s->zero);
    memset(s->decided, 0, sizeof s->decided);
    for (size_t run = 0; run < s->run_count; run++)
        plan_run(s, run);
    bool there = copy(s);
    if (there)
        compare(s);
    else
        memset(s->zero, 0, sizeof s->zero);
    pc_decider_advance(s->decider);
    return there;
}

static void add_run(step *s, uint64_t offset, uint64_t bytes)
{
    part_run *last = s->run_count != 0 ? &s->runs[s->run_count - 1] : NULL;
    uint32_t count = (uint32_t)(bytes / PC_HOST_PAGE);
    if (last != NULL && last->offset + (uint64_t)last->count * PC_HOST_PAGE == offset)
        last->count += count;
    else
        s->runs[s->run_count++] = (part_run){offset, s->parts, count};
    s->parts += count;
}

static uint64_t page_offset(const pc_task *task, size_t index)
{
    return task->batch.offsets != NULL ? task->batch.offsets[index]
                                       : task->batch.first + index * task->block->page_bytes;
}

typedef enum verdict { ZERO, NORMAL, UNDECIDED } verdict;

/* What parts [first, end) make of a page. */
static verdict verdict_of(const step *s, uint64_t first, uint64_t end)
{
    verdict found = ZERO;
    for (uint64_t part = first; part < end; part++) {
        if (!pc_bits_test(s->decided, part))
            found = UNDECIDED;
        else if (!pc_bits_test(s->zero, part))
            return NORMAL;
    }
    return found;
}

/* Gives parts [first, end), some of them no more than known to be zero, their bytes for a copy.
 * False: not all of them have any. */
static bool complete(const step *s, uint64_t first, uint64_t end)
{
    for (uint64_t part = first; part < end; part++) {
        if (!pc_bits_test(s->decided, part))
            return false;
        if (!pc_bits_test(s->copied, part))
            memset(s->decider->buffer + part * PC_HOST_PAGE, 0, PC_HOST_PAGE);
    }
    return true;
}

static void answer(const pc_task *task, size_t index, verdict found)
{
    if (found == ZERO)
        pc_bits_set(task->zero, index, 1);
    if (found != UNDECIDED)
        pc_bits_set(task->decided, index, 1);
}

/* A page of several parts, from `first` on. */
static void answer_page(const pc_task *task, const step *s, size_t index, uint64_t first)
{
    uint64_t end = first + task->block->page_bytes / PC_HOST_PAGE;
    verdict found = verdict_of(s, first, end);
    bool usable = found != NORMAL || !task->copies || complete(s, first, end);
    answer(task, index, usable ? found : UNDECIDED);
}

/* Pages [begin, end) of the batch, which fit into the buffer. */
static bool decide_pages(const pc_task *task, step *s, size_t begin, size_t end)
{
    uint64_t parts = task->block->page_bytes / PC_HOST_PAGE;
    s->run_count = s->parts = 0;
    for (size_t i = begin; i < end; i++)
        add_run(s, page_offset(task, i), task->block->page_bytes);
    if (!take(s))
        return false;
    for (size_t i = begin; parts != 1 && i < end; i++)
        answer_page(task, s, i, (i - begin) * parts);
    for (size_t at = 0; parts == 1 && at < s->parts; at += 64) {
        uint32_t count = s->parts - at < 64 ? (uint32_t)(s->parts - at) : 64;
        pc_bits_or(task->zero, begin + at, s->zero[at / 64], count);
        pc_bits_or(task->decided, begin + at, s->decided[at / 64], count);
    }
    if (task->copies)
        pc_copy_pages(task, begin, end, s->decider->buffer);
    return true;
}

/* Looks at PC_READ_BYTES of a page that is larger. */
static bool take_piece(const pc_task *task, step *s, size_t index, uint64_t at)
{
    s->run_count = s->parts = 0;
    add_run(s, page_offset(task, index) + at, PC_READ_BYTES);
    return take(s);
}

/* Looks at a normal page again, from its beginning, for the sink. False: as decide_large_page. */
static bool copy_large_page(const pc_task *task, step *s, size_t index)
{
    for (uint64_t at = 0; at < task->block->page_bytes; at += PC_READ_BYTES) {
        bool there = take_piece(task, s, index, at);
        if (!there || !complete(s, 0, PARTS))
            pc_bits_clear(task->decided, index, 1);
        else if (pc_copy_piece(task, index, at, s->decider->buffer, PC_READ_BYTES))
            continue;
        return there;
    }
    return true;
}

/* A page larger than the buffer, up to the first byte that is not zero. */
static bool decide_large_page(const pc_task *task, step *s, size_t index)
{
    verdict all = ZERO;
    for (uint64_t at = 0; all != NORMAL && at < task->block->page_bytes; at += PC_READ_BYTES) {
        if (!take_piece(task, s, index, at))
            return false;
        verdict one = verdict_of(s, 0, PARTS);
        all = one != ZERO ? one : all;
    }
    answer(task, index, all);
    if (all == NORMAL && task->copies)
        return copy_large_page(task, s, index);
    if (all == ZERO && task->copies)
        pc_copy_pages(task, index, index + 1, NULL);
    return true;
}

static void process_decide(pc_task *task, size_t begin, size_t end)
{
    step s; /* large: only what is used is set */
    s.block = (pc_process_block *)(uintptr_t)task->block;
    s.decider = task->decider;
    uint64_t page_bytes = task->block->page_bytes;
    bool large = page_bytes > PC_READ_BYTES;
    size_t most = large ? 1 : (size_t)(PC_READ_BYTES / page_bytes);
    for (size_t at = begin; at < end; at += most) {
        size_t stop = end - at < most ? end : at + most;
        if (large ? !decide_large_page(task, &s, at) : !decide_pages(task, &s, at, stop))
            return;
    }
}

static void process_free(pc_block *block)
{
    pc_process_block *process = (pc_process_block *)block;
    if (process->pagemap.fd >= 0)
        close(process->pagemap.fd);
    if (process->memory_fd >= 0)
        close(process->memory_fd);
    if (process->file_fd >= 0)
        close(process->file_fd);
    free(process);
}

static const pc_block_ops process_block_ops = {.decide = process_decide, .free = process_free};

static bool check_source(const pc_process_range *range, pc_error *error)
{
    bool needs_file = false;
    for (size_t i = 0; i < range->piece_count; i++)
        needs_file |= range->pieces[i].absent == PC_ABSENT_FILE;
    if (range->pid > 0 && (!needs_file || range->file_fd >= 0))
        return true;
    return pc_error_set(error, PC_ERROR_INVALID, "process %d, file descriptor %d: %s",
                        (int)range->pid, range->file_fd,
                        range->pid > 0 ? "a piece needs the file" : "no process");
}

pc_block *pc_process_block_open(const pc_process_range *range, pc_error *error)
{
    if (!pc_process_range_check(range, error) || !check_source(range, error))
        return NULL;
    size_t pieces_bytes = range->piece_count * sizeof *range->pieces;
    pc_process_block *block = calloc(1, sizeof *block + pieces_bytes);
    if (block == NULL) {
        pc_error_set(error, PC_ERROR_SYSTEM, "%s", "");
        return NULL;
    }
    block->head = (pc_block){
        .ops = &process_block_ops, .bytes = range->bytes, .page_bytes = range->page_bytes};
    block->pid = range->pid;
    block->address = range->address;
    block->read_swapped = range->read_swapped;
    block->piece_count = range->piece_count;
    memcpy(block->pieces, range->pieces, pieces_bytes);
    block->memory_fd = block->file_fd = -1;
    block->pagemap.fd = fcntl(range->pagemap_fd, F_DUPFD_CLOEXEC, 3);
    if (block->pagemap.fd >= 0)
        block->memory_fd = fcntl(range->memory_fd, F_DUPFD_CLOEXEC, 3);
    if (block->memory_fd >= 0 && range->file_fd >= 0)
        block->file_fd = fcntl(range->file_fd, F_DUPFD_CLOEXEC, 3);
    if (block->memory_fd >= 0 && (range->file_fd < 0 || block->file_fd >= 0))
        return &block->head;
    pc_error_set(error, PC_ERROR_SYSTEM, "%s", "");
    process_free(&block->head);
    return NULL;
}
