/**
 * How fast the runtime is on WebAssembly: `web/build playground && web/build bench && node web/bench.js`, or with `--write`
 * to put the tables into docs/benchmarks.md.
 */
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";

import { TraFlow } from "./traflow.js";

const VARIANTS = ["scalar", "simd128"];
const here = (path) => new URL(path, import.meta.url);
/** Channels, size, channels of the output, kernel. */
const SHAPES = [
  [64, 16, 64, 1], [128, 16, 128, 1], [256, 16, 256, 1],
  [16, 28, 16, 3], [32, 14, 32, 3], [64, 16, 64, 3], [128, 8, 128, 3],
];

/** The median of the milliseconds that something takes, over a second of both in turns. */
function alternate(works) {
  const times = works.map(() => []);
  works.forEach((work) => work());
  for (const end = performance.now() + 1500; performance.now() < end || times[0].length < 5; ) {
    works.forEach((work, index) => {
      const start = performance.now();
      work();
      times[index].push(performance.now() - start);
    });
  }
  return times.map((list) => list.sort((a, b) => a - b)[list.length >> 1]);
}

const instances = await Promise.all(
  VARIANTS.map(async (variant) => {
    const { instance } = await WebAssembly.instantiate(readFileSync(here(`dist/bench-${variant}.wasm`)), {});
    return instance.exports;
  }),
);

const lines = [];
const peaks = alternate(instances.map((exports) => () => exports.traflow_bench_peak(20_000))).map(
  (ms, index) => instances[index].traflow_bench_peak(20_000) / ms / 1e6,
);
lines.push("| convolution, f32, GMAC/s | scalar | simd128 | × | share of what simd128 can do |", "|---|---|---|---|---|");
lines.push(`| registers alone | ${peaks[0].toFixed(2)} | ${peaks[1].toFixed(2)} | ${(peaks[1] / peaks[0]).toFixed(1)} | |`);
for (const [channels, size, outs, kernel] of SHAPES) {
  const macs = size * size * channels * outs * kernel * kernel;
  const rounds = Math.ceil(20_000_000 / macs);
  const count = size * size * (channels + outs) + channels * outs * kernel * kernel + channels + 64;
  const works = instances.map((exports) => {
    const memory = exports.memory.grow(Math.ceil((4 * count) / 65536)) * 65536;
    return () => {
      if (exports.traflow_bench_conv2d(memory, count, channels, size, outs, kernel, rounds) !== 0) {
        throw new Error("the memory is too small");
      }
    };
  });
  const rates = alternate(works).map((ms) => (macs * rounds) / ms / 1e6);
  const name = kernel === 1 ? `${size * size}×${channels} by ${channels}×${outs}` : `3×3, ${channels}×${size}×${size} → ${outs}`;
  const [scalar, simd] = rates.map((rate) => rate.toFixed(2));
  lines.push(`| ${name} | ${scalar} | ${simd} | ${(rates[1] / rates[0]).toFixed(1)} | ${Math.round((100 * rates[1]) / peaks[1])} % |`);
}

lines.push("", "| a picture in one step, ms | scalar | simd128 | × |", "|---|---|---|---|");
for (const file of readdirSync(here("dist/models/")).filter((name) => name.endsWith(".traflow")).sort()) {
  const models = await Promise.all(VARIANTS.map((variant) => TraFlow.load(readFileSync(here(`dist/models/${file}`)), { variant })));
  const [scalar, simd] = alternate(models.map((model) => () => model.generate({ seed: 7 })));
  lines.push(`| ${file} | ${scalar.toFixed(2)} | ${simd.toFixed(2)} | ${(scalar / simd).toFixed(1)} |`);
}
const machine = `${cpus()[0].model}, one thread, Node ${process.version} (V8 ${process.versions.v8})`;
lines.push("", `Machine: ${machine}, ${new Date().toISOString().slice(0, 10)}.`);
console.log(lines.join("\n"));

if (process.argv.includes("--write")) {
  const page = here("../docs/benchmarks.md");
  const [begin, end] = ["<!-- begin wasm -->\n", "<!-- end wasm -->"];
  const text = readFileSync(page, "utf8");
  const [from, to] = [text.indexOf(begin) + begin.length, text.indexOf(end)];
  if (to < from) {
    throw new Error(`docs/benchmarks.md has no ${begin.trim()} before ${end}`);
  }
  writeFileSync(page, `${text.slice(0, from)}\n${lines.join("\n")}\n\n${text.slice(to)}`);
}
