/* libpagecheck: the functions of pagecheck.h as symbols, for callers that cannot include it (Rust,
 * Go, Python's ctypes) or would rather link (C++): `cc ... $(pagecheck --libs)`, or pkg-config
 * libpagecheck.
 *
 * What the functions do, return and need is said in pagecheck.h; there is no other difference than
 * that clients and channels are opaque here: memory of pagecheck_client_bytes() and
 * pagecheck_channel_bytes(), aligned to 8, zeroed, and not moved while it is in use.
 *
 * The ABI: a function keeps its name, arguments and meaning as long as the library is called
 * libpagecheck.so.1; new ones may come. See docs/vmm-authors.md. */
#ifndef LIBPAGECHECK_H
#define LIBPAGECHECK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pagecheck_client pagecheck_client;
typedef struct pagecheck_channel pagecheck_channel;

#ifndef PAGECHECK_H /* else they are there already */
typedef struct pagecheck_region {
    uint64_t guest_phys_addr;
    uint64_t memory_size;
    uint64_t userspace_addr;
    uint64_t mmap_offset;
} pagecheck_region;

typedef struct pagecheck_channel_options {
    uint32_t slots;
    uint32_t slot_pages;
    uint32_t spin_us;
} pagecheck_channel_options;
#endif

/* What only the library has: the sizes, and what headers read from the structures. */
size_t pagecheck_client_bytes(void);
size_t pagecheck_channel_bytes(void);
uint32_t pagecheck_protocol(void);
uint32_t pagecheck_layout(void);
const char *pagecheck_client_error(const pagecheck_client *client);
const char *pagecheck_channel_error(const pagecheck_channel *channel);
uint32_t pagecheck_channel_refusal(const pagecheck_channel *channel); /* PAGECHECK_REFUSED_*; 0 */
void pagecheck_channel_set_spin(pagecheck_channel *channel, int64_t spin_ns);

int64_t pagecheck_now_ns(void);

int pagecheck_connect(const char *path, int64_t deadline_ns, pagecheck_client *client);
int pagecheck_check(const pagecheck_client *client);
void pagecheck_disconnect(pagecheck_client *client);

int pagecheck_attach(pagecheck_client *client, const char *name, int fd, uint64_t page_size,
                     const pagecheck_region *regions, uint32_t nregions, int64_t deadline_ns,
                     uint32_t *block);
int pagecheck_detach(pagecheck_client *client, uint32_t block, int64_t deadline_ns);

int pagecheck_open_channel(pagecheck_client *client, const pagecheck_channel_options *options,
                           int64_t deadline_ns, pagecheck_channel *channel);
int pagecheck_close_channel(pagecheck_client *client, pagecheck_channel *channel,
                            int64_t deadline_ns);
int pagecheck_channel_map(int fd, pagecheck_channel *channel);
int pagecheck_channel_watch(pagecheck_channel *channel, int socket);
void pagecheck_channel_unmap(pagecheck_channel *channel);

int pagecheck_submit(pagecheck_channel *channel, uint32_t block, const uint64_t *offsets,
                     uint32_t count, uint64_t *ticket);
int pagecheck_submit_range(pagecheck_channel *channel, uint32_t block, uint64_t first_page,
                           uint32_t count, uint64_t *ticket);
int pagecheck_wait(pagecheck_channel *channel, uint64_t ticket, int64_t deadline_ns, uint64_t *zero,
                   uint64_t *decided);
int pagecheck_forget(pagecheck_channel *channel, uint64_t ticket);
uint32_t pagecheck_partition(const uint64_t *offsets, const uint64_t *zero, const uint64_t *decided,
                             uint32_t count, uint64_t *out);

#ifdef __cplusplus
}
#endif

#endif
