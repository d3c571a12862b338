import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

export const root = new URL("../../", import.meta.url);
export const programs = new URL(`${process.env.TRAFLOW_PROGRAMS ?? "target/debug"}/`, root);

/** Two files of integers, one of floating point that has classes, and models of the playground: `web/build playground` has made them. */
export const MODELS = [
  "tests/golden/gray-int8-v3.traflow",
  "tests/golden/colour-int8-v3.traflow",
  "tests/golden/tiny-v4.traflow",
  "web/dist/models/fashion-int8.traflow",
  "web/dist/models/fashion-fp16.traflow",
];

export const bytes = (path) => new Uint8Array(readFileSync(new URL(path, root)));

/**
 * What traflow-run gives. For files of floating point in plain Rust: it rounds as WebAssembly does, which has no fused
 * multiply-add; those of integers do not depend on it.
 */
export function digests(path, { seed, steps, count = 1, class: chosen = null }) {
  const options = ["--seed", String(seed), "--steps", String(steps), "--count", String(count), "--digest", "--json"];
  if (chosen !== null) options.push("--class", String(chosen));
  const program = fileURLToPath(new URL("traflow-run", programs));
  const env = path.includes("int8") ? process.env : { ...process.env, TRAFLOW_ISA: "scalar" };
  return JSON.parse(execFileSync(program, [fileURLToPath(new URL(path, root)), ...options], { env })).digests;
}

/** The playground that `web/build playground` made, and how Chromium is started. */
export const playground = new URL("web/dist/playground/", root);
export const CHROMIUM = {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu"],
};

/** Waits until all pictures are there. */
export async function drawn(page) {
  await page.waitForFunction(() => / pictures, /.test(document.getElementById("rate").textContent));
}

/** Does something that draws anew, and waits for it. */
export async function change(page, work) {
  await page.evaluate(() => (document.getElementById("rate").textContent = ""));
  await work();
  await drawn(page);
}
