/** How tokens become a text again. */

import { readers } from "./parts.js";
import { BYTES } from "./pretokenizers.js";

export type Decoder = (tokens: readonly string[]) => string;

const UTF8 = new TextDecoder("utf-8", { ignoreBOM: true });

/** A decoder of a tokenizer file. */
export const decoder = readers<Decoder>("decoder", {
  ByteLevel: () => (tokens) => {
    const bytes = tokens.flatMap((token) => {
      const found = [...token].map((letter) => BYTES.get(letter));
      return found.every((byte) => byte !== undefined) ? (found as number[]) : [...new TextEncoder().encode(token)];
    });
    return UTF8.decode(Uint8Array.from(bytes));
  },
  Metaspace: (part) => {
    const mark = part.text("replacement");
    const scheme = part.has("prepend_scheme") ? part.text("prepend_scheme") : (part.maybe("add_prefix_space") ?? true) ? "always" : "never";
    return (tokens) => tokens.map((token, i) => token.replaceAll(mark, i === 0 && scheme !== "never" ? "" : " ")).join("");
  },
  WordPiece: (part) => {
    const [prefix, cleanup] = [part.text("prefix"), part.maybe("cleanup") ?? true];
    return (tokens) => {
      const parts = tokens.map((token, i) => (i === 0 ? token : token.startsWith(prefix) ? token.slice(prefix.length) : ` ${token}`));
      return parts.map((one) => (cleanup ? cleaned(one) : one)).join("");
    };
  },
});

const CLEANUP = [
  [" .", "."], [" ?", "?"], [" !", "!"], [" ,", ","], [" ' ", "'"], [" n't", "n't"], [" 'm", "'m"], [" do not", " don't"], [" 's", "'s"], [" 've", "'ve"],
  [" 're", "'re"],
] as const;

const cleaned = (text: string): string => CLEANUP.reduce((made, [from, to]) => made.replaceAll(from, to), text);
