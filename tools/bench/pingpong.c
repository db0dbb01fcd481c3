/* The bare floor of a channel: a semaphore ping-pong between two processes.
 *
 * Reads lines "ROUNDS PACE_NS" and answers each with ROUNDS round-trip times in nanoseconds on one
 * line; before each round it sleeps PACE_NS, so that both sides are asleep as in an idle channel.
 */
#include <errno.h>
#include <inttypes.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

int main(void)
{
    sem_t *pair = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (pair == MAP_FAILED || sem_init(&pair[0], 1, 0) != 0 || sem_init(&pair[1], 1, 0) != 0)
        return 1;
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) {
            sem_wait(&pair[0]);
            sem_post(&pair[1]);
        }
    }
    int rounds;
    long pace_ns;
    while (scanf("%d %ld", &rounds, &pace_ns) == 2) {
        struct timespec pace = {.tv_sec = 0, .tv_nsec = pace_ns};
        for (int i = 0; i < rounds; i++) {
            nanosleep(&pace, NULL);
            int64_t start = now_ns();
            sem_post(&pair[0]);
            sem_wait(&pair[1]);
            printf("%" PRId64 " ", now_ns() - start);
        }
        printf("\n");
        fflush(stdout);
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return 0;
}
