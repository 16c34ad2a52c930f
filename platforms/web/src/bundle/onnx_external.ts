/**
 * Files that an ONNX file has an engine read beside it: weights as external data, and compiled contexts.
 *
 * The file is walked as protobuf, without reading its weights; the numbers of fields are those of onnx.proto. Most files
 * name no other, which one search for a word tells.
 */

type Kind = "model" | "training" | "graph" | "function" | "node" | "attribute" | "sparse" | "tensor";

/** What leads to tensors: fields of each kind of message, with the kind that they hold. */
const INSIDE: Readonly<Record<Exclude<Kind, "tensor">, Readonly<Record<number, Kind>>>> = {
  model: { 7: "graph", 20: "training", 25: "function" },
  training: { 1: "graph", 2: "graph" },
  graph: { 1: "node", 5: "tensor", 15: "sparse" },
  function: { 7: "node", 11: "attribute" },
  node: { 5: "attribute" },
  attribute: { 5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse" },
  sparse: { 1: "tensor", 2: "tensor" },
};

/** Messages inside one another. */
const DEEPEST = 100;

/** Words without which no file names another. */
const WORDS = ["location", "ep_cache_context"];

interface Field {
  readonly field: number;
  readonly wire: number;
  readonly start: number;
  readonly stop: number;
}

/** What the tensors and contexts of an ONNX file name as their place. Throws SyntaxError: not whole as protobuf. */
export function namedFiles(data: Uint8Array): Set<string> {
  if (!WORDS.some((word) => includes(data, word))) return new Set();
  return new Set(named(data, 0, data.length, "model", 0));
}

function includes(data: Uint8Array, word: string): boolean {
  const letters = new TextEncoder().encode(word);
  for (let at = data.indexOf(letters[0]!); at >= 0; at = data.indexOf(letters[0]!, at + 1)) {
    if (letters.every((letter, i) => data[at + i] === letter)) return true;
  }
  return false;
}

function* named(data: Uint8Array, at: number, end: number, kind: Kind, depth: number): Generator<string> {
  if (depth > DEEPEST) throw new SyntaxError(`more than ${DEEPEST} messages inside one another`);
  if (kind === "tensor") {
    yield* locations(data, at, end);
    return;
  }
  if (kind === "node") yield* context(data, at, end);
  for (const { field, wire, start, stop } of fields(data, at, end)) {
    const inside = INSIDE[kind][field];
    if (wire === 2 && inside) yield* named(data, start, stop, inside, depth + 1);
  }
}

const text = (data: Uint8Array, start: number, stop: number): string => new TextDecoder().decode(data.subarray(start, stop));

/** The texts of a message by their field. */
function texts(data: Uint8Array, { start, stop }: Field): Map<number, string> {
  const inner = [...fields(data, start, stop)].filter(({ wire }) => wire === 2);
  return new Map(inner.map((one) => [one.field, text(data, one.start, one.stop)]));
}

/** The locations in a tensor's entries of external data, which are keys (field 1) and values (2). */
function* locations(data: Uint8Array, at: number, end: number): Generator<string> {
  for (const one of fields(data, at, end)) {
    if (one.field !== 13 || one.wire !== 2) continue;
    const parts = texts(data, one);
    if (parts.get(1) === "location") yield parts.get(2) ?? "";
  }
}

/** The file of an `EPContext` whose context is not embedded; `embed_mode` is 1 where it is, and by default. */
function* context(data: Uint8Array, at: number, end: number): Generator<string> {
  const all = [...fields(data, at, end)].filter(({ wire }) => wire === 2);
  if (!all.some(({ field, start, stop }) => field === 4 && text(data, start, stop) === "EPContext")) return;
  const contexts: string[] = [];
  let embedded = true;
  for (const one of all) {
    if (one.field !== 5) continue;
    const parts = texts(data, one);
    if (parts.get(1) === "ep_cache_context") contexts.push(parts.get(4) ?? "");
    if (parts.get(1) === "embed_mode") {
      const mode = [...fields(data, one.start, one.stop)].filter(({ field, wire }) => field === 3 && wire === 0).at(-1);
      if (!mode || varint(data, mode.start, mode.stop)[0] !== 1) embedded = false;
    }
  }
  if (!embedded) yield* contexts.filter((name) => name !== "");
}

/** Number, wire type and place of every field. */
function* fields(data: Uint8Array, at: number, end: number): Generator<Field> {
  while (at < end) {
    const [tag, after] = varint(data, at, end);
    const wire = tag % 8;
    at = after;
    let size: number;
    if (wire === 2) [size, at] = varint(data, at, end);
    else if (wire === 0) size = varint(data, at, end)[1] - at;
    else if (wire === 1 || wire === 5) size = wire === 1 ? 8 : 4;
    else throw new SyntaxError(`a field of wire type ${wire}`);
    if (at + size > end) throw new SyntaxError("a field that ends behind its message");
    yield { field: Math.floor(tag / 8), wire, start: at, stop: at + size };
    at += size;
  }
}

/** An integer of at most 10 bytes, and where it ends. */
function varint(data: Uint8Array, at: number, end: number): [value: number, after: number] {
  let value = 0;
  for (let i = 0; i < 10; i++) {
    if (at >= end) throw new SyntaxError("an integer that ends behind its message");
    const byte = data[at++]!;
    value += (byte & 127) * 128 ** i;
    if (byte < 128) return [value, at];
  }
  throw new SyntaxError("an integer of more than 10 bytes");
}
