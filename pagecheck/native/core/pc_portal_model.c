/* Calls of the software device in the place of instructions, fences and system calls. */
#include "pc_portal_model.h"

#include <errno.h>
#include <stdlib.h>

typedef struct pc_portal_model {
    pc_portal head;
    dsa_model *model;
} pc_portal_model;

static dsa_model *pc_model_of(pc_portal *portal)
{
    return ((pc_portal_model *)portal)->model;
}

static long pc_submit_enqcmd(pc_portal *portal, const void *descriptors, size_t count)
{
    dsa_model *model = pc_model_of(portal);
    const unsigned char *descriptor = descriptors;
    size_t taken = 0;
    while (taken < count) {
        dsa_model_fence(model);
        if (dsa_model_enqcmd(model, descriptor + taken * PC_DESCRIPTOR_BYTES))
            break;
        taken++;
    }
    return (long)taken;
}

static long pc_submit_movdir64b(pc_portal *portal, const void *descriptors, size_t count)
{
    dsa_model *model = pc_model_of(portal);
    const unsigned char *descriptor = descriptors;
    for (size_t i = 0; i < count; i++) {
        dsa_model_fence(model);
        dsa_model_movdir64b(model, descriptor + i * PC_DESCRIPTOR_BYTES);
    }
    return (long)count;
}

static long pc_submit_write(pc_portal *portal, const void *descriptors, size_t count)
{
    dsa_model *model = pc_model_of(portal);
    ssize_t wrote;
    if (!pc_portal_is_enabled(portal))
        return 0;
    do {
        dsa_model_fence(model);
        wrote = dsa_model_write(model, descriptors, count * PC_DESCRIPTOR_BYTES);
    } while (wrote == -EINTR);
    if (wrote < 0)
        return wrote == -EAGAIN ? 0 : wrote;
    return wrote / (ssize_t)PC_DESCRIPTOR_BYTES;
}

static int pc_register_model(pc_portal *portal, const void *base, size_t bytes, bool writable)
{
    return dsa_model_register(pc_model_of(portal), base, bytes, writable);
}

static void pc_unregister_model(pc_portal *portal, const void *base)
{
    dsa_model_unregister(pc_model_of(portal), base);
}

static void pc_close_model(pc_portal *portal)
{
    dsa_model_close(pc_model_of(portal));
    free(portal);
}

static bool pc_model_enabled(pc_portal *portal)
{
    return dsa_model_enabled(pc_model_of(portal));
}

#define PC_MODEL_OPS(way, tries)                                                                   \
    {.name = #way,                                                                                 \
     .retries = tries,                                                                             \
     .enabled = pc_model_enabled,                                                                  \
     .submit = pc_submit_##way,                                                                    \
     .register_memory = pc_register_model,                                                         \
     .unregister_memory = pc_unregister_model,                                                     \
     .close = pc_close_model}

static const pc_portal_ops pc_ops_model[] = {
    [DSA_MODEL_SHARED] = PC_MODEL_OPS(enqcmd, 64),
    [DSA_MODEL_DEDICATED] = PC_MODEL_OPS(movdir64b, 0),
    [DSA_MODEL_WRITE] = PC_MODEL_OPS(write, 2),
};

pc_portal *pc_portal_open_model(dsa_model *model, dsa_model_mode mode)
{
    pc_portal_model *portal = malloc(sizeof *portal);
    if (portal == NULL)
        return NULL;
    *portal = (pc_portal_model){.head.ops = &pc_ops_model[mode], .model = model};
    return &portal->head;
}
