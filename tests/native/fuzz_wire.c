/* The service is hostile: whatever it sends, pagecheck.h's client says what is wrong, or has what
 * it was sent; nothing is left open. Input: the bytes of the socket; 0xff lets a descriptor pass.
 */
#include <fcntl.h>

#include <pagecheck.h>

#include "fuzz.h"

enum { FDS = 64 };

static int count_fds(void)
{
    int count = 0;
    for (int fd = 0; fd < FDS; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* Sends `bytes`, with a descriptor or without; the socket has room, or the rest is dropped. */
static void send_part(int socket, const uint8_t *bytes, size_t size, int fd)
{
    struct iovec part = {(void *)(uintptr_t)bytes, size};
    struct msghdr message;
    pgck_control control;
    pgck_message(&part, &control, &message);
    control.head.cmsg_level = SOL_SOCKET;
    control.head.cmsg_type = SCM_RIGHTS;
    control.head.cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
    if (fd < 0)
        message.msg_controllen = 0;
    if (size > 0 && sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        return;
}

/* Half of the descriptors are rings that can be mapped. */
static int some_ring(bool good)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    uint64_t bytes = pgck_segment_bytes(2, 64);
    struct pagecheck_ring_header header = {.magic = PAGECHECK_SEGMENT_MAGIC,
                                           .layout_version = PAGECHECK_LAYOUT_VERSION,
                                           .header_bytes = sizeof header,
                                           .segment_bytes = bytes,
                                           .slot_count = 2,
                                           .slot_pages = 64,
                                           .slot_bytes = pgck_slot_bytes(64)};
    FUZZ_REQUIRE(fd >= 0 && ftruncate(fd, good ? (off_t)bytes : 100) == 0);
    FUZZ_REQUIRE(pwrite(fd, &header, sizeof header, 0) == (ssize_t)sizeof header || !good);
    FUZZ_REQUIRE(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
    return fd;
}

static void send_all(int socket, const uint8_t *data, size_t size)
{
    size_t from = 0;
    for (size_t i = 0; i < size; i++)
        if (data[i] == 0xff) {
            int fd = some_ring(i % 2 == 0);
            send_part(socket, data + from, i - from, fd);
            close(fd);
            from = i + 1;
        }
    send_part(socket, data + from, size - from, -1);
}

static void use(pagecheck_client *client, int ram, uint8_t what)
{
    const pagecheck_channel_options options = {.slots = 2, .slot_pages = 64};
    pagecheck_channel channel;
    uint32_t block = 0;
    int64_t soon = pagecheck_now_ns() + INT64_C(20000000);
    const char *answer;
    int code;
    switch (what % 4) {
    case 0:
        code = pagecheck_attach(client, "ram", ram, 4096, NULL, 0, soon, &block);
        break;
    case 1:
        code = pgck_exchange(client, NULL, -1, "pagecheck", soon, &answer);
        code = code == 0 ? pgck_versions(client, answer) : code;
        break;
    case 2:
        code = pagecheck_open_channel(client, &options, soon, &channel);
        if (code == 0) {
            FUZZ_REQUIRE(channel.slots == 2 && channel.slot_pages == 64);
            pagecheck_channel_unmap(&channel);
        }
        break;
    default:
        code = pagecheck_detach(client, 0, soon);
    }
    FUZZ_REQUIRE(code <= 0 && strlen(client->error) < sizeof client->error);
}

static pagecheck_client new_client(int socket)
{
    pagecheck_client client;
    memset(&client, 0, sizeof client);
    client.socket = socket;
    client.own = pgck_own();
    client.passed = -1;
    client.looks = PGCK_LOOKS;
    client.number = 1;
    FUZZ_REQUIRE(client.own != NULL);
    return client;
}

/* The parts of JSON alone: each pointer is inside the text. */
static void parse(const uint8_t *data, size_t size)
{
    static const char *const keys[] = {"", "id", "return", "channel", "pagecheck"};
    char *text = malloc(size + 1);
    FUZZ_REQUIRE(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    size_t length = strlen(text);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *at = pgck_member(text, keys[i]);
        FUZZ_REQUIRE(at == NULL || (at > text && at <= text + length));
        at = pgck_member(at, keys[1]);
        FUZZ_REQUIRE(at == NULL || (at > text && at <= text + length));
        pgck_number(text, keys[i]);
        pgck_has_number(text, keys[i], 3);
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int ends[2], before = count_fds();
    if (size == 0)
        return 0;
    parse(data + 1, size - 1);
    FUZZ_REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    pagecheck_client client = new_client(ends[0]);
    send_all(ends[1], data + 1, size - 1);
    shutdown(ends[1], SHUT_WR); /* its requests find room, its replies an end */
    for (uint8_t i = 0; i < 3; i++)
        use(&client, ends[1], (uint8_t)(data[0] >> 2 * i));
    pagecheck_disconnect(&client);
    close(ends[1]);
    FUZZ_REQUIRE(count_fds() == before);
    return 0;
}
