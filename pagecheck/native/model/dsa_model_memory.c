/* The model's view of memory: only what is registered, only what is present, and never a signal.
 *
 * Source memory and descriptor lists are copied by the kernel (process_vm_readv on this very
 * process), so that a file which was truncated under its mapping is a fault as on the device, and
 * not a SIGBUS. That call would allocate the page of a hole, so the page table is asked first;
 * a page that goes away between the two is the one case left in which it can happen.
 * Without `check_residency` an absent page is brought in, as block on fault would.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "dsa_model_memory.h"

#define PAGEMAP_PRESENT (UINT64_C(1) << 63)

int dsa_memory_open(dsa_model *model)
{
    char byte = 1, copy = 0;
    struct iovec to = {&copy, 1}, from = {&byte, 1};

    model->page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    model->pagemap = model->memory = -1;
    if (model->options.check_residency) {
        model->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        if (model->pagemap < 0)
            return -errno;
    }
    /* Seccomp and some emulators forbid the call. This file gives the same bytes, though it also
     * reads what PROT_NONE would keep from a device. */
    if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != 1) {
        model->memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
        if (model->memory < 0) {
            int error = errno;
            dsa_memory_close(model);
            return -error;
        }
    }
    return 0;
}

void dsa_memory_close(dsa_model *model)
{
    if (model->pagemap >= 0)
        close(model->pagemap);
    if (model->memory >= 0)
        close(model->memory);
}

int dsa_model_register(dsa_model *model, const void *base, size_t bytes, bool writable)
{
    int result = -ENOSPC;

    pthread_mutex_lock(&model->lock);
    for (uint32_t i = 0; i < DSA_MAX_RANGES; i++) {
        dsa_range *range = &model->ranges[i];
        if (i < model->range_count && (range->bytes != 0 || range->users != 0))
            continue;
        free(range->fenced);
        *range = (dsa_range){.base = (uint64_t)(uintptr_t)base, .bytes = bytes};
        range->writable = writable;
        if (writable && model->plan.one_in[DSA_FAULT_STORE_ORDER] != 0) {
            range->fenced = malloc(bytes);
            if (range->fenced == NULL)
                break;
            memcpy(range->fenced, base, bytes);
        }
        if (i >= model->range_count)
            model->range_count = i + 1;
        result = 0;
        break;
    }
    pthread_mutex_unlock(&model->lock);
    return result;
}

void dsa_model_unregister(dsa_model *model, const void *base)
{
    uint64_t address = (uint64_t)(uintptr_t)base;

    pthread_mutex_lock(&model->lock);
    for (uint32_t i = 0; i < model->range_count; i++) {
        dsa_range *range = &model->ranges[i];
        if (range->base != address || range->bytes == 0 || range->taken)
            continue;
        range->taken = true;
        while (range->users != 0)
            pthread_cond_wait(&model->freed, &model->lock);
        range->taken = false;
        range->bytes = 0;
        break;
    }
    pthread_mutex_unlock(&model->lock);
}

/* The registered range with the most bytes from `address` on, in use until unpinned; `*bytes` is
 * shortened to what lies inside. NULL: there is none. */
static dsa_range *pin(dsa_model *model, uint64_t address, uint64_t *bytes, bool writable)
{
    dsa_range *best = NULL;
    uint64_t reach = 0;

    pthread_mutex_lock(&model->lock);
    for (uint32_t i = 0; i < model->range_count; i++) {
        dsa_range *range = &model->ranges[i];
        if (range->taken || (writable && !range->writable))
            continue;
        if (address < range->base || address - range->base >= range->bytes)
            continue;
        if (range->bytes - (address - range->base) > reach) {
            reach = range->bytes - (address - range->base);
            best = range;
        }
    }
    if (best != NULL)
        best->users++;
    pthread_mutex_unlock(&model->lock);
    if (*bytes > reach)
        *bytes = reach;
    return best;
}

