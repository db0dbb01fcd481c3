/* Every kernel that this CPU can run, against a byte-by-byte answer. */
#include <string.h>

#include "kernel_fixture.h"

enum { MAX_COUNT = 200 };

static void check_lengths_at(const pc_kernel *kernel, unsigned char *bytes, size_t length)
{
    memset(bytes - 64, 0xff, length + 128);
    memset(bytes, 0, length);
    CHECK(kernel->is_zero(bytes, length), "%zu zero bytes", length);
    for (size_t place = 0; place < length; place++) {
        for (size_t v = 0; v < sizeof values; v++) {
            bytes[place] = values[v];
            CHECK(!kernel->is_zero(bytes, length), "%zu bytes, %#x at %zu", length, values[v],
                  place);
        }
        bytes[place] = 0;
    }
}

/* Every place of the one non-zero byte, among guards that are not zero. */
static void test_lengths(const pc_kernel *kernel)
{
    static const size_t alignments[] = {0, 1, 7, 8, 15, 31, 33, 63};
    static const size_t longer[] = {383, 384, 385, 511, 512, 513, 1000, 4095, 4096, 4097};
    _Alignas(64) static unsigned char memory[64 + 64 + 4097 + 64];
    for (size_t a = 0; a < sizeof alignments / sizeof alignments[0]; a++) {
        unsigned char *bytes = memory + 64 + alignments[a];
        for (size_t length = 0; length < 260; length++) {
            check_lengths_at(kernel, bytes, length);
        }
        for (size_t i = 0; i < sizeof longer / sizeof longer[0]; i++) {
            check_lengths_at(kernel, bytes, longer[i]);
        }
    }
}

/* Every place of a page, that page being each of a batch in turn. */
static void test_places(const pc_kernel *kernel)
{
    enum { PAGES = 9 }; /* one more than a power of two of streams */
    static const size_t alignments[] = {0, 1, 17, 4095};
    static unsigned char memory[4096 + PAGES * SMALL];
    for (size_t a = 0; a < sizeof alignments / sizeof alignments[0]; a++) {
        const pc_pages pages = {
            .base = memory, .first = alignments[a], .count = PAGES, .page_bytes = SMALL};
        for (size_t place = 0; place < SMALL; place++) {
            const size_t marked = (place + place / PAGES) % PAGES;
            unsigned char *byte = memory + alignments[a] + marked * SMALL + place;
            *byte = values[place / 2 % 2];
            const uint64_t expected = ((1u << PAGES) - 1) & ~((uint64_t)1 << marked);
            CHECK(kernel->zero_pages(&pages, 0, PAGES) == expected, "place %zu of page %zu", place,
                  marked);
            *byte = 0;
        }
    }
}

/* Zero pages, pages with one non-zero byte somewhere, pages full of them. */
static void fill(unsigned char *memory, size_t pages, size_t page_bytes, uint64_t *state)
{
    memset(memory, 0, pages * page_bytes);
    const uint64_t zero_share = check_random(state) % 5; /* of 4 */
    for (size_t i = 0; i < pages; i++) {
        unsigned char *page = memory + i * page_bytes;
        if (check_random(state) % 4 < zero_share) {
            continue;
        }
        if (check_random(state) % 4 == 0) {
            memset(page, (int)(check_random(state) & 0xff), page_bytes);
        } else {
            page[check_random(state) % page_bytes] = values[check_random(state) % 2];
        }
    }
}

static void check_world(const pc_kernel *kernel, unsigned char *memory, size_t bytes,
                        size_t page_bytes, size_t count, uint64_t *state)
{
    const size_t held = bytes / page_bytes;
    const size_t misaligned = check_random(state) % 2 ? check_random(state) % 64 : 0;
    uint64_t offsets[MAX_COUNT];
    fill(memory + misaligned, held, page_bytes, state);
    for (size_t i = 0; i < count; i++) {
        offsets[i] = check_random(state) % held * page_bytes; /* any order, duplicates */
    }
    pc_pages pages = {
        .base = memory + misaligned, .offsets = offsets, .count = count, .page_bytes = page_bytes};
    check_batch(kernel, &pages, state);
    pages.offsets = NULL;
    pages.count = count < held ? count : held;
    pages.first = check_random(state) % (held - pages.count + 1) * page_bytes;
    check_batch(kernel, &pages, state);
}

