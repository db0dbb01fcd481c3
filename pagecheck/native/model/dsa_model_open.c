/* Opening and closing a model, and the threads that execute. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dsa_model_exec.h"
#include "dsa_model_faults.h"
#include "dsa_model_fence.h"
#include "dsa_model_memory.h"
#include "dsa_model_queue.h"
#include "dsa_model_record.h"

enum { LATE_MIN_MS = 1, LATE_MOST_MS = 20 };

void dsa_model_count(dsa_model *model, dsa_model_counts *counts)
{
    pthread_mutex_lock(&model->lock);
    *counts = model->counts;
    pthread_mutex_unlock(&model->lock);
}

void dsa_model_defaults(dsa_model_options *options)
{
    *options = (dsa_model_options){
        .mode = DSA_MODEL_SHARED,
        .size = 64,
        .threshold = 60,
        .max_batch = 128,
        .max_transfer = UINT64_C(2) << 20,
        .version = 1,
        .faults = "none",
        .engines = 1,
        .threaded = true,
        .check_residency = true,
        .prs = false,
        .ats = true,
    };
}

/* ---- executing ---- */

/* The rest of an entry's way, once it was picked. With `lock` held; it is released meanwhile. */
static void advance(dsa_engine *engine, dsa_entry *entry)
{
    dsa_model *model = engine->model;
    dsa_random random = dsa_random_stream(model->options.seed, DSA_STREAM_LATE, entry->number);

    pthread_mutex_unlock(&model->lock);
    if (!entry->executed) {
        pthread_mutex_lock(&engine->lock);
        engine->view = &entry->view;
        dsa_execute(engine, &entry->descriptor, entry->number, &entry->answer);
        pthread_mutex_unlock(&engine->lock);
        pthread_mutex_lock(&model->lock);
        entry->executed = true;
        if (entry->answer.wanted &&
            (entry->answer.late || dsa_plan_hits(model, DSA_FAULT_LATE, &random))) {
            uint64_t ms = LATE_MIN_MS + dsa_draw_below(&random, LATE_MOST_MS - LATE_MIN_MS + 1);
            entry->due_ns = dsa_now_ns() + ms * 1000000;
            entry->state = DSA_ENTRY_HELD;
            return;
        }
        pthread_mutex_unlock(&model->lock);
    }
    /* The entry is free before its record can be seen: a submitter that has read the record may
     * count on it. */
    const dsa_answer answer = entry->answer;
    pthread_mutex_lock(&model->lock);
    dsa_queue_release(model, entry);
    pthread_mutex_unlock(&model->lock);
    dsa_record_write(model, &answer);
    pthread_mutex_lock(&model->lock);
}

static void *serve(void *argument)
{
    dsa_engine *engine = argument;
    dsa_model *model = engine->model;

    pthread_mutex_lock(&model->lock);
    while (!model->closing || model->occupied > 0) {
        uint64_t next_ns;
        dsa_entry *entry = dsa_queue_pick(model, false, &next_ns);
        if (entry != NULL) {
            advance(engine, entry);
        } else if (next_ns == UINT64_MAX) {
            pthread_cond_wait(&model->wake, &model->lock);
        } else {
            struct timespec until = {(time_t)(next_ns / 1000000000u),
                                     (long)(next_ns % 1000000000u)};
            pthread_cond_timedwait(&model->wake, &model->lock, &until);
        }
    }
    pthread_mutex_unlock(&model->lock);
    return NULL;
}

size_t dsa_model_run(dsa_model *model, size_t most)
{
    size_t done = 0;

    if (model->options.threaded)
        return 0;
    pthread_mutex_lock(&model->lock);
    while (done < most) {
        uint64_t next_ns;
        dsa_entry *entry = dsa_queue_pick(model, true, &next_ns);
        if (entry == NULL)
            break;
        done += !entry->executed; /* a late record is not a second execution */
        advance(&model->engines[0], entry);
    }
    pthread_mutex_unlock(&model->lock);
    return done;
}

/* ---- opening and closing ---- */

static const char *why_not(const dsa_model_options *options)
{
    if (options->mode < DSA_MODEL_SHARED || options->mode > DSA_MODEL_WRITE)
        return "unknown mode";
    if (options->size < 1 || options->size > DSA_MAX_ENTRIES)
        return "size is not 1 to 128";
    if (options->threshold < 1 || options->threshold > options->size)
        return "threshold is not 1 to size";
    if (options->max_batch < 2 || options->max_batch > DSA_MAX_BATCH)
        return "max_batch is not 2 to 1024";
    if (options->max_transfer < 1 || options->max_transfer > UINT64_C(2) << 30)
        return "max_transfer is not 1 byte to 2 GiB";
    if (options->version < 1 || options->version > 2)
        return "version is not 1 or 2";
    if (options->engines < 1 || options->engines > DSA_MAX_ENGINES)
        return "engines is not 1 to 4";
    return NULL;
}

