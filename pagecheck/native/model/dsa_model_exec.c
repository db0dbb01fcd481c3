/* The operations: compare pattern, compare, and batches of them.
 *
 * What is reported is always true as the specification defines it, also when a fault is injected:
 * the memory is compared first, and a fault then only hides what was found, never invents it.
 */
#include <string.h>

#include "dsa_model_internal.h"

#define PAGE_OFFSET_MASK UINT64_C(0xfff) /* bits that a fault address may lack (8.2) */

typedef struct comparison {
    uint64_t equal; /* bytes, from the start */
    bool differs;   /* at `equal` */
    bool faulted;   /* at `equal` of `operand` */
    uint8_t operand;
} comparison;

static uint8_t execute(dsa_model *model, const dsa_descriptor *descriptor, bool in_batch,
                       dsa_random *random, dsa_answer *answer);

static size_t first_difference(const uint8_t *one, const uint8_t *other, size_t bytes)
{
    size_t at = 0;

    if (memcmp(one, other, bytes) == 0)
        return bytes;
    while (one[at] == other[at])
        at++;
    return at;
}

static comparison compare(dsa_model *model, const dsa_descriptor *descriptor)
{
    bool with_pattern = dsa_opcode_of(descriptor) == DSA_COMPVAL;
    comparison found = {0};

    /* A chunk is a multiple of 8 bytes, so the pattern begins anew with each. */
    for (size_t i = 0; with_pattern && i < DSA_CHUNK_BYTES; i += sizeof(uint64_t))
        memcpy(model->other_chunk + i, &descriptor->second, sizeof(uint64_t));
    while (found.equal < descriptor->size) {
        uint64_t left = descriptor->size - found.equal;
        size_t want = left < DSA_CHUNK_BYTES ? (size_t)left : DSA_CHUNK_BYTES;
        size_t got = dsa_memory_read(model, descriptor->source + found.equal, model->chunk, want);
        size_t both = got, same;

        if (!with_pattern)
            both =
                dsa_memory_read(model, descriptor->second + found.equal, model->other_chunk, got);
        dsa_count(model, &model->counts.bytes_read, with_pattern ? got : got + both);
        same = first_difference(model->chunk, model->other_chunk, both);
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

static dsa_outcome compare_or_fault(dsa_model *model, const dsa_descriptor *descriptor,
                                    dsa_random *random, bool *lost)
{
    comparison found = compare(model, descriptor);
    dsa_outcome outcome = outcome_of(&found, descriptor, random);
    dsa_fault fault;

    if (found.faulted) {
        *lost = loses_all(model, random);
        return outcome;
    }
    fault = dsa_plan_draw(model, dsa_opcode_of(descriptor), random);
    *lost = fault == DSA_FAULT_LOST || fault == DSA_FAULT_LOST_ALL;
    if (fault == DSA_FAULT_PAGE || fault == DSA_FAULT_PAGE_MASKED ||
        fault == DSA_FAULT_PAGE_REFUSED)
        outcome = false_page_fault(model, fault, &found, descriptor, random);
    else
        dsa_plan_error(fault, random, &outcome);
    return outcome;
}

/* Members [first, end) in any order (3.8). True: each was a success. */
static bool run_members(dsa_model *model, uint32_t first, uint32_t end, dsa_random *random)
{
    uint16_t order[DSA_MAX_BATCH];
    uint32_t count = end - first;
    uint64_t seed = dsa_draw(random);
    bool good = true;

    for (uint32_t i = 0; i < count; i++) {
        uint32_t swap = (uint32_t)dsa_draw_below(random, i + 1);
        order[i] = order[swap];
        order[swap] = (uint16_t)(first + i);
    }
    for (uint32_t i = 0; i < count; i++) {
        dsa_random own = dsa_random_stream(seed, DSA_STREAM_OPERATION, order[i]);
        dsa_answer answer;
        uint8_t status = execute(model, &model->list[order[i]], true, &own, &answer);
        good &= dsa_record_write(model, &answer) && status == DSA_SUCCESS;
    }
    return good;
}

/* Runs members from fence to fence, `have` of them at most; returns how many ran. */
static uint32_t run_fenced(dsa_model *model, uint32_t have, dsa_random *random, bool *good)
{
    uint32_t first = 0;

    while (first < have) {
        uint32_t end = first + 1;
        /* 3.8: the fenced one and all that follow are abandoned, their records untouched */
        if (!*good && (model->list[first].flags & DSA_FENCE))
            break;
        while (end < have && (model->list[end].flags & DSA_FENCE) == 0)
            end++;
        *good &= run_members(model, first, end, random);
        first = end;
    }
    return first;
}

/* How many of `count` members an injected fault of the batch lets run. */
static uint32_t cut_short(dsa_fault fault, uint32_t count, dsa_random *random)
{
    switch (fault) {
    case DSA_FAULT_LIST:
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
        return 0;
    default:
        return count;
    }
}

static dsa_outcome run_batch(dsa_model *model, const dsa_descriptor *descriptor, dsa_random *random,
                             bool *lost)
{
    uint32_t count = descriptor->size;
    dsa_fault fault = dsa_plan_draw(model, DSA_BATCH, random);
    uint32_t have = cut_short(fault, count, random), ran;
    dsa_outcome outcome = {.status = DSA_SUCCESS, .fields = DSA_FIELD_COMPLETED};
    size_t bytes;
    bool good = true;

    *lost = fault == DSA_FAULT_LOST || fault == DSA_FAULT_LOST_ALL;
    dsa_count(model, &model->counts.batches, 1);
    bytes = dsa_memory_read(model, descriptor->source, model->list,
                            (size_t)have * DSA_DESCRIPTOR_BYTES);
    if (bytes / DSA_DESCRIPTOR_BYTES < have) {
        have = (uint32_t)(bytes / DSA_DESCRIPTOR_BYTES);
        fault = DSA_FAULT_LIST; /* a true one, whatever else was planned */
    }
    ran = run_fenced(model, have, random, &good);
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
                              dsa_random *random, bool *lost)
{
    dsa_outcome outcome = {.status = DSA_SUCCESS};
    dsa_fault fault = dsa_plan_draw(model, dsa_opcode_of(descriptor), random);

    *lost = fault == DSA_FAULT_LOST || fault == DSA_FAULT_LOST_ALL;
    dsa_plan_error(fault, random, &outcome);
    return outcome;
}

/* The status, 0 where none can be told: the record's memory is at fault. A batch sees a lost
 * record of a member as a failure on version 2, where the kernel writes records that faulted and
 * fails the batch when it cannot; version 1 has only its error register. */
static uint8_t execute(dsa_model *model, const dsa_descriptor *descriptor, bool in_batch,
                       dsa_random *random, dsa_answer *answer)
{
    dsa_outcome outcome = {0};
    bool lost = false;

    answer->wanted = false;
    dsa_count(model, &model->counts.executed, 1);
    if (!in_batch && (descriptor->pasid & DSA_PASID_PRIV)) { /* 1d; members have their batch's */
        dsa_count(model, &model->counts.errors, 1);
        dsa_count(model, &model->counts.lost, 1);
        return 0;
    }
    if (!dsa_record_usable(model, descriptor))
        return 0;
    outcome.status = dsa_check(model, descriptor, in_batch, random, &outcome.invalid_flags);
    if (outcome.status != 0) {
        dsa_count(model, &model->counts.errors, 1);
        outcome.fields = outcome.status == DSA_BAD_FLAGS ? DSA_FIELD_FLAGS : 0;
        lost = loses_all(model, random);
    } else if (dsa_opcode_of(descriptor) == DSA_BATCH) {
        outcome = run_batch(model, descriptor, random, &lost);
    } else if (dsa_opcode_of(descriptor) == DSA_NOOP || dsa_opcode_of(descriptor) == DSA_DRAIN) {
        outcome = do_nothing(model, descriptor, random, &lost);
    } else {
        outcome = compare_or_fault(model, descriptor, random, &lost);
    }
    dsa_record_fill(model, descriptor, &outcome, random, answer);
    if (lost && answer->wanted) {
        answer->wanted = false;
        dsa_count(model, &model->counts.lost, 1);
        if (model->options.version >= 2 || (dsa_draw(random) & 1))
            return 0;
    }
    return outcome.status;
}

void dsa_execute(dsa_model *model, const dsa_descriptor *descriptor, uint64_t number,
                 dsa_answer *answer)
{
    dsa_random random = dsa_random_stream(model->options.seed, DSA_STREAM_OPERATION, number);

    execute(model, descriptor, false, &random, answer);
}
