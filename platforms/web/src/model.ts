/** A bundle, opened and ready: frame in, result out. */

import type { Tensor } from "./arrays.js";
import { type Bundle, type BundleSource, folderAt, openBundle } from "./bundle/folder.js";
import type { Graph, Manifest } from "./bundle/manifest.js";
import { type Device, DEVICES, deviceNamed, ENGINES, engineModule, type OrtModule, openSession, type Session, unavailable } from "./engines/onnxruntime.js";
import { BundleError, BusyError, EngineError, reason, StoppedError, UsageError } from "./errors.js";
import { type FrameSource, pixelsOf, upright } from "./inputs/frames.js";
import { type Pixels, Preprocessor } from "./inputs/images.js";
import { posesIn, type PosesInBoxes } from "./parts.js";
import type { Result } from "./results/results.js";
import { type SelfCheck, selfCheck } from "./selfcheck.js";
import { type RunOptions, Streaming } from "./streaming.js";
import type { Task } from "./tasks/detect.js";
import { openTask } from "./tasks/index.js";

export interface OpenOptions {
  /** `auto` measures WebAssembly and WebGPU and keeps the faster one that is also right. */
  readonly device?: "auto" | Device;
  /** Refuse to go on in WebAssembly where `auto` cannot use WebGPU. */
  readonly strict?: boolean;
  /** Run WebAssembly in a worker of onnxruntime-web, so that the page goes on meanwhile. Not for WebGPU. */
  readonly worker?: boolean;
  /** onnxruntime-web: its module, or its address; by default what `onnxruntime-web` means to the page. */
  readonly ort?: OrtModule | string;
  /** Stops the opening. */
  readonly signal?: AbortSignal;
}

/** What was tried, and why it was not kept. */
export interface Attempt {
  readonly device: Device;
  /** Median of one inference, where it was measured. */
  readonly milliseconds: number | null;
  readonly problem: string | null;
}

/** What runs where, and why. */
export interface Placement {
  readonly device: Device;
  readonly engine: string;
  readonly reason: string;
  readonly attempts: readonly Attempt[];
}

/** Devices that were measured before in this page, by the bundle's digest. */
const MEASURED = new Map<string, Placement>();

/** A bundle, opened: `run` frames, `stream` a video, `dispose` in the end. It runs one frame at a time. */
export class EdgeModel extends Streaming<Result> {
  private readonly task: Task;
  private readonly preprocess: Preprocessor;
  private state: "ready" | "busy" | "closed" = "ready";
  private running: Promise<unknown> = Promise.resolve();

  private constructor(
    private readonly bundle: Bundle,
    private readonly session: Session,
    readonly placement: Placement,
  ) {
    super();
    const { contract } = bundle.manifest;
    this.task = openTask(contract);
    this.preprocess = new Preprocessor(contract.image);
  }

  /**
   * Open a bundle: its folder on a server, or any other source of its files. All hashes are checked.
   *
   * Throws BundleError: damaged, altered or too new. ContractError: a task or decoder that this package lacks.
   * EngineError: the engine is missing, or refuses the file. UsageError: a bundle of another engine.
   */
  static async open(source: string | URL | BundleSource, options: OpenOptions = {}): Promise<EdgeModel> {
    const { device = "auto", worker = false, signal } = options;
    const wanted = device === "auto" ? device : deviceNamed(device);
    if (worker && wanted === "webgpu") throw new UsageError("worker: true is for WebAssembly; onnxruntime-web runs WebGPU in the page's own thread");
    const bundle = await openBundle(typeof source === "string" || source instanceof URL ? folderAt(source) : source, signal);
    const graph = graphOf(bundle.manifest);
    openTask(bundle.manifest.contract); // refuses what cannot be decoded before an engine is loaded
    const ort = await engineModule(options.ort);
    if (worker) ort.env.wasm.proxy = true;
    stopped(signal);
    const open = (one: Device): Promise<Session> => openSession(ort, graph, bundle.files, one, worker);
    const [session, placement] =
      wanted === "auto"
        ? await fastest(bundle.manifest, worker ? ["wasm"] : DEVICES, open, options.strict ?? false, signal)
        : await asked(wanted, open);
    if (signal?.aborted) {
      await session.release();
      stopped(signal);
    }
    return new EdgeModel(bundle, session, placement);
  }

