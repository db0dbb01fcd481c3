/* Requests and answers over the service's socket: lines of JSON, with descriptors attached.
 *
 * Danger: a reply that comes too late, or half a line. Decision: replies are matched by id, what a
 * late one opened is released, and a connection with half a line on it is no longer used. */
#ifndef PAGECHECK_WIRE_H
#define PAGECHECK_WIRE_H

#include "pagecheck_ring.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>

typedef struct pagecheck_client {
    char error[256]; /* the last failure, with the service's class and text */
    /* The rest is internal. */
    uint64_t *own; /* see pgck_own; NULL: it is closed */
    int socket;
    bool cut;           /* a descriptor was lost: this process was out of descriptors */
    int passed;         /* a descriptor that was received and not claimed, or -1 */
    size_t passed_at;   /* where in `line` its line begins */
    int failed;         /* why the connection cannot be used any more, a negative errno; or 0 */
    bool names_layouts; /* the service accepts `layouts` of open-channel */
    bool is_mid_line;   /* a request was sent in part: no other one can follow it */
    uint32_t looks;     /* remaining reads once a deadline has passed */
    uint64_t number;    /* identifies this connection */
    uint64_t requests;
    char *line;           /* received bytes, from malloc */
    size_t room;          /* bytes of `line` */
    size_t filled, taken; /* received, and of them the last line's */
} pagecheck_client;

/* ---- The subset of JSON that the service's lines use ---- */

static inline const char *pgck_blank(const char *at)
{
    return at + strspn(at, " \t\r");
}

/* What ends the name or value at `at`: a comma, colon or bracket; or NULL. Nesting is unlimited. */
static inline const char *pgck_value_end(const char *at)
{
    size_t depth = 0;
    bool quoted = false;
    for (; *at != '\0'; at++) {
        if (*at == '"')
            quoted = !quoted;
        else if (quoted)
            at += *at == '\\' && at[1] != '\0';
        else if (depth == 0 && strchr(",:}]", *at) != NULL)
            return at;
        else if (*at == '[' || *at == '{')
            depth++;
        else if (*at == ']' || *at == '}')
            depth--;
    }
    return NULL;
}

/* The value of an object's member, or NULL. */
static inline const char *pgck_member(const char *object, const char *key)
{
    size_t length = strlen(key);
    const char *at = object != NULL && *object == '{' ? object : NULL;
    while (at != NULL && (at == object || *at == ',')) {
        const char *name = pgck_blank(at + 1);
        const char *colon = pgck_value_end(name);
        if (colon == NULL || *colon != ':')
            return NULL;
        const char *value = pgck_blank(colon + 1);
        if (*name == '"' && strncmp(name + 1, key, length) == 0 && name[length + 1] == '"')
            return value;
        at = pgck_value_end(value);
    }
    return NULL;
}

/* UINT64_MAX: no such member, or not a whole number. */
static inline uint64_t pgck_number(const char *object, const char *key)
{
    const char *at = pgck_member(object, key);
    size_t digits = at != NULL ? strspn(at, "0123456789") : 0;
    bool whole = digits > 0 && digits < 20 && strchr(",} \t\r", at[digits]) != NULL;
    return whole ? strtoull(at, NULL, 10) : UINT64_MAX;
}

/* Whether an array of whole numbers, an object's member, holds this one. */
static inline bool pgck_has_number(const char *object, const char *key, uint64_t wanted)
{
    const char *at = pgck_member(object, key);
    for (bool inside = at != NULL && *at == '['; inside; inside = *at == ',') {
        at = pgck_blank(at + 1);
        size_t digits = strspn(at, "0123456789");
        if (digits > 0 && digits < 20 && strtoull(at, NULL, 10) == wanted)
            return true;
        at = pgck_blank(at + digits);
    }
    return false;
}

/* ---- Lines ---- */

__attribute__((format(printf, 3, 4))) static inline int pgck_fail(pagecheck_client *client,
                                                                  int code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(client->error, sizeof client->error, format, arguments);
    va_end(arguments);
    return code;
}

/* The error of a failed call on a socket with timeouts. */
static inline int pgck_errno(pagecheck_client *client, const char *doing)
{
    int code = errno == EPIPE ? ECONNRESET : errno == EAGAIN ? ETIMEDOUT : errno;
    return pgck_fail(client, -code, "%s: %s", doing, strerror(code));
}

