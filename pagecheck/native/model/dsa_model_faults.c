/* The fault plans: what goes wrong, how often, and from which numbers it is drawn.
 *
 * Each decision is drawn from a stream of its own operation or submission, so a seed gives the
 * n-th of them the same luck whatever the threads do. Budgets alone are first come, first served.
 */
#include <string.h>

#include "dsa_model_faults.h"

enum { FOREVER = -1 };

enum applies { /* to which descriptors; 0: to submissions or to the queue */
               TO_COMPARES = 1,
               TO_BATCHES = 2,
               TO_OTHERS = 4,
               TO_ALL = 7,
};

typedef struct kind {
    const char *name;
    uint8_t applies;
    bool in_random;     /* may be a part of the plan "random" */
    uint32_t one_in;    /* when the plan is named */
    int32_t budget;     /* then */
    int32_t random_max; /* budget in "random": 1 to this */
} kind;

static const kind KINDS[DSA_FAULTS] = {
    [DSA_FAULT_PAGE] = {"page-fault", TO_COMPARES, true, 8, FOREVER, FOREVER},
    [DSA_FAULT_PAGE_MASKED] = {"page-fault-masked", TO_COMPARES, true, 8, FOREVER, FOREVER},
    [DSA_FAULT_PAGE_REFUSED] = {"page-fault-refused", TO_COMPARES, true, 8, FOREVER, FOREVER},
    [DSA_FAULT_LIST] = {"list-fault", TO_BATCHES, true, 2, FOREVER, FOREVER},
    [DSA_FAULT_ABANDONED] = {"abandoned", TO_BATCHES, true, 2, FOREVER, FOREVER},
    [DSA_FAULT_FALSE_FAIL] = {"false-batch-fail", TO_BATCHES, true, 2, FOREVER, FOREVER},
    [DSA_FAULT_OPCODE] = {"bad-opcode", TO_ALL, true, 8, FOREVER, FOREVER},
    [DSA_FAULT_FLAGS] = {"invalid-flags", TO_ALL, true, 8, FOREVER, FOREVER},
    [DSA_FAULT_RESERVED] = {"reserved", TO_ALL, true, 8, FOREVER, FOREVER},
    [DSA_FAULT_SIZE] = {"transfer-size", TO_COMPARES, true, 1, FOREVER, FOREVER},
    [DSA_FAULT_COUNT] = {"descriptor-count", TO_BATCHES, true, 1, FOREVER, FOREVER},
    [DSA_FAULT_VALUE] = {"field-value", TO_ALL, true, 8, FOREVER, FOREVER},
    [DSA_FAULT_OVERLAP] = {"overlap", TO_ALL, true, 8, FOREVER, FOREVER},
    [DSA_FAULT_DUALCAST] = {"dualcast", TO_ALL, true, 8, FOREVER, FOREVER},
    [DSA_FAULT_LIST_ALIGNMENT] = {"list-misaligned", TO_BATCHES, true, 2, FOREVER, FOREVER},
    [DSA_FAULT_INTERRUPT] = {"interrupt-handle", TO_ALL, true, 8, FOREVER, FOREVER},
    [DSA_FAULT_RECORD] = {"record-fault", TO_ALL, true, 16, 3, 2},
    [DSA_FAULT_RECORD_ALIGNMENT] = {"record-misaligned", TO_ALL, false, 16, 3, 0},
    [DSA_FAULT_ALIGNMENT] = {"misaligned", TO_ALL, true, 8, FOREVER, FOREVER},
    [DSA_FAULT_PRIVILEGE] = {"privilege", TO_ALL, false, 16, 3, 0},
    [DSA_FAULT_TRAFFIC_CLASS] = {"traffic-class", TO_ALL, true, 8, FOREVER, FOREVER},
    [DSA_FAULT_READBACK] = {"readback", TO_ALL, true, 8, FOREVER, FOREVER},
    [DSA_FAULT_HARDWARE] = {"hw-error", TO_ALL, true, 8, FOREVER, FOREVER},
    [DSA_FAULT_HARDWARE_WRITE] = {"hw-error-write", TO_ALL, true, 8, FOREVER, FOREVER},
    [DSA_FAULT_TRANSLATION] = {"translation", TO_ALL, true, 8, FOREVER, FOREVER},
    [DSA_FAULT_UNKNOWN] = {"unknown-status", TO_ALL, true, 8, FOREVER, FOREVER},
    [DSA_FAULT_LATE] = {"late", 0, true, 4, FOREVER, 10},
    /* Each lost record costs the submitter its whole timeout. */
    [DSA_FAULT_LOST] = {"lost", TO_ALL, true, 16, 3, 2},
    [DSA_FAULT_LOST_ALL] = {"lost-all", TO_ALL, false, 1, FOREVER, 0},
    [DSA_FAULT_FULL] = {"full", 0, true, 64, FOREVER, 2},
    [DSA_FAULT_ALWAYS_FULL] = {"always-full", 0, false, 1, FOREVER, 0},
    [DSA_FAULT_DISABLE] = {"disable", 0, true, 1, 3, 1},
    [DSA_FAULT_DISABLE_FOREVER] = {"disable-forever", 0, false, 1, 1, 0},
    [DSA_FAULT_EAGAIN] = {"eagain", 0, true, 4, FOREVER, FOREVER},
    [DSA_FAULT_EPERM] = {"eperm", 0, false, 1, FOREVER, 0},
    [DSA_FAULT_EINVAL_BATCH] = {"einval-batch", 0, true, 1, FOREVER, FOREVER},
    [DSA_FAULT_SHORT] = {"short", 0, true, 2, FOREVER, FOREVER},
    [DSA_FAULT_STUCK_CLOSE] = {"stuck-close", 0, false, 1, FOREVER, 0},
    [DSA_FAULT_STORE_ORDER] = {"store-order", 0, true, 1, FOREVER, FOREVER},
    [DSA_FAULT_LATE_LIST] = {"late-list", 0, true, 2, FOREVER, FOREVER},
    [DSA_FAULT_NEIGHBOUR] = {"neighbour", 0, true, 1, FOREVER, FOREVER},
};

