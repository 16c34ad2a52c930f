/** YOLOv3, YOLOv5 and YOLOv7: boxes as changes of anchors, several in each cell. */

import * as s from "../../bundle/schema.js";
import { checkFinite, finite, Found, gridOf, logit, planes, sigmoid, survivors } from "./arithmetic.js";
import { count, decoder, type Heads, type InputFrame, levels, Misfit, positive } from "./base.js";

const options = s.struct({
  strides: s.list(count),
  anchors: s.list(s.list(s.tuple(positive, positive))),
  sizes: s.left(s.oneOf("squared", "exponential"), "squared"),
});
type Options = s.Infer<typeof options>;

/**
 * One convolution a level, anchor after anchor: x, y, width, height, objectness, classes.
 *
 * score = sigmoid(objectness) * sigmoid(class). YOLOv5 and 7: centre (2 sigmoid(x, y) - 0.5 + cell) * stride, size
 * (2 sigmoid(w, h))^2 * anchor; YOLOv3: (sigmoid(x, y) + cell) * stride, and exp(w, h) * anchor.
 */
function run(heads: Heads, options: Options, frame: InputFrame, threshold: number) {
  const { strides, anchors, sizes } = options;
  const every = levels(heads, "predictions", strides.length);
  if (anchors.length !== strides.length) throw new Misfit(`${anchors.length} levels of anchors for ${strides.length} strides`);
  const cut = logit(threshold);
  const least = Math.fround(threshold);
  const found = new Found();
  const row = 5 + frame.classes;
  let first = 0;
  strides.forEach((stride, level) => {
    const priors = anchors[level]!;
    const grid = gridOf(every[level]!, frame, stride);
    const values = planes(every[level]!, priors.length * row, grid);
    const columns = grid[1];
    const cells = grid[0] * columns;
    priors.forEach(([priorWidth, priorHeight], kind) => {
      const base = kind * row * cells;
      const presence = values.subarray(base + 4 * cells, base + 5 * cells);
      checkFinite(presence);
      const best = survivors(values, base + 5 * cells, frame.classes, cells, cut);
      for (let cell = 0; cell < cells; cell++) {
        if (!(presence[cell]! > cut && best.values[cell]! > cut)) continue;
        const score = Math.fround(sigmoid(presence[cell]!) * sigmoid(best.values[cell]!));
        if (!(score > least)) continue;
        const value = (k: number): number => finite(values[base + k * cells + cell]!);
        let x = sigmoid(value(0));
        let y = sigmoid(value(1));
        let width: number;
        let height: number;
        if (sizes === "exponential") {
          width = Math.exp(value(2)) * priorWidth;
          height = Math.exp(value(3)) * priorHeight;
        } else {
          x = 2 * x - 0.5;
          y = 2 * y - 0.5;
          width = (2 * sigmoid(value(2))) ** 2 * priorWidth;
          height = (2 * sigmoid(value(3))) ** 2 * priorHeight;
        }
        found.addCentred(
          (x + (cell % columns)) * stride, (y + Math.floor(cell / columns)) * stride, width, height,
          score, best.classIds[cell]!, first + kind * cells + cell,
        );
      }
    });
    first += cells * priors.length;
  });
  return found.done();
}

decoder("anchors", options, run);
