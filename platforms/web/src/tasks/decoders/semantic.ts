/** Semantic segmentation heads: logits of every class for every cell of a grid. */

import * as s from "../../bundle/schema.js";
import { shown } from "../../arrays.js";
import type { Plane } from "../../inputs/linear.js";
import { ContractError } from "../../errors.js";
import { checkFinite } from "./arithmetic.js";
import { decoder, type Heads, Misfit, only } from "./base.js";

export const semanticOptions = s.struct({ score: s.left(s.oneOf("softmax", "sigmoid"), "softmax") });
export type SemanticOptions = s.Infer<typeof semanticOptions>;

/** The logits of each class, those of the background 0 where it has no channel. Throws Misfit, EngineError. */
export function logitsOf(heads: Heads, options: SemanticOptions, classes: number): Plane[] {
  const head = only(heads, "logits");
  const background = Number(options.score === "sigmoid");
  const channels = classes - background;
  if (head.shape.length !== 4 || head.shape[0] !== 1 || head.shape[1] !== channels) {
    throw new Misfit(`${shown(head.shape)} where (1, ${channels}, rows, columns) is needed`);
  }
  checkFinite(head.data);
  const [, , height, width] = head.shape as [number, number, number, number];
  const cells = height * width;
  return Array.from({ length: classes }, (_, id) => ({
    data: id < background ? new Float32Array(cells) : head.data.subarray((id - background) * cells, (id - background + 1) * cells),
    width,
    height,
  }));
}

decoder("semantic", semanticOptions, () => {
  throw new ContractError("decoder 'semantic' gives a label map and no boxes; its task is semantic");
}, { task: "semantic" });
