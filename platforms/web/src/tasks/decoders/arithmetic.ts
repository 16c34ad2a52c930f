/** The arithmetic that decoders share: scores, cells of a grid, and the selection of anchors worth decoding. */

import { length, shown, type Tensor } from "../../arrays.js";
import { EngineError } from "../../errors.js";
import { type Candidates, type InputFrame, Misfit } from "./base.js";

/** The logit of a probability as a 32-bit float, so that thresholds are compared before any sigmoid. */
export function logit(probability: number): number {
  if (probability <= 0) return -Infinity;
  return probability >= 1 ? Infinity : Math.fround(Math.log(probability / (1 - probability)));
}

const f = Math.fround;

/** Logistic function in steps of 32-bit floats, without overflow. */
export function sigmoid(value: number): number {
  return f(0.5 * f(f(Math.tanh(f(0.5 * value))) + 1));
}

/** Candidates as they are found, in memory that grows. */
export class Found {
  private count = 0;
  private boxes = new Float32Array(4 * 256);
  private scores = new Float32Array(256);
  private classIds = new Int32Array(256);
  private anchors = new Int32Array(256);

  add(x1: number, y1: number, x2: number, y2: number, score: number, classId: number, anchor: number): void {
    const n = this.count++;
    if (n === this.scores.length) this.grow();
    this.boxes[4 * n] = x1;
    this.boxes[4 * n + 1] = y1;
    this.boxes[4 * n + 2] = x2;
    this.boxes[4 * n + 3] = y2;
    this.scores[n] = score;
    this.classIds[n] = classId;
    this.anchors[n] = anchor;
  }

  /** A box from its centre and size. */
  addCentred(x: number, y: number, width: number, height: number, score: number, classId: number, anchor: number): void {
    const halfWidth = width * 0.5;
    const halfHeight = height * 0.5;
    this.add(x - halfWidth, y - halfHeight, x + halfWidth, y + halfHeight, score, classId, anchor);
  }

  private grow(): void {
    const size = 2 * this.scores.length;
    const grown = <A extends Float32Array | Int32Array>(old: A, fresh: A): A => {
      fresh.set(old);
      return fresh;
    };
    this.boxes = grown(this.boxes, new Float32Array(4 * size));
    this.scores = grown(this.scores, new Float32Array(size));
    this.classIds = grown(this.classIds, new Int32Array(size));
    this.anchors = grown(this.anchors, new Int32Array(size));
  }

  done(): Candidates {
    const n = this.count;
    return {
      boxes: this.boxes.subarray(0, 4 * n),
      scores: this.scores.subarray(0, n),
      classIds: this.classIds.subarray(0, n),
      anchors: this.anchors.subarray(0, n),
      attached: null,
    };
  }
}

/** The best value and its class of every cell: `values` is (classes, cells) from `first` on. */
export interface Best {
  readonly values: Float32Array;
  readonly classIds: Int32Array;
}

/** The largest value of each cell over its classes, the first of equals. Throws EngineError: it is NaN or infinite. */
export function bestOf(values: Float32Array, first: number, classes: number, cells: number): Best {
  const best = values.slice(first, first + cells);
  const classIds = new Int32Array(cells);
  let broken = false;
  for (let cell = 0; cell < cells; cell++) if (best[cell]! !== best[cell]!) broken = true;
  for (let c = 1; c < classes; c++) {
    const row = first + c * cells;
    for (let cell = 0; cell < cells; cell++) {
      const value = values[row + cell]!;
      if (!(value <= best[cell]!)) {
        if (value !== value) broken = true;
        best[cell] = value;
        classIds[cell] = c;
      }
    }
  }
  if (broken) refuse();
  checkFinite(best);
  return { values: best, classIds };
}

/**
 * As `bestOf`, but values of cells that are not above `cut` may be anything not above it: one look at each value.
 *
 * Throws EngineError: the largest value of a cell is NaN or infinite.
 */
export function survivors(values: Float32Array, first: number, classes: number, cells: number, cut: number): Best {
  if (!Number.isFinite(cut)) return bestOf(values, first, classes, cells);
  const best = new Float32Array(cells).fill(cut);
  const classIds = new Int32Array(cells);
  const end = first + classes * cells;
  for (let place = above(values, first, end, cut); place < end; place = above(values, place + 1, end, cut)) {
    const value = values[place]!;
    const cell = (place - first) % cells;
    if (!Number.isFinite(value)) refuse();
    if (value > best[cell]!) {
      best[cell] = value;
      classIds[cell] = Math.floor((place - first) / cells);
    }
  }
  for (let cell = 0; cell < cells; cell++) {
    if (values[first + cell] === -Infinity) finite(largest(values, first + cell, classes, cells));
  }
  return { values: best, classIds };
}

/** The first place that is not at most `cut`; `end` where there is none. Four at a time: most of the time is spent here. */
function above(values: Float32Array, from: number, end: number, cut: number): number {
  let at = from;
  while (at < end - 3 && values[at]! <= cut && values[at + 1]! <= cut && values[at + 2]! <= cut && values[at + 3]! <= cut) at += 4;
  while (at < end && values[at]! <= cut) at++;
  return at;
}

