/* What the kernel says of a work queue: the attribute `state` in sysfs.
 *
 * Facts: ENQCMD answers Retry for a full queue and for a disabled one alike. A write(2) to a queue
 * that was disabled under its open node reaches a portal that is gone (dsa.md, section 0).
 * Danger: between the look and the submission the queue may be disabled; nothing can close that
 * gap, only make it small. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "pc_portal.h"

bool pc_portal_set_state(pc_portal *portal, int fd)
{
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (own < 0)
        return false;
    portal->state = own;
    return true;
}

bool pc_portal_is_enabled(pc_portal *portal)
{
    static const char enabled[] = "enabled\n";
    char text[sizeof enabled];
    if (portal->ops->enabled != NULL)
        return portal->ops->enabled(portal);
    if (portal->state == 0)
        return true;
    ssize_t got = pread(portal->state, text, sizeof text, 0); /* an error: the device is gone */
    return got == sizeof enabled - 1 && memcmp(text, enabled, sizeof enabled - 1) == 0;
}

void pc_portal_close_state(pc_portal *portal)
{
    if (portal->state != 0)
        close(portal->state);
    portal->state = 0;
}
