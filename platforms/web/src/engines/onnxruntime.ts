/** Sessions of onnxruntime-web, in WebAssembly or on the GPU. */

import { length, type Tensor } from "../arrays.js";
import type { Graph } from "../bundle/manifest.js";
import { choices, EngineError, quoted, reason, UsageError } from "../errors.js";

/** What of the package onnxruntime-web is used here; its module fits. */
export interface OrtModule {
  readonly env: {
    readonly wasm: { numThreads?: number; proxy?: boolean; wasmPaths?: unknown };
    readonly versions: { readonly web?: string; readonly common: string };
  };
  readonly InferenceSession: { create(model: Uint8Array, options: OrtOptions): Promise<OrtSession> };
  readonly Tensor: {
    new (type: "float32", data: Float32Array, dims: readonly number[]): OrtTensor;
    new (type: "int32", data: Int32Array, dims: readonly number[]): OrtTensor;
    new (type: "int64", data: BigInt64Array, dims: readonly number[]): OrtTensor;
  };
}

interface OrtOptions {
  readonly executionProviders: readonly string[];
  readonly externalData?: readonly { readonly path: string; readonly data: Uint8Array }[];
}

interface OrtTensor {
  readonly type: string;
  readonly data: unknown;
  readonly dims: readonly number[];
}

interface OrtSession {
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
  run(feeds: Record<string, OrtTensor>): Promise<Record<string, OrtTensor>>;
  release(): Promise<void>;
}

/** Engines of bundles that are ONNX files. */
export const ENGINES: readonly string[] = ["web", "onnxruntime"];

export type Device = "wasm" | "webgpu";

export const DEVICES: readonly Device[] = ["wasm", "webgpu"];

/** One ONNX file, opened. */
export interface Session {
  readonly device: Device;
  /** The engine with its version. */
  readonly engine: string;
  /** Raw outputs, NCHW in the graph's order, for an input tensor (1, 3, height, width). Throws EngineError. */
  run(input: Tensor): Promise<Tensor[]>;
  release(): Promise<void>;
}

/** onnxruntime-web: as given, from an address, or as the page resolves its name. Throws EngineError. */
export async function engineModule(given: OrtModule | string | undefined): Promise<OrtModule> {
  if (typeof given === "object") return given;
  const name: string = given ?? "onnxruntime-web";
  try {
    return (await import(/* @vite-ignore */ name)) as OrtModule;
  } catch (error) {
    throw new EngineError(
      `onnxruntime-web cannot be loaded from ${quoted(name)} (${reason(error)}); npm install onnxruntime-web, or give ort: the ` +
        "module or its address (.../onnxruntime-web/dist/ort.webgpu.bundle.min.mjs)",
      { cause: error },
    );
  }
}

/** Why this device cannot be used here; undefined where nothing speaks against it. */
export async function unavailable(device: Device): Promise<string | undefined> {
  if (device === "wasm") return typeof WebAssembly === "undefined" ? "no WebAssembly here" : undefined;
  const gpu = (globalThis.navigator as { gpu?: { requestAdapter(): Promise<unknown> } } | undefined)?.gpu;
  if (!gpu) return "no WebGPU here (navigator.gpu)";
  return (await gpu.requestAdapter()) ? undefined : "WebGPU has no adapter";
}

/** A device's name, checked. Throws UsageError. */
export function deviceNamed(name: string): Device {
  if (!DEVICES.includes(name as Device)) throw new UsageError(`device ${choices(name, ["auto", ...DEVICES])}`);
  return name as Device;
}

/**
 * Open the file of a graph on one device.
 *
 * `copies`: the engine runs in a worker, which takes the memory of what it is given: it gets a copy.
 *
 * Throws EngineError: the engine refuses it, or it lacks an input or output of the manifest.
 */
export async function openSession(
  ort: OrtModule, graph: Graph, files: ReadonlyMap<string, Uint8Array>, device: Device, copies: boolean,
): Promise<Session> {
  const session = await created(ort, graph, files, device, copies);
  const input = graph.inputs[0]!;
  const nhwc = input.layout === "nhwc";
  return {
    device,
    engine: engineName(ort),
    async run(tensor) {
      const given = nhwc ? channelsLast(tensor) : copies ? { data: tensor.data.slice(), shape: tensor.shape } : tensor;
      let found: Record<string, OrtTensor>;
      try {
        found = await session.run({ [input.name]: new ort.Tensor("float32", given.data, given.shape) });
      } catch (error) {
        throw new EngineError(`onnxruntime-web failed on ${device}: ${reason(error)}`, { cause: error });
      }
      return graph.outputs.map(({ name, layout }) => asRead(found[name]!, name, layout));
    },
    release: () => session.release(),
  };
}

