/** Smooth the keypoints of a video with the One-Euro filter, per track. */

import { UsageError } from "./errors.js";
import type { Poses } from "./results/results.js";

export interface OneEuroOptions {
  /** Hz at rest; lower is steadier. */
  readonly cutoff: number;
  /** How much the cutoff grows with the speed; higher lags less. */
  readonly beta: number;
  /** Hz of the filter of the speed; 1 in the paper. */
  readonly speed_cutoff: number;
  /** A track that was away for longer starts anew. */
  readonly forget_seconds: number;
}

/** The last filtered state of a track: time, positions (k, 2) in pixels and speeds (k, 2) in pixels/s. */
interface Past {
  readonly time: number;
  readonly places: Float64Array;
  readonly speeds: Float64Array;
}

/**
 * The One-Euro filter (Casiez, Roussel, Vogel, CHI 2012): steady when slow, without lag when fast.
 *
 * Places are low-pass filtered with a cutoff of `cutoff + beta * speed`, the speed in object sizes per second, so that
 * near and far people are smoothed alike.
 */
export class OneEuro {
  private readonly options: OneEuroOptions;
  private past = new Map<number, Past>();

  /** Throws UsageError: a value that is not positive (`beta` may be 0). */
  constructor(options: Partial<OneEuroOptions> = {}) {
    this.options = { cutoff: 1, beta: 4, speed_cutoff: 1, forget_seconds: 1, ...options };
    for (const name of ["cutoff", "speed_cutoff", "forget_seconds"] as const) {
      if (!(this.options[name] > 0)) throw new UsageError(`${name} must be positive, not ${this.options[name]}`);
    }
    if (!(this.options.beta >= 0)) throw new UsageError(`beta must be 0 or more, not ${this.options.beta}`);
  }

  /** The poses of one frame, smoothed; scores stay as they are. Throws UsageError: no track ids or no time. */
  smooth(poses: Poses): Poses {
    const { trackIds, time, boxes } = poses;
    if (!trackIds || time === null) {
      throw new UsageError("smoothing needs track ids and the time of the frame; take the results of stream(..., { tracker })");
    }
    const keypoints = poses.keypoints.slice();
    const width = 3 * poses.skeleton.names.length;
    trackIds.forEach((track, row) => {
      const area = Math.fround(boxes[4 * row + 2]! - boxes[4 * row]!) * Math.fround(boxes[4 * row + 3]! - boxes[4 * row + 1]!);
      this.filter(track, keypoints.subarray(row * width, (row + 1) * width), time, Math.sqrt(Math.max(area, 1)));
    });
    for (const [track, past] of this.past) if (time - past.time > this.options.forget_seconds) this.past.delete(track);
    return { ...poses, keypoints };
  }

  /** Smooth the points (k, 3) of a track in place. */
  private filter(track: number, points: Float32Array, time: number, size: number): void {
    const count = points.length / 3;
    const places = new Float64Array(2 * count);
    for (let k = 0; k < count; k++) places.set([points[3 * k]!, points[3 * k + 1]!], 2 * k);
    const past = this.past.get(track);
    const passed = past ? time - past.time : 0;
    const speeds = new Float64Array(2 * count);
    if (past && passed > 0 && passed <= this.options.forget_seconds && past.places.length === places.length) {
      const weight = weightOf(this.options.speed_cutoff, passed);
      for (let i = 0; i < speeds.length; i++) {
        speeds[i] = past.speeds[i]! + weight * ((places[i]! - past.places[i]!) / passed - past.speeds[i]!);
      }
      for (let k = 0; k < count; k++) {
        const speed = Math.hypot(speeds[2 * k]!, speeds[2 * k + 1]!) / size;
        const share = weightOf(this.options.cutoff + this.options.beta * speed, passed);
        for (let i = 2 * k; i < 2 * k + 2; i++) places[i] = past.places[i]! + share * (places[i]! - past.places[i]!);
        points[3 * k] = places[2 * k]!;
        points[3 * k + 1] = places[2 * k + 1]!;
      }
    }
    this.past.set(track, { time, places, speeds });
  }
}

/** Weight of a new value in a first-order low-pass filter, after the given seconds. */
function weightOf(cutoff: number, passed: number): number {
  const step = 2 * Math.PI * cutoff * passed;
  return step / (step + 1);
}
