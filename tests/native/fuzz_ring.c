/* A ring whose other side is hostile: what the bytes of the input leave in its words reaches
 * neither memory outside, nor an answer that is not right. Input: which side, then the bytes of the
 * words. */
#include "fuzz.h"
#include "header_fixture.h"
#include "pc_bits.h"

enum { RAM_PAGES = 256 };

static int ram = -1;
static bool normal_page[RAM_PAGES];

/* Every third page has data, every third is written with zeros, the others are holes. */
static void make_ram(void)
{
    static const char zeros[PAGE];
    ram = memfd_create("ram", MFD_CLOEXEC);
    FUZZ_REQUIRE(ram >= 0 && ftruncate(ram, RAM_PAGES * PAGE) == 0);
    for (uint64_t i = 0; i < RAM_PAGES; i++) {
        normal_page[i] = i % 3 == 0;
        if (i % 3 != 2)
            FUZZ_REQUIRE(pwrite(ram, zeros, PAGE, (off_t)(i * PAGE)) == PAGE);
        if (normal_page[i])
            FUZZ_REQUIRE(pwrite(ram, "x", 1, (off_t)(i * PAGE + i * 13 % PAGE)) == 1);
    }
}

/* The bytes over a part of a slot, or of the header's words behind its constants. */
static void poke(const pgck_ring *ring, fuzz_input *input)
{
    unsigned char *at = (unsigned char *)(ring->header + 1);
    size_t room = ring->slots * ring->slot_bytes, start = fuzz_draw(input) % room / 8 * 8;
    uint32_t bytes = fuzz_draw(input) % 256;
    if (bytes == 255) { /* but not who sleeps: that is the test's own thread */
        at = (unsigned char *)&ring->header->wake_at;
        room = sizeof *ring->header - offsetof(struct pagecheck_ring_header, wake_at);
        start = 0;
    }
    fuzz_take(input, at + start, bytes < room - start ? bytes : room - start);
}

/* Where the answer to a request that the worker copied says zero, the page is zero. */
static void check_slot(const pgck_ring *ring, uint64_t sequence, const struct pagecheck_slot *asked,
                       const uint64_t *offsets)
{
    struct pagecheck_slot *slot = pgck_slot(ring, sequence);
    uint64_t zero[SLOT_PAGES / 64], decided[SLOT_PAGES / 64];
    if (pgck_ring_look(ring, sequence) != PGCK_ANSWER_DONE)
        return;
    FUZZ_REQUIRE(asked->count != 0 && asked->count <= SLOT_PAGES && asked->block == 0);
    FUZZ_REQUIRE(pgck_ring_copy(ring, sequence, asked->count, zero, decided));
    for (uint32_t i = 0; i < asked->count; i++) {
        bool range = asked->kind == PAGECHECK_PAGES_RANGE;
        uint64_t page = range ? asked->first_page + i : offsets[i] / PAGE;
        FUZZ_REQUIRE(page < RAM_PAGES && (range || offsets[i] % PAGE == 0));
        FUZZ_REQUIRE(pc_bits_test(decided, i) && pc_bits_test(zero, i) != normal_page[page]);
    }
    FUZZ_REQUIRE(slot->refusal == 0);
}

