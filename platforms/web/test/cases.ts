/** The golden set as node reads it: cases, arrays, and PNG files of 8-bit RGB. */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { inflateSync } from "node:zlib";
import { length } from "../src/arrays.js";
import { type Json, Num, parseJson, plain } from "../src/bundle/json.js";
import type { Pixels } from "../src/inputs/images.js";

/** The compiled tests lie in platforms/web/build/test. */
export const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../../../..");
const GOLDEN = process.env["EDGEKIT_GOLDEN"] ?? path.join(ROOT, "golden");

export interface Case {
  readonly kind: string;
  readonly name: string;
  readonly folder: string;
  readonly mustFail: boolean;
  /** As it stands in the file; `given` has the same with arrays read. */
  readonly raw: Map<string, Json>;
  readonly given: any;
  readonly expected: any;
  readonly tolerance: Record<string, any>;
}

/** All cases of a kind, by name. */
export function stored(kind: string): Case[] {
  const folder = path.join(GOLDEN, kind);
  const names = existsSync(folder) ? readdirSync(folder).sort() : [];
  return names.filter((name) => existsSync(path.join(folder, name, "case.json"))).map((name) => {
    const place = path.join(folder, name);
    const document = parseJson(readFileSync(path.join(place, "case.json"))) as Map<string, Json>;
    return {
      kind,
      name,
      folder: place,
      mustFail: document.get("must_fail") === true,
      raw: document.get("given") as Map<string, Json>,
      given: loaded(document.get("given")!, place),
      expected: loaded(document.get("expected")!, place),
      tolerance: plain(document.get("tolerance")!) as Record<string, any>,
    };
  });
}

/** An array of a case. */
export interface Numbers {
  readonly data: Float32Array | Int32Array | Uint8Array;
  readonly shape: number[];
}

function loaded(value: Json, folder: string): any {
  if (Array.isArray(value)) return value.map((one) => loaded(one, folder));
  if (!(value instanceof Map)) return value instanceof Num ? value.value : value;
  if (value.has("dtype") && value.has("shape")) return numbers(value, folder);
  return Object.fromEntries([...value].map(([key, one]) => [key, loaded(one, folder)]));
}

const TYPES = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array } as const;

function numbers(value: Map<string, Json>, folder: string): Numbers {
  const shape = plain(value.get("shape")!) as number[];
  const kind = TYPES[value.get("dtype") as keyof typeof TYPES];
  if (value.has("file")) {
    const bytes = readFileSync(path.join(folder, value.get("file") as string));
    return { data: new kind(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length)), shape };
  }
  if (value.has("values")) return { data: kind.from(plain(value.get("values")!) as number[]), shape };
  const { seed, offset, scale } = plain(value.get("recurrence")!) as { seed: number; offset: number; scale: number };
  const data = new Float32Array(length(shape));
  let x = seed;
  for (let i = 0; i < data.length; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    data[i] = offset + (scale * Math.floor(x / 256)) / 2 ** 24;
  }
  for (const [at, one] of plain(value.get("set")!) as [number, number][]) data[at] = one;
  return { data, shape };
}

/** Pixels of a PNG file of 8 bits, RGB, not interlaced. */
export function readPng(file: string): Pixels {
  const bytes = readFileSync(file);
  const parts: Buffer[] = [];
  for (let at = 8; at < bytes.length; ) {
    const size = bytes.readUInt32BE(at);
    if (bytes.toString("latin1", at + 4, at + 8) === "IDAT") parts.push(bytes.subarray(at + 8, at + 8 + size));
    at += size + 12;
  }
  const [width, height] = [bytes.readUInt32BE(16), bytes.readUInt32BE(20)];
  const channels = { 0: 1, 2: 3, 6: 4 }[bytes[25]!];
  if (bytes[24] !== 8 || channels !== 3 || bytes[28]) throw new Error(`${file}: not a PNG of 8 bits, RGB`);
  const raw = inflateSync(Buffer.concat(parts));
  const stride = 3 * width;
  const data = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const filter = raw[y * (stride + 1)]!;
    for (let i = 0; i < stride; i++) {
      const left = i < 3 ? 0 : data[y * stride + i - 3]!;
      const up = y ? data[(y - 1) * stride + i]! : 0;
      const corner = i < 3 || !y ? 0 : data[(y - 1) * stride + i - 3]!;
      const added = [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter]!;
      data[y * stride + i] = raw[y * (stride + 1) + 1 + i]! + added;
    }
  }
  return { data, width, height, channels: 3 };
}

function paeth(left: number, up: number, corner: number): number {
  const guess = left + up - corner;
  const [a, b, c] = [Math.abs(guess - left), Math.abs(guess - up), Math.abs(guess - corner)];
  if (a <= b && a <= c) return left;
  return b <= c ? up : corner;
}