/* Codes that no revision of Table 5-6 defines. */
static const uint8_t UNKNOWN_STATUS[] = {
    0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x23, 0x24, 0x25, 0x2f, 0x30,
    0x33, 0x35, 0x37, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f,
};

const char *dsa_model_fault_name(size_t index)
{
    return index < DSA_FAULTS ? KINDS[index].name : NULL;
}

static void plan_named(dsa_plan *plan, dsa_fault fault)
{
    plan->one_in[fault] = KINDS[fault].one_in;
    plan->left[fault] = (uint32_t)KINDS[fault].budget;
}

static void plan_random(dsa_plan *plan, dsa_random *random)
{
    static const uint32_t rates[] = {2, 4, 8, 16, 64, 256};
    static const dsa_fault always[] = {DSA_FAULT_EINVAL_BATCH, DSA_FAULT_SIZE, DSA_FAULT_COUNT,
                                       DSA_FAULT_STORE_ORDER, DSA_FAULT_NEIGHBOUR};
    uint64_t kinds = 1 + dsa_draw_below(random, 4);

    while (kinds > 0) {
        size_t fault = (size_t)dsa_draw_below(random, DSA_FAULTS);
        if (!KINDS[fault].in_random || plan->one_in[fault] != 0)
            continue;
        plan->one_in[fault] = rates[dsa_draw_below(random, 6)];
        plan->left[fault] = (uint32_t)FOREVER;
        if (KINDS[fault].random_max != FOREVER)
            plan->left[fault] =
                (uint32_t)(1 + dsa_draw_below(random, (uint64_t)KINDS[fault].random_max));
        kinds--;
    }
    /* These say when by themselves, or are a property of the queue rather than luck. */
    if (plan->one_in[DSA_FAULT_DISABLE] != 0)
        plan->one_in[DSA_FAULT_DISABLE] = 1;
    for (size_t i = 0; i < sizeof(always) / sizeof(*always); i++)
        if (plan->one_in[always[i]] != 0)
            plan->one_in[always[i]] = 1;
}

bool dsa_plan_init(dsa_plan *plan, const char *name, uint64_t seed)
{
    dsa_random random = dsa_random_stream(seed, DSA_STREAM_PLAN, 0);

    memset(plan, 0, sizeof(*plan));
    plan->disable_at = 1 + dsa_draw_below(&random, 64);
    plan->eperm_at = 1 + dsa_draw_below(&random, 64);
    plan->size_most = 4096u << dsa_draw_below(&random, 4);
    plan->count_most = 1 + (uint32_t)dsa_draw_below(&random, 64);
    if (name == NULL || strcmp(name, "none") == 0)
        return true;
    if (strcmp(name, "random") == 0) {
        plan_random(plan, &random);
        return true;
    }
    for (dsa_fault fault = 0; fault < DSA_FAULTS; fault++) {
        if (strcmp(name, KINDS[fault].name) != 0)
            continue;
        plan_named(plan, fault);
        if (fault == DSA_FAULT_STUCK_CLOSE)
            plan_named(plan, DSA_FAULT_LOST_ALL);
        return true;
    }
    return false;
}

