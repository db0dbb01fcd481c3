/* The queue and the three ways into it (3.3): ENQCMD, MOVDIR64B, and the kernel's write(2).
 *
 * An entry is occupied from its acceptance until its operation is over, but for its record; a batch
 * occupies one. Queued descriptors are executed in any order (3.9).
 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "dsa_model_faults.h"
#include "dsa_model_fence.h"
#include "dsa_model_queue.h"

enum {
    OVERTAKEN_MOST = 2 * DSA_MAX_ENTRIES, /* unordered, but nobody starves */
    FULL_MOST = 2000,
    BACK_MIN_MS = 5,
    BACK_MOST_MS = 50,
    OTHERS_MOST_NS = 20000000,
    BEHIND_SHORT_NS = 500000,
    BEHIND_LONG_NS = 300000000,
};

/* ---- what is executed next ---- */

static bool first_in_line(const dsa_model *model, uint64_t number)
{
    for (uint32_t i = 0; i < model->options.size; i++)
        if (model->entries[i].state != DSA_ENTRY_FREE && model->entries[i].number < number)
            return false;
    return true;
}

/* The smallest rank goes first. It is drawn per descriptor, not per choice, so that a seed means
 * the same order however the submissions are spread over time. */
static uint64_t rank(const dsa_model *model, const dsa_entry *entry)
{
    dsa_random random = dsa_random_stream(model->options.seed, DSA_STREAM_ORDER, entry->number);

    if (model->counts.submitted - entry->number > OVERTAKEN_MOST)
        return 0;
    return dsa_draw(&random);
}

dsa_entry *dsa_queue_pick(dsa_model *model, bool ignore_delay, uint64_t *next_ns)
{
    uint64_t now = dsa_now_ns(), best_rank = UINT64_MAX;
    dsa_entry *best = NULL;

    *next_ns = UINT64_MAX;
    for (uint32_t i = 0; i < model->options.size; i++) {
        dsa_entry *entry = &model->entries[i];
        bool now_or_never = ignore_delay && entry->state == DSA_ENTRY_QUEUED;
        uint64_t own;
        if (entry->state != DSA_ENTRY_QUEUED && entry->state != DSA_ENTRY_HELD)
            continue;
        /* 8.3.3: a drain waits for all that was submitted before it */
        if (entry->state == DSA_ENTRY_QUEUED && dsa_opcode_of(&entry->descriptor) == DSA_DRAIN &&
            !first_in_line(model, entry->number))
            continue;
        if (entry->due_ns > now && !now_or_never) {
            if (entry->due_ns < *next_ns)
                *next_ns = entry->due_ns;
            continue;
        }
        own = rank(model, entry);
        if (best == NULL || own < best_rank) {
            best = entry;
            best_rank = own;
        }
    }
    if (best != NULL)
        best->state = DSA_ENTRY_RUNNING;
    return best;
}

void dsa_queue_release(dsa_model *model, dsa_entry *entry)
{
    entry->state = DSA_ENTRY_FREE;
    dsa_view_drop(&entry->view);
    model->occupied--;
    pthread_cond_broadcast(&model->freed);
    pthread_cond_broadcast(&model->wake); /* a drain may be next, or the end */
}

/* ---- enabled or not ---- */

/* What runs is finished; what waits is lost, one record for each that wanted one. The kernel drains
 * a queue that an administrator disables; a device that was reset under its users does not. */
static void queue_disable(dsa_model *model, uint64_t back_ns)
{
    model->enabled = false;
    model->back_ns = back_ns;
    for (uint32_t i = 0; i < model->options.size; i++) {
        dsa_entry *entry = &model->entries[i];
        if (entry->state != DSA_ENTRY_QUEUED && entry->state != DSA_ENTRY_HELD)
            continue;
        if (entry->executed ? entry->answer.wanted
                            : (entry->descriptor.flags & DSA_RECORD_VALID) != 0)
            model->counts.lost++;
        dsa_queue_release(model, entry);
    }
}

void dsa_model_disable(dsa_model *model)
{
    pthread_mutex_lock(&model->lock);
    queue_disable(model, 0);
    pthread_mutex_unlock(&model->lock);
}

