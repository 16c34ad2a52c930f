/**
 * Constant-velocity Kalman filter over all tracks at once, in continuous time.
 *
 * State: centre x, centre y, width, height and their velocities, with noise in proportion to the size of the object
 * (DeepSORT, arXiv 1703.07402; width and height each their own as in BoT-SORT, arXiv 2206.14651). All noise is diagonal
 * per coordinate, so the 8x8 filter falls apart into four independent filters of (position, velocity).
 *
 * The papers count in frames of about 30 per second. Here the same noise is a rate per second, so that predicting 0.2 s
 * once or 0.02 s ten times is the same.
 *
 * A state is 24 numbers: six planes of (x, y, w, h).
 */

export const STATE = 24;
const POSITION = 0;
const VELOCITY = 4;
const VARIANCE = 8;
const COVARIANCE = 12;
const SPREAD = 16;
const SIZE = 20;

/** Frames per second of the papers' per-frame weights. */
const FRAME_RATE = 25;
/** Standard deviation of a detection, in sizes; likewise what a position drifts by in one frame. */
const MEASUREMENT = 1 / 20;
/** What the velocity changes by in one frame, in sizes per frame. */
const ACCELERATION = 1 / 160;
const FIRST_POSITION = 2 * MEASUREMENT;
const FIRST_VELOCITY = 10 * ACCELERATION;
/** Most that an unseen object is taken to grow or shrink. */
const STRETCH = 4;

const DRIFT = MEASUREMENT ** 2 * FRAME_RATE;
const PUSH = (ACCELERATION * FRAME_RATE) ** 2 * FRAME_RATE;
const START = (FIRST_VELOCITY * FRAME_RATE) ** 2;

/** Centre and size of box `row` of (n, 4), written to `out` from `to` on. */
export function centred(boxes: Float32Array, row: number, out: Float64Array, to = 0): void {
  const at = 4 * row;
  out[to] = (boxes[at]! + boxes[at + 2]!) * 0.5;
  out[to + 1] = (boxes[at + 1]! + boxes[at + 3]!) * 0.5;
  out[to + 2] = boxes[at + 2]! - boxes[at]!;
  out[to + 3] = boxes[at + 3]! - boxes[at + 1]!;
}

/** The box of a state, written to row `row` of (n, 4). */
export function corners(state: Float64Array, at: number, boxes: Float32Array, row: number): void {
  const halfWidth = state[at + 2]! * 0.5;
  const halfHeight = state[at + 3]! * 0.5;
  boxes[4 * row] = state[at]! - halfWidth;
  boxes[4 * row + 1] = state[at + 1]! - halfHeight;
  boxes[4 * row + 2] = state[at]! + halfWidth;
  boxes[4 * row + 3] = state[at + 1]! + halfHeight;
}

/** (w, h, w, h), at least a pixel, lest an empty box be taken for a perfect measurement. */
function setSize(state: Float64Array, at: number): void {
  const width = Math.max(state[at + 2]!, 1);
  const height = Math.max(state[at + 3]!, 1);
  state[at + SIZE] = width;
  state[at + SIZE + 1] = height;
  state[at + SIZE + 2] = width;
  state[at + SIZE + 3] = height;
}

/** The state of a new track from what was measured, (4,) of `centred`. */
export function begin(measured: Float64Array, state: Float64Array, at: number): void {
  state.fill(0, at, at + STATE);
  state.set(measured.subarray(0, 4), at + POSITION);
  setSize(state, at);
  for (let k = 0; k < 4; k++) {
    const square = state[at + SIZE + k]! * state[at + SIZE + k]!;
    state[at + VARIANCE + k] = FIRST_POSITION ** 2 * square;
    state[at + SPREAD + k] = START * square;
  }
}

/** The state at `from` after `time` seconds, written to `to` of another array (or over itself). */
export function predict(state: Float64Array, from: number, time: number, out: Float64Array, to: number): void {
  for (let k = 0; k < 4; k++) {
    const size = state[from + SIZE + k]!;
    const square = size * size;
    const push = square * PUSH * time;
    let position = state[from + POSITION + k]! + state[from + VELOCITY + k]! * time;
    if (k > 1) position = Math.min(Math.max(position, size / STRETCH), size * STRETCH);
    const covariance = state[from + COVARIANCE + k]!;
    const spread = state[from + SPREAD + k]!;
    const grown = time * spread;
    out[to + POSITION + k] = position;
    out[to + VELOCITY + k] = state[from + VELOCITY + k]!;
    out[to + VARIANCE + k] =
      state[from + VARIANCE + k]! + time * (2 * covariance + grown + square * DRIFT + push * time * (1 / 3));
    out[to + COVARIANCE + k] = covariance + (grown + push * time * 0.5);
    out[to + SPREAD + k] = spread + push;
    out[to + SIZE + k] = size;
  }
}

/** Correct the state at `at` by a measurement, (4,) of `centred`, in place. */
export function correct(state: Float64Array, at: number, measured: Float64Array, from = 0): void {
  for (let k = 0; k < 4; k++) {
    const variance = state[at + VARIANCE + k]!;
    const covariance = state[at + COVARIANCE + k]!;
    const noise = MEASUREMENT * state[at + SIZE + k]!;
    const total = variance + noise * noise;
    const gain = variance / total;
    const pull = covariance / total;
    const error = measured[from + k]! - state[at + POSITION + k]!;
    state[at + POSITION + k] = state[at + POSITION + k]! + gain * error;
    state[at + VELOCITY + k] = state[at + VELOCITY + k]! + pull * error;
    state[at + VARIANCE + k] = (1 - gain) * variance;
    state[at + COVARIANCE + k] = (1 - gain) * covariance;
    state[at + SPREAD + k] = state[at + SPREAD + k]! - pull * covariance;
  }
  setSize(state, at);
}
