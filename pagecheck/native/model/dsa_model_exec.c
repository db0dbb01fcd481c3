/* The operations: compare pattern, compare, and batches of them.
 *
 * What is reported is always true as the specification defines it, also when a fault is injected:
 * the memory is compared first, and a fault then only hides what was found, never invents it.
 */
#include <string.h>
#include <time.h>

#include "dsa_model_check.h"
#include "dsa_model_exec.h"
#include "dsa_model_faults.h"
#include "dsa_model_memory.h"
#include "dsa_model_record.h"

enum { PIECE_MOST = 16, PIECE_MOST_NS = 100000 };

#define PAGE_OFFSET_MASK UINT64_C(0xfff) /* bits that a fault address may lack (8.2) */

typedef struct comparison {
    uint64_t equal; /* bytes, from the start */
    bool differs;   /* at `equal` */
    bool faulted;   /* at `equal` of `operand` */
    uint8_t operand;
} comparison;

static uint8_t execute(dsa_engine *engine, const dsa_descriptor *descriptor, bool in_batch,
                       uint8_t fenced, dsa_random *random, dsa_answer *answer);

static size_t first_difference(const uint8_t *one, const uint8_t *other, size_t bytes)
{
    size_t at = 0;

    if (memcmp(one, other, bytes) == 0)
        return bytes;
    while (one[at] == other[at])
        at++;
    return at;
}

static comparison compare(dsa_engine *engine, const dsa_descriptor *descriptor)
{
    dsa_model *model = engine->model;
    bool with_pattern = dsa_opcode_of(descriptor) == DSA_COMPVAL;
    comparison found = {0};

    /* A chunk is a multiple of 8 bytes, so the pattern begins anew with each. */
    for (size_t i = 0; with_pattern && i < DSA_CHUNK_BYTES; i += sizeof(uint64_t))
        memcpy(engine->other_chunk + i, &descriptor->second, sizeof(uint64_t));
    while (found.equal < descriptor->size) {
        uint64_t left = descriptor->size - found.equal;
        size_t want = left < DSA_CHUNK_BYTES ? (size_t)left : DSA_CHUNK_BYTES;
        size_t got =
            dsa_memory_read(model, descriptor->source + found.equal, engine->chunk, want, false);
        size_t both = got, same;

        if (!with_pattern)
            both = dsa_memory_read(model, descriptor->second + found.equal, engine->other_chunk,
                                   got, false);
        dsa_count(model, &model->counts.bytes_read, with_pattern ? got : got + both);
        same = first_difference(engine->chunk, engine->other_chunk, both);
        found.equal += same;
        found.differs = same < both;
        found.faulted = same == both && both < want;
        found.operand = both < got ? DSA_OPERAND_SECOND : DSA_OPERAND_SOURCE;
        if (found.differs || found.faulted)
            break;
    }
    return found;
}

/* 8.2: the address itself, or that of its page. */
static uint64_t perhaps_rounded(uint64_t address, dsa_random *random)
{
    return (dsa_draw(random) & 1) != 0 ? address & ~PAGE_OFFSET_MASK : address;
}

/* 8.3.7: somewhere at or before the first difference. */
static uint32_t round_down(uint64_t position, dsa_random *random)
{
    switch (dsa_draw_below(random, 4)) {
    case 0:
        return (uint32_t)position;
    case 1:
        return (uint32_t)(position & ~UINT64_C(63));
    case 2:
        return 0;
    default:
        return (uint32_t)dsa_draw_below(random, position + 1);
    }
}

static uint64_t operand_address(const dsa_descriptor *descriptor, uint8_t operand)
{
    return operand == DSA_OPERAND_SECOND ? descriptor->second : descriptor->source;
}

static dsa_outcome outcome_of(const comparison *found, const dsa_descriptor *descriptor,
                              dsa_random *random)
{
    dsa_outcome outcome = {.fields = DSA_FIELD_RESULT | DSA_FIELD_COMPLETED};

    if (found->faulted) {
        /* 3.13: partial; result 0 says that all before it was equal */
        outcome.status = DSA_PAGE_FAULT;
        outcome.fields |= DSA_FIELD_FAULT;
        outcome.completed = (uint32_t)found->equal;
        outcome.operand = found->operand;
        outcome.fault_address =
            perhaps_rounded(operand_address(descriptor, found->operand) + found->equal, random);
        return outcome;
    }
    /* 8.2.4: an operation that found no difference reports 0 bytes, not its size. */
    outcome.result = found->differs;
    if (found->differs && dsa_opcode_of(descriptor) == DSA_COMPARE)
        outcome.completed = (uint32_t)found->equal;
    else if (found->differs)
        outcome.completed = round_down(found->equal, random);
    outcome.status = DSA_SUCCESS;
    if ((descriptor->flags & DSA_CHECK_RESULT) && outcome.result != (descriptor->expected & 1))
        outcome.status = DSA_FALSE_PREDICATE;
    return outcome;
}

