/* The bare floor of a look at another process's memory: process_vm_readv, and nothing done with it.
 *
 * Reads lines "PID ADDRESS BYTES BUFFER THREADS": so many threads copy the range, each into a
 * buffer of its own of BUFFER bytes, taking turns of 2 MiB; answers with the nanoseconds that it
 * took, and those of CPU time.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { TURN = 2 << 20, MOST_THREADS = 64 };

static struct {
    pid_t pid;
    uintptr_t address;
    size_t bytes;
    size_t buffer_bytes;
    void *buffers[MOST_THREADS];
    atomic_size_t next; /* the first byte that no thread has taken */
    atomic_bool failed;
} job;

static int64_t now_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void *copy(void *buffer)
{
    size_t turn;
    while ((turn = atomic_fetch_add_explicit(&job.next, TURN, memory_order_relaxed)) < job.bytes) {
        size_t end = turn + TURN < job.bytes ? turn + TURN : job.bytes;
        for (size_t at = turn; at < end; at += job.buffer_bytes) {
            size_t want = end - at < job.buffer_bytes ? end - at : job.buffer_bytes;
            struct iovec ours = {buffer, want}, theirs = {(void *)(job.address + at), want};
            if (process_vm_readv(job.pid, &ours, 1, &theirs, 1, 0) != (ssize_t)want)
                job.failed = true;
        }
    }
    return NULL;
}

static void copy_all(unsigned threads)
{
    pthread_t ids[MOST_THREADS];
    job.next = 0;
    for (unsigned i = 0; i < threads; i++)
        if (pthread_create(&ids[i], NULL, copy, job.buffers[i]) != 0)
            abort();
    for (unsigned i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
}

int main(void)
{
    unsigned threads;
    while (scanf("%d %" SCNuPTR " %zu %zu %u", &job.pid, &job.address, &job.bytes,
                 &job.buffer_bytes, &threads) == 5) {
        if (threads > MOST_THREADS)
            return 2;
        for (unsigned i = 0; i < threads; i++) {
            job.buffers[i] = aligned_alloc(4096, job.buffer_bytes);
            if (job.buffers[i] == NULL)
                return 1;
            memset(job.buffers[i], 1, job.buffer_bytes); /* its pages are there */
        }
        int64_t start = now_ns(CLOCK_MONOTONIC), cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID);
        copy_all(threads);
        int64_t end = now_ns(CLOCK_MONOTONIC);
        cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        for (unsigned i = 0; i < threads; i++)
            free(job.buffers[i]);
        if (job.failed)
            return 1;
        printf("%" PRId64 " %" PRId64 "\n", end - start, cpu);
        fflush(stdout);
    }
    return 0;
}
