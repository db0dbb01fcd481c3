/* From records to bits. Nothing here submits, and nothing here ends a queue. */
#ifndef PC_DSA_SETTLE_H
#define PC_DSA_SETTLE_H

#include "pc_dsa_flight.h"

/* Waits for the oldest flight and makes bits of its records. What has to be submitted again is put
 * on the queue's list `ready`, what the CPU has to decide is put back into its task. False: the
 * queue has to be abandoned, for the reason in `end`; a flight that the device may still hold stays
 * in its list. */
bool pc_flight_settle_oldest(pc_dsa *dsa, pc_queue_end *end);
/* Makes bits of what records there are; all other pages are put back. The task no longer waits for
 * the flight, which stays in its list. */
void pc_flight_abandon(pc_dsa *dsa, pc_flight *flight);
/* Whether each record that the flight must have is there. */
bool pc_flight_is_done(const pc_flight *flight);

#endif
