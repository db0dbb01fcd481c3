/* A VMM's multifd senders, reduced to the zero pages: threads take packets of 128 pages, have
 * `pagecheck serve` check them, send normal pages first, and verify every answer themselves.
 *
 * Danger: guest RAM is read with pread here, never through the mapping; reading a hole through the
 * mapping would allocate it, and the example counts what was allocated. Compiles as C11 and C++11.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pagecheck.h>

#include <getopt.h>
#include <pthread.h>
#include <signal.h>

enum { PAGE = 4096, PACKET_PAGES = 128, WORDS = PACKET_PAGES / 64, CHANNELS_MAX = 256 };
enum { EXIT_GOOD, EXIT_WRONG, EXIT_USAGE, EXIT_SERVICE };

static const int64_t SECOND_NS = INT64_C(1000000000);
static const int64_t ANSWER_NS = INT64_C(5) * 1000000000;

typedef struct settings {
    const char *socket;
    uint64_t size, packets, seed, channels, outstanding, spin_us;
    bool hold, loop, may_fall_back;
} settings;

typedef struct counts {
    uint64_t packets, pages, zero, normal, undecided, wrong, fallback, bytes;
} counts;

/* What all senders share. */
typedef struct migration {
    settings set;
    int ram;
    uint64_t pages;
    uint32_t block;
    uint64_t next; /* packet; taken with an atomic add */
} migration;

typedef struct packet {
    uint64_t offsets[PACKET_PAGES];
    uint64_t ticket; /* 0: not submitted to the service */
} packet;

typedef struct sender {
    migration *shared;
    pthread_t thread;
    pagecheck_channel channel;
    bool is_down; /* the channel cannot be used */
    packet *out;  /* `outstanding` packets, in a ring buffer */
    counts count;
    uint64_t sent[PACKET_PAGES]; /* the packet on the wire: normal offsets, then zero ones */
} sender;

static int stopped; /* by a signal */

static void stop(int number)
{
    (void)number;
    __atomic_store_n(&stopped, 1, __ATOMIC_RELAXED);
}

/* splitmix64. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t word = *state += UINT64_C(0x9e3779b97f4a7c15);
    word = (word ^ word >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    word = (word ^ word >> 27) * UINT64_C(0x94d049bb133111eb);
    return word ^ word >> 31;
}

/* ---- The guest ---- */

/* Holes, written zeros, one non-zero byte at either edge or in the middle, random pages. */
static void fill_page(unsigned char *page, uint64_t kind, uint64_t *state)
{
    if (kind < 3)
        return; /* a hole */
    memset(page, 0, PAGE);
    if (kind == 4)
        page[0] = 1;
    else if (kind == 5)
        page[PAGE / 2] = 0x80;
    else if (kind == 6)
        page[PAGE - 1] = 0xff;
    else if (kind >= 7)
        for (size_t i = 0; i < PAGE; i += sizeof *state) {
            uint64_t word = next_random(state);
            memcpy(page + i, &word, sizeof word);
        }
}

/* Guest RAM as a VMM has it; returns its mapping. */
static unsigned char *create_ram(migration *all)
{
    uint64_t state = all->set.seed;
    all->ram = memfd_create("guest-ram", MFD_CLOEXEC);
    if (all->ram < 0 || ftruncate(all->ram, (off_t)all->set.size) != 0)
        return NULL;
    void *mapped =
        mmap(NULL, all->set.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, all->ram, 0);
    if (mapped == MAP_FAILED)
        return NULL;
    for (uint64_t i = 0; i < all->pages; i++)
        fill_page((unsigned char *)mapped + i * PAGE, next_random(&state) % 10, &state);
    return (unsigned char *)mapped;
}

static uint64_t allocated_blocks(int ram)
{
    struct stat st;
    return fstat(ram, &st) == 0 ? (uint64_t)st.st_blocks : 0;
}

/* The VMM's own check of one page. */
static bool is_zero(int ram, uint64_t offset)
{
    unsigned char page[PAGE];
    if (pread(ram, page, PAGE, (off_t)offset) != PAGE)
        return false;
    return page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
}

