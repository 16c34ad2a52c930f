/** RTMDet, SCRFD and FCOS: boxes as plain distances from a place in each cell, five landmarks of a face beside them. */

import * as s from "../../bundle/schema.js";
import { atPlaces, checkFinite, finite, Found, gridOf, logit, planes, sigmoid, survivors } from "./arithmetic.js";
import { type Attached, count, decoder, type Heads, type InputFrame, levels, positive } from "./base.js";
import { pointsOf } from "./points.js";

const options = s.struct({
  strides: s.list(count),
  per_cell: s.left(count, 1),
  cell_offset: s.left(s.float(), 0),
  exponential: s.left(s.bool, false),
  centerness: s.left(s.bool, false),
  power: s.left(positive, 1),
});
type Options = s.Infer<typeof options>;

/**
 * Distances left, top, right, bottom, in strides; score = (sigmoid(class) * sigmoid(centerness)) ^ power, without a
 * centerness sigmoid(class) ^ power.
 */
function run(heads: Heads, options: Options, frame: InputFrame, threshold: number) {
  const { strides, per_cell: kinds, cell_offset: offset, power } = options;
  const [boxHeads, classHeads] = [levels(heads, "boxes", strides.length), levels(heads, "classes", strides.length)];
  const centers = options.centerness ? levels(heads, "centerness", strides.length) : null;
  const cut = logit(threshold > 0 ? threshold ** (1 / power) : threshold);
  const least = Math.fround(threshold);
  const found = new Found();
  let first = 0;
  strides.forEach((stride, level) => {
    const grid = gridOf(classHeads[level]!, frame, stride);
    const columns = grid[1];
    const cells = grid[0] * columns;
    const logits = planes(classHeads[level]!, kinds * frame.classes, grid);
    const boxes = planes(boxHeads[level]!, 4 * kinds, grid);
    const central = centers && planes(centers[level]!, kinds, grid);
    if (central) checkFinite(central);
    for (let kind = 0; kind < kinds; kind++) {
      const best = survivors(logits, kind * frame.classes * cells, frame.classes, cells, cut);
      const side = (k: number, cell: number): number => {
        const value = finite(boxes[(4 * kind + k) * cells + cell]!);
        return options.exponential ? Math.exp(value) : value;
      };
      for (let cell = 0; cell < cells; cell++) {
        const value = best.values[cell]!;
        if (!(value > cut)) continue; // a product passes only where both factors do
        let score = sigmoid(value);
        if (central) score = Math.fround(score * sigmoid(central[kind * cells + cell]!));
        if (power !== 1) score = Math.fround(score ** Math.fround(power));
        if (!(score > least)) continue;
        const x = (cell % columns) + offset;
        const y = Math.floor(cell / columns) + offset;
        found.add(
          (x - side(0, cell)) * stride, (y - side(1, cell)) * stride, (x + side(2, cell)) * stride, (y + side(3, cell)) * stride,
          score, best.classIds[cell]!, first + cell * kinds + kind,
        );
      }
    }
    first += cells * kinds;
  });
  return found.done();
}

/** Keypoints (n, k, 3) at (value + cell + cell_offset) * stride. */
function keypoints(heads: Heads, options: Options, frame: InputFrame, anchors: Int32Array): Attached {
  const at = atPlaces(levels(heads, "keypoints"), anchors, options.strides.map(() => options.per_cell));
  const points = pointsOf(at.values, anchors.length, at.width, frame.keypoints);
  const { data, width } = points;
  for (let i = 0; i < anchors.length; i++) {
    const stride = options.strides[at.levels[i]!]!;
    for (let k = i * width; k < (i + 1) * width; k += 3) {
      data[k] = (data[k]! + at.columns[i]! + options.cell_offset) * stride;
      data[k + 1] = (data[k + 1]! + at.rows[i]! + options.cell_offset) * stride;
    }
  }
  return points;
}

decoder("distances", options, run, { attachments: { keypoints } });
