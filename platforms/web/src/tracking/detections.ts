/** The detections of one frame, checked and in an order that does not depend on the one they were given in. */

import { descending, takeFloats, takeInts } from "../arrays.js";
import { UsageError } from "../errors.js";

/** Detections of one frame, best score first; `rows` says where each was in the arrays given. */
export interface Observed {
  readonly count: number;
  readonly boxes: Float32Array;
  readonly scores: Float32Array;
  readonly classIds: Int32Array;
  readonly rows: Int32Array;
  /** Unit vectors (n, dimension), or null. */
  readonly embeddings: Float32Array | null;
  readonly dimension: number;
}

/** Check the arrays of one frame and bring them into order. Throws UsageError. */
export function observed(boxes: ArrayLike<number>, scores: ArrayLike<number>, classIds: ArrayLike<number>, embeddings?: ArrayLike<number> | null): Observed {
  if (boxes.length % 4) throw new UsageError(`boxes must have four numbers each, not ${boxes.length} in all`);
  const count = boxes.length / 4;
  const box = numbers("boxes", boxes, 4);
  const score = numbers("scores", scores, 1);
  for (const [name, column] of [["scores", scores], ["class_ids", classIds]] as const) {
    if (column.length !== count) throw new UsageError(`${name} must have one entry for each of the ${count} boxes, not ${column.length}`);
  }
  for (let i = 0; i < count; i++) {
    if (!(0 <= score[i]! && score[i]! <= 1)) throw new UsageError(`scores must be in 0..1, not ${score[i]}; apply the sigmoid first`);
    if (!Number.isInteger(classIds[i])) throw new UsageError(`class_ids must be whole numbers, not ${classIds[i]}`);
    const [x1, y1, x2, y2] = box.subarray(4 * i, 4 * i + 4);
    if (x2! < x1! || y2! < y1!) throw new UsageError(`boxes must be x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, not [${x1}, ${y1}, ${x2}, ${y2}]`);
  }
  const kind = Int32Array.from(classIds);
  const order = ranked(box, score, kind);
  const dimension = embeddings && count ? embeddings.length / count : 0;
  if (embeddings && !Number.isInteger(dimension)) {
    throw new UsageError(`embeddings must have one row for each of the ${count} boxes, not ${embeddings.length} numbers`);
  }
  return {
    count,
    boxes: takeFloats(box, order, 4),
    scores: takeFloats(score, order),
    classIds: takeInts(kind, order),
    rows: order,
    embeddings: embeddings ? units(takeFloats(numbers("embeddings", embeddings, dimension || 1), order, dimension), dimension) : null,
    dimension,
  };
}

function numbers(name: string, given: ArrayLike<number>, width: number): Float32Array {
  const found = Float32Array.from(given);
  for (let i = 0; i < found.length; i++) {
    if (!Number.isFinite(found[i])) throw new UsageError(`${name} must be finite; row ${Math.floor(i / width)} has ${given[i]}`);
  }
  return found;
}

/** Rows scaled to length 1, in place; a row of zeros stays, and is like nothing. */
export function units(vectors: Float32Array, width: number): Float32Array {
  for (let at = 0; at < vectors.length; at += width) {
    let square = 0;
    for (let k = 0; k < width; k++) square += vectors[at + k]! * vectors[at + k]!;
    const length = Math.fround(Math.sqrt(square)) || 1;
    for (let k = 0; k < width; k++) vectors[at + k] = vectors[at + k]! / length;
  }
  return vectors;
}

/** Best score first; equal ones by place and class, so that the order they were given in decides nothing. */
function ranked(boxes: Float32Array, scores: Float32Array, classIds: Int32Array): Int32Array {
  return descending(scores).sort((a, b) => {
    if (scores[a] !== scores[b]) return scores[b]! - scores[a]!;
    for (let k = 3; k >= 0; k--) {
      const difference = boxes[4 * a + k]! - boxes[4 * b + k]!;
      if (difference) return difference;
    }
    return classIds[a]! - classIds[b]! || a - b;
  });
}