/* Sets the timeout of the socket's next call. */
static inline int pgck_limit(pagecheck_client *client, int64_t deadline_ns)
{
    int64_t left_us = deadline_ns > 0 ? (deadline_ns - pagecheck_now_ns()) / 1000 : 0;
    struct timeval left;
    if (left_us <= 0)
        return pgck_fail(client, -ETIMEDOUT, "the deadline passed before the request was sent");
    left.tv_sec = (time_t)(left_us / 1000000);
    left.tv_usec = (suseconds_t)(left_us % 1000000);
    if (setsockopt(client->socket, SOL_SOCKET, SO_RCVTIMEO, &left, sizeof left) != 0 ||
        setsockopt(client->socket, SOL_SOCKET, SO_SNDTIMEO, &left, sizeof left) != 0)
        return pgck_errno(client, "setsockopt");
    return 0;
}

#define PGCK_LINE_BYTES (1u << 20)    /* the service sends no longer ones */
#define PGCK_REQUEST_BYTES (1u << 18) /* it accepts no longer ones */
#define PGCK_LOOKS (PGCK_LINE_BYTES / 4096u)

/* Room for the head of a control message and one descriptor; the kernel would fill CMSG_SPACE with
 * two. */
typedef union pgck_control {
    struct cmsghdr head;
    char bytes[CMSG_SPACE(sizeof(int))];
} pgck_control;

static inline void pgck_message(struct iovec *part, pgck_control *control, struct msghdr *message)
{
    memset(message, 0, sizeof *message);
    memset(control, 0, sizeof *control);
    message->msg_iov = part;
    message->msg_iovlen = 1;
    message->msg_control = control;
    message->msg_controllen = CMSG_LEN(sizeof(int));
}

/* Sends a line; a descriptor goes with its first bytes. Nothing is sent where the deadline has
 * passed (a process that was stopped meanwhile can retry), but a started line is completed if
 * possible. */
static inline int pgck_send(pagecheck_client *client, char *line, int fd, int64_t deadline_ns)
{
    struct iovec part = {line, strlen(line)};
    client->is_mid_line = false;
    if (part.iov_len > PGCK_REQUEST_BYTES)
        return pgck_fail(client, -EMSGSIZE, "a request of %zu bytes, more than the service accepts",
                         part.iov_len);
    while (part.iov_len > 0) {
        struct msghdr message;
        pgck_control control;
        pgck_message(&part, &control, &message);
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
        if (fd < 0)
            message.msg_controllen = 0;
        int code = pgck_limit(client, deadline_ns);
        if (code != 0 && !client->is_mid_line)
            return code;
        int flags = MSG_NOSIGNAL | (code != 0 ? MSG_DONTWAIT : 0);
        ssize_t sent = sendmsg(client->socket, &message, flags);
        if (sent < 0 && errno != EINTR)
            return pgck_errno(client, "sendmsg");
        if (sent > 0) {
            part.iov_base = (char *)part.iov_base + sent;
            part.iov_len -= (size_t)sent;
            client->is_mid_line = part.iov_len > 0;
            fd = -1;
        }
    }
    return 0;
}

/* Room for more of a line: a reply repeats the request. */
static inline int pgck_grow(pagecheck_client *client)
{
    if (client->filled < client->room)
        return 0;
    if (client->room >= PGCK_LINE_BYTES)
        return pgck_fail(client, -EPROTO, "the service sent too long a line");
    size_t room = client->room == 0 ? 4096 : 2 * client->room;
    char *line = (char *)realloc(client->line, room);
    if (line == NULL)
        return pgck_fail(client, -ENOMEM, "no memory");
    client->line = line;
    client->room = room;
    return 0;
}

static inline void pgck_drop_passed(pagecheck_client *client)
{
    if (client->passed >= 0)
        close(client->passed);
    client->passed = -1;
    client->cut = false;
}

/* Keeps a descriptor, or that one was lost, for the last line that has begun: the kernel ends a
 * read behind bytes that descriptors came with. */
static inline void pgck_note_passed(pagecheck_client *client, struct cmsghdr *rights)
{
    size_t at = client->filled - 1; /* its last byte may be the end of that line */
    while (at > 0 && client->line[at - 1] != '\n')
        at--;
    pgck_drop_passed(client);
    client->passed_at = at;
    client->cut = rights == NULL;
    if (rights != NULL)
        memcpy(&client->passed, CMSG_DATA(rights), sizeof(int));
}

#define PGCK_NO_ANSWER "the service did not answer in time"

