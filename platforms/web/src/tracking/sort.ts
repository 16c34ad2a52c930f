/** SORT (Bewley et al., arXiv 1602.00763): Kalman filter, IoU, one assignment. The baseline. */

import { Tracker, where } from "./base.js";
import type { Observed } from "./detections.js";
import { COMMON, parsed, type TrackerOptions } from "./options.js";

export interface SortOptions extends TrackerOptions {
  /** Detections below it are ignored; 0.5 in the paper. */
  readonly min_score: number;
  /** IoU of a detection with where its track is expected; 0.3 in the paper's code. */
  readonly min_iou: number;
}

const DEFAULTS: SortOptions = { ...COMMON, min_score: 0.5, min_iou: 0.3, confirm_seconds: 2 / 30 };

/** SORT, with tracks that live on for `lost_seconds` like everyone's (the paper drops them at the first miss). */
export class Sort extends Tracker<SortOptions> {
  constructor(options: Partial<SortOptions> = {}) {
    super(parsed(DEFAULTS, options));
  }

  override get leastScore(): number {
    return this.options.min_score;
  }

  protected override begins(score: number): boolean {
    return score >= Math.fround(this.options.min_score);
  }

  protected override match(similarity: Float32Array, found: Observed, _time: number, matches: Int32Array): void {
    const strong = where(found.count, (j) => this.begins(found.scores[j]!));
    const every = where(matches.length, () => true);
    this.stage(similarity, found.count, every, strong, matches, similarity, this.options.min_iou);
  }
}
