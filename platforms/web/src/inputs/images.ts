/**
 * From an image to the input tensor and back: resize rules, colour, normalisation, and the exact inverse.
 *
 * Coordinates are continuous: pixel (i, j) covers [j, j+1) x [i, i+1), so a box that spans an image of width w goes
 * from 0 to w. A `Transform` is computed once per image; the way in and the way out use the very same numbers.
 */

import { roundEven, type Tensor } from "../arrays.js";
import { type ImageRule, padding } from "../bundle/manifest.js";
import { InputError } from "../errors.js";
import { type Planes, resizeLinear } from "./linear.js";
import { resample } from "./resampling.js";

/** Pixels of one image, row after row: red, green, blue, and alpha where there are four channels. */
export interface Pixels {
  readonly data: Uint8Array | Uint8ClampedArray;
  readonly width: number;
  readonly height: number;
  readonly channels: 3 | 4;
}

/** A crop that would scale the whole image to more than this many times the input is taken bilinearly, as in Python. */
const STRIP = 8;

/** The map from original pixels to input pixels: `x' = x * scaleX + offsetX`, and the same for y. */
export interface Transform {
  readonly scaleX: number;
  readonly scaleY: number;
  readonly offsetX: number;
  readonly offsetY: number;
  /** Of the original. */
  readonly width: number;
  readonly height: number;
  /** (width, height) that the whole original is scaled to. */
  readonly resized: readonly [number, number];
}

/** The map that an image rule means for an original of `width` x `height` pixels. */
export function transform(rule: ImageRule, width: number, height: number): Transform {
  const [targetHeight, targetWidth] = rule.size;
  let resized: [number, number] = [targetWidth, targetHeight];
  if (rule.resize !== "stretch") {
    const ratios = [targetWidth / width, targetHeight / height] as const;
    const ratio = rule.resize === "letterbox" ? Math.min(...ratios) : Math.max(...ratios) / rule.crop;
    resized = [Math.max(1, roundEven(width * ratio)), Math.max(1, roundEven(height * ratio))];
    if (rule.resize === "crop") {
      // Rounding must not leave a border uncovered.
      resized = [Math.max(resized[0], targetWidth), Math.max(resized[1], targetHeight)];
    }
  }
  // Whole-pixel offsets: a half-pixel pad would shift every box by half a pixel.
  const centred = rule.align === "center";
  const left = centred ? Math.floor((targetWidth - resized[0]) / 2) : 0;
  const top = centred ? Math.floor((targetHeight - resized[1]) / 2) : 0;
  return {
    scaleX: resized[0] / width,
    scaleY: resized[1] / height,
    offsetX: left,
    offsetY: top,
    width,
    height,
    resized,
  };
}

/** The map of a picture that has the input's size (height, width) already: nothing changes. */
export function whole([height, width]: readonly [number, number]): Transform {
  return { scaleX: 1, scaleY: 1, offsetX: 0, offsetY: 0, width, height, resized: [width, height] };
}

/** Boxes (n, 4) xyxy from input pixels to original pixels, clipped to the image. */
export function boxesToOriginal(mapping: Transform, boxes: Float32Array): Float32Array {
  const mapped = new Float32Array(boxes.length);
  for (let i = 0; i < boxes.length; i += 2) {
    const x = Math.fround((boxes[i]! - mapping.offsetX) / mapping.scaleX);
    const y = Math.fround((boxes[i + 1]! - mapping.offsetY) / mapping.scaleY);
    mapped[i] = Math.min(Math.max(x, 0), mapping.width);
    mapped[i + 1] = Math.min(Math.max(y, 0), mapping.height);
  }
  return mapped;
}

/** Keypoints (n, 3) x, y, score from input pixels to original pixels, also outside the image. */
export function pointsToOriginal(mapping: Transform, points: Float32Array): Float32Array {
  const mapped = points.slice();
  for (let i = 0; i < mapped.length; i += 3) {
    mapped[i] = (points[i]! - mapping.offsetX) / mapping.scaleX;
    mapped[i + 1] = (points[i + 1]! - mapping.offsetY) / mapping.scaleY;
  }
  return mapped;
}

/** Refuse what is not an image. Throws InputError. */
export function check(image: Pixels): void {
  const { data, width, height, channels } = image;
  if (!(width >= 1 && height >= 1 && Number.isInteger(width) && Number.isInteger(height))) {
    throw new InputError(`an image must have at least one pixel, not ${width}x${height}; is the camera open, the file loaded?`);
  }
  if ((channels !== 3 && channels !== 4) || data.length !== width * height * channels) {
    throw new InputError(
      `an image of ${width}x${height} must have ${width * height * 4} bytes of RGBA (or 3 a pixel of RGB), not ${data.length}`,
    );
  }
}

/** Turns images into input tensors by one rule, each written over the one before. */
export class Preprocessor {
  private readonly tensor: Tensor;
  private readonly planes: Planes;
  private covered = "";

  constructor(readonly rule: ImageRule) {
    const [height, width] = rule.size;
    this.tensor = { data: new Float32Array(3 * width * height), shape: [1, 3, height, width] };
    const order = rule.color === "rgb" ? ([0, 1, 2] as const) : ([2, 1, 0] as const);
    const values = new Float32Array(3 * 256);
    order.forEach((plane, colour) => {
      for (let level = 0; level < 256; level++) values[256 * colour + level] = (level * rule.scale - rule.mean[plane]!) / rule.std[plane]!;
    });
    const [red, green, blue] = order;
    const cells = width * height;
    this.planes = { data: this.tensor.data, values, starts: [red * cells, green * cells, blue * cells], columns: width };
  }

  /** Tensor (1, 3, height, width) and the transform. The next call writes over the tensor: copy to keep it. */
  run(image: Pixels): { tensor: Tensor; mapping: Transform } {
    check(image);
    const mapping = transform(this.rule, image.width, image.height);
    const [rows, columns] = this.rule.size;
    const [width, height] = mapping.resized;
    if (this.rule.interpolation !== "linear" && width * height <= STRIP * rows * columns) {
      // What follows finds it in its size already.
      image = resample(image, mapping.resized, this.rule.interpolation);
    }
    if (this.rule.resize === "letterbox") this.pad(mapping);
    // The part of the scaled image that lies on the input.
    const left = Math.max(0, -mapping.offsetX);
    const top = Math.max(0, -mapping.offsetY);
    const window = { left, top, width: Math.min(width - left, columns), height: Math.min(height - top, rows) };
    resizeLinear(image, mapping.resized, window, this.planes, Math.max(0, mapping.offsetY) * columns + Math.max(0, mapping.offsetX));
    return { tensor: this.tensor, mapping };
  }

  private pad(mapping: Transform): void {
    const key = mapping.resized.join();
    if (key === this.covered) return;
    const { data, values, starts } = this.planes;
    const cells = data.length / 3;
    padding(this.rule).forEach((level, colour) => data.fill(values[256 * colour + level]!, starts[colour]!, starts[colour]! + cells));
    this.covered = key;
  }

  /** Tensor of RGB pixels (height, width, 3) that have the input size already. */
  normalise(canvas: Uint8Array): Tensor {
    const [height, width] = this.rule.size;
    resizeLinear({ data: canvas, width, height, channels: 3 }, [width, height], { left: 0, top: 0, width, height }, this.planes, 0);
    this.covered = "";
    return this.tensor;
  }
}
