/** Beam search as transformers 5 does it: the best sequences of a prompt, finished ones kept apart. */

import { UsageError } from "../errors.js";
import { highest, logitsOf, logProbabilities } from "./distributions.js";
import type { LanguageGraph, Prompt, Sequence, Stopped } from "./generation.js";
import type { GenerationOptions } from "./options.js";
import { penalised } from "./processors.js";

const { fround } = Math;

/** What is added to the score of what is out of the race. */
const OUT = -1e9;

/** A sequence that goes on, or might. */
interface Beam {
  readonly tokens: readonly number[];
  readonly score: number;
  /** The beam that it continues. */
  readonly origin: number;
  readonly ended: boolean;
}

/** A finished sequence; not `real` where there is none yet. */
interface Finished extends Sequence {
  readonly real: boolean;
}

export async function beamSearch(graph: LanguageGraph, prompt: Prompt, options: GenerationOptions, stopped?: Stopped): Promise<Sequence[]> {
  const { beams, max_new_tokens: most } = options;
  const first = logitsOf(await graph.start(prompt.embeddings), 1)[0]!;
  let logits = new Array<Float32Array>(beams).fill(first);
  // The beams are equal at first: only one may be continued, or all would stay equal.
  let running: Beam[] = logits.map((_, i) => ({ tokens: [], score: i ? OUT : 0, origin: 0, ended: false }));
  let finished: Finished[] = logits.map(() => ({ tokens: [], score: OUT, real: false }));
  let improvable = true;
  for (let length = 1; length <= most; length++) {
    const found = continued(running, logits, length, prompt, options, stopped);
    finished = withEnded(finished, found, improvable, length, options);
    running = goingOn(found, beams);
    improvable &&= mayImprove(running[0]!.score, finished, length, options);
    const full = options.early_stopping === true && finished.every(({ real }) => real);
    if (full || !improvable || found.every(({ ended }) => ended)) break;
    const origins = running.map(({ origin }) => origin);
    // The graph has one row so far.
    if (length === 1) graph.select(origins.map(() => 0));
    else if (origins.some((origin, i) => origin !== i)) graph.select(origins);
    logits = logitsOf(await graph.step(running.map(({ tokens }) => tokens.at(-1)!)), beams);
  }
  return finished.slice(0, options.returned).map(({ tokens, score }) => ({ tokens, score }));
}

/** The best continuations by one token. More than the beams, so that beams are left when the best of them end. */
function continued(
  running: readonly Beam[], logits: readonly Float32Array[], length: number, prompt: Prompt, options: GenerationOptions, stopped?: Stopped,
): Beam[] {
  const { eos, ids } = prompt;
  const vocabulary = logits[0]!.length;
  const kept = Math.max(2, 1 + eos.length) * running.length;
  if (kept > running.length * vocabulary) {
    throw new UsageError(`a beam search with ${eos.length} end token(s) needs a vocabulary of ${kept / running.length} or more, this one has ${vocabulary}: take beams=1`);
  }
  const sums = new Float32Array(running.length * vocabulary);
  for (const [i, { tokens, score }] of running.entries()) {
    const likely = penalised(logProbabilities(logits[i]!), [...ids, ...tokens], length - 1, options, eos);
    for (let token = 0; token < vocabulary; token++) sums[i * vocabulary + token] = likely[token]! + score;
  }
  return highest(sums, kept).map((place) => {
    const [origin, token] = [Math.floor(place / vocabulary), place % vocabulary];
    const tokens = [...running[origin]!.tokens, token];
    return { tokens, score: sums[place]!, origin, ended: eos.includes(token) || length === options.max_new_tokens || (stopped?.(tokens) ?? false) };
  });
}

/** The best that have not ended. */
function goingOn(found: readonly Beam[], beams: number): Beam[] {
  const scored = found.map((one) => (one.ended ? { ...one, score: fround(one.score + OUT) } : one));
  return highest(scored.map(({ score }) => score), beams).map((place) => scored[place]!);
}

/** Let what has just ended into the finished ones, where it is better. Only the first may: the others are there to go on. */
function withEnded(finished: readonly Finished[], found: readonly Beam[], improvable: boolean, length: number, options: GenerationOptions): Finished[] {
  const full = options.early_stopping === true && finished.every(({ real }) => real);
  const divisor = fround(length ** options.length_penalty);
  const entering = found.map(({ tokens, score, ended }, i): Finished => {
    const enters = ended && i < options.beams;
    let own = fround(score / divisor);
    for (const excluded of [full, !improvable, !enters]) if (excluded) own = fround(own + OUT);
    return { tokens, score: own, real: enters };
  });
  const merged = [...finished, ...entering];
  return highest(merged.map(({ score }) => score), options.beams).map((place) => merged[place]!);
}

/** Whether the best running beam might end better than the worst finished one; with "never" at any length. */
function mayImprove(score: number, finished: readonly Finished[], length: number, { early_stopping: stopping, length_penalty: penalty, max_new_tokens: most }: GenerationOptions): boolean {
  const at = stopping === "never" && penalty > 0 ? most : length;
  const least = Math.min(...finished.map((one) => one.score));
  const worst = Math.min(...finished.map(({ real }) => (real ? least : OUT)));
  return fround(score / fround(at ** penalty)) > worst;
}
