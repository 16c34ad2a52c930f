/** Classification heads: one value a class for the whole input. */

import * as s from "../../bundle/schema.js";
import { descending } from "../../arrays.js";
import { checkFinite, Found, sigmoid } from "./arithmetic.js";
import { decoder, type Heads, type InputFrame, Misfit, only } from "./base.js";

export const classesOptions = s.struct({
  activation: s.left(s.oneOf("softmax", "sigmoid"), "softmax"),
  activated: s.left(s.bool, false),
});
export type ClassesOptions = s.Infer<typeof classesOptions>;

/** Scores (classes,) in 0..1. Throws Misfit: another number of values. EngineError: NaN or infinite values. */
export function scoresOf(heads: Heads, options: ClassesOptions, classes: number): Float32Array {
  const { data } = only(heads, "logits");
  if (data.length !== classes) throw new Misfit(`${data.length} values where ${classes} are needed, one for each class`);
  checkFinite(data);
  if (options.activated) return data.slice();
  if (options.activation === "sigmoid") return data.map(sigmoid);
  const most = data.reduce((a, b) => Math.max(a, b), -Infinity);
  const weights = Float64Array.from(data, (value) => Math.exp(value - most));
  const total = weights.reduce((a, b) => a + b, 0);
  return Float32Array.from(weights, (value) => value / total);
}

/** The classes of the whole input: the best one, or with `sigmoid` all above the threshold. */
function run(heads: Heads, options: ClassesOptions, frame: InputFrame, threshold: number) {
  const scores = scoresOf(heads, options, frame.classes);
  const several = options.activation === "sigmoid";
  const order = descending(scores);
  const found = new Found();
  for (const id of several ? order : order.subarray(0, 1)) {
    if (scores[id]! > Math.fround(threshold)) found.add(0, 0, frame.width, frame.height, scores[id]!, id, several ? id : 0);
  }
  return found.done();
}

decoder("classes", classesOptions, run, { task: "classify" });