  /** All that the bundle says of itself. */
  get manifest(): Manifest {
    return this.bundle.manifest;
  }

  /**
   * The result of one frame.
   *
   * Throws InputError: no pixels. BusyError: it is running. UsageError: it is closed, or a threshold is out of range.
   * EngineError: the engine failed, or gave NaN or infinite outputs.
   */
  override async run(frame: FrameSource, options: RunOptions = {}): Promise<Result> {
    return this.exclusively(async () => {
      const begun = performance.now();
      const { tensor, mapping } = this.preprocess.run(upright(pixelsOf(frame), options));
      const ready = performance.now();
      const outputs = await this.session.run(tensor);
      const inferred = performance.now();
      const found = this.task.result(outputs, mapping, options.thresholds);
      const timings = { pre: ready - begun, inference: inferred - ready, post: performance.now() - inferred };
      return { ...found, time: options.time ?? null, timings } as Result;
    });
  }

  /**
   * The best pose in each of these boxes of an upright image, whatever its score; see `TopDown`.
   *
   * Throws as `run`.
   */
  async posesIn(image: Pixels, boxes: Float32Array, margin: number): Promise<PosesInBoxes> {
    return this.exclusively(() => posesIn(image, boxes, margin, this.task, this.preprocess, (tensor) => this.session.run(tensor)));
  }

  /**
   * Replay the golden frames of the bundle: the record says whether this device finds what the bundle found when it was
   * converted. As JSON it is what `edgekit evidence add BUNDLE RECORD.json` reads.
   *
   * Throws UsageError: the bundle has none, or the model is closed. Otherwise as `run`.
   */
  async selfCheck(): Promise<SelfCheck> {
    return this.exclusively(() => selfCheck(this.bundle, this.task, this.preprocess, this.session));
  }

  /** Let go of the engine and its memory, after what is running; what is called afterwards throws a UsageError. */
  async dispose(): Promise<void> {
    if (this.state === "closed") return;
    this.state = "closed";
    await this.running.catch(() => undefined);
    await this.session.release();
  }

  override checkReady(): void {
    if (this.state === "closed") throw new UsageError("this model is closed: open it again with EdgeModel.open(...)");
    if (this.state === "busy") throw new BusyError("this model is running: await its result first, or use stream(), which takes the newest frame");
  }

  private async exclusively<T>(work: () => Promise<T>): Promise<T> {
    this.checkReady();
    this.state = "busy";
    const running = work();
    this.running = running;
    try {
      return await running;
    } finally {
      if (this.state === "busy") this.state = "ready";
    }
  }
}

/** The one graph of a bundle that this package can run. */
function graphOf(manifest: Manifest): Graph {
  const { contract, graphs, engine, variants } = manifest;
  if (contract.language) throw new UsageError(`${manifest.name} is a vision-language model; open it with VisionLanguage.open(...)`);
  if (graphs.length !== 1) throw new BundleError("invalid", `${manifest.name}: ${graphs.length} graphs; a ${contract.task} model has one`);
  const graph = graphs[0]!;
  const own = graph.engine ?? engine;
  if (!ENGINES.includes(own)) {
    throw new UsageError(`${manifest.name} is for the engine ${own}, and this package runs ONNX files; convert the model with --target web`);
  }
  const [height, width] = contract.image.size;
  const wanted = (layout: string): number[] => (layout === "nchw" ? [1, 3, height, width] : [1, height, width, 3]);
  const fits = graph.inputs.length === 1 && graph.inputs.every(({ shape, layout, dtype }) => {
    const own = wanted(layout);
    const open = (size: number): boolean => variants !== undefined && size === -1;
    return dtype === "float32" && shape.length === 4 && shape.every((size, i) => size === own[i] || open(size));
  });
  if (!fits) {
    const shapes = graph.inputs.map(({ shape, dtype }) => `${dtype} [${shape.join(", ")}]`).join(" and ");
    throw new BundleError("invalid", `${manifest.name}: the contract makes a float32 input of ${height}x${width}, the graph takes ${shapes}; convert the model again`);
  }
  return graph;
}

type Opened = readonly [session: Session, placement: Placement];

/** The device that was asked for, or an error. */
async function asked(device: Device, open: (device: Device) => Promise<Session>): Promise<Opened> {
  const problem = await unavailable(device);
  if (problem) throw new EngineError(`device ${device} cannot be used: ${problem}; open with device: "auto"`);
  const session = await open(device);
  return [session, { device, engine: session.engine, reason: "asked for", attempts: [{ device, milliseconds: null, problem: null }] }];
}

