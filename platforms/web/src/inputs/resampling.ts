/** Bilinear and bicubic resizing as Pillow does it, which averages over all pixels when an image shrinks. */

import type { Pixels } from "./images.js";

type Kernel = "bilinear" | "bicubic";

/** Half the width of each kernel, in pixels of the smaller of the two images. */
const REACH = { bilinear: 1, bicubic: 2 } as const;

/** Pillow's weights are whole multiples of 1 / ONE. */
const ONE = 2 ** 22;

/** For each new place: the first old one, and where its weights begin. */
interface Weights {
  readonly first: Int32Array;
  readonly start: Int32Array;
  readonly values: Float64Array;
}

/** An image in another size (width, height): across first and then down, rounded to whole grey levels in between. */
export function resample(image: Pixels, [width, height]: readonly [number, number], kernel: Kernel): Pixels {
  const narrow = new Uint8Array(3 * width * image.height);
  along(image.data, image.height, image.width * image.channels, image.channels, weights(image.width, width, kernel), narrow, 3 * width, 3);
  const small = new Uint8Array(3 * width * height);
  // The same with rows and columns exchanged.
  along(narrow, width, 3, 3 * width, weights(image.height, height, kernel), small, 3, 3 * width);
  return { data: small, width, height, channels: 3 };
}

function along(
  source: Uint8Array | Uint8ClampedArray, lines: number, lineStep: number, step: number,
  { first, start, values }: Weights, target: Uint8Array, targetLine: number, targetStep: number,
): void {
  for (let line = 0; line < lines; line++) {
    for (let place = 0; place < first.length; place++) {
      let [red, green, blue] = [0, 0, 0];
      let at = line * lineStep + first[place]! * step;
      for (let k = start[place]!; k < start[place + 1]!; k++, at += step) {
        const weight = values[k]!;
        red += source[at]! * weight;
        green += source[at + 1]! * weight;
        blue += source[at + 2]! * weight;
      }
      const to = line * targetLine + place * targetStep;
      target[to] = level(red);
      target[to + 1] = level(green);
      target[to + 2] = level(blue);
    }
  }
}

const level = (sum: number): number => Math.min(Math.max(Math.floor((sum + ONE / 2) / ONE), 0), 255);

/** The kernel is a triangle, or Keys' cubic with a = -0.5 (IEEE Trans. ASSP 29, 1981), cut off at the border. */
function weights(old: number, fresh: number, kernel: Kernel): Weights {
  const reach = REACH[kernel];
  const shape = kernel === "bilinear" ? triangle : cubic;
  const scale = old / fresh;
  const stretch = Math.max(scale, 1);
  const first = new Int32Array(fresh);
  const start = new Int32Array(fresh + 1);
  const all: number[] = [];
  for (let i = 0; i < fresh; i++) {
    const centre = (i + 0.5) * scale;
    const low = Math.max(Math.floor(centre - reach * stretch + 0.5), 0);
    const high = Math.min(Math.floor(centre + reach * stretch + 0.5), old);
    const some: number[] = [];
    let total = 0;
    for (let place = low; place < high; place++) {
      const value = shape((place + 0.5 - centre) / stretch);
      some.push(value);
      total += value;
    }
    first[i] = low;
    for (const value of some) {
      const share = (value / total) * ONE;
      all.push(Math.trunc(share + (share < 0 ? -0.5 : 0.5)));
    }
    start[i + 1] = all.length;
  }
  return { first, start, values: Float64Array.from(all) };
}

const triangle = (x: number): number => Math.max(1 - Math.abs(x), 0);

function cubic(x: number): number {
  const away = Math.abs(x);
  if (away < 1) return (1.5 * away - 2.5) * away * away + 1;
  return away < 2 ? ((-0.5 * away + 2.5) * away - 4) * away + 2 : 0;
}
