/** Keypoints of one person that the graph decoded itself. */

import * as s from "../../bundle/schema.js";
import { matrix } from "./arithmetic.js";
import { decoder, type Heads, type InputFrame, Misfit, only } from "./base.js";
import { onePerson } from "./points.js";

const options = s.struct({
  order: s.left(s.oneOf("xys", "yxs"), "xys"),
  normalized: s.left(s.bool, true),
});

/** Role `predictions` (..., k, 3), of one person. MoveNet as published: yxs. */
function run(heads: Heads, { order, normalized }: s.Infer<typeof options>, frame: InputFrame, threshold: number) {
  const [data, rows, columns] = matrix(only(heads, "predictions"));
  if (columns !== 3) throw new Misfit(`${columns} values for each keypoint, but 3 are needed`);
  const points = new Float32Array(data.length);
  const [x, y] = order === "xys" ? [0, 1] : [1, 0];
  for (let i = 0; i < 3 * rows; i += 3) {
    points[i] = data[i + x]! * (normalized ? frame.width : 1);
    points[i + 1] = data[i + y]! * (normalized ? frame.height : 1);
    points[i + 2] = data[i + 2]!;
  }
  return onePerson(points, frame, threshold);
}

decoder("keypoints", options, run, { task: "pose" });
