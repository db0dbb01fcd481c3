/* Stores that are not visible yet (plan "store-order").
 *
 * Facts: ENQCMD, MOVDIR64B and the kernel's ENQCMDS may pass older stores of the CPU that executes
 * them, unless it passes a store fence in between. The 64 bytes themselves are read by that CPU and
 * are always its newest.
 * Decision: of memory that the submitter may write, the model keeps what it was at the last fence.
 * A descriptor that comes in is given that: its list, and the status of the records that it names.
 * It sees nothing later, so a submitter that leaves a fence out gets answers for its last
 * list, or loses records.
 */
#include <stdlib.h>
#include <string.h>

#include "dsa_model_fence.h"

/* The device writes records meanwhile; each byte is one that was there at some moment. */
static void copy_bytes(void *to, uint64_t from, uint64_t bytes)
{
    uint8_t *copy = to;
    const uint8_t *now = (const uint8_t *)(uintptr_t)from;

    for (uint64_t i = 0; i < bytes; i++)
        copy[i] = __atomic_load_n(now + i, __ATOMIC_RELAXED);
}

void dsa_model_fence(dsa_model *model)
{
    if (model->plan.one_in[DSA_FAULT_STORE_ORDER] == 0) /* fixed when the model was opened */
        return;
    pthread_mutex_lock(&model->lock);
    for (uint32_t i = 0; i < model->range_count; i++) {
        dsa_range *range = &model->ranges[i];
        if (range->fenced != NULL && range->bytes != 0 && !range->taken)
            copy_bytes(range->fenced, range->base, range->bytes);
    }
    pthread_mutex_unlock(&model->lock);
}

/* The bytes at `address` at the last fence; NULL: they are not kept. */
static const uint8_t *fenced_at(const dsa_model *model, uint64_t address, uint64_t bytes)
{
    for (uint32_t i = 0; i < model->range_count; i++) {
        const dsa_range *range = &model->ranges[i];
        if (range->fenced != NULL && range->bytes != 0 && address >= range->base &&
            address - range->base <= range->bytes &&
            bytes <= range->bytes - (address - range->base))
            return range->fenced + (address - range->base);
    }
    return NULL;
}

static uint8_t fenced_status(const dsa_model *model, uint64_t record)
{
    const uint8_t *at = fenced_at(model, record, DSA_RECORD_BYTES);

    return at != NULL ? *at : 0;
}

void dsa_view_take(dsa_model *model, const dsa_descriptor *descriptor, dsa_view *view)
{
    uint64_t bytes = (uint64_t)descriptor->size * DSA_DESCRIPTOR_BYTES;
    const uint8_t *list;

    view->status = fenced_status(model, descriptor->record);
    if (dsa_opcode_of(descriptor) != DSA_BATCH || descriptor->size > DSA_MAX_BATCH)
        return;
    list = fenced_at(model, descriptor->source, bytes);
    if (list == NULL)
        return;
    view->list = malloc(bytes);
    view->statuses = malloc(descriptor->size);
    if (view->list == NULL || view->statuses == NULL) { /* then it is seen as it is */
        dsa_view_drop(view);
        return;
    }
    memcpy(view->list, list, bytes);
    for (uint32_t i = 0; i < descriptor->size; i++)
        view->statuses[i] = fenced_status(model, view->list[i].record);
}

void dsa_view_drop(dsa_view *view)
{
    free(view->list);
    free(view->statuses);
    *view = (dsa_view){.list = NULL};
}
