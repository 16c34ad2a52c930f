/** How a text is cut into words, each of which becomes tokens by itself. */

import { type Part, readers } from "./parts.js";

/** The words of a piece of text; `first` where the piece begins the text. */
export type PreTokenizer = (text: string, first: boolean) => string[];

/** GPT-2's: endings of English words, letters, numbers and other signs with a space in front, and spaces. */
const GPT2 = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** Signs of ASCII that are no letters and numbers, and punctuation. */
const PUNCTUATION = /([!-/:-@[-`{-~]|\p{P})/u;

/** A pre-tokenizer of a tokenizer file. */
export const preTokenizer: (part: Part) => PreTokenizer = readers<PreTokenizer>("pre_tokenizer", {
  Sequence: (part) => {
    const all = part.list("pretokenizers").map(preTokenizer);
    return (text, first) => all.reduce((words, one) => words.flatMap((word, i) => one(word, first && i === 0)), [text]);
  },
  ByteLevel: (part) => {
    const [prefix, split] = [part.flag("add_prefix_space"), part.maybe("use_regex") ?? true];
    return (text) => {
      const whole = prefix && !text.startsWith(" ") ? ` ${text}` : text;
      return (split ? (whole.match(GPT2) ?? []) : [whole]).map(asLetters);
    };
  },
  Metaspace: (part) => {
    const mark = part.text("replacement");
    const scheme = part.has("prepend_scheme") ? part.text("prepend_scheme") : (part.maybe("add_prefix_space") ?? true) ? "always" : "never";
    if (!["always", "first", "never"].includes(scheme)) throw part.unknown(`has the prepend_scheme '${scheme}'`);
    const split = part.maybe("split") ?? true;
    return (text, first) => {
      let marked = text.replaceAll(" ", mark);
      if ((scheme === "always" || (scheme === "first" && first)) && !marked.startsWith(mark)) marked = mark + marked;
      if (!split) return [marked];
      const words = marked.split(mark);
      return [...(words[0] ? [words[0]] : []), ...words.slice(1).map((word) => mark + word)];
    };
  },
  WhitespaceSplit: () => words,
  BertPreTokenizer: () => (text) => words(text).flatMap((word) => word.split(PUNCTUATION).filter(Boolean)),
});

const words = (text: string): string[] => text.split(/\p{White_Space}+/u).filter(Boolean);

/** The letter that stands for each byte in byte-level tokens: itself where it can be seen, else one from U+0100 on. */
const LETTERS: readonly string[] = (() => {
  const seen = (byte: number): boolean => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(seen(byte) ? byte : next++));
})();

/** The byte that each of these letters stands for. */
export const BYTES: ReadonlyMap<string, number> = new Map(LETTERS.map((letter, byte) => [letter, byte]));

const asLetters = (text: string): string => {
  let made = "";
  for (const byte of new TextEncoder().encode(text)) made += LETTERS[byte];
  return made;
};
