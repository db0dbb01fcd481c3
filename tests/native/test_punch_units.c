/* Zero units of a file become holes: nothing else, not without the lease, and not what was not
 * seen. */
#include "check.h"
#include "fixture.h"
#include "pc_punch.h"

enum { UNIT = 16 * PAGE, LARGE = 4 * PC_PUNCH_PIECE_BYTES };

/* A file of zeros, all of it there, but for one byte at each of the places. */
static int new_file(size_t bytes, const size_t *places, size_t count)
{
    char name[] = "/tmp/pctest-punch-XXXXXX"; /* where leases are */
    unsigned char *zeros = calloc(1, bytes);
    int fd = mkstemp(name);
    if (fd < 0 || zeros == NULL || unlink(name) != 0)
        abort();
    if (write(fd, zeros, bytes) != (ssize_t)bytes)
        abort();
    for (size_t i = 0; i < count; i++)
        if (pwrite(fd, "x", 1, (off_t)places[i]) != 1)
            abort();
    free(zeros);
    return fd;
}

static bool is_same(int fd, size_t bytes, const size_t *places, size_t count)
{
    unsigned char *found = malloc(bytes), *wanted = calloc(1, bytes);
    if (found == NULL || wanted == NULL)
        abort();
    for (size_t i = 0; i < count; i++)
        wanted[places[i]] = 'x';
    bool same = pread(fd, found, bytes, 0) == (ssize_t)bytes && memcmp(found, wanted, bytes) == 0;
    free(found);
    free(wanted);
    return same;
}

static pc_punch how(int fd, uint64_t unit, bool map)
{
    return (pc_punch){.fd = fd, .unit_bytes = unit, .map = map, .kernel = pc_kernel_auto()};
}

static void test_content(uint64_t unit, bool map)
{
    const size_t bytes = 8 * LARGE, places[] = {UNIT - 1,      3 * UNIT,      LARGE + PAGE,
                                                3 * LARGE - 1, 5 * LARGE + 1, bytes - PAGE};
    enum { PLACES = sizeof places / sizeof *places };
    int fd = new_file(bytes, places, PLACES);
    const pc_punch punch = how(fd, unit, map);
    uint64_t units = bytes / unit, kept = 0;
    pc_punched out;
    pc_error error;
    for (uint64_t i = 0; i < units; i++) {
        bool any = false;
        for (size_t p = 0; p < PLACES; p++)
            any |= places[p] / unit == i;
        kept += any;
    }
    check_begin();
    CHECK(pc_punch_zero(&punch, 0, bytes, &out, &error), "%s", error.text);
    CHECK(out.reached == bytes, "reached %llu", (unsigned long long)out.reached);
    CHECK(out.zero_bytes == (units - kept) * unit, "%llu of %llu units kept",
          (unsigned long long)(units - out.zero_bytes / unit), (unsigned long long)kept);
    CHECK(is_same(fd, bytes, places, PLACES), "what the file holds has changed");
    check_end("units of", unit == PAGE ? "4 KiB" : unit == UNIT ? "64 KiB" : "512 KiB");
    close(fd);
}

/* The file ends in the middle of what is asked for: what was not read is not punched. */
static void test_short_file(uint64_t unit)
{
    const size_t bytes = LARGE + 5 * PAGE, place = LARGE + 4 * PAGE;
    int fd = new_file(bytes, &place, 1);
    const pc_punch punch = how(fd, unit, false);
    pc_punched out;
    pc_error error;
    check_begin();
    CHECK(pc_punch_zero(&punch, 0, 4 * LARGE, &out, &error), "%s", error.text);
    CHECK(out.reached <= bytes && out.zero_bytes <= bytes, "reached %llu",
          (unsigned long long)out.reached);
    CHECK(is_same(fd, bytes, &place, 1), "what the file holds has changed");
    check_end("a file that ends early", unit == PAGE ? "4 KiB" : "512 KiB");
    close(fd);
}

static void test_lease(void)
{
    const size_t bytes = 8 * PAGE;
    int fd = new_file(bytes, NULL, 0);
    pc_punch punch = how(fd, PAGE, false);
    pc_punched out;
    pc_error error;
    punch.leased = true;
    check_begin();
    CHECK(pc_punch_zero(&punch, 0, bytes, &out, &error), "%s", error.text);
    CHECK(out.reached == 0 && out.zero_bytes == 0, "punched without a lease");
    if (fcntl(fd, F_SETLEASE, F_WRLCK) == 0) {
        CHECK(pc_punch_zero(&punch, 0, bytes, &out, &error), "%s", error.text);
        CHECK(out.reached == bytes && out.zero_bytes == bytes, "not punched under a lease");
    }
    check_end("a lease", "");
    close(fd);
}

int main(void)
{
    for (int map = 0; map < 2; map++) {
        test_content(PAGE, map);
        test_content(UNIT, map);
        test_content(LARGE, map);
    }
    test_short_file(PAGE);
    test_short_file(LARGE);
    test_lease();
    return check_summary();
}
