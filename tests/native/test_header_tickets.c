/* include/pagecheck.h: a ticket that is late, lost or another channel's is nobody's answer. */
#include "header_fixture.h"

static const uint64_t ALL = ~UINT64_C(0);

/* Waits for a ticket that is not out, with words that look like an answer. */
static void expect_nobody(pair *p, uint64_t ticket, uint32_t words, const char *what)
{
    uint64_t zero[3] = {ALL, ALL, ALL}, decided[3] = {ALL, ALL, ALL};
    int code = pagecheck_wait(&p->channel, ticket, 0, zero, decided);
    CHECK(code == -EINVAL, "%s: %d", what, code);
    for (uint32_t i = 0; i < 3; i++) {
        CHECK(zero[i] == (i < words ? 0 : ALL), "%s: zero[%u]", what, i);
        CHECK(decided[i] == (i < words ? 0 : ALL), "%s: decided[%u]", what, i);
    }
    CHECK(pagecheck_forget(&p->channel, ticket) == -EINVAL, "%s: forgotten", what);
}

static uint64_t taken(pair *p, uint32_t count)
{
    uint64_t ticket, zero[2], decided[2];
    CHECK(pagecheck_submit_range(&p->channel, 0, 0, count, &ticket) == 0, "submit");
    answer_now(p);
    CHECK(pagecheck_wait(&p->channel, ticket, 0, zero, decided) == 0, "%s", p->channel.error);
    return ticket;
}

static void test_old_tickets(void)
{
    int ram = new_ram();
    pair p;
    uint64_t tickets[3 * SLOTS];
    pair_init(ram, &p);
    check_begin();
    for (unsigned i = 0; i < 3 * SLOTS; i++)
        tickets[i] = taken(&p, i % 2 == 0 ? 128 : 64);
    for (unsigned i = 0; i < 3 * SLOTS; i++)
        expect_nobody(&p, tickets[i], i % 2 == 0 ? 2 : 1, "a ticket that was taken");
    expect_nobody(&p, 0, 1, "ticket 0");
    expect_nobody(&p, ALL, 1, "no ticket");
    uint64_t state = 7;
    for (int i = 0; i < 10000; i++) {
        uint64_t zero[1024], decided[1024];
        CHECK(pagecheck_wait(&p.channel, check_random(&state), 0, zero, decided) == -EINVAL, "%d",
              i);
    }
    pair_deinit(&p);
    check_end("old tickets leave no answer behind, however old", "");
    close(ram);
}

static void test_largest_batch(void)
{
    static uint64_t zero[1025], decided[1025];
    pagecheck_channel channel;
    uint64_t ticket;
    int fd = new_segment(1, PAGECHECK_SLOT_PAGES_MAX, SEALS), code = 0;
    check_begin();
    CHECK(pagecheck_channel_map(fd, &channel) == 0, "%s", channel.error);
    CHECK(pagecheck_submit_range(&channel, 0, 0, 65537, &ticket) == -EINVAL, "too many");
    CHECK(pagecheck_submit_range(&channel, 0, 0, 65536, &ticket) == 0, "%s", channel.error);
    for (int expected = -ETIMEDOUT; code != -EINVAL; expected = -EINVAL) {
        memset(zero, 0xff, sizeof zero);
        memset(decided, 0xff, sizeof decided);
        code = pagecheck_wait(&channel, ticket, 0, zero, decided);
        CHECK(code == expected, "%d: %s", code, channel.error);
        for (uint32_t i = 0; i < 1025; i++)
            CHECK((zero[i] | decided[i]) == (i < 1024 ? 0 : ALL), "word %" PRIu32, i);
        pagecheck_forget(&channel, ticket);
    }
    pagecheck_channel_unmap(&channel);
    check_end("the largest batch", "");
    close(fd);
}

/* The VMM waits for a batch of a channel that it closed, when another one is in its place: all
 * pages of that one's batch are zero. */
