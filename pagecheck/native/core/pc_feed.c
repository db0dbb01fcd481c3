/* Feeding one ring. Only the thread that leased the channel calls these functions. */
#include "pc_feed.h"

#include <stdlib.h>
#include <string.h>

#include "pc_bits.h"

/* A sleep and the wake-up from it cost about as much as that, and leave the caches cold. */
#define FINISH_SPIN_NS 15000
/* Where looking was in vain, as where the worker waits for this CPU, the next 3 checks sleep at
 * once, then the next 15, 63, 255; a success halves that. */
#define FINISH_PAUSE_MAX 255u

bool pc_feed_init(const pc_ring *ring, pc_feed *feed)
{
    memset(feed, 0, sizeof *feed);
    feed->ring = *ring;
    feed->in_progress = calloc(ring->shared.slots, sizeof *feed->in_progress);
    feed->resubmit = calloc(ring->shared.slots, sizeof *feed->resubmit);
    feed->words = calloc(ring->shared.slot_pages / 64u * 2u, sizeof *feed->words);
    feed->listed = calloc(ring->shared.slot_pages, sizeof *feed->listed);
    return feed->in_progress != NULL && feed->resubmit != NULL && feed->words != NULL &&
           feed->listed != NULL;
}

void pc_feed_deinit(pc_feed *feed)
{
    free(feed->in_progress);
    free(feed->resubmit);
    free(feed->words);
    free(feed->listed);
    pc_ring_close(&feed->ring);
    memset(feed, 0, sizeof *feed);
}

void pc_feed_begin(pc_feed *feed, const pc_job *job)
{
    feed->job = *job;
    feed->next = feed->end = 0;
    feed->resubmit_count = feed->resubmit_next = 0;
    feed->pages_decided = feed->pages_undecided = 0;
}

/* What is left begins at a page that is asked for, so that next < end says that there is one. */
static void pass_skipped(pc_feed *feed)
{
    pc_bits_run run;
    if (feed->job.skip == NULL)
        return;
    bool some = pc_bits_next_zeros(feed->job.skip, feed->next, feed->end, 1, &run);
    feed->next = some ? run.first : feed->end;
}

void pc_feed_more(pc_feed *feed, uint64_t position, uint64_t count)
{
    feed->next = position;
    feed->end = position + count;
    pass_skipped(feed);
}

uint64_t pc_feed_outstanding(const pc_feed *feed)
{
    uint64_t done = feed->collected > feed->discard ? feed->collected : feed->discard;
    return feed->submitted - done;
}

/* Slots that the worker has not answered yet, an abandoned job's included. */
static uint64_t occupied(const pc_feed *feed)
{
    return feed->submitted - feed->collected;
}

/* As many pages as a batch may have, and the skipped ones between them. */
static void take_between(pc_feed *feed, pc_batch_span *batch)
{
    pc_bits_run run = {.end = feed->next};
    batch->count = 0;
    while (pc_bits_next_zeros(feed->job.skip, run.end, feed->end,
                              feed->job.batch_pages - batch->count, &run))
        batch->count += (uint32_t)(run.end - run.first);
    batch->span = run.end - batch->position;
    feed->next = run.end;
    pass_skipped(feed);
}

/* Takes the next batch to submit; false: there is none. */
static bool take(pc_feed *feed, pc_batch_span *batch)
{
    if (feed->resubmit_next < feed->resubmit_count) {
        *batch = feed->resubmit[feed->resubmit_next++];
        return true;
    }
    if (feed->next == feed->end)
        return false;
    batch->position = feed->next;
    if (feed->job.skip != NULL) {
        take_between(feed, batch);
        return true;
    }
    uint64_t left = feed->end - feed->next;
    batch->count = left < feed->job.batch_pages ? (uint32_t)left : feed->job.batch_pages;
    batch->span = batch->count;
    feed->next += batch->count;
    return true;
}

/* The batch's pages one by one, as byte offsets. */
static const uint64_t *list_pages(pc_feed *feed, const pc_batch_span *batch)
{
    uint32_t listed = 0;
    uint64_t end = batch->position + batch->span;
    pc_bits_run run = {.end = batch->position};
    while (pc_bits_next_zeros(feed->job.skip, run.end, end, batch->count - listed, &run))
        for (uint64_t page = run.first; page < run.end; page++)
            feed->listed[listed++] = page * feed->job.page_bytes;
    return feed->listed;
}

