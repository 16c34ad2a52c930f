/**
 * JSON that keeps what JavaScript's own parser drops: whether a number is whole, and every digit of it.
 *
 * The digest of a manifest is a hash of its canonical form, in which 1 and 1.0 differ.
 */

/** A number and how it was written. */
export class Num {
  constructor(
    readonly value: number,
    readonly text: string,
  ) {}

  /** Whether it was written without point and exponent. */
  get whole(): boolean {
    return !/[.eE]/.test(this.text);
  }
}

export type JsonObject = Map<string, Json>;
export type Json = null | boolean | string | Num | Json[] | JsonObject;

/** Brackets nested deeper than this are refused. */
const DEEPEST = 500;

/** Parse JSON text or bytes. Throws SyntaxError. */
export function parseJson(source: string | Uint8Array): Json {
  const text = typeof source === "string" ? source : utf8(source);
  const parser = new Parser(text);
  const value = parser.value(0);
  parser.space();
  if (parser.at < text.length) throw parser.wrong("trailing characters");
  return value;
}

function utf8(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    throw new SyntaxError("a text in it is not UTF-8", { cause: error });
  }
}

const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?/y;
const PLAIN = /[^"\\\u0000-\u001f]*/y;
const ESCAPES: Readonly<Record<string, string>> = {
  '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t",
};

class Parser {
  at = 0;
  constructor(private readonly text: string) {}

  wrong(what: string): SyntaxError {
    return new SyntaxError(`JSON is malformed: ${what} (character ${this.at})`);
  }

  space(): void {
    while (this.at < this.text.length && " \t\n\r".includes(this.text[this.at]!)) this.at++;
  }

  value(depth: number): Json {
    if (depth > DEEPEST) throw this.wrong("brackets nested too deep");
    this.space();
    const letter = this.text[this.at];
    if (letter === "{") return this.object(depth);
    if (letter === "[") return this.array(depth);
    if (letter === '"') return this.string();
    for (const [word, value] of [["true", true], ["false", false], ["null", null]] as const) {
      if (this.text.startsWith(word, this.at)) {
        this.at += word.length;
        return value;
      }
    }
    return this.number();
  }

  private number(): Num {
    NUMBER.lastIndex = this.at;
    const found = NUMBER.exec(this.text)?.[0];
    if (!found) throw this.wrong("invalid character");
    const value = Number(found);
    if (!Number.isFinite(value)) throw this.wrong("number out of range");
    this.at += found.length;
    if (/[0-9.]/.test(this.text[this.at] ?? "")) throw this.wrong("invalid number");
    return new Num(value, found);
  }

  private string(): string {
    let text = "";
    this.at++;
    for (;;) {
      PLAIN.lastIndex = this.at;
      const plain = PLAIN.exec(this.text)![0];
      text += plain;
      this.at += plain.length;
      const letter = this.text[this.at];
      if (letter === '"') break;
      if (letter !== "\\") throw this.wrong("invalid character in a text");
      text += this.escape();
    }
    this.at++;
    if (/\p{Surrogate}/u.test(text)) throw this.wrong("half a character");
    return text;
  }

  private escape(): string {
    const letter = this.text[this.at + 1] ?? "";
    if (letter === "u") {
      const digits = this.text.slice(this.at + 2, this.at + 6);
      if (!/^[0-9a-fA-F]{4}$/.test(digits)) throw this.wrong("invalid escape");
      this.at += 6;
      return String.fromCharCode(parseInt(digits, 16));
    }
    const meant = ESCAPES[letter];
    if (meant === undefined || letter === "") throw this.wrong("invalid escape");
    this.at += 2;
    return meant;
  }

  private array(depth: number): Json[] {
    const items: Json[] = [];
    this.at++;
    this.space();
    if (this.text[this.at] === "]") {
      this.at++;
      return items;
    }
    for (;;) {
      items.push(this.value(depth + 1));
      if (this.next("]")) return items;
    }
  }

  private object(depth: number): JsonObject {
    const entries: JsonObject = new Map();
    this.at++;
    this.space();
    if (this.text[this.at] === "}") {
      this.at++;
      return entries;
    }
    for (;;) {
      this.space();
      if (this.text[this.at] !== '"') throw this.wrong("a key must be a text");
      const key = this.string();
      this.space();
      if (this.text[this.at++] !== ":") throw this.wrong("a colon is missing");
      entries.set(key, this.value(depth + 1));
      if (this.next("}")) return entries;
    }
  }

  /** Step over a comma; true at the closing bracket. */
  private next(closing: string): boolean {
    this.space();
    const letter = this.text[this.at++];
    if (letter === closing) return true;
    if (letter !== ",") throw this.wrong(`a comma or ${closing} is missing`);
    return false;
  }
}

/** The canonical form: keys in the order of their code points, no spaces, floats as their shortest digits. */
export function canonical(value: Json): string {
  if (value === null || typeof value === "boolean") return String(value);
  if (typeof value === "string") return text(value);
  if (value instanceof Num) return value.whole ? (value.text === "-0" ? "0" : value.text) : float(value.value);
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  const keys = [...value.keys()].sort(byCodePoint);
  return `{${keys.map((key) => `${text(key)}:${canonical(value.get(key)!)}`).join(",")}}`;
}

/** JSON.stringify writes control characters as msgspec does, and leaves all others alone. */
const text = (value: string): string => JSON.stringify(value);

/** A float as msgspec writes it: `1.0`, `0.00001`, `1e-6`, `1e16`. */
function float(value: number): string {
  if (value === 0) return Object.is(value, -0) ? "-0.0" : "0.0";
  const [, sign, first, rest = "", exponent] = /^(-?)(\d)(?:\.(\d+))?e([-+]\d+)$/.exec(value.toExponential())!;
  const digits = first! + rest;
  const point = Number(exponent) + 1; // digits before the decimal point
  if (digits.length <= point && point <= 16) return `${sign}${digits.padEnd(point, "0")}.0`;
  if (0 < point && point <= 16) return `${sign}${digits.slice(0, point)}.${digits.slice(point)}`;
  if (-5 < point && point <= 0) return `${sign}0.${"0".repeat(-point)}${digits}`;
  return `${sign}${first}${rest && `.${rest}`}e${point - 1}`;
}

function byCodePoint(one: string, other: string): number {
  const [a, b] = [[...one], [...other]];
  for (let i = 0; i < Math.min(a.length, b.length); i++) {
    const difference = a[i]!.codePointAt(0)! - b[i]!.codePointAt(0)!;
    if (difference) return difference;
  }
  return a.length - b.length;
}

/** JSON as plain values. */
export function plain(value: Json): unknown {
  if (value instanceof Num) return value.value;
  if (Array.isArray(value)) return value.map(plain);
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, one]) => [key, plain(one)]));
  return value;
}
