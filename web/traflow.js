/**
 * Draws pictures from seeds with TraFlow model files.
 *
 * The border is that of C (`capi/traflow.h`). Every model has an instance of the WebAssembly module to itself, whose memory
 * holds, from the first page that the program does not use: the handle, the file, the arena, and a picture. So there is no
 * allocator, and a model that nobody refers to any more is collected as a whole.
 */

const PAGE = 65536;
const HANDLE_BYTES = 512; // 8 · TRAFLOW_WORDS
const TEXT_BYTES = 128; // a digest with its zero byte, or four seeds
const CODES = ["ok", "pointer", "closed", "file", "kind", "arena", "steps", "class", "room", "self-test"];

/** A module with one function, which makes a vector: only engines with simd128 take it. */
const SIMD128 = Uint8Array.of(
  ...[0, 97, 115, 109, 1, 0, 0, 0], // \0asm, version 1
  ...[1, 5, 1, 96, 0, 1, 123], // a type: () → v128
  ...[3, 2, 1, 0], // a function of that type:
  ...[10, 8, 1, 6, 0, 65, 0, 253, 15, 11], // i32.const 0, i8x16.splat
);

/** What this engine can run best. */
export function detect() {
  return WebAssembly.validate(SIMD128) ? "simd128" : "scalar";
}

/** A model or a call that cannot be used; the message says why, and `code` which kind of reason it is. */
export class TraFlowError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "TraFlowError";
    this.code = code;
  }
}

/** The modules of this page, compiled once: by name, promises of them. */
const modules = new Map();

function packaged(variant) {
  if (!modules.has(variant)) {
    const promise = read(new URL(`./traflow-${variant}.wasm`, import.meta.url)).then((bytes) => WebAssembly.compile(bytes));
    // A failure is not kept: the next call tries again.
    promise.catch(() => modules.delete(variant));
    modules.set(variant, promise);
  }
  return modules.get(variant);
}

async function read(url) {
  if (url.protocol === "file:" && typeof process === "object") {
    const { readFile } = await import("node:fs/promises");
    return readFile(url);
  }
  const response = await fetch(url);
  if (!response.ok) {
    throw new TraFlowError("fetch", `${url}: ${response.status} ${response.statusText}`);
  }
  return response.arrayBuffer();
}

/** A model file, and memory to run it in. */
export class TraFlow {
  #exports;
  #handle;
  #output;

  /**
   * Checks the bytes of a model file.
   *
   * `wasm` is one of the package's modules, compiled or as bytes, for pages that have it from elsewhere; else `variant`,
   * or what `detect()` says, is fetched from beside this file.
   */
  static async load(bytes, { variant = detect(), wasm } = {}) {
    const file = ArrayBuffer.isView(bytes)
      ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      : new Uint8Array(bytes);
    const module = await (wasm ?? packaged(variant));
    const compiled = module instanceof WebAssembly.Module ? module : await WebAssembly.compile(module);
    const model = new TraFlow();
    model.#open(await WebAssembly.instantiate(compiled, {}), file);
    model.variant = variant;
    return Object.freeze(model);
  }

