/** Pose: raw heads become boxes with keypoints in the pixels of the upright frame. */

import type { Tensor } from "../arrays.js";
import type { Contract, Skeleton } from "../bundle/manifest.js";
import { ContractError } from "../errors.js";
import { pointsToOriginal, type Transform } from "../inputs/images.js";
import { Boxed, type Thresholds } from "./detect.js";

/** Postprocessing of one pose contract. Throws ContractError: also where it names no keypoints. */
export class Pose extends Boxed {
  private readonly skeleton: Skeleton;

  constructor(contract: Contract) {
    if (!contract.skeleton) {
      throw new ContractError("a pose contract names its keypoints: skeleton: {names: [...], edges, sigmas}");
    }
    super(contract, "keypoints");
    this.skeleton = contract.skeleton;
  }

  override result(outputs: readonly Tensor[], mapping: Transform, thresholds?: Thresholds) {
    const kept = this.kept(outputs, thresholds);
    return {
      kind: "poses" as const,
      ...this.columns(kept, mapping),
      keypoints: pointsToOriginal(mapping, kept.attached?.data ?? new Float32Array(0)),
      skeleton: this.skeleton,
    };
  }
}
