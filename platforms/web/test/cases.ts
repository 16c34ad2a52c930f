/** The golden set, from wherever its files come: a folder in node, a server in a page. */

import { length } from "../src/arrays.js";
import { type Json, Num, parseJson, plain } from "../src/bundle/json.js";

/** The bytes of a file by its path; null where there is none. */
export type Read = (path: string) => Promise<Uint8Array | null>;

/** All paths of the set, and their contents. */
export interface Golden {
  readonly files: readonly string[];
  readonly read: Read;
}

export interface Case {
  readonly kind: string;
  readonly name: string;
  /** A file of the case; null where there is none of that name. */
  readonly read: Read;
  readonly mustFail: boolean;
  /** As it stands in the file; `given` has the same with arrays read. */
  readonly raw: Map<string, Json>;
  readonly given: any;
  readonly expected: any;
  readonly tolerance: Record<string, any>;
}

/** All cases of a kind, by name. */
export async function stored({ files, read }: Golden, kind: string): Promise<Case[]> {
  const folders = files.filter((name) => name.startsWith(`${kind}/`) && name.endsWith("/case.json")).map((name) => name.slice(0, -"case.json".length));
  return Promise.all(folders.sort().map((folder) => one(kind, folder.split("/")[1]!, (name) => read(folder + name))));
}

async function one(kind: string, name: string, read: Read): Promise<Case> {
  const document = parseJson((await read("case.json"))!) as Map<string, Json>;
  return {
    kind,
    name,
    read,
    mustFail: document.get("must_fail") === true,
    raw: document.get("given") as Map<string, Json>,
    given: await loaded(document.get("given")!, read),
    expected: await loaded(document.get("expected")!, read),
    tolerance: plain(document.get("tolerance")!) as Record<string, any>,
  };
}

/** The kinds of which there are cases. */
export const kindsOf = ({ files }: Golden): string[] =>
  [...new Set(files.filter((name) => name.endsWith("/case.json")).map((name) => name.split("/")[0]!))].sort();

/** An array of a case. */
export interface Numbers {
  readonly data: Float32Array | Int32Array | Uint8Array;
  readonly shape: number[];
}

async function loaded(value: Json, read: Read): Promise<any> {
  if (Array.isArray(value)) return Promise.all(value.map((one) => loaded(one, read)));
  if (!(value instanceof Map)) return value instanceof Num ? value.value : value;
  if (value.has("dtype") && value.has("shape")) return numbers(value, read);
  return Object.fromEntries(await Promise.all([...value].map(async ([key, one]) => [key, await loaded(one, read)])));
}

const TYPES = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array } as const;

async function numbers(value: Map<string, Json>, read: Read): Promise<Numbers> {
  const shape = plain(value.get("shape")!) as number[];
  const kind = TYPES[value.get("dtype") as keyof typeof TYPES];
  if (value.has("file")) {
    const bytes = (await read(value.get("file") as string))!;
    return { data: new kind(bytes.slice().buffer), shape };
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
