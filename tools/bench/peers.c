/* The peers, written anew: QEMU's method (sample three bytes, then OR 256 bytes
 * per test), ISA-L's isal_zero_detect through its shared library, and the pure
 * read that no check can beat. */
#include "peers.h"

#include <dlfcn.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define PEER_TARGET __attribute__((target("avx2")))
typedef __m256i peer_vec;
#define PEER_LOAD(address) _mm256_loadu_si256((const __m256i *)(const void *)(address))
#define PEER_OR(a, b) _mm256_or_si256(a, b)
#define PEER_NONZERO(vector) (!_mm256_testz_si256(vector, vector))
#else
/* The same shape in 32-byte vectors of the compiler, whatever they become. */
#include <string.h>
#define PEER_TARGET
typedef uint64_t peer_vec __attribute__((vector_size(32)));
static inline peer_vec peer_load(const unsigned char *address)
{
    peer_vec vector;
    memcpy(&vector, address, sizeof vector);
    return vector;
}
#define PEER_LOAD(address) peer_load(address)
#define PEER_OR(a, b) ((a) | (b))
#define PEER_NONZERO(vector) (((vector)[0] | (vector)[1] | (vector)[2] | (vector)[3]) != 0)
#endif

#define PEER_INLINE PEER_TARGET __attribute__((always_inline)) static inline

PEER_INLINE peer_vec peer_or_256(const unsigned char *bytes)
{
    const peer_vec a = PEER_OR(PEER_LOAD(bytes), PEER_LOAD(bytes + 32));
    const peer_vec b = PEER_OR(PEER_LOAD(bytes + 64), PEER_LOAD(bytes + 96));
    const peer_vec c = PEER_OR(PEER_LOAD(bytes + 128), PEER_LOAD(bytes + 160));
    const peer_vec d = PEER_OR(PEER_LOAD(bytes + 192), PEER_LOAD(bytes + 224));
    return PEER_OR(PEER_OR(a, b), PEER_OR(c, d));
}

static inline const unsigned char *peer_page(const pc_pages *pages, size_t index)
{
    return pages->base +
           (pages->offsets ? pages->offsets[index] : pages->first + index * pages->page_bytes);
}

PEER_TARGET __attribute__((noinline)) static bool peer_qemu_whole(const unsigned char *bytes,
                                                                  size_t length)
{
    for (size_t at = 0; at < length; at += 256) {
        if (PEER_NONZERO(peer_or_256(bytes + at))) {
            return false;
        }
    }
    return true;
}

uint64_t peer_qemu_count(const pc_pages *pages)
{
    const size_t length = pages->page_bytes;
    uint64_t zero = 0;
    for (size_t i = 0; i < pages->count; i++) {
        const unsigned char *page = peer_page(pages, i);
        if (page[0] || page[length / 2] || page[length - 1]) {
            continue;
        }
        zero += peer_qemu_whole(page, length);
    }
    return zero;
}

static int (*peer_isal_detect)(void *memory, size_t length);

bool peer_isal_open(void)
{
    void *library = dlopen("libisal.so.2", RTLD_NOW);
    if (!library) {
        return false;
    }
    void *symbol = dlsym(library, "isal_zero_detect");
    *(void **)&peer_isal_detect = symbol;
    return symbol != NULL;
}

uint64_t peer_isal_count(const pc_pages *pages)
{
    uint64_t zero = 0;
    for (size_t i = 0; i < pages->count; i++) {
        /* ISA-L's declaration lacks the const that its code keeps. */
        zero += peer_isal_detect((void *)(uintptr_t)peer_page(pages, i), pages->page_bytes) == 0;
    }
    return zero;
}

/* One stream of loads in address order and a single test at the end, by the widest loads that the
 * kernel uses. No prefetch, as the kernels have none for what they read whole: with it, at any
 * distance from 512 bytes to 16 KiB, this loop is up to a quarter slower. */

PEER_TARGET static uint64_t peer_read_32(const pc_pages *pages)
{
    const unsigned char *bytes = peer_page(pages, 0);
    const size_t length = pages->count * pages->page_bytes;
    peer_vec bits = PEER_LOAD(bytes);
    for (size_t at = 0; at < length; at += 256) {
        bits = PEER_OR(bits, peer_or_256(bytes + at));
    }
    return PEER_NONZERO(bits) ? 0 : pages->count;
}

#if defined(__x86_64__)

__attribute__((target("avx512f"))) static uint64_t peer_read_64(const pc_pages *pages)
{
    const unsigned char *bytes = peer_page(pages, 0);
    const size_t length = pages->count * pages->page_bytes;
    __m512i bits[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                       _mm512_setzero_si512()};
    for (size_t at = 0; at < length; at += 512) {
#pragma GCC unroll 8
        for (size_t line = 0; line < 8; line++) {
            const void *from = bytes + at + line * 64;
            bits[line / 2] = _mm512_or_si512(bits[line / 2], _mm512_loadu_si512(from));
        }
    }
    const __m512i all =
        _mm512_or_si512(_mm512_or_si512(bits[0], bits[1]), _mm512_or_si512(bits[2], bits[3]));
    return _mm512_test_epi64_mask(all, all) ? 0 : pages->count;
}

static uint64_t peer_read_16(const pc_pages *pages)
{
    const unsigned char *bytes = peer_page(pages, 0);
    const size_t length = pages->count * pages->page_bytes;
    __m128i bits[4] = {_mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128(),
                       _mm_setzero_si128()};
    for (size_t at = 0; at < length; at += 128) {
#pragma GCC unroll 8
        for (size_t part = 0; part < 8; part++) {
            const void *from = bytes + at + part * 16;
            bits[part / 2] = _mm_or_si128(bits[part / 2], _mm_loadu_si128(from));
        }
    }
    const __m128i all =
        _mm_or_si128(_mm_or_si128(bits[0], bits[1]), _mm_or_si128(bits[2], bits[3]));
    const __m128i zero = _mm_cmpeq_epi8(all, _mm_setzero_si128());
    return _mm_movemask_epi8(zero) == 0xffff ? pages->count : 0;
}

peer_count peer_read_like(const pc_kernel *kernel)
{
    if (kernel == &pc_kernel_avx512) {
        return peer_read_64;
    }
    return kernel == &pc_kernel_avx2 ? peer_read_32 : peer_read_16;
}

#else

peer_count peer_read_like(const pc_kernel *kernel)
{
    (void)kernel;
    return peer_read_32;
}

#endif
