// The package in Node: both modules, and what is wrong with files and calls.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

import { TraFlow, TraFlowError, detect } from "../traflow.js";
import { MODELS, bytes, digests } from "./common.js";

const VARIANTS = ["scalar", "simd128"];

/** Expects an error of a kind, and that its message says this. */
const fails = (code, message) => (error) => {
  assert.ok(error instanceof TraFlowError, String(error));
  assert.equal(error.code, code);
  assert.match(error.message, message);
  return true;
};

for (const variant of VARIANTS) {
  test(`${variant}: pictures have the digests of traflow-run`, async () => {
    for (const path of MODELS) {
      const model = await TraFlow.load(bytes(path), { variant });
      assert.equal(model.variant, variant);
      for (const steps of model.steps) {
        for (const seed of [0n, 7n, (1n << 64n) - 1n]) {
          const picture = model.generate({ seed, steps });
          assert.equal(picture.digest, digests(path, { seed, steps })[0], `${path}, seed ${seed}, ${steps} steps`);
        }
      }
    }
  });

  test(`${variant}: a file of integers tests itself`, async () => {
    for (const path of MODELS) {
      const model = await TraFlow.load(bytes(path), { variant });
      assert.equal(model.integer, path.includes("int8"));
      if (model.integer) {
        model.selfTest();
      } else {
        assert.throws(() => model.selfTest(), fails("kind", /integers/));
      }
    }
  });
}

test("a class has the digest of traflow-run, and is chosen for one picture alone", async () => {
  const path = "tests/golden/tiny-v4.traflow";
  const model = await TraFlow.load(bytes(path));
  const drawn = new Set();
  for (const chosen of [2, null, 0, 1]) {
    const picture = model.generate({ seed: 7, class: chosen });
    assert.equal(picture.digest, digests(path, { seed: 7, steps: model.steps[0], class: chosen })[0]);
    drawn.add(picture.digest);
  }
  assert.equal(drawn.size, model.classes + 1);
  assert.equal(model.generate({ seed: 7 }).digest, model.generate({ seed: 7, class: null }).digest);
});

test("a point between seeds has the digest of traflow-run, and a corner is its seed", async () => {
  for (const path of MODELS) {
    const model = await TraFlow.load(bytes(path));
    const seeds = [7n, 8, (1n << 64n) - 1n, 10];
    for (const at of [[0, 0], [256, 0], [0, 256], [256, 256], [128, 128], [3, 250]]) {
      const expected = digests(path, { seed: `${seeds}@${at}`, steps: model.steps[0] })[0];
      assert.equal(model.generate({ seeds, at }).digest, expected);
    }
    assert.equal(model.generate({ seeds, at: [256, 0] }).digest, model.generate({ seed: 8 }).digest);
    assert.throws(() => model.generate({ seeds: [1, 2, 3], at: [0, 0] }), fails("seed", /four/));
    assert.throws(() => model.generate({ seeds, at: [0] }), fails("seed", /two/));
    assert.throws(() => model.generate({ seeds, at: [0, 257] }), fails("at", /256/));
    assert.throws(() => model.generate({ seeds: [1, 2, 3, -4], at: [0, 0] }), fails("seed", /-4/));
  }
});

test("this engine has simd128, and an engine's own choice is the same", async () => {
  assert.equal(detect(), "simd128");
  assert.equal((await TraFlow.load(bytes(MODELS[0]))).variant, "simd128");
});

test("pixels are RGBA of the picture, and numbers fit to them", async () => {
  for (const path of MODELS) {
    const model = await TraFlow.load(bytes(path));
    const { width, height, channels, pixels } = model.generate({ seed: 3 });
    const numbers = model.floats({ seed: 3 });
    assert.ok(pixels instanceof Uint8ClampedArray);
    assert.equal(pixels.length, 4 * width * height);
    assert.equal(numbers.length, width * height * channels);
    for (let pixel = 0; pixel < width * height; pixel++) {
      for (let color = 0; color < 3; color++) {
        const number = numbers[Math.min(color, channels - 1) * width * height + pixel];
        const byte = Math.min(255, Math.max(0, Math.floor(number * 127.5 + 128)));
        assert.ok(Math.abs(byte - pixels[4 * pixel + color]) <= 1);
      }
      assert.equal(pixels[4 * pixel + 3], 255);
    }
    assert.ok(new Set(pixels).size > 8, "a picture without content");
  }
});

