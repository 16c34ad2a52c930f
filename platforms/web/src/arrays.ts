/** Arrays that the whole package shares, and the little arithmetic on them that JavaScript lacks. */

/** An array of 32-bit floats with its shape, row after row. */
export interface Tensor {
  readonly data: Float32Array;
  readonly shape: readonly number[];
}

/** (width, height) in pixels. */
export type Size = readonly [width: number, height: number];

/** Product of a shape. */
export function length(shape: readonly number[]): number {
  let product = 1;
  for (const size of shape) product *= size;
  return product;
}

/** Half to even, as Python and numpy round. */
export function roundEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest < 0.5) return floor;
  if (rest > 0.5) return floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Indices of values from the largest to the smallest; equal ones keep their order. */
export function descending(values: ArrayLike<number>): Int32Array {
  const order = new Int32Array(values.length);
  for (let i = 0; i < order.length; i++) order[i] = i;
  return order.sort((a, b) => values[b]! - values[a]! || a - b);
}

/** Rows of an array at these indices. */
export function takeFloats(values: Float32Array, rows: ArrayLike<number>, width = 1): Float32Array {
  const taken = new Float32Array(rows.length * width);
  for (let i = 0; i < rows.length; i++) {
    const from = rows[i]! * width;
    for (let k = 0; k < width; k++) taken[i * width + k] = values[from + k]!;
  }
  return taken;
}

/** Values of an array at these indices. */
export function takeInts(values: Int32Array, rows: ArrayLike<number>): Int32Array {
  const taken = new Int32Array(rows.length);
  for (let i = 0; i < rows.length; i++) taken[i] = values[rows[i]!]!;
  return taken;
}

/** A shape as it is shown in a message: `(1, 80, 52, 52)`. */
export function shown(shape: readonly number[]): string {
  return `(${shape.join(", ")}${shape.length === 1 ? "," : ""})`;
}
