/* The service's socket: connecting, attaching RAM, opening channels; and those calls on a channel
 * that have to notice a service that was killed together with its workers, which changes no word of
 * the ring: they poll the socket between two slices of a wait. */
#ifndef PAGECHECK_CLIENT_H
#define PAGECHECK_CLIENT_H

#include "pagecheck_channel.h"
#include "pagecheck_wire.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/un.h>

#define PAGECHECK_PROTOCOL 1u
#define PGCK_TEXT(number) PGCK_TEXT_OF(number)
#define PGCK_TEXT_OF(number) #number

#define PGCK_GET_SEALS 1034 /* F_GET_SEALS, which not every libc defines without its extensions */
#define PGCK_SEALS 7        /* F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW */

/* A part of the block in the guest's and the VMM's address space; all in bytes. */
typedef struct pagecheck_region {
    uint64_t guest_phys_addr;
    uint64_t memory_size;
    uint64_t userspace_addr;
    uint64_t mmap_offset; /* of its first byte, in the file */
} pagecheck_region;

typedef struct pagecheck_channel_options {
    uint32_t slots;      /* batches that can be in progress */
    uint32_t slot_pages; /* the most pages of a batch, a multiple of 64 */
    uint32_t spin_us;    /* the worker polls this long before it sleeps; costs CPU time */
} pagecheck_channel_options;

/* ---- Batches ---- */

/* A sleeper checks this often whether the service hung up: a service that was killed together with
 * its workers changes no word. */
#define PGCK_LOOK_NS INT64_C(100000000)

static inline bool pgck_hung_up(int fd)
{
    struct pollfd at = {fd, 0, 0};
    return fd >= 0 && poll(&at, 1, 0) > 0 && (at.revents & (POLLHUP | POLLERR)) != 0;
}

/* For callers that only poll: a service that was killed together with its workers changes no word,
 * so its socket is polled, ten times a second at most. */
static inline void pgck_look(pagecheck_channel *channel)
{
    int64_t now = pagecheck_now_ns();
    if (channel->socket < 0 || now - channel->looked_ns < PGCK_LOOK_NS)
        return;
    channel->looked_ns = now;
    channel->lost = channel->lost || pgck_hung_up(channel->socket);
}

static inline int pgck_submit_looking(pagecheck_channel *channel, uint32_t block, uint64_t first,
                                      const uint64_t *offsets, uint32_t count, uint64_t *ticket)
{
    int code = pgck_submit(channel, block, first, offsets, count, ticket);
    if (code != -EAGAIN)
        return code;
    pgck_look(channel);
    return pgck_submit(channel, block, first, offsets, count, ticket);
}

/* Submits a batch: `count` pages at byte offsets in the block.
 * -EINVAL: `count` is 0 or more than slot_pages. -EAGAIN: the slot whose turn it is has a ticket
 * that was not taken, or a forgotten one without its answer; slots are used in turn, so waiting for
 * the oldest ticket helps, and forgetting it when its answer may be late. -ECONNRESET and -EPROTO
 * as of pagecheck_wait. After a failure `ticket` is 0, which is never valid. */
PAGECHECK_API int pagecheck_submit(pagecheck_channel *channel, uint32_t block,
                                   const uint64_t *offsets, uint32_t count, uint64_t *ticket)
{
    /* Without offsets it would be a range. */
    return pgck_submit_looking(channel, block, 0, offsets, offsets != NULL ? count : 0, ticket);
}

/* The same for `count` pages from page index `first_page` on. */
PAGECHECK_API int pagecheck_submit_range(pagecheck_channel *channel, uint32_t block,
                                         uint64_t first_page, uint32_t count, uint64_t *ticket)
{
    return pgck_submit_looking(channel, block, first_page, NULL, count, ticket);
}

/* Takes a batch's answer; tickets in any order, each once. `zero` and `decided` have
 * (count + 63) / 64 words, bit i % 64 of word i / 64 is page i; they are 0 after a failure.
 * -ETIMEDOUT: not yet; the ticket can be waited for again, or forgotten. -ECONNRESET: the
 * worker is gone. -EPROTO: the batch was refused (channel->refusal is not 0, the ticket is used
 * up), or an answer was invalid and the channel cannot be used. -EINVAL: no batch in progress
 * has this ticket: it was taken or forgotten, or is another channel's; the words are 0
 * nevertheless, so that old contents are not mistaken for an answer; without a valid ticket only
 * the first of each. Signals do not end the wait. */
