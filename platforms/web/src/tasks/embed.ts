/** Embedding: one vector for the whole frame, for re-identification and similarity search. */

import type { Tensor } from "../arrays.js";
import type { Contract } from "../bundle/manifest.js";
import { ContractError } from "../errors.js";
import type { Transform } from "../inputs/images.js";
import { Reading } from "./detect.js";

/** Postprocessing of one embedding contract. Throws ContractError: the decoder is not one of vectors. */
export class Embed extends Reading {
  constructor(contract: Contract) {
    super(contract);
    if (this.decoder.name !== "vector") throw new ContractError(`decoder '${contract.decoder.name}' gives no vector; valid: vector`);
  }

  override result(outputs: readonly Tensor[], mapping: Transform) {
    const found = this.candidates(outputs, -1);
    return {
      kind: "embedding" as const,
      vector: found.attached?.data ?? new Float32Array(0),
      classes: this.contract.classes,
      size: [mapping.width, mapping.height] as const,
    };
  }
}
