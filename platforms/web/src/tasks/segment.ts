/**
 * Instance segmentation: boxes with mask coefficients, which weigh prototypes, become masks in original pixels.
 *
 * A mask is where the sum of prototypes, each times one of the object's coefficients, is positive, cut to its box
 * (YOLACT, Bolya et al. 2019). Only the objects that NMS leaves are multiplied out, each only inside its box.
 */

import { shown, type Tensor } from "../arrays.js";
import type { Contract } from "../bundle/manifest.js";
import { ContractError } from "../errors.js";
import type { Transform } from "../inputs/images.js";
import type { Mask } from "../results/rle.js";
import { type Candidates, checkFinite } from "./decoders/index.js";
import { Boxed, type Thresholds } from "./detect.js";

const PROTOTYPES = "prototypes";

/** A part of a plane of logits; `left` and `top` in cells. */
interface Weighed {
  readonly data: Float32Array;
  readonly width: number;
  readonly height: number;
}

/** Postprocessing of one segmentation contract. Throws ContractError: also where no output has the role `prototypes`. */
export class Segment extends Boxed {
  constructor(contract: Contract) {
    super(contract, "coefficients");
    if (!this.order.has(PROTOTYPES)) {
      const roles = [...this.order.keys()].sort().join(", ");
      throw new ContractError(`a segmentation contract has an output of the role '${PROTOTYPES}', not only ${roles}`);
    }
  }

  override result(outputs: readonly Tensor[], mapping: Transform, thresholds?: Thresholds) {
    const kept = this.kept(outputs, thresholds);
    const columns = this.columns(kept, mapping);
    return { kind: "instances" as const, ...columns, masks: this.masks(this.prototypes(outputs, kept), kept, columns.boxes, mapping) };
  }

  private prototypes(outputs: readonly Tensor[], kept: Candidates): Tensor {
    const prototypes = this.heads(outputs).get(PROTOTYPES)![0]!;
    const count = kept.attached?.width ?? 0;
    if (prototypes.shape.length !== 4 || (kept.scores.length && prototypes.shape[1] !== count)) {
      throw new ContractError(`prototypes ${shown(prototypes.shape)}: (1, ${count}, rows, columns) is needed`);
    }
    checkFinite(prototypes.data);
    return prototypes;
  }

  /** The masks inside boxes (n, 4) in original pixels. */
  private masks(prototypes: Tensor, kept: Candidates, boxes: Float32Array, mapping: Transform): Mask[] {
    const [, , rows, columns] = prototypes.shape as [number, number, number, number];
    const toX = columns / this.frame.width;
    const toY = rows / this.frame.height;
    // Cells to an original pixel, and where its first one lies.
    const x = { scale: mapping.scaleX * toX, offset: mapping.offsetX * toX, cells: columns };
    const y = { scale: mapping.scaleY * toY, offset: mapping.offsetY * toY, cells: rows };
    return Array.from(kept.scores, (_, i) => {
      const left = Math.floor(boxes[4 * i]!);
      const top = Math.floor(boxes[4 * i + 1]!);
      const width = Math.max(Math.ceil(boxes[4 * i + 2]!) - left, 0);
      const height = Math.max(Math.ceil(boxes[4 * i + 3]!) - top, 0);
      const across = window(x, left, left + width);
      const down = window(y, top, top + height);
      const data = new Uint8Array(width * height);
      if (width && height && across.count > 0 && down.count > 0) {
        const weights = kept.attached!.data.subarray(i * kept.attached!.width, (i + 1) * kept.attached!.width);
        const logits = weighed(weights, prototypes, across, down);
        magnified(logits, across.at, x.scale, down.at, y.scale, width, data);
      }
      return { left, top, width, height, data };
    });
  }
}

interface Axis {
  readonly scale: number;
  readonly offset: number;
  readonly cells: number;
}

