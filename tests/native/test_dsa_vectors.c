/* The vectors of dsa_model_vectors.txt, each with several seeds: what one descriptor or batch comes
 * to, byte for byte. The file is looked for in the current folder, or is argv[1]. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "dsa_fixture.h"

enum { SEEDS = 24 };

typedef struct vector {
    char name[96];
    dsa_model_options options;
    size_t members;
    descriptor submit;
    long answer;
    uint8_t *dirty;
    size_t lines; /* of `record` and `counts`: looked at once it has run */
    char expect[16][400];
} vector;

/* The memory that a name stands for, as an address; `end` is after the token. */
static uint64_t address_of(const char *text, const char **end)
{
    size_t length = strcspn(text, "+ \t\n");
    uint64_t address = 0;

    if (length == 3 && strncmp(text, "top", 3) == 0)
        address = UINT64_C(0xffffffffffffffc0);
    for (size_t i = 0; i < sizeof(ALL) / sizeof(*ALL); i++)
        if (strlen(ALL[i]->name) == length && strncmp(text, ALL[i]->name, length) == 0)
            address = (uintptr_t)ALL[i]->at;
    if (address == 0) {
        printf("vectors: no memory is called %s\n", text);
        exit(2);
    }
    text += length;
    if (*text == '+')
        address += strtoull(text + 1, (char **)&text, 16);
    *end = text;
    return address;
}

static size_t repeats(const char *token)
{
    const char *star = strchr(token, '*');

    return star != NULL ? strtoul(star + 1, NULL, 10) : 1;
}

static void parse_bytes(char *text, uint8_t *to)
{
    uint8_t *const first = to;
    const char *end;

    for (char *token = strtok(text, " \t\n"); token != NULL; token = strtok(NULL, " \t\n")) {
        size_t digits = strcspn(token, "*");
        if (*token == '@') {
            uint64_t address = address_of(token + 1, &end);
            memcpy(to, &address, 8);
            to += 8;
            continue;
        }
        for (size_t again = repeats(token); again > 0; again--)
            for (size_t i = 0; i + 1 < digits; i += 2) {
                char pair[3] = {token[i], token[i + 1], 0};
                *to++ = (uint8_t)strtoul(pair, NULL, 16);
            }
    }
    if (to - first != 64) {
        printf("vectors: %td bytes instead of 64\n", to - first);
        exit(2);
    }
}

