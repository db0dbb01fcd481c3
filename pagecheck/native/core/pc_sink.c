/* Writes and reads of a sink's file.
 *
 * Facts: a write may be short, be interrupted, or fail for want of room; past RLIMIT_FSIZE it also
 * raises SIGXFSZ, which Python ignores, and so does every worker. A write from a mapping whose file
 * was truncated fails with EFAULT: that says nothing about the sink.
 * Danger: a scan of a full disk that goes on; a batch that was abandoned and is written later on.
 * Decision: the first failure is kept where every worker looks before it writes, as is the
 * coordinator's word to stop. */
#include "pc_sink.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Never written; aligned for files that are open with O_DIRECT. */
static unsigned char zeros[PC_SINK_BYTES] __attribute__((aligned(PC_SINK_PIECE)));

static void advance(const pc_sink *sink)
{
    /* One writer, so load and store need not be one step. */
    uint64_t now = __atomic_load_n(sink->progress, __ATOMIC_RELAXED);
    __atomic_store_n(sink->progress, now + 1, __ATOMIC_RELAXED);
}

static bool is_stopped(const pc_sink *sink)
{
    return (__atomic_load_n(&sink->state->stopped, __ATOMIC_RELAXED) |
            __atomic_load_n(&sink->state->failure, __ATOMIC_RELAXED)) != 0;
}

/* Keeps the failure, unless there was one before. */
static void fail(const pc_sink *sink, uint64_t offset, int error)
{
    uint64_t none = 0;
    uint64_t piece = (sink->start + offset) / PC_SINK_PIECE;
    __atomic_compare_exchange_n(&sink->state->failure, &none,
                                piece << PC_SINK_ERROR_BITS | (uint64_t)error, false,
                                __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

/* As pc_sink_write, at most PC_SINK_BYTES. */
static size_t write_some(pc_sink *sink, uint64_t offset, const unsigned char *from, size_t bytes)
{
    size_t done = 0;
    while (done < bytes && !is_stopped(sink)) {
        ssize_t put =
            pwrite(sink->fd, from + done, bytes - done, (off_t)(sink->start + offset + done));
        if (put > 0) {
            done += (size_t)put;
        } else if (put == 0 || errno != EINTR) {
            if (put == 0 || errno != EFAULT)
                fail(sink, offset + done, put == 0 ? EIO : errno);
            break;
        }
    }
    __atomic_fetch_add(&sink->state->written, done, __ATOMIC_RELAXED);
    advance(sink);
    return done;
}

size_t pc_sink_write(pc_sink *sink, uint64_t offset, const unsigned char *from, size_t bytes)
{
    size_t done = 0;
    while (done < bytes) {
        size_t step = bytes - done < PC_SINK_BYTES ? bytes - done : PC_SINK_BYTES;
        size_t put = write_some(sink, offset + done, from + done, step);
        done += put;
        if (put < step)
            break;
    }
    return done;
}

size_t pc_sink_clear(pc_sink *sink, uint64_t offset, size_t bytes)
{
    return write_some(sink, offset, zeros, bytes);
}

uint64_t pc_sink_next_data(const pc_sink *sink, uint64_t offset, uint64_t end)
{
    if (!sink->holes)
        return offset;
    off_t data = lseek(sink->fd, (off_t)(sink->start + offset), SEEK_DATA);
    if (data < 0)
        return errno == ENXIO ? end : offset;
    uint64_t found = (uint64_t)data - sink->start;
    return found < end ? found : end;
}

uint64_t pc_sink_next_hole(const pc_sink *sink, uint64_t offset, uint64_t end)
{
    if (!sink->holes)
        return end;
    off_t hole = lseek(sink->fd, (off_t)(sink->start + offset), SEEK_HOLE);
    if (hole <= (off_t)(sink->start + offset)) /* there is none, or it came just now */
        return end;
    uint64_t found = (uint64_t)hole - sink->start;
    return found < end ? found : end;
}

bool pc_sink_read(pc_sink *sink, uint64_t offset, size_t bytes)
{
    size_t have = 0;
    while (have < bytes && !is_stopped(sink)) {
        ssize_t got =
            pread(sink->fd, sink->found + have, bytes - have, (off_t)(sink->start + offset + have));
        if (got < 0 && errno != EINTR) {
            fail(sink, offset + have, errno);
            return false;
        }
        if (got == 0) { /* past the end, where it will read as zeros */
            memset(sink->found + have, 0, bytes - have);
            got = (ssize_t)(bytes - have);
        }
        have += got > 0 ? (size_t)got : 0;
    }
    advance(sink);
    return have == bytes;
}

/* False: what was done stays for pc_sink_close. */
static bool open_and_map(const pc_sink_file *file, pc_sink *sink)
{
    sink->fd = fcntl(file->fd, F_DUPFD_CLOEXEC, 3);
    if (sink->fd < 0)
        return false;
    void *state =
        mmap(NULL, sizeof *sink->state, PROT_READ | PROT_WRITE, MAP_SHARED, file->state_fd, 0);
    if (state == MAP_FAILED)
        return false;
    sink->state = state;
    if (sink->update)
        sink->found = aligned_alloc(PC_SINK_PIECE, PC_SINK_BYTES);
    return !sink->update || sink->found != NULL;
}

pc_sink *pc_sink_open(const pc_sink_file *file, uint64_t *progress, pc_error *error)
{
    if (file->start % PC_SINK_PIECE != 0 || file->start > INT64_MAX) {
        pc_error_set(error, PC_ERROR_INVALID, "sink: its start is out of range or misaligned");
        error->offset = file->start;
        return NULL;
    }
    pc_sink *sink = calloc(1, sizeof *sink);
    if (sink != NULL) {
        *sink = (pc_sink){.fd = -1,
                          .start = file->start,
                          .update = file->update,
                          .holes = file->holes,
                          .progress = progress};
        if (open_and_map(file, sink))
            return sink;
    }
    pc_error_set(error, PC_ERROR_SYSTEM, "%s", "");
    if (sink != NULL)
        pc_sink_close(sink);
    return NULL;
}

void pc_sink_close(pc_sink *sink)
{
    if (sink->fd >= 0)
        close(sink->fd);
    if (sink->state != NULL)
        munmap(sink->state, sizeof *sink->state);
    free(sink->found);
    free(sink);
}