/* Random worlds: offsets and ranges, all counts, more pages than one group. */
static void test_batches(const pc_kernel *kernel)
{
    enum { BYTES = 80 * 16384 };
    static const size_t page_sizes[] = {4096, 8192, 16384, 36864, 65536};
    unsigned char *memory = malloc(BYTES + 64);
    uint64_t state = 1;
    for (size_t count = 1; count <= MAX_COUNT; count += count < 70 ? 1 : 13) {
        for (size_t p = 0; p < sizeof page_sizes / sizeof page_sizes[0]; p++) {
            check_world(kernel, memory, p ? BYTES : BYTES / 4, page_sizes[p], count, &state);
        }
    }
    free(memory);
}

/* A load outside a page ends the process here. */
static void test_fences(const pc_kernel *kernel)
{
    static const size_t page_sizes[] = {4096, 16384, 2u << 20};
    for (size_t p = 0; p < sizeof page_sizes / sizeof page_sizes[0]; p++) {
        const size_t length = page_sizes[p];
        unsigned char *page = map_fenced(length);
        const uint64_t offsets[3] = {0, 0, 0};
        const pc_pages pages = {.base = page, .offsets = offsets, .count = 3, .page_bytes = length};
        CHECK(kernel->zero_pages(&pages, 0, 1) == 1, "one page of %zu", length);
        CHECK(kernel->zero_pages(&pages, 0, 3) == 7, "three pages of %zu", length);
        for (size_t near = 0; near < 300; near++) {
            CHECK(kernel->is_zero(page, near), "%zu bytes from the start", near);
            CHECK(kernel->is_zero(page + length - near, near), "%zu bytes to the end", near);
        }
        page[length - 1] = 1;
        CHECK(kernel->zero_pages(&pages, 0, 3) == 0, "last byte of %zu", length);
        unmap_fenced(page, length);
    }
}

/* Two large pages; places on both sides of every boundary of 4096 bytes. */
static void test_large(const pc_kernel *kernel)
{
    enum { LARGE = 2 << 20 };
    unsigned char *memory = map_fenced(2 * LARGE);
    const pc_pages pages = {.base = memory, .count = 2, .page_bytes = LARGE};
    CHECK(kernel->zero_pages(&pages, 0, 2) == 3, "all zero");
    for (size_t at = 0; at < 2 * LARGE; at += SMALL) {
        const size_t place[] = {at, at + 1000, at + SMALL - 1};
        for (size_t i = 0; i < 3; i++) {
            memory[place[i]] = values[i % 2];
            CHECK(kernel->zero_pages(&pages, 0, 2) == (at < LARGE ? 2u : 1u), "byte %zu", place[i]);
            memory[place[i]] = 0;
        }
    }
    unmap_fenced(memory, 2 * LARGE);
}

/* Prefetching pages to come must not fault, whatever their offsets are. */
static void test_prefetch(const pc_kernel *kernel)
{
    unsigned char *page = map_fenced(SMALL);
    uint64_t offsets[MAX_COUNT];
    for (size_t i = 0; i < MAX_COUNT; i++) {
        offsets[i] = i == 0 ? 0 : (uint64_t)i << 40;
    }
    const pc_pages pages = {
        .base = page, .offsets = offsets, .count = MAX_COUNT, .page_bytes = SMALL};
    CHECK(kernel->zero_pages(&pages, 0, 1) == 1, "zero page before unmapped ones");
    CHECK(kernel->zero_pages(&pages, 0, 0) == 0, "no page");
    page[9] = 1;
    CHECK(kernel->zero_pages(&pages, 0, 1) == 0, "normal page before unmapped ones");
    unmap_fenced(page, SMALL);
}

static void test_self_check(const pc_kernel *kernel)
{
    CHECK(pc_kernel_self_check(kernel), "%s", kernel->name);
}

/* Kernels with one fault each, which the self-check must find. */

