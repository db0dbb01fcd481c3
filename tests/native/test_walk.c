/* A walk over a file's holes, against a file system that is made up and against memfds. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "pc_ring.h"
#include "pc_walk.h"

enum { BLOCK = 1024, BLOCKS = 6000, PAGES_MAX = BLOCKS, WORDS = PAGES_MAX / 64 + 2 };

/* A file of blocks, each of them data or a hole, and what becomes of a lookup. */
static struct {
    bool data[BLOCKS];
    off_t size;
    uint64_t lookups;
    uint64_t fail_at; /* this lookup and all after it */
    int error;        /* fail so; 0: give an invalid answer */
    bool same;        /* SEEK_HOLE finds a hole where it begins: punched meanwhile */
    int64_t slow_ns;
} file;

static off_t fake_seek(void *context, off_t at, int whence)
{
    (void)context;
    int64_t until_ns = pagecheck_now_ns() + file.slow_ns;
    while (pagecheck_now_ns() < until_ns) {
    }
    if (++file.lookups >= file.fail_at) {
        errno = file.error;
        return file.error != 0 ? -1 : at - 1;
    }
    if (file.same && whence == SEEK_HOLE)
        return at;
    for (off_t block = at / BLOCK; at < file.size; at = ++block * BLOCK)
        if (file.data[block] == (whence == SEEK_DATA))
            return at;
    if (whence == SEEK_HOLE && at >= file.size && file.size > 0)
        return file.size;
    errno = ENXIO;
    return -1;
}

static void new_file(void)
{
    memset(&file, 0, sizeof file);
    file.size = (off_t)BLOCKS * BLOCK;
    file.fail_at = UINT64_MAX;
}

/* Runs of data and holes, each of 1 to `longest` blocks. */
static void fill(uint64_t longest, uint64_t *random)
{
    bool data = check_random(random) % 2 != 0;
    for (uint64_t at = 0; at < BLOCKS; data = !data)
        for (uint64_t n = check_random(random) % longest + 1; n > 0 && at < BLOCKS; n--)
            file.data[at++] = data;
}

/* What a walk found. */
typedef struct found {
    uint64_t hole[WORDS], zero[WORDS];
    bool asked[PAGES_MAX]; /* in a stretch, and no hole */
    uint64_t stretches;
    bool ended;
} found;

static pc_walk walk_over(uint64_t start, uint64_t page_bytes, uint64_t pages, found *f)
{
    memset(f, 0, sizeof *f);
    pc_walk walk = {.seek = fake_seek,
                    .start = start,
                    .page_bytes = page_bytes,
                    .pages = pages,
                    .hole = f->hole,
                    .zero = f->zero,
                    .look_ns = INT64_MAX / 2};
    pc_walk_begin(&walk);
    return walk;
}

/* Walks to the end, at most `calls` times. */
static void go(pc_walk *walk, uint64_t most, uint64_t calls, found *f)
{
    pc_stretch s;
    uint64_t end = 0;
    while (calls-- > 0 && !f->ended) {
        if (!pc_walk_next(walk, most, &s)) {
            f->ended = true;
            break;
        }
        uint64_t pages = 0;
        f->stretches++;
        if (s.span == 0)
            continue;
        CHECK(s.first >= end && s.first + s.span <= walk->pages, "in order, inside");
        end = s.first + s.span;
        for (uint64_t page = s.first; page < end; page++) {
            f->asked[page] = !pc_bits_test(f->hole, page);
            pages += f->asked[page];
        }
        CHECK(pages == s.pages, "%d pages of %d", (int)pages, (int)s.pages);
        CHECK(s.span == s.pages || s.pages <= most, "%d pages with holes", (int)s.pages);
    }
}

static bool has_data(uint64_t start, uint64_t page_bytes, uint64_t page)
{
    bool data = false;
    for (uint64_t at = start + page * page_bytes; at < start + (page + 1) * page_bytes; at += BLOCK)
        data |= (off_t)at < file.size && file.data[at / BLOCK];
    return data;
}