static void free_all(dsa_model *model)
{
    for (uint32_t i = 0; i < DSA_MAX_ENGINES; i++) {
        free(model->engines[i].chunk);
        free(model->engines[i].other_chunk);
        free(model->engines[i].list);
    }
    for (uint32_t i = 0; i < DSA_MAX_ENTRIES; i++)
        dsa_view_drop(&model->entries[i].view);
    for (uint32_t i = 0; i < model->range_count; i++)
        free(model->ranges[i].fenced);
    free(model);
}

static bool allocate_engine(dsa_engine *engine)
{
    engine->chunk = malloc(DSA_CHUNK_BYTES);
    engine->other_chunk = malloc(DSA_CHUNK_BYTES);
    engine->list = malloc((size_t)DSA_MAX_BATCH * DSA_DESCRIPTOR_BYTES);
    return engine->chunk != NULL && engine->other_chunk != NULL && engine->list != NULL;
}

static dsa_model *allocate(uint32_t engines)
{
    dsa_model *model = calloc(1, sizeof(*model));

    for (uint32_t i = 0; model != NULL && i < engines; i++) {
        model->engines[i].model = model;
        if (allocate_engine(&model->engines[i]))
            continue;
        free_all(model);
        return NULL;
    }
    return model;
}

static void init_locks(dsa_model *model)
{
    pthread_condattr_t attributes;

    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&model->lock, NULL);
    for (uint32_t i = 0; i < DSA_MAX_ENGINES; i++)
        pthread_mutex_init(&model->engines[i].lock, NULL);
    pthread_cond_init(&model->wake, &attributes);
    pthread_cond_init(&model->freed, &attributes);
    pthread_condattr_destroy(&attributes);
}

static void deinit_locks(dsa_model *model)
{
    pthread_cond_destroy(&model->freed);
    pthread_cond_destroy(&model->wake);
    for (uint32_t i = 0; i < DSA_MAX_ENGINES; i++)
        pthread_mutex_destroy(&model->engines[i].lock);
    pthread_mutex_destroy(&model->lock);
}

/* Everything that was accepted is done; the first `count` engines then end. */
static void join_engines(dsa_model *model, uint32_t count)
{
    pthread_mutex_lock(&model->lock);
    model->closing = true;
    pthread_cond_broadcast(&model->wake);
    pthread_mutex_unlock(&model->lock);
    for (uint32_t i = 0; i < count; i++)
        pthread_join(model->engines[i].thread, NULL);
}

/* No signal is for these threads: a program's handlers run where its own code runs. */
static int start_engines(dsa_model *model)
{
    sigset_t all, before;
    uint32_t started = 0;
    int error = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (error == 0 && started < model->options.engines) {
        dsa_engine *engine = &model->engines[started];
        error = pthread_create(&engine->thread, NULL, serve, engine);
        started += error == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0)
        join_engines(model, started);
    return error;
}

static dsa_model *refuse(char *why, size_t why_bytes, const char *what, int error)
{
    if (why != NULL && why_bytes > 0)
        snprintf(why, why_bytes, "%s%s%s", what, error != 0 ? ": " : "",
                 error != 0 ? strerror(error) : "");
    return NULL;
}

dsa_model *dsa_model_open(const dsa_model_options *options, char *why, size_t why_bytes)
{
    const char *reason = why_not(options);
    dsa_plan plan;
    dsa_model *model;
    int error;

    if (reason != NULL)
        return refuse(why, why_bytes, reason, 0);
    if (!dsa_plan_init(&plan, options->faults, options->seed))
        return refuse(why, why_bytes, "unknown fault plan", 0);
    model = allocate(options->engines);
    if (model == NULL)
        return refuse(why, why_bytes, "no memory", 0);
    model->options = *options;
    model->options.faults = NULL; /* the caller's text need not live on */
    model->plan = plan;
    model->enabled = true;
    error = -dsa_memory_open(model);
    if (error != 0) {
        free_all(model);
        return refuse(why, why_bytes, "/proc/self/pagemap or /proc/self/mem cannot be opened",
                      error);
    }
    init_locks(model);
    error = options->threaded ? start_engines(model) : 0;
    if (error != 0) {
        deinit_locks(model);
        dsa_memory_close(model);
        free_all(model);
        return refuse(why, why_bytes, "cannot start a thread", error);
    }
    return model;
}

/* Without a thread: all that is left, waiting for records that are late. */
static void finish(dsa_model *model)
{
    bool left = true;

    while (left) {
        dsa_model_run(model, SIZE_MAX);
        pthread_mutex_lock(&model->lock);
        left = model->occupied > 0;
        pthread_mutex_unlock(&model->lock);
        if (left)
            usleep(1000);
    }
}

void dsa_model_close(dsa_model *model)
{
    if (model->plan.one_in[DSA_FAULT_STUCK_CLOSE] != 0)
        for (;;)
            pause();
    if (model->options.threaded)
        join_engines(model, model->options.engines);
    else
        finish(model);
    deinit_locks(model);
    dsa_memory_close(model);
    free_all(model);
}