export const engineName = (ort: OrtModule): string => `onnxruntime-web ${ort.env.versions.web ?? ort.env.versions.common}`;

/** The engine's own session of a graph, its inputs and outputs checked. */
async function created(ort: OrtModule, graph: Graph, files: ReadonlyMap<string, Uint8Array>, device: Device, copies: boolean): Promise<OrtSession> {
  const [first, ...others] = graph.files as [string, ...string[]];
  const folder = first.slice(0, first.lastIndexOf("/") + 1);
  const externalData = others.map((path) => ({ path: path.startsWith(folder) ? path.slice(folder.length) : path, data: files.get(path)! }));
  let session: OrtSession;
  try {
    const bytes = copies ? files.get(first)!.slice() : files.get(first)!;
    session = await ort.InferenceSession.create(bytes, { executionProviders: [device], ...(others.length ? { externalData } : {}) });
  } catch (error) {
    throw new EngineError(`${first}: onnxruntime-web cannot open it on ${device}: ${reason(error)}`, { cause: error });
  }
  for (const [what, names, tensors] of [["input", session.inputNames, graph.inputs], ["output", session.outputNames, graph.outputs]] as const) {
    for (const { name } of tensors) {
      if (!names.includes(name)) throw new EngineError(`${first}: has no ${what} ${quoted(name)}, only ${names.join(", ")}; convert again`);
    }
  }
  return session;
}

/** Numbers with their shape; 32-bit floats where the graph takes floats. */
export interface Numbers {
  readonly data: ArrayLike<number>;
  readonly shape: readonly number[];
}

/** One ONNX file whose inputs and outputs go by their names. */
export interface Network {
  readonly graph: Graph;
  /** All outputs of the manifest, which are floats. Throws EngineError. */
  run(feeds: Readonly<Record<string, Numbers>>): Promise<Record<string, Tensor>>;
  release(): Promise<void>;
}

/** Open the file of a graph of several inputs. Throws EngineError: the engine refuses it, or it lacks an input or output. */
export async function openNetwork(ort: OrtModule, graph: Graph, files: ReadonlyMap<string, Uint8Array>, device: Device): Promise<Network> {
  const session = await created(ort, graph, files, device, false);
  return {
    graph,
    async run(feeds) {
      const given: Record<string, OrtTensor> = {};
      for (const { name, dtype } of graph.inputs) {
        const numbers = feeds[name];
        if (!numbers) throw new EngineError(`graph ${quoted(graph.name)} takes ${quoted(name)}, which this package does not have for it; convert again`);
        given[name] = tensorOf(ort, dtype, numbers, name);
      }
      let found: Record<string, OrtTensor>;
      try {
        found = await session.run(given);
      } catch (error) {
        throw new EngineError(`onnxruntime-web failed on ${device}: ${reason(error)}`, { cause: error });
      }
      return Object.fromEntries(graph.outputs.map(({ name }) => [name, asRead(found[name]!, name, "nchw")]));
    },
    release: () => session.release(),
  };
}

function tensorOf(ort: OrtModule, dtype: string, { data, shape }: Numbers, name: string): OrtTensor {
  if (dtype === "int64") return new ort.Tensor("int64", BigInt64Array.from(Array.from(data, BigInt)), shape);
  if (dtype === "int32") return new ort.Tensor("int32", Int32Array.from(data), shape);
  if (dtype !== "float32") throw new EngineError(`input ${quoted(name)} is ${dtype}, and this package gives float32, int32 and int64; convert again`);
  return new ort.Tensor("float32", data instanceof Float32Array ? data : Float32Array.from(data), shape);
}

function asRead({ data, dims }: OrtTensor, name: string, layout: string): Tensor {
  if (!(data instanceof Float32Array) || data.length !== length(dims)) {
    throw new EngineError(`onnxruntime-web gave output ${quoted(name)} in another type than float32; convert again`);
  }
  return layout === "nhwc" && dims.length === 4 ? channelsFirst({ data, shape: dims }) : { data, shape: dims };
}

function channelsLast({ data, shape }: Tensor): Tensor {
  const [n, channels, rows, columns] = shape as [number, number, number, number];
  return { data: transposed(data, channels, rows * columns), shape: [n, rows, columns, channels] };
}

function channelsFirst({ data, shape }: Tensor): Tensor {
  const [n, rows, columns, channels] = shape as [number, number, number, number];
  return { data: transposed(data, rows * columns, channels), shape: [n, channels, rows, columns] };
}

/** A table (rows, columns) as (columns, rows). */
function transposed(data: Float32Array, rows: number, columns: number): Float32Array {
  const turned = new Float32Array(data.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) turned[column * rows + row] = data[row * columns + column]!;
  }
  return turned;
}
