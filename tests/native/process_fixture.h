/* Another process whose private memory is looked at: each of its pages is of a kind that is known.
 */
#ifndef PC_TEST_PROCESS_FIXTURE_H
#define PC_TEST_PROCESS_FIXTURE_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "pc_block.h"
#include "pc_pagemap.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* Linux 6.13 */
#endif

enum { PAGE = 4096 };

/* What a page is; GUARD stands for all that page tables show as swapped. */
typedef enum kind { ABSENT, ZERO_PAGE, ZEROS, DATA, GUARD, KINDS } kind;

typedef struct target {
    pid_t pid;
    int pagemap;
    int memory;
    int commands;
    int answers;
    unsigned char *base;
    uint64_t bytes;
    const unsigned char *kinds; /* one for each page; the rest of the pages is absent */
    uint64_t kind_count;
} target;

/* The test's: what the target does for a command. */
static void act(const target *t, char command);

static inline void make_page(unsigned char *page, kind what, uint64_t index)
{
    volatile unsigned char *bytes = page;
    if (what == ZERO_PAGE)
        (void)bytes[index % PAGE];
    else if (what == ZEROS)
        bytes[index % PAGE] = 0;
    else if (what == DATA)
        bytes[index % 3 == 0 ? PAGE - 1 : index * 7 % PAGE] = 1;
    else if (what == GUARD && madvise(page, PAGE, MADV_GUARD_INSTALL) != 0)
        abort();
}

static inline void target_run(const target *t)
{
    char command = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (uint64_t i = 0; i < t->kind_count; i++)
        make_page(t->base + i * PAGE, (kind)t->kinds[i], i);
    do {
        if (command != 0)
            act(t, command);
        if (write(t->answers, "", 1) != 1)
            _exit(1);
    } while (read(t->commands, &command, 1) == 1);
    _exit(0);
}

static inline void target_wait(const target *t)
{
    char answer;
    if (read(t->answers, &answer, 1) != 1)
        abort();
}

/* A process with `bytes` of private memory, in which the first `kind_count` pages are made; where
 * another target has its memory, unless that is NULL. */
static inline target target_start(uint64_t bytes, const unsigned char *kinds, uint64_t kind_count,
                                  const target *other)
{
    int commands[2], answers[2];
    char name[64];
    target t = {.bytes = bytes, .kinds = kinds, .kind_count = kind_count};
    t.base = other != NULL ? other->base
                           : mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (t.base == MAP_FAILED || madvise(t.base, bytes, MADV_NOHUGEPAGE) != 0 ||
        pipe2(commands, O_CLOEXEC) != 0 || pipe2(answers, O_CLOEXEC) != 0)
        abort();
    t.pid = fork();
    int child = t.pid == 0;
    t.commands = commands[!child];
    t.answers = answers[child];
    close(commands[child]);
    close(answers[!child]);
    if (child)
        target_run(&t);
    snprintf(name, sizeof name, "/proc/%d/pagemap", (int)t.pid);
    t.pagemap = open(name, O_RDONLY | O_CLOEXEC);
    snprintf(name, sizeof name, "/proc/%d/mem", (int)t.pid);
    t.memory = open(name, O_RDONLY | O_CLOEXEC);
    if (t.pid < 0 || t.pagemap < 0 || t.memory < 0)
        abort();
    target_wait(&t);
    return t;
}

static inline void target_do(const target *t, char command)
{
    if (write(t->commands, &command, 1) != 1)
        abort();
    target_wait(t);
}

/* What the target does once it has answered is over, and has been done before: it uses no more
 * memory. */
static inline void target_settle(const target *t)
{
    for (int twice = 0; twice < 2; twice++)
        target_do(t, ' ');
}

static inline void target_kill(const target *t)
{
    if (kill(t->pid, SIGKILL) != 0 || waitpid(t->pid, NULL, 0) != t->pid)
        abort();
}

/* Ends the target, if it was not killed. */
static inline void target_end(const target *t)
{
    close(t->commands);
    close(t->answers);
    close(t->pagemap);
    close(t->memory);
    waitpid(t->pid, NULL, 0);
    munmap(t->base, t->bytes);
}

/* Whether /proc knows our pages under the addresses that we use: not under an emulator. */
static inline bool page_tables_are_ours(void)
{
    pc_region region;
    pc_look look;
    volatile char byte = 1;
    pc_pagemap pagemap = {.fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)};
    uint64_t page = (uintptr_t)&byte / PAGE * PAGE;
    bool ours = pagemap.fd >= 0 &&
                pc_pagemap_look(&pagemap, page, page + PAGE, &region, 1, &look) &&
                look.count == 1 && region.state == PC_PAGE_PRESENT;
    close(pagemap.fd);
    if (!ours)
        printf("skip: /proc/self/pagemap does not have this program's addresses\n");
    return ours;
}

static inline bool has_guard_pages(void)
{
    void *page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool has = page != MAP_FAILED && madvise(page, PAGE, MADV_GUARD_INSTALL) == 0;
    munmap(page, PAGE);
    return has;
}

/* Kinds of `count` pages, in runs of 1 to `longest`. */
static inline void fill_kinds(unsigned char *kinds, uint64_t count, uint64_t longest,
                              uint64_t *random)
{
    unsigned kinds_there = has_guard_pages() ? KINDS : GUARD;
    for (uint64_t at = 0; at < count;) {
        unsigned char what = (unsigned char)(check_random(random) % kinds_there);
        for (uint64_t n = check_random(random) % longest + 1; n > 0 && at < count; n--)
            kinds[at++] = what;
    }
}

#endif
