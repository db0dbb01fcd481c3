/* The memory of the software model of a DSA work queue: it reads what it was given and what is
 * present, and faults where hardware would. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "dsa_fixture.h"

static uint8_t compare_once(dsa_model *model, const void *source)
{
    descriptor page = make(COMPVAL, CRAV_RCR, record(0), source, PAGE);

    clear_records();
    dsa_model_enqcmd(model, &page);
    dsa_model_run(model, SIZE_MAX);
    return status(0);
}

static void test_absent(void)
{
    dsa_model_options options = still(3, "none");
    dsa_model *model = open_model(&options);
    int fd = memfd_create("sparse", MFD_CLOEXEC);
    unsigned char resident = 0xff;
    uint8_t *map;
    struct stat file;

    check_begin();
    if (fd < 0 || ftruncate(fd, 4 * PAGE) != 0)
        abort();
    map = mmap(NULL, 4 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
    dsa_model_register(model, map, 4 * PAGE, false);
    CHECK(compare_once(model, map) == 3, "a hole: status %x", status(0));
    CHECK(fstat(fd, &file) == 0 && file.st_blocks == 0, "looking allocated a page");
    CHECK(mincore(map, PAGE, &resident) == 0 && (resident & 1) == 0, "looking made it resident");
    CHECK(pwrite(fd, "", 1, 0) == 1, "pwrite");
    CHECK(compare_once(model, map) == 3, "in the file, but not in this page table");
    CHECK(*(volatile uint8_t *)map == 0, "touch");
    CHECK(compare_once(model, map) == 1, "present: status %x", status(0));
    CHECK(fstat(fd, &file) == 0 && file.st_blocks == PAGE / 512, "one page");
    CHECK(compare_once(model, map + PAGE / 2) == 3 && completed(0) == PAGE / 2, "half present");
    CHECK(ftruncate(fd, 0) == 0, "ftruncate");
    CHECK(compare_once(model, map) == 3, "truncated: status %x", status(0));
    dsa_model_close(model);
    munmap(map, 4 * PAGE);
    close(fd);
    check_end("an absent page faults and stays absent", "");
}

/* Without the question to the page table, the copy itself meets the end of the file. */
static void test_truncated(void)
{
    dsa_model_options options = still(3, "none");
    int fd = memfd_create("short", MFD_CLOEXEC);
    dsa_model *model;
    uint8_t *map;

    check_begin();
    options.check_residency = false;
    model = open_model(&options);
    if (fd < 0 || ftruncate(fd, 4 * PAGE) != 0)
        abort();
    map = mmap(NULL, 4 * PAGE, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    dsa_model_register(model, map, 4 * PAGE, false);
    CHECK(compare_once(model, map + 3 * PAGE) == 1, "whole: status %x", status(0));
    CHECK(ftruncate(fd, PAGE) == 0, "ftruncate");
    CHECK(compare_once(model, map + 3 * PAGE) == 3 && completed(0) == 0, "status %x", status(0));
    CHECK(compare_once(model, map + PAGE / 2) == 3 && completed(0) == PAGE / 2, "across the end");
    dsa_model_close(model);
    munmap(map, 4 * PAGE);
    close(fd);
    check_end("a truncated file faults", "");
}

static void test_give(void)
{
    dsa_model_options options = still(3, "none");
    dsa_model *model = open_model(&options);
    int given = 0;

    check_begin();
    CHECK(compare_once(model, OUTSIDE.at) == 3, "not given");
    dsa_model_register(model, OUTSIDE.at, PAGE / 2, false);
    dsa_model_register(model, OUTSIDE.at + PAGE / 2, PAGE / 2, false);
    CHECK(compare_once(model, OUTSIDE.at) == 1, "two ranges side by side");
    dsa_model_unregister(model, OUTSIDE.at + PAGE / 2);
    CHECK(compare_once(model, OUTSIDE.at) == 3 && completed(0) == PAGE / 2, "one taken");
    dsa_model_unregister(model, OUTSIDE.at);
    while (given < 100000 && dsa_model_register(model, OUTSIDE.at, PAGE, false) == 0)
        given++;
    CHECK(given >= 64 && given < 100000, "%d ranges", given);
    CHECK(dsa_model_register(model, OUTSIDE.at, PAGE, false) == -ENOSPC, "not ENOSPC");
    dsa_model_unregister(model, OUTSIDE.at);
    CHECK(dsa_model_register(model, OUTSIDE.at, PAGE, false) == 0, "no room after take");
    dsa_model_close(model);
    check_end("only given memory is read", "");
}

int main(void)
{
    map_all();
    test_absent();
    test_truncated();
    test_give();
    return check_summary();
}