static inline int pgck_receive(pagecheck_client *client, int64_t deadline_ns)
{
    struct msghdr message;
    pgck_control control;
    int code = pgck_grow(client);
    if (code != 0)
        return code;
    struct iovec part = {client->line + client->filled, client->room - client->filled};
    pgck_message(&part, &control, &message);
    /* Data that arrived while this process did not run is read, but not without end. */
    bool is_late = pgck_limit(client, deadline_ns) != 0;
    if (is_late && client->looks-- == 0)
        return pgck_fail(client, -ETIMEDOUT, PGCK_NO_ANSWER);
    ssize_t got =
        recvmsg(client->socket, &message, MSG_CMSG_CLOEXEC | (is_late ? MSG_DONTWAIT : 0));
    if (got < 0 && errno == EAGAIN)
        return pgck_fail(client, -ETIMEDOUT, PGCK_NO_ANSWER);
    if (got < 0)
        return errno == EINTR ? 0 : pgck_errno(client, "recvmsg");
    bool has_fd = control.head.cmsg_type == SCM_RIGHTS;
    has_fd = has_fd && control.head.cmsg_len == CMSG_LEN(sizeof(int));
    if (got == 0)
        return pgck_fail(client, -ECONNRESET, "the service hung up");
    client->filled += (size_t)got;
    if (has_fd || (message.msg_flags & MSG_CTRUNC) != 0)
        pgck_note_passed(client, has_fd ? &control.head : NULL);
    return 0;
}

/* Reads the next line into client->line. */
static inline int pgck_line(pagecheck_client *client, int64_t deadline_ns)
{
    char *end = NULL;
    client->filled -= client->taken;
    if (client->filled > 0)
        memmove(client->line, client->line + client->taken, client->filled);
    if (client->passed_at < client->taken)
        pgck_drop_passed(client); /* it was the last line's, and was not claimed */
    else
        client->passed_at -= client->taken;
    client->taken = 0;
    while (client->filled == 0 ||
           (end = (char *)memchr(client->line, '\n', client->filled)) == NULL) {
        int code = pgck_receive(client, deadline_ns);
        if (code != 0)
            return code;
    }
    *end = '\0';
    client->taken = (size_t)(end - client->line) + 1;
    return 0;
}

/* The text of {"class": .., "desc": ..} as received. */
static inline int pgck_error(pagecheck_client *client, const char *error)
{
    const char *end = pgck_value_end(error);
    int length = end != NULL && end - error < 200 ? (int)(end - error) : 200;
    return pgck_fail(client, -EREMOTEIO, "the service says %.*s", length, error);
}

/* What a late reply attached or opened has no owner: asks the service to release it, and does not
 * wait for that. What cannot be sent is released with the connection. */
static inline int pgck_release_late(pagecheck_client *client, const char *answer,
                                    int64_t deadline_ns)
{
    char request[160];
    uint64_t channel = pgck_number(answer, "channel"), block = pgck_number(answer, "block");
    if (channel > UINT32_MAX && block > UINT32_MAX)
        return 0;
    bool opened = channel <= UINT32_MAX;
    snprintf(request, sizeof request,
             "{\"execute\":\"%s\",\"arguments\":{\"%s\":%" PRIu64 "},\"id\":0}\n",
             opened ? "close-channel" : "detach", opened ? "channel" : "block",
             opened ? channel : block);
    int code = pgck_send(client, request, -1, deadline_ns);
    return client->is_mid_line ? code : 0;
}

/* Whether a line answers another request than the newest, or is an event. The first request's id is
 * 1; releases are requested with 0. */
static inline bool pgck_is_late(const pagecheck_client *client, const char *reply)
{
    return pgck_member(reply, "event") != NULL || pgck_number(reply, "id") < client->requests;
}

/* Sends a request, if there is one, and waits for its answer, of which `key` is a member. */
static inline int pgck_exchange(pagecheck_client *client, char *request, int fd, const char *key,
                                int64_t deadline_ns, const char **answer)
{
    int code = request != NULL ? pgck_send(client, request, fd, deadline_ns) : 0;
    while (code == 0 && (code = pgck_line(client, deadline_ns)) == 0) {
        const char *reply = pgck_blank(client->line);
        const char *error = pgck_member(reply, "error");
        *answer = pgck_member(reply, key);
        if (pgck_is_late(client, reply)) {
            code = pgck_release_late(client, *answer, deadline_ns);
            continue;
        }
        if (error != NULL) /* it is that request's, or the connection's */
            return pgck_error(client, error);
        if (*answer != NULL && (request == NULL || pgck_number(reply, "id") == client->requests))
            return 0;
        code = pgck_fail(client, -EPROTO, "the service sent no answer: %.100s", reply);
    }
    return code;
}

#endif