function largest(values: Float32Array, first: number, classes: number, cells: number): number {
  let most = -Infinity;
  for (let c = 0; c < classes; c++) most = Math.max(most, values[first + c * cells]!);
  return most;
}

function refuse(): never {
  throw new EngineError("the graph gave NaN or infinite outputs; convert in another precision, or verify the bundle");
}

/** Refuse NaN and infinities, which fail every threshold and would be dropped silently. Throws EngineError. */
export function checkFinite(values: Float32Array): void {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]!;
  if (!Number.isFinite(sum)) refuse();
}

/** Refuse one number that is NaN or infinite. */
export function finite(value: number): number {
  if (!Number.isFinite(value)) refuse();
  return value;
}

/** Rows and columns of a head (1, channels, rows, columns). Throws Misfit: a grid that this stride cannot have. */
export function gridOf(head: Tensor, frame: InputFrame, stride: number): readonly [rows: number, columns: number] {
  if (head.shape.length !== 4) throw new Misfit(`${shown(head.shape)} where (1, channels, rows, columns) is needed`);
  const [, , rows, columns] = head.shape as [number, number, number, number];
  if (Math.abs(rows * stride - frame.height) >= stride || Math.abs(columns * stride - frame.width) >= stride) {
    throw new Misfit(
      `stride ${stride} does not give a grid of ${rows} x ${columns} for an input of ${frame.height} x ${frame.width}`,
    );
  }
  return [rows, columns];
}

/** The numbers of a head that must be (1, channels, rows, columns). Throws Misfit. */
export function planes(head: Tensor, channels: number, grid: readonly [number, number]): Float32Array {
  const wanted = [1, channels, ...grid];
  if (head.shape.length !== 4 || wanted.some((size, i) => size !== head.shape[i])) {
    throw new Misfit(`${shown(head.shape)} where ${shown(wanted)} is needed`);
  }
  return head.data;
}

/** The one table in a head (1, rows, columns). Throws Misfit. */
export function matrix(head: Tensor): readonly [data: Float32Array, rows: number, columns: number] {
  const [rows, columns] = head.shape.slice(-2);
  if (rows === undefined || columns === undefined || rows * columns !== length(head.shape)) {
    throw new Misfit(`${shown(head.shape)} is not one table`);
  }
  return [head.data, rows, columns];
}

/** What a role says of some anchors, and where they are. */
export interface Places {
  /** (n, width). */
  readonly values: Float32Array;
  readonly width: number;
  readonly levels: Int32Array;
  /** Number in the cell. */
  readonly kinds: Int32Array;
  readonly columns: Int32Array;
  readonly rows: Int32Array;
}

/** Values of one role at places counted over all levels, finest first, row after row. Throws Misfit. */
export function atAnchors(heads: readonly Tensor[], anchors: Int32Array): Places {
  return atPlaces(heads, anchors, heads.map(() => 1));
}

/** Values of one role at places counted level after level, cell after cell, box after box of a cell. Throws Misfit. */
export function atPlaces(heads: readonly Tensor[], anchors: Int32Array, perCell: readonly number[]): Places {
  if (heads.length !== perCell.length) throw new Misfit(`${heads.length} outputs where ${perCell.length} levels are needed`);
  const grids = heads.map((head, level) => {
    if (head.shape.length !== 4) throw new Misfit(`${shown(head.shape)} where (1, channels, rows, columns) is needed`);
    const [, channels, rows, columns] = head.shape as [number, number, number, number];
    const kinds = perCell[level]!;
    if (channels % kinds) throw new Misfit(`${channels} channels where a multiple of ${kinds} boxes in a cell is needed`);
    return { width: channels / kinds, cells: rows * columns, columns, size: rows * columns * kinds, kinds };
  });
  const width = grids[0]!.width;
  if (grids.some((grid) => grid.width !== width)) throw new Misfit("levels of different numbers of channels");
  const n = anchors.length;
  const found = {
    values: new Float32Array(n * width), width, levels: new Int32Array(n),
    kinds: new Int32Array(n), columns: new Int32Array(n), rows: new Int32Array(n),
  };
  for (let i = 0; i < n; i++) {
    let local = anchors[i]!;
    let level = 0;
    while (level < grids.length && local >= grids[level]!.size) local -= grids[level++]!.size;
    const grid = grids[level];
    if (!grid) throw new Misfit(`there is no anchor ${anchors[i]}`);
    const cell = Math.floor(local / grid.kinds);
    const kind = local % grid.kinds;
    found.levels[i] = level;
    found.kinds[i] = kind;
    found.columns[i] = cell % grid.columns;
    found.rows[i] = Math.floor(cell / grid.columns);
    const { data } = heads[level]!;
    for (let k = 0; k < width; k++) found.values[i * width + k] = data[(kind * width + k) * grid.cells + cell]!;
  }
  return found;
}