/* ---- One sender ---- */

/* The first round takes every page in order, later ones in random order. */
static void name_pages(const migration *all, uint64_t number, packet *one)
{
    for (uint64_t i = 0; i < PACKET_PAGES; i++) {
        uint64_t at = number * PACKET_PAGES + i;
        one->offsets[i] = (at < all->pages ? at : at * 7919) % all->pages * PAGE;
    }
}

static void check_myself(sender *me, const packet *one, uint64_t *zero, uint64_t *decided)
{
    me->count.fallback++;
    memset(zero, 0, WORDS * sizeof *zero);
    memset(decided, 0xff, WORDS * sizeof *decided);
    for (unsigned i = 0; i < PACKET_PAGES; i++)
        zero[i / 64] |= (uint64_t)is_zero(me->shared->ram, one->offsets[i]) << (i % 64);
}

/* Counts the packet, and what is wrong with its answer. */
static void verify(sender *me, const packet *one, const uint64_t *zero, const uint64_t *decided)
{
    for (unsigned i = 0; i < PACKET_PAGES; i++) {
        bool called_zero = zero[i / 64] >> (i % 64) & 1u;
        if (!(decided[i / 64] >> (i % 64) & 1u)) {
            me->count.undecided++;
            continue;
        }
        me->count.zero += called_zero;
        me->count.normal += !called_zero;
        me->count.wrong += called_zero != is_zero(me->shared->ram, one->offsets[i]);
    }
}

static void send_packet(sender *me, const packet *one, const uint64_t *zero,
                        const uint64_t *decided)
{
    uint64_t before = me->count.zero;
    verify(me, one, zero, decided);
    uint32_t normal = pagecheck_partition(one->offsets, zero, decided, PACKET_PAGES, me->sent);
    me->count.wrong += PACKET_PAGES - normal != me->count.zero - before;
    me->count.bytes += sizeof me->sent + (uint64_t)normal * PAGE;
    me->count.packets++;
    me->count.pages += PACKET_PAGES;
}

/* After this the sender checks for itself. */
static void abandon_channel(sender *me, int code)
{
    if (me->is_down)
        return;
    fprintf(stderr, "channel %" PRIu32 ": %s (%s); checking here\n", me->channel.id,
            me->channel.error, strerror(-code));
    me->is_down = true;
}

static void submit(sender *me, uint64_t number, packet *one)
{
    one->ticket = 0;
    name_pages(me->shared, number, one);
    if (me->is_down)
        return;
    int code =
        pagecheck_submit(&me->channel, me->shared->block, one->offsets, PACKET_PAGES, &one->ticket);
    if (code != 0 && code != -EAGAIN) /* forgotten tickets may still hold slots */
        abandon_channel(me, code);
}

static void take(sender *me, const packet *one)
{
    uint64_t zero[WORDS], decided[WORDS];
    int code = -ENOENT;
    if (one->ticket != 0)
        code = pagecheck_wait(&me->channel, one->ticket, pagecheck_now_ns() + ANSWER_NS, zero,
                              decided);
    if (code == -ETIMEDOUT)
        pagecheck_forget(&me->channel, one->ticket); /* a lost ticket holds its slot for ever */
    else if (code != 0 && one->ticket != 0 && me->channel.refusal == 0)
        abandon_channel(me, code); /* of a refused packet the ticket is used up, no more */
    if (code != 0)
        check_myself(me, one, zero, decided);
    send_packet(me, one, zero, decided);
}

static bool next_packet(migration *all, uint64_t *number)
{
    *number = __atomic_fetch_add(&all->next, 1, __ATOMIC_RELAXED);
    return (all->set.loop || *number < all->set.packets) &&
           !__atomic_load_n(&stopped, __ATOMIC_RELAXED);
}

