/* What a file tells of a block: fstat, SEEK_DATA and pread, none of which allocates anything. */
#include "pc_file_block.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const pc_file_block *file_of(const pc_block *block)
{
    return (const pc_file_block *)block;
}

static uint64_t file_size(const pc_block *block, bool *touch)
{
    const pc_file_block *file = file_of(block);
    struct stat st;
    if (fstat(file->fd, &st) != 0 || (uint64_t)st.st_size <= file->start)
        return 0;
    /* A hole that was punched since takes blocks away; growth could hide that. */
    uint64_t size = (uint64_t)st.st_size;
    bool dense =
        size == file->dense_bytes &&
        (uint64_t)st.st_blocks * 512u == (size + PC_HOST_PAGE - 1) / PC_HOST_PAGE * PC_HOST_PAGE;
    *touch = dense || (block->flags & PC_BLOCK_TOUCH_FREELY) != 0;
    return size - file->start;
}

static uint64_t file_next_data(const pc_block *block, uint64_t offset)
{
    const pc_file_block *file = file_of(block);
    if ((block->flags & PC_BLOCK_TRUST_HOLES) == 0)
        return offset;
    off_t data = lseek(file->fd, (off_t)(file->start + offset), SEEK_DATA);
    if (data >= 0)
        return (uint64_t)data - file->start;
    /* ENXIO: a hole to the end; the size is read again by the coordinator. */
    return errno == ENXIO ? block->bytes : offset;
}

static size_t file_read(const pc_block *block, uint64_t offset, void *to, size_t bytes)
{
    const pc_file_block *file = file_of(block);
    size_t have = 0;
    while (have < bytes) {
        ssize_t got = pread(file->fd, (unsigned char *)to + have, bytes - have,
                            (off_t)(file->start + offset + have));
        if (got <= 0)
            break;
        have += (size_t)got;
    }
    return have;
}

static void file_free(pc_block *block)
{
    if (block->base != NULL)
        munmap((void *)(uintptr_t)block->base, block->bytes);
    if (file_of(block)->fd >= 0)
        close(file_of(block)->fd);
    free(block);
}

const pc_block_ops pc_file_block_ops = {
    .size = file_size,
    .next_data = file_next_data,
    .read = file_read,
    .free = file_free,
};

static bool check_range(const pc_file_range *range, pc_error *error)
{
    uint64_t page = range->page_bytes;
    if (page >= 4096 && (page & (page - 1)) == 0 && range->bytes != 0 && range->bytes % page == 0 &&
        range->start % 4096 == 0 && range->start <= INT64_MAX &&
        range->bytes <= INT64_MAX - range->start)
        return true;
    pc_error_set(error, PC_ERROR_INVALID,
                 "block of %llu bytes in pages of %llu: start, size or page size is out of range",
                 (unsigned long long)range->bytes, (unsigned long long)page);
    error->offset = range->start;
    return false;
}

/* False: what was done stays for file_free. */
static bool open_and_map(int fd, const pc_file_range *range, pc_file_block *file, pc_error *error)
{
    file->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (file->fd < 0)
        return pc_error_set(error, PC_ERROR_SYSTEM, "%s", "");
    if (!range->map)
        return true;
    void *base = mmap(NULL, range->bytes, PROT_READ, MAP_SHARED, file->fd, (off_t)range->start);
    if (base == MAP_FAILED)
        return pc_error_set(error, PC_ERROR_SYSTEM, "%s", "");
    file->head.base = base;
    return true;
}

pc_block *pc_file_block_open(int fd, const pc_file_range *range, pc_error *error)
{
    if (!check_range(range, error))
        return NULL;
    pc_file_block *file = calloc(1, sizeof *file);
    if (file == NULL) {
        pc_error_set(error, PC_ERROR_SYSTEM, "%s", "");
        return NULL;
    }
    file->head = (pc_block){.ops = &pc_file_block_ops,
                            .bytes = range->bytes,
                            .page_bytes = range->page_bytes,
                            .flags = range->flags};
    file->start = range->start;
    file->dense_bytes = range->dense_bytes;
    if (open_and_map(fd, range, file, error))
        return &file->head;
    file_free(&file->head);
    return NULL;
}
