/** Language models of opened graphs: OPT (`language`) and T5 (`encoder`, `decoder`). */

import type { Tensor } from "../arrays.js";
import type { Language } from "../bundle/manifest.js";
import type { Network, Numbers } from "../engines/onnxruntime.js";
import { type CachedDecoder, decoderOf } from "./caches.js";
import type { Embeddings } from "./embeddings.js";
import type { LanguageGraph } from "./generation.js";

/** The language model of a bundle. Throws EngineError: a graph whose cache is not the contract's. */
export function languageGraph(networks: ReadonlyMap<string, Network>, language: Language, embeddings: Embeddings): LanguageGraph {
  if (language.family === "t5") return new T5(networks.get("encoder")!, decoderOf(networks.get("decoder")!, language), language, embeddings);
  return new Opt(decoderOf(networks.get("language")!, language), embeddings);
}

class Opt implements LanguageGraph {
  constructor(
    private readonly decoder: CachedDecoder,
    private readonly embeddings: Embeddings,
  ) {}

  async start(embeddings: Tensor): Promise<Tensor> {
    const count = embeddings.shape[1]!;
    this.decoder.begin(count);
    return this.decoder.read(embeddings, { position_ids: { data: Array.from({ length: count }, (_, place) => place), shape: [1, count] } });
  }

  async step(tokens: readonly number[]): Promise<Tensor> {
    const rows = tokens.length;
    const places: Numbers = { data: tokens.map(() => this.decoder.used), shape: [rows, 1] };
    return this.decoder.read({ data: this.embeddings.rows(tokens), shape: [rows, 1, this.embeddings.width] }, { position_ids: places });
  }

  select(rows: readonly number[]): void {
    this.decoder.select(rows);
  }
}

class T5 implements LanguageGraph {
  /** What the encoder found, of one row. */
  private seen: Readonly<Record<string, Tensor>> = {};
  /** The same for every row. */
  private looked: Readonly<Record<string, Tensor>> = {};

  constructor(
    private readonly encoder: Network,
    private readonly decoder: CachedDecoder,
    private readonly language: Language,
    private readonly embeddings: Embeddings,
  ) {}

  async start(embeddings: Tensor): Promise<Tensor> {
    const count = embeddings.shape[1]!;
    const takes = (name: string): boolean => this.encoder.graph.inputs.some((input) => input.name === name);
    const places = Array.from({ length: count }, (_, place) => place);
    // A mask of 1 where there is a token, or of what is added to the scores: there is no padding.
    const mask = takes("attention_mask") ? { data: new Float32Array(count).fill(1), shape: [1, count] } : { data: new Float32Array(count), shape: [1, 1, 1, count] };
    const found = await this.encoder.run({
      inputs_embeds: embeddings, attention_mask: mask, mask, distances: { data: places.flatMap((query) => places.map((key) => key - query)), shape: [count, count] },
    });
    this.looked = this.seen = { ...found, encoder_mask: mask };
    this.decoder.begin(1);
    return this.step([this.language.start]);
  }

  async step(tokens: readonly number[]): Promise<Tensor> {
    return this.decoder.read({ data: this.embeddings.rows(tokens), shape: [tokens.length, 1, this.embeddings.width] }, this.looked);
  }

  select(rows: readonly number[]): void {
    const before = this.decoder.rows;
    this.decoder.select(rows);
    if (rows.length !== before) this.looked = Object.fromEntries(Object.entries(this.seen).map(([name, one]) => [name, repeated(one, rows.length)]));
  }
}

function repeated({ data, shape }: Tensor, rows: number): Tensor {
  const made = new Float32Array(rows * data.length);
  for (let row = 0; row < rows; row++) made.set(data, row * data.length);
  return { data: made, shape: [rows, ...shape.slice(1)] };
}
