/* Deciding batches: every way to look at a page, and that looking changes nothing. */
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"
#include "fixture.h"
#include "pc_bits.h"
#include "pc_offsets.h"

static uint64_t progress;

typedef struct words {
    uint64_t zero[2], decided[2];
} words;

static words decide_by(const pc_kernel *kernel, const pc_file_block *block, const uint64_t *offsets,
                       uint64_t first, uint32_t count)
{
    words answer;
    pc_decider decider;
    pc_task task = {.block = &block->head,
                    .decider = &decider,
                    .batch = {.offsets = offsets, .first = first, .count = count},
                    .zero = answer.zero,
                    .decided = answer.decided};
    if (!pc_guard_install() || !pc_decider_init(kernel, &progress, &decider))
        abort();
    memset(&answer, 0xff, sizeof answer); /* stale bits must not survive */
    pc_block_start(&task);
    pc_decider_deinit(&decider);
    return answer;
}

static words decide(const pc_file_block *block, const uint64_t *offsets, uint64_t first,
                    uint32_t count)
{
    return decide_by(pc_kernel_auto(), block, offsets, first, count);
}

static const struct way {
    const char *name;
    uint32_t flags;
    bool map;
} ways[] = {
    {"read", 0, false},
    {"read, holes trusted", PC_BLOCK_TRUST_HOLES, false},
    {"map", 0, true},
    {"map, holes trusted", PC_BLOCK_TRUST_HOLES, true},
    {"map, mincore", PC_BLOCK_ASK_RESIDENT, true},
    {"map, mincore, holes trusted", PC_BLOCK_ASK_RESIDENT | PC_BLOCK_TRUST_HOLES, true},
};

static void test_sparse(const struct way *way)
{
    const uint64_t pages = 40, data = UINT64_C(0x80f0f00f31), zeros = UINT64_C(0x00000ff004);
    int fd = ram_file(pages, data, zeros);
    uint64_t before = blocks_of(fd);
    pc_file_block block = ram_block(fd, pages, way->flags, way->map);
    uint64_t all = (UINT64_C(1) << pages) - 1;
    check_begin();
    for (int twice = 0; twice < 2; twice++) {
        words answer = decide(&block, NULL, 0, (uint32_t)pages);
        CHECK(answer.decided[0] == all, "decided %llx", (unsigned long long)answer.decided[0]);
        CHECK(answer.zero[0] == (~data & all), "zero %llx", (unsigned long long)answer.zero[0]);
    }
    const uint64_t offsets[] = {39 * PAGE, 0, PAGE, 2 * PAGE, 39 * PAGE, 8 * PAGE, 9 * PAGE};
    words answer = decide(&block, offsets, 0, 7);
    CHECK(answer.decided[0] == 0x7f && answer.zero[0] == 0x0c, "zero %llx decided %llx",
          (unsigned long long)answer.zero[0], (unsigned long long)answer.decided[0]);
    CHECK(blocks_of(fd) == before, "%llu blocks, were %llu", (unsigned long long)blocks_of(fd),
          (unsigned long long)before);
    check_end("sparse file, nothing allocated:", way->name);
    close(fd);
}

static void test_truncated(const char *name, uint32_t flags, bool map)
{
    int fd = ram_file(32, 0, UINT32_MAX);
    pc_file_block block = ram_block(fd, 32, flags, map);
    check_begin();
    if (ftruncate(fd, 20 * PAGE + 100) != 0)
        abort();
    words answer = decide(&block, NULL, 0, 32);
    CHECK(answer.decided[0] == 0xfffff && answer.zero[0] == 0xfffff, "zero %llx decided %llx",
          (unsigned long long)answer.zero[0], (unsigned long long)answer.decided[0]);
    check_end("file truncated before:", name);
    close(fd);
}

static void test_read_that_ends_early(void)
{
    int fd = ram_file(2, 3, 0);
    pc_file_block block = ram_block(fd, 2, 0, false);
    static unsigned char to[4 * PAGE];
    check_begin();
    CHECK(block.head.ops->read(&block.head, PAGE, to, 3 * PAGE) == PAGE, "more than there is");
    CHECK(block.head.ops->read(&block.head, 2 * PAGE, to, PAGE) == 0, "something past the end");
    CHECK(ftruncate(fd, PAGE + 7) == 0, "not cut");
    CHECK(block.head.ops->read(&block.head, PAGE, to, PAGE) == 7, "not the part that is there");
    check_end("a read that the end of the file cuts", "");
    close(fd);
}

