/** Boxes that the graph decoded itself, and keypoints, mask coefficients or angles beside them. */

import * as s from "../../bundle/schema.js";
import type { Tensor } from "../../arrays.js";
import { finite, Found, matrix, sigmoid } from "./arithmetic.js";
import { type Attached, type Candidates, decoder, type Heads, type InputFrame, Misfit, only } from "./base.js";
import { pointsOf } from "./points.js";

const options = s.struct({
  layout: s.left(s.oneOf("channels", "rows", "detections", "separate"), "channels"),
  box_format: s.left(s.oneOf("xyxy", "xywh"), "xywh"),
  normalized: s.left(s.bool, false),
  objectness: s.left(s.bool, false),
  logits: s.left(s.bool, false),
  attached: s.left(s.int({ least: 0, most: 1 << 16 }), 0),
});
type Options = s.Infer<typeof options>;

/** A table of rows by value: number `k` of row `row` is `data[row * rowStep + k * step]`. */
interface Table {
  readonly data: Float32Array;
  readonly rows: number;
  readonly width: number;
  readonly rowStep: number;
  readonly step: number;
}

function tableOf(head: Tensor, transposed: boolean): Table {
  const [data, rows, columns] = matrix(head);
  return transposed
    ? { data, rows: columns, width: rows, rowStep: 1, step: columns }
    : { data, rows, width: columns, rowStep: columns, step: 1 };
}

const whole = (heads: Heads, options: Options): Table => tableOf(only(heads, "predictions"), options.layout === "channels");

/** Boxes already decoded by the graph, `xywh` meaning centre and size. */
function run(heads: Heads, options: Options, frame: InputFrame, threshold: number): Candidates {
  if (options.layout === "separate") {
    const boxes = only(heads, "boxes");
    if (boxes.shape.at(-1) !== 4) throw new Misfit(`boxes end in ${boxes.shape.at(-1)} where 4 is needed`);
    return scored(tableOf(boxes, false), tableOf(only(heads, "classes"), false), 0, options, frame, threshold);
  }
  const table = whole(heads, options);
  const width = table.width - options.attached;
  if (options.layout === "detections") return detections(table, width, options, frame, threshold);
  return scored(table, { ...table, width }, 4, options, frame, threshold);
}

/** Candidates of a table with boxes in front and one with values from `from` on, an objectness perhaps first. */
function scored(boxes: Table, values: Table, from: number, options: Options, frame: InputFrame, threshold: number): Candidates {
  const first = from + Number(options.objectness);
  const width = values.width + 4 - from;
  const wanted = 4 + Number(options.objectness) + frame.classes;
  if (width !== wanted || boxes.rows !== values.rows) {
    throw new Misfit(`${width} values for each box, but ${wanted} are needed for ${frame.classes} classes`);
  }
  const found = new Found();
  const least = Math.fround(threshold);
  const activated = options.logits ? sigmoid : (value: number) => value;
  const { data, rowStep, step } = values;
  for (let row = 0; row < values.rows; row++) {
    const at = row * rowStep;
    let best = data[at + first * step]!;
    let classId = 0;
    for (let c = 1; c < frame.classes && best === best; c++) {
      const value = data[at + (first + c) * step]!;
      if (!(value <= best)) [best, classId] = [value, c];
    }
    let score = activated(finite(best));
    if (options.objectness) score = Math.fround(score * activated(finite(data[at + (first - 1) * step]!)));
    if (score > least) add(found, boxes, row, options, frame, score, classId);
  }
  return found.done();
}

/** Candidates of rows x1, y1, x2, y2, score, class. */
function detections(table: Table, width: number, options: Options, frame: InputFrame, threshold: number): Candidates {
  if (width !== 6) throw new Misfit(`${width} values for each box, but 6 are needed: x1, y1, x2, y2, score, class`);
  const found = new Found();
  const { data, rowStep, step } = table;
  for (let row = 0; row < table.rows; row++) {
    const score = finite(data[row * rowStep + 4 * step]!);
    const classId = Math.trunc(finite(data[row * rowStep + 5 * step]!));
    // Rows that the graph only fills up with have no score, and sometimes the class -1.
    if (score > 0 && (classId < 0 || classId >= frame.classes)) {
      throw new Misfit(`class ${classId}, but the contract names ${frame.classes} classes`);
    }
    if (score > Math.fround(threshold)) add(found, table, row, options, frame, score, classId);
  }
  return found.done();
}

function add(found: Found, { data, rowStep, step }: Table, row: number, options: Options, frame: InputFrame, score: number, classId: number): void {
  const at = row * rowStep;
  const x = options.normalized ? frame.width : 1;
  const y = options.normalized ? frame.height : 1;
  const [a, b, c, d] = [data[at]! * x, data[at + step]! * y, data[at + 2 * step]! * x, data[at + 3 * step]! * y];
  if (options.box_format === "xywh") found.addCentred(a, b, c, d, score, classId, row);
  else found.add(a, b, c, d, score, classId, row);
}

/** The further values (n, attached) of the boxes at these places. */
function attached(heads: Heads, options: Options, anchors: Int32Array): Attached {
  const { data, width, rowStep, step } = whole(heads, options);
  const count = options.attached;
  const values = new Float32Array(anchors.length * count);
  for (let i = 0; i < anchors.length; i++) {
    const at = anchors[i]! * rowStep + (width - count) * step;
    for (let k = 0; k < count; k++) values[i * count + k] = data[at + k * step]!;
  }
  return { data: values, width: count };
}

/** Keypoints that the graph decoded itself, in the pixels (or the share) of the input that its boxes are in. */
function keypoints(heads: Heads, options: Options, frame: InputFrame, anchors: Int32Array): Attached {
  const values = attached(heads, options, anchors);
  const points = pointsOf(values.data, anchors.length, values.width, frame.keypoints);
  if (options.normalized) {
    for (let k = 0; k < points.data.length; k += 3) {
      points.data[k] = points.data[k]! * frame.width;
      points.data[k + 1] = points.data[k + 1]! * frame.height;
    }
  }
  return points;
}

/** Oriented boxes (n, 5) that the graph decoded itself: centre and size before the scores, the angle behind them. */
function angles(heads: Heads, options: Options, frame: InputFrame, anchors: Int32Array): Attached {
  if (options.attached !== 1 || options.box_format !== "xywh") {
    throw new Misfit(
      "decoded oriented boxes are box_format: xywh with attached: 1, the angle in radians, not " +
        `${options.box_format} with ${options.attached}`,
    );
  }
  const { data, rowStep, step } = whole(heads, options);
  const turned = attached(heads, options, anchors);
  const boxes = new Float32Array(5 * anchors.length);
  for (let i = 0; i < anchors.length; i++) {
    for (let k = 0; k < 4; k++) {
      const unit = options.normalized ? (k % 2 ? frame.height : frame.width) : 1;
      boxes[5 * i + k] = data[anchors[i]! * rowStep + k * step]! * unit;
    }
    boxes[5 * i + 4] = turned.data[i]!;
  }
  return { data: boxes, width: 5 };
}

decoder("decoded", options, run, {
  attachments: { keypoints, angles, coefficients: (heads, options, _, anchors) => attached(heads, options, anchors) },
});
