/* Descriptors of any content on the software device, as a hostile or broken driver could submit
 * them: only registered memory is touched, only what may be written is written, and what is called
 * equal is equal. Input: options, then operations and descriptors. */
#include "dsa_fixture.h"
#include "fuzz.h"

static uint64_t sum(const memory *of)
{
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < of->bytes; i += sizeof hash) {
        uint64_t word;
        memcpy(&word, of->at + i, sizeof word);
        hash = (hash ^ word) * 1099511628211u;
    }
    return hash;
}

/* One in some memory, near its ends or not; seldom anywhere. */
static uint64_t address(fuzz_input *input)
{
    uint32_t which = fuzz_draw(input), at = fuzz_draw(input);
    uint64_t any;
    if (which % 16 == 15) {
        fuzz_take(input, &any, sizeof any);
        return any;
    }
    const memory *of = ALL[which % 8];
    uint64_t start = (uintptr_t)of->at + (which & 0x100 ? of->bytes - PAGE : 0);
    return start + (which & 0x200 ? at : at % PAGE / 64 * 64);
}

static descriptor draw(fuzz_input *input)
{
    static const uint8_t opcodes[] = {NOOP, BATCH, DRAIN, COMPARE, COMPVAL, COMPVAL, COMPVAL, 9};
    static const uint32_t sizes[] = {1, 2, 8, 64, 128, PAGE, 2 * PAGE, 16 * PAGE};
    descriptor d;
    memset(&d, 0, sizeof d);
    uint32_t what = fuzz_draw(input);
    uint64_t record_at = what & 8 ? address(input) : (uintptr_t)record(fuzz_draw(input) % 250);
    uint64_t source = address(input), second = what & 16 ? address(input) : 0;
    uint32_t size = what & 32 ? fuzz_draw(input) : sizes[what >> 6 & 7];
    if (what & 0x8000)
        fuzz_take(input, &d, sizeof d);
    d.bytes[0] = d.bytes[1] = d.bytes[2] = d.bytes[3] = 0; /* else ENQCMD is a SIGSEGV */
    d.bytes[4] |= what & 0x4000 ? 0 : CRAV_RCR;
    d.bytes[7] = what & 0x2000 ? d.bytes[7] : opcodes[what & 7];
    memcpy(d.bytes + 8, &record_at, 8);
    memcpy(d.bytes + 16, &source, 8);
    memcpy(d.bytes + 24, &second, 8);
    memcpy(d.bytes + 32, &size, 4);
    return d;
}

/* "stuck-close" never ends. */
static const char *plan(uint32_t number)
{
    size_t count = 0;
    while (dsa_model_fault_name(count) != NULL)
        count++;
    const char *name = dsa_model_fault_name(number % count);
    return number % 2 == 0 || strcmp(name, "stuck-close") == 0 ? "none" : name;
}

/* A record that says equal, of the one descriptor that it is for. It may itself have been written
 * over what was compared. */
static void check_equal(const descriptor *d)
{
    uint64_t record_at, source, pattern;
    uint32_t size;
    memcpy(&record_at, d->bytes + 8, 8);
    memcpy(&source, d->bytes + 16, 8);
    memcpy(&pattern, d->bytes + 24, 8);
    memcpy(&size, d->bytes + 32, 4);
    const uint8_t *at = (const uint8_t *)(uintptr_t)record_at;
    if (d->bytes[7] != COMPVAL || at < RECORDS.at || at > RECORDS.at + RECORDS.bytes - 32)
        return;
    if ((at[0] & 0x3f) != 1 || at[1] != 0)
        return;
    for (uint32_t i = 0; i < size; i++)
        FUZZ_REQUIRE(source + i - record_at < 32 ||
                     ((const uint8_t *)(uintptr_t)source)[i] == (uint8_t)(pattern >> i % 8 * 8));
}

static void submit(dsa_model *model, dsa_model_mode mode, const descriptor *d)
{
    if (mode == DSA_MODEL_SHARED)
        dsa_model_enqcmd(model, d);
    else if (mode == DSA_MODEL_DEDICATED)
        dsa_model_movdir64b(model, d);
    else
        dsa_model_write(model, d, 64);
}

static void run_one(dsa_model *model, dsa_model_mode mode, bool truthful, fuzz_input *input)
{
    uint32_t what = fuzz_draw(input);
    descriptor d = draw(input);
    if (what % 8 == 0) {
        dsa_model_disable(model);
        dsa_model_run(model, SIZE_MAX);
        dsa_model_enable(model);
        return;
    }
    if (what % 8 < 3) { /* a member of the next batch */
        memcpy(LIST.at + 64 * (what >> 8 & 15), &d, sizeof d);
        return;
    }
    if (what % 8 == 3) { /* alone, so that its record is its own */
        dsa_model_run(model, SIZE_MAX);
        memset(RECORDS.at, 0, RECORDS.bytes);
        submit(model, mode, &d);
        dsa_model_run(model, SIZE_MAX);
        if (truthful)
            check_equal(&d);
        return;
    }
    submit(model, mode, &d);
    if (what & 16)
        dsa_model_run(model, what >> 8);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint64_t sums[sizeof ALL / sizeof *ALL]; /* of what nobody may write */
    fuzz_input input = {data, size};
    if (ZERO.at == NULL) {
        map_all();
        for (size_t i = 0; i < sizeof ALL / sizeof *ALL; i++)
            sums[i] = sum(ALL[i]);
    }
    uint32_t how = fuzz_draw(&input);
    const char *faults = plan(how >> 8);
    dsa_model_options options = still(how, faults);
    options.mode = how % 3;
    options.version = 1 + (how >> 4 & 1);
    options.prs = how & 32;
    options.ats = how & 64;
    options.engines = 1;
    options.size = 1 + fuzz_draw(&input) % 16;
    options.threshold = 1 + fuzz_draw(&input) % options.size;
    options.delay_ns = 0;
    memset(LIST.at, 0, LIST.bytes);
    dsa_model *model = open_model(&options);
    while (input.left > 0)
        run_one(model, options.mode, strcmp(faults, "none") == 0, &input);
    dsa_model_close(model);
    for (size_t i = 0; i < sizeof ALL / sizeof *ALL; i++)
        FUZZ_REQUIRE(ALL[i] == &LIST || ALL[i]->writable || sum(ALL[i]) == sums[i]);
    return 0;
}
