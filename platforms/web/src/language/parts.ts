/** Reading the parts of a `tokenizer.json`: objects with a `type`, of which a few are known. */

import { type Json, type JsonObject, Num } from "../bundle/json.js";
import { BundleError } from "../errors.js";

/** One object of the file. Whatever it lacks is a BundleError that names it. */
export class Part {
  constructor(
    private readonly fields: JsonObject,
    readonly place: string,
  ) {}

  wrong(what: string): BundleError {
    return new BundleError("invalid", `tokenizer.json: its ${this.place} ${what}; convert the model again`);
  }

  unknown(what: string): BundleError {
    return new BundleError("invalid", `tokenizer.json: its ${this.place} ${what}, which this package does not know; convert a model with an OPT, T5 or BERT tokenizer`);
  }

  has(name: string): boolean {
    return (this.fields.get(name) ?? null) !== null;
  }

  json(name: string): Json {
    return this.fields.get(name) ?? null;
  }

  text(name: string): string {
    const found = this.json(name);
    if (typeof found !== "string") throw this.wrong(`has no text '${name}'`);
    return found;
  }

  flag(name: string): boolean {
    return this.maybe(name) ?? false;
  }

  /** A flag that may be missing or null. */
  maybe(name: string): boolean | undefined {
    const found = this.json(name);
    if (found !== null && typeof found !== "boolean") throw this.wrong(`has a '${name}' that is neither true nor false`);
    return found ?? undefined;
  }

  number(name: string): number {
    return numberOf(this.json(name), () => this.wrong(`has no number '${name}'`));
  }

  /** A value as a number. */
  count(value: Json): number {
    return numberOf(value, () => this.wrong("has no number where an id should be"));
  }

  array(name: string): readonly Json[] {
    const found = this.json(name);
    if (!Array.isArray(found)) throw this.wrong(`has no list '${name}'`);
    return found;
  }

  object(name: string): Part {
    return this.part(this.json(name), `${this.place}.${name}`);
  }

  list(name: string): Part[] {
    return this.array(name).map((one) => this.part(one, this.place));
  }

  entries(name: string): readonly (readonly [string, Json])[] {
    const found = this.json(name);
    if (!(found instanceof Map)) throw this.wrong(`has no object '${name}'`);
    return [...found];
  }

  part(value: Json, place: string): Part {
    if (!(value instanceof Map)) throw this.wrong(`has no object where its ${place} should be`);
    return new Part(value, place);
  }
}

export function numberOf(value: Json | undefined, wrong: () => BundleError): number {
  if (!(value instanceof Num)) throw wrong();
  return value.value;
}

/** Reads a part by its `type`; another type is a BundleError that names it. */
export function readers<T>(what: string, known: Readonly<Record<string, (part: Part) => T>>): (part: Part) => T {
  return (part) => {
    const type = part.text("type");
    if (!Object.hasOwn(known, type)) throw part.unknown(`is the ${what} '${type}'`);
    return known[type]!(part);
  };
}
