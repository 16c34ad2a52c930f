/** The few errors of this package. Each says what was wrong, with the value, and what to do about it. */

/** Base of every error that a caller can meet. */
export class EdgekitError extends Error {
  constructor(message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** The call itself is wrong: an unknown name, a value out of range, a model that is closed. */
export class UsageError extends EdgekitError {}

/** The model is running already; wait for its result, or use `stream`, which drops frames and counts them. */
export class BusyError extends UsageError {}

/** A contract is invalid, incomplete, or does not fit its graph. */
export class ContractError extends UsageError {}

/** An image, a mask or a frame cannot be read. */
export class InputError extends EdgekitError {}

/** An engine is missing, cannot open its file, or gave something unusable. */
export class EngineError extends EdgekitError {}

/** The caller stopped the work by its signal. */
export class StoppedError extends EdgekitError {}

/** Why a bundle was refused. */
export type BundleProblem =
  | "no-manifest"
  | "not-json"
  | "newer-schema"
  | "invalid"
  | "bad-digest"
  | "unsafe-path"
  | "named-twice"
  | "missing-file"
  | "wrong-size"
  | "hash-differs"
  | "unguarded"
  | "unreadable";

/** A bundle is damaged, altered or too new. */
export class BundleError extends EdgekitError {
  constructor(
    readonly kind: BundleProblem,
    message: string,
    options?: { cause?: unknown },
  ) {
    super(message, options);
  }
}

/** `'x' is not one of: a, b`: what every refusal of a name says. */
export function choices(given: unknown, valid: Iterable<unknown>): string {
  return `${quoted(given)} is not one of: ${[...valid].join(", ")}`;
}

/** A value as it is shown in a message. */
export function quoted(value: unknown): string {
  return typeof value === "string" ? `'${value}'` : String(value);
}

/** The text of anything that was thrown. */
export function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
