/* What a native test program needs: one line per test, and the last line
 * "N passed, N failed". Include it once per program. */
#ifndef PC_TEST_CHECK_H
#define PC_TEST_CHECK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

static unsigned check_passed, check_failed;
static bool check_good; /* of the test that runs now */

/* Prints the first failures only: a loop over places may have thousands. */
#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            if (check_good) {                                                                      \
                printf("%s:%d: not true: %s: ", __FILE__, __LINE__, #condition);                   \
                printf(__VA_ARGS__);                                                               \
                printf("\n");                                                                      \
            }                                                                                      \
            check_good = false;                                                                    \
        }                                                                                          \
    } while (0)

static inline void check_begin(void)
{
    check_good = true;
}

static inline void check_end(const char *test, const char *of)
{
    printf("%s %s%s%s\n", check_good ? "pass" : "FAIL", test, *of ? " " : "", of);
    fflush(stdout); /* a later test may end the process */
    check_passed += check_good;
    check_failed += !check_good;
}

/* The exit status. */
static inline int check_summary(void)
{
    printf("%u passed, %u failed\n", check_passed, check_failed);
    return check_failed != 0 || check_passed == 0;
}

/* splitmix64: the same numbers on every machine. */
static inline uint64_t check_random(uint64_t *state)
{
    uint64_t word = *state += 0x9e3779b97f4a7c15u;
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9u;
    word = (word ^ word >> 27) * 0x94d049bb133111ebu;
    return word ^ word >> 31;
}

#endif
