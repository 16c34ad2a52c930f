/** Options of generation, validated. Names and meaning are Python's. */

import { choices, quoted, UsageError } from "../errors.js";

/** How tokens are chosen: greedy with one beam, beam search with more, at random with `sample`. */
export interface GenerationOptions {
  /** The most tokens that are generated, the end token included. */
  readonly max_new_tokens: number;
  /** Fewest tokens before an end token. */
  readonly min_new_tokens: number;
  /** How many sequences a beam search keeps. */
  readonly beams: number;
  /** Sequences that are returned: at most `beams`, any number while sampling. */
  readonly returned: number;
  /** Scores are divided by `length ** length_penalty`: above 0 favours long sequences. */
  readonly length_penalty: number;
  /** When a beam search ends: with `beams` finished (true), when none looks better (false), or when none can become better. */
  readonly early_stopping: boolean | "never";
  /** Above 1 makes tokens that are there already less likely, those of the prompt included. */
  readonly repetition_penalty: number;
  /** N-grams of this length may not repeat; 0 is off. */
  readonly no_repeat_ngram_size: number;
  /** Draw tokens at random. Seeds draw other tokens than Python's, from the same distribution. */
  readonly sample: boolean;
  readonly temperature: number;
  /** Sample among this many likeliest tokens; 0 is all. */
  readonly top_k: number;
  /** Sample among the likeliest tokens that make up this share of the probability. */
  readonly top_p: number;
  /** Sample among tokens at least this times as likely as the likeliest. */
  readonly min_p: number;
  /** The same seed draws the same tokens here; null draws anew. */
  readonly seed: number | null;
  /** Texts that end a sequence, and are no part of it. */
  readonly stop: readonly string[];
}

const DEFAULTS: GenerationOptions = {
  max_new_tokens: 20, min_new_tokens: 0, beams: 1, returned: 1, length_penalty: 1, early_stopping: false, repetition_penalty: 1, no_repeat_ngram_size: 0,
  sample: false, temperature: 1, top_k: 0, top_p: 1, min_p: 0, seed: null, stop: [],
};

const OF_SAMPLING = ["temperature", "top_k", "top_p", "min_p"] as const;

type Check = (value: unknown) => string | undefined;

const whole = (least: number, most: number): Check => (value) =>
  !Number.isInteger(value) ? "expected a whole number" : (value as number) < least || (value as number) > most ? `expected ${least} to ${most}` : undefined;
const number = (fits: (value: number) => boolean, range: string): Check => (value) =>
  typeof value !== "number" || !Number.isFinite(value) ? "expected a finite number" : fits(value) ? undefined : `expected ${range}`;
const flag: Check = (value) => (typeof value === "boolean" ? undefined : "expected true or false");
const positive = number((value) => value > 0, "a number above 0");

const CHECKS: Readonly<Record<keyof GenerationOptions, Check>> = {
  max_new_tokens: whole(1, 100_000),
  min_new_tokens: whole(0, 100_000),
  beams: whole(1, 1000),
  returned: whole(1, 1000),
  length_penalty: number((value) => Math.abs(value) <= 5, "-5 to 5"),
  early_stopping: (value) => (value === "never" ? undefined : flag(value) && "expected true, false or 'never'"),
  repetition_penalty: positive,
  no_repeat_ngram_size: whole(0, 100_000),
  sample: flag,
  temperature: positive,
  top_k: whole(0, 100_000),
  top_p: number((value) => value > 0 && value <= 1, "a share above 0 and up to 1"),
  min_p: number((value) => value >= 0 && value <= 1, "a share of 0 to 1"),
  seed: (value) => (value === null ? undefined : whole(0, Number.MAX_SAFE_INTEGER)(value)),
  stop: (value) => (Array.isArray(value) && value.every((one) => typeof one === "string") ? (value.includes("") ? "an empty text ends everything; leave it out" : undefined) : "expected texts"),
};

/**
 * Options over a bundle's own; who turns the sampling of those off turns off its temperature, top_k, top_p and min_p too.
 *
 * Throws UsageError: an unknown name, a value out of range, or options that cannot go together.
 */
export function generationOptions(given: Readonly<Record<string, unknown>>, defaults: GenerationOptions = DEFAULTS): GenerationOptions {
  for (const name of Object.keys(given)) {
    if (!Object.hasOwn(CHECKS, name)) throw new UsageError(`option ${choices(name, Object.keys(CHECKS))}`);
  }
  const base = given["sample"] === false ? { ...defaults, ...Object.fromEntries(OF_SAMPLING.map((name) => [name, DEFAULTS[name]])) } : defaults;
  const made = { ...base, ...given } as GenerationOptions;
  for (const [name, check] of Object.entries(CHECKS)) {
    const value = made[name as keyof GenerationOptions];
    const problem = check(value);
    if (problem) throw new UsageError(`option ${name}=${quoted(value)}: ${problem}`);
  }
  checkTogether(made);
  return made;
}

function checkTogether(made: GenerationOptions): void {
  const { min_new_tokens: least, max_new_tokens: most, sample, beams, returned } = made;
  if (least > most) throw new UsageError(`option min_new_tokens=${least} is above max_new_tokens=${most}: raise max_new_tokens`);
  if (sample && beams > 1) {
    throw new UsageError(`options sample=true and beams=${beams} cannot go together: take beams=1 (returned=N draws N sequences), or sample=false`);
  }
  if (!sample && returned > beams) {
    throw new UsageError(`option returned=${returned} is above beams=${beams}: take beams=${returned} or more, or sample=true`);
  }
  const idle = sample ? undefined : OF_SAMPLING.find((name) => made[name] !== DEFAULTS[name]);
  if (idle) throw new UsageError(`option ${idle}=${made[idle]} means nothing without sampling: add sample=true, or leave it out`);
}