/** The cells that original pixels touch, one more on each side, and where the middle of the first pixel lies in them. */
function window({ scale, offset, cells }: Axis, low: number, high: number) {
  const first = Math.max(Math.floor(low * scale + offset - 1), 0);
  const last = Math.min(Math.ceil(high * scale + offset + 1), cells);
  return { first, count: last - first, at: low * scale + offset - first + (scale - 1) / 2 };
}

/** The sum of prototypes times weights in a window: the logits of a mask. */
function weighed(
  weights: Float32Array, prototypes: Tensor, across: { first: number; count: number }, down: { first: number; count: number },
): Weighed {
  const [, , rows, columns] = prototypes.shape as [number, number, number, number];
  const [width, height] = [across.count, down.count];
  const total = new Float32Array(width * height);
  const { data } = prototypes;
  // Four planes at once: sums are written and read less often. Behind the last one it is taken again, for nothing.
  const last = weights.length - 1;
  const weight = (k: number): number => (k <= last ? weights[k]! : 0);
  const plane = (k: number): number => Math.min(k, last) * rows * columns;
  for (let k = 0; k <= last; k += 4) {
    const [a, b, c, d] = [weight(k), weight(k + 1), weight(k + 2), weight(k + 3)];
    const [one, two, three, four] = [plane(k), plane(k + 1), plane(k + 2), plane(k + 3)];
    for (let row = 0; row < height; row++) {
      const to = row * width;
      const from = (down.first + row) * columns + across.first;
      for (let i = 0; i < width; i++) {
        const at = from + i;
        total[to + i] = total[to + i]! + a * data[one + at]! + b * data[two + at]! + c * data[three + at]! + d * data[four + at]!;
      }
    }
  }
  return { data: total, width, height };
}

/** Write where bilinear interpolation between cells is positive. Beyond the border cells go on. */
function magnified(
  { data, width: columns, height: rows }: Weighed, x: number, scaleX: number, y: number, scaleY: number, width: number, target: Uint8Array,
): void {
  // Pixels lie in spans between the same two cells.
  const lowest = Math.floor(x);
  const ends = new Int32Array(Math.floor(x + (width - 1) * scaleX) - lowest + 1);
  const share = new Float64Array(width);
  for (let i = 0; i < width; i++) {
    const place = x + i * scaleX;
    const low = Math.floor(place);
    share[i] = Math.fround(place - low);
    ends[low - lowest] = i + 1;
  }
  // Where cells are smaller than pixels there are spans without one.
  for (let span = 1; span < ends.length; span++) ends[span] = Math.max(ends[span]!, ends[span - 1]!);
  const blended = new Float32Array(columns);
  for (let j = 0; j < target.length / width; j++) {
    const place = y + j * scaleY;
    const low = Math.floor(place);
    const upper = Math.min(Math.max(low, 0), rows - 1) * columns;
    const lower = Math.min(Math.max(low + 1, 0), rows - 1) * columns;
    const part = place - low;
    for (let k = 0; k < columns; k++) blended[k] = data[upper + k]! * (1 - part) + data[lower + k]! * part;
    signs(blended, lowest, ends, share, target, j * width);
  }
}

/**
 * Set the pixels of a row whose value is positive. Span number k, which ends before `ends[k]`, is between cell
 * `lowest + k` and the next. It is looked at by pixel only where their signs differ, up to where the sign changes.
 */
function signs(cells: Float32Array, lowest: number, ends: Int32Array, share: Float64Array, target: Uint8Array, to: number): void {
  const last = cells.length - 1;
  let end = 0;
  for (let span = 0; span < ends.length; span++) {
    let [low, high] = [end, ends[span]!];
    end = high;
    const one = cells[Math.min(Math.max(lowest + span, 0), last)]!;
    const two = cells[Math.min(Math.max(lowest + span + 1, 0), last)]!;
    if (one > 0) {
      if (!(two > 0)) while (high > low && !(one * (1 - share[high - 1]!) + two * share[high - 1]! > 0)) high--;
    } else if (two > 0) {
      while (low < high && !(one * (1 - share[low]!) + two * share[low]! > 0)) low++;
    } else continue;
    for (let i = to + low; i < to + high; i++) target[i] = 1;
  }
}
