/* A queue that others keep busy has lost nothing: full, it is left alone for a while and tried
 * again for as long as the worker lives; late, it is distinguished from one that loses records. One
 * that is disabled is neither.
 */
#include <fcntl.h>

#include "dsa_script.h"

enum { SOLID = 0xff };

#define BACKOFF_MOST SECOND

static bool full;

static long takes_unless_full(script *s, const hw_desc *list, size_t count)
{
    return full ? 0 : script_take(s, list, count);
}

static void open_full(bench *b, uint32_t batch)
{
    bench_init(b, SOLID);
    bench_open(b, limits_of(64, batch, PAGE));
    b->device.answer = answer_truth;
    b->device.submit = takes_unless_full;
    full = true;
}

/* As if it had been left alone for long enough. */
static void end_backoff(bench *b)
{
    b->dsa.queue->backoff_until_ns = 1;
}

static void test_full(uint32_t batch)
{
    bench b;
    check_begin();
    open_full(&b, batch);
    int64_t last = 0;
    for (int i = 0; i < 200; i++) { /* for hours, by its back-off */
        size_t before = b.device.submits;
        int64_t now = pc_clock_now_ns();
        decide(&b, RAM_PAGES);
        CHECK(b.dsa.queue != NULL, "abandoned after %d tries: end %d", i, b.dsa.end);
        CHECK(b.device.submits - before == 9, "%zu submissions", b.device.submits - before);
        int64_t backoff = b.dsa.queue->backoff_ns;
        CHECK(backoff == (i == 0                    ? SECOND / 1000
                          : last * 2 < BACKOFF_MOST ? last * 2
                                                    : BACKOFF_MOST),
              "back-off %d: %lld ns", i, (long long)backoff);
        CHECK(b.dsa.queue->backoff_until_ns >= now + backoff, "it does not back off");
        last = backoff;
        b.dsa.queue->backoff_until_ns = INT64_MAX; /* the CPU decides meanwhile, without a try */
        before = b.device.submits;
        decide(&b, RAM_PAGES);
        CHECK(b.device.submits == before, "tried during its back-off");
        end_backoff(&b);
    }
    CHECK(b.stats.queue_full == 200 && b.stats.pages_device == 0, "%d times full",
          (int)b.stats.queue_full);
    CHECK(pc_dsa_state(&b.dsa) == PC_QUEUE_UP, "not up");
    CHECK(b.stats.queue_state == (PC_QUEUE_UP | PC_QUEUE_FULL << 8), "state %x",
          (unsigned)b.stats.queue_state);
    full = false;
    decide(&b, RAM_PAGES); /* the first 64 pages are still the CPU's */
    decide(&b, RAM_PAGES);
    CHECK(b.stats.pages_device == 2 * RAM_PAGES - 64, "%d by the device",
          (int)b.stats.pages_device);
    CHECK(pc_dsa_state(&b.dsa) == PC_QUEUE_UP && b.stats.queue_state == PC_QUEUE_UP, "state %x",
          (unsigned)b.stats.queue_state);
    full = true;
    decide(&b, RAM_PAGES);
    CHECK(b.dsa.queue->backoff_ns == SECOND / 1000, "its back-off did not begin anew");
    bench_deinit(&b);
    check_end("a queue that stays full", batch != 0 ? "(batches)" : "(arrays)");
}

/* The back-off ends by the clock, too. */
static void test_backoff_ends(void)
{
    bench b;
    check_begin();
    open_full(&b, 128);
    decide(&b, RAM_PAGES);
    full = false;
    int64_t end = pc_clock_now_ns() + 10 * SECOND;
    while (b.stats.pages_device == 0 && pc_clock_now_ns() < end)
        decide(&b, RAM_PAGES);
    CHECK(b.stats.pages_device > 0, "for ever");
    bench_deinit(&b);
    check_end("a back-off ends", "");
}

/* ---- disabled ---- */

static void test_disabled_takes_nothing(void)
{
    bench b;
    check_begin();
    open_full(&b, 128);
    b.device.disabled = true;
    decide(&b, RAM_PAGES);
    CHECK(b.dsa.queue == NULL && b.dsa.end == PC_QUEUE_DISABLED, "end %d", b.dsa.end);
    CHECK(b.device.asked == 1, "asked %zu times", b.device.asked);
    bench_deinit(&b);
    check_end("a disabled queue is not a full one:", "it takes nothing");
}

/* Nobody asks as long as answers come. */
static void test_state_is_not_asked(void)
{
    bench b;
    check_begin();
    open_full(&b, 128);
    full = false;
    for (int i = 0; i < 10; i++)
        decide(&b, RAM_PAGES);
    CHECK(b.device.asked == 0, "asked %zu times", b.device.asked);
    bench_deinit(&b);
    check_end("the state is asked for a reason", "");
}

/* ---- late ---- */