/* A page fault that did not happen, behind any prefix that is truly equal. */
static dsa_outcome false_page_fault(const dsa_model *model, dsa_fault fault,
                                    const comparison *found, const dsa_descriptor *descriptor,
                                    dsa_random *random)
{
    uint64_t limit = found->differs ? found->equal : descriptor->size - 1;
    uint64_t prefix = dsa_draw(random) % 4 == 0 ? limit : dsa_draw_below(random, limit + 1);
    uint64_t at = prefix + dsa_draw_below(random, descriptor->size - prefix);
    dsa_outcome outcome = {.status = DSA_PAGE_FAULT, .write_bit = true};

    outcome.fields = DSA_FIELD_RESULT | DSA_FIELD_COMPLETED | DSA_FIELD_FAULT;
    outcome.completed = (uint32_t)prefix;
    outcome.operand = DSA_OPERAND_SOURCE;
    if (dsa_opcode_of(descriptor) == DSA_COMPARE && (dsa_draw(random) & 1))
        outcome.operand = DSA_OPERAND_SECOND;
    outcome.fault_address = operand_address(descriptor, outcome.operand) + at;
    if (fault == DSA_FAULT_PAGE_REFUSED) {
        outcome.status = DSA_PAGE_REFUSED;
        outcome.fault_address = perhaps_rounded(outcome.fault_address, random);
    } else if (fault == DSA_FAULT_PAGE_MASKED) {
        outcome.masked = model->options.version >= 2 && (dsa_draw(random) & 1);
        outcome.fault_address &= ~PAGE_OFFSET_MASK;
    }
    return outcome;
}

/* Whether the plan lets no record out at all, not even one that tells of a true error. */
static bool loses_all(dsa_model *model, dsa_random *random)
{
    bool lost;

    pthread_mutex_lock(&model->lock);
    lost = dsa_plan_hits(model, DSA_FAULT_LOST_ALL, random);
    pthread_mutex_unlock(&model->lock);
    return lost;
}

static dsa_outcome compare_or_fault(dsa_engine *engine, const dsa_descriptor *descriptor,
                                    dsa_random *random, dsa_fault *injected)
{
    dsa_model *model = engine->model;
    comparison found = compare(engine, descriptor);
    dsa_outcome outcome = outcome_of(&found, descriptor, random);
    dsa_fault fault;

    if (found.faulted) {
        *injected = loses_all(model, random) ? DSA_FAULT_LOST_ALL : DSA_FAULT_NONE;
        return outcome;
    }
    fault = dsa_plan_draw(model, descriptor, random);
    *injected = fault;
    if (fault == DSA_FAULT_PAGE || fault == DSA_FAULT_PAGE_MASKED ||
        fault == DSA_FAULT_PAGE_REFUSED)
        outcome = false_page_fault(model, fault, &found, descriptor, random);
    else
        dsa_plan_error(fault, random, &outcome);
    return outcome;
}

/* Members [first, end) in any order (3.8). True: each was a success. */
static bool run_members(dsa_engine *engine, uint32_t first, uint32_t end, dsa_random *random)
{
    uint16_t order[DSA_MAX_BATCH];
    uint32_t count = end - first;
    uint64_t seed = dsa_draw(random);
    bool good = true;

    for (uint32_t i = 0; i < count; i++) {
        uint32_t swap = (uint32_t)dsa_draw_below(random, i + 1);
        order[i] = (uint16_t)(first + i);
        uint16_t other = order[swap];
        order[swap] = order[i];
        order[i] = other;
    }
    for (uint32_t i = 0; i < count; i++) {
        dsa_random own = dsa_random_stream(seed, DSA_STREAM_OPERATION, order[i]);
        uint8_t fenced = engine->view->list != NULL ? engine->view->statuses[order[i]] : 0;
        dsa_answer answer;
        uint8_t status = execute(engine, &engine->list[order[i]], true, fenced, &own, &answer);
        /* A record that the kernel had to write fails its batch, to be on the safe side. */
        good &= dsa_record_write(engine->model, &answer) && status == DSA_SUCCESS && !answer.late;
    }
    return good;
}

