/** Top-down pose: a detector finds the people, a pose model runs on each of them. */

import { UsageError } from "./errors.js";
import { type FrameSource, pixelsOf, upright } from "./inputs/frames.js";
import type { EdgeModel } from "./model.js";
import { joined } from "./parts.js";
import { type Poses, select } from "./results/results.js";
import { type RunOptions, Streaming } from "./streaming.js";

export interface TopDownOptions {
  /** Of the detector, that have this pose: `person` when it knows that name, else all. */
  readonly classes?: readonly string[];
  /** Size of the part that the pose model sees, over the box. */
  readonly margin?: number;
  /** OKS above which two poses are taken for one. */
  readonly double?: number;
}

/** A detector and a pose model as one: frame in, poses of all its people out. Both stay the caller's to dispose. */
export class TopDown extends Streaming<Poses> {
  private readonly wanted: ReadonlySet<number>;
  private readonly margin: number;
  private readonly double: number;

  /** Throws UsageError: models of other tasks, a class that the detector does not know, or a margin below 1. */
  constructor(private readonly detector: EdgeModel, private readonly pose: EdgeModel, options: TopDownOptions = {}) {
    super();
    const { contract: boxes } = detector.manifest;
    const { contract: points } = pose.manifest;
    if (points.task !== "pose") throw new UsageError(`the second model must be one of poses, not of the task '${points.task}'`);
    if (boxes.task !== "detect" && boxes.task !== "segment") {
      throw new UsageError(`the first model must find boxes, not be one of the task '${boxes.task}'`);
    }
    const classes = options.classes ?? (boxes.classes.includes("person") ? ["person"] : boxes.classes);
    const unknown = classes.filter((name) => !boxes.classes.includes(name));
    if (unknown.length) throw new UsageError(`the detector knows no class '${unknown[0]}'; it knows ${boxes.classes.join(", ")}`);
    this.wanted = new Set(classes.map((name) => boxes.classes.indexOf(name)));
    this.margin = options.margin ?? 1.25;
    this.double = options.double ?? 0.9;
    if (!(this.margin >= 1)) throw new UsageError(`margin must be at least 1, not ${this.margin}`);
  }

  /**
   * The poses in one frame, best first; thresholds are the detector's. Boxes are the detector's, scores its score times the
   * pose's (the mean of its keypoints').
   *
   * Throws as `EdgeModel.run` of either model.
   */
  override async run(frame: FrameSource, options: RunOptions = {}): Promise<Poses> {
    const begun = performance.now();
    const { orientation, mirrored, ...rest } = options;
    const image = upright(pixelsOf(frame), options);
    const all = await this.detector.run(image, rest);
    if (all.kind !== "detections" && all.kind !== "instances") throw new UsageError(`${all.kind} are no boxes of people`);
    const found = select(all, [...all.classIds.keys()].filter((row) => this.wanted.has(all.classIds[row]!)));
    const { keypoints, inference } = await this.pose.posesIn(image, found.boxes, this.margin);
    const poses = joined(found, keypoints, this.pose.manifest.contract.skeleton!, this.double);
    const { pre, inference: first } = all.timings;
    return { ...poses, timings: { pre, inference: first + inference, post: performance.now() - begun - pre - first - inference } };
  }

  override checkReady(): void {
    this.detector.checkReady();
    this.pose.checkReady();
  }
}