PAGECHECK_API int pagecheck_wait(pagecheck_channel *channel, uint64_t ticket, int64_t deadline_ns,
                                 uint64_t *zero, uint64_t *decided)
{
    channel->refusal = 0;
    int code = pgck_usable(channel);
    pgck_batch *batch = code == 0 ? pgck_find(channel, ticket) : NULL;
    pgck_clear(ticket, zero, decided);
    if (batch == NULL)
        return code != 0 ? code : -EINVAL;
    if (channel->broken)
        return pgck_say(channel, -EPROTO, PGCK_INVALID);
    int64_t slice_ns = channel->socket >= 0 ? PGCK_LOOK_NS : INT64_MAX;
    do {
        code = pgck_wait_slice(channel, batch, deadline_ns, slice_ns, zero, decided);
        if (code == -EAGAIN)
            channel->lost = pgck_hung_up(channel->socket);
        else if (code == -ETIMEDOUT)
            pgck_look(channel);
    } while (code == -EAGAIN || (code == -ETIMEDOUT && channel->lost)); /* see what came before */
    return code;
}

/* ---- The segment ---- */

/* May be called twice, and on a zeroed structure. */
PAGECHECK_API void pagecheck_channel_unmap(pagecheck_channel *channel)
{
    if (channel->own == NULL)
        return;
    pgck_disown(&channel->own);
    if (channel->ring.header != NULL)
        munmap(channel->ring.header, channel->mapped_bytes);
    if (channel->socket >= 0)
        close(channel->socket);
    free(channel->batches);
    channel->ring.header = NULL;
    channel->batches = NULL;
    channel->socket = -1;
}

/* Returns a static error text, which sets `code`, or NULL. */
static inline const char *pgck_map(int fd, pagecheck_channel *channel, int *code)
{
    struct stat st;
    /* An unsealed file could shrink below the mapping, which would be SIGBUS. */
    int seals = fcntl(fd, PGCK_GET_SEALS);
    if (seals < 0 || (seals & PGCK_SEALS) != PGCK_SEALS)
        return "channel segment without its seals";
    if (fstat(fd, &st) != 0 || st.st_size < (off_t)sizeof *channel->ring.header)
        return "channel segment too short";
    channel->mapped_bytes = (size_t)st.st_size;
    void *mapped = mmap(NULL, channel->mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) {
        /* EAGAIN: the limit of locked memory, where mappings are locked (mlockall). */
        *code = errno == EAGAIN || errno == ENOMEM ? -ENOMEM : errno == ENFILE ? -ENFILE : -EPROTO;
        return "cannot map the channel segment";
    }
    channel->ring.header = (struct pagecheck_ring_header *)mapped;
    const char *wrong = pgck_ring_init(channel->ring.header, channel->mapped_bytes, &channel->ring);
    if (wrong != NULL)
        return wrong;
    channel->slots = channel->ring.slots;
    channel->slot_pages = channel->ring.slot_pages;
    for (uint32_t i = 0; i < channel->slots; i++)
        if (__atomic_load_n(&pgck_slot(&channel->ring, i)->request, __ATOMIC_RELAXED) != 0)
            return "channel segment that was used before";
    channel->batches = (pgck_batch *)calloc(channel->slots, sizeof *channel->batches);
    if (channel->batches != NULL)
        return NULL;
    *code = -ENOMEM;
    return "no memory";
}

/* Maps a new channel's segment and checks its seals, size and header; `fd` stays the caller's.
 * 0, -EPROTO, -ENOMEM or -ENFILE; after a failure there is nothing to unmap. Needs no client, but
 * without pagecheck_channel_watch a service that was killed is not noticed. */
PAGECHECK_API int pagecheck_channel_map(int fd, pagecheck_channel *channel)
{
    memset(channel, 0, sizeof *channel);
    channel->socket = -1;
    channel->own = pgck_own();
    if (channel->own == NULL)
        return pgck_say(channel, -ENOMEM, "no memory");
    channel->first = pgck_unique(channel);
    int code = -EPROTO;
    const char *wrong = pgck_map(fd, channel, &code);
    if (wrong == NULL)
        return 0;
    pagecheck_channel_unmap(channel);
    return pgck_say(channel, code, wrong);
}

/* For a channel that was mapped without a client: watches the connection, whose descriptor stays
 * the caller's, as a client's. 0, or a negative errno; then the previous one is still watched.
 */
