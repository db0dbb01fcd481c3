/* Reads a window of a file in pieces, and punches the runs of zero units that it found there. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "pc_punch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pc_guard.h"

#ifndef MADV_POPULATE_READ /* Source: linux/mman.h; since Linux 5.14 */
#define MADV_POPULATE_READ 22
#endif

/* A run of zero units that is not punched yet. */
typedef struct run {
    uint64_t start, end;
} run;

static bool read_all(int fd, void *to, size_t bytes, uint64_t at, bool *whole, pc_error *error)
{
    size_t have = 0;
    while (have < bytes) {
        ssize_t got = pread(fd, (unsigned char *)to + have, bytes - have, (off_t)(at + have));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            pc_error_set(error, PC_ERROR_SYSTEM, "%s", "");
            error->offset = at + have;
            return false;
        }
        if (got == 0)
            break;
        have += (size_t)got;
    }
    *whole = have == bytes;
    return true;
}

/* Whether the lease, where one is needed, is there still: it goes when another process wants to
 * open the file, and is taken away when that has waited for long. */
static bool is_alone(const pc_punch *punch)
{
    return !punch->leased || fcntl(punch->fd, F_GETLEASE) == F_WRLCK;
}

static bool punch_run(const pc_punch *punch, run *found, pc_punched *out, bool *alone,
                      pc_error *error)
{
    uint64_t bytes = found->end - found->start;
    if (bytes == 0)
        return true;
    if (!(*alone = is_alone(punch))) {
        out->reached = found->start;
        return true;
    }
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    int failed;
    do
        failed = fallocate(punch->fd, mode, (off_t)found->start, (off_t)bytes);
    while (failed != 0 && errno == EINTR);
    if (failed != 0) {
        pc_error_set(error, PC_ERROR_SYSTEM, "%s", "");
        error->offset = out->reached = found->start;
        return false;
    }
    out->zero_bytes += bytes;
    found->start = found->end;
    return true;
}

/* One window of the file: what is there is zero, or not, and what is zero is punched. */
typedef struct look {
    const pc_punch *punch;
    unsigned char *buffer;
    run found;
    pc_punched *out;
    pc_error *error;
    bool alone, whole;
} look;

/* Takes [start, end), which is zero or not, into the run. */
static bool take(look *at, uint64_t start, uint64_t end, bool zero)
{
    if (zero && at->found.end == start) {
        at->found.end = end;
        return true;
    }
    if (!punch_run(at->punch, &at->found, at->out, &at->alone, at->error))
        return false;
    if (at->alone)
        at->found = (run){zero ? start : end, end};
    return true;
}

/* Whether a unit of a mapping is zero. `there` is false where its page went away. */
static bool mapped_is_zero(const pc_punch *punch, const void *bytes, bool *there)
{
    pc_guard guard;
    bool zero = false;
    *there = PC_GUARDED(&guard, bytes, punch->unit_bytes,
                        zero = punch->kernel->is_zero(bytes, punch->unit_bytes));
    return *there && zero;
}

/* Takes the units of [start, end), whose bytes are in the buffer, or in a mapping of the file. */
static bool take_units(look *at, const unsigned char *bytes, bool mapped, uint64_t start,
                       uint64_t end)
{
    const uint64_t unit = at->punch->unit_bytes;
    for (; at->alone && start < end; start += unit, bytes += unit) {
        bool zero = mapped ? mapped_is_zero(at->punch, bytes, &at->whole)
                           : at->punch->kernel->is_zero(bytes, unit);
        if (!at->whole)
            return true;
        if (!take(at, start, start + unit, zero))
            return false;
    }
    return true;
}

static bool read_units(look *at, uint64_t start, uint64_t end)
{
    for (; at->alone && start < end; start += PC_PUNCH_PIECE_BYTES) {
        uint64_t last = end - start < PC_PUNCH_PIECE_BYTES ? end : start + PC_PUNCH_PIECE_BYTES;
        if (!read_all(at->punch->fd, at->buffer, last - start, start, &at->whole, at->error))
            return false;
        if (!at->whole)
            return true;
        if (!take_units(at, at->buffer, false, start, last))
            return false;
    }
    return true;
}

