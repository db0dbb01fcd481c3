/* For ThreadSanitizer, which knows memory by its address: a segment that one process maps twice, as
 * the tests of the ring do for its two ends, is mapped once, or no race on it would be seen. The
 * linker puts these in the place of mmap and munmap (--wrap); the other flavours have two mappings,
 * as two processes have. */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

void *__real_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset);
int __real_munmap(void *at, size_t bytes);
void *__wrap_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset);
int __wrap_munmap(void *at, size_t bytes);

typedef struct mapping {
    dev_t device;
    ino_t inode;
    size_t bytes;
    void *at;
    unsigned users; /* 0: the entry is free */
} mapping;

static mapping mappings[256];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The entry of that file, or a free one. */
static mapping *entry_of(const struct stat *file, size_t bytes)
{
    mapping *spare = NULL;
    for (size_t i = 0; i < sizeof mappings / sizeof *mappings; i++) {
        mapping *each = &mappings[i];
        if (each->users == 0)
            spare = each;
        else if (each->device == file->st_dev && each->inode == file->st_ino &&
                 each->bytes == bytes)
            return each;
    }
    return spare;
}

void *__wrap_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    struct stat file;
    if (flags != MAP_SHARED || prot != (PROT_READ | PROT_WRITE) || offset != 0 ||
        fstat(fd, &file) != 0)
        return __real_mmap(at, bytes, prot, flags, fd, offset);
    pthread_mutex_lock(&lock);
    mapping *entry = entry_of(&file, bytes);
    if (entry == NULL)
        abort();
    if (entry->users == 0) {
        void *mapped = __real_mmap(at, bytes, prot, flags, fd, offset);
        *entry = (mapping){file.st_dev, file.st_ino, bytes, mapped, mapped != MAP_FAILED};
    } else {
        entry->users++;
    }
    void *result = entry->at;
    pthread_mutex_unlock(&lock);
    return result;
}

int __wrap_munmap(void *at, size_t bytes)
{
    int result = 0;
    bool is_last = true;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < sizeof mappings / sizeof *mappings; i++)
        if (mappings[i].users > 0 && mappings[i].at == at)
            is_last = --mappings[i].users == 0;
    if (is_last)
        result = __real_munmap(at, bytes);
    pthread_mutex_unlock(&lock);
    return result;
}
