/**
 * Arithmetic of oriented boxes: similarity, suppression, and the way back from a resized image.
 *
 * An oriented box is centre x, centre y, width, height and angle. The angle is in radians, from the x axis to the side
 * called width, clockwise on the screen (y points down).
 */

import { descending } from "../arrays.js";
import type { Transform } from "../inputs/images.js";

/** Candidates that suppression looks at, best first. */
const MOST = 30_000;

const TINY = 1e-9;
const HALF_TURN = Math.PI;

/** The smallest upright boxes (n, 4) xyxy around oriented boxes (n, 5). */
export function enclosing(boxes: Float32Array): Float32Array {
  const count = boxes.length / 5;
  const upright = new Float32Array(4 * count);
  for (let i = 0; i < count; i++) {
    const [x, y, width, height, angle] = boxes.subarray(5 * i, 5 * i + 5) as unknown as [number, number, number, number, number];
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
    const reachX = Math.abs((cos * width) / 2) + Math.abs((sin * height) / 2);
    const reachY = Math.abs((sin * width) / 2) + Math.abs((cos * height) / 2);
    upright.set([x - reachX, y - reachY, x + reachX, y + reachY], 4 * i);
  }
  return upright;
}

/** The same oriented boxes (n, 5) with the longer side as width and the angle in [-pi/2, pi/2). */
export function canonical(boxes: Float32Array): Float32Array {
  const written = boxes.slice();
  for (let at = 0; at < written.length; at += 5) {
    const [width, height] = [boxes[at + 2]!, boxes[at + 3]!];
    const tall = height > width;
    if (tall) [written[at + 2], written[at + 3]] = [height, width];
    const turned = boxes[at + 4]! + (tall ? HALF_TURN / 2 : 0) + HALF_TURN / 2;
    const angle = Math.fround(turned - Math.floor(turned / HALF_TURN) * HALF_TURN - HALF_TURN / 2);
    written[at + 4] = angle >= HALF_TURN / 2 ? -HALF_TURN / 2 : angle;
  }
  return written;
}

/**
 * Oriented boxes (n, 5) from input pixels to original pixels, also outside the image.
 *
 * Both sides are mapped as vectors. Where an image was stretched they are no longer at right angles; then the result is
 * the rectangle whose sides are the closest to them (least squares), so that a long side keeps its direction.
 */
export function orientedToOriginal(boxes: Float32Array, mapping: Transform): Float32Array {
  const mapped = new Float32Array(boxes.length);
  for (let at = 0; at < boxes.length; at += 5) {
    const old = boxes[at + 4]!;
    const [cos, sin] = [Math.cos(old), Math.sin(old)];
    const [halfWidth, halfHeight] = [boxes[at + 2]! / 2, boxes[at + 3]! / 2];
    const along = [(cos * halfWidth) / mapping.scaleX, (sin * halfWidth) / mapping.scaleY] as const;
    const across = [(-sin * halfHeight) / mapping.scaleX, (cos * halfHeight) / mapping.scaleY] as const;
    // The direction e that maximises (along . e)^2 + (across . e turned by a quarter)^2, as twice its angle.
    const doubleX = along[0] ** 2 - along[1] ** 2 - (across[0] ** 2 - across[1] ** 2);
    const doubleY = 2 * along[0] * along[1] - 2 * across[0] * across[1];
    const angle = doubleX || doubleY ? Math.atan2(doubleY, doubleX) / 2 : old;
    const [x, y] = [Math.cos(angle), Math.sin(angle)];
    mapped[at] = (boxes[at]! - mapping.offsetX) / mapping.scaleX;
    mapped[at + 1] = (boxes[at + 1]! - mapping.offsetY) / mapping.scaleY;
    mapped[at + 2] = 2 * Math.abs(along[0] * x + along[1] * y);
    mapped[at + 3] = 2 * Math.abs(-across[0] * y + across[1] * x);
    mapped[at + 4] = angle;
  }
  return mapped;
}

/** Variance along x, along y, and covariance of points spread evenly over each box: (n, 3). */
function covariances(boxes: Float32Array): Float64Array {
  const count = boxes.length / 5;
  const found = new Float64Array(3 * count);
  for (let i = 0; i < count; i++) {
    const angle = boxes[5 * i + 4]!;
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
    const wide = boxes[5 * i + 2]! ** 2 / 12;
    const high = boxes[5 * i + 3]! ** 2 / 12;
    found[3 * i] = wide * cos ** 2 + high * sin ** 2;
    found[3 * i + 1] = wide * sin ** 2 + high * cos ** 2;
    found[3 * i + 2] = (wide - high) * cos * sin;
  }
  return found;
}

/** ProbIoU of two boxes (Llerena et al. 2021): one minus the Hellinger distance of their Gaussians. */
function probabilisticIou(boxes: Float32Array, spread: Float64Array, i: number, j: number): number {
  const [a1, b1, c1] = [spread[3 * i]!, spread[3 * i + 1]!, spread[3 * i + 2]!];
  const [a2, b2, c2] = [spread[3 * j]!, spread[3 * j + 1]!, spread[3 * j + 2]!];
  const [a, b, c] = [a1 + a2, b1 + b2, c1 + c2];
  const x = boxes[5 * i]! - boxes[5 * j]!;
  const y = boxes[5 * i + 1]! - boxes[5 * j + 1]!;
  const joint = Math.max(a * b - c * c, TINY);
  const apart = (a * y * y + b * x * x - 2 * c * x * y) / (4 * joint);
  const alone = Math.sqrt(Math.max(a1 * b1 - c1 * c1, TINY) * Math.max(a2 * b2 - c2 * c2, TINY));
  const shape = Math.log(Math.max(joint / (4 * alone), 1)) / 2;
  return Math.fround(1 - Math.sqrt(-Math.expm1(-(apart + shape))));
}

/** Indices of the oriented boxes that survive greedy NMS by ProbIoU, best score first. */
export function rotatedSuppression(
  boxes: Float32Array, scores: Float32Array, classIds: Int32Array, limit: number, classAgnostic: boolean,
): Int32Array {
  const spread = covariances(boxes);
  const most = Math.fround(limit);
  const kept: number[] = [];
  for (const i of descending(scores).subarray(0, MOST)) {
    const alike = (k: number): boolean =>
      (classAgnostic || classIds[k] === classIds[i]) && probabilisticIou(boxes, spread, k, i) > most;
    if (!kept.some(alike)) kept.push(i);
  }
  return Int32Array.from(kept);
}
