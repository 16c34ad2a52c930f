/** FastestDet: one level of cells. */

import * as s from "../../bundle/schema.js";
import type { Tensor } from "../../arrays.js";
import { checkFinite, finite, Found, logit, planes, sigmoid } from "./arithmetic.js";
import { decoder, type Heads, type InputFrame, Misfit, only, positive } from "./base.js";

const options = s.struct({
  objectness_power: s.left(positive, 0.6),
  class_power: s.left(positive, 0.4),
  activated: s.left(s.bool, false),
});
type Options = s.Infer<typeof options>;

/** Channels `from` to `to` of a head. */
const part = ({ data, shape }: Tensor, from: number, to: number): Tensor => {
  const cells = shape[2]! * shape[3]!;
  return { data: data.subarray(from * cells, to * cells), shape: [1, to - from, shape[2]!, shape[3]!] };
};

/** One level; score = objectness^0.6 * class^0.4, centre = (tanh(xy) + cell) / grid, size = sigmoid. */
function run(heads: Heads, options: Options, frame: InputFrame, threshold: number) {
  const { activated, objectness_power: power, class_power: classPower } = options;
  let [objectness, boxes, classes]: Tensor[] = [];
  if (activated) {
    const fused = only(heads, "predictions");
    if (fused.shape.length !== 4) throw new Misfit(`${fused.shape.length} dimensions where 4 are needed`);
    [objectness, boxes, classes] = [part(fused, 0, 1), part(fused, 1, 5), part(fused, 5, fused.shape[1]!)];
  } else {
    [objectness, boxes, classes] = [only(heads, "objectness"), only(heads, "boxes"), only(heads, "classes")];
  }
  if (classes.shape.length !== 4) throw new Misfit(`${classes.shape.length} dimensions where 4 are needed`);
  const grid = [classes.shape[2]!, classes.shape[3]!] as const;
  const [rows, columns] = grid;
  const cells = rows * columns;
  const presence = planes(objectness!, 1, grid);
  checkFinite(presence);
  const values = planes(classes, frame.classes, grid);
  const places = planes(boxes!, 4, grid);
  // The class factor is at most 1, so the objectness alone has to pass before any softmax is worth its time.
  const least = threshold > 0 ? threshold ** (1 / power) : -1;
  const cut = activated ? Math.fround(least) : logit(least);
  const found = new Found();
  for (let cell = 0; cell < cells; cell++) {
    if (!(presence[cell]! > cut)) continue;
    const [classId, best] = likeliest(values, cell, cells, frame.classes, activated);
    const confidence = activated ? presence[cell]! : sigmoid(presence[cell]!);
    const score = Math.fround(confidence ** power * best ** classPower);
    if (!(score > Math.fround(threshold))) continue;
    const place = (k: number): number => finite(places[k * cells + cell]!);
    found.addCentred(
      ((Math.tanh(place(0)) + (cell % columns)) / columns) * frame.width,
      ((Math.tanh(place(1)) + Math.floor(cell / columns)) / rows) * frame.height,
      sigmoid(place(2)) * frame.width,
      sigmoid(place(3)) * frame.height,
      score, classId, cell,
    );
  }
  return found.done();
}

/** The likeliest class of a cell, and its probability. */
function likeliest(values: Float32Array, cell: number, cells: number, classes: number, activated: boolean): [number, number] {
  let [classId, best] = [0, -Infinity];
  for (let c = 0; c < classes; c++) {
    const value = finite(values[c * cells + cell]!);
    if (value > best) [classId, best] = [c, value];
  }
  if (activated) return [classId, Math.max(best, 0)];
  let total = 0;
  for (let c = 0; c < classes; c++) total += Math.exp(values[c * cells + cell]! - best);
  return [classId, 1 / total];
}

decoder("fastestdet", options, run);
