/** SentencePiece's table of replacements: a double array over UTF-8 bytes, then the texts, each with a 0 behind it. */

import { BundleError } from "../errors.js";

/** The longest cluster, in bytes, that is looked up as a whole, less one. */
const WHOLE = 6;

/** The normalizer of a `precompiled_charsmap` in base64. */
export function precompiled(base64: string): (text: string) => string {
  const [units, texts] = read(base64);
  const [encoder, decoder] = [new TextEncoder(), new TextDecoder("utf-8", { ignoreBOM: true })];
  /** What stands for a text: that of its shortest beginning, as SentencePiece's readers have it. */
  const replacement = (bytes: Uint8Array): string | undefined => {
    let at = offset(units[0]!);
    for (const byte of bytes) {
      const unit = units[at ^ byte];
      if (byte === 0 || unit === undefined || (unit & 0x800000ff) !== byte) return undefined;
      at ^= byte ^ offset(unit);
      if (unit & 0x100) {
        const start = units[at]! & 0x7fffffff;
        return decoder.decode(texts.subarray(start, texts.indexOf(0, start)));
      }
    }
    return undefined;
  };
  const clusters = new Intl.Segmenter("und", { granularity: "grapheme" });
  return (text) => {
    let made = "";
    for (const { segment } of clusters.segment(text)) {
      const bytes = encoder.encode(segment);
      const whole = bytes.length < WHOLE ? replacement(bytes) : undefined;
      if (whole !== undefined) made += whole;
      else for (const letter of segment) made += replacement(encoder.encode(letter)) ?? letter;
    }
    return made;
  };
}

/** How far the children of a unit are. */
const offset = (unit: number): number => (unit >>> 10) << ((unit & 0x200) >>> 6);

function read(base64: string): [units: Uint32Array, texts: Uint8Array] {
  let bytes: Uint8Array;
  try {
    bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  } catch (error) {
    throw new BundleError("invalid", "tokenizer.json: its precompiled_charsmap is not base64; convert the model again", { cause: error });
  }
  const size = bytes.length >= 4 ? new DataView(bytes.buffer).getUint32(0, true) : 0;
  if (size < 4 || size % 4 || 4 + size > bytes.length || bytes[bytes.length - 1] !== 0) {
    throw new BundleError("invalid", "tokenizer.json: its precompiled_charsmap is cut off; convert the model again");
  }
  const view = new DataView(bytes.buffer, 4, size);
  return [Uint32Array.from({ length: size / 4 }, (_, i) => view.getUint32(4 * i, true)), bytes.subarray(4 + size)];
}
