/* Private memory of another process as a block, and a way to decide pages of it in which copies go
 * wrong. */
#ifndef PC_TEST_PROCESS_BLOCK_FIXTURE_H
#define PC_TEST_PROCESS_BLOCK_FIXTURE_H

#include <sys/syscall.h>
#include <sys/uio.h>

#include "pc_bits.h"
#include "pc_process_block.h"
#include "process_fixture.h"

enum { PAGES = 1024, WORDS = PAGES / 64 };

static uint64_t progress;

/* What becomes of the calls of process_vm_readv: this program's comes before the C library's. */
static struct {
    uint64_t calls;
    uint64_t fail_at; /* this call */
    int error;
    size_t most;          /* bytes of an answer */
    void (*before)(void); /* of the first call */
    pid_t pid;            /* in place of the given one */
} reads;

static inline void reset_reads(void)
{
    memset(&reads, 0, sizeof reads);
    reads.fail_at = UINT64_MAX;
    reads.most = SIZE_MAX;
}

ssize_t process_vm_readv(pid_t pid, const struct iovec *ours, unsigned long our_count,
                         const struct iovec *theirs, unsigned long their_count, unsigned long flags)
{
    struct iovec cut[PAGES];
    size_t left = reads.most;
    unsigned long count = 0;
    if (++reads.calls == 1 && reads.before != NULL)
        reads.before();
    if (reads.calls == reads.fail_at) {
        errno = reads.error;
        return -1;
    }
    for (; count < their_count && left > 0; count++) {
        cut[count] = theirs[count];
        if (cut[count].iov_len > left)
            cut[count].iov_len = left;
        left -= cut[count].iov_len;
    }
    return syscall(SYS_process_vm_readv, reads.pid != 0 ? reads.pid : pid, ours, our_count, cut,
                   count, flags);
}

typedef struct words {
    uint64_t zero[WORDS], decided[WORDS];
} words;

typedef struct looking {
    bool by_read;
    bool read_swapped;
    uint64_t page_bytes;
    const pc_piece *pieces; /* NULL: all is PC_ABSENT_ZERO */
    size_t piece_count;
    int file_fd;
    const char *name;
} looking;

static inline pc_process_block *open_block(const target *t, const looking *how)
{
    pc_error error;
    const pc_piece all = {.end = t->bytes, .absent = PC_ABSENT_ZERO};
    const pc_process_range range = {.pagemap_fd = t->pagemap,
                                    .memory_fd = t->memory,
                                    .file_fd = how->pieces != NULL ? how->file_fd : -1,
                                    .pid = t->pid,
                                    .address = (uintptr_t)t->base,
                                    .bytes = t->bytes,
                                    .page_bytes = how->page_bytes,
                                    .read_swapped = how->read_swapped,
                                    .pieces = how->pieces != NULL ? how->pieces : &all,
                                    .piece_count = how->pieces != NULL ? how->piece_count : 1};
    pc_process_block *block = (pc_process_block *)pc_process_block_open(&range, &error);
    if (block == NULL) {
        printf("%s\n", error.text);
        abort();
    }
    block->pagemap.by_read = how->by_read;
    return block;
}

static inline words decide(const target *t, const looking *how, const uint64_t *offsets,
                           uint64_t first, uint32_t count)
{
    words answer;
    pc_decider decider;
    pc_process_block *block = open_block(t, how);
    pc_task task = {.block = &block->head,
                    .decider = &decider,
                    .batch = {.offsets = offsets, .first = first, .count = count},
                    .zero = answer.zero,
                    .decided = answer.decided};
    if (!pc_decider_init(pc_kernel_auto(), &progress, &decider))
        abort();
    memset(&answer, 0xff, sizeof answer);     /* stale bits must not survive */
    memset(decider.buffer, 0, PC_READ_BYTES); /* pages that were not copied must not count */
    uint64_t before = progress;
    pc_block_start(&task);
    CHECK(progress > before, "no progress");
    block->head.ops->free(&block->head);
    pc_decider_deinit(&decider);
    return answer;
}

typedef enum verdict { ZERO, NORMAL, UNDECIDED } verdict;

static inline verdict answered(const words *answer, uint64_t index)
{
    bool zero = pc_bits_test(answer->zero, index);
    if (!pc_bits_test(answer->decided, index))
        return zero ? KINDS : UNDECIDED; /* never both */
    return zero ? ZERO : NORMAL;
}

static inline verdict expected_page(const unsigned char *kinds, uint64_t page)
{
    return kinds[page] == DATA ? NORMAL : kinds[page] == GUARD ? UNDECIDED : ZERO;
}

static const looking ways[] = {
    {.page_bytes = PAGE, .name = "PAGEMAP_SCAN"},
    {.page_bytes = PAGE, .by_read = true, .name = "reads of pagemap"},
};

/* Checks targets of every kind of page, in short and long runs, with page sizes around that of the
 * buffer. */
static inline void check_kinds(const looking *way,
                               void (*check)(const target *t, const looking *how, void *with),
                               void *with)
{
    static const uint64_t page_bytes[] = {PAGE, 2 * PAGE, 32 * PAGE, 128 * PAGE, 256 * PAGE};
    static const uint64_t longest[] = {1, 3, 40, 600};
    unsigned char kinds[PAGES];
    uint64_t random = 1;
    for (size_t l = 0; l < sizeof longest / sizeof *longest; l++) {
        fill_kinds(kinds, PAGES, longest[l], &random);
        target t = target_start((uint64_t)PAGES * PAGE, kinds, PAGES, NULL);
        for (size_t p = 0; p < sizeof page_bytes / sizeof *page_bytes; p++) {
            looking how = *way;
            how.page_bytes = page_bytes[p];
            check(&t, &how, with);
        }
        target_end(&t);
    }
}

#endif