static void submit(pc_feed *feed, const pc_batch_span *batch)
{
    uint64_t sequence = ++feed->submitted;
    const uint64_t *offsets = NULL;
    if (feed->job.offsets != NULL)
        offsets = feed->job.offsets + batch->position;
    else if (batch->count != batch->span)
        offsets = list_pages(feed, batch);
    feed->in_progress[sequence % feed->ring.shared.slots] = *batch;
    pgck_ring_submit(&feed->ring.shared, sequence, feed->job.block, batch->position, offsets,
                     batch->count);
}

void pc_feed_submit(pc_feed *feed)
{
    pc_batch_span batch;
    while (occupied(feed) < feed->ring.shared.slots && take(feed, &batch))
        submit(feed, &batch);
}

/* Publishes the answer's bits from bit `at` on for the consecutive pages of `run`. */
static void publish_run(const pc_job *job, pc_bits_run run, uint32_t at, const uint64_t *zero,
                        const uint64_t *decided)
{
    while (run.first < run.end) {
        uint32_t n = run.end - run.first < 64 ? (uint32_t)(run.end - run.first) : 64;
        uint64_t z = pc_bits_get(zero, at, n);
        pc_bits_or_shared(job->zero_bits, run.first, z, n);
        pc_bits_or_shared(job->normal_bits, run.first, pc_bits_get(decided, at, n) & ~z, n);
        run.first += n;
        at += n;
    }
}

static void publish_bits(pc_feed *feed, const pc_batch_span *batch, const uint64_t *zero,
                         const uint64_t *decided)
{
    uint64_t end = batch->position + batch->span;
    if (batch->count == batch->span) {
        publish_run(&feed->job, (pc_bits_run){batch->position, end}, 0, zero, decided);
        return;
    }
    uint32_t at = 0;
    pc_bits_run run = {.end = batch->position};
    while (pc_bits_next_zeros(feed->job.skip, run.end, end, batch->count - at, &run)) {
        publish_run(&feed->job, run, at, zero, decided);
        at += (uint32_t)(run.end - run.first);
    }
}

static void publish_bytes(pc_feed *feed, const pc_batch_span *batch, const uint64_t *zero,
                          const uint64_t *decided)
{
    pc_bits_to_bytes(zero, batch->count, feed->job.zero_bytes + batch->position);
    pc_bits_to_bytes(decided, batch->count, feed->job.decided_bytes + batch->position);
}

typedef enum collected { NOT_YET, COLLECTED, BROKEN } collected;

static collected collect(pc_feed *feed)
{
    uint64_t sequence = feed->collected + 1;
    if (sequence > feed->submitted)
        return NOT_YET;
    pgck_answer answer = pgck_ring_look(&feed->ring.shared, sequence);
    if (answer == PGCK_ANSWER_NONE)
        return NOT_YET;
    if (answer != PGCK_ANSWER_INVALID && sequence <= feed->discard) {
        feed->collected = sequence;
        return COLLECTED;
    }
    const pc_batch_span batch = feed->in_progress[sequence % feed->ring.shared.slots];
    uint64_t *zero = feed->words;
    uint64_t *decided = feed->words + feed->ring.shared.slot_pages / 64u;
    if (answer != PGCK_ANSWER_DONE ||
        !pgck_ring_copy(&feed->ring.shared, sequence, batch.count, zero, decided))
        return BROKEN;
    if (feed->job.offsets == NULL)
        publish_bits(feed, &batch, zero, decided);
    else
        publish_bytes(feed, &batch, zero, decided);
    uint64_t decided_pages = pc_bits_count(decided, batch.count);
    feed->pages_decided += decided_pages;
    feed->pages_undecided += batch.count - decided_pages;
    feed->collected = sequence;
    return COLLECTED;
}

/* Waits until the batch is answered, or longer than that never; 0 or a negative errno. */
static int wait_for(const pc_feed *feed, uint64_t sequence, int64_t deadline_ns)
{
    if (feed->spin_ns > 0) {
        int64_t until_ns = pagecheck_now_ns() + feed->spin_ns;
        if (until_ns > deadline_ns)
            until_ns = deadline_ns;
        if (pgck_ring_spin(&feed->ring.shared, sequence, until_ns))
            return 0;
    }
    return pgck_ring_sleep(&feed->ring.shared, sequence, deadline_ns);
}

