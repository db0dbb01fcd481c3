/* The rules of a descriptor (8.1, 8.1.3, Tables 5-3 to 5-5), each by itself.
 *
 * The specification lets a device check in any order, so of several broken rules any one is
 * reported, drawn by chance.
 */
#include "dsa_model_check.h"

/* Flags that an operation may carry anywhere; block on fault is never among them, because the
 * modelled queue has it disabled, nor are interrupts, which want user-mode interrupts enabled. */
static uint32_t flags_allowed(uint8_t opcode)
{
    const uint32_t record = DSA_RECORD_VALID | DSA_REQUEST_RECORD | DSA_RECORD_TC;

    switch (opcode) {
    case DSA_COMPVAL:
        return record | DSA_CHECK_RESULT | DSA_ADDRESS_1_TC;
    case DSA_COMPARE:
        return record | DSA_CHECK_RESULT | DSA_ADDRESS_1_TC | DSA_ADDRESS_2_TC;
    case DSA_BATCH:
        return record | DSA_ADDRESS_1_TC;
    default:
        return record;
    }
}

static uint32_t flags_wrong(const dsa_descriptor *descriptor, bool in_batch)
{
    uint8_t opcode = dsa_opcode_of(descriptor);
    uint32_t flags = descriptor->flags & 0xffffffu;
    uint32_t allowed = flags_allowed(opcode);
    uint32_t wrong;

    if (in_batch)
        allowed |= DSA_FENCE; /* reserved outside (8.1.3.1) */
    if ((flags & DSA_RECORD_VALID) == 0)
        allowed &= ~(uint32_t)(DSA_REQUEST_RECORD | DSA_RECORD_TC);
    wrong = flags & ~allowed;
    /* Table 5-5: operations with a result must be asked for their record. */
    if (opcode == DSA_COMPVAL || opcode == DSA_COMPARE)
        wrong |= ~flags & (DSA_RECORD_VALID | DSA_REQUEST_RECORD);
    return wrong;
}

static bool rest_is_zero(const dsa_descriptor *descriptor)
{
    uint8_t any = 0;

    for (size_t i = 0; i < sizeof(descriptor->rest); i++)
        any |= descriptor->rest[i];
    return any == 0;
}

/* Table 5-3. The PASID itself is ignored: ENQCMD overwrites it, a dedicated queue has its own, and
 * members use their batch's. The bits between it and priv are reserved everywhere. */
static bool reserved_is_zero(const dsa_descriptor *descriptor)
{
    if ((descriptor->pasid & DSA_PASID_RESERVED) != 0)
        return false;
    if (descriptor->interrupt != 0 || descriptor->reserved != 0 || !rest_is_zero(descriptor))
        return false;
    switch (dsa_opcode_of(descriptor)) {
    case DSA_NOOP:
        return descriptor->source == 0 && descriptor->second == 0 && descriptor->size == 0 &&
               descriptor->expected == 0;
    case DSA_DRAIN:
        return descriptor->size == 0 && descriptor->expected == 0;
    case DSA_BATCH:
        return descriptor->second == 0 && descriptor->expected == 0;
    default: /* a compare: without Check Result the expected result is ignored, not reserved */
        return true;
    }
}

static bool supported(uint8_t opcode, bool in_batch)
{
    switch (opcode) {
    case DSA_NOOP:
    case DSA_COMPARE:
    case DSA_COMPVAL:
        return true;
    case DSA_BATCH:
    case DSA_DRAIN:
        return !in_batch; /* 3.8: no nesting */
    default:
        return false;
    }
}

/* 8.2: the record names at least one of the wrong flags, not all of them. */
static uint32_t some_of(uint32_t flags, dsa_random *random)
{
    uint32_t some = flags & (uint32_t)dsa_draw(random);

    return some != 0 ? some : flags & (~flags + 1);
}

uint8_t dsa_check(const dsa_model *model, const dsa_descriptor *descriptor, bool in_batch,
                  dsa_random *random, uint32_t *invalid_flags)
{
    uint8_t opcode = dsa_opcode_of(descriptor);
    uint8_t broken[4];
    size_t count = 0;
    uint32_t wrong;

    if (!supported(opcode, in_batch)) /* what its other fields mean is unknown */
        return DSA_BAD_OPCODE;
    wrong = flags_wrong(descriptor, in_batch);
    *invalid_flags = some_of(wrong, random);
    if (wrong != 0)
        broken[count++] = DSA_BAD_FLAGS;
    if (!reserved_is_zero(descriptor))
        broken[count++] = DSA_BAD_RESERVED;
    if (opcode == DSA_COMPVAL || opcode == DSA_COMPARE) {
        if (descriptor->size == 0 || descriptor->size > model->options.max_transfer)
            broken[count++] = DSA_BAD_SIZE;
    } else if (opcode == DSA_BATCH) {
        /* 8.3.2: one descriptor is too few without GENCAP bit 52, which no version here has */
        if (descriptor->size < 2 || descriptor->size > model->options.max_batch)
            broken[count++] = DSA_BAD_COUNT;
        if (descriptor->source % DSA_DESCRIPTOR_BYTES != 0)
            broken[count++] = DSA_BAD_LIST;
    }
    return count == 0 ? 0 : broken[dsa_draw_below(random, count)];
}