PAGECHECK_API int pagecheck_channel_watch(pagecheck_channel *channel, int socket)
{
    int code = pgck_usable(channel);
    if (code != 0)
        return code;
    int copy = fcntl(socket, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) {
        code = -errno;
        return pgck_say(channel, code, "cannot duplicate the descriptor of the connection");
    }
    if (channel->socket >= 0)
        close(channel->socket);
    channel->socket = copy;
    return 0;
}

/* ---- The connection ----
 *
 * The calls on a client return 0 or a negative errno, with details in client->error. -EREMOTEIO:
 * the service answered with an error; nothing else has changed. -ETIMEDOUT: it did not answer in
 * time; the connection is good, the answer is dropped by its id when it comes, with its descriptor,
 * and what it attached or opened is released. -EINVAL, -EMSGSIZE, -ENOMEM, -EMFILE and the errno
 * of a system call: nothing was sent. After -ECONNRESET, the service hung up, and -EPROTO, it
 * violated the protocol or accepted half a request, the connection cannot be used: `error` says so,
 * and every call returns the same until pagecheck_disconnect; connect again. */

/* Ends the use of this connection. */
static inline int pgck_end(pagecheck_client *client, int code)
{
    static const char *const end = "; connect again";
    size_t at = strlen(client->error), most = sizeof client->error - strlen(end) - 1;
    memcpy(client->error + (at < most ? at : most), end, strlen(end) + 1);
    return client->failed = code;
}

/* Sends a request and returns its answer; a descriptor that came with the answer is client->passed.
 */
static inline int pgck_ask(pagecheck_client *client, char *request, int fd, int64_t deadline_ns,
                           const char **answer)
{
    int usable = pgck_whose(client->own);
    if (usable != 0)
        return pgck_fail(client, usable,
                         usable == -ECHILD ? "the client is the parent process's; connect here"
                                           : "the client is not connected");
    if (client->failed != 0)
        return pgck_fail(client, client->failed, "the connection is closed; connect again");
    client->looks = PGCK_LOOKS;
    client->requests++; /* the id that `request` has */
    int code = pgck_exchange(client, request, fd, "return", deadline_ns, answer);
    if (code == -ECONNRESET || code == -EPROTO)
        return pgck_end(client, code);
    if (client->is_mid_line) /* the service would take the next request for the rest of this one */
        return pgck_end(client, -EPROTO);
    return code;
}

/* The same for a request with one argument, a number, and without a result. */
static inline int pgck_tell(pagecheck_client *client, const char *command, const char *argument,
                            uint32_t value, int64_t deadline_ns)
{
    char request[160];
    const char *answer;
    snprintf(request, sizeof request,
             "{\"execute\":\"%s\",\"arguments\":{\"%s\":%" PRIu32 "},\"id\":%" PRIu64 "}\n",
             command, argument, value, client->requests + 1);
    return pgck_ask(client, request, -1, deadline_ns, &answer);
}

/* Disconnects; the service releases what this client attached, and its channels end with
 * -ECONNRESET. They must still be closed or unmapped. May be called twice, and on a zeroed
 * structure; in a child of the process that connected it closes the child's copies only. */
PAGECHECK_API void pagecheck_disconnect(pagecheck_client *client)
{
    bool ours = pgck_whose(client->own) == 0;
    client->failed = -ENOTCONN;
    if (client->own == NULL)
        return;
    pgck_disown(&client->own);
    pgck_drop_passed(client);
    if (client->socket >= 0) {
        if (ours)
            shutdown(client->socket, SHUT_RDWR); /* the channels have copies of the descriptor */
        close(client->socket);
    }
    free(client->line);
    client->line = NULL;
    client->room = client->filled = client->taken = 0;
    client->socket = client->passed = -1;
}

/* 0 while the service has not hung up, else -ECONNRESET. Sends nothing. */
PAGECHECK_API int pagecheck_check(const pagecheck_client *client)
{
    return pgck_whose(client->own) != 0 || pgck_hung_up(client->socket) ? -ECONNRESET : 0;
}

static inline int pgck_connect(pagecheck_client *client, const char *path, int64_t deadline_ns)
{
    struct sockaddr_un address;
    int code;
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    if (strlen(path) >= sizeof address.sun_path)
        return pgck_fail(client, -ENAMETOOLONG, "%s: too long for a socket", path);
    memcpy(address.sun_path, path, strlen(path));
    client->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (client->socket < 0)
        return pgck_errno(client, "socket");
    do { /* it waits while the service's backlog is full */
        code = pgck_limit(client, deadline_ns);
        if (code != 0)
            return code;
        code = connect(client->socket, (const struct sockaddr *)&address, sizeof address);
    } while (code != 0 && errno == EINTR);
    return code != 0 ? pgck_errno(client, path) : 0;
}

