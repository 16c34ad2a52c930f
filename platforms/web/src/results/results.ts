/** What a model finds in one frame: one type for each task, told apart by `kind`. Coordinates are pixels of the upright frame. */

import { type Size, takeFloats, takeInts } from "../arrays.js";
import type { Skeleton } from "../bundle/manifest.js";
import { compressed, countsOf, type Mask, type Rle } from "./rle.js";

/** Milliseconds that one frame took: before, in, and after the engine. */
export interface Timings {
  readonly pre: number;
  readonly inference: number;
  readonly post: number;
}

interface Common {
  /** Names of all classes that the model knows. */
  readonly classes: readonly string[];
  /** (width, height) of the upright frame. */
  readonly size: Size;
  /** Seconds, as the frame has it; null where it has none. */
  readonly time: number | null;
  readonly timings: Timings;
}

interface Boxes extends Common {
  /** Number of objects; best first. */
  readonly length: number;
  /** (n, 4) x1, y1, x2, y2, one after the other. */
  readonly boxes: Float32Array;
  /** (n,) 0..1. */
  readonly scores: Float32Array;
  /** (n,), indices into `classes`. */
  readonly classIds: Int32Array;
  /** (n,), the same number for the same object in every frame; null where nothing is tracked. */
  readonly trackIds: Int32Array | null;
}

/** Boxes, scores and classes. */
export interface Detections extends Boxes {
  readonly kind: "detections";
}

/** Detections with keypoints. */
export interface Poses extends Boxes {
  readonly kind: "poses";
  /** (n, k, 3) x, y, score, one after the other. */
  readonly keypoints: Float32Array;
  readonly skeleton: Skeleton;
}

/** Detections with a mask each. */
export interface Instances extends Boxes {
  readonly kind: "instances";
  readonly masks: readonly Mask[];
}

/** Objects in boxes at any angle; `boxes` are the upright boxes around them, inside the frame. */
export interface OrientedBoxes extends Boxes {
  readonly kind: "oriented";
  /**
   * (n, 5) centre x, centre y, width, height, and the angle in radians from the x axis to the width, clockwise on the
   * screen; the longer side is the width, angles are in [-pi/2, pi/2).
   */
  readonly oriented: Float32Array;
}

/** The scores of all classes for the whole frame. */
export interface Classification extends Common {
  readonly kind: "classification";
  readonly scores: Float32Array;
  /** A frame may be of several classes, or of none. */
  readonly multiLabel: boolean;
  /** The score from which on `labels` names a class. */
  readonly threshold: number;
}

/** The class of every pixel. */
export interface LabelMap extends Common {
  readonly kind: "labels";
  /** (height, width), row after row. */
  readonly labels: Uint8Array | Uint16Array;
}

/** A vector of unit length for the whole frame. */
export interface Embedding extends Common {
  readonly kind: "embedding";
  readonly vector: Float32Array;
}

export type WithBoxes = Detections | Poses | Instances | OrientedBoxes;
export type Result = WithBoxes | Classification | LabelMap | Embedding;

/** Whether a result has boxes, which a tracker can follow. */
export function hasBoxes(result: Result): result is WithBoxes {
  return "boxes" in result;
}

/** The rows of a result at these places, in that order, perhaps with track ids. */
export function select<R extends WithBoxes>(result: R, rows: ArrayLike<number>, trackIds?: Int32Array): R {
  const picked = {
    ...result,
    length: rows.length,
    boxes: takeFloats(result.boxes, rows, 4),
    scores: takeFloats(result.scores, rows),
    classIds: takeInts(result.classIds, rows),
    trackIds: trackIds ?? (result.trackIds && takeInts(result.trackIds, rows)),
  };
  if (result.kind === "poses") {
    return { ...picked, keypoints: takeFloats(result.keypoints, rows, 3 * result.skeleton.names.length) };
  }
  if (result.kind === "oriented") return { ...picked, oriented: takeFloats(result.oriented, rows, 5) };
  if (result.kind === "instances") return { ...picked, masks: Array.from(rows, (row) => result.masks[row]!) };
  return picked;
}

/** Ids of the classes with the highest scores, best first. */
export function topIds(result: Classification, k = 5): number[] {
  const ids = Array.from(result.scores, (_, id) => id);
  return ids.sort((a, b) => result.scores[b]! - result.scores[a]! || a - b).slice(0, k);
}

/** Names of the classes that score at least the threshold, best first. */
export function labelsOf(result: Classification, threshold = result.threshold): string[] {
  const least = Math.fround(threshold);
  return topIds(result, result.scores.length)
    .filter((id) => result.scores[id]! >= least)
    .map((id) => result.classes[id]!);
}

/** A mask in COCO's encoding, in the size of the frame. */
export function toRle(mask: Mask, size: Size): Rle {
  return { size: [size[1], size[0]], counts: compressed(countsOf(mask, size)) };
}

/** A mask in the size of the frame, one byte a pixel. */
export function bitmap(mask: Mask, [width, height]: Size): Uint8Array {
  const whole = new Uint8Array(width * height);
  for (let y = 0; y < mask.height; y++) {
    whole.set(mask.data.subarray(y * mask.width, (y + 1) * mask.width), (mask.top + y) * width + mask.left);
  }
  return whole;
}