/* The submitter is hostile. */
static void attack_worker(fuzz_input *input)
{
    pc_ring ours, theirs;
    pc_worker worker;
    ring_sides(SLOTS, &ours, &theirs);
    FUZZ_REQUIRE(pc_worker_init(&theirs, pc_kernel_auto(), &worker));
    pc_file_block block = ram_block(ram, RAM_PAGES, PC_BLOCK_TRUST_HOLES, false);
    worker.blocks[0] = &block.head;
    for (uint64_t sequence = 1; input->left > 0 && sequence < 64; sequence++) {
        struct pagecheck_slot *slot = pgck_slot(&ours.shared, sequence);
        poke(&ours.shared, input);
        slot->kind = fuzz_draw(input) % 4;
        slot->count = fuzz_draw(input) % (SLOT_PAGES + 8);
        if (fuzz_draw(input) % 4 != 0) {
            slot->block = 0;
            slot->first_page %= RAM_PAGES + 8;
            for (uint32_t i = 0; fuzz_draw(input) % 4 != 0 && i < SLOT_PAGES; i++)
                pgck_slot_offsets(slot)[i] %= RAM_PAGES;
            for (uint32_t i = 0; i < SLOT_PAGES; i++)
                pgck_slot_offsets(slot)[i] *= PAGE;
        }
        ours.shared.header->wake_at = UINT64_MAX;
        slot->request = sequence << 8 | PAGECHECK_REQUEST_SUBMITTED;
        struct pagecheck_slot asked = *slot;
        uint64_t offsets[SLOT_PAGES];
        memcpy(offsets, pgck_slot_offsets(slot), sizeof offsets);
        FUZZ_REQUIRE(pc_worker_serve(&worker, 0) == PC_SERVE_TIMEOUT);
        check_slot(&ours.shared, sequence, &asked, offsets);
    }
    memset(worker.blocks, 0, sizeof worker.blocks);
    pc_worker_deinit(&worker, 0);
    pc_ring_close(&ours);
}

/* Answers with the sequence that is waited for, now and then. */
static void answer(const pgck_ring *ring, uint64_t sequence, fuzz_input *input)
{
    poke(ring, input);
    if (fuzz_draw(input) % 4 == 0)
        return;
    struct pagecheck_slot *slot = pgck_slot(ring, sequence);
    uint64_t *zero = pgck_slot_zero(slot, SLOT_PAGES);
    uint64_t *decided = pgck_slot_decided(slot, SLOT_PAGES);
    for (uint32_t i = 0; fuzz_draw(input) % 4 != 0 && i < SLOT_PAGES / 64; i++)
        zero[i] &= decided[i];
    slot->answer = (sequence + fuzz_draw(input) % 8 / 7) << 8 | fuzz_draw(input) % 8 / 6 |
                   PAGECHECK_ANSWER_DONE;
}

/* The worker is hostile, to a coordinator. */
static void attack_feed(fuzz_input *input)
{
    pc_ring ours, theirs;
    pc_feed feed;
    uint64_t zero[RAM_PAGES / 64 + 2] = {0}, normal[RAM_PAGES / 64 + 2] = {0};
    uint32_t batch = 1 + fuzz_draw(input) % SLOT_PAGES, pages = 1 + fuzz_draw(input) % RAM_PAGES;
    const pc_job job = {.batch_pages = batch, .zero_bits = zero, .normal_bits = normal};
    pc_pump state = PC_PUMP_TIMEOUT;
    ring_sides(SLOTS, &ours, &theirs);
    FUZZ_REQUIRE(pc_feed_init(&ours, &feed));
    pc_feed_begin(&feed, &job);
    pc_feed_more(&feed, 0, pages);
    while (state == PC_PUMP_TIMEOUT && input->left > 0) {
        if ((state = pc_feed_pump(&feed, false, 0)) == PC_PUMP_TIMEOUT)
            answer(&theirs.shared, feed.collected + 1, input);
    }
    pc_feed_abandon(&feed);
    uint64_t published = pc_bits_count(zero, pages) + pc_bits_count(normal, pages);
    for (uint32_t i = 0; i < RAM_PAGES + 128; i++) {
        FUZZ_REQUIRE(!pc_bits_test(zero, i) || !pc_bits_test(normal, i));
        FUZZ_REQUIRE(i < pages || (!pc_bits_test(zero, i) && !pc_bits_test(normal, i)));
    }
    FUZZ_REQUIRE(published == feed.pages_decided);
    FUZZ_REQUIRE(state == PC_PUMP_BROKEN || feed.pages_decided + feed.pages_undecided == pages);
    pc_feed_deinit(&feed);
    pc_ring_close(&theirs);
}