/* Whether both sides support the protocol and the layout. */
static inline int pgck_versions(pagecheck_client *client, const char *greeting)
{
    client->names_layouts = pgck_member(greeting, "layouts") != NULL;
    bool layout = client->names_layouts
                      ? pgck_has_number(greeting, "layouts", PAGECHECK_LAYOUT_VERSION)
                      : pgck_number(greeting, "layout") == PAGECHECK_LAYOUT_VERSION;
    if (layout && pgck_number(greeting, "protocol") == PAGECHECK_PROTOCOL)
        return 0;
    return pgck_fail(client, -EPROTONOSUPPORT,
                     "we speak protocol %u, layout %u, the service others, update one of the two: "
                     "%.120s",
                     PAGECHECK_PROTOCOL, (unsigned)PAGECHECK_LAYOUT_VERSION, greeting);
}

/* Connects, and reads and checks the greeting. After a failure there is nothing to disconnect. */
PAGECHECK_API int pagecheck_connect(const char *path, int64_t deadline_ns, pagecheck_client *client)
{
    const char *greeting = NULL;
    memset(client, 0, sizeof *client);
    client->socket = client->passed = -1;
    client->own = pgck_own();
    if (client->own == NULL)
        return pgck_fail(client, -ENOMEM, "no memory");
    client->number = pgck_unique(client);
    client->looks = PGCK_LOOKS;
    int code = pgck_connect(client, path, deadline_ns);
    if (code == 0)
        code = pgck_exchange(client, NULL, -1, "pagecheck", deadline_ns, &greeting);
    if (code == 0)
        code = pgck_versions(client, greeting);
    if (code != 0)
        pagecheck_disconnect(client);
    return code;
}

/* The request, from malloc; NULL: no memory. */
static inline char *pgck_attach_request(const char *name, uint64_t page_size, uint64_t id,
                                        const pagecheck_region *regions, uint32_t nregions)
{
    size_t room = 160 + strlen(name) + nregions * (size_t)160;
    char *request = (char *)malloc(room);
    if (request == NULL)
        return NULL;
    size_t at = (size_t)snprintf(request, room,
                                 "{\"execute\":\"attach\",\"id\":%" PRIu64
                                 ",\"arguments\":{\"name\":\"%s\",\"page_size\":%" PRIu64 "%s",
                                 id, name, page_size, nregions != 0 ? ",\"regions\":" : "");
    for (uint32_t i = 0; i < nregions; i++)
        at +=
            (size_t)snprintf(request + at, room - at,
                             "%c{\"guest_phys_addr\":%" PRIu64 ",\"memory_size\":%" PRIu64
                             ",\"userspace_addr\":%" PRIu64 ",\"mmap_offset\":%" PRIu64 "}",
                             i == 0 ? '[' : ',', regions[i].guest_phys_addr, regions[i].memory_size,
                             regions[i].userspace_addr, regions[i].mmap_offset);
    snprintf(request + at, room - at, "%s}}\n", nregions != 0 ? "]" : "");
    return request;
}

/* Lets the service read the RAM behind `fd`; `fd` stays the caller's. `name` is printable, without
 * quotes and backslashes; `regions` may be NULL. Offsets of pages are bytes from the file's start.
 * `block` is valid for this connection only; another one refuses it. -EINVAL: an invalid name. */
PAGECHECK_API int pagecheck_attach(pagecheck_client *client, const char *name, int fd,
                                   uint64_t page_size, const pagecheck_region *regions,
                                   uint32_t nregions, int64_t deadline_ns, uint32_t *block)
{
    const char *answer = NULL;
    *block = UINT32_MAX; /* no block's */
    for (const char *at = name; *at != '\0'; at++)
        if ((unsigned char)*at < ' ' || *at == '"' || *at == '\\')
            return pgck_fail(client, -EINVAL, "block name with a character that JSON must escape");
    if (nregions > PGCK_REQUEST_BYTES / 64) /* none is shorter */
        return pgck_fail(client, -EMSGSIZE, "%" PRIu32 " regions, more than the service takes",
                         nregions);
    char *request = pgck_attach_request(name, page_size, client->requests + 1, regions, nregions);
    if (request == NULL)
        return pgck_fail(client, -ENOMEM, "no memory");
    int code = pgck_ask(client, request, fd, deadline_ns, &answer);
    free(request);
    uint64_t number = code == 0 ? pgck_number(answer, "block") : 0;
    if (number > UINT32_MAX)
        return pgck_end(client, pgck_fail(client, -EPROTO, "attach: no block: %.150s", answer));
    if (code == 0)
        *block = (uint32_t)number + pgck_base(client->number);
    return code;
}

