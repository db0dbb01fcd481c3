/* A walk over another process's private memory, and the count of its swapped pages. */
#include "process_fixture.h"

#include "pc_process_walk.h"
#include "pc_walk.h"

enum { PAGES = 4096, WORDS = PAGES / 64 };

static void act(const target *t, char command)
{
    (void)t;
    (void)command;
}

typedef struct found {
    uint64_t hole[WORDS], zero[WORDS];
    uint64_t asked; /* pages with data */
    uint64_t stretches;
} found;

static pc_process_walk *open_walk(const target *t, bool by_read, uint64_t page_bytes,
                                  const pc_piece *pieces, size_t piece_count)
{
    pc_error error;
    const pc_process_range range = {.pagemap_fd = t->pagemap,
                                    .address = (uintptr_t)t->base,
                                    .bytes = t->bytes,
                                    .page_bytes = page_bytes,
                                    .pieces = pieces,
                                    .piece_count = piece_count};
    pc_process_walk *walk = malloc(sizeof *walk);
    if (walk == NULL || !pc_process_walk_init(&range, walk, &error))
        abort();
    walk->pagemap.by_read = by_read;
    return walk;
}

static void go(pc_process_walk *memory, uint64_t page_bytes, uint64_t most, found *f)
{
    pc_stretch s;
    pc_walk walk = {.seek = pc_process_walk_seek,
                    .context = memory,
                    .page_bytes = page_bytes,
                    .pages = memory->bytes / page_bytes,
                    .hole = f->hole,
                    .zero = f->zero,
                    .look_ns = INT64_MAX / 2};
    uint64_t end = 0;
    memset(f, 0, sizeof *f);
    pc_walk_begin(&walk);
    while (pc_walk_next(&walk, most, &s)) {
        CHECK(s.first >= end && s.first + s.span <= walk.pages, "in order, inside");
        end = s.first + s.span;
        f->asked += s.pages;
        f->stretches += s.span != 0;
    }
}

static bool is_hole(const unsigned char *kinds, const pc_piece *pieces, size_t piece_count,
                    uint64_t page)
{
    const pc_piece *piece = pc_pieces_find(pieces, piece_count, page * PAGE);
    return kinds[page] == ABSENT && piece->absent == PC_ABSENT_ZERO;
}

static const bool by_read[] = {false, true};
static const char *const names[] = {"PAGEMAP_SCAN", "reads of pagemap"};

static void test_holes(int way)
{
    static const pc_piece all[] = {{0, (uint64_t)PAGES * PAGE, PC_ABSENT_ZERO, 0}};
    static const pc_piece some[] = {
        {0, 100 * PAGE, PC_ABSENT_ZERO, 0},
        {100 * PAGE, 101 * PAGE, PC_UNREADABLE, 0},
        {101 * PAGE, 900 * PAGE, PC_ABSENT_UNDECIDED, 0},
        {900 * PAGE, 1024 * PAGE, PC_ABSENT_FILE, 0},
        {1024 * PAGE, (uint64_t)PAGES * PAGE, PC_ABSENT_ZERO, 0},
    };
    static const uint64_t longest[] = {1, 2, 30, 2000};
    static const uint64_t page_bytes[] = {PAGE, 4 * PAGE, 512 * PAGE};
    unsigned char kinds[PAGES];
    uint64_t random = 1;
    check_begin();
    for (size_t l = 0; l < sizeof longest / sizeof *longest; l++) {
        fill_kinds(kinds, PAGES, longest[l], &random);
        target t = target_start((uint64_t)PAGES * PAGE, kinds, PAGES, NULL);
        for (size_t i = 0; i < 2 * sizeof page_bytes / sizeof *page_bytes; i++) {
            found f;
            const pc_piece *pieces = i % 2 == 0 ? all : some;
            size_t count = i % 2 == 0 ? 1 : sizeof some / sizeof *some;
            uint64_t bytes = page_bytes[i / 2], parts = bytes / PAGE, holes = 0;
            pc_process_walk *walk = open_walk(&t, by_read[way], bytes, pieces, count);
            go(walk, bytes, 64, &f);
            for (uint64_t page = 0; page < PAGES / parts; page++) {
                bool want = true;
                for (uint64_t part = page * parts; part < (page + 1) * parts; part++)
                    want = want && is_hole(kinds, pieces, count, part);
                holes += want;
                CHECK(pc_bits_test(f.hole, page) == want && pc_bits_test(f.zero, page) == want,
                      "page %d of %d bytes", (int)page, (int)bytes);
            }
            CHECK(f.asked == PAGES / parts - holes, "%d pages", (int)f.asked);
            free(walk);
        }
        target_end(&t);
    }
    check_end("holes, pieces, page sizes:", names[way]);
}

