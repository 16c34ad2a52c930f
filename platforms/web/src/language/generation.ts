/** Tokens from a language graph: the search that the options ask for, at once or token by token. */

import type { Tensor } from "../arrays.js";
import { UsageError } from "../errors.js";
import { beamSearch } from "./beams.js";
import { highest, logitsOf, logProbabilities } from "./distributions.js";
import type { GenerationOptions } from "./options.js";
import { penalised } from "./processors.js";
import { chances, drawn, uniform } from "./sampling.js";

/** A language model with its cache: rows of tokens that are grown together. */
export interface LanguageGraph {
  /** Read a prompt (1, tokens, width), dropping what was there; logits (1, vocabulary) of the next token. */
  start(embeddings: Tensor): Promise<Tensor>;
  /** Append a token to every row; logits (rows, vocabulary). */
  step(tokens: readonly number[]): Promise<Tensor>;
  /** Continue with these rows, in this order; they may be repeated and left out. */
  select(rows: readonly number[]): void;
}

/** One prompt. */
export interface Prompt {
  /** (1, tokens, width), what the graph reads. */
  readonly embeddings: Tensor;
  /** What the penalties read: the ids behind the embeddings, or the token that a decoder starts with. */
  readonly ids: readonly number[];
  /** Tokens that end a sequence. */
  readonly eos: readonly number[];
  /** What finished rows go on with. */
  readonly pad: number;
}

/** Tokens without the prompt, an end token included, and the sum of their log-probabilities by `length ** length_penalty`. */
export interface Sequence {
  readonly tokens: readonly number[];
  readonly score: number;
}

/** Whether a sequence ends here for a reason of the caller's. */
export type Stopped = (tokens: readonly number[]) => boolean;

/**
 * `options.returned` sequences, the best first while searching with beams.
 *
 * Throws EngineError: the graph failed, or gave something unusable. UsageError: no token is left to draw.
 */
export async function generate(graph: LanguageGraph, prompt: Prompt, options: GenerationOptions, stopped?: Stopped): Promise<Sequence[]> {
  if (options.beams > 1) return beamSearch(graph, prompt, options, stopped);
  const rows = Array.from({ length: options.returned }, () => ({ tokens: [] as number[], sum: 0 }));
  for await (const step of steps(graph, prompt, options, stopped)) {
    step.forEach((one, row) => {
      if (!one) return;
      rows[row]!.tokens.push(one.token);
      rows[row]!.sum += one.logProbability;
    });
  }
  return rows.map(({ tokens, sum }) => ({ tokens, score: Math.fround(sum / tokens.length ** options.length_penalty) }));
}

/** The tokens of `generate`, each as soon as it is chosen; the end token is the last. Throws UsageError: beams, or several sequences. */
export async function* streamed(graph: LanguageGraph, prompt: Prompt, options: GenerationOptions): AsyncGenerator<number> {
  checkStreamable(options);
  for await (const [one] of steps(graph, prompt, options)) yield one!.token;
}

export function checkStreamable({ beams, returned }: GenerationOptions): void {
  if (beams > 1) throw new UsageError(`beams=${beams} cannot be streamed: no token is final before the end; take beams=1`);
  if (returned > 1) throw new UsageError(`returned=${returned} cannot be streamed: stream one text, with returned=1`);
}

/** One token of each row; null where the row has ended. */
type Step = readonly ({ readonly token: number; readonly logProbability: number } | null)[];

async function* steps(graph: LanguageGraph, prompt: Prompt, options: GenerationOptions, stopped?: Stopped): AsyncGenerator<Step> {
  const { max_new_tokens: most, returned, sample, seed } = options;
  const numbers = Array.from({ length: returned }, (_, row) => uniform(seed, row));
  const made: number[][] = numbers.map(() => []);
  const alive = numbers.map(() => true);
  let logits = new Array<Float32Array>(returned).fill(logitsOf(await graph.start(prompt.embeddings), 1)[0]!);
  for (let length = 1; ; length++) {
    const step = logits.map((row, i) => {
      if (!alive[i]) return null;
      const scores = penalised(row, [...prompt.ids, ...made[i]!], length - 1, options, prompt.eos);
      const token = sample ? drawn(chances(scores, options), numbers[i]!()) : highest(scores, 1)[0]!;
      made[i]!.push(token);
      return { token, logProbability: logProbabilities(row)[token]! };
    });
    yield step;
    for (const [i, one] of step.entries()) if (one && (prompt.eos.includes(one.token) || stopped?.(made[i]!))) alive[i] = false;
    if (length === most || !alive.includes(true)) return;
    if (length === 1 && returned > 1) graph.select(new Array<number>(returned).fill(0));
    logits = logitsOf(await graph.step(step.map((one) => one?.token ?? prompt.pad)), returned);
  }
}