  #open(instance, file) {
    const exports = (this.#exports = instance.exports);
    this.#handle = this.#grow(HANDLE_BYTES + TEXT_BYTES + file.length);
    const at = this.#handle + HANDLE_BYTES + TEXT_BYTES;
    new Uint8Array(exports.memory.buffer, at, file.length).set(file);
    this.#check(exports.traflow_open(this.#handle, at, file.length));

    this.width = exports.traflow_width(this.#handle);
    this.height = exports.traflow_height(this.#handle);
    this.channels = exports.traflow_channels(this.#handle);
    this.classes = exports.traflow_classes(this.#handle);
    this.integer = exports.traflow_is_integer(this.#handle) !== 0;
    this.arenaBytes = exports.traflow_arena_bytes(this.#handle) >>> 0;
    const steps = [];
    for (let count; (count = exports.traflow_steps(this.#handle, steps.length)) !== 0; ) {
      steps.push(count);
    }
    this.steps = Object.freeze(steps);

    const arena = this.#grow(this.arenaBytes + 4 + 4 * this.#elements);
    // Without a sign, as addresses are.
    this.#output = ((arena + this.arenaBytes + 3) & ~3) >>> 0;
    this.#check(exports.traflow_set_arena(this.#handle, arena, this.arenaBytes));
  }

  get #elements() {
    return this.width * this.height * this.channels;
  }

  /** The address of new memory. */
  #grow(bytes) {
    try {
      return this.#exports.memory.grow(Math.ceil(bytes / PAGE)) * PAGE;
    } catch {
      throw new TraFlowError("memory", `the model needs ${bytes} bytes, which this page does not get`);
    }
  }

  #text(address) {
    const bytes = new Uint8Array(this.#exports.memory.buffer, address >>> 0);
    return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
  }

  #check(status) {
    if (status !== 0) {
      throw new TraFlowError(CODES[status] ?? "unknown", this.#text(this.#exports.traflow_message(this.#handle)));
    }
  }

  /** Calls what makes a picture. */
  #run(name, source, { steps = this.steps[0], class: chosen = null }) {
    const exports = this.#exports;
    this.#check(exports.traflow_set_class(this.#handle, chosen === null ? -1 : whole("class", chosen, 0x7fffffff)));
    const wanted = whole("steps", steps, 0xffffffff);
    this.#check(exports[name](this.#handle, ...source, wanted, this.#output, this.#elements));
  }

  /**
   * Makes the picture of a seed: pixels as `ImageData` takes them, and the SHA-256 of the picture's own bytes, which is what
   * `traflow-run --digest` prints. Where the file is of integers it is the same on every machine.
   *
   * With four `seeds`, at the corners of a square row by row, it is the picture of the point `at` in that square: its
   * distances from the left and from above, 0 to 256.
   */
  generate(request = {}) {
    const { memory, traflow_digest: digest } = this.#exports;
    const text = this.#handle + HANDLE_BYTES;
    if (request.seeds === undefined) {
      this.#run("traflow_generate", [seedOf(request.seed ?? 0n)], request);
    } else {
      const seeds = Array.from(request.seeds, seedOf);
      const at = Array.from(request.at ?? [], (place) => whole("at", place, 256));
      if (seeds.length !== 4 || at.length !== 2) {
        throw new TraFlowError("seed", "a point between seeds has four of them, and two places");
      }
      new BigUint64Array(memory.buffer, text, 4).set(seeds);
      this.#run("traflow_generate_between", [text, ...at], request);
    }
    const picture = new Uint8Array(memory.buffer, this.#output, this.#elements);
    this.#check(digest(this.#output, picture.length, text));
    const { width, height, channels } = this;
    const pixels = new Uint8ClampedArray(4 * width * height);
    for (let pixel = 0; pixel < width * height; pixel++) {
      for (let color = 0; color < 3; color++) {
        pixels[4 * pixel + color] = picture[channels * pixel + Math.min(color, channels - 1)];
      }
      pixels[4 * pixel + 3] = 255;
    }
    return { width, height, channels, pixels, digest: this.#text(text) };
  }

  /** Makes the picture of a seed as numbers by channel, row and column, about in [-1, 1] and not clamped. */
  floats(request = {}) {
    if (request.seeds) throw new TypeError("floats makes the picture of a seed, not of a point between seeds");
    this.#run("traflow_generate_floats", [seedOf(request.seed ?? 0n)], request);
    return new Float32Array(this.#exports.memory.buffer, this.#output, this.#elements).slice();
  }

  /** Compares what every node of a file of integers computes with what the file expects; throws where it differs. */
  selfTest() {
    this.#check(this.#exports.traflow_self_test(this.#handle));
  }
}

function whole(name, number, most) {
  if (!Number.isInteger(number) || number < 0 || number > most) {
    throw new TraFlowError(name, `${name} is ${number}, and not a whole number from 0 to ${most}`);
  }
  return number;
}

function seedOf(seed) {
  const big = typeof seed === "bigint" ? seed : Number.isSafeInteger(seed) ? BigInt(seed) : -1n;
  if (big !== BigInt.asUintN(64, big)) {
    throw new TraFlowError("seed", `the seed is ${seed}, and not a whole number from 0 to 2^64 - 1 (beyond 2^53 a BigInt)`);
  }
  return big;
}