#ifndef __aarch64__ /* qemu-aarch64 takes the signal for a fault of its own, and ends */
static const pc_kernel *healthy;
static const void *poison;

/* As the kernel does where the memory itself has failed; only a thread may say so to itself.
 * Source: do_rt_tgsigqueueinfo() in the kernel's kernel/signal.c. */
static bool poisoned_is_zero(const void *bytes, size_t length)
{
    if (bytes == poison) {
        siginfo_t fault;
        memset(&fault, 0, sizeof fault);
        fault.si_signo = SIGBUS;
        fault.si_code = BUS_MCEERR_AR;
        fault.si_addr = (void *)(uintptr_t)bytes;
        syscall(SYS_rt_tgsigqueueinfo, getpid(), (pid_t)syscall(SYS_gettid), SIGBUS, &fault);
    }
    return healthy->is_zero(bytes, length);
}

static uint64_t poisoned_zero_pages(const pc_pages *pages, size_t begin, size_t end)
{
    uint64_t zero = 0;
    for (size_t i = begin; i < end; i++)
        zero |= (uint64_t)poisoned_is_zero(pages->base + pages->first + i * PAGE, PAGE)
                << (i - begin);
    return zero;
}

/* A page whose memory failed has neither bit; its neighbours are decided. */
static void test_memory_poison(void)
{
    int fd = ram_file(32, 0, UINT32_MAX);
    pc_file_block block = ram_block(fd, 32, PC_BLOCK_TOUCH_FREELY, true);
    healthy = pc_kernel_auto();
    pc_kernel kernel = *healthy;
    kernel.is_zero = poisoned_is_zero;
    kernel.zero_pages = poisoned_zero_pages;
    poison = block.head.base + 5 * PAGE;
    check_begin();
    for (int twice = 0; twice < 2; twice++) {
        words answer = decide_by(&kernel, &block, NULL, 0, 32);
        CHECK(answer.decided[0] == 0xffffffdf && answer.zero[0] == 0xffffffdf,
              "zero %llx decided %llx", (unsigned long long)answer.zero[0],
              (unsigned long long)answer.decided[0]);
    }
    check_end("memory poison under the mapping", "");
    close(fd);
}
#endif

/* The size is looked up, then the file is cut: only SIGBUS can tell. Played by lying to the
 * decision about the size through a second, longer file behind the descriptor. */
static void test_sigbus(void)
{
    int cut = ram_file(32, 0, UINT32_MAX), whole = ram_file(32, 0, UINT32_MAX);
    pc_file_block block = ram_block(cut, 32, PC_BLOCK_TOUCH_FREELY, true);
    check_begin();
    block.fd = whole;
    if (ftruncate(cut, 20 * PAGE) != 0)
        abort();
    words answer = decide(&block, NULL, 0, 32);
    CHECK(answer.decided[0] == 0xfffff && answer.zero[0] == 0xfffff, "zero %llx decided %llx",
          (unsigned long long)answer.zero[0], (unsigned long long)answer.decided[0]);
    answer = decide(&block, NULL, 0, 32);
    CHECK(answer.decided[0] == 0xfffff, "a second time: %llx",
          (unsigned long long)answer.decided[0]);
    check_end("SIGBUS under the mapping", "");
    close(cut);
    close(whole);
}

/* A file without holes is touched; once a hole was punched it is not touched there again. */
static void test_dense(void)
{
    int fd = ram_file(32, 0x10, UINT32_MAX);
    pc_file_block block = ram_block(fd, 32, PC_BLOCK_ASK_RESIDENT, true);
    check_begin();
    block.dense_bytes = 32 * PAGE;
    words answer = decide(&block, NULL, 0, 32);
    CHECK(answer.decided[0] == UINT32_MAX && answer.zero[0] == (UINT32_MAX ^ 0x10), "dense");
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 3 * PAGE, 2 * PAGE) != 0)
        abort();
    uint64_t before = blocks_of(fd);
    answer = decide(&block, NULL, 0, 32);
    CHECK(answer.decided[0] == UINT32_MAX && answer.zero[0] == UINT32_MAX, "punched");
    CHECK(blocks_of(fd) == before, "allocated %llu", (unsigned long long)blocks_of(fd));
    check_end("a dense file that gets a hole", "");
    close(fd);
}