static void *run_sender(void *argument)
{
    sender *me = (sender *)argument;
    uint64_t most = me->shared->set.outstanding, given = 0, taken = 0, number;
    bool more = true;
    while (more || taken < given) {
        while (more && given - taken < most && (more = next_packet(me->shared, &number)))
            submit(me, number, &me->out[given++ % most]);
        if (taken < given)
            take(me, &me->out[taken++ % most]);
    }
    return NULL;
}

/* ---- The whole ---- */

static bool open_channels(pagecheck_client *client, migration *all, sender *senders)
{
    pagecheck_channel_options options = {(uint32_t)all->set.outstanding, PACKET_PAGES,
                                         (uint32_t)all->set.spin_us};
    for (uint64_t i = 0; i < all->set.channels; i++) {
        int64_t soon = pagecheck_now_ns() + 60 * SECOND_NS;
        senders[i].shared = all;
        senders[i].out = (packet *)calloc(all->set.outstanding, sizeof(packet));
        if (senders[i].out == NULL ||
            pagecheck_open_channel(client, &options, soon, &senders[i].channel) != 0)
            return false;
        senders[i].channel.spin_ns = (int64_t)all->set.spin_us * 1000;
    }
    return true;
}

static bool set_up(pagecheck_client *client, migration *all, void *mapped, sender *senders)
{
    pagecheck_region region = {0, all->set.size, (uint64_t)(uintptr_t)mapped, 0};
    int64_t soon = pagecheck_now_ns() + 10 * SECOND_NS;
    return pagecheck_connect(all->set.socket, soon, client) == 0 &&
           pagecheck_attach(client, "pc.ram", all->ram, PAGE, &region, 1, soon, &all->block) == 0 &&
           open_channels(client, all, senders);
}

static counts run_senders(migration *all, sender *senders)
{
    counts sum;
    memset(&sum, 0, sizeof sum);
    for (uint64_t i = 0; i < all->set.channels; i++)
        if (pthread_create(&senders[i].thread, NULL, run_sender, &senders[i]) != 0)
            abort();
    for (uint64_t i = 0; i < all->set.channels; i++) {
        const counts *one = &senders[i].count;
        pthread_join(senders[i].thread, NULL);
        sum.packets += one->packets;
        sum.pages += one->pages;
        sum.zero += one->zero;
        sum.normal += one->normal;
        sum.undecided += one->undecided;
        sum.wrong += one->wrong;
        sum.fallback += one->fallback;
        sum.bytes += one->bytes;
    }
    return sum;
}

static void tear_down(pagecheck_client *client, migration *all, sender *senders)
{
    int64_t soon = pagecheck_now_ns() + 10 * SECOND_NS;
    for (uint64_t i = 0; i < all->set.channels; i++) {
        pagecheck_close_channel(client, &senders[i].channel, soon);
        free(senders[i].out);
    }
    pagecheck_detach(client, all->block, soon);
    pagecheck_disconnect(client);
}

static void hold(void)
{
    char line[64];
    printf("ready\n");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL)
        stopped = 1;
}

static int report(const migration *all, const counts *sum, uint64_t allocated, int64_t took_ns)
{
    printf("{\"packets\": %" PRIu64 ", \"pages\": %" PRIu64 ", \"zero\": %" PRIu64
           ", \"normal\": %" PRIu64 ", \"undecided\": %" PRIu64 ", \"wrong\": %" PRIu64
           ", \"fallback\": %" PRIu64 ", \"bytes_sent\": %" PRIu64
           ", \"blocks_allocated\": %" PRId64 ", \"seconds\": %.6f}\n",
           sum->packets, sum->pages, sum->zero, sum->normal, sum->undecided, sum->wrong,
           sum->fallback, sum->bytes, (int64_t)allocated, (double)took_ns / 1e9);
    if (sum->wrong != 0 || allocated != 0)
        return EXIT_WRONG;
    return sum->fallback != 0 && !all->set.may_fall_back ? EXIT_SERVICE : EXIT_GOOD;
}

