/* The portal that calls the software device: it executes what it was given, reads only that memory,
 * and is full as a queue of its mode is. */
#include <errno.h>

#include "portal_fixture.h"

static void test_model(dsa_model_mode mode)
{
    dsa_model_counts counts;
    check_begin();
    work_init();
    dsa_model *model = model_new(mode, PAGES);
    pc_portal *portal = pc_portal_open_model(model, mode);
    CHECK(strcmp(portal->ops->name, mode_name(mode)) == 0, "%s", portal->ops->name);
    CHECK(portal->ops->register_memory(portal, guest, PAGES * PAGE, false) == 0, "give");
    CHECK(portal->ops->register_memory(portal, todo, sizeof *todo, true) == 0, "give");
    if (mode == DSA_MODEL_WRITE) /* version 1: no batches through the kernel */
        CHECK(portal->ops->submit(portal, &todo->batch, 1) == -EINVAL, "a batch");
    else
        check_batch(portal, model);
    CHECK(portal->ops->submit(portal, todo->list, PAGES) == PAGES, "singles");
    while (dsa_model_run(model, 1) != 0) {
    }
    check_records();
    portal->ops->unregister_memory(portal, guest);
    CHECK(portal->ops->submit(portal, todo->list, 1) == 1, "one");
    dsa_model_run(model, 1);
    CHECK(status_of(&todo->records[0]) == DSA_COMP_PAGE_FAULT_NOBOF, "what was taken: status %x",
          status_of(&todo->records[0]));
    dsa_model_count(model, &counts);
    CHECK(counts.errors == (mode == DSA_MODEL_WRITE), "%u errors", (unsigned)counts.errors);
    CHECK(counts.dropped == 0 && counts.retried == 0, "lost or refused");
    portal->ops->close(portal);
    work_deinit();
    check_end("software device", mode_name(mode));
}

static void test_model_full(dsa_model_mode mode)
{
    dsa_model_counts counts;
    check_begin();
    work_init();
    dsa_model *model = model_new(mode, 4);
    pc_portal *portal = pc_portal_open_model(model, mode);
    portal->ops->register_memory(portal, guest, PAGES * PAGE, false);
    portal->ops->register_memory(portal, todo, sizeof *todo, true);
    long taken = portal->ops->submit(portal, todo->list, PAGES);
    dsa_model_count(model, &counts);
    if (mode == DSA_MODEL_DEDICATED) {
        CHECK(taken == PAGES && counts.dropped == PAGES - 4, "%ld taken, %u lost", taken,
              (unsigned)counts.dropped);
    } else {
        CHECK(taken == 4, "%ld taken", taken);
        CHECK(portal->ops->submit(portal, todo->list + 4, PAGES - 4) == 0, "it is full");
    }
    portal->ops->close(portal);
    work_deinit();
    check_end("software device, full", mode_name(mode));
}

/* What is disabled is not written to: a kernel would follow a portal that is gone. */
static void test_model_disabled(dsa_model_mode mode)
{
    dsa_model_counts counts;
    check_begin();
    work_init();
    dsa_model *model = model_new(mode, 4);
    pc_portal *portal = pc_portal_open_model(model, mode);
    CHECK(pc_portal_is_enabled(portal), "not enabled");
    dsa_model_disable(model);
    CHECK(!pc_portal_is_enabled(portal), "still enabled");
    long taken = portal->ops->submit(portal, todo->list, 1);
    CHECK(taken == (mode == DSA_MODEL_DEDICATED), "%ld taken", taken);
    dsa_model_count(model, &counts);
    CHECK(counts.astray == 0, "written to");
    dsa_model_enable(model);
    CHECK(pc_portal_is_enabled(portal), "not enabled again");
    portal->ops->close(portal);
    work_deinit();
    check_end("software device, disabled", mode_name(mode));
}

int main(void)
{
    for (dsa_model_mode mode = DSA_MODEL_SHARED; mode <= DSA_MODEL_WRITE; mode++) {
        test_model(mode);
        test_model_full(mode);
        test_model_disabled(mode);
    }
    return check_summary();
}
