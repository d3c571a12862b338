/** What this engine can run best. */
export function detect(): Variant;

/** How the package's modules were compiled. */
export type Variant = "simd128" | "scalar";

/** Which kind of reason an error has; `memory`, `fetch`, `seed` and `at` are of this package, the others of `traflow.h`. */
export type Code =
  | "pointer" | "closed" | "file" | "kind" | "arena" | "steps" | "class" | "room" | "self-test"
  | "memory" | "fetch" | "seed" | "at" | "unknown";

/** A model or a call that cannot be used; the message says why. */
export class TraFlowError extends Error {
  readonly code: Code;
}

/** From 0 to 2^64 - 1; beyond 2^53 - 1 a BigInt. */
export type Seed = bigint | number;

export interface Request {
  /** 0 if it is left out. */
  seed?: Seed;
  /** One of the model's `steps`; the first of them if it is left out. */
  steps?: number;
  /** From 0 to `classes` - 1; none in particular if it is left out. */
  class?: number | null;
}

/** A point in a square that has seeds at its corners. */
export interface Between extends Omit<Request, "seed"> {
  /** Upper left, upper right, lower left, lower right. */
  seeds: readonly [Seed, Seed, Seed, Seed];
  /** Distances from the left and from above, whole numbers from 0 to 256. */
  at: readonly [number, number];
}

export interface Picture {
  readonly width: number;
  readonly height: number;
  /** 1 is gray; its `pixels` are RGBA all the same. */
  readonly channels: number;
  /** RGBA, as `new ImageData(pixels, width)` takes them. */
  readonly pixels: Uint8ClampedArray<ArrayBuffer>;
  /** SHA-256 of the picture's bytes by row, column and channel. */
  readonly digest: string;
}

export interface Options {
  /** Which module to fetch from beside `traflow.js`; what `detect()` says if it is left out. */
  variant?: Variant;
  /** One of the package's modules, compiled or as bytes, instead of fetching it. */
  wasm?: WebAssembly.Module | BufferSource | Promise<WebAssembly.Module | BufferSource>;
}

/** A model file, and memory to run it in. */
export class TraFlow {
  private constructor();

  /** Checks the bytes of a model file. */
  static load(bytes: ArrayBuffer | ArrayBufferView, options?: Options): Promise<TraFlow>;

  readonly width: number;
  readonly height: number;
  readonly channels: number;
  /** Classes that a picture can be asked for. */
  readonly classes: number;
  /** The numbers of steps that the file offers, in increasing order. */
  readonly steps: readonly number[];
  /** Whether the file is of integers: then its pictures are the same on every machine. */
  readonly integer: boolean;
  readonly arenaBytes: number;
  readonly variant: Variant;

  /** Makes the picture of a seed, or of a point between seeds. */
  generate(request?: Request | Between): Picture;
  /** The same as numbers `[channels, height, width]`, about in [-1, 1] and not clamped. */
  floats(request?: Request): Float32Array;
  /** Compares what every node of a file of integers computes with what the file expects; throws where it differs. */
  selfTest(): void;
}