/* Each page is asked for exactly if it has data, and else a hole; pages past `limit` are asked. */
static void check_found(const found *f, const pc_walk *walk, uint64_t limit)
{
    CHECK(f->ended, "ends");
    CHECK(memcmp(f->hole, f->zero, sizeof f->hole) == 0, "the same bits in both");
    for (uint64_t page = 0; page < walk->pages; page++) {
        bool data = page >= limit || has_data(walk->start, walk->page_bytes, page);
        CHECK(pc_bits_test(f->hole, page) == !data, "hole, page %d", (int)page);
        CHECK(f->asked[page] == data, "asked, page %d", (int)page);
    }
    for (uint64_t bit = walk->pages; bit < (uint64_t)WORDS * 64; bit++)
        CHECK(!pc_bits_test(f->hole, bit), "bit %d", (int)bit);
}

/* Blocks of 1 KiB in pages of 1, 4 and 16 KiB. */
static void test_layouts(void)
{
    uint64_t random = 3;
    found f;
    check_begin();
    for (uint64_t longest = 1; longest < 3000; longest += longest / 3 + 1) {
        for (uint64_t page_bytes = BLOCK; page_bytes <= 16 * BLOCK; page_bytes *= 4) {
            uint64_t start = check_random(&random) % 50 * page_bytes;
            uint64_t most_pages = ((uint64_t)file.size - start) / page_bytes;
            new_file();
            fill(longest, &random);
            most_pages = ((uint64_t)file.size - start) / page_bytes;
            uint64_t pages = most_pages - check_random(&random) % (most_pages / 2);
            pc_walk walk = walk_over(start, page_bytes, pages, &f);
            go(&walk, 1 + check_random(&random) % 600, UINT64_MAX, &f);
            check_found(&f, &walk, UINT64_MAX);
        }
    }
    check_end("every page is asked for or a hole", "");
}

/* Where every run is one page long, one lookup for each; else two. Stretches are filled. */
static void test_counts(void)
{
    found f;
    uint64_t random = 5;
    check_begin();
    new_file();
    for (int i = 0; i < BLOCKS; i += 2)
        file.data[i] = true;
    pc_walk walk = walk_over(0, BLOCK, BLOCKS, &f);
    go(&walk, 100, UINT64_MAX, &f);
    check_found(&f, &walk, UINT64_MAX);
    CHECK(file.lookups <= BLOCKS / 2 + 3, "%d lookups", (int)file.lookups);
    CHECK(f.stretches == BLOCKS / 2 / 100, "%d stretches", (int)f.stretches);

    new_file();
    fill(40, &random);
    uint64_t runs = 0;
    for (int i = 0; i < BLOCKS; i++)
        runs += file.data[i] && (i == 0 || !file.data[i - 1]);
    walk = walk_over(0, BLOCK, BLOCKS, &f);
    go(&walk, 100, UINT64_MAX, &f);
    CHECK(file.lookups <= runs * 2 + runs / 10 + 2, "%d lookups", (int)file.lookups);

    new_file();
    for (int i = 0; i < BLOCKS; i += 4) /* each page begins with data and ends with a hole */
        file.data[i] = true;
    walk = walk_over(0, 4 * BLOCK, BLOCKS / 4, &f);
    go(&walk, 100, UINT64_MAX, &f);
    check_found(&f, &walk, UINT64_MAX);
    CHECK(file.lookups <= BLOCKS / 4 * 2 + 2, "%d lookups", (int)file.lookups);

    new_file();
    memset(file.data, 1, sizeof file.data);
    walk = walk_over(0, BLOCK, BLOCKS, &f);
    go(&walk, 100, UINT64_MAX, &f);
    CHECK(file.lookups == 2 && f.stretches == 1, "all data: %d lookups", (int)file.lookups);

    new_file();
    walk = walk_over(0, BLOCK, BLOCKS, &f);
    go(&walk, 100, UINT64_MAX, &f);
    check_found(&f, &walk, UINT64_MAX);
    CHECK(file.lookups == 1 && f.stretches == 0, "a hole: %d lookups", (int)file.lookups);
    check_end("no lookup is made twice", "");
}

/* The page from which on nothing is known, when that lookup fails. */
static uint64_t first_unknown(const found *f)
{
    uint64_t page = BLOCKS;
    while (page > 0 && !pc_bits_test(f->hole, page - 1))
        page--;
    return page;
}