void dsa_model_enable(dsa_model *model)
{
    const dsa_plan *plan = &model->plan;

    pthread_mutex_lock(&model->lock);
    /* What the plan took away for ever stays away. */
    if (plan->one_in[DSA_FAULT_DISABLE_FOREVER] == 0 || plan->left[DSA_FAULT_DISABLE_FOREVER] != 0)
        model->enabled = true;
    pthread_mutex_unlock(&model->lock);
}

static bool is_enabled(dsa_model *model)
{
    if (!model->enabled && model->back_ns != 0 && dsa_now_ns() >= model->back_ns) {
        model->enabled = true;
        model->back_ns = 0;
    }
    return model->enabled;
}

bool dsa_model_enabled(dsa_model *model)
{
    bool enabled;

    pthread_mutex_lock(&model->lock);
    enabled = is_enabled(model);
    pthread_mutex_unlock(&model->lock);
    return enabled;
}

static void perhaps_disable(dsa_model *model, dsa_random *random)
{
    dsa_plan *plan = &model->plan;

    if (model->counts.submitted != plan->disable_at)
        return;
    if (dsa_plan_hits(model, DSA_FAULT_DISABLE_FOREVER, random)) {
        queue_disable(model, 0);
    } else if (dsa_plan_hits(model, DSA_FAULT_DISABLE, random)) {
        uint64_t ms = BACK_MIN_MS + dsa_draw_below(random, BACK_MOST_MS - BACK_MIN_MS + 1);
        queue_disable(model, dsa_now_ns() + ms * 1000000);
        plan->disable_at += 1 + dsa_draw_below(random, 64);
    }
}

/* ---- submission ---- */

static dsa_random next_submission(dsa_model *model)
{
    return dsa_random_stream(model->options.seed, DSA_STREAM_SUBMIT, model->submissions++);
}

/* What another submitter's descriptors, which are before ours, still take the device. */
static uint64_t behind_others(dsa_model *model, dsa_random *random)
{
    uint64_t most_ns = dsa_draw_below(random, 256) == 0 ? BEHIND_LONG_NS : BEHIND_SHORT_NS;

    return dsa_draw_below(random, model->others * most_ns / model->options.size + 1);
}

/* Entries of a shared queue that somebody else has; all of them for a while, then fewer. */
static uint32_t occupied_by_others(dsa_model *model, dsa_random *random)
{
    uint64_t now = dsa_now_ns();
    uint32_t most = model->options.threshold;

    if (model->plan.one_in[DSA_FAULT_NEIGHBOUR] == 0)
        return 0;
    if (now >= model->others_until_ns) {
        model->counts.faults++;
        model->others = dsa_draw(random) & 1 ? (uint32_t)dsa_draw_below(random, most + 1) : most;
        model->others_until_ns = now + 1 + dsa_draw_below(random, OTHERS_MOST_NS);
    }
    return model->others;
}

static void accept(dsa_model *model, const dsa_descriptor *descriptor, dsa_random *random)
{
    dsa_entry *entry = model->entries;

    while (entry->state != DSA_ENTRY_FREE)
        entry++;
    entry->state = DSA_ENTRY_QUEUED;
    entry->executed = false;
    entry->number = model->counts.submitted++;
    entry->due_ns = dsa_now_ns() + model->options.delay_ns;
    entry->descriptor = *descriptor;
    if (model->plan.one_in[DSA_FAULT_STORE_ORDER] != 0)
        dsa_view_take(model, descriptor, &entry->view);
    if (model->others != 0)
        entry->due_ns += behind_others(model, random);
    model->occupied++;
    pthread_cond_signal(&model->wake);
    perhaps_disable(model, random);
}

/* A stretch in which the queue looks full. */
static bool plan_says_full(dsa_model *model, dsa_random *random)
{
    if (model->plan.full_for > 0) {
        model->plan.full_for--;
        model->counts.faults++;
        return true;
    }
    if (dsa_plan_hits(model, DSA_FAULT_ALWAYS_FULL, random))
        return true;
    if (!dsa_plan_hits(model, DSA_FAULT_FULL, random))
        return false;
    model->plan.full_for = dsa_draw_below(random, FULL_MOST);
    return true;
}

/* True: Retry (3.3). */
static bool enqueue(dsa_model *model, const dsa_descriptor *descriptor, dsa_random *random)
{
    if (!is_enabled(model) || model->options.mode == DSA_MODEL_DEDICATED ||
        plan_says_full(model, random) ||
        model->occupied + occupied_by_others(model, random) >= model->options.threshold) {
        model->counts.retried++;
        return true;
    }
    accept(model, descriptor, random);
    return false;
}

