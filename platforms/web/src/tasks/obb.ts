/** Oriented boxes: raw heads become boxes at any angle in the pixels of the upright frame. */

import type { Tensor } from "../arrays.js";
import type { Contract } from "../bundle/manifest.js";
import type { Transform } from "../inputs/images.js";
import type { Candidates } from "./decoders/index.js";
import { Boxed, type Thresholds } from "./detect.js";
import { canonical, enclosing, orientedToOriginal, rotatedSuppression } from "./rotated.js";

/** Postprocessing of one contract of oriented boxes; NMS is by ProbIoU, as YOLO's own predictions are made. */
export class Oriented extends Boxed {
  constructor(contract: Contract) {
    super(contract, "angles");
  }

  protected override candidates(outputs: readonly Tensor[], threshold: number): Candidates {
    return this.withAttached(outputs, super.candidates(outputs, threshold));
  }

  protected override suppressed({ attached, scores, classIds }: Candidates, limit: number): Int32Array {
    return rotatedSuppression(attached!.data, scores, classIds, limit, this.contract.postprocess.class_agnostic);
  }

  override result(outputs: readonly Tensor[], mapping: Transform, thresholds?: Thresholds) {
    const kept = this.kept(outputs, thresholds);
    const oriented = canonical(orientedToOriginal(kept.attached!.data, mapping));
    const boxes = enclosing(oriented).map((value, i) => Math.min(Math.max(value, 0), i % 2 ? mapping.height : mapping.width));
    return { kind: "oriented" as const, ...this.columns(kept, mapping), boxes, oriented };
  }
}