static void test_large_pages(const struct way *way)
{
    enum { LARGE = 2 << 20 };
    int fd = memfd_create("ram", MFD_CLOEXEC);
    check_begin();
    if (fd < 0 || ftruncate(fd, 4 * LARGE) != 0 || pwrite(fd, "x", 1, 2 * LARGE - 1) != 1 ||
        pwrite(fd, "\0", 1, 3 * LARGE) != 1)
        abort();
    uint64_t before = blocks_of(fd);
    pc_file_block block = ram_block(fd, 4 * LARGE / PAGE, way->flags, way->map);
    block.head.page_bytes = LARGE;
    words answer = decide(&block, NULL, 0, 4);
    CHECK(answer.decided[0] == 0xf && answer.zero[0] == 0xd, "zero %llx decided %llx",
          (unsigned long long)answer.zero[0], (unsigned long long)answer.decided[0]);
    CHECK(blocks_of(fd) == before, "allocated %llu", (unsigned long long)blocks_of(fd));
    check_end("2 MiB pages:", way->name);
    close(fd);
}

static void test_bits(void)
{
    uint64_t a[4], b[4];
    check_begin();
    for (uint64_t first = 0; first < 130; first++) {
        for (uint64_t count = 0; count < 100; count++) {
            memset(a, 0, sizeof a);
            memset(b, 0, sizeof b);
            pc_bits_set(a, first, count);
            pc_bits_set_shared(b, first, count);
            CHECK(memcmp(a, b, sizeof a) == 0, "set %u+%u", (unsigned)first, (unsigned)count);
            CHECK(pc_bits_count(a, 256) == count, "count %u+%u", (unsigned)first, (unsigned)count);
            if (first > 0)
                CHECK(pc_bits_run_end(a, 256, 0) == (count ? first : 256), "run end");
            if (count > 0)
                CHECK(pc_bits_run_end(a, 256, first) == first + count, "run end of ones");
            pc_bits_clear(a, first, count);
            CHECK(pc_bits_count(a, 256) == 0, "clear %u+%u", (unsigned)first, (unsigned)count);
        }
        for (uint32_t count = 1; count <= 64; count++) {
            memset(a, 0, sizeof a);
            memset(b, 0, sizeof b);
            pc_bits_or(a, first, UINT64_MAX, count);
            pc_bits_or_shared(b, first, UINT64_MAX, count);
            CHECK(memcmp(a, b, sizeof a) == 0 && pc_bits_count(a, 256) == count, "or");
        }
    }
    check_end("bitmap words", "");
}

static void test_offsets(void)
{
    const uint64_t offsets[] = {3 * PAGE, 0, 2 * PAGE, PAGE};
    const uint8_t zero[] = {1, 0, 1, 0};
    uint64_t out[4];
    check_begin();
    CHECK(pc_offsets_partition(offsets, zero, 4, out) == 2, "normal count");
    CHECK(out[0] == 0 && out[1] == PAGE && out[2] == 3 * PAGE && out[3] == 2 * PAGE, "order");
    CHECK(pc_offsets_check(offsets, 4, PAGE, 4 * PAGE) == -1, "all good");
    CHECK(pc_offsets_check(offsets, 4, PAGE, 3 * PAGE) == 0, "outside");
    CHECK(pc_offsets_check(offsets, 4, 2 * PAGE, 4 * PAGE) == 0, "misaligned");
    check_end("offset arrays", "");
}

int main(void)
{
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        test_sparse(&ways[i]);
        test_truncated(ways[i].name, ways[i].flags, ways[i].map);
        test_large_pages(&ways[i]);
    }
    test_truncated("touched freely", PC_BLOCK_TOUCH_FREELY, true);
    test_read_that_ends_early();
    test_sigbus();
#ifndef __aarch64__
    test_memory_poison();
#endif
    test_dense();
    test_bits();
    test_offsets();
    return check_summary();
}
