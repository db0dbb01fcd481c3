/* A sink whose reads and writes go wrong where a test says so. */
#ifndef PC_TEST_SINK_FIXTURE_H
#define PC_TEST_SINK_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pc_sink.h"

static uint64_t sink_progress;

/* What becomes of the calls for the sink's descriptor: this program's come before the C library's.
 */
static struct {
    int fd;
    uint64_t writes, reads;
    uint64_t fail_at; /* this write, and from then on every one */
    uint64_t fail_read_at;
    int error;          /* of them; 0: they write nothing */
    uint64_t interrupt; /* every so many-th call is interrupted; 0: none */
    size_t most;        /* bytes of a call */
} calls;

static inline void reset_calls(int fd)
{
    memset(&calls, 0, sizeof calls);
    calls.fd = fd;
    calls.fail_at = calls.fail_read_at = UINT64_MAX;
    calls.most = SIZE_MAX;
}

static inline bool call_fails(uint64_t number, uint64_t fail_at)
{
    if (calls.interrupt != 0 && number % calls.interrupt == 0) {
        errno = EINTR;
        return true;
    }
    errno = calls.error;
    return number >= fail_at;
}

ssize_t pwrite(int fd, const void *from, size_t bytes, off_t offset)
{
    if (fd == calls.fd) {
        if (call_fails(++calls.writes, calls.fail_at))
            return errno == 0 ? 0 : -1;
        bytes = bytes < calls.most ? bytes : calls.most;
    }
    return syscall(SYS_pwrite64, fd, from, bytes, offset);
}

ssize_t pread(int fd, void *to, size_t bytes, off_t offset)
{
    if (fd == calls.fd) {
        if (call_fails(++calls.reads, calls.fail_read_at))
            return -1;
        bytes = bytes < calls.most ? bytes : calls.most;
    }
    return syscall(SYS_pread64, fd, to, bytes, offset);
}

/* A sink of a new memfd, or of `file`; its descriptor is the one that `calls` are about. */
static inline pc_sink *sink_open(int file, uint64_t start, bool update, bool holes)
{
    pc_error error;
    int state = memfd_create("state", MFD_CLOEXEC);
    if (state < 0 || ftruncate(state, (off_t)sizeof(struct pc_sink_state)) != 0)
        abort();
    const pc_sink_file what = {
        .fd = file, .state_fd = state, .start = start, .update = update, .holes = holes};
    pc_sink *sink = pc_sink_open(&what, &sink_progress, &error);
    if (sink == NULL)
        abort();
    close(state);
    reset_calls(sink->fd);
    return sink;
}

static inline int sink_errno(const pc_sink *sink)
{
    return (int)(sink->state->failure & ((1u << PC_SINK_ERROR_BITS) - 1));
}

static inline uint64_t sink_place(const pc_sink *sink)
{
    return sink->state->failure >> PC_SINK_ERROR_BITS;
}

#endif