/* After an error, or an invalid answer, no hole is believed. */
static void test_errors(void)
{
    static const int errors[] = {EIO, ENOENT, EBADF, EINVAL, 0};
    uint64_t random = 9;
    found f;
    check_begin();
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        for (uint64_t n = 1; n < 300; n += n / 5 + 1) {
            new_file();
            fill(n % 3 == 0 ? 1 : 5, &random);
            file.fail_at = n;
            file.error = errors[i];
            pc_walk walk = walk_over(0, BLOCK, BLOCKS, &f);
            go(&walk, 64, UINT64_MAX, &f);
            CHECK(file.lookups == n, "%d lookups after the error", (int)(file.lookups - n));
            check_found(&f, &walk, first_unknown(&f));
            CHECK(first_unknown(&f) <= n * 5, "page %d", (int)first_unknown(&f));
        }
    }
    check_end("a lookup that fails is not a hole", "");
}

/* Cut short while it is walked: the rest are holes, and the size says that they are not there. */
static void test_cut(void)
{
    found f;
    check_begin();
    for (uint64_t step = 1; step <= 2; step++) {
        new_file();
        for (uint64_t i = 0; i < BLOCKS; i += step)
            file.data[i] = true;
        pc_walk walk = walk_over(0, BLOCK, BLOCKS, &f);
        go(&walk, 100, step, &f);
        file.size = 10 * BLOCK;
        go(&walk, 100, UINT64_MAX, &f);
        CHECK(f.ended && memcmp(f.hole, f.zero, sizeof f.hole) == 0, "ends");
        CHECK(step == 1 || pc_bits_test(f.hole, BLOCKS - 2), "the end is a hole");
    }
    check_end("a file that is cut", "");
}

/* One whose data are punched between two lookups, again and again, does not hold the caller. */
static void test_punched(void)
{
    found f;
    check_begin();
    new_file();
    memset(file.data, 1, sizeof file.data);
    file.same = true;
    pc_walk walk = walk_over(0, BLOCK, BLOCKS, &f);
    go(&walk, 100, 3, &f);
    CHECK(!f.ended && file.lookups < 10000, "%d lookups", (int)file.lookups);
    CHECK(pc_bits_count(f.hole, BLOCKS) == 0, "no hole was seen");
    file.same = false;
    go(&walk, 100, UINT64_MAX, &f);
    check_found(&f, &walk, UINT64_MAX);
    check_end("a file that is punched", "");
}

/* Lookups of 1 ms each: the caller is not held for all of them. */
static void test_slow(void)
{
    found f;
    pc_stretch s;
    check_begin();
    new_file();
    for (int i = 0; i < BLOCKS; i += 2)
        file.data[i] = true;
    file.slow_ns = 1000000;
    pc_walk walk = walk_over(0, BLOCK, BLOCKS, &f);
    walk.look_ns = 5000000;
    CHECK(pc_walk_next(&walk, 1000, &s) && s.pages > 0, "some pages");
    CHECK(file.lookups <= 40, "%d lookups", (int)file.lookups);
    check_end("a slow file system", "");
}

/* A real file, whose blocks stay as they are. */
static void test_memfd(void)
{
    enum { PAGE = 4096, PAGES = 700 };
    struct stat before, after;
    uint64_t random = 11;
    found f;
    check_begin();
    int fd = memfd_create("ram", MFD_CLOEXEC);
    new_file();
    if (fd < 0 || ftruncate(fd, (PAGES + 3) * PAGE) != 0)
        abort();
    for (uint64_t page = 0; page < PAGES; page++) {
        bool data = check_random(&random) % 2 == 0;
        if (data && pwrite(fd, "x", 1, (off_t)((page + 3) * PAGE)) != 1)
            abort();
        for (int i = 0; i < 4; i++)
            file.data[(page + 3) * 4 + (uint64_t)i] = data;
    }
    fstat(fd, &before);
    pc_walk walk = walk_over(3 * PAGE, PAGE, PAGES, &f);
    walk.seek = pc_walk_seek_file;
    walk.context = &fd;
    go(&walk, 100, UINT64_MAX, &f);
    fstat(fd, &after);
    check_found(&f, &walk, UINT64_MAX);
    CHECK(before.st_blocks == after.st_blocks, "blocks");
    close(fd);
    check_end("a memfd", "");
}

int main(void)
{
    new_file();
    test_layouts();
    test_counts();
    test_errors();
    test_cut();
    test_punched();
    test_slow();
    test_memfd();
    return check_summary();
}
