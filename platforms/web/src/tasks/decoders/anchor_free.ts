/** YOLOv8, 11 and 26: boxes as distances from a cell's centre; keypoints, mask coefficients or angles beside them. */

import * as s from "../../bundle/schema.js";
import { atAnchors, Found, gridOf, logit, planes, sigmoid, survivors } from "./arithmetic.js";
import { type Attached, count, decoder, type Heads, type InputFrame, levels, Misfit, positive } from "./base.js";
import { pointsOf } from "./points.js";

const options = s.struct({
  strides: s.list(count),
  reg_max: s.left(count, 16),
  keypoint_scale: s.left(positive, 2),
  keypoint_offset: s.left(s.float(), 0),
  cell_offset: s.left(s.float(), 0.5),
  angle: s.left(s.oneOf("sigmoid", "radians"), "sigmoid"),
});
type Options = s.Infer<typeof options>;

function checkBins({ reg_max }: Options, channels: number): void {
  if (channels === 4 * reg_max) return;
  const bins = Math.floor(channels / 4);
  const fits = channels % 4 ? "" : `: reg_max: ${bins}`;
  const papers = bins === reg_max + 1 && !(channels % 4) ? " (GFL and NanoDet call the largest distance reg_max, and have one bin more)" : "";
  throw new Misfit(`reg_max: ${reg_max} wants ${4 * reg_max} channels of boxes, but there are ${channels}${fits}${papers}`);
}

/**
 * YOLOv8, 11 (with DFL) and 26 (without): distances left, top, right, bottom from the cell's centre, in strides.
 *
 * DFL heads give each distance as logits over bins, whose expectation is the distance (Li et al. 2020).
 */
function run(heads: Heads, options: Options, frame: InputFrame, threshold: number) {
  const cut = logit(threshold);
  const found = new Found();
  const { strides, reg_max: bins, cell_offset: offset } = options;
  const [boxHeads, classHeads] = [levels(heads, "boxes", strides.length), levels(heads, "classes", strides.length)];
  const reach = new Float64Array(4);
  let first = 0;
  strides.forEach((stride, level) => {
    const grid = gridOf(classHeads[level]!, frame, stride);
    const [rows, columns] = grid;
    const cells = rows * columns;
    const best = survivors(planes(classHeads[level]!, frame.classes, grid), 0, frame.classes, cells, cut);
    checkBins(options, boxHeads[level]!.shape[1]!);
    const boxes = planes(boxHeads[level]!, 4 * bins, grid);
    for (let cell = 0; cell < cells; cell++) {
      const value = best.values[cell]!;
      if (!(value > cut)) continue;
      for (let side = 0; side < 4; side++) reach[side] = distance(boxes, side * bins * cells + cell, bins, cells);
      const x = (cell % columns) + offset;
      const y = Math.floor(cell / columns) + offset;
      found.add(
        (x - reach[0]!) * stride, (y - reach[1]!) * stride, (x + reach[2]!) * stride, (y + reach[3]!) * stride,
        sigmoid(value), best.classIds[cell]!, first + cell,
      );
    }
    first += cells;
  });
  return found.done();
}

/** One distance in strides: the expectation over the bins' logits, or the value itself where there is one bin. */
function distance(values: Float32Array, at: number, bins: number, step: number): number {
  if (bins === 1) return values[at]!;
  let most = -Infinity;
  for (let bin = 0, place = at; bin < bins; bin++, place += step) {
    const value = values[place]!;
    if (!(value <= most)) most = value;
  }
  let [total, mean] = [0, 0];
  for (let bin = 0, place = at; bin < bins; bin++, place += step) {
    const weight = Math.exp(values[place]! - most);
    total += weight;
    mean += weight * bin;
  }
  return mean / total;
}

/** Mask coefficients (n, m) of a prototype head. */
function coefficients(heads: Heads, _: Options, __: InputFrame, anchors: Int32Array): Attached {
  const { values, width } = atAnchors(levels(heads, "coefficients"), anchors);
  return { data: values, width };
}

/** Keypoints (n, k, 3); a head of two values a keypoint gives each the score 1. */
function keypoints(heads: Heads, options: Options, frame: InputFrame, anchors: Int32Array): Attached {
  const at = atAnchors(levels(heads, "keypoints"), anchors);
  const points = pointsOf(at.values, anchors.length, at.width, frame.keypoints);
  const scored = at.width === 3 * frame.keypoints;
  const { keypoint_scale: scale, keypoint_offset: offset, strides } = options;
  for (let i = 0; i < anchors.length; i++) {
    const stride = strides[at.levels[i]!]!;
    for (let k = i * points.width; k < (i + 1) * points.width; k += 3) {
      points.data[k] = (points.data[k]! * scale + (at.columns[i]! + offset)) * stride;
      points.data[k + 1] = (points.data[k + 1]! * scale + (at.rows[i]! + offset)) * stride;
      if (scored) points.data[k + 2] = sigmoid(points.data[k + 2]!);
    }
  }
  return points;
}

/**
 * Oriented boxes (n, 5): centre, width, height and angle, in pixels and radians.
 *
 * Distances are along axes that are turned by the angle around the place that they count from.
 */
function angles(heads: Heads, options: Options, _: InputFrame, anchors: Int32Array): Attached {
  const at = atAnchors(levels(heads, "boxes"), anchors);
  const raw = atAnchors(levels(heads, "angles"), anchors);
  if (raw.width !== 1) throw new Misfit(`${raw.width} channels of angles, but 1 is needed`);
  const { reg_max: bins, cell_offset: offset } = options;
  const boxes = new Float32Array(5 * anchors.length);
  for (let i = 0; i < anchors.length; i++) {
    const [left, top, right, bottom] = [0, 1, 2, 3].map((side) => distance(at.values, i * at.width + side * bins, bins, 1)) as [number, number, number, number];
    const angle = options.angle === "radians" ? raw.values[i]! : Math.fround(sigmoid(raw.values[i]!) - 0.25) * Math.fround(Math.PI);
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
    const [awayX, awayY] = [(right - left) / 2, (bottom - top) / 2];
    const stride = options.strides[at.levels[i]!]!;
    boxes[5 * i] = (at.columns[i]! + offset + awayX * cos - awayY * sin) * stride;
    boxes[5 * i + 1] = (at.rows[i]! + offset + awayX * sin + awayY * cos) * stride;
    boxes[5 * i + 2] = (left + right) * stride;
    boxes[5 * i + 3] = (top + bottom) * stride;
    boxes[5 * i + 4] = angle;
  }
  return { data: boxes, width: 5 };
}

decoder("anchor_free", options, run, { attachments: { coefficients, keypoints, angles } });
