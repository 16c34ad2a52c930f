/** Classification: one value a class becomes the scores of the whole frame. */

import type { Tensor } from "../arrays.js";
import type { Contract } from "../bundle/manifest.js";
import { ContractError } from "../errors.js";
import type { Transform } from "../inputs/images.js";
import { type ClassesOptions, scoresOf } from "./decoders/classes.js";
import { Reading, type Thresholds } from "./detect.js";

/** Postprocessing of one classification contract. Throws ContractError: the decoder is not one of classes. */
export class Classify extends Reading {
  constructor(contract: Contract) {
    super(contract);
    if (this.decoder.name !== "classes") {
      throw new ContractError(`decoder '${contract.decoder.name}' gives no score for each class; valid: classes`);
    }
  }

  /** Scores of all classes; `score` replaces the contract's threshold of labels. */
  override result(outputs: readonly Tensor[], mapping: Transform, { score }: Thresholds = {}) {
    const options = this.options as ClassesOptions;
    const { classes, postprocess } = this.contract;
    return {
      kind: "classification" as const,
      scores: this.reading(outputs, (heads) => scoresOf(heads, options, classes.length)),
      multiLabel: options.activation === "sigmoid",
      threshold: score ?? postprocess.score_threshold,
      classes,
      size: [mapping.width, mapping.height] as const,
    };
  }
}
