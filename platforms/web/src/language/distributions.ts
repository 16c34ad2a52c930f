/** Logits as distributions, in 32-bit floats as Python has them. */

import type { Tensor } from "../arrays.js";
import { shown } from "../arrays.js";
import { EngineError } from "../errors.js";

const { fround, exp, log } = Math;

/**
 * The rows of what a language graph returned.
 *
 * Throws EngineError: not one row for each sequence, or a row that is no distribution (NaN, +infinity, all -infinity).
 */
export function logitsOf({ data, shape }: Tensor, rows: number): Float32Array[] {
  if (shape.length !== 2 || shape[0] !== rows) {
    throw new EngineError(`the language graph gave logits of shape ${shown(shape)}, not (${rows}, vocabulary): check its outputs`);
  }
  const vocabulary = shape[1]!;
  return Array.from({ length: rows }, (_, row) => {
    const found = data.subarray(row * vocabulary, (row + 1) * vocabulary);
    const peak = highestOf(found);
    if (!Number.isFinite(peak)) {
      throw new EngineError(`the language graph gave ${peak} as its highest logit in row ${row}: its numbers overflowed; convert it with a wider precision`);
    }
    return found;
  });
}

/** The largest of numbers; NaN where one is. */
function highestOf(values: Float32Array): number {
  let peak = -Infinity;
  for (const value of values) {
    if (Number.isNaN(value)) return NaN;
    if (value > peak) peak = value;
  }
  return peak;
}

/** Logarithm of the softmax. */
export function logProbabilities(logits: Float32Array): Float32Array {
  const peak = highestOf(logits);
  let sum = 0;
  for (const value of logits) sum += fround(exp(fround(value - peak)));
  const total = fround(log(fround(sum)));
  return logits.map((value) => fround(value - peak) - total);
}

/** Softmax; -infinity is probability 0. */
export function probabilities(scores: Float32Array): Float32Array {
  const peak = highestOf(scores);
  const weights = scores.map((value) => exp(fround(value - peak)));
  const sum = fround(weights.reduce((total, weight) => total + weight, 0));
  return weights.map((weight) => weight / sum);
}

/** Places of the highest numbers, the highest first; of equal ones the first. */
export function highest(values: ArrayLike<number>, count: number): number[] {
  const found: number[] = [];
  for (let place = 0; place < values.length; place++) {
    const value = values[place]!;
    if (found.length === count && !(value > values[found[count - 1]!]!)) continue;
    let at = Math.min(found.length, count - 1);
    for (; at > 0 && value > values[found[at - 1]!]!; at--) found[at] = found[at - 1]!;
    found[at] = place;
  }
  return found;
}
