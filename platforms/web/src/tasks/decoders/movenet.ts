/** MoveNet: a person's centre, and keypoints from heatmaps, regressions and offsets. */

import { shown } from "../../arrays.js";
import { checkFinite, planes, sigmoid } from "./arithmetic.js";
import { decoder, type Heads, type InputFrame, Misfit, noOptions, only } from "./base.js";
import { onePerson } from "./points.js";

/** Cells; what MoveNet adds to a distance before it divides by it, so that the nearest cells weigh about alike. */
const CENTRE_SPREAD = 1.8;

/**
 * MoveNet single-pose from its raw heads, (1, channels, rows, columns) each, of which x and y alternate as (y, x).
 *
 * The person is at the best centre, weighted down with the distance from the middle of the input; each keypoint at the
 * best cell of its heatmap, weighted down with the distance from where the centre's regression points; then refined by
 * that cell's offset.
 */
function run(heads: Heads, _: unknown, frame: InputFrame, threshold: number) {
  const [centers, regressions, heatmaps, offsets] = ["centers", "regressions", "heatmaps", "offsets"].map((role) => only(heads, role));
  if (centers!.shape.length !== 4) throw new Misfit(`${shown(centers!.shape)} where (1, 1, rows, columns) is needed`);
  const grid = [centers!.shape[2]!, centers!.shape[3]!] as const;
  const [rows, columns] = grid;
  const cells = rows * columns;
  const count = heatmaps!.shape[1]!;
  const [middle, heat] = [planes(centers!, 1, grid), planes(heatmaps!, count, grid)];
  const [ways, moves] = [planes(regressions!, 2 * count, grid), planes(offsets!, 2 * count, grid)];
  checkFinite(middle);
  checkFinite(heat);
  const centre = nearest(middle, 0, columns, Math.floor(rows / 2), Math.floor(columns / 2), cells);
  const points = new Float32Array(3 * count);
  for (let k = 0; k < count; k++) {
    const row = Math.fround(ways[2 * k * cells + centre]! + Math.floor(centre / columns));
    const column = Math.fround(ways[(2 * k + 1) * cells + centre]! + (centre % columns));
    const cell = nearest(heat, k * cells, columns, row, column, cells);
    points[3 * k] = ((cell % columns) + moves[(2 * k + 1) * cells + cell]!) * (frame.width / columns);
    points[3 * k + 1] = (Math.floor(cell / columns) + moves[2 * k * cells + cell]!) * (frame.height / rows);
    points[3 * k + 2] = sigmoid(heat[k * cells + cell]!);
  }
  return onePerson(points, frame, threshold);
}

/** The cell with the largest sigmoid, weighted down with its distance from a place. */
function nearest(logits: Float32Array, first: number, columns: number, row: number, column: number, cells: number): number {
  let [best, found] = [-Infinity, 0];
  for (let cell = 0; cell < cells; cell++) {
    const away = Math.fround(Math.hypot(Math.floor(cell / columns) - row, (cell % columns) - column));
    const value = Math.fround(sigmoid(logits[first + cell]!) / Math.fround(away + Math.fround(CENTRE_SPREAD)));
    if (value > best) [best, found] = [value, cell];
  }
  return found;
}

decoder("movenet", noOptions, run, { task: "pose" });
