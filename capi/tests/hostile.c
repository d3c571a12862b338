/*
 * What a program may do wrong: hostile MODEL calls everything with null pointers, short buffers and damaged files, each of
 * which has to give a code and a message. It is compiled with the sanitisers for addresses and undefined behaviour.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "traflow.h"

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition);                                                    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static void expect(traflow *model, traflow_status found, traflow_status expected, const char *message, int line) {
    if (found != expected || !strstr(traflow_message(model), message)) {
        fprintf(stderr, "line %d: status %d, \"%s\"\n", line, (int)found, traflow_message(model));
        exit(1);
    }
}
#define EXPECT(status, code, message) expect(&model, status, TRAFLOW_STATUS_##code, message, __LINE__)

int main(int argc, char **argv) {
    CHECK(argc == 2);
    FILE *input = fopen(argv[1], "rb");
    CHECK(input && fseek(input, 0, SEEK_END) == 0);
    size_t bytes = (size_t)ftell(input);
    uint8_t *file = malloc(bytes), *copy = malloc(bytes);
    rewind(input);
    CHECK(file && copy && fread(file, 1, bytes, input) == bytes && fclose(input) == 0);

    /* Nothing was opened. */
    traflow model;
    char text[65];
    uint8_t few[4] = {0};
    memset(&model, 0, sizeof model);
    EXPECT(traflow_generate(&model, 0, 1, few, 4), CLOSED, "no file");
    EXPECT(traflow_set_arena(&model, few, 4), CLOSED, "no file");
    EXPECT(traflow_self_test(&model), CLOSED, "no file");
    CHECK(traflow_width(&model) == 0 && traflow_height(&model) == 0 && traflow_channels(&model) == 0);
    CHECK(traflow_arena_bytes(&model) == 0 && traflow_steps(&model, 0) == 0 && !traflow_is_integer(&model));

    /* Null pointers. */
    CHECK(traflow_open(NULL, file, bytes) == TRAFLOW_STATUS_POINTER);
    CHECK(traflow_set_arena(NULL, few, 4) == TRAFLOW_STATUS_POINTER);
    CHECK(traflow_set_class(NULL, 0) == TRAFLOW_STATUS_POINTER);
    CHECK(traflow_generate(NULL, 0, 1, few, 4) == TRAFLOW_STATUS_POINTER);
    CHECK(traflow_self_test(NULL) == TRAFLOW_STATUS_POINTER);
    CHECK(traflow_width(NULL) == 0 && traflow_classes(NULL) == 0 && strlen(traflow_message(NULL)) > 0);
    CHECK(traflow_digest(NULL, 4, text) == TRAFLOW_STATUS_POINTER);
    CHECK(traflow_digest(few, 4, NULL) == TRAFLOW_STATUS_POINTER);
    CHECK(traflow_digest(few, SIZE_MAX, text) == TRAFLOW_STATUS_POINTER);
    EXPECT(traflow_open(&model, NULL, bytes), POINTER, "file is a null pointer");
    EXPECT(traflow_open(&model, file, SIZE_MAX), POINTER, "longer than memory");
    EXPECT(traflow_generate(&model, 0, 1, few, 4), CLOSED, "no file");

    /* Files that end early, and such as have a byte changed. */
    for (size_t length = 0; length < bytes; length += length < 4096 ? 1 : 511) {
        uint8_t *part = malloc(length ? length : 1);
        CHECK(part);
        memcpy(part, file, length);
        EXPECT(traflow_open(&model, part, length), FILE, "the file: ");
        free(part);
    }
    memcpy(copy, file, bytes);
    for (size_t index = 0; index < bytes; index += index < 4096 ? 1 : 511) {
        copy[index] ^= 0x40;
        EXPECT(traflow_open(&model, copy, bytes), FILE, "the file: ");
        copy[index] = file[index];
    }
    memmove(copy, file + 1, bytes - 1);
    EXPECT(traflow_open(&model, copy, bytes), FILE, "it is not a TraFlow model file");

    /* Calls that do not fit the file. */
    EXPECT(traflow_open(&model, file, bytes), OK, "");
    CHECK(traflow_message(&model)[0] == 0);
    size_t arena_bytes = traflow_arena_bytes(&model);
    size_t size = (size_t)traflow_width(&model) * traflow_height(&model) * traflow_channels(&model);
    uint32_t steps = traflow_steps(&model, 0);
    uint8_t *arena = malloc(arena_bytes), *pixels = malloc(size);
    CHECK(arena && pixels && size > 4 && steps > 0);
    CHECK(traflow_steps(&model, UINT32_MAX) == 0);
    EXPECT(traflow_generate(&model, 0, steps, pixels, size), ARENA, "the arena has 0 bytes");
    EXPECT(traflow_set_arena(&model, NULL, arena_bytes), POINTER, "arena");
    // A handle inside the file would be written over it.
    CHECK(traflow_open((traflow *)(void *)file, file, bytes) == TRAFLOW_STATUS_POINTER);
    EXPECT(traflow_set_arena(&model, arena, 64), ARENA, "the arena has 64 bytes");
    EXPECT(traflow_set_arena(&model, file, bytes), POINTER, "overlap");
    EXPECT(traflow_set_arena(&model, arena, arena_bytes), OK, "");
    EXPECT(traflow_generate(&model, 0, steps, NULL, size), POINTER, "pixels");
    EXPECT(traflow_generate(&model, 0, steps, pixels, size - 1), ROOM, "pixels has room for");
    EXPECT(traflow_generate(&model, 0, steps, arena + 64, size), POINTER, "pixels and arena overlap");
    EXPECT(traflow_generate(&model, 0, steps, file, size), POINTER, "pixels and file overlap");
    EXPECT(traflow_generate(&model, 0, steps, (uint8_t *)&model, size), POINTER, "pixels and model overlap");
    EXPECT(traflow_set_arena(&model, (uint8_t *)&model, arena_bytes), POINTER, "arena and model overlap");
    EXPECT(traflow_generate(&model, 0, 999, pixels, size), STEPS, "no schedule of 999 steps");
    EXPECT(traflow_generate(&model, 0, 0, pixels, size), STEPS, "no schedule of 0 steps");
    EXPECT(traflow_set_class(&model, 99999), CLASS, "classes");
    EXPECT(traflow_set_class(&model, -2), CLASS, "classes");
    EXPECT(traflow_set_class(&model, -1), OK, "");
    uint64_t seeds[4] = {1, 2, 3, UINT64_MAX};
    EXPECT(traflow_generate_between(&model, NULL, 0, 0, steps, pixels, size), POINTER, "seeds");
    EXPECT(traflow_generate_between(&model, seeds, 0, 0, steps, pixels, 1), ROOM, "pixels has room for 1");
    EXPECT(traflow_generate_between(&model, seeds, UINT32_MAX, UINT32_MAX, steps, pixels, size), OK, "");
    float number;
    EXPECT(traflow_generate_floats(&model, 0, steps, NULL, size), POINTER, "image");
    EXPECT(traflow_generate_floats(&model, 0, steps, &number, 1), ROOM, "image has room for 1 numbers");
    EXPECT(traflow_generate_floats(&model, 0, steps, (float *)(void *)(arena + 1), 1), POINTER, "image");
    EXPECT(traflow_generate_floats(&model, 0, steps, (float *)(void *)file, 1), POINTER, "image and file overlap");
    CHECK(traflow_set_class((traflow *)(void *)((char *)&model + 1), 0) == TRAFLOW_STATUS_POINTER);

    /* And after all of it the model draws; whatever the arena held, and in both kinds of numbers. */
    float *image = malloc(size * sizeof(float));
    CHECK(image);
    memset(arena, 0xff, arena_bytes);
    uint8_t *corner = malloc(size);
    CHECK(corner);
    memcpy(corner, pixels, size);
    EXPECT(traflow_generate(&model, UINT64_MAX, steps, pixels, size), OK, "");
    CHECK(memcmp(corner, pixels, size) == 0); /* beyond the square is its corner */
    free(corner);
    EXPECT(traflow_generate_floats(&model, UINT64_MAX, steps, image, size), OK, "");
    size_t channels = traflow_channels(&model), plane = size / channels;
    for (size_t index = 0; index < size; index++) {
        float x = image[index % channels * plane + index / channels] * 127.5f + 128.0f;
        int byte = x <= 0 ? 0 : x >= 255 ? 255 : (int)x;
        CHECK(abs(byte - pixels[index]) <= 1);
    }
    if (traflow_is_integer(&model))
        EXPECT(traflow_self_test(&model), OK, "");
    else
        EXPECT(traflow_self_test(&model), KIND, "integers");
    free(image);
    free(pixels);
    free(arena);
    free(copy);
    free(file);
    puts("ok");
    return 0;
}
