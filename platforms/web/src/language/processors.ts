/** Penalties and bans before a token is chosen, then the filters of sampling; order and meaning are those of transformers. */

import { highest, probabilities } from "./distributions.js";
import type { GenerationOptions } from "./options.js";

const { fround } = Math;
const BANNED = -Infinity;

/** Scores of what may follow, as `options` want them. `history` is the prompt and what was generated; ids outside of the vocabulary count for nothing. */
export function penalised(scores: Float32Array, history: readonly number[], made: number, options: GenerationOptions, eos: readonly number[]): Float32Array {
  const { repetition_penalty: penalty, no_repeat_ngram_size: size, min_new_tokens: least } = options;
  if (penalty === 1 && !size && made >= least) return scores;
  const changed = scores.slice();
  if (penalty !== 1) {
    for (const token of new Set(history)) {
      if (token < scores.length) changed[token] = scores[token]! < 0 ? scores[token]! * fround(penalty) : scores[token]! / fround(penalty);
    }
  }
  if (size) banRepeated(changed, history, size);
  if (made < least) for (const token of eos) if (token < scores.length) changed[token] = BANNED;
  return changed;
}

/** Ban each token that would complete an n-gram which the history has already. */
function banRepeated(scores: Float32Array, history: readonly number[], size: number): void {
  const begun = history.slice(history.length + 1 - size);
  for (let place = 0; place + size <= history.length; place++) {
    const last = history[place + size - 1]!;
    if (last < scores.length && begun.every((token, i) => token === history[place + i])) scores[last] = BANNED;
  }
}

/** Scores of what sampling draws from: temperature, then top-k, top-p and min-p, each on what the last one left. */
export function filtered(scores: Float32Array, { temperature, top_k, top_p, min_p }: GenerationOptions): Float32Array {
  let kept = temperature === 1 ? scores : scores.map((score) => score / fround(temperature));
  if (top_k) {
    const lowest = kept[highest(kept, Math.min(top_k, kept.length)).at(-1)!]!;
    kept = kept.map((score) => (score < lowest ? BANNED : score));
  }
  if (top_p < 1) kept = topP(kept, top_p);
  if (min_p) {
    const likely = probabilities(kept);
    const least = fround(fround(min_p) * likely.reduce((most, one) => Math.max(most, one), 0));
    kept = kept.map((score, token) => (likely[token]! < least ? BANNED : score));
  }
  return kept;
}

/** Keep the fewest likeliest tokens whose probabilities make up the share, at least one. */
function topP(scores: Float32Array, share: number): Float32Array {
  const order = Array.from(scores.keys()).sort((a, b) => scores[a]! - scores[b]! || a - b); // NaN of two -infinities: by place
  const rising = probabilities(Float32Array.from(order, (token) => scores[token]!));
  const kept = scores.slice();
  let sum = 0;
  for (let i = 0; i + 1 < order.length; i++) {
    sum += rising[i]!;
    if (fround(sum) <= fround(1 - share)) kept[order[i]!] = BANNED;
  }
  return kept;
}
