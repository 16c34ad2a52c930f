/** YOLOX and YuNet: no anchors, boxes as offsets and sizes in strides, with an objectness; landmarks beside them. */

import * as s from "../../bundle/schema.js";
import { atAnchors, checkFinite, finite, Found, gridOf, logit, planes, sigmoid, survivors } from "./arithmetic.js";
import { type Attached, count, decoder, type Heads, type InputFrame, levels, positive } from "./base.js";
import { pointsOf } from "./points.js";

const options = s.struct({ strides: s.list(count), power: s.left(positive, 1) });
type Options = s.Infer<typeof options>;

/** Centre offsets and log sizes in strides; score = (sigmoid(objectness) * sigmoid(class)) ^ power. */
function run(heads: Heads, { strides, power }: Options, frame: InputFrame, threshold: number) {
  const [boxHeads, presences, classHeads] = ["boxes", "objectness", "classes"].map((role) => levels(heads, role, strides.length));
  const cut = logit(threshold > 0 ? threshold ** (1 / power) : threshold);
  const least = Math.fround(threshold);
  const found = new Found();
  let first = 0;
  strides.forEach((stride, level) => {
    const grid = gridOf(classHeads![level]!, frame, stride);
    const columns = grid[1];
    const cells = grid[0] * columns;
    const presence = planes(presences![level]!, 1, grid);
    checkFinite(presence);
    const best = survivors(planes(classHeads![level]!, frame.classes, grid), 0, frame.classes, cells, cut);
    const boxes = planes(boxHeads![level]!, 4, grid);
    for (let cell = 0; cell < cells; cell++) {
      const value = best.values[cell]!;
      if (!(value > cut)) continue; // a product passes only where both factors do
      const product = Math.fround(sigmoid(value) * sigmoid(presence[cell]!));
      const score = power === 1 ? product : Math.fround(product ** Math.fround(power));
      if (!(score > least)) continue;
      // The exponential makes an innocent 0 of a negative infinity.
      const x = finite(boxes[cell]!) + (cell % columns);
      const y = finite(boxes[cells + cell]!) + Math.floor(cell / columns);
      const width = Math.exp(finite(boxes[2 * cells + cell]!));
      const height = Math.exp(finite(boxes[3 * cells + cell]!));
      found.addCentred(x * stride, y * stride, width * stride, height * stride, score, best.classIds[cell]!, first + cell);
    }
    first += cells;
  });
  return found.done();
}

/** Keypoints (n, k, 3) at (value + cell) * stride. */
function keypoints(heads: Heads, { strides }: Options, frame: InputFrame, anchors: Int32Array): Attached {
  const at = atAnchors(levels(heads, "keypoints", strides.length), anchors);
  const points = pointsOf(at.values, anchors.length, at.width, frame.keypoints);
  const { data, width } = points;
  const scored = at.width === 3 * frame.keypoints;
  for (let i = 0; i < anchors.length; i++) {
    const stride = strides[at.levels[i]!]!;
    for (let k = i * width; k < (i + 1) * width; k += 3) {
      data[k] = (data[k]! + at.columns[i]!) * stride;
      data[k + 1] = (data[k + 1]! + at.rows[i]!) * stride;
      if (scored) data[k + 2] = sigmoid(data[k + 2]!);
    }
  }
  return points;
}

decoder("grid", options, run, { attachments: { keypoints } });