/* A unit that is larger than what is read at once. */
static bool read_large_unit(look *at, uint64_t start)
{
    const uint64_t end = start + at->punch->unit_bytes;
    bool zero = true;
    for (uint64_t piece = start; zero && piece < end; piece += PC_PUNCH_PIECE_BYTES) {
        if (!read_all(at->punch->fd, at->buffer, PC_PUNCH_PIECE_BYTES, piece, &at->whole,
                      at->error))
            return false;
        if (!at->whole)
            return true;
        zero = at->punch->kernel->is_zero(at->buffer, PC_PUNCH_PIECE_BYTES);
    }
    return take(at, start, end, zero);
}

/* Whether [start, end), which has no hole, could be looked at through a mapping. */
static bool map_units(look *at, uint64_t start, uint64_t end, bool *good)
{
    void *bytes = mmap(NULL, end - start, PROT_READ, MAP_SHARED, at->punch->fd, (off_t)start);
    if (bytes == MAP_FAILED)
        return false;
    /* It fails where a page cannot be had, which a touch would make a SIGBUS. */
    bool present = madvise(bytes, end - start, MADV_POPULATE_READ) == 0;
    if (present)
        *good = take_units(at, bytes, true, start, end);
    munmap(bytes, end - start);
    return present;
}

static bool window(look *at, uint64_t start, uint64_t end)
{
    bool good = true;
    at->found = (run){start, start};
    if (at->punch->unit_bytes > PC_PUNCH_PIECE_BYTES)
        good = read_large_unit(at, start);
    else if (!at->punch->map || !map_units(at, start, end, &good))
        good = read_units(at, start, end);
    return good && (!at->alone || punch_run(at->punch, &at->found, at->out, &at->alone, at->error));
}

static uint64_t window_bytes(const pc_punch *punch)
{
    if (punch->unit_bytes > PC_PUNCH_PIECE_BYTES)
        return punch->unit_bytes;
    return punch->leased ? PC_PUNCH_LEASED_BYTES : PC_PUNCH_BYTES;
}

/* The next window in [start, end), which ends where huge pages do. False: the rest is a hole. */
static bool next_window(const pc_punch *punch, uint64_t *start, uint64_t *end)
{
    const uint64_t most = window_bytes(punch), unit = punch->unit_bytes;
    uint64_t last = *end;
    if (punch->seek) {
        off_t data = lseek(punch->fd, (off_t)*start, SEEK_DATA);
        if (data < 0 ? errno == ENXIO : (uint64_t)data >= *end)
            return false;
        off_t hole = data < 0 ? -1 : lseek(punch->fd, data, SEEK_HOLE);
        if (data > (off_t)*start)
            *start = (uint64_t)data & ~(unit - 1);
        if (hole > data && (uint64_t)hole < last)
            last = ((uint64_t)hole + unit - 1) & ~(unit - 1);
    }
    uint64_t edge = (*start / most + 1) * most;
    *end = last < edge ? last : edge;
    return true;
}

static bool is_valid(const pc_punch *punch, uint64_t start, uint64_t end)
{
    const uint64_t unit = punch->unit_bytes;
    return unit >= PC_KERNEL_PAGE_BYTES && (unit & (unit - 1)) == 0 && start % unit == 0 &&
           end % unit == 0 && start <= end && end <= INT64_MAX;
}

bool pc_punch_zero(const pc_punch *punch, uint64_t start, uint64_t end, pc_punched *out,
                   pc_error *error)
{
    *out = (pc_punched){start, 0};
    if (!is_valid(punch, start, end))
        return pc_error_set(error, PC_ERROR_INVALID,
                            "bytes %llu to %llu in units of %llu: out of range",
                            (unsigned long long)start, (unsigned long long)end,
                            (unsigned long long)punch->unit_bytes);
    look at = {.punch = punch, .out = out, .error = error, .alone = true, .whole = true};
    if (posix_memalign((void **)&at.buffer, PC_KERNEL_PAGE_BYTES, PC_PUNCH_PIECE_BYTES) != 0)
        return pc_error_set(error, PC_ERROR_NO_MEMORY, "%s", "no memory to read into");
    bool good = true;
    for (uint64_t last = end; good && at.alone && at.whole && start < end; last = end) {
        if (!next_window(punch, &start, &last))
            last = start = end;
        else
            good = window(&at, start, last);
        if (good && at.alone && at.whole)
            out->reached = start = last;
    }
    free(at.buffer);
    return good;
}
