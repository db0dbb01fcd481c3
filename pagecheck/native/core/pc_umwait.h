/* Sleeping on the cache line of a completion record. Only on x86-64, and only where
 * pc_umwait_why_not() returns NULL. */
#ifndef PC_UMWAIT_H
#define PC_UMWAIT_H

#include <stdbool.h>
#include <stdint.h>

#if defined(__x86_64__)

/* The time stamp counter, in the unit of `tsc_deadline`. */
uint64_t pc_tsc_now(void);

/* Waits until the status byte is no longer `current` or the counter reaches `tsc_deadline`. True:
 * it is no longer `current`, and what the device wrote before it may be read. False says nothing:
 * the deadline, the system's own limit (/sys/devices/system/cpu/umwait_control/max_time), an
 * interrupt, or a write beside the byte. */
bool pc_umwait(const volatile uint8_t *status, uint8_t current, uint64_t tsc_deadline);

#endif

#endif
