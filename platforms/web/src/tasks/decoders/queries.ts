/** Detection transformers: a set of queries, each with a box and a score for every class, without anchors and NMS. */

import * as s from "../../bundle/schema.js";
import { checkFinite, Found, logit, matrix, sigmoid } from "./arithmetic.js";
import { decoder, type Heads, type InputFrame, Misfit, only } from "./base.js";

const options = s.struct({ score: s.left(s.oneOf("sigmoid", "softmax"), "sigmoid") });

/** DETR, YOLOS: softmax; Deformable DETR, RT-DETR, D-FINE: sigmoid, several classes a query. */
function run(heads: Heads, { score }: s.Infer<typeof options>, frame: InputFrame, threshold: number) {
  const [logits, rows, columns] = matrix(only(heads, "classes"));
  const [boxes, boxRows, four] = matrix(only(heads, "boxes"));
  const wanted = frame.classes + Number(score === "softmax");
  if (columns !== wanted || four !== 4 || boxRows !== rows) {
    throw new Misfit(`(1, n, ${wanted}) logits and (1, n, 4) boxes are needed`);
  }
  checkFinite(logits);
  const found = new Found();
  const add = (row: number, classId: number, value: number): void => {
    const [x, y, width, height] = boxes.subarray(4 * row, 4 * row + 4);
    found.addCentred(
      x! * frame.width, y! * frame.height, width! * frame.width, height! * frame.height,
      value, classId, row * frame.classes + classId,
    );
  };
  const cut = logit(threshold);
  for (let row = 0; row < rows; row++) {
    const at = row * columns;
    if (score === "sigmoid") {
      for (let c = 0; c < columns; c++) if (logits[at + c]! > cut) add(row, c, sigmoid(logits[at + c]!));
      continue;
    }
    const [classId, best] = likeliest(logits, at, columns);
    if (best > Math.fround(threshold)) add(row, classId, best);
  }
  return found.done();
}

/** The best class of a query but for the last one, no object, and its probability. */
function likeliest(logits: Float32Array, at: number, columns: number): [number, number] {
  let [classId, most] = [0, logits[at + columns - 1]!];
  for (let c = 0; c < columns - 1; c++) {
    if (logits[at + c]! > logits[at + classId]!) classId = c;
    most = Math.max(most, logits[at + c]!);
  }
  let total = 0;
  for (let c = 0; c < columns; c++) total += Math.exp(logits[at + c]! - most);
  return [classId, Math.fround(Math.exp(logits[at + classId]! - most) / total)];
}

decoder("queries", options, run);
