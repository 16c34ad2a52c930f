/** Detection: raw heads become boxes, scores and classes in the pixels of the upright frame. */

import { descending, length, shown, takeFloats, takeInts, type Tensor } from "../arrays.js";
import type { Contract } from "../bundle/manifest.js";
import { ContractError, UsageError } from "../errors.js";
import { boxesToOriginal, type Transform } from "../inputs/images.js";
import type { Result } from "../results/results.js";
import { type Candidates, checkFinite, everyDecoder, find, type Heads, type InputFrame, Misfit, readOptions, type Registered } from "./decoders/index.js";
import { nonMaximumSuppression } from "./nms.js";

/** Thresholds of one call, instead of the contract's. */
export interface Thresholds {
  /** Least score, 0..1. */
  readonly score?: number;
  /** IoU above which NMS drops a box, 0..1. */
  readonly iou?: number;
}

/** What every task leaves to the model: the time and cost of the frame. */
export type Untimed<R extends Result> = R extends Result ? Omit<R, "time" | "timings"> : never;

/** Postprocessing of one contract. */
export interface Task {
  readonly contract: Contract;
  /** The result in original pixels from raw outputs, NCHW in the contract's order. */
  result(outputs: readonly Tensor[], mapping: Transform, thresholds?: Thresholds): Untimed<Result>;
}

/** What all tasks share: the decoder of a contract, its options, and which output has which role. */
export abstract class Reading implements Task {
  protected readonly decoder: Registered<unknown>;
  protected readonly options: unknown;
  protected readonly frame: InputFrame;
  protected readonly order: ReadonlyMap<string, readonly number[]>;

  /** `attached` is the role of heads that a task has beside boxes. Throws ContractError. */
  constructor(
    readonly contract: Contract,
    protected readonly attached = "",
  ) {
    this.decoder = find(contract.decoder);
    this.options = readOptions(this.decoder, contract.decoder.options);
    const [height, width] = contract.image.size;
    this.frame = { height, width, classes: contract.classes.length, keypoints: contract.skeleton?.names.length ?? 0 };
    const { task, attachments } = this.decoder;
    if (task !== contract.task && (task !== "detect" || (attached ? !Object.hasOwn(attachments, attached) : contract.task !== "detect"))) {
      const able = [...everyDecoder().values()]
        .filter((one) => one.task === contract.task || Object.hasOwn(one.attachments, attached))
        .map((one) => one.name)
        .sort();
      throw new ContractError(`decoder '${contract.decoder.name}' is not one for the task '${contract.task}'; valid: ${able.join(", ")}`);
    }
    const found = new Map<string, [level: number, index: number][]>();
    contract.outputs.forEach(({ role, level }, index) => found.set(role, [...(found.get(role) ?? []), [level, index]]));
    this.order = new Map(
      [...found].map(([role, places]) => [role, places.sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, index]) => index)]),
    );
  }

  abstract result(outputs: readonly Tensor[], mapping: Transform, thresholds?: Thresholds): Untimed<Result>;

  /** Raw arrays in the contract's order, by role. */
  protected heads(outputs: readonly Tensor[]): Heads {
    const names = this.contract.outputs.map((output) => output.name).join(", ");
    if (outputs.length !== this.contract.outputs.length) {
      throw new ContractError(`the graph gave ${outputs.length} outputs, the contract names ${names}`);
    }
    for (const { data, shape } of outputs) {
      if (data.length !== length(shape)) throw new ContractError(`an output of ${data.length} values says that its shape is ${shown(shape)}`);
    }
    return new Map([...this.order].map(([role, places]) => [role, places.map((place) => outputs[place]!)]));
  }

  /** Do something with the outputs; what a decoder cannot read is told with their names and shapes. */
  protected reading<T>(outputs: readonly Tensor[], work: (heads: Heads) => T): T {
    try {
      return work(this.heads(outputs));
    } catch (error) {
      if (!(error instanceof Misfit)) throw error;
      const shapes = this.contract.outputs.map(({ name }, i) => `${name} ${shown(outputs[i]!.shape)}`).join(", ");
      throw new ContractError(`decoder '${this.decoder.name}' cannot read the outputs ${shapes}: ${error.message}`, { cause: error });
    }
  }

  /** Decoded boxes in input pixels with a score above `threshold`, before NMS. Throws EngineError, ContractError. */
  protected candidates(outputs: readonly Tensor[], threshold: number): Candidates {
    const found = this.reading(outputs, (heads) => this.decoder.run(heads, this.options, this.frame, threshold));
    checkFinite(found.boxes);
    checkFinite(found.scores);
    return found;
  }
}

/** Tasks with boxes. */
export abstract class Boxed extends Reading {
  /** Candidates after thresholds and NMS, best first, with keypoints, masks and the like. */
  protected kept(outputs: readonly Tensor[], { score, iou }: Thresholds = {}): Candidates {
    const post = this.contract.postprocess;
    const found = this.candidates(outputs, checked("score", score ?? post.score_threshold, -1));
    const limit = checked("iou", iou ?? post.iou_threshold, 0);
    const order = post.nms ? this.suppressed(found, limit) : descending(found.scores);
    return this.withAttached(outputs, chosen(found, order.subarray(0, post.max_detections)));
  }

  /** Places of what is left after NMS, best first. */
  protected suppressed({ boxes, scores, classIds }: Candidates, limit: number): Int32Array {
    return nonMaximumSuppression(boxes, scores, classIds, limit, this.contract.postprocess.class_agnostic);
  }

  protected withAttached(outputs: readonly Tensor[], found: Candidates): Candidates {
    const decode = this.decoder.attachments[this.attached];
    if (found.attached || !decode) return found;
    const attached = this.reading(outputs, (heads) => decode(heads, this.options, this.frame, found.anchors));
    checkFinite(attached.data);
    return { ...found, attached };
  }

  /** The columns that all results with boxes share, in original pixels. */
  protected columns(kept: Candidates, mapping: Transform) {
    return {
      length: kept.scores.length,
      boxes: boxesToOriginal(mapping, kept.boxes),
      scores: kept.scores,
      classIds: kept.classIds,
      trackIds: null,
      classes: this.contract.classes,
      size: [mapping.width, mapping.height] as const,
    };
  }
}

function checked(name: string, value: number, least: number): number {
  if (!(least <= value && value <= 1)) throw new UsageError(`${name} must be 0..1, not ${value}`);
  return value;
}

/** The candidates at these places, in that order. */
function chosen(found: Candidates, rows: Int32Array): Candidates {
  const { attached } = found;
  return {
    boxes: takeFloats(found.boxes, rows, 4),
    scores: takeFloats(found.scores, rows),
    classIds: takeInts(found.classIds, rows),
    anchors: takeInts(found.anchors, rows),
    attached: attached && { data: takeFloats(attached.data, rows, attached.width), width: attached.width },
  };
}

/** Postprocessing of one detection contract. */
export class Detect extends Boxed {
  override result(outputs: readonly Tensor[], mapping: Transform, thresholds?: Thresholds) {
    return { kind: "detections" as const, ...this.columns(this.kept(outputs, thresholds), mapping) };
  }
}
