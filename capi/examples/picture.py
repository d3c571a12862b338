"""Draws a picture from a seed with Python's own ctypes: picture.py LIBRARY MODEL SEED STEPS OUTPUT writes a PGM or PPM
file and prints the picture's digest."""

import ctypes
import sys
from pathlib import Path

WORDS = 64  # TRAFLOW_WORDS


class Model:
    """A model file, and memory to run it in."""

    def __init__(self, library, path):
        self.library = ctypes.CDLL(library)
        self.library.traflow_message.restype = ctypes.c_char_p
        self.library.traflow_arena_bytes.restype = ctypes.c_size_t
        self.library.traflow_is_integer.restype = ctypes.c_bool
        self.handle = (ctypes.c_uint64 * WORDS)()
        data = Path(path).read_bytes()
        # The library reads the file where it lies, for as long as the model is used; words are aligned.
        self.file = (ctypes.c_uint64 * (-(-len(data) // 8)))()
        ctypes.memmove(self.file, data, len(data))
        self.check(self.library.traflow_open(self.handle, self.file, ctypes.c_size_t(len(data))))
        self.width = self.library.traflow_width(self.handle)
        self.height = self.library.traflow_height(self.handle)
        self.channels = self.library.traflow_channels(self.handle)
        bytes = self.library.traflow_arena_bytes(self.handle)
        self.arena = (ctypes.c_uint8 * bytes)()
        self.check(self.library.traflow_set_arena(self.handle, self.arena, ctypes.c_size_t(bytes)))

    def check(self, status):
        if status:
            raise RuntimeError(self.library.traflow_message(self.handle).decode())

    def generate(self, seed, steps):
        """The bytes of a picture, by row, column and channel."""
        count = self.width * self.height * self.channels
        pixels = (ctypes.c_uint8 * count)()
        seed, steps = ctypes.c_uint64(seed), ctypes.c_uint32(steps)
        self.check(self.library.traflow_generate(self.handle, seed, steps, pixels, ctypes.c_size_t(count)))
        return bytes(pixels)

    def digest(self, pixels):
        text = ctypes.create_string_buffer(65)
        self.check(self.library.traflow_digest(pixels, ctypes.c_size_t(len(pixels)), text))
        return text.value.decode()


def main():
    if len(sys.argv) != 6:
        sys.exit("usage: picture.py LIBRARY MODEL SEED STEPS OUTPUT")
    library, path, seed, steps, output = sys.argv[1:]
    try:
        model = Model(library, path)
        pixels = model.generate(int(seed), int(steps))
        kind = 5 if model.channels == 1 else 6
        Path(output).write_bytes(b"P%d\n%d %d\n255\n" % (kind, model.width, model.height) + pixels)
    except (OSError, RuntimeError) as error:
        sys.exit(f"error: {path}: {error}")
    print(model.digest(pixels))


main()
