/** OC-SORT (Cao et al., arXiv 2203.14360): observation-centric, so that filter errors do not build up when lost. */

import { boxIou } from "../tasks/similarity.js";
import { uncontested } from "./assignment.js";
import { type Track, Tracker, where } from "./base.js";
import type { Observed } from "./detections.js";
import * as kalman from "./kalman.js";
import { COMMON, parsed, type TrackerOptions } from "./options.js";
import { State } from "./state.js";

export interface OCSortOptions extends TrackerOptions {
  /** Detections below it are ignored; 0.6. */
  readonly min_score: number;
  /** IoU of a detection with where its track is expected, or was last seen; 0.3. */
  readonly min_iou: number;
  /** What a detection straight ahead gains over one straight behind, times its score; 0.2. */
  readonly direction_weight: number;
  /** Over how many seconds a direction is measured. */
  readonly direction_seconds: number;
}

const DEFAULTS: OCSortOptions = {
  ...COMMON, min_score: 0.6, min_iou: 0.3, direction_weight: 0.2, direction_seconds: 0.1, confirm_seconds: 2 / 30,
};

/** OC-SORT: observation-centric momentum (OCM), recovery (OCR) and re-update (ORU). */
export class OCSort extends Tracker<OCSortOptions> {
  private updates: number[] = [];

  constructor(options: Partial<OCSortOptions> = {}) {
    super(parsed(DEFAULTS, options));
  }

  override get leastScore(): number {
    return this.options.min_score;
  }

  override reset(): void {
    super.reset();
    this.updates = [];
  }

  protected override begins(score: number): boolean {
    return score >= Math.fround(this.options.min_score);
  }

  protected override match(similarity: Float32Array, found: Observed, time: number, matches: Int32Array): void {
    const strong = Uint8Array.from(found.scores, (score) => Number(this.begins(score)));
    const some = (): number[] => where(found.count, (j) => strong[j] === 1);
    const gains = this.withMomentum(similarity, found, time);
    const least = this.options.min_iou;
    this.stage(gains, found.count, where(matches.length, () => true), some(), matches, similarity, least);
    for (const j of matches) if (j >= 0) strong[j] = 0;
    const rows = where(matches.length, (i) => matches[i]! < 0);
    const columns = some();
    if (!rows.length || !columns.length) return;
    // OCR: perhaps it stayed where it was last seen.
    const boxes = new Float32Array(4 * this.tracks.length);
    this.tracks.forEach((track, i) => boxes.set(track.box, 4 * i));
    const again = boxIou(boxes, found.boxes);
    this.keepApart(again, found);
    this.stage(again, found.count, rows, columns, matches, again, least);
  }

  /**
   * OCM: the similarity (n, m) with, where there is any, how well a detection lies in its track's direction.
   *
   * The direction of a track is from where it was `direction_seconds` before it was last seen to there, and the
   * direction to a detection is from where it was that long before now. Only where there is a choice.
   */
  private withMomentum(similarity: Float32Array, found: Observed, time: number): Float32Array {
    const { direction_seconds: ago, direction_weight: weight } = this.options;
    const { count, boxes, scores } = found;
    if (!weight || uncontested(similarity, this.tracks.length, count)) return similarity;
    const gains = similarity.slice();
    const [earlier, anchor, heading, wanted] = [0, 1, 2, 3].map(() => new Float32Array(2)) as [Float32Array, Float32Array, Float32Array, Float32Array];
    const f = Math.fround;
    this.tracks.forEach(({ box, trajectory, seen }, i) => {
      if (trajectory.count < 2) {
        // Without a direction there is no bonus, and no gain below the least.
        for (let j = i * count; j < (i + 1) * count; j++) if (gains[j]!) gains[j] = Math.max(gains[j]!, f(1e-6));
        return;
      }
      trajectory.middleAtOrBefore(seen - ago + 1e-6, earlier);
      trajectory.middleAtOrBefore(time - ago + 1e-6, anchor);
      unit(f(f(box[0]! + box[2]!) * 0.5) - earlier[0]!, f(f(box[1]! + box[3]!) * 0.5) - earlier[1]!, heading);
      for (let j = 0; j < count; j++) {
        const alike = similarity[i * count + j]!;
        if (!alike) continue;
        unit(f(f(boxes[4 * j]! + boxes[4 * j + 2]!) * 0.5) - anchor[0]!, f(f(boxes[4 * j + 1]! + boxes[4 * j + 3]!) * 0.5) - anchor[1]!, wanted);
        const cosine = f(heading[0]! * wanted[0]! + heading[1]! * wanted[1]!);
        const angle = f(Math.acos(Math.min(Math.max(cosine, -1), 1)));
        const bonus = f((0.5 - angle / Math.PI) * weight * scores[j]!);
        gains[i * count + j] = Math.max(f(alike + bonus), f(1e-6));
      }
    });
    return gains;
  }

  protected override corrected(track: Track, states: Float64Array, at: number, found: Observed, row: number, time: number): void {
    if (track.state === State.LOST) this.reupdate(track, states, at, found, row, time);
    super.corrected(track, states, at, found, row, time);
  }

  /**
   * ORU: the expected state as if the lost track had been seen on a straight way to where it is now.
   *
   * A virtual observation for each update that missed it; the error that the filter piled up meanwhile is gone.
   */
  private reupdate(track: Track, states: Float64Array, at: number, found: Observed, row: number, time: number): void {
    const [start, goal, way] = [new Float64Array(4), new Float64Array(4), new Float64Array(4)];
    kalman.centred(track.box, 0, start);
    kalman.centred(found.boxes, row, goal);
    states.set(track.motion, at);
    let since = track.seen;
    for (const moment of this.updates) {
      if (!(moment > track.seen)) continue;
      const share = (moment - track.seen) / (time - track.seen);
      for (let k = 0; k < 4; k++) way[k] = start[k]! + share * (goal[k]! - start[k]!);
      kalman.predict(states, at, moment - since, states, at);
      kalman.correct(states, at, way);
      since = moment;
    }
    kalman.predict(states, at, time - since, states, at);
  }

  protected override advance(time: number): boolean {
    const before = this.time;
    const first = super.advance(time);
    if (before !== null) {
      this.updates = this.updates.filter((moment) => moment > before - this.options.lost_seconds - 1);
      this.updates.push(before);
    }
    return first;
  }
}

/** A direction of length 1, or near 0 where there is none. */
function unit(x: number, y: number, out: Float32Array): void {
  const length = Math.fround(Math.sqrt(x * x + y * y) + Math.fround(1e-6));
  out[0] = x / length;
  out[1] = y / length;
}
