/* Completion records (8.2): which are written, and what the fields hold that nobody promised.
 *
 * Fields that a status does not define are random bytes that are not 0, so that a driver which
 * reads them anyway sees it.
 */
#include <string.h>

#include "dsa_model_memory.h"
#include "dsa_model_record.h"

enum record_offset { /* 8.2 */
                     AT_STATUS = 0,
                     AT_RESULT = 1,
                     AT_FAULT_INFO = 2,
                     AT_COMPLETED = 4,
                     AT_FAULT_ADDRESS = 8,
                     AT_INVALID_FLAGS = 16,
};

#define STATUS_NOISE 0x40u     /* bit 6 means nothing */
#define STATUS_WRITE 0x80u     /* the faulting access was a write */
#define FAULT_INFO_MASKED 0x1u /* there is no fault address */

/* A record that cannot be written is an error of the submitter (1a, 1b, 1d of Table 5-6: seen in
 * SWERROR or the event log only), and so is one that still holds an old status. */
bool dsa_record_usable(dsa_model *model, const dsa_descriptor *descriptor, uint8_t fenced)
{
    if ((descriptor->flags & DSA_RECORD_VALID) == 0)
        return true;
    if (descriptor->record % DSA_RECORD_BYTES == 0 && fenced == 0 &&
        dsa_memory_status(model, descriptor->record) == 0)
        return true;
    dsa_count(model, &model->counts.errors, 1);
    dsa_count(model, &model->counts.lost, 1);
    return false;
}

/* 8.1.3: the record is written when it was asked for, or for an error. Of a batch, 05 is no such
 * error (3.9). Without CRAV errors reach the event log only. */
static bool asked_for(const dsa_descriptor *descriptor, uint8_t status)
{
    if ((descriptor->flags & DSA_RECORD_VALID) == 0)
        return false;
    if ((descriptor->flags & DSA_REQUEST_RECORD) != 0)
        return true;
    return status != DSA_SUCCESS && status != DSA_FALSE_PREDICATE && status != DSA_BATCH_FAIL;
}

static void poison(uint8_t *bytes, dsa_random *random)
{
    for (size_t i = 0; i < DSA_RECORD_BYTES; i++)
        bytes[i] = (uint8_t)(1 + dsa_draw_below(random, 255));
}

void dsa_record_fill(const dsa_model *model, const dsa_descriptor *descriptor,
                     const dsa_outcome *outcome, dsa_random *random, dsa_answer *answer)
{
    uint8_t *bytes = answer->bytes;
    uint64_t noise = dsa_draw(random);

    answer->wanted = asked_for(descriptor, outcome->status);
    answer->address = descriptor->record;
    poison(bytes, random);
    bytes[AT_STATUS] = outcome->status;
    if (noise & 1)
        bytes[AT_STATUS] |= STATUS_NOISE;
    if (outcome->write_bit && (noise & 2))
        bytes[AT_STATUS] |= STATUS_WRITE;
    if (outcome->fields & DSA_FIELD_RESULT)
        bytes[AT_RESULT] = outcome->result;
    if (outcome->fields & DSA_FIELD_COMPLETED)
        memcpy(bytes + AT_COMPLETED, &outcome->completed, sizeof(outcome->completed));
    if (outcome->fields & DSA_FIELD_FLAGS)
        memcpy(bytes + AT_INVALID_FLAGS, &outcome->invalid_flags, 3);
    if (outcome->fields & DSA_FIELD_FAULT) {
        if (!outcome->masked)
            memcpy(bytes + AT_FAULT_ADDRESS, &outcome->fault_address, sizeof(uint64_t));
        if (model->options.version >= 2) {
            uint32_t info = bytes[AT_FAULT_INFO] & 0xf0u;
            info |= (uint32_t)outcome->operand << 1 | (outcome->masked ? FAULT_INFO_MASKED : 0u);
            bytes[AT_FAULT_INFO] = (uint8_t)info;
        }
    }
}

bool dsa_record_write(dsa_model *model, const dsa_answer *answer)
{
    if (!answer->wanted || dsa_memory_write_record(model, answer))
        return true;
    /* The memory went away, or another record was put there, while the operation ran. */
    dsa_count(model, &model->counts.errors, 1);
    dsa_count(model, &model->counts.lost, 1);
    return false;
}
