// Opens a model in the playground, prints the digest of a seed's picture, and keeps a picture of the page:
//   node test/screen.js MODEL SEED OUT.png
import { chromium } from "playwright-core";

import { CHROMIUM, change, drawn, playground } from "./common.js";

const [, , model, seed, out] = process.argv;
const browser = await chromium.launch(CHROMIUM);
try {
  const page = await browser.newPage({ viewport: { width: 900, height: 830 } });
  await page.goto(new URL("index.html", playground).href);
  await drawn(page);
  await change(page, () => page.setInputFiles("#file", model));
  await change(page, () => page.fill("#seed", seed));
  console.log(await page.textContent("#digest"));
  await page.screenshot({ path: out });
} finally {
  await browser.close();
}
