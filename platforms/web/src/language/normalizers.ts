/** What a tokenizer does to a text before it looks for tokens. */

import { precompiled } from "./charsmap.js";
import { type Part, readers } from "./parts.js";

export type Normalizer = (text: string) => string;

/** Each code point by itself. */
const each = (text: string, change: (letter: string) => string): string => {
  let made = "";
  for (const letter of text) made += change(letter);
  return made;
};

const form = (name: "NFC" | "NFD" | "NFKC" | "NFKD"): (() => Normalizer) => () => (text) => text.normalize(name);

/** A normalizer of a tokenizer file. */
export const normalizer: (part: Part) => Normalizer = readers<Normalizer>("normalizer", {
  Sequence: (part) => {
    const all = part.list("normalizers").map(normalizer);
    return (text) => all.reduce((made, one) => one(made), text);
  },
  Precompiled: (part) => precompiled(part.text("precompiled_charsmap")),
  Strip: (part) => {
    const [left, right] = [part.flag("strip_left"), part.flag("strip_right")];
    return (text) => {
      const begun = left ? text.replace(/^\p{White_Space}+/u, "") : text;
      return right ? begun.replace(/\p{White_Space}+$/u, "") : begun;
    };
  },
  Replace: (part) => {
    const [pattern, content] = [replaced(part), part.text("content")];
    return (text) => text.replace(pattern, () => content);
  },
  Lowercase: () => (text) => each(text, (letter) => letter.toLowerCase()),
  NFC: form("NFC"),
  NFD: form("NFD"),
  NFKC: form("NFKC"),
  NFKD: form("NFKD"),
  BertNormalizer: bert,
});

/** A text, or repeated spaces: no published file of OPT's, T5's or BERT's has another pattern. */
function replaced(part: Part): RegExp {
  const pattern = part.object("pattern");
  if (pattern.has("String")) return new RegExp(pattern.text("String").replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"), "gu");
  const regex = pattern.text("Regex");
  if (!/^ \{\d+,\}$/.test(regex)) throw part.unknown(`replaces the pattern '${regex}'`);
  return new RegExp(regex, "gu");
}

/** BERT's: control characters out, spaces around ideographs, accents off, small letters. */
function bert(part: Part): Normalizer {
  const [clean, ideographs, lower] = [part.flag("clean_text"), part.flag("handle_chinese_chars"), part.flag("lowercase")];
  const bare = part.maybe("strip_accents") ?? lower;
  return (text) => {
    let made = text;
    if (clean) made = each(made, (letter) => (/[\t\n\r]/.test(letter) ? " " : /[\ufffd\p{Cc}\p{Cf}\p{Co}]/u.test(letter) ? "" : letter.replace(/\p{White_Space}/u, " ")));
    if (ideographs) made = each(made, (letter) => (isIdeograph(letter.codePointAt(0)!) ? ` ${letter} ` : letter));
    if (bare) made = made.normalize("NFD").replace(/\p{Mn}/gu, "");
    return lower ? each(made, (letter) => letter.toLowerCase()) : made;
  };
}

/** CJK as BERT counts it; neither kana nor hangul. */
const IDEOGRAPHS = [
  [0x4e00, 0x9fff], [0x3400, 0x4dbf], [0x20000, 0x2a6df], [0x2a700, 0x2b73f], [0x2b740, 0x2b81f], [0x2b920, 0x2ceaf], [0xf900, 0xfaff], [0x2f800, 0x2fa1f],
] as const;

const isIdeograph = (code: number): boolean => IDEOGRAPHS.some(([first, last]) => first <= code && code <= last);