/* No batch of the block may be in progress. */
PAGECHECK_API int pagecheck_detach(pagecheck_client *client, uint32_t block, int64_t deadline_ns)
{
    return pgck_tell(client, "detach", "block", block - pgck_base(client->number), deadline_ns);
}

/* Unmaps the channel whatever it returns. -ETIMEDOUT: the service may not know of it yet; close it
 * again, or it stays there as long as the connection. 0 also where it was closed before, or with
 * another connection: its number may be in use for another one by now. */
PAGECHECK_API int pagecheck_close_channel(pagecheck_client *client, pagecheck_channel *channel,
                                          int64_t deadline_ns)
{
    bool is_this = channel->connection != 0 && channel->connection == client->number;
    pagecheck_channel_unmap(channel);
    if (!is_this && pgck_whose(client->own) == 0)
        return 0;
    int code = pgck_tell(client, "close-channel", "channel", channel->id, deadline_ns);
    if (code == -EREMOTEIO && channel->is_closing)
        code = 0; /* it got the request before, and answered too late */
    channel->is_closing = code == -ETIMEDOUT;
    if (!channel->is_closing)
        channel->connection = 0;
    return code;
}

/* Maps the answer's segment, which must match the answer. */
static inline int pgck_open_answered(pagecheck_client *client, const char *answer,
                                     pagecheck_channel *channel)
{
    uint64_t id = pgck_number(answer, "channel");
    if (id > UINT32_MAX)
        return pgck_fail(client, -EPROTO, "open-channel: no number: %.150s", answer);
    if (client->passed < 0 && client->cut)
        return pgck_fail(client, -EMFILE, "open-channel: this process is out of descriptors");
    if (client->passed < 0)
        return pgck_fail(client, -EPROTO, "open-channel: no segment: %.150s", answer);
    int mapped = pagecheck_channel_map(client->passed, channel);
    if (mapped != 0)
        return pgck_fail(client, mapped, "open-channel: %s", channel->error);
    channel->id = (uint32_t)id;
    channel->connection = client->number;
    channel->socket = fcntl(client->socket, F_DUPFD_CLOEXEC, 0);
    if (channel->socket >= 0 && pgck_number(answer, "slots") == channel->slots &&
        pgck_number(answer, "slot_pages") == channel->slot_pages)
        return 0;
    int code = channel->socket < 0 ? pgck_errno(client, "open-channel: dup")
                                   : pgck_fail(client, -EPROTO, "open-channel: another geometry");
    pagecheck_channel_unmap(channel);
    return code;
}

/* Opens a channel; after a failure there is nothing to close. -EMFILE, -ENFILE, -ENOMEM: this
 * process lacks the resources for it; the connection is good. */
PAGECHECK_API int pagecheck_open_channel(pagecheck_client *client,
                                         const pagecheck_channel_options *options,
                                         int64_t deadline_ns, pagecheck_channel *channel)
{
    char request[200];
    const char *answer = NULL;
    memset(channel, 0, sizeof *channel);
    channel->socket = -1;
    snprintf(request, sizeof request,
             "{\"execute\":\"open-channel\",\"id\":%" PRIu64 ",\"arguments\":{\"slots\":%" PRIu32
             ",\"slot_pages\":%" PRIu32 ",\"spin_us\":%" PRIu32 "%s}}\n",
             client->requests + 1, options->slots, options->slot_pages, options->spin_us,
             client->names_layouts ? ",\"layouts\":[" PGCK_TEXT(PAGECHECK_LAYOUT_VERSION) "]" : "");
    int code = pgck_ask(client, request, -1, deadline_ns, &answer);
    if (code != 0)
        return code;
    uint64_t id = pgck_number(answer, "channel");
    code = pgck_open_answered(client, answer, channel);
    pgck_drop_passed(client);
    if (code == 0)
        return 0;
    if (code == -EPROTO)
        return pgck_end(client, code);
    char error[sizeof client->error];
    memcpy(error, client->error, sizeof error);
    channel->connection = 0; /* closing it sends nothing */
    pgck_tell(client, "close-channel", "channel", (uint32_t)id, deadline_ns);
    memcpy(client->error, error, sizeof error);
    return code; /* in any case the service closes it with the connection */
}

#endif