bool dsa_plan_hits(dsa_model *model, dsa_fault fault, dsa_random *random)
{
    dsa_plan *plan = &model->plan;

    if (plan->one_in[fault] == 0 || plan->left[fault] == 0)
        return false;
    if (dsa_draw_below(random, plan->one_in[fault]) != 0)
        return false;
    if (plan->left[fault] != (uint32_t)FOREVER)
        plan->left[fault]--;
    model->counts.faults++;
    return true;
}

static uint8_t applies_to(uint8_t opcode)
{
    switch (opcode) {
    case DSA_COMPARE:
    case DSA_COMPVAL:
        return TO_COMPARES;
    case DSA_BATCH:
        return TO_BATCHES;
    default:
        return TO_OTHERS;
    }
}

/* These tell of a limit that is lower than the queue's own, and no luck is in it. */
static bool within_limits(const dsa_plan *plan, dsa_fault fault, const dsa_descriptor *descriptor)
{
    return (fault == DSA_FAULT_SIZE && descriptor->size <= plan->size_most) ||
           (fault == DSA_FAULT_COUNT && descriptor->size <= plan->count_most);
}

dsa_fault dsa_plan_draw(dsa_model *model, const dsa_descriptor *descriptor, dsa_random *random)
{
    uint8_t what = applies_to(dsa_opcode_of(descriptor));
    dsa_fault hit = DSA_FAULT_NONE;

    pthread_mutex_lock(&model->lock);
    for (dsa_fault fault = 0; fault < DSA_FAULTS && hit == DSA_FAULT_NONE; fault++)
        if ((KINDS[fault].applies & what) && !within_limits(&model->plan, fault, descriptor) &&
            dsa_plan_hits(model, fault, random))
            hit = fault;
    pthread_mutex_unlock(&model->lock);
    return hit;
}

bool dsa_plan_error(dsa_fault fault, dsa_random *random, dsa_outcome *outcome)
{
    static const uint8_t status[DSA_FAULTS] = {
        [DSA_FAULT_OPCODE] = DSA_BAD_OPCODE,
        [DSA_FAULT_FLAGS] = DSA_BAD_FLAGS,
        [DSA_FAULT_RESERVED] = DSA_BAD_RESERVED,
        [DSA_FAULT_SIZE] = DSA_BAD_SIZE,
        [DSA_FAULT_COUNT] = DSA_BAD_COUNT,
        [DSA_FAULT_VALUE] = DSA_BAD_VALUE,
        [DSA_FAULT_OVERLAP] = DSA_OVERLAP,
        [DSA_FAULT_DUALCAST] = DSA_DUALCAST,
        [DSA_FAULT_LIST_ALIGNMENT] = DSA_BAD_LIST,
        [DSA_FAULT_INTERRUPT] = DSA_BAD_INTERRUPT,
        [DSA_FAULT_ALIGNMENT] = DSA_BAD_ADDRESS,
        [DSA_FAULT_TRAFFIC_CLASS] = DSA_BAD_TRAFFIC_CLASS,
        [DSA_FAULT_READBACK] = DSA_READBACK,
        [DSA_FAULT_HARDWARE] = DSA_HARDWARE,
        [DSA_FAULT_HARDWARE_WRITE] = DSA_HARDWARE_WRITE,
        [DSA_FAULT_TRANSLATION] = DSA_TRANSLATION,
    };
    uint8_t code = fault < DSA_FAULTS ? status[fault] : 0;

    if (fault == DSA_FAULT_UNKNOWN)
        code = UNKNOWN_STATUS[dsa_draw_below(random, sizeof(UNKNOWN_STATUS))];
    if (code == 0)
        return false;
    *outcome = (dsa_outcome){.status = code};
    if (code == DSA_BAD_FLAGS) {
        outcome->fields = DSA_FIELD_FLAGS;
        outcome->invalid_flags = 1u << dsa_draw_below(random, 24);
    }
    return true;
}
