/* A worker on the software device in every mode, under random faults, against the CPU.
 * `test_dsa_worker_model N`: N seeds each. */
#include "dsa_world.h"
#include "pc_portal_model.h"

enum { SEEDS = 6 };

typedef struct plan {
    dsa_model_mode mode;
    uint32_t version;
    uint64_t seed;
    const char *faults;
} plan;

static plan plan_now;

static void open_model(world *w)
{
    dsa_model_options options;
    dsa_model_defaults(&options);
    uint64_t seed = plan_now.seed;
    options.mode = plan_now.mode;
    options.version = plan_now.version;
    options.faults = plan_now.faults;
    options.seed = plan_now.seed++;
    options.size = 1 + (uint32_t)(check_random(&seed) % 128);
    options.threshold = 1 + (uint32_t)(check_random(&seed) % options.size);
    options.max_batch = 2 + (uint32_t)(check_random(&seed) % 200);
    options.max_transfer = PAGE << check_random(&seed) % 8;
    options.delay_ns = check_random(&seed) % 3 * 20000;
    options.engines = 1 + (uint32_t)(check_random(&seed) % 4);
    options.prs = check_random(&seed) % 4 == 0;
    options.ats = check_random(&seed) % 4 != 0;
    options.threaded = true;
    dsa_model *model = dsa_model_open(&options, NULL, 0);
    pc_portal *portal = model == NULL ? NULL : pc_portal_open_model(model, options.mode);
    if (portal == NULL)
        abort();
    bool batches = options.mode != DSA_MODEL_WRITE || options.version >= 2;
    pc_dsa_limits limits =
        limits_of(options.mode == DSA_MODEL_DEDICATED ? options.size : options.threshold,
                  batches ? options.max_batch : 0, options.max_transfer);
    limits.deadline_ns = SECOND / 50;
    if (!pc_worker_open_queue(&w->worker, portal, &limits))
        abort();
}

/* As DsaEngine.tend does, without its pauses. */
static void *serve_with_model(void *argument)
{
    world *w = argument;
    open_model(w);
    while (!__atomic_load_n(&w->stop, __ATOMIC_ACQUIRE)) {
        pc_worker_serve(&w->worker, pc_clock_now_ns() + SECOND / 100);
        if (pc_worker_queue_state(&w->worker) == PC_QUEUE_NONE)
            open_model(w);
    }
    return NULL;
}

static void test_model(dsa_model_mode mode, uint32_t version, const char *faults, uint64_t seed)
{
    world w;
    char of[96];
    uint64_t draw = seed;
    check_begin();
    world_init(&w);
    for (size_t i = 0; i < RAM_PAGES; i++)
        w.b.ram[i * PAGE + 1000] = (unsigned char)(check_random(&draw) % 3 == 0);
    pc_worker_attach(&w.worker, 0, block_of(&w));
    plan_now = (plan){mode, version, seed, faults};
    world_start(&w, serve_with_model);
    for (uint32_t i = 0; i < 6; i++) {
        begin_job(&w, NULL, 5 + i * 21, NULL, NULL);
        CHECK(pump(&w, 20 * SECOND) == PC_PUMP_DONE, "job %u", i);
        check_job(&w);
    }
    const struct pc_stats *stats = w.worker.dsa.stats;
    world_stop(&w);
    CHECK(stats->pages_device + stats->pages_sampled + stats->pages_completed + stats->pages_cpu ==
              6 * RAM_PAGES,
          "pages are not counted once each");
    world_deinit(&w);
    snprintf(of, sizeof of, "mode %d, version %u, %s, seed %llu", (int)mode, version, faults,
             (unsigned long long)seed);
    check_end("software device:", of);
}

int main(int argc, char **argv)
{
    uint64_t seeds = argc > 1 ? strtoull(argv[1], NULL, 10) : SEEDS;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        test_model(DSA_MODEL_SHARED, 1, seed == 1 ? "none" : "random", seed * 1000);
        test_model(DSA_MODEL_DEDICATED, 1, seed == 1 ? "none" : "random", seed * 1000);
        test_model(DSA_MODEL_WRITE, 1, seed == 1 ? "none" : "random", seed * 1000);
        test_model(DSA_MODEL_WRITE, 2, seed == 1 ? "none" : "random", seed * 1000);
    }
    return check_summary();
}
