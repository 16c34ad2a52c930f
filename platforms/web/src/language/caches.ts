/** Keys and values of the tokens so far, kept between the runs of a decoder. All rows are of one prompt and equally long. */

import type { Tensor } from "../arrays.js";
import type { Language } from "../bundle/manifest.js";
import type { Network, Numbers } from "../engines/onnxruntime.js";
import { EngineError, quoted } from "../errors.js";

type Feeds = Readonly<Record<string, Numbers>>;

/** A decoder with its cache. */
export interface CachedDecoder {
  /** Tokens of every row. */
  readonly used: number;
  readonly rows: number;
  /** Forget everything; there is one row. */
  begin(tokens: number): void;
  /** Append tokens (rows, tokens, width) to every row; logits (rows, vocabulary) behind the last. */
  read(embeddings: Tensor, feeds: Feeds): Promise<Tensor>;
  /** Keep these rows, in this order. */
  select(rows: readonly number[]): void;
}

/** The decoder of a graph, by the inputs that it takes. Throws EngineError: it takes neither cache, or one of another size. */
export function decoderOf(network: Network, language: Language): CachedDecoder {
  const names = new Set(network.graph.inputs.map(({ name }) => name));
  const pasts = network.graph.inputs.filter(({ name }) => name.startsWith("past."));
  const fits = pasts.length === 2 * language.layers && pasts.every(({ shape }) => shape.length === 4 && shape[1] === language.heads && shape[3] === language.head_size);
  const hosted = names.has("mask") && names.has("pick");
  if (!fits || !(hosted || names.has("seqlens"))) {
    throw new EngineError(
      `graph ${quoted(network.graph.name)} takes ${[...names].join(", ")}, and no cache of ${language.layers} layers with ${language.heads} heads of ` +
        `${language.head_size} numbers that this package keeps; convert with --target web or onnx`,
    );
  }
  return hosted ? new HostedDecoder(network, language) : new AppendingDecoder(network, language);
}

/** Tokens that buffers have room for beyond what is there. */
const ROOM = 64;

/** Buffers (rows, heads, capacity, size) of all layers, of which the first tokens are used. */
class Buffers {
  readonly names: readonly string[];
  arrays = new Map<string, Float32Array>();
  rows = 1;
  capacity = 0;
  used = 0;

  constructor(private readonly language: Language) {
    this.names = Array.from({ length: language.layers }, (_, layer) => [`${layer}.key`, `${layer}.value`]).flat();
  }

  get shape(): readonly number[] {
    return [this.rows, this.language.heads, this.capacity, this.language.head_size];
  }

  begin(tokens: number): void {
    [this.rows, this.used, this.capacity] = [1, 0, tokens + ROOM];
    const { heads, head_size: size } = this.language;
    this.arrays = new Map(this.names.map((name) => [name, new Float32Array(heads * this.capacity * size)]));
  }

  /** Have room for so many tokens. */
  reserve(tokens: number): void {
    if (tokens > this.capacity) this.rearrange(Array.from({ length: this.rows }, (_, row) => row), Math.max(2 * this.capacity, tokens));
  }

  rearrange(rows: readonly number[], capacity = this.capacity): void {
    const { heads, head_size: size } = this.language;
    const [from, to, count] = [this.capacity * size, capacity * size, this.used * size];
    for (const [name, old] of this.arrays) {
      const made = new Float32Array(rows.length * heads * to);
      for (const [i, row] of rows.entries()) {
        for (let head = 0; head < heads; head++) {
          const start = (row * heads + head) * from;
          made.set(old.subarray(start, start + count), (i * heads + head) * to);
        }
      }
      this.arrays.set(name, made);
    }
    [this.rows, this.capacity] = [rows.length, capacity];
  }

  feeds(): Feeds {
    return Object.fromEntries([...this.arrays].map(([name, data]) => [`past.${name}`, { data, shape: this.shape }]));
  }
}

/** A decoder that keeps its cache in buffers. What its graph takes and gives of them is the business of its kind. */
abstract class BufferedDecoder implements CachedDecoder {
  protected readonly buffers: Buffers;

  constructor(
    private readonly network: Network,
    protected readonly language: Language,
  ) {
    this.buffers = new Buffers(language);
  }

  get used(): number {
    return this.buffers.used;
  }

  get rows(): number {
    return this.buffers.rows;
  }

