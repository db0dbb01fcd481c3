/* pagecheck for VMM authors: asks `pagecheck serve` which pages of a batch are zero.
 *
 * Five headers for C11 and C++11 on 64-bit Linux, this one and the four that it includes; they need
 * nothing else, so copy them into your tree. Compile C with -D_GNU_SOURCE or -D_DEFAULT_SOURCE.
 * Set-up uses a Unix socket; a batch then costs stores into shared memory, and a system call only
 * where the other side sleeps:
 *
 *     pagecheck_client client;
 *     pagecheck_channel channel; // one per sender thread
 *     pagecheck_channel_options options = {16, 128, 0};
 *     uint64_t zero[2], decided[2], ticket; // (128 + 63) / 64 words
 *     int64_t soon = pagecheck_now_ns() + 1000000000;
 *     uint32_t block;
 *     if (pagecheck_connect("/run/pagecheck.sock", soon, &client) != 0 ||
 *         pagecheck_attach(&client, "pc.ram", ram_fd, 4096, NULL, 0, soon, &block) != 0 ||
 *         pagecheck_open_channel(&client, &options, soon, &channel) != 0)
 *         return check_myself(client.error);
 *     // For each packet; up to 16 may be in progress.
 *     int code = pagecheck_submit(&channel, block, offsets, 128, &ticket);
 *     if (code == 0)
 *         code = pagecheck_wait(&channel, ticket, pagecheck_now_ns() + 100000000, zero, decided);
 *     if (code == -ETIMEDOUT)
 *         pagecheck_forget(&channel, ticket); // a ticket that is lost holds its slot for ever
 *     if (code != 0)
 *         check_myself(channel.error);
 *     else
 *         normal = pagecheck_partition(offsets, zero, decided, 128, sorted);
 *     // sorted[0 .. normal - 1] are sent in full, the others as zero.
 *     pagecheck_close_channel(&client, &channel, soon);
 *     pagecheck_disconnect(&client);
 *
 * Danger: a page wrongly called zero loses a guest's memory.
 * - Only a zero bit means zero. Neither bit means undecided: treat such pages as normal.
 * - While the guest runs an answer is a hint: the page may have been written since. Read the dirty
 *   bitmap after the answer, as after a check of your own.
 * - The service can vanish at any time. Every call returns 0 or a negative errno; after a failure
 *   no page is zero and the VMM checks for itself.
 *
 * Threads: a client is used by one thread at a time, and so is a channel; channels are independent
 * of each other and, but for opening and closing, of the client. No thread or signal is used here.
 *
 * fork: clients and channels belong to the process that made them. In its child every call on them
 * fails with -ECHILD and changes nothing; closing them there releases the child's copies and
 * does not affect the parent's. Until a child closes its copies the service does not notice the
 * parent's death. (Before Linux 4.14 this costs every call a getpid.) A zeroed structure counts as
 * closed.
 *
 * Times: deadlines are absolute CLOCK_MONOTONIC nanoseconds; to pagecheck_wait 0 means: only poll.
 *
 * Versions: pagecheck_connect fails with -EPROTONOSUPPORT, naming both sides' versions, unless the
 * service supports PAGECHECK_PROTOCOL and, among others, the layout PAGECHECK_LAYOUT_VERSION.
 * Either number increases with every change that is incompatible with an older header;
 * docs/vmm-authors.md says what stays compatible. Names in pgck_ and PGCK_ are internal.
 */
#ifndef PAGECHECK_H
#define PAGECHECK_H

#include "pagecheck_ring.h"
#include "pagecheck_channel.h"
#include "pagecheck_wire.h"
#include "pagecheck_client.h"

#endif
