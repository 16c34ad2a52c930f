/** Results beside those that Python found with the same file and picture. */

import * as edgekit from "../src/index.js";

/** How far two results may be apart. */
export interface Limits {
  readonly pixel: number;
  readonly score: number;
  /** Of a classifier's scores: a softmax makes much of little. */
  readonly probability: number;
  /** Share of masks that are equal to the pixel, and of pixels of a label map that may differ. */
  readonly masks: number;
  readonly labels: number;
}

/** Of the same pixels: sums are ordered differently, and a resize may be a grey level off, as the golden set allows. */
export const SAME: Limits = { pixel: 0.05, score: 1e-4, probability: 5e-4, masks: 0.8, labels: 1e-3 };
/** Of pixels that another decoder made: video is YUV, which every decoder turns to RGB in its own way. */
export const DECODED: Limits = { pixel: 2, score: 0.1, probability: 0.1, masks: 0, labels: 0.05 };

/** In what two results differ by more than the limits, and the largest differences of boxes and scores. */
export interface Compared {
  readonly wrong: readonly string[];
  readonly pixels: number;
  readonly scores: number;
  readonly objects: number;
}

/** Largest difference of two lists of numbers; infinite where their lengths differ. */
function off(one: ArrayLike<number>, other: ArrayLike<number>): number {
  if (one.length !== other.length) return Infinity;
  let most = 0;
  for (let i = 0; i < one.length; i++) most = Math.max(most, Math.abs(one[i]! - other[i]!));
  return most;
}

/** Compare with Python's document of a result (`to_dict`). */
export function compared(found: edgekit.Result, expected: any, limits: Limits = SAME): Compared {
  if (found.kind === "classification") return judged(1, 0, off(found.scores, expected.scores), limits.pixel, limits.probability);
  if (found.kind === "embedding") return judged(1, 0, off(found.vector, expected.vector), limits.pixel, limits.score);
  if (found.kind === "labels") {
    const labels = expected.class_ids.flatMap((id: number, i: number) => new Array(expected.lengths[i]).fill(id));
    const differing = labels.filter((label: number, i: number) => label !== found.labels[i]).length;
    return judged(1, 0, 0, 0, 0, differing > labels.length * limits.labels ? [`${differing} of ${labels.length} pixels differ`] : []);
  }
  const rows = [...expected.detections];
  // Of nearly equal scores either may be the first.
  if (limits !== SAME) rows.sort((a, b) => nearest(found, a) - nearest(found, b));
  const others = String([...found.classIds]) === String(rows.map((row) => row.class_id)) ? [] : [`classes ${[...found.classIds]}, not ${rows.map((row) => row.class_id)}`];
  let pixels = off(found.boxes, rows.flatMap((row) => row.box));
  if (found.kind === "poses") pixels = Math.max(pixels, off(found.keypoints, rows.flatMap((row) => row.keypoints.flat())));
  if (found.kind === "instances" && !others.length) others.push(...masksApart(found, rows, limits.masks));
  return judged(found.length, pixels, off(found.scores, rows.map((row) => row.score)), limits.pixel, limits.score, others);
}

function judged(objects: number, pixels: number, scores: number, pixel: number, score: number, others: readonly string[] = []): Compared {
  const wrong = [...others];
  if (!(pixels <= pixel)) wrong.push(`boxes: off by ${pixels} pixels`);
  if (!(scores <= score)) wrong.push(`scores: off by ${scores}`);
  return { wrong, pixels, scores, objects };
}

/** The row of a result whose box is nearest. */
function nearest({ boxes, length }: edgekit.WithBoxes, { box }: { box: number[] }): number {
  const away = Array.from({ length }, (_, i) => off(boxes.subarray(4 * i, 4 * i + 4), box));
  return away.indexOf(Math.min(...away));
}

function masksApart({ masks, size }: edgekit.Instances, rows: readonly any[], share: number): string[] {
  const empty = masks.findIndex(({ data }, i) => rows[i].mask.counts && !data.includes(1));
  const equal = masks.filter((mask, i) => edgekit.toRle(mask, size).counts === rows[i].mask.counts).length;
  return [...(empty < 0 ? [] : [`mask ${empty} is empty`]), ...(equal < masks.length * share ? [`${equal} of ${masks.length} masks are equal`] : [])];
}
