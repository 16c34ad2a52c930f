/** SSD, RetinaNet, RetinaFace, BlazeFace and EfficientDet: boxes as differences from priors, landmarks beside them. */

import * as s from "../../bundle/schema.js";
import { atPlaces, bestOf, finite, Found, gridOf, planes, sigmoid } from "./arithmetic.js";
import { type Attached, decoder, type Heads, type InputFrame, levels, Misfit, positive } from "./base.js";
import { pointsOf } from "./points.js";

const options = s.struct({
  strides: s.list(positive),
  priors: s.list(s.list(s.tuple(positive, positive))),
  variances: s.left(s.tuple(s.float(), s.float(), s.float(), s.float()), [0.1, 0.1, 0.2, 0.2] as const),
  score: s.left(s.oneOf("softmax", "sigmoid"), "softmax"),
  background: s.left(s.oneOf("first", "last"), "first"),
  sizes: s.left(s.oneOf("log", "plain"), "log"),
  order: s.left(s.oneOf("xywh", "yxhw"), "xywh"),
  cell_offset: s.left(s.float(), 0.5),
});
type Options = s.Infer<typeof options>;

const perCell = ({ priors }: Options): number[] => priors.map((level) => level.length);

/** Offsets of a prior's centre and log ratios of its size (Liu et al., SSD, 2016); channels are prior-major. */
function run(heads: Heads, options: Options, frame: InputFrame, threshold: number) {
  const { strides, priors, variances, order, cell_offset: offset } = options;
  if (priors.length !== strides.length) throw new Misfit(`${priors.length} levels of priors for ${strides.length} strides`);
  const [boxHeads, classHeads] = [levels(heads, "boxes", strides.length), levels(heads, "classes", strides.length)];
  const found = new Found();
  const least = Math.fround(threshold);
  const at = order === "xywh" ? [0, 1, 2, 3] : [1, 0, 3, 2];
  let first = 0;
  strides.forEach((stride, level) => {
    const kinds = priors[level]!.length;
    const grid = gridOf(classHeads[level]!, frame, stride);
    const columns = grid[1];
    const cells = grid[0] * columns;
    const logitCount = frame.classes + Number(options.score === "softmax");
    const logits = planes(classHeads[level]!, kinds * logitCount, grid);
    const whole = 4 + 2 * frame.keypoints; // boxes may have their keypoints behind them
    const row = boxHeads[level]!.shape[1] === kinds * whole ? whole : 4;
    const values = planes(boxHeads[level]!, kinds * row, grid);
    priors[level]!.forEach(([priorWidth, priorHeight], kind) => {
      const { scores, classIds } = scored(logits, kind * logitCount * cells, logitCount, cells, options);
      for (let cell = 0; cell < cells; cell++) {
        if (!(scores[cell]! > least)) continue;
        const shift = (k: number): number => finite(values[(kind * row + at[k]!) * cells + cell]!) * variances[k]!;
        const ratio = options.sizes === "log" ? Math.exp : (value: number) => value;
        found.addCentred(
          ((cell % columns) + offset) * stride + shift(0) * priorWidth,
          (Math.floor(cell / columns) + offset) * stride + shift(1) * priorHeight,
          ratio(shift(2)) * priorWidth,
          ratio(shift(3)) * priorHeight,
          scores[cell]!, classIds[cell]!, first + cell * kinds + kind,
        );
      }
    });
    first += cells * kinds;
  });
  return found.done();
}

/** Best score and class of every cell of one prior. */
function scored(logits: Float32Array, first: number, count: number, cells: number, { score, background }: Options) {
  const best = bestOf(logits, first, count, cells);
  if (score === "sigmoid") return { scores: best.values.map(sigmoid), classIds: best.classIds };
  const scores = new Float32Array(cells);
  const from = Number(background === "first");
  const { classIds } = bestForeground(logits, first + from * cells, count - 1, cells);
  for (let cell = 0; cell < cells; cell++) {
    const most = best.values[cell]!;
    let total = 0;
    for (let c = 0; c < count; c++) total += Math.exp(logits[first + c * cells + cell]! - most);
    scores[cell] = Math.exp(logits[first + (from + classIds[cell]!) * cells + cell]! - most) / total;
  }
  return { scores, classIds };
}

/** The best class of each cell where a logit may be -Infinity: certain that it is not this class. */
function bestForeground(logits: Float32Array, first: number, classes: number, cells: number) {
  const classIds = new Int32Array(cells);
  for (let c = 1; c < classes; c++) {
    for (let cell = 0; cell < cells; cell++) {
      if (logits[first + c * cells + cell]! > logits[first + classIds[cell]! * cells + cell]!) classIds[cell] = c;
    }
  }
  return { classIds };
}

/** Keypoints (n, k, 3) as offsets from the prior's centre in its sizes: in heads of their own, or behind the box. */
function keypoints(heads: Heads, options: Options, frame: InputFrame, anchors: Int32Array): Attached {
  const own = heads.has("keypoints");
  const at = atPlaces(levels(heads, own ? "keypoints" : "boxes"), anchors, perCell(options));
  const skipped = own ? 0 : 4;
  const width = at.width - skipped;
  const behind = new Float32Array(anchors.length * width);
  for (let i = 0; i < anchors.length; i++) {
    behind.set(at.values.subarray(i * at.width + skipped, (i + 1) * at.width), i * width);
  }
  const points = pointsOf(behind, anchors.length, width, frame.keypoints);
  const [x, y] = options.variances;
  for (let i = 0; i < anchors.length; i++) {
    const level = at.levels[i]!;
    const stride = options.strides[level]!;
    const [priorWidth, priorHeight] = options.priors[level]![at.kinds[i]!]!;
    for (let k = i * points.width; k < (i + 1) * points.width; k += 3) {
      points.data[k] = (at.columns[i]! + options.cell_offset) * stride + points.data[k]! * x * priorWidth;
      points.data[k + 1] = (at.rows[i]! + options.cell_offset) * stride + points.data[k + 1]! * y * priorHeight;
    }
  }
  return points;
}

decoder("ssd", options, run, { attachments: { keypoints } });
