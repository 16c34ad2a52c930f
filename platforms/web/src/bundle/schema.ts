/** Validated structures: what a value must look like, and its type. Unknown keys are refused. */

import { type Json, type JsonObject, Num, parseJson } from "./json.js";

/** A value that is not what its schema says; `path` is where. */
export class Invalid extends Error {
  constructor(
    readonly what: string,
    readonly path: string,
  ) {
    super(path ? `${what} - at \`$${path}\`` : what);
  }
}

/** Reads a value of one type. `fallback` is there for a field that may be left out. */
export interface Schema<T> {
  read(node: Json, path: string): T;
  readonly fallback?: () => T;
  /** Names of the fields of a structure. */
  readonly fields?: readonly string[];
}

export type Infer<S> = S extends Schema<infer T> ? T : never;

const nameOf = (node: Json): string => {
  if (node === null) return "null";
  if (node instanceof Num) return node.whole ? "int" : "float";
  if (Array.isArray(node)) return "array";
  if (node instanceof Map) return "object";
  return typeof node === "string" ? "str" : "bool";
};

const expected = (what: string, node: Json, path: string): Invalid =>
  new Invalid(`Expected \`${what}\`, got \`${nameOf(node)}\``, path);

const simple = <T>(read: (node: Json, path: string) => T): Schema<T> => ({ read });

interface Bounds {
  least?: number;
  most?: number;
  above?: number;
}

function bounded(value: number, kind: string, { least, most, above }: Bounds, path: string): number {
  if (least !== undefined && value < least) throw new Invalid(`Expected \`${kind}\` >= ${least}`, path);
  if (above !== undefined && value <= above) throw new Invalid(`Expected \`${kind}\` > ${above}`, path);
  if (most !== undefined && value > most) throw new Invalid(`Expected \`${kind}\` <= ${most}`, path);
  return value;
}

export const str: Schema<string> = simple((node, path) => {
  if (typeof node !== "string") throw expected("str", node, path);
  return node;
});

export const bool: Schema<boolean> = simple((node, path) => {
  if (typeof node !== "boolean") throw expected("bool", node, path);
  return node;
});

export const int = (bounds: Bounds = {}): Schema<number> =>
  simple((node, path) => {
    if (!(node instanceof Num && node.whole)) throw expected("int", node, path);
    return bounded(node.value, "int", bounds, path);
  });

export const float = (bounds: Bounds = {}): Schema<number> =>
  simple((node, path) => {
    if (!(node instanceof Num)) throw expected("float", node, path);
    return bounded(node.value, "float", bounds, path);
  });

export const oneOf = <const W extends readonly string[]>(...words: W): Schema<W[number]> =>
  simple((node, path) => {
    if (typeof node !== "string") throw expected("str", node, path);
    if (!words.includes(node)) throw new Invalid(`Invalid enum value '${node}'; valid: ${words.join(", ")}`, path);
    return node;
  });

/** Any number of one kind. */
export const list = <T>(item: Schema<T>, most = Infinity): Schema<readonly T[]> =>
  simple((node, path) => {
    if (!Array.isArray(node)) throw expected("array", node, path);
    if (node.length > most) throw new Invalid(`Expected \`array\` of length <= ${most}`, path);
    return node.map((one, place) => item.read(one, `${path}[${place}]`));
  });

/** As many values as there are schemas. */
export const tuple = <const S extends readonly Schema<unknown>[]>(
  ...items: S
): Schema<{ readonly [K in keyof S]: Infer<S[K]> }> =>
  simple((node, path) => {
    if (!Array.isArray(node)) throw expected("array", node, path);
    if (node.length !== items.length) throw new Invalid(`Expected \`array\` of length ${items.length}`, path);
    return items.map((item, place) => item.read(node[place]!, `${path}[${place}]`)) as {
      readonly [K in keyof S]: Infer<S[K]>;
    };
  });

/** Values of one kind by name. */
export const dict = <T>(item: Schema<T>): Schema<ReadonlyMap<string, T>> =>
  simple((node, path) => {
    if (!(node instanceof Map)) throw expected("object", node, path);
    return new Map([...node].map(([key, one]) => [key, item.read(one, `${path}[...]`)]));
  });

/** Anything by name, read later. */
export const anything: Schema<JsonObject> = simple((node, path) => {
  if (!(node instanceof Map)) throw expected("object", node, path);
  return node;
});

/** The first that fits. */
export const either = <const S extends readonly Schema<unknown>[]>(what: string, ...some: S): Schema<Infer<S[number]>> =>
  simple((node, path) => {
    for (const one of some) {
      try {
        return one.read(node, path) as Infer<S[number]>;
      } catch (error) {
        if (!(error instanceof Invalid)) throw error;
      }
    }
    throw expected(what, node, path);
  });

export const nullable = <T>(item: Schema<T>): Schema<T | null> =>
  simple((node, path) => (node === null ? null : item.read(node, path)));

/** A field that may be left out. */
export const left = <T>(item: Schema<T>, fallback: T): Schema<T> => ({ ...item, fallback: () => fallback });

/** A field that may be left out and then is undefined. */
export const maybe = <T>(item: Schema<T>): Schema<T | undefined> => ({ ...item, fallback: () => undefined });

type Fields = Readonly<Record<string, Schema<unknown>>>;

/** A structure; `check` returns what is wrong with its values together, or nothing. */
export function struct<F extends Fields>(
  fields: F,
  check?: (value: { readonly [K in keyof F]: Infer<F[K]> }) => string | undefined,
): Schema<{ readonly [K in keyof F]: Infer<F[K]> }> {
  const names = Object.keys(fields);
  const read = (node: Json, path: string) => {
    if (!(node instanceof Map)) throw expected("object", node, path);
    for (const key of node.keys()) {
      if (!Object.hasOwn(fields, key)) throw new Invalid(`Object contains unknown field \`${key}\``, path);
    }
    const entries = names.map((name) => {
      const field = fields[name]!;
      if (node.has(name)) return [name, field.read(node.get(name)!, `${path}.${name}`)];
      if (!field.fallback) throw new Invalid(`Object missing required field \`${name}\``, path);
      return [name, field.fallback()];
    });
    const value = Object.fromEntries(entries) as { readonly [K in keyof F]: Infer<F[K]> };
    const problem = check?.(value);
    if (problem) throw new Invalid(problem, path);
    return value;
  };
  return { read, fields: names };
}

/** Plain values as JSON, for structures that are written in code. */
export function toJson(value: unknown): Json {
  return parseJson(JSON.stringify(value));
}
