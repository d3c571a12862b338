// The playground in Chromium, from a disk and from a server, as a desktop and a phone show it. Pictures of the screen go to
// the folder that SCREENSHOTS names.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

import { CHROMIUM, change, digests, drawn, playground, root } from "./common.js";

const model = (name) => `web/dist/models/${name}.traflow`;
const DESKTOP = { viewport: { width: 1200, height: 900 } };
const PHONE = { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true };
const TYPES = { html: "text/html", js: "text/javascript", css: "text/css" };

let browser;
let server;
let addresses;

before(async () => {
  server = createServer(async (request, response) => {
    const name = request.url === "/" ? "index.html" : request.url.slice(1).split("?")[0];
    try {
      const body = await readFile(new URL(name, playground));
      response.writeHead(200, { "content-type": TYPES[name.split(".").pop()] }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  addresses = { disk: new URL("index.html", playground).href, server: `http://localhost:${server.address().port}/` };
  browser = await chromium.launch(CHROMIUM);
});

after(async () => {
  await browser?.close();
  server?.close();
});

/** A page that is ready. Whatever goes wrong in it fails the test, at its end. */
async function open(address, options, work) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  const problems = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  await page.goto(address);
  await drawn(page);
  await work(page);
  assert.deepEqual(problems, []);
  await context.close();
}

const digest = (page) => page.textContent("#digest");

async function picture(page, name) {
  if (process.env.SCREENSHOTS) {
    await page.screenshot({ path: join(process.env.SCREENSHOTS, `${name}.png`), fullPage: true });
  }
}

for (const place of ["disk", "server"]) {
  for (const [device, options] of Object.entries({ desktop: DESKTOP, phone: PHONE })) {
    test(`${place}, ${device}: seeds, steps, models and grids`, async () => {
      await open(addresses[place], options, async (page) => {
        const press = (selector) => (options.hasTouch ? page.tap(selector) : page.click(selector));
        const seeds = digests(model("fashion-int8"), { seed: 7, steps: 1, count: 36 });
        await change(page, () => page.selectOption("#model", "fashion-int8"));
        assert.equal(await digest(page), seeds[0]);
        assert.equal(await page.textContent("#kernels"), "simd128");
        assert.match(await page.textContent("#time"), /^\d+\.\d ms$/);
        assert.match(await page.textContent("#command"), /^traflow-run fashion-int8.traflow --seed 7 --steps 1 --digest$/);
        await picture(page, `${place}-${device}`);

        await change(page, () => press("#next"));
        assert.equal(await digest(page), seeds[1]);
        await press("#grid button:nth-child(5)");
        assert.equal(await digest(page), seeds[5]);
        assert.equal(await page.getAttribute("#grid button:nth-child(5)", "aria-pressed"), "true");

        await change(page, () => press("#steps label:nth-child(3)"));
        assert.equal(await digest(page), digests(model("fashion-int8"), { seed: 8, steps: 4 })[0]);
        await change(page, () => press("#count label:nth-child(1)"));
        assert.equal(await page.locator("#grid button").count(), 16);

        await press("#pad");
        await page.waitForFunction(() => document.getElementById("mixed-command").textContent.match(/@12[789],12[789] /));
        const { x, y, width, height } = await page.locator("#pad").boundingBox();
        if (!options.hasTouch) {
          await page.mouse.move(x + width / 2, y + height / 2);
          await page.mouse.down();
          await page.mouse.move(x + width / 4, y + height / 8, { steps: 5 });
          await page.mouse.up();
        } else {
          await page.touchscreen.tap(x + width / 4, y + height / 8);
        }
        await page.waitForFunction(() => /@6[345],3[123]/.test(document.getElementById("mixed-command").textContent));
        const command = (await page.textContent("#mixed-command")).split(" ");
        assert.equal(await page.textContent("#mixed-digest"), digests(model("fashion-int8"), { seed: command[3], steps: 4 })[0]);
        await page.evaluate(() => scrollTo(0, 0));

        const last = "18446744073709551615";
        await change(page, () => page.fill("#seed", last));
        assert.equal(await digest(page), digests(model("fashion-int8"), { seed: last, steps: 4 })[0]);
        await change(page, () => press("#next"));
        assert.equal(await page.inputValue("#seed"), "0");
        await change(page, () => press("#random"));

        await change(page, () => page.selectOption("#model", "fashion-fp16"));
        const seed = await page.inputValue("#seed");
        assert.equal(await digest(page), digests(model("fashion-fp16"), { seed, steps: 4 })[0]);

        const inside = await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
        assert.ok(inside, "the page is wider than the screen");
        const small = await page.evaluate(() =>
          Array.from(document.querySelectorAll("form button, form select, form label.button, .segments label"))
            .filter((element) => element.offsetParent && element.getBoundingClientRect().height < 44)
            .map((element) => element.textContent),
        );
        assert.deepEqual(small, [], "too small for a finger");
      });
    });
  }
}

test("a wrong seed and a wrong file are one clear line, and what was drawn stays", async () => {
  await open(addresses.disk, DESKTOP, async (page) => {
    const before = await digest(page);
    for (const wrong of ["", "-1", "x", "1.5", "18446744073709551616"]) {
      await page.fill("#seed", wrong);
      assert.match(await page.textContent("#message"), /^A seed is a whole number/);
      assert.equal(await page.getAttribute("#seed", "aria-invalid"), "true");
    }
    await change(page, () => page.fill("#seed", "7"));
    assert.equal(await page.textContent("#message"), "");
    const wrong = { name: "cat.traflow", mimeType: "application/octet-stream", buffer: Buffer.from("meow".repeat(100)) };
    await page.setInputFiles("#file", wrong);
    await page.waitForFunction(() => document.getElementById("message").textContent !== "");
    assert.match(await page.textContent("#message"), /^cat\.traflow: the file: it is not a TraFlow model file$/);
    assert.equal(await digest(page), before);
  });
});

test("a file of one's own, opened and dropped", async () => {
  await open(addresses.disk, DESKTOP, async (page) => {
    const path = "tests/golden/colour-int8-v3.traflow";
    await change(page, () => page.setInputFiles("#file", fileURLToPath(new URL(path, root))));
    assert.equal(await digest(page), digests(path, { seed: 7, steps: 1 })[0]);

    const other = "tests/golden/gray-int8-v3.traflow";
    const content = (await readFile(new URL(other, root))).toString("base64");
    const transfer = await page.evaluateHandle((text) => {
      const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], "mine.traflow"));
      return transfer;
    }, content);
    await page.dispatchEvent("body", "dragenter", { dataTransfer: transfer });
    assert.ok(await page.isVisible("#drop"));
    await change(page, () => page.dispatchEvent("body", "drop", { dataTransfer: transfer }));
    assert.ok(!(await page.isVisible("#drop")));
    assert.equal(await digest(page), digests(other, { seed: 7, steps: 1 })[0]);
    assert.match(await page.textContent("#command"), /mine\.traflow/);
  });
});

test("without simd128 the pictures are the same; in the dark; by keyboard", async () => {
  const options = { ...DESKTOP, colorScheme: "dark" };
  await open(`${addresses.disk}?kernels=scalar`, options, async (page) => {
    assert.equal(await page.textContent("#kernels"), "scalar");
    await change(page, () => page.selectOption("#model", "fashion-int8"));
    assert.equal(await digest(page), digests(model("fashion-int8"), { seed: 7, steps: 1 })[0]);
    await page.focus("#steps input");
    await change(page, () => page.keyboard.press("ArrowRight"));
    assert.equal(await digest(page), digests(model("fashion-int8"), { seed: 7, steps: 2 })[0]);
    await picture(page, "dark");
  });
});
