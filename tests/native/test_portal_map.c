/* Mapping a queue. pc_portal_open_mapped asks the CPU first; its source is taken in once more,
 * without the question, so that what follows is tested on every x86-64 CPU. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "pc_portal.h"

#if defined(__x86_64__)

static const char *nothing_is_missing(void)
{
    return NULL;
}

#define pc_enqcmd_why_not nothing_is_missing
#define pc_movdir64b_why_not nothing_is_missing
#define pc_portal_open_mapped open_mapped_unasked
#define pc_portal_open_at open_at_unasked
#include "pc_portal_mapped.c"
#undef pc_enqcmd_why_not
#undef pc_movdir64b_why_not
#undef pc_portal_open_mapped
#undef pc_portal_open_at

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) != -1;
}

/* Mappings of a file of this name. */
static unsigned mapped(const char *name)
{
    char line[512];
    unsigned found = 0;
    FILE *maps = fopen("/proc/self/maps", "re");
    while (fgets(line, sizeof line, maps) != NULL)
        found += strstr(line, name) != NULL;
    fclose(maps);
    return found;
}

static void test_open_mapped(bool dedicated)
{
    check_begin();
    int fd = memfd_create("pc-portal", MFD_CLOEXEC);
    CHECK(ftruncate(fd, PC_PORTAL_BYTES) == 0, "errno %d", errno);
    pc_portal *portal = open_mapped_unasked(fd, dedicated);
    CHECK(portal != NULL, "errno %d", errno);
    CHECK(strcmp(portal->ops->name, dedicated ? "movdir64b" : "enqcmd") == 0, "%s",
          portal->ops->name);
    CHECK(mapped("pc-portal") == 1 && is_open(fd), "mapped %u times", mapped("pc-portal"));
    portal->ops->close(portal);
    CHECK(mapped("pc-portal") == 0 && !is_open(fd), "left behind");
    check_end("a file is mapped and released", dedicated ? "movdir64b" : "enqcmd");
}

static void test_open_mapped_fails(void)
{
    int ends[2];
    check_begin();
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    errno = 0;
    CHECK(open_mapped_unasked(fd, false) == NULL && errno == EACCES, "read-only: %d", errno);
    CHECK(is_open(fd), "it was closed");
    close(fd);
    errno = 0;
    CHECK(open_mapped_unasked(fd, true) == NULL && errno == EBADF, "closed: %d", errno);
    CHECK(pipe(ends) == 0, "errno %d", errno);
    errno = 0;
    CHECK(open_mapped_unasked(ends[1], false) == NULL && errno != 0, "a pipe");
    CHECK(is_open(ends[1]), "it was closed");
    close(ends[0]);
    close(ends[1]);
    check_end("what cannot be mapped", "");
}

#endif

/* As users call it: the CPU is asked first. */
static void test_open_mapped_asks(bool dedicated)
{
    const char *why_not = dedicated ? pc_movdir64b_why_not() : pc_enqcmd_why_not();
    check_begin();
    int fd = memfd_create("pc-portal", MFD_CLOEXEC);
    CHECK(ftruncate(fd, PC_PORTAL_BYTES) == 0, "errno %d", errno);
    errno = 0;
    pc_portal *portal = pc_portal_open_mapped(fd, dedicated);
    if (why_not != NULL) {
        CHECK(portal == NULL && errno == ENOSYS, "errno %d", errno);
        CHECK(fcntl(fd, F_GETFD) != -1, "it was closed");
        close(fd);
    } else {
        CHECK(portal != NULL, "errno %d", errno);
        portal->ops->close(portal);
        CHECK(fcntl(fd, F_GETFD) == -1, "it was left open");
    }
    check_end("a CPU without the instruction gets no portal", dedicated ? "movdir64b" : "enqcmd");
}

int main(void)
{
    test_open_mapped_asks(false);
    test_open_mapped_asks(true);
#if defined(__x86_64__)
    test_open_mapped(false);
    test_open_mapped(true);
    test_open_mapped_fails();
#endif
    return check_summary();
}