static void unpin(dsa_model *model, dsa_range *range)
{
    pthread_mutex_lock(&model->lock);
    if (--range->users == 0)
        pthread_cond_broadcast(&model->freed);
    pthread_mutex_unlock(&model->lock);
}

/* How many of the bytes from `address` on lie in pages that this process has in its page table. */
static uint64_t present(const dsa_model *model, uint64_t address, uint64_t bytes)
{
    uint64_t words[DSA_CHUNK_BYTES / 4096 + 2];
    uint64_t first = address / model->page_bytes;
    uint64_t pages = (address + bytes - 1) / model->page_bytes - first + 1;
    ssize_t got;

    if (model->pagemap < 0)
        return bytes;
    got = pread(model->pagemap, words, pages * sizeof(*words), (off_t)(first * sizeof(*words)));
    if (got < 0)
        return 0;
    pages = (uint64_t)got / sizeof(*words);
    for (uint64_t i = 0; i < pages; i++) {
        if (words[i] & PAGEMAP_PRESENT)
            continue;
        pages = i;
        break;
    }
    /* The last page may reach past the end of what was asked for, and the first begin before. */
    if (pages == 0)
        return 0;
    pages = (first + pages) * model->page_bytes - address;
    return pages < bytes ? pages : bytes;
}

/* Memory by the kernel's hand; how many bytes came. */
static uint64_t fetch(const dsa_model *model, uint64_t address, void *to, uint64_t bytes)
{
    struct iovec local = {to, bytes}, remote = {(void *)(uintptr_t)address, bytes};
    ssize_t got = model->memory >= 0 ? pread(model->memory, to, bytes, (off_t)address)
                                     : process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
    return got < 0 ? 0 : (uint64_t)got;
}

size_t dsa_memory_read(dsa_model *model, uint64_t address, void *to, size_t bytes, bool request)
{
    uint64_t done = 0;

    while (done < bytes) {
        uint64_t want = bytes - done < DSA_CHUNK_BYTES ? bytes - done : DSA_CHUNK_BYTES;
        uint64_t there, got = 0;
        dsa_range *range = pin(model, address + done, &want, false);
        if (range == NULL)
            break;
        there = request ? want : present(model, address + done, want);
        if (there != 0)
            got = fetch(model, address + done, (uint8_t *)to + done, there);
        unpin(model, range);
        done += got;
        if (got < want)
            break;
    }
    return done;
}

int dsa_memory_status(dsa_model *model, uint64_t address)
{
    uint64_t inside = DSA_RECORD_BYTES;
    dsa_range *range = pin(model, address, &inside, true);
    int status = -1;

    if (range == NULL)
        return -1;
    /* With page requests the look brings it in, as the device would have it. */
    if (inside == DSA_RECORD_BYTES &&
        (model->options.prs || present(model, address, inside) == inside))
        status = __atomic_load_n((const uint8_t *)(uintptr_t)address, __ATOMIC_RELAXED);
    unpin(model, range);
    return status;
}

/* Written as the processor would: the submitter polls these very bytes. */
bool dsa_memory_write_record(dsa_model *model, const dsa_answer *answer)
{
    uint64_t inside = DSA_RECORD_BYTES;
    uint8_t *record = (uint8_t *)(uintptr_t)answer->address;
    dsa_range *range = pin(model, answer->address, &inside, true);
    bool good = false;

    if (range == NULL)
        return false;
    if (inside == DSA_RECORD_BYTES &&
        (model->options.prs || present(model, answer->address, inside) == inside) &&
        __atomic_load_n(record, __ATOMIC_RELAXED) == 0) {
        for (uint32_t i = 1; i < DSA_RECORD_BYTES; i++)
            __atomic_store_n(record + i, answer->bytes[i], __ATOMIC_RELAXED);
        /* Release; pairs with the submitter's acquire load of the status. 8.2: a status that is
         * not 0 says that the whole record is there. */
        __atomic_store_n(record, answer->bytes[0], __ATOMIC_RELEASE);
        good = true;
    }
    unpin(model, range);
    return good;
}