  begin(tokens: number): void {
    this.buffers.begin(tokens);
  }

  select(rows: readonly number[]): void {
    this.buffers.rearrange(rows);
  }

  async read(embeddings: Tensor, feeds: Feeds): Promise<Tensor> {
    const { buffers } = this;
    const [rows, count] = embeddings.shape as [number, number];
    buffers.reserve(buffers.used + count);
    const found = await this.network.run({ ...feeds, ...buffers.feeds(), ...this.feeds(rows, count), inputs_embeds: embeddings });
    const wanted = this.presentShape(rows, count);
    for (const name of buffers.names) {
      const { data, shape } = found[`present.${name}`]!;
      if (String(shape) !== String(wanted)) throw new EngineError(`the language graph gave 'present.${name}' of shape ${shape}, not ${wanted}; convert again`);
      this.keep(name, data, rows, count);
    }
    buffers.used += count;
    return logitsIn(found);
  }

  /** Where `count` new tokens of each row are, as this graph wants to be told. */
  protected abstract feeds(rows: number, count: number): Feeds;

  /** The shape of the keys and values that the graph gives. */
  protected abstract presentShape(rows: number, count: number): readonly number[];

  /** Put what the graph gave into a buffer. */
  protected abstract keep(name: string, data: Float32Array, rows: number, count: number): void;
}

/** GroupQueryAttention appends to the cache: what comes out goes in with the next token. Graphs of the target onnx. */
class AppendingDecoder extends BufferedDecoder {
  protected override feeds(rows: number, count: number): Feeds {
    const total = this.buffers.used + count;
    const each = (value: number): Numbers => ({ data: new Array<number>(rows).fill(value), shape: [rows] });
    return { last: each(count - 1), seqlens: each(total - 1), total: { data: [total], shape: [] } };
  }

  protected override presentShape(): readonly number[] {
    return this.buffers.shape;
  }

  protected override keep(name: string, data: Float32Array): void {
    this.buffers.arrays.set(name, data);
  }
}

/** What is added to the score of a key that may not be looked at. */
const HIDDEN = -1e4;

/** The graph reads the cache and gives the new keys and values alone. Graphs of the target web. */
class HostedDecoder extends BufferedDecoder {
  private readonly far: boolean;

  constructor(network: Network, language: Language) {
    super(network, language);
    this.far = network.graph.inputs.some(({ name }) => name === "distances");
  }

  protected override feeds(rows: number, count: number): Feeds {
    const { capacity, used } = this.buffers;
    const pick = new Float32Array(rows * count);
    for (let row = 1; row <= rows; row++) pick[row * count - 1] = 1;
    // Key less query, for the one token that a decoder of this kind reads.
    const distances = { data: [...Array.from({ length: capacity }, (_, key) => key - used), 0], shape: [1, capacity + 1] };
    return {
      ...(this.far ? { distances } : {}),
      mask: { data: this.mask(rows, count), shape: [rows, 1, count, capacity + count] },
      pick: { data: pick, shape: [rows, 1, count] },
    };
  }

  protected override presentShape(rows: number, count: number): readonly number[] {
    return [rows, this.language.heads, count, this.language.head_size];
  }

  protected override keep(name: string, data: Float32Array, rows: number, count: number): void {
    const { heads, head_size: size } = this.language;
    const { arrays, capacity, used } = this.buffers;
    const array = arrays.get(name)!;
    for (let head = 0; head < rows * heads; head++) array.set(data.subarray(head * count * size, (head + 1) * count * size), (head * capacity + used) * size);
  }

  /** 0 where a token may look: at all that is in the cache, at itself and the new ones before it. */
  private mask(rows: number, count: number): Float32Array {
    const { capacity, used } = this.buffers;
    const wide = capacity + count;
    const mask = new Float32Array(rows * count * wide).fill(HIDDEN);
    for (let line = 0; line < rows * count; line++) {
      mask.fill(0, line * wide, line * wide + used);
      mask.fill(0, line * wide + capacity, line * wide + capacity + (line % count) + 1);
    }
    return mask;
  }
}

function logitsIn(found: Readonly<Record<string, Tensor>>): Tensor {
  const logits = found["logits"];
  if (!logits) throw new EngineError(`the language graph gave no 'logits', only ${Object.keys(found).join(", ")}; convert the model again`);
  return logits;
}
