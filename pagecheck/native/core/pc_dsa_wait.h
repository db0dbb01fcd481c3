/* Waiting for a completion record without burning a core. */
#ifndef PC_DSA_WAIT_H
#define PC_DSA_WAIT_H

#include <stdbool.h>
#include <stdint.h>

/* What recent waits have taught. */
typedef struct pc_pace {
    int64_t expected_ns; /* from submission to completion */
    bool umwait;         /* this CPU has it */
    double ticks_per_ns; /* of the time-stamp counter, for umwait */
} pc_pace;

void pc_pace_init(pc_pace *pace);

/* Waits until the record's status is not 0. False: the absolute time passed first. */
bool pc_pace_wait(pc_pace *pace, const volatile uint8_t *status, int64_t submitted_ns,
                  int64_t deadline_ns);

#endif
