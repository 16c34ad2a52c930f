/** The golden set as node reads it. */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { length } from "../src/arrays.js";
import { type Json, Num, parseJson, plain } from "../src/bundle/json.js";

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