/* Runs members [first, end) from fence to fence; returns where it stopped. */
static uint32_t run_fenced(dsa_engine *engine, uint32_t first, uint32_t end, dsa_random *random,
                           bool *good)
{
    while (first < end) {
        uint32_t next = first + 1;
        /* 3.8: the fenced one and all that follow are abandoned, their records untouched */
        if (!*good && (engine->list[first].flags & DSA_FENCE))
            break;
        while (next < end && (engine->list[next].flags & DSA_FENCE) == 0)
            next++;
        *good &= run_members(engine, first, next, random);
        first = next;
    }
    return first;
}

/* Fetches members [first, first + count) of the list; returns how many came. */
static uint32_t fetch(dsa_engine *engine, const dsa_descriptor *descriptor, uint32_t first,
                      uint32_t count)
{
    uint64_t at = descriptor->source + (uint64_t)first * DSA_DESCRIPTOR_BYTES;
    size_t bytes = (size_t)count * DSA_DESCRIPTOR_BYTES;
    bool request = engine->model->options.prs; /* a list is asked for whatever BOF says (3.13) */

    bytes = dsa_memory_read(engine->model, at, &engine->list[first], bytes, request);
    count = (uint32_t)(bytes / DSA_DESCRIPTOR_BYTES);
    if (engine->view->list != NULL)
        memcpy(&engine->list[first], &engine->view->list[first],
               (size_t)count * DSA_DESCRIPTOR_BYTES);
    return count;
}

/* How many members to fetch at once. A list that is fetched late is fetched in pieces, each when
 * those before it have run, and with a pause before it. */
static uint32_t next_piece(dsa_engine *engine, uint32_t left, bool late, dsa_random *random)
{
    struct timespec pause = {.tv_nsec = 0};

    if (!late)
        return left;
    pause.tv_nsec = (long)dsa_draw_below(random, PIECE_MOST_NS);
    if (engine->model->options.threaded)
        nanosleep(&pause, NULL);
    return 1 + (uint32_t)dsa_draw_below(random, left < PIECE_MOST ? left : PIECE_MOST);
}

/* How many of `count` members an injected fault of the batch lets run. */
static uint32_t cut_short(dsa_fault fault, uint32_t count, dsa_random *random)
{
    switch (fault) {
    case DSA_FAULT_LIST:
    case DSA_FAULT_READBACK:
    case DSA_FAULT_HARDWARE:
    case DSA_FAULT_HARDWARE_WRITE:
    case DSA_FAULT_TRANSLATION:
    case DSA_FAULT_UNKNOWN:
        return (uint32_t)dsa_draw_below(random, count);
    case DSA_FAULT_ABANDONED: /* a fence needs somebody before it */
        return 1 + (uint32_t)dsa_draw_below(random, count - 1);
    case DSA_FAULT_OPCODE:
    case DSA_FAULT_FLAGS:
    case DSA_FAULT_RESERVED:
    case DSA_FAULT_SIZE:
    case DSA_FAULT_COUNT:
    case DSA_FAULT_VALUE:
    case DSA_FAULT_OVERLAP:
    case DSA_FAULT_DUALCAST:
    case DSA_FAULT_LIST_ALIGNMENT:
    case DSA_FAULT_INTERRUPT:
    case DSA_FAULT_ALIGNMENT:
    case DSA_FAULT_TRAFFIC_CLASS:
        return 0;
    default:
        return count;
    }
}

static bool is_late(dsa_model *model, dsa_random *random)
{
    bool late;

    pthread_mutex_lock(&model->lock);
    late = dsa_plan_hits(model, DSA_FAULT_LATE_LIST, random);
    pthread_mutex_unlock(&model->lock);
    return late;
}

static dsa_outcome run_batch(dsa_engine *engine, const dsa_descriptor *descriptor,
                             dsa_random *random, dsa_fault *injected)
{
    dsa_model *model = engine->model;
    dsa_fault fault = dsa_plan_draw(model, descriptor, random);
    uint32_t have, ran = 0;
    dsa_outcome outcome = {.status = DSA_SUCCESS, .fields = DSA_FIELD_COMPLETED};
    bool good = true, late = is_late(model, random);

    if (fault == DSA_FAULT_LIST && model->options.prs) /* the page request was served */
        fault = DSA_FAULT_NONE;
    *injected = fault;
    have = cut_short(fault, descriptor->size, random);
    dsa_count(model, &model->counts.batches, 1);
    while (ran < have) {
        uint32_t piece = next_piece(engine, have - ran, late, random), end;
        uint32_t came = fetch(engine, descriptor, ran, piece);
        if (came < piece) {
            have = ran + came;
            fault = DSA_FAULT_LIST; /* a true one, whatever else was planned */
        }
        end = ran + came;
        ran = run_fenced(engine, ran, end, random, &good);
        if (ran < end)
            break;
    }
    outcome.completed = ran; /* 8.2: descriptors, not bytes */
    if (ran < have) {
        outcome.status = DSA_BATCH_FAIL;
    } else if (fault == DSA_FAULT_LIST) {
        outcome.status = DSA_LIST_FAULT;
        outcome.fields |= DSA_FIELD_FAULT;
        outcome.operand = DSA_OPERAND_SOURCE;
        outcome.fault_address =
            perhaps_rounded(descriptor->source + (uint64_t)ran * DSA_DESCRIPTOR_BYTES, random);
    } else if (!good || fault == DSA_FAULT_ABANDONED || fault == DSA_FAULT_FALSE_FAIL) {
        outcome.status = DSA_BATCH_FAIL;
    }
    dsa_plan_error(fault, random, &outcome);
    return outcome;
}

