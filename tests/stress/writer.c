/* Guest RAM that is written all the time: words that are never zero, pages that come and go, and a
 * log of those that changed. One thread for each of the two.
 *
 *   writer RAM_FD CONTROL_FD PAGES
 *
 * RAM_FD -1: private memory. The control memory has a word that asks to stop, and from byte 4096 on
 * a byte for each page, set after each change. Prints the address of the RAM, then, when it has
 * stopped, a line more; it ends when its input does.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, KINDS = 8 };
enum kind { HOLE, ZEROS, NEVER_ZERO, ONE_WORD, WHOLE_PAGE, CONSTANT, BALLOON, NEVER_ZERO_EDGE };

/* Of each the complement is stored next: no byte, and no half of it, is not zero in both. */
static const uint64_t PATTERNS[] = {
    UINT64_C(0x00000000ffffffff),
    UINT64_C(0x00ff00ff00ff00ff),
    UINT64_C(0x0000ffff0000ffff),
    1,
};

static unsigned char *ram;
static unsigned char *control;
static uint64_t pages;
static bool is_shared;

static bool is_stopped(void)
{
    return __atomic_load_n((uint32_t *)control, __ATOMIC_ACQUIRE) != 0;
}

static uint64_t *word_of(uint64_t page)
{
    /* One word of the page: the first, the last, one that sampling looks at, or any. */
    uint64_t places[] = {0, WORDS - 1, WORDS / 2, page * 7 % WORDS};
    uint64_t at =
        page % KINDS == NEVER_ZERO_EDGE ? places[page / KINDS % 2] : places[page / KINDS % 4];
    return (uint64_t *)(ram + page * PAGE) + at;
}

static void changed(uint64_t page)
{
    __atomic_store_n(control + PAGE + page, 1, __ATOMIC_RELEASE);
}

static void begin(uint64_t page)
{
    switch (page % KINDS) {
    case ZEROS:
        memset(ram + page * PAGE, 0, PAGE);
        *(volatile unsigned char *)(ram + page * PAGE) = 0;
        break;
    case NEVER_ZERO:
    case NEVER_ZERO_EDGE:
        *word_of(page) = PATTERNS[page / KINDS % 4];
        break;
    case CONSTANT:
        ram[page * PAGE + page * 13 % PAGE] = 1;
        break;
    default:
        break;
    }
}

/* Each store is one of eight bytes, and what is there before and after it is not zero. */
static void *never_zero(void *unused)
{
    (void)unused;
    for (uint64_t turn = 1; !is_stopped(); turn++)
        for (uint64_t page = 0; page < pages; page++)
            if (page % KINDS == NEVER_ZERO || page % KINDS == NEVER_ZERO_EDGE) {
                uint64_t pattern = PATTERNS[page / KINDS % 4];
                __atomic_store_n(word_of(page), turn % 2 ? ~pattern : pattern, __ATOMIC_RELAXED);
            }
    return NULL;
}

static void discard(uint64_t page)
{
    madvise(ram + page * PAGE, PAGE, is_shared ? MADV_REMOVE : MADV_DONTNEED);
}

static void change(uint64_t page, uint64_t dice)
{
    unsigned char *content = ram + page * PAGE;
    switch (page % KINDS) {
    case ONE_WORD:
        __atomic_store_n(word_of(page), dice & 1 ? dice : 0, __ATOMIC_RELAXED);
        break;
    case WHOLE_PAGE:
        memset(content, dice & 1 ? (int)(dice >> 8) | 1 : 0, PAGE);
        break;
    case BALLOON:
        if (dice & 1)
            content[(dice >> 8) % PAGE] = 1;
        else
            discard(page);
        break;
    default:
        return;
    }
    changed(page);
}

static void *come_and_go(void *unused)
{
    (void)unused;
    uint64_t dice = 88172645463325252;
    while (!is_stopped()) {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        change((dice >> 20) % pages, dice);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    int fd = atoi(argv[1]);
    pages = strtoull(argv[3], NULL, 10);
    is_shared = fd >= 0;
    int how = is_shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    ram = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, how, fd, 0);
    control = mmap(NULL, PAGE + pages, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[2]), 0);
    if (ram == MAP_FAILED || control == MAP_FAILED)
        return 1;
    for (uint64_t page = 0; page < pages; page++)
        begin(page);
    pthread_t threads[2];
    if (pthread_create(&threads[0], NULL, never_zero, NULL) != 0 ||
        pthread_create(&threads[1], NULL, come_and_go, NULL) != 0)
        return 1;
    printf("%lu\n", (unsigned long)(uintptr_t)ram);
    fflush(stdout);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    puts("stopped");
    fflush(stdout);
    getchar();
    return 0;
}
