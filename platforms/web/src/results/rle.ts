/**
 * COCO run-length encoding of one mask, from and to a window of it.
 *
 * The mask is read column by column, and the lengths of its runs are listed, the first one of background. Compressed,
 * every length from the fourth on is replaced by its difference to the length two places before; then each number is
 * written in groups of 5 bits, lowest first, bit 5 set when another group follows, as characters from "0" on. The last
 * group's highest bit is the sign.
 */

import type { Size } from "../arrays.js";
import { InputError } from "../errors.js";

/** A bitmap of its own window: one byte a pixel, 1 where the object is, its first pixel at (left, top) of the image. */
export interface Mask {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** COCO's compressed run lengths; `size` is [height, width]. */
export interface Rle {
  readonly size: readonly [height: number, width: number];
  readonly counts: string;
}

/** Most groups of 5 bits that a number may have. */
const GROUPS = 7;

/** Lengths of the runs of a mask in an image of `size` (width, height). */
export function countsOf(mask: Mask, [width, height]: Size): number[] {
  const counts: number[] = [];
  let inside = 0; // whether the run that is being counted is of the object
  let began = 0;
  const turn = (at: number): void => {
    counts.push(at - began);
    began = at;
    inside = 1 - inside;
  };
  for (let x = 0; x < mask.width; x++) {
    const column = (mask.left + x) * height + mask.top;
    if (inside && (mask.height < height || !mask.data[x])) turn((mask.left + x - 1) * height + mask.top + mask.height);
    for (let y = 0; y < mask.height; y++) {
      if ((mask.data[y * mask.width + x] ? 1 : 0) !== inside) turn(column + y);
    }
  }
  if (inside) {
    const end = (mask.left + mask.width - 1) * height + mask.top + mask.height;
    if (end < width * height) turn(end);
  }
  counts.push(width * height - began);
  return counts;
}

/** The inverse of `countsOf`, as the smallest window that holds the mask. Throws InputError. */
export function windowOf(counts: readonly number[], [width, height]: Size): Mask {
  const total = counts.reduce((a, b) => a + b, 0);
  if (!counts.length || counts.some((count) => count < 0) || total !== width * height) {
    throw new InputError(`its runs cover ${total} pixels, where the image has ${width}x${height}`);
  }
  let [left, top, right, bottom] = [width, height, 0, 0];
  eachRun(counts, height, (x, from, to) => {
    left = Math.min(left, x);
    right = Math.max(right, x + 1);
    top = Math.min(top, from);
    bottom = Math.max(bottom, to);
  });
  if (right === 0) return { left: 0, top: 0, width: 0, height: 0, data: new Uint8Array(0) };
  const data = new Uint8Array((right - left) * (bottom - top));
  eachRun(counts, height, (x, from, to) => {
    for (let y = from; y < to; y++) data[(y - top) * (right - left) + x - left] = 1;
  });
  return { left, top, width: right - left, height: bottom - top, data };
}

/** Each run of the object, cut at the ends of columns: column, first row, and the row after the last. */
function eachRun(counts: readonly number[], height: number, seen: (x: number, from: number, to: number) => void): void {
  let at = 0;
  counts.forEach((count, i) => {
    const end = at + count;
    while (i % 2 && at < end) {
      const x = Math.floor(at / height);
      const last = Math.min(end, (x + 1) * height);
      seen(x, at - x * height, last - x * height);
      at = last;
    }
    at = end;
  });
}

/** Lengths of runs as COCO's string. */
export function compressed(counts: readonly number[]): string {
  let text = "";
  counts.forEach((count, i) => {
    let rest = i > 2 ? count - counts[i - 2]! : count;
    for (let more = true; more; ) {
      const group = rest & 31;
      rest >>= 5;
      more = group & 16 ? rest !== -1 : rest !== 0;
      text += String.fromCharCode(group + (more ? 32 : 0) + 48);
    }
  });
  return text;
}

/** The inverse of `compressed`. Throws InputError. */
export function expanded(text: string): number[] {
  const counts: number[] = [];
  const refused = (): InputError => new InputError(`its counts '${text.slice(0, 20)}' are not COCO's compressed runs, or cut short`);
  if (!text.length) throw refused();
  for (let at = 0; at < text.length; ) {
    let [value, groups] = [0, 0];
    for (let more = true; more; groups++, at++) {
      const letter = text.charCodeAt(at) - 48;
      if (!(letter >= 0 && letter <= 63)) throw refused();
      if (groups === GROUPS) throw new InputError(`its counts '${text.slice(0, 20)}' have a number that is too long`);
      value += (letter & 31) * 2 ** (5 * groups);
      more = (letter & 32) !== 0;
      if (!more && letter & 16) value -= 2 ** (5 * (groups + 1));
    }
    counts.push(counts.length > 2 ? value + counts[counts.length - 2]! : value);
  }
  return counts;
}
