/** Helpers of pose decoders: keypoint tables, and the candidate of a single-person model. */

import { checkFinite } from "./arithmetic.js";
import { type Attached, type Candidates, type InputFrame, Misfit } from "./base.js";

/** Heatmaps and SimCC are trained on places that count from the centre of the first pixel; edgekit's from its corner. */
export const CENTRE = 0.5;

/** Keypoints above this score say where a person is. */
const VISIBLE = 0.2;

/** Values (n, 2 k or 3 k) as points (n, k, 3); without a third value the score is 1. Throws Misfit. */
export function pointsOf(values: Float32Array, rows: number, width: number, keypoints: number): Attached {
  if (keypoints === 0 || (width !== 2 * keypoints && width !== 3 * keypoints)) {
    throw new Misfit(`${width} keypoint values, but ${2 * keypoints} or ${3 * keypoints} are needed`);
  }
  const each = width / keypoints;
  const points = new Float32Array(rows * keypoints * 3);
  for (let i = 0; i < rows * keypoints; i++) {
    points[3 * i] = values[each * i]!;
    points[3 * i + 1] = values[each * i + 1]!;
    points[3 * i + 2] = each === 3 ? values[3 * i + 2]! : 1;
  }
  return { data: points, width: 3 * keypoints };
}

/**
 * The one person of an input as a candidate: its score is its keypoints' mean, its box is round the sure ones.
 *
 * `points` is (k, 3): x, y in input pixels and score. Nobody is there when the score is not above the threshold.
 */
export function onePerson(points: Float32Array, frame: InputFrame, threshold: number): Candidates {
  const count = points.length / 3;
  if (count !== frame.keypoints) throw new Misfit(`${count} keypoints, but the skeleton names ${frame.keypoints}`);
  checkFinite(points);
  let sum = 0;
  let sure = false;
  for (let i = 2; i < points.length; i += 3) {
    sum += points[i]!;
    sure ||= points[i]! > VISIBLE;
  }
  const score = Math.fround(sum / count);
  const box = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < points.length; i += 3) {
    if (sure && !(points[i + 2]! > VISIBLE)) continue;
    const [x, y] = [points[i]!, points[i + 1]!];
    box[0] = Math.min(box[0]!, x);
    box[1] = Math.min(box[1]!, y);
    box[2] = Math.max(box[2]!, x);
    box[3] = Math.max(box[3]!, y);
  }
  const there = score > Math.fround(threshold);
  return {
    boxes: Float32Array.from(there ? box : []),
    scores: Float32Array.from(there ? [score] : []),
    classIds: new Int32Array(there ? 1 : 0),
    anchors: new Int32Array(there ? 1 : 0),
    attached: { data: there ? points : new Float32Array(0), width: points.length },
  };
}