/* Far more than one look sees, of which hardly anything was touched. */
static void test_large(int way)
{
    static const uint64_t bytes = UINT64_C(1) << 32, page_bytes = UINT64_C(1) << 21;
    static const pc_piece all[] = {{0, UINT64_C(1) << 32, PC_ABSENT_ZERO, 0}};
    static const unsigned char kinds[] = {ABSENT, DATA};
    found f;
    check_begin();
    target t = target_start(bytes, kinds, 2, NULL);
    pc_process_walk *walk = open_walk(&t, by_read[way], page_bytes, all, 1);
    go(walk, page_bytes, 64, &f);
    CHECK(f.asked == 1 && !pc_bits_test(f.hole, 0), "%d pages", (int)f.asked);
    CHECK(pc_bits_count(f.hole, bytes / page_bytes) == bytes / page_bytes - 1, "holes");
    free(walk);
    target_end(&t);
    check_end("4 GiB that were not touched:", names[way]);
}

static void test_ended(int way)
{
    static const pc_piece all[] = {{0, (uint64_t)PAGES * PAGE, PC_ABSENT_ZERO, 0}};
    static const unsigned char kinds[] = {ABSENT, DATA};
    found f;
    check_begin();
    target t = target_start((uint64_t)PAGES * PAGE, kinds, 2, NULL);
    pc_process_walk *walk = open_walk(&t, by_read[way], PAGE, all, 1);
    target_kill(&t);
    go(walk, PAGE, 64, &f);
    CHECK(f.asked == PAGES && pc_bits_count(f.hole, PAGES) == 0, "%d pages", (int)f.asked);
    walk->pagemap.fd = -1;
    go(walk, PAGE, 64, &f);
    CHECK(f.asked == PAGES && pc_bits_count(f.hole, PAGES) == 0, "no descriptor");
    free(walk);
    target_end(&t);
    check_end("a process that ended has data everywhere:", names[way]);
}

/* A process that ends loses its pages one by one, while they are looked at. */
static void test_ending(int way)
{
    enum { MANY = 4 * PAGES };
    static const pc_piece all[] = {{0, (uint64_t)MANY * PAGE, PC_ABSENT_ZERO, 0}};
    static unsigned char kinds[MANY];
    check_begin();
    memset(kinds, DATA, sizeof kinds);
    for (int round = 0; round < 10; round++) {
        target t = target_start((uint64_t)MANY * PAGE, kinds, MANY, NULL);
        pc_process_walk *walk = open_walk(&t, by_read[way], 4 * PAGE, all, 1);
        if (kill(t.pid, SIGKILL) != 0)
            abort();
        for (bool ended = false; !ended;) {
            found f;
            siginfo_t info = {0};
            ended = waitid(P_PID, (id_t)t.pid, &info, WEXITED | WNOHANG) == 0 && info.si_pid != 0;
            walk->view.look = (pc_look){0, 0};
            go(walk, 4 * PAGE, 64, &f);
            CHECK(f.asked == PAGES, "%d pages", (int)f.asked);
        }
        free(walk);
        target_end(&t);
    }
    check_end("a process that ends meanwhile:", names[way]);
}

static void test_swapped(int way)
{
    static const pc_piece all[] = {{0, (uint64_t)PAGES * PAGE, PC_ABSENT_ZERO, 0}};
    unsigned char kinds[PAGES];
    uint64_t random = 2, zero[WORDS], normal[WORDS];
    check_begin();
    fill_kinds(kinds, PAGES, 9, &random);
    target t = target_start((uint64_t)PAGES * PAGE, kinds, PAGES, NULL);
    for (uint64_t parts = 1; parts <= 8; parts *= 8) {
        uint64_t want = 0;
        for (uint64_t i = 0; i < WORDS; i++) {
            zero[i] = i % 8 == 0 ? UINT64_MAX : check_random(&random) & check_random(&random);
            normal[i] = check_random(&random) & ~zero[i] & check_random(&random);
        }
        for (uint64_t page = 0; page < PAGES / parts; page++) {
            bool swapped = false;
            for (uint64_t part = page * parts; part < (page + 1) * parts; part++)
                swapped |= kinds[part] == GUARD;
            want += swapped && !pc_bits_test(zero, page) && !pc_bits_test(normal, page);
        }
        pc_process_walk *walk = open_walk(&t, by_read[way], parts * PAGE, all, 1);
        uint64_t got = pc_process_walk_swapped(walk, parts * PAGE, zero, normal);
        CHECK(got == want && (want > 0 || !has_guard_pages()), "%d, not %d", (int)got, (int)want);
        free(walk);
    }
    target_end(&t);
    check_end("swapped pages:", names[way]);
}

int main(void)
{
    if (!page_tables_are_ours())
        return 0;
    for (int way = 0; way < 2; way++) {
        test_holes(way);
        test_large(way);
        test_ended(way);
        test_ending(way);
        test_swapped(way);
    }
    return check_summary();
}
