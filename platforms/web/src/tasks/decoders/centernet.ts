/** CenterNet and CenterFace: an object is a peak of its class's heatmap, with its size and what it is off the cell. */

import * as s from "../../bundle/schema.js";
import { atAnchors, finite, Found, gridOf, logit, planes, sigmoid, survivors } from "./arithmetic.js";
import { type Attached, count, decoder, type Heads, type InputFrame, levels, only } from "./base.js";
import { pointsOf } from "./points.js";

const options = s.struct({
  stride: s.left(count, 4),
  sizes: s.left(s.oneOf("plain", "exponential"), "plain"),
  order: s.left(s.oneOf("xy", "yx"), "xy"),
  cell_offset: s.left(s.float(), 0),
  keypoints: s.left(s.oneOf("cell", "box"), "cell"),
  peaks: s.left(s.bool, true),
});
type Options = s.Infer<typeof options>;
type Grid = readonly [rows: number, columns: number];

/** One level: score = sigmoid(heatmap), centre = (cell + offset) * stride, size = size * stride (Zhou et al. 2019). */
function run(heads: Heads, options: Options, frame: InputFrame, threshold: number) {
  const classes = only(heads, "classes");
  const grid = gridOf(classes, frame, options.stride);
  const heat = planes(classes, frame.classes, grid);
  const cut = logit(threshold);
  const best = survivors(heat, 0, frame.classes, grid[0] * grid[1], cut);
  const found = new Found();
  const boxAt = boxes(heads, options, grid);
  for (let cell = 0; cell < best.values.length; cell++) {
    const value = best.values[cell]!;
    if (!(value > cut) || (options.peaks && !isPeak(heat, grid, best.classIds[cell]!, cell))) continue;
    const [x, y, width, height] = boxAt(cell);
    found.addCentred(x, y, width, height, sigmoid(value), best.classIds[cell]!, cell);
  }
  return found.done();
}

/** Whether a cell has the largest logit of its 3x3 neighbours, in its class's map. */
function isPeak(heat: Float32Array, [rows, columns]: Grid, classId: number, cell: number): boolean {
  const base = classId * rows * columns;
  const [row, column] = [Math.floor(cell / columns), cell % columns];
  const value = heat[base + cell]!;
  for (let y = Math.max(row - 1, 0); y <= Math.min(row + 1, rows - 1); y++) {
    for (let x = Math.max(column - 1, 0); x <= Math.min(column + 1, columns - 1); x++) {
      if (!(value >= heat[base + y * columns + x]!)) return false;
    }
  }
  return true;
}

type Centred = readonly [x: number, y: number, width: number, height: number];

/** Centre and size of the box of a cell, in input pixels. */
function boxes(heads: Heads, options: Options, grid: Grid): (cell: number) => Centred {
  const { cell_offset: base, stride, order } = options;
  const cells = grid[0] * grid[1];
  const offsets = planes(only(heads, "offsets"), 2, grid);
  const sizes = planes(only(heads, "sizes"), 2, grid);
  const size = options.sizes === "exponential" ? Math.exp : (value: number) => value;
  const [first, second] = order === "xy" ? [0, cells] : [cells, 0];
  return (cell) => [
    ((cell % grid[1]) + base + finite(offsets[first + cell]!)) * stride,
    (Math.floor(cell / grid[1]) + base + finite(offsets[second + cell]!)) * stride,
    size(finite(sizes[first + cell]!)) * stride,
    size(finite(sizes[second + cell]!)) * stride,
  ];
}

/** Keypoints (n, k, 3) of the cells. */
function keypoints(heads: Heads, options: Options, frame: InputFrame, anchors: Int32Array): Attached {
  const at = atAnchors(levels(heads, "keypoints"), anchors);
  const points = pointsOf(at.values, anchors.length, at.width, frame.keypoints);
  const { data, width } = points;
  const grid = gridOf(only(heads, "classes"), frame, options.stride);
  const boxAt = options.keypoints === "box" ? boxes(heads, options, grid) : undefined;
  for (let i = 0; i < anchors.length; i++) {
    const box = boxAt?.(anchors[i]!);
    for (let k = i * width; k < (i + 1) * width; k += 3) {
      const [x, y] = options.order === "xy" ? [data[k]!, data[k + 1]!] : [data[k + 1]!, data[k]!];
      data[k] = box ? box[0] - box[2] / 2 + x * box[2] : (x + at.columns[i]!) * options.stride;
      data[k + 1] = box ? box[1] - box[3] / 2 + y * box[3] : (y + at.rows[i]!) * options.stride;
    }
  }
  return points;
}

decoder("centernet", options, run, { attachments: { keypoints } });
