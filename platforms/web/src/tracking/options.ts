/** Options of trackers, checked. Names are those of Python and of manifests. */

import { choices, UsageError } from "../errors.js";

/** What every tracker can be told. */
export interface TrackerOptions {
  /** Seconds that a track lives on unseen; found again within it, it keeps its id. */
  readonly lost_seconds: number;
  /** Seconds that a new track must be seen, without a miss, before it is believed and gets an id. */
  readonly confirm_seconds: number;
  /** Match a track only with detections of its class. */
  readonly class_aware: boolean;
  /** Observations that `trajectory` remembers of each track. */
  readonly trajectory_points: number;
  /**
   * What `Tracks.boxes` has of a track that is in sight: where the `filter` takes it to be, which is steadier and nearer
   * the truth than a single detection; or the `detection`'s own box.
   */
  readonly boxes: "filter" | "detection";
}

export const COMMON: TrackerOptions = { lost_seconds: 1, confirm_seconds: 1 / 30, class_aware: false, trajectory_points: 128, boxes: "filter" };

/** Options and how far each may go: seconds and counts by name, all other numbers 0..1. */
const BOUNDS: Readonly<Record<string, readonly [least: number, most: number]>> = {
  lost_seconds: [0, Infinity],
  confirm_seconds: [0, Infinity],
  direction_seconds: [0, Infinity],
  trajectory_points: [2, 100_000],
};
const WORDS: Readonly<Record<string, readonly string[]>> = { boxes: ["filter", "detection"], camera_motion: ["off"] };
const WHOLE: readonly string[] = ["trajectory_points"];

/**
 * Options of one kind from what was given and the defaults.
 *
 * Throws UsageError: an unknown name, or a value that is out of range or of another type.
 */
export function parsed<O extends TrackerOptions>(defaults: O, given: Readonly<Partial<O>>): O {
  for (const [name, value] of Object.entries(given)) {
    if (!Object.hasOwn(defaults, name)) throw new UsageError(`option ${choices(name, Object.keys(defaults))}`);
    const usual = defaults[name as keyof O];
    if (typeof value !== typeof usual) throw new UsageError(`option ${name}=${value}: expected a ${typeof usual}`);
    if (typeof value === "string" && !WORDS[name]?.includes(value)) throw new UsageError(`option ${name}: ${choices(value, WORDS[name] ?? [])}`);
    if (typeof value !== "number") continue;
    const [least, most] = BOUNDS[name] ?? [0, 1];
    if (!Number.isFinite(value)) throw new UsageError(`option ${name}=${value}: expected a finite number`);
    if (WHOLE.includes(name) && !Number.isInteger(value)) throw new UsageError(`option ${name}=${value}: expected a whole number`);
    if (value < least) throw new UsageError(`option ${name}=${value}: expected at least ${least}`);
    if (value > most) throw new UsageError(`option ${name}=${value}: expected at most ${most}`);
  }
  return { ...defaults, ...given };
}
