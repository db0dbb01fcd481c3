/* A file that is cut while it is looked at through a mapping: no signal, and nothing past the cut.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "pc_guard.h"
#include "pc_punch.h"

#define PAGE 4096u
#define PAGES 8u
#define CUT 3u

static int file;
static unsigned looked_at;

/* Another process cuts the file while the unit is looked at. */
static bool is_zero_of_a_cut_file(const void *bytes, size_t length)
{
    if (looked_at++ == CUT && ftruncate(file, CUT * PAGE) != 0)
        return false;
    const volatile unsigned char *each = bytes;
    for (size_t i = 0; i < length; i++)
        if (each[i] != 0)
            return false;
    return true;
}

static const pc_kernel cutting = {.name = "cutting", .is_zero = is_zero_of_a_cut_file};

static void test_a_file_that_is_cut_under_the_mapping(void)
{
    check_begin();
    static const unsigned char zeros[PAGES * PAGE];
    file = memfd_create("punched", 0);
    CHECK(write(file, zeros, sizeof zeros) == (ssize_t)sizeof zeros, "no memfd");
    const pc_punch punch = {.fd = file, .unit_bytes = PAGE, .map = true, .kernel = &cutting};
    pc_punched out;
    pc_error error;
    CHECK(pc_guard_install(), "no handler");
    CHECK(pc_punch_zero(&punch, 0, sizeof zeros, &out, &error), "it failed");
    CHECK(looked_at == CUT + 1, "looked at %u pages", looked_at);
    CHECK(out.reached < sizeof zeros, "reached %llu", (unsigned long long)out.reached);
    CHECK(out.zero_bytes <= CUT * PAGE, "%llu bytes", (unsigned long long)out.zero_bytes);
    CHECK(lseek(file, 0, SEEK_END) == CUT * PAGE, "its size");
    close(file);
    check_end(__func__, "");
}

int main(void)
{
    test_a_file_that_is_cut_under_the_mapping();
    return check_summary();
}