static void test_strangers(void)
{
    int ram = new_ram(), empty = ram_file(PAGES, 0, 0);
    pair p, other;
    uint64_t late_one, ticket, zero[2], decided[2];
    pair_init(ram, &p);
    check_begin();
    CHECK(pagecheck_submit_range(&p.channel, 0, 0, 128, &late_one) == 0, "submit");
    pair_deinit(&p);
    for (int i = 0; i < 1000; i++) {
        pair_init(empty, &p);
        CHECK(pagecheck_submit_range(&p.channel, 0, 0, 128, &ticket) == 0, "submit");
        answer_now(&p);
        CHECK(ticket != late_one, "the same ticket");
        expect_nobody(&p, late_one, 2, "a ticket of the channel before");
        CHECK(pagecheck_wait(&p.channel, ticket, 0, zero, decided) == 0, "%s", p.channel.error);
        if (i < 999)
            pair_deinit(&p);
    }
    pair_init(ram, &other);
    CHECK(pagecheck_submit_range(&other.channel, 0, 0, 128, &ticket) == 0, "submit");
    expect_nobody(&p, ticket, 2, "a ticket of the channel beside");
    pair_deinit(&other);
    pair_deinit(&p);
    check_end("a late ticket meets no stranger", "");
    close(ram);
    close(empty);
}

/* Serial numbers have 36 bits: on their way around nothing is mistaken. */
static void test_around(void)
{
    int ram = new_ram();
    pair p;
    uint64_t before[SLOTS], ticket, zero[2], decided[2];
    pair_init(ram, &p);
    p.channel.first = ALL - 3 * SLOTS;
    check_begin();
    for (int round = 0; round < 8; round++) {
        for (unsigned i = 0; i < SLOTS; i++)
            CHECK(pagecheck_submit_range(&p.channel, 0, 63 + i, 1, &before[i]) == 0, "submit");
        answer_now(&p);
        for (unsigned i = SLOTS; i-- > 0;) {
            CHECK(pagecheck_wait(&p.channel, before[i], 0, zero, decided) == 0, "%s",
                  p.channel.error);
            CHECK(zero[0] == (uint64_t)(i > 1), "page %u", 63 + i);
            CHECK(before[i] != 0, "a ticket is 0");
        }
    }
    p.channel.first = PGCK_SERIALS - p.channel.submitted - 1; /* the next one's is -1, then 0 */
    for (int i = 0; i < 4; i++) {
        ticket = taken(&p, 1);
        CHECK(ticket != 0, "a ticket is 0");
    }
    pair_deinit(&p);
    check_end("serial numbers go around", "");
    close(ram);
}

/* As the example in the header does: what it does not forget holds its slot for ever. */
static void test_lost_tickets(bool forgets)
{
    int ram = new_ram(), fulls = 0;
    pair p;
    uint64_t ticket, zero[2], decided[2];
    pair_init(ram, &p);
    check_begin();
    for (unsigned i = 0; i < 3 * SLOTS; i++) { /* nobody answers yet */
        int code = pagecheck_submit_range(&p.channel, 0, 0, 1, &ticket);
        CHECK(code == (i < SLOTS ? 0 : -EAGAIN), "submit %u: %d", i, code);
        if (code == 0)
            code = pagecheck_wait(&p.channel, ticket, 0, zero, decided);
        if (code == -ETIMEDOUT && forgets)
            pagecheck_forget(&p.channel, ticket);
    }
    for (unsigned i = 0; i < 3 * SLOTS; i++) { /* the worker is back */
        int code = pagecheck_submit_range(&p.channel, 0, 0, 1, &ticket);
        fulls += code == -EAGAIN;
        answer_now(&p);
        if (code == 0)
            CHECK(pagecheck_wait(&p.channel, ticket, 0, zero, decided) == 0, "%s", p.channel.error);
    }
    CHECK(forgets ? fulls <= 1 : fulls == 3 * SLOTS, "%d times full", fulls);
    pair_deinit(&p);
    check_end("tickets that are late,", forgets ? "forgotten" : "and lost");
    close(ram);
}

int main(void)
{
    test_old_tickets();
    test_largest_batch();
    test_strangers();
    test_around();
    test_lost_tickets(true);
    test_lost_tickets(false);
    return check_summary();
}