/** Runs that are timed, after one that is not. */
const RUNS = 5;
/** Cosine of the outputs of two devices, at least. */
const RIGHT = 0.999;

/** The fastest device whose outputs are those of WebAssembly. */
async function fastest(
  manifest: Manifest, devices: readonly Device[], open: (device: Device) => Promise<Session>, strict: boolean, signal?: AbortSignal,
): Promise<Opened> {
  const known = MEASURED.get(manifest.digest);
  if (known && devices.includes(known.device) && !strict) return [await open(known.device), known];
  const tensor = noise(manifest);
  const attempts: Attempt[] = [];
  let right: Tensor[] | undefined;
  let best: { session: Session; milliseconds: number } | undefined;
  for (const device of devices) {
    const attempt = await tried(device, open, tensor, right, devices.length > 1);
    attempts.push({ device, milliseconds: attempt.milliseconds, problem: attempt.problem });
    if (attempt.session) {
      right ??= attempt.outputs;
      const faster = !best || attempt.milliseconds! < best.milliseconds;
      await (faster ? best?.session : attempt.session)?.release();
      if (faster) best = { session: attempt.session, milliseconds: attempt.milliseconds! };
    }
    if (signal?.aborted) {
      await best?.session.release();
      stopped(signal);
    }
  }
  const problems = attempts.filter(({ problem }) => problem).map(({ device, problem }) => `${device}: ${problem}`).join("; ");
  if (!best || (strict && problems)) {
    await best?.session.release();
    throw new EngineError(`${strict && best ? "strict: not every device can be used" : "no device can run it"}: ${problems}`);
  }
  const { device, engine } = best.session;
  const placement = { device, engine, reason: problems || `faster of ${devices.join(" and ")}, measured here`, attempts };
  MEASURED.set(manifest.digest, placement);
  return [best.session, placement];
}

/** What came of trying a device; without a session it was of no use. */
interface Tried {
  readonly session: Session | null;
  readonly outputs?: Tensor[];
  readonly milliseconds: number | null;
  readonly problem: string | null;
}

async function tried(
  device: Device, open: (device: Device) => Promise<Session>, tensor: Tensor, right: Tensor[] | undefined, timed: boolean,
): Promise<Tried> {
  const refused = (problem: string): Tried => ({ session: null, milliseconds: null, problem });
  const problem = await unavailable(device);
  if (problem) return refused(problem);
  let session: Session | undefined;
  try {
    session = await open(device);
    const outputs = (await session.run(tensor)).map(({ data, shape }) => ({ data: data.slice(), shape }));
    const off = right && Math.min(...outputs.map((output, i) => cosine(output.data, right[i]!.data)));
    if (off !== undefined && !(off >= RIGHT)) {
      await session.release();
      return refused(`wrong: the cosine of its outputs to those of WebAssembly is ${off.toFixed(4)}`);
    }
    const times: number[] = [];
    for (let i = 0; timed && i < RUNS; i++) {
      const begun = performance.now();
      await session.run(tensor);
      times.push(performance.now() - begun);
    }
    const median = times.sort((a, b) => a - b)[Math.floor(RUNS / 2)] ?? 0;
    return { session, outputs, milliseconds: median, problem: null };
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
    await session?.release();
    return refused(reason(error));
  }
}

/** An input tensor of noise, always the same. */
function noise({ contract }: Manifest): Tensor {
  const [height, width] = contract.image.size;
  const canvas = new Uint8Array(3 * height * width);
  for (let i = 0, x = 1; i < canvas.length; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    canvas[i] = x >>> 24;
  }
  return new Preprocessor(contract.image).normalise(canvas);
}

/** Cosine of two outputs; NaN where one of them has NaN. */
function cosine(one: Float32Array, other: Float32Array): number {
  let [product, first, second] = [0, 0, 0];
  for (let i = 0; i < one.length; i++) {
    product += one[i]! * other[i]!;
    first += one[i]! * one[i]!;
    second += other[i]! * other[i]!;
  }
  return first === 0 && second === 0 ? 1 : product / Math.sqrt(first * second);
}

function stopped(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new StoppedError("opening was stopped");
}
