/*
 * TraFlow: draws pictures with a model file.
 *
 *     traflow model;                                    // no allocation: memory is the caller's
 *     traflow_open(&model, file, file_bytes);           // checks the whole file
 *     traflow_set_arena(&model, arena, arena_bytes);    // of traflow_arena_bytes(&model)
 *     traflow_generate(&model, seed, steps, pixels, sizeof pixels);
 *
 * Each returns TRAFLOW_STATUS_OK, or a code; then traflow_message(&model) says what is wrong.
 * This file is made by cbindgen: see cbindgen.toml.
 */

#ifndef TRAFLOW_H
#define TRAFLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Words of a handle.
#define TRAFLOW_WORDS 64

// What became of a call. traflow_message() says more.
typedef enum traflow_status {
  // It is done.
  TRAFLOW_STATUS_OK = 0,
  // A pointer is null or not aligned as its type, or two buffers overlap.
  TRAFLOW_STATUS_POINTER = 1,
  // No file was opened with this handle.
  TRAFLOW_STATUS_CLOSED = 2,
  // The file is not a model file, or damaged.
  TRAFLOW_STATUS_FILE = 3,
  // This kind of file is not for this call, or not for this build of the library.
  TRAFLOW_STATUS_KIND = 4,
  // There is no arena, or it is too small.
  TRAFLOW_STATUS_ARENA = 5,
  // The file has no schedule of so many steps.
  TRAFLOW_STATUS_STEPS = 6,
  // The file does not have this class.
  TRAFLOW_STATUS_CLASS = 7,
  // A buffer is too short for the picture.
  TRAFLOW_STATUS_ROOM = 8,
  // A node of the self-test gives something else than the file says.
  TRAFLOW_STATUS_SELF_TEST = 9,
} traflow_status;

// A model that was opened. It is memory of the caller, whose contents are this library's own; it needs no closing. One
// thread at a time may use it; several handles may share a file.
typedef struct traflow {
  uint64_t opaque[TRAFLOW_WORDS];
} traflow;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Opens a model file that is in memory, and checks all of it: this takes a few milliseconds where the network has
// some hundred nodes. The file must lie at a multiple of 4, better of 64, apart from the handle, and stay unchanged for as
// long as the model is used. After a failure traflow_message()
// says what is wrong with it.
//
// # Safety
// `model` is null or a `traflow` that can be written; `file` is null or so many bytes that can be read.
enum traflow_status traflow_open(struct traflow *model,
                                 const uint8_t *file,
                                 size_t bytes);

// What went wrong in the last call with this model: English text that ends with a zero byte, empty where nothing did.
// It is there until the next call.
//
// # Safety
// `model` is null or a `traflow` that was zeroed or opened.
const char *traflow_message(const struct traflow *model);

// Columns of a picture; 0 where no file was opened, like the following numbers.
//
// # Safety
// As traflow_message().
uint32_t traflow_width(const struct traflow *model);

// Rows of a picture.
//
// # Safety
// As traflow_message().
uint32_t traflow_height(const struct traflow *model);

// Channels of a picture: 1 is gray, 3 are red, green and blue.
//
// # Safety
// As traflow_message().
uint32_t traflow_channels(const struct traflow *model);

// Classes that a picture can be asked for.
//
// # Safety
// As traflow_message().
uint32_t traflow_classes(const struct traflow *model);

// The numbers of steps that the file has schedules for, by index from 0 and in increasing order; after the last comes 0.
//
// # Safety
// As traflow_message().
uint32_t traflow_steps(const struct traflow *model,
                       uint32_t index);

// Whether the file is of integers, so that its pictures are the same on every machine.
//
// # Safety
// As traflow_message().
bool traflow_is_integer(const struct traflow *model);

// Bytes of an arena that suffice at any address.
//
// # Safety
// As traflow_message().
size_t traflow_arena_bytes(const struct traflow *model);

// Gives memory to run in. Between calls the caller may use it for something else.
//
// # Safety
// `model` is null or a `traflow` that was zeroed or opened; `arena` is null or so many bytes that can be read and
// written during every call with this model.
enum traflow_status traflow_set_arena(struct traflow *model, uint8_t *arena, size_t bytes);

// Chooses the class of the following pictures, counted from 0; -1 asks for none in particular, as it is at first.
//
// # Safety
// As traflow_message().
enum traflow_status traflow_set_class(struct traflow *model, int32_t class_);

// Makes the picture of a seed, as height · width · channels bytes by row, column and channel.
//
// # Safety
// `model` is null or a `traflow` that was zeroed or opened; `pixels` is null or so many bytes that can be written; the
// arena is as traflow_set_arena() says.
enum traflow_status traflow_generate(struct traflow *model,
                                     uint64_t seed,
                                     uint32_t steps,
                                     uint8_t *pixels,
                                     size_t bytes);

// Makes the picture of a point in a square that has seeds at its corners: upper left, upper right, lower left and lower
// right. `x` and `y` are its distances from the left and from above, from 0 to 256. The bytes are those of
// traflow_generate().
//
// # Safety
// As traflow_generate(); `seeds` is null or four numbers that can be read.
enum traflow_status traflow_generate_between(struct traflow *model,
                                             const uint64_t *seeds,
                                             uint32_t x,
                                             uint32_t y,
                                             uint32_t steps,
                                             uint8_t *pixels,
                                             size_t bytes);

// Makes the picture of a seed, as channels · height · width numbers by channel, row and column, about in [-1, 1] and
// not clamped. A library that was built without the feature `float` does not have this function.
//
// # Safety
// As traflow_generate(), for so many numbers.
enum traflow_status traflow_generate_floats(struct traflow *model,
                                            uint64_t seed,
                                            uint32_t steps,
                                            float *image,
                                            size_t count);

// Runs the self-test of a file of integers: every node computes what the file expects.
//
// # Safety
// `model` is null or a `traflow` that was zeroed or opened; the arena is as traflow_set_arena() says.
enum traflow_status traflow_self_test(struct traflow *model);

// Writes the SHA-256 of bytes as 64 hexadecimal digits and a zero byte: of a picture's bytes it is what
// `traflow-run --digest` prints.
//
// # Safety
// `data` is null or so many bytes that can be read; `text` is null or 65 bytes that can be written, elsewhere.
enum traflow_status traflow_digest(const uint8_t *data, size_t bytes, char *text);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TRAFLOW_H */
