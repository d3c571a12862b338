import { TraFlow, TraFlowError, detect } from "../traflow.js";

/** Milliseconds of pictures between two chances for the page to react. */
const SLICE = 24;
const COUNTS = [16, 36, 64];
const MOST = (1n << 64n) - 1n;

const $ = (id) => document.getElementById(id);

/* The models and the WebAssembly lie in scripts, which a page may load from a disk too: each calls `traflowReceive`. */
const assets = new Map();
globalThis.traflowReceive = (name, text) => assets.get(name).resolve(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));

function asset(name) {
  if (!assets.has(name)) {
    const entry = {};
    entry.promise = new Promise((resolve, reject) => {
      entry.resolve = resolve;
      const script = document.createElement("script");
      script.src = `${name}.js`;
      script.onerror = () => {
        assets.delete(name);
        reject(new TraFlowError("fetch", `${script.src} cannot be loaded`));
      };
      document.head.append(script);
    });
    assets.set(name, entry);
  }
  return assets.get(name).promise;
}

const variant = new URLSearchParams(location.search).get("kernels") === "scalar" ? "scalar" : detect();
const wasm = asset(`traflow-${variant}`).then((bytes) => WebAssembly.compile(bytes));

let model; // the one that is shown, and its file's name
let fileName = "";
let loading = 0; // counts choices of a model, so that the last one counts
let drawing = 0; // counts what is drawn, so that a grid stops when it is out of date

function say(error) {
  $("message").textContent = error ? error.message : "";
}

function seed() {
  const text = $("seed").value.trim();
  const valid = /^\d{1,20}$/.test(text) && BigInt(text) <= MOST;
  $("seed").setAttribute("aria-invalid", String(!valid));
  return valid ? BigInt(text) : undefined;
}

function setSeed(value) {
  $("seed").value = String(BigInt.asUintN(64, value));
  draw();
}

const choice = (id) => Number(document.querySelector(`#${id} input:checked`)?.value);

/** Fills a field with numbers of which one is chosen. */
function segments(id, numbers, chosen) {
  const row = document.querySelector(`#${id} .segments`);
  row.replaceChildren(
    ...numbers.map((number) => {
      const label = document.createElement("label");
      const input = Object.assign(document.createElement("input"), { type: "radio", name: id, value: number });
      input.checked = number === chosen;
      label.append(input, String(number));
      return label;
    }),
  );
}

function paint(canvas, picture) {
  if (canvas.width !== picture.width || canvas.height !== picture.height) {
    Object.assign(canvas, { width: picture.width, height: picture.height });
  }
  canvas.getContext("2d").putImageData(new ImageData(picture.pixels, picture.width), 0, 0);
}

function request(source) {
  const chosen = $("class").value;
  return { ...source, steps: choice("steps"), class: chosen === "" ? null : Number(chosen) };
}

/** Makes a picture, shows it, and says what belongs to it in the elements of these names. */
function report(prefix, canvas, source, text) {
  const what = request(source);
  const start = performance.now();
  const picture = model.generate(what);
  const time = performance.now() - start;
  paint(canvas, picture);
  $(`${prefix}time`).textContent = `${time.toFixed(1)} ms`;
  $(`${prefix}digest`).textContent = picture.digest;
  const of = what.class === null ? "" : ` --class ${what.class}`;
  $(`${prefix}command`).textContent = `traflow-run ${fileName} --seed ${text} --steps ${what.steps}${of} --digest`;
}

/** The seeds at the corners of the square. */
const corners = [7n, 11n, 23n, 42n];

function drawCorners() {
  for (const [index, button] of document.querySelectorAll(".corner").entries()) {
    paint(button.firstChild, model.generate(request({ seed: corners[index] })));
    button.lastChild.textContent = corners[index];
  }
}

/** Shows the picture of the point in the square. */
function drawBetween() {
  const at = [Number($("x").value), Number($("y").value)];
  report("mixed-", $("mixed"), { seeds: corners, at }, `${corners.join(",")}@${at.join(",")}`);
  $("dot").style.left = `${(100 * at[0]) / 256}%`;
  $("dot").style.top = `${(100 * at[1]) / 256}%`;
}

let moved = false; // whether the point moved since the last frame
function move(x, y) {
  for (const [id, place] of [["x", x], ["y", y]]) {
    $(id).value = String(Math.round(256 * place));
  }
  if (model && !moved) {
    moved = true;
    requestAnimationFrame(() => {
      moved = false;
      drawBetween();
    });
  }
}

/** Shows a picture large, with all that belongs to it. */
function show(value) {
  report("", $("picture"), { seed: value }, value);
  $("picture").setAttribute("aria-label", `Picture of seed ${value}`);
  for (const button of $("grid").children) {
    button.setAttribute("aria-pressed", String(button.dataset.seed === String(value)));
  }
}

