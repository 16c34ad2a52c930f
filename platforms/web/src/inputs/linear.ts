/** Bilinear interpolation as OpenCV does it: of 8-bit images in fixed point, of float planes in float. */

import { roundEven } from "../arrays.js";
import type { Pixels } from "./images.js";

/** A part of the scaled image. */
export interface Window {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

/** OpenCV's weights have 11 bits. */
const ONE = 2048;

/** Where `count` of the `fresh` places from `from` on lie between old ones: the one before, and the share of the one behind. */
function places(old: number, fresh: number, from: number, count: number): { before: Int32Array; share: Float32Array } {
  const before = new Int32Array(count);
  const share = new Float32Array(count);
  const scale = 1 / (fresh / old);
  for (let i = 0; i < count; i++) {
    const place = Math.fround((from + i + 0.5) * scale - 0.5);
    before[i] = Math.floor(place);
    share[i] = place - before[i]!;
  }
  return { before, share };
}

/** The value of each grey level in the planes of an input tensor, and where the planes begin: red, green and blue. */
export interface Planes {
  readonly data: Float32Array;
  /** 256 values of red, of green, of blue. */
  readonly values: Float32Array;
  /** Where the plane of each colour begins. */
  readonly starts: readonly [red: number, green: number, blue: number];
  /** Of a row. */
  readonly columns: number;
}

/**
 * A window of an image scaled to `size` (width, height), written into planes from the cell `start` on.
 *
 * Equal to `cv2.resize` on x86, which does not treat its borders alike: beyond the left and right ones it takes the last
 * pixel, beyond the upper and lower ones it interpolates between the last row and itself, and rounds.
 */
export function resizeLinear(image: Pixels, size: readonly [number, number], window: Window, target: Planes, start: number): void {
  const { channels, width, height } = image;
  // One class of arrays: code for two is slower.
  const data = new Uint8Array(image.data.buffer, image.data.byteOffset, image.data.length);
  if (size[0] === width && size[1] === height) {
    copy(data, image, window, target, start);
    return;
  }
  const across = places(width, size[0], window.left, window.width);
  const first = across.before;
  const weights = fixed(across.share);
  for (let i = 0; i < first.length; i++) {
    if (first[i]! < 0) [first[i], weights[i]] = [0, 0];
    else if (first[i]! >= width - 1) [first[i], weights[i]] = width > 1 ? [width - 2, ONE] : [0, 0];
    first[i] = first[i]! * channels;
  }
  const next = width > 1 ? channels : 0;
  const down = places(height, size[1], window.top, window.height);
  const shares = fixed(down.share);
  const row = (number: number): number => Math.min(Math.max(number, 0), height - 1) * width * channels;
  for (let j = 0; j < window.height; j++) {
    const [upper, lower] = [row(down.before[j]!), row(down.before[j]! + 1)];
    interpolate(data, upper, lower, first, weights, next, shares[j]!, target, start + j * target.columns);
  }
}

const fixed = (shares: Float32Array): Int32Array => Int32Array.from(shares, (share) => roundEven(share * ONE));

/** One row between two of the image. All in one loop and without memory between: faster than rows that are kept. */
function interpolate(
  data: Uint8Array, upper: number, lower: number, first: Int32Array, weights: Int32Array, next: number, share: number,
  { data: planes, values, starts }: Planes, start: number,
): void {
  const count = first.length;
  let [red, green, blue] = [starts[0] + start, starts[1] + start, starts[2] + start];
  for (let i = 0; i < count; i++, red++, green++, blue++) {
    const weight = weights[i]!;
    const a = upper + first[i]!;
    const b = a + next;
    const c = lower + first[i]!;
    const d = c + next;
    planes[red] = values[level(between(data[a]!, data[b]!, weight), between(data[c]!, data[d]!, weight), share)]!;
    planes[green] = values[256 + level(between(data[a + 1]!, data[b + 1]!, weight), between(data[c + 1]!, data[d + 1]!, weight), share)]!;
    planes[blue] = values[512 + level(between(data[a + 2]!, data[b + 2]!, weight), between(data[c + 2]!, data[d + 2]!, weight), share)]!;
  }
}

/** Two levels, interpolated across, in 1/128 of a level. */
const between = (one: number, two: number, weight: number): number => ((one << 11) + Math.imul(two - one, weight)) >> 4;

/** Two such sums, interpolated down, as a level. */
const level = (upper: number, lower: number, share: number): number =>
  ((Math.imul(ONE - share, upper) >> 16) + (Math.imul(share, lower) >> 16) + 2) >> 2;

function copy(data: Uint8Array, { width: stride, channels }: Pixels, { left, top, width, height }: Window, target: Planes, start: number): void {
  const { data: planes, values, starts } = target;
  for (let j = 0; j < height; j++) {
    let from = ((top + j) * stride + left) * channels;
    const to = start + j * target.columns;
    for (let i = to; i < to + width; i++, from += channels) {
      planes[starts[0] + i] = values[data[from]!]!;
      planes[starts[1] + i] = values[256 + data[from + 1]!]!;
      planes[starts[2] + i] = values[512 + data[from + 2]!]!;
    }
  }
}

/** A plane of floats. */
export interface Plane {
  readonly data: Float32Array;
  readonly width: number;
  readonly height: number;
}

/** For each new place: the two old ones and their weights; beyond the border the last one alone. */
function axis(old: number, fresh: number) {
  const { before: first, share: after } = places(old, fresh, 0, fresh);
  for (let i = 0; i < fresh; i++) {
    if (first[i]! < 0) [first[i], after[i]] = [0, 0];
    else if (first[i]! >= old - 1) [first[i], after[i]] = [old - 1, 0];
  }
  return { first, second: first.map((place) => Math.min(place + 1, old - 1)), before: after.map((share) => 1 - share), after };
}

/** A part of a plane (all of it by default) scaled to another size, as `cv2.resize` does with floats. */
export function resizePlane(plane: Plane, width: number, height: number, part?: Window): Plane {
  const { left, top, width: columns, height: rows } = part ?? { left: 0, top: 0, width: plane.width, height: plane.height };
  const x = axis(columns, width);
  const y = axis(rows, height);
  const result = new Float32Array(width * height);
  const upper = new Float32Array(width);
  const lower = new Float32Array(width);
  const rowsSeen = [-1, -1];
  const fill = (row: Float32Array, source: number): void => {
    const base = (top + source) * plane.width + left;
    for (let i = 0; i < width; i++) {
      row[i] = plane.data[base + x.first[i]!]! * x.before[i]! + plane.data[base + x.second[i]!]! * x.after[i]!;
    }
  };
  for (let j = 0; j < height; j++) {
    if (rowsSeen[0] !== y.first[j]) fill(upper, (rowsSeen[0] = y.first[j]!));
    if (rowsSeen[1] !== y.second[j]) fill(lower, (rowsSeen[1] = y.second[j]!));
    const a = y.before[j]!;
    const b = y.after[j]!;
    for (let i = 0; i < width; i++) result[j * width + i] = upper[i]! * a + lower[i]! * b;
  }
  return { data: result, width, height };
}