test("a picture depends on nothing that was drawn before, and models do not share memory", async () => {
  const [a, b] = await Promise.all([0, 1].map((index) => TraFlow.load(bytes(MODELS[index]))));
  const first = [a, b].map((model) => model.generate({ seed: 1 }).digest);
  b.generate({ seed: 2 });
  assert.deepEqual([a, b].map((model) => model.generate({ seed: 1 }).digest), first);
});

test("bytes at any address, as an ArrayBuffer or a part of one", async () => {
  const file = bytes(MODELS[0]);
  const larger = new Uint8Array(file.length + 3);
  larger.set(file, 3);
  const expected = (await TraFlow.load(file)).generate().digest;
  for (const given of [file.slice().buffer, larger.subarray(3), new DataView(larger.buffer, 3)]) {
    assert.equal((await TraFlow.load(given)).generate().digest, expected);
  }
});

test("a module from elsewhere, as bytes or compiled", async () => {
  const wasm = readFileSync(new URL("../traflow-scalar.wasm", import.meta.url));
  for (const given of [wasm, await WebAssembly.compile(wasm), WebAssembly.compile(wasm)]) {
    await TraFlow.load(bytes(MODELS[0]), { wasm: given, variant: "scalar" });
  }
});

test("requests that do not fit", async () => {
  const model = await TraFlow.load(bytes(MODELS[0]));
  for (const seed of [-1, 1.5, 2 ** 60, -1n, 1n << 64n, "7", Number.NaN]) {
    assert.throws(() => model.generate({ seed }), fails("seed", /the seed is/));
  }
  for (const steps of [0, 3, 4096]) {
    assert.throws(() => model.generate({ steps }), fails("steps", new RegExp(`no schedule of ${steps} steps`)));
  }
  for (const steps of [-1, 0.5, "1", Number.NaN]) {
    assert.throws(() => model.generate({ steps }), fails("steps", /steps is/));
  }
  assert.throws(() => model.generate({ class: 0 }), fails("class", /0 classes/));
  assert.throws(() => model.generate({ class: -1 }), fails("class", /class is -1/));
  model.generate({ class: null, seed: Number.MAX_SAFE_INTEGER });
});

for (const variant of VARIANTS) {
  test(`${variant}: hostile files are errors`, async () => {
    for (const path of MODELS.slice(0, 3)) {
      const file = bytes(path);
      const load = (given) => TraFlow.load(given, { variant });
      await assert.rejects(load(new Uint8Array()), fails("file", /not a TraFlow model file/));
      await assert.rejects(load(new Uint8Array(1000)), fails("file", /not a TraFlow model file/));
      for (let length = 1; length < file.length; length = length * 2 + 1) {
        await assert.rejects(load(file.subarray(0, length)), fails("file", /the file: /));
      }
      await assert.rejects(load(new Uint8Array([...file, 0])), fails("file", /bytes/));
      for (let index = 0; index < file.length; index += 1 + (index >> 1)) {
        const changed = file.slice();
        changed[index] ^= 1;
        await assert.rejects(load(changed), fails("file", /the file: /));
      }

    }
  });
}

test("the modules are at most 100 KB gzipped", () => {
  for (const variant of VARIANTS) {
    const size = gzipSync(readFileSync(new URL(`../traflow-${variant}.wasm`, import.meta.url)), { level: 9 }).length;
    assert.ok(size <= 100_000, `traflow-${variant}.wasm has ${size} bytes gzipped`);
  }
});
