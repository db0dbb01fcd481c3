/* What a fuzz program needs: numbers and bytes from its input, and an end where something is wrong.
 */
#ifndef PC_TEST_FUZZ_H
#define PC_TEST_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Aborts, which libFuzzer and the replay take for a finding. */
#define FUZZ_REQUIRE(condition)                                                                    \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);              \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

typedef struct fuzz_input {
    const uint8_t *at;
    size_t left;
} fuzz_input;

/* The next bytes; zeros behind the end. */
static inline void fuzz_take(fuzz_input *input, void *to, size_t bytes)
{
    size_t have = bytes < input->left ? bytes : input->left;
    memset(to, 0, bytes);
    if (have > 0)
        memcpy(to, input->at, have);
    input->at += have;
    input->left -= have;
}

/* A number from the next two bytes. */
static inline uint32_t fuzz_draw(fuzz_input *input)
{
    uint16_t number;
    fuzz_take(input, &number, sizeof number);
    return number;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
