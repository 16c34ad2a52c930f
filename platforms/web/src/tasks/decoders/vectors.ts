/** Embedding heads: one vector for the whole input. */

import { shown } from "../../arrays.js";
import { checkFinite } from "./arithmetic.js";
import { decoder, type Heads, type InputFrame, Misfit, noOptions, only } from "./base.js";

/** The vector of the whole input, at unit length. Throws Misfit: other than (1, d), (1, d, 1, 1) or (d,). */
function run(heads: Heads, _: unknown, frame: InputFrame) {
  const { data, shape } = only(heads, "vector");
  if (data.length !== Math.max(...shape)) throw new Misfit(`${shown(shape)} is not one vector`);
  return {
    boxes: Float32Array.of(0, 0, frame.width, frame.height),
    scores: Float32Array.of(1),
    classIds: new Int32Array(1),
    anchors: new Int32Array(1),
    attached: { data: unit(data), width: data.length },
  };
}

/** A vector normalised to length 1; of zeros it stays as it is. Throws EngineError: NaN or infinite values. */
export function unit(vector: Float32Array): Float32Array {
  checkFinite(vector);
  let square = 0;
  for (let i = 0; i < vector.length; i++) square += vector[i]! * vector[i]!;
  const length = Math.sqrt(square) || 1;
  return vector.map((value) => value / length);
}

decoder("vector", noOptions, run, { task: "embed" });
