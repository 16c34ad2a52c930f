/** How alike two objects are, 0..1: boxes by IoU, keypoints by OKS. */

import { descending } from "../arrays.js";

/** Area of a person's outline as a share of its box, where only the box is known. */
export const AREA_SHARE = 0.53;

const f = Math.fround;

/** Areas (n,) of boxes (n, 4); 0 for those without one. */
export function boxAreas(boxes: Float32Array): Float32Array {
  const areas = new Float32Array(boxes.length / 4);
  for (let i = 0; i < areas.length; i++) {
    areas[i] = Math.max(f(boxes[4 * i + 2]! - boxes[4 * i]!), 0) * Math.max(f(boxes[4 * i + 3]! - boxes[4 * i + 1]!), 0);
  }
  return areas;
}

/** IoU of each box of one set with each of another, (n, m) row after row; 0 where empty. In 32-bit steps, as Python. */
export function boxIou(first: Float32Array, second: Float32Array): Float32Array {
  const n = first.length / 4;
  const m = second.length / 4;
  const [ours, theirs] = [boxAreas(first), boxAreas(second)];
  const result = new Float32Array(n * m);
  for (let i = 0; i < n; i++) {
    const x1 = first[4 * i]!;
    const y1 = first[4 * i + 1]!;
    const x2 = first[4 * i + 2]!;
    const y2 = first[4 * i + 3]!;
    for (let j = 0; j < m; j++) {
      const width = f(Math.min(x2, second[4 * j + 2]!) - Math.max(x1, second[4 * j]!));
      if (!(width > 0)) continue;
      const height = f(Math.min(y2, second[4 * j + 3]!) - Math.max(y1, second[4 * j + 1]!));
      if (!(height > 0)) continue;
      const overlap = f(width * height);
      const union = f(f(ours[i]! + theirs[j]!) - overlap);
      result[i * m + j] = union > 0 ? overlap / union : overlap;
    }
  }
  return result;
}

/** OKS of two poses at rows of (n, k, 3), with the first one's area: as COCO scores keypoints, all counted alike. */
function oks(first: Float32Array, i: number, second: Float32Array, j: number, area: number, spread: Float32Array): number {
  const count = spread.length;
  let sum = 0;
  for (let k = 0; k < count; k++) {
    const a = 3 * (i * count + k);
    const b = 3 * (j * count + k);
    const dx = first[a]! - second[b]!;
    const dy = first[a + 1]! - second[b + 1]!;
    sum += Math.exp(-(dx * dx + dy * dy) / (2 * spread[k]! * Math.max(area, 1e-6)));
  }
  return f(sum / count);
}

/** What a distance is divided by for each keypoint: (2 sigma)^2. */
const spreadOf = (sigmas: readonly number[]): Float32Array => Float32Array.from(sigmas, (sigma) => f(2 * f(sigma)) ** 2);

/** Object keypoint similarity of every pose of one set with every pose of another, (n, m). */
export function keypointSimilarity(first: Float32Array, second: Float32Array, areas: ArrayLike<number>, sigmas: readonly number[]): Float32Array {
  const spread = spreadOf(sigmas);
  const [n, m] = [first.length / (3 * sigmas.length), second.length / (3 * sigmas.length)];
  const result = new Float32Array(n * m);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < m; j++) result[i * m + j] = oks(first, i, second, j, areas[i]!, spread);
  }
  return result;
}

/**
 * Indices of the poses that survive greedy NMS by OKS, best score first.
 *
 * Boxes of one person differ more than its keypoints do, so that top-down pipelines drop their doubles by OKS.
 */
export function keypointSuppression(
  keypoints: Float32Array, scores: Float32Array, areas: ArrayLike<number>, sigmas: readonly number[], limit: number,
): Int32Array {
  const spread = spreadOf(sigmas);
  const kept: number[] = [];
  const most = f(limit);
  for (const i of descending(scores)) {
    if (kept.every((k) => oks(keypoints, k, keypoints, i, areas[k]!, spread) <= most)) kept.push(i);
  }
  return Int32Array.from(kept);
}

/** Spread of a keypoint whose annotators' is not known. */
const SIGMA = 0.05;

/** The spread of every keypoint of a skeleton. */
export function sigmasOf(skeleton: { readonly names: readonly string[]; readonly sigmas: readonly number[] }): readonly number[] {
  return skeleton.sigmas.length ? skeleton.sigmas : skeleton.names.map(() => SIGMA);
}
