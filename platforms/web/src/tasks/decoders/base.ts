/** Types of decoders, and their registration. */

import type { Tensor } from "../../arrays.js";
import type { JsonObject } from "../../bundle/json.js";
import type { Decoder as DecoderSpec } from "../../bundle/manifest.js";
import { Invalid, type Schema, float, int, struct } from "../../bundle/schema.js";
import { ContractError, choices } from "../../errors.js";

export const positive = float({ above: 0 });
export const count = int({ least: 1, most: 1 << 16 });

/** Options of a decoder that has none. */
export const noOptions = struct({});

/** Heads of a shape that a decoder cannot read; becomes a ContractError with their names. */
export class Misfit extends Error {}

/** Raw outputs by role, one array per level from the finest stride to the coarsest; (1, channels, h, w) each. */
export type Heads = ReadonlyMap<string, readonly Tensor[]>;

/** What a decoder is given of its contract: input size in pixels, number of classes and of keypoints. */
export interface InputFrame {
  readonly height: number;
  readonly width: number;
  readonly classes: number;
  readonly keypoints: number;
}

/** What a task has beside each box: `width` numbers a row. */
export interface Attached {
  readonly data: Float32Array;
  readonly width: number;
}

/** Decoded candidates of one image, in input pixels. */
export interface Candidates {
  /** (n, 4) xyxy. */
  readonly boxes: Float32Array;
  readonly scores: Float32Array;
  readonly classIds: Int32Array;
  /** The place in the network's own order of predictions. */
  readonly anchors: Int32Array;
  readonly attached: Attached | null;
}

export type Decode<O> = (heads: Heads, options: O, frame: InputFrame, threshold: number) => Candidates;
export type Attach<O> = (heads: Heads, options: O, frame: InputFrame, anchors: Int32Array) => Attached;

/** A decoder with the schema of its options; `attachments` decode what other tasks have beside the boxes, by role. */
export interface Registered<O> {
  readonly name: string;
  /** The task whose results `run` gives whole. */
  readonly task: string;
  readonly options: Schema<O>;
  readonly run: Decode<O>;
  readonly attachments: Readonly<Record<string, Attach<O>>>;
}

const DECODERS = new Map<string, Registered<unknown>>();

/**
 * Register a decoder under a name that contracts use.
 *
 * Throws ContractError: the name is taken.
 */
export function decoder<O>(
  name: string,
  options: Schema<O>,
  run: Decode<O>,
  more: { task?: string; attachments?: Readonly<Record<string, Attach<O>>> } = {},
): void {
  if (DECODERS.has(name)) throw new ContractError(`a decoder named '${name}' is registered already; choose another name`);
  const registered: Registered<O> = { name, options, run, task: more.task ?? "detect", attachments: more.attachments ?? {} };
  DECODERS.set(name, registered as Registered<unknown>);
}

/** All decoders by name. */
export function everyDecoder(): ReadonlyMap<string, Registered<unknown>> {
  return DECODERS;
}

/** The registered decoder of a contract. Throws ContractError: no decoder of that name. */
export function find(spec: DecoderSpec): Registered<unknown> {
  const found = DECODERS.get(spec.name);
  if (!found) throw new ContractError(`decoder ${choices(spec.name, [...DECODERS.keys()].sort())}`);
  return found;
}

/** Validated options. Throws ContractError: a wrong key or value, named with the valid ones. */
export function readOptions<O>(one: Registered<O>, options: JsonObject): O {
  try {
    return one.options.read(options, "");
  } catch (error) {
    if (!(error instanceof Invalid)) throw error;
    const valid = one.options.fields?.join(", ") || "none";
    throw new ContractError(`decoder '${one.name}': ${error.message}; its options are: ${valid}`);
  }
}

/** The heads of a role, finest first. Throws Misfit: none has it, or another number of levels. */
export function levels(heads: Heads, role: string, count?: number): readonly Tensor[] {
  const found = heads.get(role);
  if (!found) throw new Misfit(`no output has the role '${role}'`);
  if (count !== undefined && found.length !== count) {
    throw new Misfit(`${found.length} outputs of the role '${role}' where ${count} are needed, one a level`);
  }
  return found;
}

/** The only head of a role. */
export function only(heads: Heads, role: string): Tensor {
  return levels(heads, role, 1)[0]!;
}
