/** Bilinear interpolation as OpenCV does it: of 8-bit images in fixed point, of float planes in float. */

import type { Pixels } from "./images.js";

/** A part of the scaled image. */
export interface Window {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

/** For each new place: the two old ones (times a step) and their weights. */
interface Axis<W> {
  readonly first: Int32Array;
  readonly second: Int32Array;
  readonly before: W;
  readonly after: W;
}

/** OpenCV's weights have 11 bits. */
const ONE = 2048;

/** `count` of the `fresh` places from `from` on, in floats. */
function axis(old: number, fresh: number, from: number, count: number, step: number): Axis<Float64Array> {
  const [first, second] = [new Int32Array(count), new Int32Array(count)];
  const [before, after] = [new Float64Array(count), new Float64Array(count)];
  const scale = 1 / (fresh / old);
  for (let i = 0; i < count; i++) {
    const place = Math.fround((from + i + 0.5) * scale - 0.5);
    let low = Math.floor(place);
    let share = Math.fround(place - low);
    if (low < 0) [low, share] = [0, 0];
    if (low >= old - 1) [low, share] = [old - 1, 0];
    first[i] = low * step;
    second[i] = Math.min(low + 1, old - 1) * step;
    after[i] = share;
    before[i] = Math.fround(1 - share);
  }
  return { first, second, before, after };
}

/** The same in fixed point. */
function fixed({ first, second, before, after }: Axis<Float64Array>): Axis<Int32Array> {
  const rounded = (weights: Float64Array): Int32Array => Int32Array.from(weights, (weight) => Math.round(weight * ONE));
  return { first, second, before: rounded(before), after: rounded(after) };
}

/**
 * A window of an image scaled to `size` (width, height), written as RGB into `target`.
 *
 * Equal to `cv2.resize` but for one grey level in a few pixels of a thousand, where its vector code rounds differently.
 */
export function resizeLinear(
  image: Pixels,
  size: readonly [number, number],
  window: Window,
  target: Uint8Array,
  start: number,
  stride: number,
): void {
  const { data, channels, width, height } = image;
  const { left, top } = window;
  if (size[0] === width && size[1] === height) {
    copy(image, window, target, start, stride);
    return;
  }
  const x = fixed(axis(width, size[0], left, window.width, channels));
  const y = fixed(axis(height, size[1], top, window.height, 1));
  const count = 3 * window.width;
  let upper = new Int32Array(count);
  let lower = new Int32Array(count);
  let upperRow = -1;
  let lowerRow = -1;
  for (let j = 0; j < window.height; j++) {
    const one = y.first[j]!;
    const two = y.second[j]!;
    if (one === lowerRow) {
      [upper, lower] = [lower, upper];
      [upperRow, lowerRow] = [lowerRow, upperRow];
    }
    if (one !== upperRow) across(data, one * width * channels, x, upper);
    if (two !== lowerRow) across(data, two * width * channels, x, lower);
    [upperRow, lowerRow] = [one, two];
    down(upper, lower, y.before[j]!, y.after[j]!, target, start + j * stride);
  }
}

/** A row of the image, interpolated across, in 1/128 of a grey level. */
function across(data: Uint8Array | Uint8ClampedArray, base: number, { first, second, before, after }: Axis<Int32Array>, row: Int32Array): void {
  for (let i = 0, at = 0; i < first.length; i++, at += 3) {
    const one = base + first[i]!;
    const two = base + second[i]!;
    const a = before[i]!;
    const b = after[i]!;
    row[at] = (Math.imul(data[one]!, a) + Math.imul(data[two]!, b)) >> 4;
    row[at + 1] = (Math.imul(data[one + 1]!, a) + Math.imul(data[two + 1]!, b)) >> 4;
    row[at + 2] = (Math.imul(data[one + 2]!, a) + Math.imul(data[two + 2]!, b)) >> 4;
  }
}

/** Two such rows, interpolated down, as grey levels. */
function down(upper: Int32Array, lower: Int32Array, before: number, after: number, target: Uint8Array, to: number): void {
  const a = before | 0;
  const b = after | 0;
  for (let i = 0; i < upper.length; i++) {
    target[to + i] = ((Math.imul(a, upper[i]!) >> 16) + (Math.imul(b, lower[i]!) >> 16) + 2) >> 2;
  }
}

function copy(image: Pixels, { left, top, width, height }: Window, target: Uint8Array, start: number, stride: number): void {
  const { data, channels } = image;
  for (let j = 0; j < height; j++) {
    let from = ((top + j) * image.width + left) * channels;
    let to = start + j * stride;
    for (let i = 0; i < width; i++, from += channels, to += 3) {
      target[to] = data[from]!;
      target[to + 1] = data[from + 1]!;
      target[to + 2] = data[from + 2]!;
    }
  }
}

/** A plane of floats. */
export interface Plane {
  readonly data: Float32Array;
  readonly width: number;
  readonly height: number;
}

/** A part of a plane (all of it by default) scaled to another size, as `cv2.resize` does with floats. */
export function resizePlane(plane: Plane, width: number, height: number, part?: Window): Plane {
  const { left, top, width: columns, height: rows } = part ?? { left: 0, top: 0, width: plane.width, height: plane.height };
  const x = axis(columns, width, 0, width, 1);
  const y = axis(rows, height, 0, height, 1);
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