/* Nothing comes in time; `all` of it, or all but one record, while the queue drains. */
static void test_late(uint32_t batch, bool all, bool disabled)
{
    bench b;
    answer a[3];
    char of[64];
    check_begin();
    bench_init(&b, SOLID);
    bench_open(&b, limits_of(64, batch, PAGE));
    b.device.gated = true;
    b.dsa.queue->limits.deadline_ns = LATE_NS / 10;
    for (int i = 0; i < 3; i++)
        start(&b, &a[i], NULL, 0, 5);
    b.device.disabled = disabled;
    for (int i = 0; i < 3; i++)
        finish(&b, &a[i]);
    CHECK(b.dsa.end == (disabled ? PC_QUEUE_DISABLED : PC_QUEUE_LOST), "end %d", b.dsa.end);
    CHECK(pc_dsa_state(&b.dsa) == PC_QUEUE_DRAINING, "drained");
    for (size_t i = 0; i + !all < b.device.count; i++)
        put_batch(&b.device.kept[i], put_truth);
    sem_post(&b.device.gate);
    int64_t end = pc_clock_now_ns() + 10 * SECOND;
    while (pc_dsa_state(&b.dsa) == PC_QUEUE_DRAINING && pc_clock_now_ns() < end)
        sched_yield();
    pc_queue_end expected = disabled ? PC_QUEUE_DISABLED : all ? PC_QUEUE_LATE : PC_QUEUE_LOST;
    CHECK(b.dsa.end == expected, "end %d, not %d", b.dsa.end, expected);
    CHECK(b.stats.queue_state == (PC_QUEUE_NONE | (unsigned)expected << 8), "state %x",
          (unsigned)b.stats.queue_state);
    bench_deinit(&b);
    snprintf(of, sizeof of, "%s%s %s", disabled ? "disabled, " : "",
             all ? "all come" : "one is lost", batch != 0 ? "(batches)" : "(arrays)");
    check_end("records after the deadline:", of);
}

/* ---- the attribute in sysfs, and write(2) ---- */

static int state_file(const char *text)
{
    int fd = memfd_create("state", MFD_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        abort();
    return fd;
}

static void test_state_text(const char *text, bool enabled)
{
    int ends[2];
    check_begin();
    CHECK(pipe2(ends, O_NONBLOCK) == 0, "errno %d", errno);
    pc_portal *portal = pc_portal_open_write(ends[1]);
    CHECK(pc_portal_is_enabled(portal), "where nothing is known");
    int fd = state_file(text);
    CHECK(pc_portal_set_state(portal, fd), "errno %d", errno);
    close(fd);
    CHECK(pc_portal_is_enabled(portal) == enabled, "%s", text);
    portal->ops->close(portal);
    close(ends[0]);
    check_end("the state in sysfs:", enabled ? "enabled" : "not enabled");
}

static void test_state_errors(void)
{
    int ends[2];
    check_begin();
    CHECK(pipe2(ends, O_NONBLOCK) == 0, "errno %d", errno);
    pc_portal *portal = pc_portal_open_write(ends[1]);
    CHECK(!pc_portal_set_state(portal, -1) && errno == EBADF, "errno %d", errno);
    CHECK(pc_portal_set_state(portal, ends[0]), "errno %d", errno); /* which has no place to read */
    CHECK(!pc_portal_is_enabled(portal), "a device that is gone");
    portal->ops->close(portal);
    close(ends[0]);
    check_end("the state in sysfs:", "cannot be read");
}

/* By write(2): three calls for a full queue, none for a disabled one. A pipe is the node. */
static void test_write(const char *state, uint64_t tries, pc_queue_end end)
{
    static const unsigned char bytes[4096];
    unsigned char got[64];
    int ends[2];
    bench b;
    check_begin();
    bench_init(&b, SOLID);
    CHECK(pipe2(ends, O_NONBLOCK) == 0, "errno %d", errno);
    bool disabled = end == PC_QUEUE_DISABLED;
    while (!disabled && write(ends[1], bytes, sizeof bytes) > 0) {
    }
    pc_portal *portal = pc_portal_open_write(ends[1]);
    int fd = state_file(state);
    CHECK(pc_portal_set_state(portal, fd), "errno %d", errno);
    close(fd);
    const pc_dsa_limits limits = limits_of(64, 0, PAGE);
    CHECK(pc_dsa_open(&b.dsa, portal, &limits), "not opened");
    decide(&b, 20);
    CHECK(b.stats.retries == tries, "%d tries", (int)b.stats.retries);
    CHECK((b.dsa.queue == NULL) == disabled && b.dsa.end == end, "end %d", b.dsa.end);
    /* Nothing yet, or the end: it is closed by a thread of its own. */
    CHECK(!disabled || read(ends[0], got, sizeof got) <= 0, "something was written");
    CHECK(pc_dsa_deinit(&b.dsa, pc_clock_now_ns() + 5 * SECOND), "it does not drain");
    close(ends[0]);
    script_init(&b.device);
    bench_deinit(&b);
    check_end("write(2):", state[0] == 'e' ? "full" : "disabled");
}

int main(void)
{
    for (uint32_t batch = 0; batch <= 128; batch += 128) {
        test_full(batch);
        test_late(batch, true, false);
        test_late(batch, false, false);
        test_late(batch, true, true);
    }
    test_backoff_ends();
    test_disabled_takes_nothing();
    test_state_is_not_asked();
    test_state_text("enabled\n", true);
    test_state_text("disabled\n", false);
    test_state_text("enabled", false);
    test_state_text("enabled\nx", false);
    test_state_text("locked\n", false);
    test_state_text("", false);
    test_state_errors();
    test_write("enabled\n", 3, PC_QUEUE_CLOSED);
    test_write("disabled\n", 3, PC_QUEUE_DISABLED);
    return check_summary();
}
