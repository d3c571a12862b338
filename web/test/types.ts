// Compiled by `tsc`, never run: what a user of the types writes, and what they forbid.
import { TraFlow, TraFlowError, detect, type Picture, type Variant } from "traflow";

export async function draw(file: ArrayBuffer, canvas: HTMLCanvasElement): Promise<string> {
  const variant: Variant = detect();
  const model = await TraFlow.load(file, { variant });
  const picture: Picture = model.generate({ seed: 7n, steps: model.steps[0], class: null });
  canvas.getContext("2d")?.putImageData(new ImageData(picture.pixels, picture.width), 0, 0);
  model.generate({ seeds: [1, 2, 3n, 4], at: [128, 0], steps: 1 });
  // @ts-expect-error Four seeds.
  model.generate({ seeds: [1, 2, 3], at: [128, 0] });
  const numbers: Float32Array = model.floats({ seed: 7 });
  // @ts-expect-error A seed is a number.
  model.generate({ seed: "7" });
  // @ts-expect-error Models are loaded.
  new TraFlow();
  // @ts-expect-error Sizes are the file's.
  model.width = numbers.length;
  return picture.digest;
}

export const kind = (error: unknown) => (error instanceof TraFlowError ? error.code : undefined);
