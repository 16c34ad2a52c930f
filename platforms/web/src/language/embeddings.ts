/** The embeddings of all tokens: `embeddings.npy` (vocabulary, width) of 16 or 32-bit floats, of which rows are read. */

import { BundleError } from "../errors.js";

export class Embeddings {
  private constructor(
    readonly count: number,
    readonly width: number,
    private readonly data: DataView,
    private readonly half: boolean,
  ) {}

  /** Throws BundleError: not such a file, or not of this width. */
  static read(bytes: Uint8Array, width: number): Embeddings {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const wide = bytes[6] === 1 ? 2 : 4;
    const magic = bytes.length > 12 && String.fromCharCode(...bytes.subarray(1, 6)) === "NUMPY";
    const start = magic ? 8 + wide + (wide === 2 ? view.getUint16(8, true) : view.getUint32(8, true)) : 0;
    const header = new TextDecoder("latin1").decode(bytes.subarray(8 + wide, start));
    const kind = /'descr': '<f([24])'/.exec(header)?.[1];
    const [, rows, columns] = /'shape': \((\d+), (\d+)\)/.exec(header) ?? [];
    const size = Number(rows) * Number(columns) * Number(kind);
    if (!magic || !kind || !header.includes("'fortran_order': False") || Number(columns) !== width || start + size !== bytes.length) {
      throw new BundleError("invalid", `embeddings.npy: is no array (vocabulary, ${width}) of float16 or float32; convert the model again`);
    }
    return new Embeddings(Number(rows), width, new DataView(bytes.buffer, bytes.byteOffset + start, size), kind === "2");
  }

  /** Write the embedding of a token into `target` from a place on. */
  copy(token: number, target: Float32Array, at: number): void {
    for (let i = 0; i < this.width; i++) {
      const place = token * this.width + i;
      target[at + i] = this.half ? fromHalf(this.data.getUint16(2 * place, true)) : this.data.getFloat32(4 * place, true);
    }
  }

  /** Of one token for each row, (rows, 1, width). */
  rows(tokens: readonly number[]): Float32Array {
    const made = new Float32Array(tokens.length * this.width);
    for (const [i, token] of tokens.entries()) this.copy(token, made, i * this.width);
    return made;
  }
}

/** A float of 16 bits. */
function fromHalf(bits: number): number {
  const [sign, exponent, fraction] = [bits & 0x8000 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return exponent === 31 ? (fraction ? NaN : sign * Infinity) : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