static uint64_t naive_group(const pc_pages *pages, size_t begin, size_t end)
{
    return naive_zero_pages(pages, begin, end);
}

static bool naive_any(const void *bytes, size_t length)
{
    return naive_is_zero(bytes, length);
}

static bool blind_to_last_byte(const void *bytes, size_t length)
{
    return naive_is_zero(bytes, length ? length - 1 : 0);
}

static bool reads_past_the_end(const void *bytes, size_t length)
{
    return naive_is_zero(bytes, length + 1);
}

static uint64_t blind_to_byte_2049(const pc_pages *pages, size_t begin, size_t end)
{
    uint64_t zero = 0;
    for (size_t i = begin; i < end; i++) {
        const unsigned char *page = pages->base + page_offset(pages, i);
        const bool one = naive_is_zero(page, 2049) && naive_is_zero(page + 2050, SMALL - 2050);
        zero |= (uint64_t)one << (i - begin);
    }
    return zero;
}

static uint64_t reads_before_the_page(const pc_pages *pages, size_t begin, size_t end)
{
    pc_pages moved = *pages;
    moved.base--;
    return naive_zero_pages(&moved, begin, end);
}

static uint64_t takes_a_run_for_its_first_page(const pc_pages *pages, size_t begin, size_t end)
{
    const uint64_t zero = naive_zero_pages(pages, begin, end);
    const uint64_t all = ((uint64_t)1 << (end - begin)) - 1;
    return !pages->offsets && (zero & 1) ? all : zero;
}

static uint64_t mixes_up_the_order(const pc_pages *pages, size_t begin, size_t end)
{
    const uint64_t zero = naive_zero_pages(pages, begin, end);
    return zero >> 1 | (zero & 1) << (end - begin - 1);
}

static void test_faults_are_found(void)
{
    static const pc_kernel faulty[] = {
        {.name = "is_zero, last byte", .is_zero = blind_to_last_byte, .zero_pages = naive_group},
        {.name = "is_zero, over-read", .is_zero = reads_past_the_end, .zero_pages = naive_group},
        {.name = "byte 2049", .is_zero = naive_any, .zero_pages = blind_to_byte_2049},
        {.name = "under-read", .is_zero = naive_any, .zero_pages = reads_before_the_page},
        {.name = "run", .is_zero = naive_any, .zero_pages = takes_a_run_for_its_first_page},
        {.name = "order", .is_zero = naive_any, .zero_pages = mixes_up_the_order},
    };
    static const pc_kernel sound = {.is_zero = naive_any, .zero_pages = naive_group};
    CHECK(pc_kernel_self_check(&sound), "a sound kernel is refused");
    for (size_t i = 0; i < sizeof faulty / sizeof faulty[0]; i++) {
        CHECK(!pc_kernel_self_check(&faulty[i]), "not found: %s", faulty[i].name);
    }
}

static void test_table(void)
{
    CHECK(pc_kernel_count() >= 1, "no kernel");
    CHECK(!pc_kernel_at(pc_kernel_count()), "one past the last");
    CHECK(!pc_kernel_find("none"), "an unknown name");
    CHECK(!pc_kernel_find(""), "an empty name");
    const pc_kernel *first = NULL;
    for (size_t i = 0; i < pc_kernel_count(); i++) {
        const pc_kernel *kernel = pc_kernel_at(i);
        CHECK(pc_kernel_find(kernel->name) == kernel, "%s", kernel->name);
        first = first || pc_kernel_why_not(kernel) ? first : kernel;
    }
    CHECK(pc_kernel_auto() == first, "auto is not the first usable one");
    CHECK(!pc_kernel_why_not(pc_kernel_find("portable")), "portable cannot run");
}

int main(void)
{
    static const kernel_test tests[] = {
        {"lengths", test_lengths},       {"places", test_places}, {"batches", test_batches},
        {"fences", test_fences},         {"large", test_large},   {"prefetch", test_prefetch},
        {"self-check", test_self_check},
    };
    check_begin();
    test_table();
    check_end("table", "");
    check_begin();
    test_faults_are_found();
    check_end("faults are found", "");
    return check_kernels(tests, sizeof tests / sizeof tests[0]);
}
