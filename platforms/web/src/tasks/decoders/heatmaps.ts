/** Heatmaps of keypoints: SimpleBaselines, HRNet, ViTPose. */

import * as s from "../../bundle/schema.js";
import { shown } from "../../arrays.js";
import { checkFinite } from "./arithmetic.js";
import { decoder, type Heads, type InputFrame, Misfit, only } from "./base.js";
import { CENTRE, onePerson } from "./points.js";

const options = s.struct({
  refine: s.left(s.oneOf("none", "quarter", "dark"), "quarter"),
  kernel: s.left(s.int({ least: 1, most: 255 }), 11),
  aligned: s.left(s.bool, false),
});
type Options = s.Infer<typeof options>;

/** One keypoint's map. */
interface HeatMap {
  readonly data: Float32Array;
  readonly rows: number;
  readonly columns: number;
}

/** One heatmap a keypoint: the peak's place, refined between cells, and its height as score. */
function run(heads: Heads, { refine, kernel, aligned }: Options, frame: InputFrame, threshold: number) {
  const head = only(heads, "heatmaps");
  if (head.shape.length !== 4) throw new Misfit(`${shown(head.shape)} where (1, keypoints, rows, columns) is needed`);
  const [, count, rows, columns] = head.shape as [number, number, number, number];
  checkFinite(head.data);
  if (refine === "dark" && kernel % 2 === 0) throw new Misfit(`kernel must be odd, not ${kernel}`);
  const points = new Float32Array(3 * count);
  const blur = gaussian(kernel);
  for (let k = 0; k < count; k++) {
    const map = { data: head.data.subarray(k * rows * columns, (k + 1) * rows * columns), rows, columns };
    let peak = 0;
    for (let i = 1; i < map.data.length; i++) if (map.data[i]! > map.data[peak]!) peak = i;
    const [x, y] = [peak % columns, Math.floor(peak / columns)];
    const [right, down] = refine === "quarter" ? quarter(map, x, y) : refine === "dark" ? dark(map, x, y, blur) : [0, 0];
    points[3 * k] = CENTRE + placed(x + right, frame.width, columns, aligned);
    points[3 * k + 1] = CENTRE + placed(y + down, frame.height, rows, aligned);
    points[3 * k + 2] = Math.min(Math.max(map.data[peak]!, 0), 1);
  }
  return onePerson(points, frame, threshold);
}

const placed = (place: number, size: number, cells: number, aligned: boolean): number =>
  aligned ? (place * (size - 1)) / (cells - 1) : place * (size / cells);

/** A quarter of a cell towards the higher neighbour; nothing at the border. */
function quarter({ data, rows, columns }: HeatMap, x: number, y: number): readonly [number, number] {
  if (!(x > 0 && x < columns - 1 && y > 0 && y < rows - 1)) return [0, 0];
  const at = y * columns + x;
  return [0.25 * Math.sign(data[at + 1]! - data[at - 1]!), 0.25 * Math.sign(data[at + columns]! - data[at - columns]!)];
}

/** One Newton step on the logarithm of the blurred heatmap (DARK, Zhang et al. 2020): exact for a Gaussian. */
function dark(map: HeatMap, x: number, y: number, kernel: Float32Array): readonly [number, number] {
  if (!(2 <= x && x < map.columns - 2 && 2 <= y && y < map.rows - 2)) return [0, 0];
  const at = window(map, x, y, kernel);
  const w = (row: number, column: number): number => at[5 * row + column]!;
  const slope = [0.5 * (w(2, 3) - w(2, 1)), 0.5 * (w(3, 2) - w(1, 2))] as const;
  const xx = 0.25 * (w(2, 4) - 2 * w(2, 2) + w(2, 0));
  const yy = 0.25 * (w(4, 2) - 2 * w(2, 2) + w(0, 2));
  const xy = 0.25 * (w(3, 3) - w(1, 3) - w(3, 1) + w(1, 1));
  const determinant = xx * yy - xy * xy;
  if (!(determinant > 0)) return [0, 0];
  const clipped = (value: number): number => Math.min(Math.max(value, -1), 1);
  return [
    clipped(-(yy * slope[0] - xy * slope[1]) / determinant),
    clipped(-(xx * slope[1] - xy * slope[0]) / determinant),
  ];
}

/** Logarithms of the 5x5 blurred cells around a peak. */
function window({ data, rows, columns }: HeatMap, x: number, y: number, kernel: Float32Array): Float32Array {
  const reach = (kernel.length - 1) / 2;
  const across = new Float32Array(5 * (5 + 2 * reach));
  for (let i = 0; i < 5 + 2 * reach; i++) {
    const row = mirror(y - 2 - reach + i, rows) * columns;
    for (let j = 0; j < 5; j++) {
      let sum = 0;
      for (let k = -reach; k <= reach; k++) sum += kernel[k + reach]! * data[row + mirror(x - 2 + j + k, columns)]!;
      across[5 * i + j] = sum;
    }
  }
  const logarithms = new Float32Array(25);
  for (let i = 0; i < 5; i++) {
    for (let j = 0; j < 5; j++) {
      let sum = 0;
      for (let k = 0; k < kernel.length; k++) sum += kernel[k]! * across[5 * (i + k) + j]!;
      logarithms[5 * i + j] = Math.log(Math.max(Math.fround(sum), Math.fround(1e-10)));
    }
  }
  return logarithms;
}

/** A place beyond the border, mirrored at the middle of the first or last cell. */
function mirror(place: number, size: number): number {
  if (size === 1) return 0;
  const period = 2 * (size - 1);
  const inside = ((place % period) + period) % period;
  return inside < size ? inside : period - inside;
}

/** OpenCV's kernels for a sigma that it chooses itself; small ones are tables of binary fractions. */
const SMALL: Readonly<Record<number, readonly number[]>> = {
  1: [1],
  3: [0.25, 0.5, 0.25],
  5: [0.0625, 0.25, 0.375, 0.25, 0.0625],
  7: [0.03125, 0.109375, 0.21875, 0.28125, 0.21875, 0.109375, 0.03125],
  9: [0.015625, 0.05078125, 0.1171875, 0.19921875, 0.234375, 0.19921875, 0.1171875, 0.05078125, 0.015625],
};

function gaussian(size: number): Float32Array {
  const known = SMALL[size];
  if (known) return Float32Array.from(known);
  const sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8;
  const values = Array.from({ length: size }, (_, i) => Math.exp(-((i - (size - 1) / 2) ** 2) / (2 * sigma * sigma)));
  const total = values.reduce((a, b) => a + b, 0);
  return Float32Array.from(values, (value) => value / total);
}

decoder("heatmaps", options, run, { task: "pose" });
