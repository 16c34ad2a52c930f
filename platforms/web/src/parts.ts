/** The part of an image around each box as a pose model's input, and the pose that is read in it. */

import type { Tensor } from "./arrays.js";
import { type ImageRule, padding } from "./bundle/manifest.js";
import { type Pixels, Preprocessor, type Transform } from "./inputs/images.js";

import { AREA_SHARE, boxAreas, keypointSuppression, sigmasOf } from "./tasks/similarity.js";
import type { Task } from "./tasks/detect.js";
import { type Detections, type Instances, type Poses, select } from "./results/results.js";

/** The best pose in each box. */
export interface PosesInBoxes {
  /** (n, k, 3) x, y, score in pixels of the image; zeros where there is none. */
  readonly keypoints: Float32Array;
  /** Milliseconds in the engine. */
  readonly inference: number;
}

/** The map from an image to the part around a box (x1, y1, x2, y2): grown to the input's shape, never stretched. */
export function partOf(image: Pixels, box: ArrayLike<number>, rule: ImageRule, margin: number): Transform {
  const [rows, columns] = rule.size;
  const aspect = columns / rows;
  const [x1, y1, x2, y2] = [box[0]!, box[1]!, box[2]!, box[3]!];
  const [wide, high] = [Math.max(x2 - x1, 1) * margin, Math.max(y2 - y1, 1) * margin];
  const [scaleX, scaleY] = [columns / Math.max(wide, high * aspect), rows / Math.max(high, wide / aspect)];
  return {
    scaleX,
    scaleY,
    offsetX: columns / 2 - ((x1 + x2) / 2) * scaleX,
    offsetY: rows / 2 - ((y1 + y2) / 2) * scaleY,
    width: image.width,
    height: image.height,
    resized: [Math.round(image.width * scaleX), Math.round(image.height * scaleY)],
  };
}

/** A part as RGB (height, width, 3), sampled bilinearly; padded where it is outside of the image. As `cv2.warpAffine`. */
export function sampled(image: Pixels, mapping: Transform, rule: ImageRule): Uint8Array {
  const [rows, columns] = rule.size;
  const { data, width, height, channels } = image;
  const { scaleX, scaleY, offsetX, offsetY } = mapping;
  const pad = padding(rule);
  const part = new Uint8Array(3 * columns * rows);
  const at = (x: number, y: number, channel: number): number =>
    x >= 0 && x < width && y >= 0 && y < height ? data[(y * width + x) * channels + channel]! : pad[channel]!;
  let to = 0;
  for (let j = 0; j < rows; j++) {
    const y = (j + 0.5 - offsetY) / scaleY - 0.5;
    const top = Math.floor(y);
    const down = y - top;
    for (let i = 0; i < columns; i++) {
      const x = (i + 0.5 - offsetX) / scaleX - 0.5;
      const left = Math.floor(x);
      const across = x - left;
      for (let channel = 0; channel < 3; channel++) {
        const upper = at(left, top, channel) * (1 - across) + at(left + 1, top, channel) * across;
        const lower = at(left, top + 1, channel) * (1 - across) + at(left + 1, top + 1, channel) * across;
        part[to++] = Math.round(upper * (1 - down) + lower * down);
      }
    }
  }
  return part;
}

/** Run a pose model once for each box (n, 4). */
export async function posesIn(
  image: Pixels, boxes: Float32Array, margin: number, task: Task, preprocess: Preprocessor, run: (tensor: Tensor) => Promise<Tensor[]>,
): Promise<PosesInBoxes> {
  const width = 3 * (task.contract.skeleton?.names.length ?? 0);
  const keypoints = new Float32Array((boxes.length / 4) * width);
  let inference = 0;
  for (let row = 0; 4 * row < boxes.length; row++) {
    const mapping = partOf(image, boxes.subarray(4 * row, 4 * row + 4), preprocess.rule, margin);
    const tensor = preprocess.normalise(sampled(image, mapping, preprocess.rule));
    const begun = performance.now();
    const outputs = await run(tensor);
    inference += performance.now() - begun;
    const found = task.result(outputs, mapping, { score: -1 });
    if (found.kind === "poses" && found.length) keypoints.set(found.keypoints.subarray(0, width), row * width);
  }
  return { keypoints, inference };
}

/** Boxes and the poses in them as one result, best first: scores multiplied, and poses that are one person's dropped. */
export function joined(found: Detections | Instances, keypoints: Float32Array, skeleton: Poses["skeleton"], double: number): Poses {
  const count = skeleton.names.length;
  const scores = found.scores.map((score, row) => {
    let sum = 0;
    for (let k = 0; k < count; k++) sum = Math.fround(sum + keypoints[3 * (row * count + k) + 2]!);
    return score * Math.fround(sum / count);
  });
  const areas = boxAreas(found.boxes).map((area) => area * AREA_SHARE);
  const kept = keypointSuppression(keypoints, scores, areas, sigmasOf(skeleton), double);
  const { length, boxes, classIds, trackIds, classes, size, time, timings } = found;
  return select({ kind: "poses", length, boxes, scores, classIds, trackIds, keypoints, skeleton, classes, size, time, timings }, kept);
}
