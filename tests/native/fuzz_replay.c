/* Runs a fuzz program over the files of its corpus: `fuzz_NAME FILE...`. Linked in libFuzzer's
 * place. */
#include "fuzz.h"

int main(int argc, char **argv)
{
    static uint8_t data[1 << 16];
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (file == NULL) {
            perror(argv[i]);
            return 2;
        }
        size_t size = fread(data, 1, sizeof data, file);
        fclose(file);
        /* A copy of just that size, so that a read past its end is found. */
        uint8_t *copy = malloc(size + (size == 0));
        if (copy == NULL)
            return 2;
        memcpy(copy, data, size);
        fprintf(stderr, "%s\n", argv[i]);
        LLVMFuzzerTestOneInput(copy, size);
        free(copy);
    }
    printf("%d inputs replayed\n", argc - 1);
    return argc < 2; /* a corpus that is not there is a failure */
}