static int migrate(migration *all, sender *senders)
{
    static pagecheck_client client;
    all->pages = all->set.size / PAGE;
    unsigned char *mapped = create_ram(all);
    if (mapped == NULL) {
        perror("guest RAM");
        return EXIT_USAGE;
    }
    uint64_t before = allocated_blocks(all->ram);
    if (!set_up(&client, all, mapped, senders)) {
        fprintf(stderr, "%s\n", client.error);
        return EXIT_SERVICE;
    }
    if (all->set.hold)
        hold();
    int64_t begin_ns = pagecheck_now_ns();
    counts sum = run_senders(all, senders);
    int64_t took_ns = pagecheck_now_ns() - begin_ns;
    tear_down(&client, all, senders);
    return report(all, &sum, allocated_blocks(all->ram) - before, took_ns);
}

/* ---- Options ---- */

static const char usage[] =
    "usage: multifd_sender --socket PATH [--size BYTES[K|M|G]] [--channels N] [--outstanding K]\n"
    "       [--packets N] [--spin-us N] [--seed N] [--hold] [--loop] [--may-fall-back]\n"
    "exit: 0 success, 1 an answer was wrong or RAM was allocated, 2 usage, 3 no service\n";

static bool parse_number(const char *text, uint64_t low, uint64_t high, uint64_t *number)
{
    static const char units[] = "KMG";
    char *end;
    errno = 0;
    *number = strtoull(text, &end, 0);
    const char *unit = *end != '\0' ? strchr(units, *end) : NULL;
    if (unit != NULL && end[1] == '\0' && *number < UINT64_C(1) << 30) {
        *number <<= 10 * (unit - units + 1);
        end++;
    }
    return errno == 0 && *text != '-' && *end == '\0' && end != text && *number >= low &&
           *number <= high;
}

static bool parse_one(int name, const char *value, settings *set)
{
    switch (name) {
    case 's':
        set->socket = value;
        return true;
    case 'b':
        return parse_number(value, PAGE, UINT64_C(1) << 46, &set->size) && set->size % PAGE == 0;
    case 'c':
        return parse_number(value, 1, CHANNELS_MAX, &set->channels);
    case 'o':
        return parse_number(value, 1, PAGECHECK_SLOTS_MAX, &set->outstanding);
    case 'p':
        return parse_number(value, 1, UINT64_C(1) << 40, &set->packets);
    case 'u':
        return parse_number(value, 0, 1000000, &set->spin_us);
    case 'r':
        return parse_number(value, 0, UINT64_MAX, &set->seed);
    default:
        return false;
    }
}

static bool parse(int argc, char **argv, settings *set)
{
    static const struct option options[] = {
        {"socket", required_argument, NULL, 's'},
        {"size", required_argument, NULL, 'b'},
        {"channels", required_argument, NULL, 'c'},
        {"outstanding", required_argument, NULL, 'o'},
        {"packets", required_argument, NULL, 'p'},
        {"spin-us", required_argument, NULL, 'u'},
        {"seed", required_argument, NULL, 'r'},
        {"hold", no_argument, NULL, 'h'},
        {"loop", no_argument, NULL, 'l'},
        {"may-fall-back", no_argument, NULL, 'f'},
        {NULL, 0, NULL, 0},
    };
    int name;
    while ((name = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (name == 'h')
            set->hold = true;
        else if (name == 'l')
            set->loop = true;
        else if (name == 'f')
            set->may_fall_back = true;
        else if (!parse_one(name, optarg, set))
            return false;
    }
    return optind == argc && set->socket != NULL;
}

int main(int argc, char **argv)
{
    static sender senders[CHANNELS_MAX];
    static migration all;
    struct sigaction action;
    all.set.size = UINT64_C(64) << 20;
    all.set.packets = 1000;
    all.set.channels = 1;
    all.set.outstanding = 4;
    all.set.seed = 1;
    if (!parse(argc, argv, &all.set)) {
        fputs(usage, stderr);
        return EXIT_USAGE;
    }
    memset(&action, 0, sizeof action);
    action.sa_handler = stop;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    return migrate(&all, senders);
}
