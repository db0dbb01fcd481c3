/* What a VMM does with pagecheck.h, or with libpagecheck.h (-DUSE_LIBRARY), beside a service:
 * exercise SOCKET RAM_FD PAGES. Prints for each way to ask the zero and the decided words of all
 * pages in hex, or one line with what went wrong. */
#ifdef USE_LIBRARY
#include <libpagecheck.h>
#define CLIENT_BYTES pagecheck_client_bytes()
#define CHANNEL_BYTES pagecheck_channel_bytes()
#define CLIENT_ERROR(client) pagecheck_client_error(client)
#define CHANNEL_ERROR(channel) pagecheck_channel_error(channel)
#define REFUSAL(channel) pagecheck_channel_refusal(channel)
#define SET_SPIN(channel, ns) pagecheck_channel_set_spin(channel, ns)
#else
#include <pagecheck.h>
#define CLIENT_BYTES sizeof(pagecheck_client)
#define CHANNEL_BYTES sizeof(pagecheck_channel)
#define CLIENT_ERROR(client) (client)->error
#define CHANNEL_ERROR(channel) (channel)->error
#define REFUSAL(channel) (channel)->refusal
#define SET_SPIN(channel, ns) ((channel)->spin_ns = (ns))
#endif

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = 4096, BATCH = 128, WORDS = BATCH / 64, SLOTS = 4, REFUSED_BLOCK = 3 };

static pagecheck_client *client;
static pagecheck_channel *channel;
static uint32_t block;

static int64_t soon(void)
{
    return pagecheck_now_ns() + INT64_C(20) * 1000000000;
}

#define NEED(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            const char *why = channel != NULL ? CHANNEL_ERROR(channel) : NULL;                     \
            printf("%d: not true: %s: %s; %s\n", __LINE__, #condition, CLIENT_ERROR(client),       \
                   why != NULL ? why : "");                                                        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* A batch of scattered pages comes back with its normal pages first. */
static void partition(const uint64_t *offsets, const uint64_t *zero, const uint64_t *decided)
{
    uint64_t sorted[BATCH];
    uint32_t expected = BATCH;
    for (uint32_t i = 0; i < BATCH; i++)
        expected -= (uint32_t)(zero[i / 64] >> (i % 64) & 1u);
    NEED(pagecheck_partition(offsets, zero, decided, BATCH, sorted) == expected);
}

static uint64_t submit(const char *way, uint64_t first)
{
    uint64_t offsets[BATCH], ticket = 0;
    for (uint64_t i = 0; i < BATCH; i++)
        offsets[i] = (first + i) * PAGE;
    if (strcmp(way, "range") == 0)
        NEED(pagecheck_submit_range(channel, block, first, BATCH, &ticket) == 0);
    else
        NEED(pagecheck_submit(channel, block, offsets, BATCH, &ticket) == 0);
    return ticket;
}

static void take(uint64_t ticket, uint64_t first)
{
    uint64_t offsets[BATCH], zero[WORDS], decided[WORDS];
    for (uint64_t i = 0; i < BATCH; i++)
        offsets[i] = (first + i) * PAGE;
    NEED(pagecheck_wait(channel, ticket, soon(), zero, decided) == 0);
    for (int word = 0; word < WORDS; word++)
        printf(" %" PRIx64 ",%" PRIx64, zero[word], decided[word]);
    partition(offsets, zero, decided);
}

/* Several batches in progress, as many as there are slots. */
static void check_all(const char *way, uint64_t pages)
{
    printf("%s", way);
    for (uint64_t first = 0; first < pages; first += SLOTS * BATCH) {
        uint64_t tickets[SLOTS];
        for (int i = 0; i < SLOTS; i++)
            tickets[i] = submit(way, first + (uint64_t)i * BATCH);
        for (int i = 0; i < SLOTS; i++)
            take(tickets[i], first + (uint64_t)i * BATCH);
    }
    printf("\n");
}

static void check_refusals(void)
{
    uint64_t ticket, zero[WORDS] = {1, 1}, decided[WORDS] = {1, 1};
    NEED(pagecheck_submit_range(channel, block + 1, 0, BATCH, &ticket) == 0);
    NEED(pagecheck_wait(channel, ticket, soon(), zero, decided) == -EPROTO);
    NEED(REFUSAL(channel) == REFUSED_BLOCK);
    NEED(zero[0] == 0 && zero[1] == 0 && decided[0] == 0 && decided[1] == 0);
    NEED(pagecheck_submit_range(channel, block, 0, BATCH + 1, &ticket) == -EINVAL);
    for (int i = 0; i < 2 * SLOTS; i++) { /* what is forgotten gives its slot back */
        while (pagecheck_submit_range(channel, block, 0, 1, &ticket) == -EAGAIN)
            NEED(pagecheck_check(client) == 0);
        NEED(pagecheck_forget(channel, ticket) == 0);
    }
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    uint64_t pages = strtoull(argv[3], NULL, 10);
    const pagecheck_region whole = {UINT64_C(1) << 32, pages * PAGE, 0, 0};
    const pagecheck_channel_options options = {SLOTS, BATCH, 20};
    client = calloc(1, CLIENT_BYTES);
    NEED(pagecheck_connect(argv[1], soon(), client) == 0);
    NEED(pagecheck_attach(client, "pc.ram", atoi(argv[2]), PAGE, &whole, 1, soon(), &block) == 0);
    pagecheck_channel *opened = calloc(1, CHANNEL_BYTES);
    NEED(pagecheck_open_channel(client, &options, soon(), opened) == 0);
    channel = opened;
    check_all("range", pages);
    SET_SPIN(channel, 50000);
    check_all("offsets", pages);
    check_refusals();
    NEED(pagecheck_close_channel(client, channel, soon()) == 0);
    channel = NULL;
    NEED(pagecheck_open_channel(client, &options, soon(), opened) == 0);
    channel = opened;
    check_all("again", pages);
    NEED(pagecheck_close_channel(client, channel, soon()) == 0);
    channel = NULL;
    NEED(pagecheck_detach(client, block, soon()) == 0);
    NEED(pagecheck_detach(client, block, soon()) != 0);
    NEED(pagecheck_check(client) == 0);
    pagecheck_disconnect(client);
    NEED(pagecheck_check(client) == -ECONNRESET);
    free(opened);
    free(client);
    return 0;
}