/** Draws everything anew. */
async function draw() {
  const number = ++drawing;
  const first = seed();
  if (!model) {
    return;
  }
  if (first === undefined) {
    return say(new Error("A seed is a whole number from 0 to 2^64 - 1."));
  }
  say();
  const count = choice("count");
  const grid = $("grid");
  grid.style.setProperty("--columns", String(Math.sqrt(count)));
  while (grid.children.length > count) {
    grid.lastChild.remove();
  }
  while (grid.children.length < count) {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.append(document.createElement("canvas"));
    grid.append(button);
  }
  const seeds = Array.from(grid.children, (button, index) => {
    const value = BigInt.asUintN(64, first + BigInt(index));
    button.dataset.seed = String(value);
    button.setAttribute("aria-label", `Seed ${value}`);
    return value;
  });
  try {
    show(first);
    drawCorners();
    drawBetween();
    let spent = 0;
    let slice = performance.now();
    for (const [index, button] of Array.from(grid.children).entries()) {
      const start = performance.now();
      paint(button.firstChild, model.generate(request({ seed: seeds[index] })));
      spent += performance.now() - start;
      if (performance.now() - slice > SLICE) {
        $("rate").textContent = `${index + 1} of ${count} …`;
        await new Promise((resolve) => setTimeout(resolve));
        if (number !== drawing) {
          return;
        }
        slice = performance.now();
      }
    }
    $("rate").textContent = `${count} pictures, ${(spent / count).toFixed(1)} ms each`;
  } catch (error) {
    say(error);
  }
}

/** Takes a model's bytes, which may not be such; says whether no other model was chosen meanwhile. */
async function use(bytes, name) {
  const number = ++loading;
  const loaded = await TraFlow.load(await bytes, { variant, wasm });
  if (number !== loading) {
    return false;
  }
  [model, fileName] = [loaded, name];
  segments("steps", model.steps, model.steps.includes(choice("steps")) ? choice("steps") : model.steps[0]);
  $("class-field").hidden = model.classes === 0;
  $("class").replaceChildren(
    new Option("any", ""),
    ...Array.from({ length: model.classes }, (_, index) => new Option(String(index), String(index))),
  );
  $("kernels").textContent = model.variant;
  $("size").textContent = `${model.width} × ${model.height}`;
  $("promise").textContent = model.integer
    ? "A model of integers: every machine computes this digest."
    : "A model of floating point: another machine may round differently, and have another digest.";
  await draw();
  return true;
}

async function open(file) {
  if (!file) {
    return;
  }
  try {
    if (!(await use(file.arrayBuffer(), file.name))) {
      return;
    }
    // In the list it stands for itself, and can be chosen no second time.
    let option = $("model").querySelector("[value='']");
    if (!option) {
      option = new Option("", "");
      $("model").append(option);
    }
    option.textContent = file.name;
    $("model").value = "";
  } catch (error) {
    say(new Error(`${file.name}: ${error.message}`));
  }
}

async function choose() {
  const name = $("model").value;
  if (!name) {
    return;
  }
  say();
  try {
    await use(asset(`models/${name}`), `${name}.traflow`);
  } catch (error) {
    say(error);
  }
}

segments("count", COUNTS, 36);
for (const { name, title, bytes } of globalThis.traflowCatalogue) {
  $("model").append(new Option(`${title} (${Math.round(bytes / 1000)} KB)`, name));
}
$("controls").addEventListener("submit", (event) => event.preventDefault());
$("model").addEventListener("change", choose);
$("seed").addEventListener("input", draw);
$("previous").addEventListener("click", () => setSeed((seed() ?? 1n) - 1n));
$("next").addEventListener("click", () => setSeed((seed() ?? -1n) + 1n));
$("random").addEventListener("click", () => setSeed(BigInt(crypto.getRandomValues(new Uint32Array(1))[0])));
$("steps").addEventListener("change", draw);
$("count").addEventListener("change", draw);
$("class").addEventListener("change", draw);
$("grid").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) {
    show(BigInt(button.dataset.seed));
  }
});
function drag(event) {
  const { left, top, width, height } = $("pad").getBoundingClientRect();
  move((event.clientX - left) / width, (event.clientY - top) / height); // the sliders clamp
}
$("pad").addEventListener("pointerdown", (event) => {
  $("pad").setPointerCapture(event.pointerId);
  drag(event);
});
$("pad").addEventListener("pointermove", (event) => $("pad").hasPointerCapture(event.pointerId) && drag(event));
$("sliders").addEventListener("input", () => move($("x").value / 256, $("y").value / 256));
for (const [index, button] of document.querySelectorAll(".corner").entries()) {
  button.addEventListener("click", () => {
    corners[index] = BigInt(crypto.getRandomValues(new Uint32Array(1))[0]);
    if (model) {
      drawCorners();
      drawBetween();
    }
  });
}
$("file").addEventListener("change", () => open($("file").files[0]));

let over = 0; // elements that a dragged file has entered and not left
addEventListener("dragenter", () => ($("drop").hidden = ++over === 0));
addEventListener("dragleave", () => ($("drop").hidden = --over === 0));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  over = 0;
  $("drop").hidden = true;
  open(event.dataTransfer.files[0]);
});

choose();