static void check_flags(const vector *v, const uint8_t *at, uint64_t allowed)
{
    uint32_t flags = (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16;

    CHECK(flags != 0 && (flags & ~allowed) == 0, "%s: flags %x", v->name, flags);
}

/* One token of a pattern against the bytes at `at`; returns how many it stands for. */
static size_t check_token(const vector *v, const char *token, const uint8_t *at, bool is_first)
{
    size_t digits = strcspn(token, "*"), bytes = 0;
    uint64_t address, number;
    const char *end;

    if (*token == '~') {
        number = address_of(token + 2, &end);
        memcpy(&address, at, 8);
        CHECK(address == number || address == (number & ~UINT64_C(0xfff)), "%s: address %jx",
              v->name, (uintmax_t)address);
        return 8;
    }
    if (strncmp(token, "<=", 2) == 0) {
        uint32_t found;
        memcpy(&found, at, 4);
        CHECK(found <= strtoul(token + 2, NULL, 16), "%s: %x %s", v->name, found, token);
        return 4;
    }
    if (strncmp(token, "any:", 4) == 0) {
        check_flags(v, at, strtoull(token + 4, NULL, 16));
        return 3;
    }
    for (size_t again = repeats(token); again > 0; again--)
        for (size_t i = 0; i + 1 < digits; i += 2, bytes++) {
            char pair[3] = {token[i], token[i + 1], 0};
            uint8_t found = is_first && bytes == 0 ? at[0] & 0xbf : at[bytes];
            if (strcmp(pair, "xx") == 0)
                CHECK(found != 0, "%s: byte not poisoned", v->name);
            else if (pair[0] == 'x')
                CHECK((found & 15) == strtoul(pair + 1, NULL, 16), "%s: %x", v->name, found);
            else
                CHECK(found == strtoul(pair, NULL, 16), "%s: %02x for %s", v->name, found, pair);
        }
    return bytes;
}

static void check_record(const vector *v, char *text)
{
    char *save, *token = strtok_r(text, " \t\n", &save);
    const char *end;
    const uint8_t *at = (const uint8_t *)(uintptr_t)address_of(token + 1, &end);
    size_t bytes = 0;

    token = strtok_r(NULL, " \t\n", &save);
    if (strcmp(token, "none") == 0 || strcmp(token, "same") == 0) {
        for (size_t i = 0; i < 32; i++)
            CHECK(at[i] == (i == 0 && *token == 's' ? 0x77 : 0), "%s: byte %zu", v->name, i);
        return;
    }
    for (; token != NULL; token = strtok_r(NULL, " \t\n", &save))
        bytes += check_token(v, token, at + bytes, bytes == 0);
    if (bytes != 32) {
        printf("vectors: %s: a record of %zu bytes\n", v->name, bytes);
        exit(2);
    }
}

static void check_counts(const vector *v, char *text, const dsa_model_counts *counts)
{
    char *save;

    for (char *token = strtok_r(text, " \t\n", &save); token;
         token = strtok_r(NULL, " \t\n", &save)) {
        char *equals = strchr(token, '=');
        uint64_t want = strtoull(equals + 1, NULL, 10), found = UINT64_MAX;
        *equals = 0;
        found = strcmp(token, "executed") == 0  ? counts->executed
                : strcmp(token, "errors") == 0  ? counts->errors
                : strcmp(token, "lost") == 0    ? counts->lost
                : strcmp(token, "dropped") == 0 ? counts->dropped
                : strcmp(token, "faults") == 0  ? counts->faults
                                                : UINT64_MAX;
        CHECK(found == want, "%s: %s is %ju", v->name, token, (uintmax_t)found);
    }
}

static void set_option(vector *v, char *text)
{
    for (char *token = strtok(text, " \t\n"); token != NULL; token = strtok(NULL, " \t\n")) {
        uint32_t value = (uint32_t)strtoul(strchr(token, '=') + 1, NULL, 16);
        if (strncmp(token, "version", 7) == 0)
            v->options.version = value;
        else if (strncmp(token, "mode", 4) == 0)
            v->options.mode = (dsa_model_mode)value;
        else if (strncmp(token, "max_batch", 9) == 0)
            v->options.max_batch = value;
        else
            exit(2);
    }
}

static void run_vector(const vector *v)
{
    check_begin();
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        dsa_model_options options = v->options;
        dsa_model_counts counts;
        dsa_model *model;
        long answer = 0;
        options.seed = seed;
        model = open_model(&options);
        if (v->dirty != NULL)
            *v->dirty = 0x77;
        if (options.mode == DSA_MODEL_SHARED)
            answer = dsa_model_enqcmd(model, v->submit.bytes);
        else if (options.mode == DSA_MODEL_DEDICATED)
            dsa_model_movdir64b(model, v->submit.bytes);
        else
            answer = dsa_model_write(model, v->submit.bytes, 64);
        CHECK(answer == v->answer, "%s: answer %ld", v->name, answer);
        dsa_model_run(model, SIZE_MAX);
        counts = counts_of(model);
        for (size_t i = 0; i < v->lines; i++) {
            char text[400];
            strcpy(text, v->expect[i] + 7);
            if (strncmp(v->expect[i], "record ", 7) == 0)
                check_record(v, text);
            else
                check_counts(v, text, &counts);
        }
        dsa_model_close(model);
    }
    check_end("vector:", v->name);
}

static void start_vector(vector *v, const char *name)
{
    memset(v, 0, sizeof(*v));
    snprintf(v->name, sizeof(v->name), "%.*s", (int)strcspn(name, "\n"), name);
    v->options = still(0, "none");
    v->options.max_batch = 8;
    v->options.max_transfer = 0x10000;
    memset(LIST.at, 0, LIST.bytes);
}

static void vector_line(vector *v, char *line)
{
    const char *end;

    if (strncmp(line, "queue ", 6) == 0)
        set_option(v, line + 6);
    else if (strncmp(line, "dirty @", 7) == 0)
        v->dirty = (uint8_t *)(uintptr_t)address_of(line + 7, &end);
    else if (strncmp(line, "member ", 7) == 0)
        parse_bytes(line + 7, LIST.at + 64 * v->members++);
    else if (strncmp(line, "submit ", 7) == 0)
        parse_bytes(line + 7, v->submit.bytes);
    else if (strncmp(line, "answer ", 7) == 0)
        v->answer = strtol(line + 7, NULL, 10);
    else if (strncmp(line, "record ", 7) == 0 || strncmp(line, "counts ", 7) == 0)
        strcpy(v->expect[v->lines++], line);
    else if (*line != '#' && *line != '\n') {
        printf("vectors: what is this: %s\n", line);
        exit(2);
    }
}

static void test_vectors(const char *path)
{
    static vector v;
    FILE *file = fopen(path, "r");
    char line[400];
    size_t vectors = 0;

    if (file == NULL) {
        printf("%s: %s\n", path, strerror(errno));
        exit(2);
    }
    while (fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, "== ", 3) != 0) {
            vector_line(&v, line);
            continue;
        }
        if (vectors++ > 0)
            run_vector(&v);
        start_vector(&v, line + 3);
    }
    run_vector(&v);
    fclose(file);
    check_begin();
    CHECK(vectors >= 60, "%zu vectors", vectors);
    check_end("vectors are there", "");
}

int main(int count, char **arguments)
{
    map_all();
    test_vectors(count > 1 ? arguments[1] : "dsa_model_vectors.txt");
    return check_summary();
}
