/** Tokens beside the model's own, which are looked for in the text first: `<image>`, `</s>`. */

import type { Normalizer } from "./normalizers.js";
import type { Part } from "./parts.js";

interface Added {
  readonly id: number;
  readonly content: string;
  /** Only where no letter or number is beside it. */
  readonly single: boolean;
  /** Takes the spaces on its left or right. */
  readonly left: boolean;
  readonly right: boolean;
}

/** A token, or a text in which there is none; `first` where it begins the whole. */
export interface Split {
  readonly id?: number;
  readonly text: string;
  readonly first: boolean;
}

/** Finds tokens: the longest of those that begin first. */
interface Finder {
  readonly pattern: RegExp;
  readonly tokens: ReadonlyMap<string, Added>;
}

export class AddedTokens {
  private readonly contents = new Map<number, string>();
  private readonly special = new Set<string>();
  /** Those that are looked for in the text as it is, and those in the normalised text. */
  private readonly plain: Finder;
  private readonly normal: Finder;

  constructor(parts: readonly Part[], normalize: Normalizer) {
    const [plain, normal]: [Added[], Added[]] = [[], []];
    for (const part of parts) {
      const content = part.text("content");
      const token = { id: part.number("id"), content, single: part.flag("single_word"), left: part.flag("lstrip"), right: part.flag("rstrip") };
      this.contents.set(token.id, content);
      if (part.flag("special")) this.special.add(content);
      if (part.flag("normalized")) normal.push({ ...token, content: normalize(content) });
      else plain.push(token);
    }
    [this.plain, this.normal] = [finder(plain), finder(normal)];
  }

  content(id: number): string | undefined {
    return this.contents.get(id);
  }

  isSpecial(token: string): boolean {
    return this.special.has(token);
  }

  /** A text in tokens and normalised texts between them. */
  split(text: string, normalize: Normalizer): Split[] {
    return found(text, this.plain, true).flatMap((one) => (one.id === undefined ? found(normalize(one.text), this.normal, one.first) : [one]));
  }
}

function finder(tokens: readonly Added[]): Finder {
  const sorted = tokens.filter(({ content }) => content).sort((a, b) => b.content.length - a.content.length);
  const texts = sorted.map(({ content }) => content.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"));
  return { pattern: new RegExp(texts.join("|") || "(?!)", "gu"), tokens: new Map(sorted.map((token) => [token.content, token])) };
}

const WORD = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]";
const [WORD_BEHIND, WORD_BEFORE] = [new RegExp(`^${WORD}`, "u"), new RegExp(`${WORD}$`, "u")];

function found(text: string, { pattern, tokens }: Finder, first: boolean): Split[] {
  const splits: Split[] = [];
  let begun = 0;
  const between = (end: number): void => {
    if (begun < end) splits.push({ text: text.slice(begun, end), first: first && begun === 0 });
  };
  for (const match of text.matchAll(pattern)) {
    const token = tokens.get(match[0])!;
    let [start, stop] = [match.index, match.index + match[0].length];
    if (token.single && (WORD_BEFORE.test(text.slice(0, start)) || WORD_BEHIND.test(text.slice(stop)))) continue;
    if (token.left) start = Math.max(text.slice(0, start).search(/\p{White_Space}*$/u), begun);
    if (token.right) stop += /^\p{White_Space}*/u.exec(text.slice(stop))![0].length;
    between(start);
    splits.push({ id: token.id, text: text.slice(start, stop), first: false });
    begun = stop;
  }
  between(text.length);
  return splits;
}