/* The worker is hostile, to a VMM. */
static void attack_channel(fuzz_input *input)
{
    pagecheck_channel channel;
    int fd = new_segment(SLOTS, SLOT_PAGES, SEALS);
    FUZZ_REQUIRE(pagecheck_channel_map(fd, &channel) == 0);
    close(fd);
    while (input->left > 0) {
        uint64_t ticket = 0, zero[SLOT_PAGES / 64 + 1], decided[SLOT_PAGES / 64 + 1];
        uint32_t count = fuzz_draw(input) % (SLOT_PAGES + 2);
        memset(zero, 0xee, sizeof zero);
        memset(decided, 0xee, sizeof decided);
        int code = pagecheck_submit_range(&channel, 0, 0, count, &ticket);
        FUZZ_REQUIRE((code == 0) == (ticket != 0));
        answer(&channel.ring, channel.submitted, input);
        ticket = fuzz_draw(input) % 8 == 0 ? fuzz_draw(input) : ticket;
        code = pagecheck_wait(&channel, ticket, 0, zero, decided);
        FUZZ_REQUIRE(code != 0 || (count != 0 && count <= SLOT_PAGES));
        for (uint32_t i = 0; i < SLOT_PAGES + 64; i++) {
            bool inside = i / 64 < pgck_words(ticket);
            FUZZ_REQUIRE(inside || pc_bits_get(zero, i, 1) == (0xee >> i % 8 & 1));
            FUZZ_REQUIRE(!inside || !pc_bits_test(zero, i) || pc_bits_test(decided, i));
            FUZZ_REQUIRE(!inside || !pc_bits_test(decided, i) || (code == 0 && i < count));
        }
        if (ticket != 0 && code == -ETIMEDOUT && fuzz_draw(input) % 2 == 0)
            pagecheck_forget(&channel, ticket);
    }
    pagecheck_channel_unmap(&channel);
}

/* A header of any content is refused, or its slots are inside the file. */
static void attack_header(fuzz_input *input)
{
    struct pagecheck_ring_header header;
    pgck_ring ring;
    FUZZ_REQUIRE(pc_ring_format(&header, sizeof header, 0, 0, 1) == false);
    memset(&header, 0, sizeof header);
    header.magic = PAGECHECK_SEGMENT_MAGIC;
    header.layout_version = PAGECHECK_LAYOUT_VERSION;
    header.header_bytes = sizeof header;
    header.slot_count = fuzz_draw(input);
    header.slot_pages = fuzz_draw(input) * 64;
    header.slot_bytes = pgck_slot_bytes(header.slot_pages);
    header.segment_bytes = pgck_segment_bytes(header.slot_count, header.slot_pages);
    uint64_t bytes = header.segment_bytes + fuzz_draw(input) % 3 - 1;
    size_t at = fuzz_draw(input) % sizeof header;
    fuzz_take(input, (unsigned char *)&header + at, sizeof header - at);
    if (pgck_ring_init(&header, bytes, &ring) != NULL)
        return;
    FUZZ_REQUIRE(pgck_ring_fits(ring.slots, ring.slot_pages));
    FUZZ_REQUIRE(sizeof header + ring.slots * ring.slot_bytes <= bytes);
    FUZZ_REQUIRE(sizeof(struct pagecheck_slot) + ring.slot_pages * 8u +
                     ring.slot_pages / 64u * 16u <=
                 ring.slot_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const attacks[])(fuzz_input *) = {attack_worker, attack_feed, attack_channel,
                                                    attack_header};
    fuzz_input input = {data, size};
    if (ram < 0) {
        FUZZ_REQUIRE(pc_guard_install());
        make_ram();
    }
    attacks[fuzz_draw(&input) % 4](&input);
    return 0;
}
