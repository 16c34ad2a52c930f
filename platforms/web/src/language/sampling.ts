/** Draw the next token from the filtered distribution. */

import { UsageError } from "../errors.js";
import { probabilities } from "./distributions.js";
import type { GenerationOptions } from "./options.js";
import { filtered } from "./processors.js";

/** Probabilities of what sampling draws from, for scores after the penalties. Throws UsageError: no token is left. */
export function chances(scores: Float32Array, options: GenerationOptions): Float32Array {
  if (!scores.some((score) => score > -Infinity)) {
    const { no_repeat_ngram_size: size, min_new_tokens: least } = options;
    throw new UsageError(`no token is left to draw: no_repeat_ngram_size=${size} and min_new_tokens=${least} ban all of them; loosen them`);
  }
  return probabilities(filtered(scores, options));
}

/** The token at a place (0 to 1) of the cumulative distribution; never one without a chance. */
export function drawn(likely: Float32Array, place: number): number {
  const total = likely.reduce((sum, one) => sum + one, 0);
  let [rising, last] = [0, 0];
  for (const [token, chance] of likely.entries()) {
    if (!chance) continue;
    rising += chance;
    last = token;
    if (rising > place * total) return token;
  }
  return last;
}

/** Numbers from 0 to 1 from a seed and the number of a row; without a seed others each time. */
export function uniform(seed: number | null, row: number): () => number {
  const whole = seed ?? crypto.getRandomValues(new Uint32Array(1))[0]!;
  let state = (Math.imul(whole % 2 ** 32, 0x9e3779b1) ^ Math.imul(Math.floor(whole / 2 ** 32) + 1, 0x85ebca6b) ^ Math.imul(row + 1, 0xc2b2ae35)) >>> 0;
  const next = (): number => {
    // Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014; in 32 bits.
    state = (state + 0x9e3779b9) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
    return (mixed ^ (mixed >>> 15)) >>> 0;
  };
  return () => ((next() >>> 5) * 2 ** 26 + (next() >>> 6)) / 2 ** 53;
}