static dsa_outcome do_nothing(dsa_model *model, const dsa_descriptor *descriptor,
                              dsa_random *random, dsa_fault *injected)
{
    dsa_outcome outcome = {.status = DSA_SUCCESS};

    *injected = dsa_plan_draw(model, descriptor, random);
    dsa_plan_error(*injected, random, &outcome);
    return outcome;
}

/* Whether a fault that the plan brought leaves no record. One on the record itself (1a) is brought
 * in by a page request, or reported in the event log of version 2, from which the kernel writes the
 * record; version 1 has only its error register, and without ATS it is reported nowhere (3.13). */
static bool leaves_no_record(const dsa_model *model, dsa_fault fault, dsa_answer *answer)
{
    switch (fault) {
    case DSA_FAULT_LOST:
    case DSA_FAULT_LOST_ALL:
    case DSA_FAULT_RECORD_ALIGNMENT: /* 1b and 1d, too, are reported in no record */
    case DSA_FAULT_PRIVILEGE:
        return true;
    case DSA_FAULT_RECORD:
        answer->late = model->options.ats && !model->options.prs && model->options.version >= 2;
        return !model->options.ats || (!model->options.prs && !answer->late);
    default:
        return false;
    }
}

/* The status, 0 where none can be reported: the record's memory is at fault. A batch sees a lost
 * record of a member as a failure on version 2, where the kernel writes records that faulted and
 * fails the batch when it cannot; version 1 has only its error register. */
static uint8_t execute(dsa_engine *engine, const dsa_descriptor *descriptor, bool in_batch,
                       uint8_t fenced, dsa_random *random, dsa_answer *answer)
{
    dsa_model *model = engine->model;
    dsa_outcome outcome = {0};
    dsa_fault fault = DSA_FAULT_NONE;

    *answer = (dsa_answer){.wanted = false};
    dsa_count(model, &model->counts.executed, 1);
    if (!in_batch && (descriptor->pasid & DSA_PASID_PRIV)) { /* 1d; members have their batch's */
        dsa_count(model, &model->counts.errors, 1);
        dsa_count(model, &model->counts.lost, 1);
        return 0;
    }
    if (!dsa_record_usable(model, descriptor, fenced))
        return 0;
    outcome.status = dsa_check(model, descriptor, in_batch, random, &outcome.invalid_flags);
    if (outcome.status != 0) {
        dsa_count(model, &model->counts.errors, 1);
        outcome.fields = outcome.status == DSA_BAD_FLAGS ? DSA_FIELD_FLAGS : 0;
        fault = loses_all(model, random) ? DSA_FAULT_LOST_ALL : DSA_FAULT_NONE;
    } else if (dsa_opcode_of(descriptor) == DSA_BATCH) {
        outcome = run_batch(engine, descriptor, random, &fault);
    } else if (dsa_opcode_of(descriptor) == DSA_NOOP || dsa_opcode_of(descriptor) == DSA_DRAIN) {
        outcome = do_nothing(model, descriptor, random, &fault);
    } else {
        outcome = compare_or_fault(engine, descriptor, random, &fault);
    }
    dsa_record_fill(model, descriptor, &outcome, random, answer);
    if (leaves_no_record(model, fault, answer) && answer->wanted) {
        answer->wanted = false;
        dsa_count(model, &model->counts.lost, 1);
        if (model->options.version >= 2 || (dsa_draw(random) & 1))
            return 0;
    }
    return outcome.status;
}

void dsa_execute(dsa_engine *engine, const dsa_descriptor *descriptor, uint64_t number,
                 dsa_answer *answer)
{
    dsa_random random =
        dsa_random_stream(engine->model->options.seed, DSA_STREAM_OPERATION, number);

    execute(engine, descriptor, false, engine->view->status, &random, answer);
}
