/* Spin for a moment, sleep until shortly before the answer is due, then look in short sleeps.
 *
 * Facts: a device has no way to wake a process (no interrupt, no eventfd, poll() tells only of
 * errors). A packet of 128 pages takes it some 20 microseconds, a queue full of them milliseconds.
 * A short sleep costs about 5 microseconds of CPU, and the timer is exact to about as much once
 * the thread's timer slack is small. umwait saves power and leaves the core to its sibling, but
 * the scheduler counts it as busy and gives nobody else the CPU: it takes the place of the spin,
 * not of the sleeps. */
#include "pc_dsa_wait.h"

#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "pc_portal.h"
#include "pc_ring.h"
#include "pc_umwait.h"

#define SPIN_NS 3000
#define SLEEP_MIN_NS 8000    /* shorter sleeps cost more than they leave */
#define SLEEP_MAX_NS 1000000 /* between two looks */
#define SLACK_NS 1000

#if defined(__x86_64__)
static void measure_ticks(pc_pace *pace)
{
    int64_t begin = pc_clock_now_ns();
    uint64_t ticks = pc_tsc_now();
    int64_t end;
    do
        end = pc_clock_now_ns();
    while (end - begin < 100000);
    pace->ticks_per_ns = (double)(pc_tsc_now() - ticks) / (double)(end - begin);
}
#endif

void pc_pace_init(pc_pace *pace)
{
    memset(pace, 0, sizeof *pace);
#if defined(__x86_64__)
    pace->umwait = pc_umwait_why_not() == NULL;
    if (pace->umwait)
        measure_ticks(pace);
#endif
    prctl(PR_SET_TIMERSLACK, SLACK_NS, 0, 0, 0); /* of this thread only */
}

static bool arrived(const volatile uint8_t *status)
{
    /* acquire: the rest of the record was written before its status */
    return __atomic_load_n(status, __ATOMIC_ACQUIRE) != 0;
}

/* A few hundred nanoseconds at most, without loading the sibling thread or the memory. */
static void relax(const pc_pace *pace, const volatile uint8_t *status, int64_t left_ns)
{
#if defined(__x86_64__)
    if (pace->umwait) {
        uint64_t ticks = (uint64_t)((double)left_ns * pace->ticks_per_ns);
        pc_umwait(status, 0, pc_tsc_now() + ticks);
        return;
    }
    for (int i = 0; i < 8; i++)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
    for (int i = 0; i < 8; i++)
        __asm__ volatile("yield");
#endif
    (void)pace, (void)status, (void)left_ns;
}

static bool spin(const pc_pace *pace, const volatile uint8_t *status, int64_t until_ns)
{
    while (!arrived(status)) {
        int64_t left = until_ns - pc_clock_now_ns();
        if (left <= 0)
            return false;
        relax(pace, status, left);
    }
    return true;
}

static void sleep_until(int64_t time_ns)
{
    struct timespec until = {.tv_sec = time_ns / 1000000000, .tv_nsec = time_ns % 1000000000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL); /* a signal only ends it early */
}

/* A first look after the sleep that finds the answer may have come much too late: expect less. */
static void learn(pc_pace *pace, int64_t took_ns, bool at_first_look)
{
    if (at_first_look)
        pace->expected_ns -= pace->expected_ns / 8;
    else
        pace->expected_ns += (took_ns - pace->expected_ns) / 4;
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

bool pc_pace_wait(pc_pace *pace, const volatile uint8_t *status, int64_t submitted_ns,
                  int64_t deadline_ns)
{
    if (arrived(status))
        return true;
    bool slept = false;
    int64_t due = submitted_ns + pace->expected_ns;
    int64_t now = pc_clock_now_ns();
    if (due - now > SLEEP_MIN_NS) {
        sleep_until(earlier(due - SPIN_NS, deadline_ns));
        slept = true;
        if (arrived(status)) {
            learn(pace, 0, true);
            return true;
        }
        now = pc_clock_now_ns();
    }
    bool done = spin(pace, status, earlier(now + SPIN_NS, deadline_ns));
    for (int64_t step = pace->expected_ns / 16; !done; step += step / 2) {
        if (step < SLEEP_MIN_NS)
            step = SLEEP_MIN_NS;
        if (step > SLEEP_MAX_NS)
            step = SLEEP_MAX_NS;
        now = pc_clock_now_ns();
        if (now >= deadline_ns)
            return arrived(status);
        sleep_until(earlier(now + step, deadline_ns));
        slept = true;
        done = arrived(status);
    }
    if (slept || pace->expected_ns > 0)
        learn(pace, pc_clock_now_ns() - submitted_ns, false);
    return true;
}
