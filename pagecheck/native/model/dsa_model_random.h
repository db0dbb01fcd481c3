/* The chance behind everything that the specification leaves open. */
#ifndef DSA_MODEL_RANDOM_H
#define DSA_MODEL_RANDOM_H

#include <stdint.h>

typedef struct dsa_random {
    uint64_t state;
} dsa_random;

/* What a stream of numbers is for: each is drawn from by itself, so that the n-th operation meets
 * the same luck however threads interleave. */
enum dsa_stream {
    DSA_STREAM_PLAN,
    DSA_STREAM_SUBMIT,
    DSA_STREAM_ORDER,
    DSA_STREAM_OPERATION,
    DSA_STREAM_LATE
};

static inline uint64_t dsa_mix(uint64_t word) /* the last step of splitmix64 */
{
    word = (word ^ word >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    word = (word ^ word >> 27) * UINT64_C(0x94d049bb133111eb);
    return word ^ word >> 31;
}

static inline dsa_random dsa_random_stream(uint64_t seed, uint64_t stream, uint64_t number)
{
    return (dsa_random){dsa_mix(dsa_mix(dsa_mix(seed + 1) + stream + 1) + number)};
}

static inline uint64_t dsa_draw(dsa_random *random)
{
    return dsa_mix(random->state += UINT64_C(0x9e3779b97f4a7c15));
}

/* 0 to below - 1. The bias of the remainder does not matter here. */
static inline uint64_t dsa_draw_below(dsa_random *random, uint64_t below)
{
    return dsa_draw(random) % below;
}

#endif