pc_pump pc_feed_pump(pc_feed *feed, bool more_follow, int64_t deadline_ns)
{
    uint32_t half = feed->ring.shared.slots / 2;
    bool late = false;
    for (;;) {
        collected got;
        while ((got = collect(feed)) == COLLECTED) {
        }
        if (got == BROKEN)
            return PC_PUMP_BROKEN;
        pc_feed_submit(feed);
        uint64_t outstanding = pc_feed_outstanding(feed);
        bool all_submitted = feed->next == feed->end && feed->resubmit_next == feed->resubmit_count;
        if (all_submitted && outstanding == 0)
            return more_follow ? PC_PUMP_NEED_MORE : PC_PUMP_DONE;
        if (all_submitted && more_follow && outstanding <= half)
            return PC_PUMP_NEED_MORE;
        if (pgck_ring_gone(&feed->ring.shared))
            return PC_PUMP_GONE;
        if (late)
            return PC_PUMP_TIMEOUT;
        /* Wake when half of the ring is free, so that one wake-up pays for several batches; at
         * the end of the job wake for the last one. */
        uint64_t target = feed->submitted;
        if ((more_follow || !all_submitted) && occupied(feed) > half)
            target = feed->submitted - half;
        switch (wait_for(feed, target, deadline_ns)) {
        case 0: /* a worker that answers another batch, or only ever wakes, must not hold us */
            late = pagecheck_now_ns() >= deadline_ns;
            break;
        case -ETIMEDOUT:
            late = true; /* the ring is read once more */
            break;
        case -EINTR:
            return PC_PUMP_INTERRUPTED;
        default: /* errno says why */
            return PC_PUMP_FAILED;
        }
    }
}

/* Whether the answers came while it looked for them, for a moment. */
static bool spin_shortly(const pc_feed *feed, int64_t deadline_ns)
{
    int64_t until_ns = pagecheck_now_ns() + FINISH_SPIN_NS;
    return pgck_ring_spin(&feed->ring.shared, feed->submitted,
                          until_ns < deadline_ns ? until_ns : deadline_ns);
}

pc_pump pc_feed_finish(pc_feed *feed, int64_t deadline_ns)
{
    if (feed->spin_skip > 0) {
        feed->spin_skip--;
    } else if (spin_shortly(feed, deadline_ns)) {
        feed->spin_pause /= 2;
    } else {
        uint32_t pause = 4 * feed->spin_pause + 3;
        feed->spin_skip = feed->spin_pause = pause < FINISH_PAUSE_MAX ? pause : FINISH_PAUSE_MAX;
    }
    return pc_feed_pump(feed, false, deadline_ns);
}

bool pc_feed_oldest(const pc_feed *feed, pc_batch_span *oldest)
{
    if (feed->collected < feed->discard || pc_feed_outstanding(feed) == 0)
        return false;
    *oldest = feed->in_progress[(feed->collected + 1) % feed->ring.shared.slots];
    return true;
}

void pc_feed_skip_oldest(pc_feed *feed)
{
    if (feed->resubmit_next < feed->resubmit_count)
        feed->pages_undecided += feed->resubmit[feed->resubmit_next++].count;
}

void pc_feed_abandon(pc_feed *feed)
{
    pc_batch_span batch;
    for (uint64_t i = feed->submitted - pc_feed_outstanding(feed); i < feed->submitted; i++)
        feed->pages_undecided += feed->in_progress[(i + 1) % feed->ring.shared.slots].count;
    feed->discard = feed->submitted;
    while (take(feed, &batch))
        feed->pages_undecided += batch.count;
}

void pc_feed_rebind(pc_feed *feed, const pc_ring *ring)
{
    /* Together they never exceed the ring: what waits was in progress before. */
    uint32_t left_count = (uint32_t)pc_feed_outstanding(feed);
    uint32_t waiting_count = feed->resubmit_count - feed->resubmit_next;
    memmove(feed->resubmit + left_count, feed->resubmit + feed->resubmit_next,
            waiting_count * sizeof *feed->resubmit);
    for (uint32_t i = 0; i < left_count; i++)
        feed->resubmit[i] =
            feed->in_progress[(feed->submitted - left_count + 1 + i) % feed->ring.shared.slots];
    feed->resubmit_next = 0;
    feed->resubmit_count = left_count + waiting_count;
    pc_ring_close(&feed->ring);
    feed->ring = *ring;
    feed->submitted = feed->collected = feed->discard = 0;
}
