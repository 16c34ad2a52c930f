/** PNG files of 8-bit RGB, read to the very pixels: a browser's own reader may convert colours. */

import { InputError } from "../errors.js";
import type { Pixels } from "./images.js";

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

/** Pixels of a PNG file of 8 bits, RGB, not interlaced. Throws InputError: another file. */
export async function readPng(bytes: Uint8Array, name: string): Promise<Pixels> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (bytes.length < 33 || SIGNATURE.some((byte, i) => bytes[i] !== byte)) throw new InputError(`${name}: not a PNG file`);
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  if (bytes[24] !== 8 || bytes[25] !== 2 || bytes[28]) throw new InputError(`${name}: not a PNG file of 8 bits, RGB`);
  const parts: BlobPart[] = [];
  for (let at = 8; at + 12 <= bytes.length; ) {
    const size = view.getUint32(at);
    if (view.getUint32(at + 4) === 0x49444154) parts.push(bytes.slice(at + 8, at + 8 + size));
    at += size + 12;
  }
  let raw: Uint8Array;
  try {
    raw = new Uint8Array(await new Response(new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
  } catch (error) {
    throw new InputError(`${name}: a damaged PNG file`, { cause: error });
  }
  if (raw.length !== (3 * width + 1) * height) throw new InputError(`${name}: a damaged PNG file`);
  return { data: unfiltered(raw, 3 * width, height), width, height, channels: 3 };
}

/** Rows with each byte's prediction (PNG specification, chapter 9) added. */
function unfiltered(raw: Uint8Array, stride: number, height: number): Uint8Array {
  const data = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const filter = raw[y * (stride + 1)]!;
    for (let i = 0; i < stride; i++) {
      const at = y * stride + i;
      const left = i < 3 ? 0 : data[at - 3]!;
      const up = y ? data[at - stride]! : 0;
      const corner = i < 3 || !y ? 0 : data[at - stride - 3]!;
      data[at] = raw[y * (stride + 1) + 1 + i]! + predicted(filter, left, up, corner);
    }
  }
  return data;
}

function predicted(filter: number, left: number, up: number, corner: number): number {
  if (filter === 0) return 0;
  if (filter === 1) return left;
  if (filter === 2) return up;
  if (filter === 3) return (left + up) >> 1;
  const guess = left + up - corner;
  const [a, b, c] = [Math.abs(guess - left), Math.abs(guess - up), Math.abs(guess - corner)];
  if (a <= b && a <= c) return left;
  return b <= c ? up : corner;
}
