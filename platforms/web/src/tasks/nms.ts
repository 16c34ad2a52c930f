/** Non-maximum suppression. */

import { descending } from "../arrays.js";

/** Candidates looked at, best first: a bound for thresholds near zero. */
const MOST = 30_000;

/** Below this sum of areas OpenCV takes any two boxes for the same one. */
const NOTHING = Number.EPSILON;

/**
 * Indices of the boxes that survive greedy NMS, best score first.
 *
 * A box is dropped when its IoU with a better, kept box of the same class (any class when `classAgnostic`) is above
 * `iou`. Equal to `cv2.dnn.NMSBoxesBatched`, which Python's runtime calls: boxes without an area count as one.
 */
export function nonMaximumSuppression(
  boxes: Float32Array,
  scores: Float32Array,
  classIds: Int32Array,
  iou: number,
  classAgnostic = false,
): Int32Array {
  const order = descending(scores).subarray(0, MOST);
  const limit = Math.fround(iou);
  const kept = new Int32Array(order.length);
  // Kept boxes side by side, which is faster to go through than boxes all over the place.
  const [left, top, right, bottom, area] = Array.from({ length: 5 }, () => new Float64Array(order.length)) as [
    Float64Array, Float64Array, Float64Array, Float64Array, Float64Array,
  ];
  const kinds = new Int32Array(order.length);
  let count = 0;
  next: for (const i of order) {
    const x1 = boxes[4 * i]!;
    const y1 = boxes[4 * i + 1]!;
    const x2 = Math.max(boxes[4 * i + 2]!, x1);
    const y2 = Math.max(boxes[4 * i + 3]!, y1);
    const own = (x2 - x1) * (y2 - y1);
    const kind = classAgnostic ? 0 : classIds[i]!;
    for (let k = 0; k < count; k++) {
      const sum = own + area[k]!;
      if (sum <= NOTHING) {
        if (limit < 1) continue next;
        continue;
      }
      if (kinds[k] !== kind) continue;
      const width = Math.min(x2, right[k]!) - Math.max(x1, left[k]!);
      if (width <= 0) continue;
      const height = Math.min(y2, bottom[k]!) - Math.max(y1, top[k]!);
      if (height <= 0) continue;
      const shared = width * height;
      if (Math.fround(1 - Math.fround(1 - shared / (sum - shared))) > limit) continue next;
    }
    left[count] = x1;
    top[count] = y1;
    right[count] = x2;
    bottom[count] = y2;
    area[count] = own;
    kinds[count] = kind;
    kept[count++] = i;
  }
  return kept.subarray(0, count);
}
