/** SimCC: a keypoint as two classifications. RTMPose too. */

import * as s from "../../bundle/schema.js";
import { roundEven } from "../../arrays.js";
import { matrix } from "./arithmetic.js";
import { decoder, type Heads, type InputFrame, Misfit, only, positive } from "./base.js";
import { CENTRE, onePerson } from "./points.js";

const options = s.struct({ split: s.left(positive, 2) });

/** Roles `x` (1, k, width * split) and `y` (1, k, height * split): the best bins are the place. */
function run(heads: Heads, { split }: s.Infer<typeof options>, frame: InputFrame, threshold: number) {
  const [across, count, width] = matrix(only(heads, "x"));
  const [down, , height] = matrix(only(heads, "y"));
  for (const [bins, wanted] of [[width, frame.width * split], [height, frame.height * split]] as const) {
    if (bins !== roundEven(wanted)) {
      throw new Misfit(`${bins} bins where ${roundEven(wanted)} are needed for split ${split}`);
    }
  }
  const points = new Float32Array(3 * count);
  for (let k = 0; k < count; k++) {
    const [x, y] = [largest(across, k * width, width), largest(down, k * height, height)];
    points[3 * k] = CENTRE + x / Math.fround(split);
    points[3 * k + 1] = CENTRE + y / Math.fround(split);
    const score = Math.min(across[k * width + x]!, down[k * height + y]!);
    points[3 * k + 2] = Math.min(Math.max(score, 0), 1);
  }
  return onePerson(points, frame, threshold);
}

/** Place of the largest value, the first of equals; of a NaN where there is one. */
function largest(values: Float32Array, first: number, count: number): number {
  let best = 0;
  for (let i = 1; i < count && values[first + best] === values[first + best]; i++) {
    if (!(values[first + i]! <= values[first + best]!)) best = i;
  }
  return best;
}

decoder("simcc", options, run, { task: "pose" });
