/** Semantic segmentation: the class of every pixel of the upright frame. */

import type { Tensor } from "../arrays.js";
import type { Contract } from "../bundle/manifest.js";
import { ContractError } from "../errors.js";
import type { Transform } from "../inputs/images.js";
import { type Plane, resizePlane } from "../inputs/linear.js";
import { logitsOf, type SemanticOptions } from "./decoders/semantic.js";
import { Reading } from "./detect.js";

/** Postprocessing of one contract of semantic segmentation. Throws ContractError: no decoder of label maps, or a crop. */
export class Semantic extends Reading {
  constructor(contract: Contract) {
    super(contract);
    if (this.decoder.name !== "semantic") {
      throw new ContractError(`decoder '${contract.decoder.name}' gives no class for each cell; valid: semantic`);
    }
    if (contract.image.resize === "crop") {
      throw new ContractError(
        "image.resize must be letterbox or stretch for the task 'semantic', not crop: the network would not see all of the image",
      );
    }
  }

  /** The class of each original pixel: logits are scaled to the input, without its padding to the original, and compared. */
  override result(outputs: readonly Tensor[], mapping: Transform) {
    const { classes } = this.contract;
    const logits = this.reading(outputs, (heads) => logitsOf(heads, this.options as SemanticOptions, classes.length));
    return {
      kind: "labels" as const,
      labels: largest(logits, this.frame.width, this.frame.height, mapping),
      classes,
      size: [mapping.width, mapping.height] as const,
    };
  }
}

/** The class with the largest logit at each pixel of the original; `width` and `height` are of the input. */
function largest(logits: readonly Plane[], width: number, height: number, mapping: Transform): Uint8Array | Uint16Array {
  const best = new Float32Array(mapping.width * mapping.height).fill(-Infinity);
  const labels = logits.length <= 256 ? new Uint8Array(best.length) : new Uint16Array(best.length);
  const seen = { left: mapping.offsetX, top: mapping.offsetY, width: mapping.resized[0], height: mapping.resized[1] };
  logits.forEach((plane, classId) => {
    // One after the other: all at once would take gigabytes.
    const { data } = resizePlane(resizePlane(plane, width, height), mapping.width, mapping.height, seen);
    for (let i = 0; i < data.length; i++) {
      if (data[i]! > best[i]!) {
        best[i] = data[i]!;
        labels[i] = classId;
      }
    }
  });
  return labels;
}
