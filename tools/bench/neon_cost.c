/* Pages to decide under an emulator that counts instructions: neon_cost CONTESTANT CASE TIMES.
 *
 * CONTESTANT is "kernel" or "read", a plain read by the same loads; CASE is "zero", "half" or
 * "normal"; the 128 pages are decided TIMES times, so that two counts tell what one time takes. */
#include <arm_neon.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pc_kernel.h"

#define PAGES 128u

static unsigned char ram[PAGES * PC_KERNEL_PAGE_BYTES] __attribute__((aligned(4096)));

static uint64_t plain_read(void)
{
    uint8x16_t bits = vdupq_n_u8(0);
    for (size_t at = 0; at < sizeof ram; at += 64) {
        uint8x16_t low = vorrq_u8(vld1q_u8(ram + at), vld1q_u8(ram + at + 16));
        uint8x16_t high = vorrq_u8(vld1q_u8(ram + at + 32), vld1q_u8(ram + at + 48));
        bits = vorrq_u8(bits, vorrq_u8(low, high));
    }
    return vmaxvq_u8(bits);
}

static uint64_t decide(void)
{
    const pc_pages pages = {.base = ram, .count = PAGES, .page_bytes = PC_KERNEL_PAGE_BYTES};
    uint64_t zero = 0;
    for (size_t at = 0; at < PAGES; at += PC_KERNEL_GROUP_PAGES)
        zero += (uint64_t)__builtin_popcountll(
            pc_kernel_neon.zero_pages(&pages, at, at + PC_KERNEL_GROUP_PAGES));
    return zero;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    uint64_t normal = 0;
    for (size_t page = 0; page < PAGES; page++) {
        bool is = strcmp(argv[2], "normal") == 0 || (strcmp(argv[2], "half") == 0 && page % 2 != 0);
        memset(ram + page * PC_KERNEL_PAGE_BYTES, is ? 0x55 : 0, PC_KERNEL_PAGE_BYTES);
        normal += is;
    }
    bool kernel = strcmp(argv[1], "kernel") == 0;
    for (int i = atoi(argv[3]); i > 0; i--) {
        uint64_t found = kernel ? decide() : plain_read();
        if (kernel ? found != PAGES - normal : (found != 0) != (normal != 0))
            return 1;
    }
    return 0;
}
