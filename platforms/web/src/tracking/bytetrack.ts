/**
 * ByteTrack (Zhang et al., arXiv 2110.06864): every detection counts, the weak ones for tracks that are known.
 *
 * The paper's second matching leaves out lost tracks. Here they take part: in a crowd, who comes back into sight is
 * half hidden at first and weakly detected, and would stay lost until nobody stands in front any more.
 */

import { UsageError } from "../errors.js";
import { Tracker, where } from "./base.js";
import type { Observed } from "./detections.js";
import { COMMON, parsed, type TrackerOptions } from "./options.js";
import { State } from "./state.js";

export interface ByteTrackOptions extends TrackerOptions {
  /** Detections from here on are matched first, with all tracks; 0.6 in the paper. */
  readonly high_score: number;
  /** Detections between this and `high_score` are matched with what then is left; 0.1. */
  readonly low_score: number;
  /** Detections from here on may begin a track. */
  readonly new_score: number;
  /** Of the first matching, IoU times score. */
  readonly min_similarity: number;
  /** Of the second matching, with weak detections. */
  readonly min_iou: number;
  /** IoU times score of the matching of tentative tracks. */
  readonly tentative_similarity: number;
}

export const BYTETRACK: ByteTrackOptions = {
  ...COMMON,
  high_score: 0.6,
  low_score: 0.1,
  new_score: 0.7,
  min_similarity: 0.2,
  min_iou: 0.5,
  tentative_similarity: 0.3,
};

/** What ByteTrack and BoT-SORT share. */
export abstract class ByteTracker<O extends ByteTrackOptions> extends Tracker<O> {
  constructor(options: O) {
    super(options);
    const { low_score, high_score, new_score } = options;
    if (!(low_score <= high_score && high_score <= new_score)) {
      throw new UsageError(`low_score <= high_score <= new_score must hold, not ${low_score}, ${high_score}, ${new_score}`);
    }
  }

  override get leastScore(): number {
    return this.options.low_score;
  }

  protected override begins(score: number): boolean {
    return score >= Math.fround(this.options.new_score);
  }

  protected override match(similarity: Float32Array, found: Observed, _time: number, matches: Int32Array): void {
    const { options, tracks } = this;
    const width = found.count;
    const high = Uint8Array.from(found.scores, (score) => Number(score >= Math.fround(options.high_score)));
    const fused = this.closeness(similarity, found);
    const strong = (): number[] => where(width, (j) => high[j] === 1);
    const known = where(tracks.length, (i) => tracks[i]!.state !== State.TENTATIVE);
    this.stage(fused, width, known, strong(), matches, fused, options.min_similarity);
    const weak = where(width, (j) => !high[j] && found.scores[j]! > Math.fround(options.low_score));
    this.stage(similarity, width, known.filter((i) => matches[i]! < 0), weak, matches, similarity, options.min_iou);
    const tentative = where(tracks.length, (i) => tracks[i]!.state === State.TENTATIVE);
    if (!tentative.length) return;
    for (const j of matches) if (j >= 0) high[j] = 0;
    this.stage(fused, width, tentative, strong(), matches, fused, options.tentative_similarity);
  }

  /** Similarity (n, m) of the first and third matching: IoU times score. */
  protected closeness(similarity: Float32Array, found: Observed): Float32Array {
    const { count, scores } = found;
    const fused = new Float32Array(similarity.length);
    for (let at = 0, j = 0; at < fused.length; at++, j = j + 1 === count ? 0 : j + 1) fused[at] = similarity[at]! * scores[j]!;
    return fused;
  }
}

export class ByteTrack extends ByteTracker<ByteTrackOptions> {
  constructor(options: Partial<ByteTrackOptions> = {}) {
    super(parsed(BYTETRACK, options));
  }
}
