/*
 * Draws a picture from a seed: picture MODEL SEED STEPS OUTPUT [CLASS] writes a PGM or PPM file and prints the picture's
 * digest, which of a file of integers is the same on every machine.
 *
 *     cc picture.c -I.. ../../target/dist/libtraflow.so -Wl,-rpath,$PWD/../../target/dist -o picture
 */
#include <stdio.h>
#include <stdlib.h>

#include "traflow.h"

/* A whole file in memory, which malloc() aligns well enough; a null pointer if it cannot be read. */
static uint8_t *read_file(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    uint8_t *data = NULL;
    long length = -1;
    if (file && fseek(file, 0, SEEK_END) == 0)
        length = ftell(file);
    if (length > 0 && fseek(file, 0, SEEK_SET) == 0 && (data = malloc((size_t)length)) != NULL
        && fread(data, 1, (size_t)length, file) != (size_t)length) {
        free(data);
        data = NULL;
    }
    if (file)
        fclose(file);
    *bytes = data ? (size_t)length : 0;
    return data;
}

int main(int argc, char **argv) {
    if (argc != 5 && argc != 6) {
        fprintf(stderr, "usage: picture MODEL SEED STEPS OUTPUT [CLASS]\n");
        return 2;
    }
    int code = 1;
    uint8_t *arena = NULL, *pixels = NULL;
    size_t file_bytes;
    uint8_t *file = read_file(argv[1], &file_bytes);
    traflow model;
    if (!file) {
        fprintf(stderr, "error: %s cannot be read\n", argv[1]);
        return 1;
    }
    if (traflow_open(&model, file, file_bytes))
        goto failed;
    uint32_t width = traflow_width(&model), height = traflow_height(&model), channels = traflow_channels(&model);
    size_t arena_bytes = traflow_arena_bytes(&model), bytes = (size_t)width * height * channels;
    arena = malloc(arena_bytes);
    pixels = malloc(bytes);
    if (!arena || !pixels) {
        fprintf(stderr, "error: there is not enough memory\n");
        goto end;
    }
    if (traflow_set_arena(&model, arena, arena_bytes)
        || (argc == 6 && traflow_set_class(&model, (int32_t)strtol(argv[5], NULL, 10)))
        || traflow_generate(&model, strtoull(argv[2], NULL, 10), (uint32_t)strtoul(argv[3], NULL, 10), pixels, bytes))
        goto failed;

    char digest[65];
    traflow_digest(pixels, bytes, digest);
    puts(digest);
    FILE *output = fopen(argv[4], "wb");
    if (!output || fprintf(output, "P%c\n%u %u\n255\n", channels == 1 ? '5' : '6', (unsigned)width, (unsigned)height) < 0
        || fwrite(pixels, 1, bytes, output) != bytes || fclose(output)) {
        fprintf(stderr, "error: %s cannot be written\n", argv[4]);
        goto end;
    }
    code = 0;
    goto end;
failed:
    fprintf(stderr, "error: %s: %s\n", argv[1], traflow_message(&model));
end:
    free(pixels);
    free(arena);
    free(file);
    return code;
}