/* Posted: to a queue that is full, disabled or shared it is lost silently (3.3). The plans
 * that simulate a full queue leave this alone: a submitter that counts its credits would learn of
 * nothing, and each loss would only be one more lost record. */
static void post(dsa_model *model, const dsa_descriptor *descriptor, dsa_random *random)
{
    if (!is_enabled(model) || model->options.mode != DSA_MODEL_DEDICATED ||
        model->occupied >= model->options.size)
        model->counts.dropped++;
    else
        accept(model, descriptor, random);
}

bool dsa_model_enqcmd(dsa_model *model, const void *bytes)
{
    dsa_descriptor descriptor;
    dsa_random random;
    bool retry = true;

    memcpy(&descriptor, bytes, sizeof(descriptor));
    if (descriptor.pasid != 0) { /* SDM: these bits come from IA32_PASID, those here must be 0 */
        dsa_count(model, &model->counts.errors, 1);
        raise(SIGSEGV);
        return true;
    }
    pthread_mutex_lock(&model->lock);
    random = next_submission(model);
    /* Behind write(2) there is no portal to send it to. */
    if (model->options.mode == DSA_MODEL_WRITE)
        model->counts.retried++;
    else
        retry = enqueue(model, &descriptor, &random);
    pthread_mutex_unlock(&model->lock);
    return retry;
}

void dsa_model_movdir64b(dsa_model *model, const void *bytes)
{
    dsa_descriptor descriptor;
    dsa_random random;

    memcpy(&descriptor, bytes, sizeof(descriptor));
    pthread_mutex_lock(&model->lock);
    random = next_submission(model);
    post(model, &descriptor, &random);
    pthread_mutex_unlock(&model->lock);
}

/* idxd_submit_user_descriptor: the few things that the kernel looks at, in its order. A disabled
 * queue is not among them: ENQCMDS to it answers Retry, which becomes EAGAIN like a full one. */
static int write_one(dsa_model *model, dsa_descriptor *descriptor)
{
    dsa_random random = next_submission(model);
    bool batch = dsa_opcode_of(descriptor) == DSA_BATCH;

    if (batch && dsa_plan_hits(model, DSA_FAULT_EINVAL_BATCH, &random))
        return -EINVAL;
    if ((batch && model->options.version < 2) || descriptor->record % DSA_RECORD_BYTES != 0) {
        model->counts.errors++;
        return -EINVAL;
    }
    if (model->options.mode == DSA_MODEL_DEDICATED) {
        post(model, descriptor, &random);
        return 0;
    }
    if (dsa_plan_hits(model, DSA_FAULT_EAGAIN, &random)) {
        model->counts.retried++;
        return -EAGAIN;
    }
    descriptor->pasid = 0; /* the kernel fills in the PASID and clears priv */
    return enqueue(model, descriptor, &random) ? -EAGAIN : 0;
}

ssize_t dsa_model_write(dsa_model *model, const void *descriptors, size_t bytes)
{
    size_t most = bytes / DSA_DESCRIPTOR_BYTES, done = 0;
    dsa_random random;
    int error = 0;

    pthread_mutex_lock(&model->lock);
    model->write_calls++;
    if (!is_enabled(model)) /* a kernel's own mapping of the portal would be gone */
        model->counts.astray++;
    random = next_submission(model);
    if (model->plan.one_in[DSA_FAULT_EPERM] != 0 && model->write_calls >= model->plan.eperm_at &&
        dsa_plan_hits(model, DSA_FAULT_EPERM, &random))
        error = -EPERM;
    else if (most > 1 && dsa_plan_hits(model, DSA_FAULT_SHORT, &random))
        most = 1 + (size_t)dsa_draw_below(&random, most - 1);
    while (error == 0 && done < most) {
        dsa_descriptor descriptor;
        memcpy(&descriptor, (const char *)descriptors + done * sizeof(descriptor),
               sizeof(descriptor));
        error = write_one(model, &descriptor);
        done += error == 0;
    }
    pthread_mutex_unlock(&model->lock);
    return done > 0 ? (ssize_t)(done * DSA_DESCRIPTOR_BYTES) : error;
}
