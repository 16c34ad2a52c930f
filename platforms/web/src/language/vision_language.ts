/** A vision-language bundle, opened and ready: captions, answers, and how well a text fits an image. */

import type { Tensor } from "../arrays.js";
import { type Bundle, type BundleSource, folderAt, openBundle } from "../bundle/folder.js";
import type { Graph, Language, Manifest } from "../bundle/manifest.js";
import { plain } from "../bundle/json.js";
import { type Device, deviceNamed, ENGINES, engineModule, engineName, type Network, openNetwork, type OrtModule, unavailable } from "../engines/onnxruntime.js";
import { BundleError, BusyError, choices, EngineError, quoted, StoppedError, UsageError } from "../errors.js";
import { type FrameSource, pixelsOf, type Turn, upright } from "../inputs/frames.js";
import { Preprocessor } from "../inputs/images.js";
import { Embeddings } from "./embeddings.js";
import { ImageEncoder, output } from "./features.js";
import { checkStreamable, generate, type LanguageGraph, type Sequence, streamed } from "./generation.js";
import { languageGraph } from "./graphs.js";
import { type GenerationOptions, generationOptions } from "./options.js";
import { captionPrompt, promptOf, questionPrompt, textIds } from "./prompts.js";
import { cut, Cutter } from "./stops.js";
import { Tokenizer } from "./tokenizer.js";

/** Milliseconds of the image (0 where it was known), of reading the prompt, and of all further tokens; and how many these were. */
export interface TextTimings {
  readonly vision: number;
  readonly prefill: number;
  readonly decode: number;
  readonly steps: number;
}

/** A generated text. */
export interface Text {
  readonly text: string;
  /** What it continues or answers. */
  readonly prompt: string;
  /** Sum of the tokens' log-probabilities by `length ** length_penalty`. */
  readonly score: number;
  readonly tokens: readonly number[];
  /** With `returned` above 1 the further texts, the best first. */
  readonly others: readonly Omit<Text, "others" | "timings" | "prompt">[];
  readonly timings: TextTimings;
}

/** How well a text fits an image. */
export interface Match {
  readonly text: string;
  /** That the text belongs to the image, 0 to 1; it reads both together. */
  readonly probability: number;
  /** Cosine of the text's vector and the nearest of the image's. */
  readonly similarity: number;
}

export interface OpenLanguageOptions {
  /** Where all graphs run; `wasm` by default. */
  readonly device?: Device;
  /** onnxruntime-web: its module, or its address; by default what `onnxruntime-web` means to the page. */
  readonly ort?: OrtModule | string;
  /** Stops the opening. */
  readonly signal?: AbortSignal;
}

/** Options of generation over the bundle's own, and how the image has to be turned. */
export interface TextOptions extends Partial<GenerationOptions>, Turn {
  /** Stops the writing after the token that is being made: StoppedError. */
  readonly signal?: AbortSignal;
}

export interface CaptionOptions extends TextOptions {
  /** What the text continues. */
  readonly prompt?: string;
  /** One of the contract's prompts instead: `short`, `detailed`. */
  readonly style?: string;
}

export interface StreamTextOptions extends CaptionOptions {
  /** A question that is answered, in place of a prompt or a style. */
  readonly question?: string;
}

export type Level = "vision" | "queries" | "language" | "itc";

const NETWORKS = { generation: ["vision", "qformer"], retrieval: ["vision", "qformer", "text", "match"] } as const;
const SPOKEN: Readonly<Record<string, readonly string[]>> = { opt: ["language"], t5: ["encoder", "decoder"], retrieval: [] };
const KINDS = {
  generation: "a generation bundle (BLIP-2 with OPT or T5: caption, ask, stream, embed)",
  retrieval: "a retrieval bundle (BLIP-2 for image-text matching: embed, embedText, match)",
} as const;

/** A BLIP-2, opened: `caption`, `ask` and `stream`, or `embedText` and `match`; `dispose` in the end. It does one thing at a time. */
export class VisionLanguage {
  readonly kind: "generation" | "retrieval";
  /** Generation options of the bundle. */
  readonly defaults: GenerationOptions;
  /** Vision model and Q-Former; `encoder.runs` counts the runs. */
  readonly encoder: ImageEncoder;
  private readonly language: Language;
  private state: "ready" | "busy" | "closed" = "ready";
  private running: Promise<unknown> = Promise.resolve();

  private constructor(
    readonly manifest: Manifest,
    readonly device: Device,
    /** The engine with its version. */
    readonly engine: string,
    private readonly networks: ReadonlyMap<string, Network>,
    private readonly tokenizer: Tokenizer,
    private readonly embeddings: Embeddings | null,
    private readonly graph: TimedGraph | null,
  ) {
    this.language = languageOf(manifest);
    this.kind = kindOf(this.language);
    this.defaults = bundleDefaults(this.language);
    const projected = this.kind === "generation" ? "language_inputs" : "image_vectors";
    this.encoder = new ImageEncoder(networks.get("vision")!, networks.get("qformer")!, new Preprocessor(manifest.contract.image), projected);
  }

  /**
   * Open a bundle of the targets web and onnx: its folder on a server, or any other source of its files. All hashes are checked.
   *
   * Throws BundleError: damaged, altered or too new, or parts are missing. EngineError: the engine is missing, or refuses a file.
   * UsageError: no vision-language model, or a bundle of another engine.
   */
  static async open(source: string | URL | BundleSource, options: OpenLanguageOptions = {}): Promise<VisionLanguage> {
    const { device = "wasm", signal } = options;
    const wanted = deviceNamed(device);
    const bundle = await openBundle(typeof source === "string" || source instanceof URL ? folderAt(source) : source, signal);
    const { manifest, files } = bundle;
    const language = languageOf(manifest);
    const graphs = graphsOf(manifest, language);
    bundleDefaults(language);
    const tokenizer = Tokenizer.read(guarded(bundle, "tokenizer.json"));
    const embeddings = kindOf(language) === "generation" ? Embeddings.read(guarded(bundle, "embeddings.npy"), language.width) : null;
    if (embeddings) checkVocabulary(graphs.at(-1)!, language, embeddings.count);
    const problem = await unavailable(wanted);
    if (problem) throw new EngineError(`device ${wanted} cannot be used: ${problem}; open with device: "wasm"`);
    const ort = await engineModule(options.ort);
    const networks = new Map<string, Network>();
    try {
      for (const graph of graphs) {
        stopped(signal, manifest.name);
        networks.set(graph.name, await openNetwork(ort, graph, files, wanted));
      }
      stopped(signal, manifest.name);
      const graph = embeddings && new TimedGraph(languageGraph(networks, language, embeddings));
      return new VisionLanguage(manifest, wanted, engineName(ort), networks, tokenizer, embeddings, graph);
    } catch (error) {
      for (const network of networks.values()) await network.release();
      throw error;
    }
  }

  /**
   * Describe an image.
   *
   * Throws UsageError: a retrieval bundle, no such style or option, a prompt that is too long; it is closed. BusyError: it is busy.
   * InputError: no pixels. EngineError: an engine failed, or gave something unusable.
   */
  async caption(image: FrameSource, options: CaptionOptions = {}): Promise<Text> {
    const { prompt, style, ...rest } = options;
    this.generating("caption");
    return this.written(image, captionPrompt(this.language, prompt, style), rest);
  }

  /** Answer a question about an image; the contract says how it is asked. Throws as `caption`. */
  async ask(image: FrameSource, question: string, options: TextOptions = {}): Promise<Text> {
    this.generating("ask");
    return this.written(image, questionPrompt(this.language, question), options);
  }

  /**
   * The pieces of one text as they are made: together `caption`'s, or `ask`'s with `question`, with the spaces around it.
   *
   * The model is busy until the loop ends, also by `break`. Throws as `caption`; beams cannot be streamed.
   */
  async *stream(image: FrameSource, options: StreamTextOptions = {}): AsyncGenerator<string, void, void> {
    const { prompt, style, question, ...rest } = options;
    this.generating("stream");
    if (question !== undefined && (prompt ?? style) !== undefined) throw new UsageError("stream takes a question, or a prompt or a style, not both");
    const text = question === undefined ? captionPrompt(this.language, prompt, style) : questionPrompt(this.language, question);
    const { turn, chosen, signal } = this.chosen(rest);
    checkStreamable(chosen);
    const finish = this.begin();
    try {
      const { projected } = await this.encoder.features(upright(pixelsOf(image), turn));
      const ready = promptOf(this.language, this.tokenizer, this.embeddings!, projected, text, chosen.max_new_tokens);
      const [decoded, cutter] = [this.tokenizer.pieces(), new Cutter(chosen.stop)];
      for await (const token of streamed(this.graph!.timed(signal, this.manifest.name), ready, chosen)) {
        // An end token need not be a special one: that of BLIP-2's OPT is a line break.
        if (ready.eos.includes(token)) break;
        const piece = cutter.add(decoded(token) ?? "");
        if (piece) yield piece;
        if (cutter.ended) return;
      }
      if (cutter.rest()) yield cutter.rest();
    } finally {
      finish();
    }
  }

  /** Features of an image, (tokens, width): of the vision model, of the Q-Former, or what it gives on (`language` or `itc`, the default). */
  async embed(image: FrameSource, level?: Level, turn: Turn = {}): Promise<Tensor> {
    const own: Level = this.kind === "generation" ? "language" : "itc";
    const wanted = level ?? own;
    if (!["vision", "queries", own].includes(wanted)) throw new UsageError(`level ${choices(wanted, [own, "queries", "vision"])}`);
    return this.exclusively(async () => {
      const { vision, queries, projected } = await this.encoder.features(upright(pixelsOf(image), turn));
      const { data, shape } = wanted === "vision" ? vision : wanted === "queries" ? queries : projected;
      return { data: data.slice(), shape: shape.slice(1) };
    });
  }

  /** The vector of a text, of length 1. Throws UsageError: a generation bundle, or a text that is too long. */
  async embedText(text: string): Promise<Float32Array> {
    this.retrieving("embedText");
    return this.exclusively(() => this.textVector(text));
  }

  /** How well a text fits an image. Throws UsageError: a generation bundle, or a text that is too long. */
  async match(image: FrameSource, text: string, turn: Turn = {}): Promise<Match> {
    this.retrieving("match");
    return this.exclusively(async () => {
      const { vision, projected } = await this.encoder.features(upright(pixelsOf(image), turn));
      const vector = await this.textVector(text);
      const made = await this.networks.get("match")!.run({ image_embeds: vision, ...this.idsOf(text) });
      const [no, yes] = output(made, "logits", [1, 2]).data as unknown as [number, number];
      const [, count, width] = projected.shape as [number, number, number];
      const cosines = Array.from({ length: count }, (_, query) => vector.reduce((sum, value, i) => sum + value * projected.data[query * width + i]!, 0));
      return { text, probability: 1 / (1 + Math.exp(Math.min(Math.max(no - yes, -700), 700))), similarity: Math.max(...cosines) };
    });
  }

  /** Let go of the engines and their memory, after what is running; what is called afterwards throws a UsageError. */
  async dispose(): Promise<void> {
    if (this.state === "closed") return;
    this.state = "closed";
    await this.running.catch(() => undefined);
    for (const network of this.networks.values()) await network.release();
  }

  private async written(image: FrameSource, prompt: string, given: TextOptions): Promise<Text> {
    const { turn, chosen, signal } = this.chosen(given);
    return this.exclusively(async () => {
      const begun = performance.now();
      const { projected } = await this.encoder.features(upright(pixelsOf(image), turn));
      const vision = performance.now() - begun;
      const ready = promptOf(this.language, this.tokenizer, this.embeddings!, projected, prompt, chosen.max_new_tokens);
      const graph = this.graph!.timed(signal, this.manifest.name);
      const ends = chosen.stop.length ? (tokens: readonly number[]) => cut(this.tokenizer.decode(tokens), chosen.stop) !== this.tokenizer.decode(tokens) : undefined;
      const [best, ...others] = (await generate(graph, ready, chosen, ends)).map((one) => this.text(one, chosen.stop));
      return { ...best!, prompt, others, timings: { vision, ...graph.timings() } };
    });
  }

  private text({ tokens, score }: Sequence, stop: readonly string[]): Omit<Text, "others" | "timings" | "prompt"> {
    const words = this.tokenizer.decode(tokens.filter((token) => !this.language.eos.includes(token)));
    return { text: cut(words, stop).trim(), score, tokens };
  }

  private chosen({ orientation, mirrored, signal, ...options }: TextOptions): { turn: Turn; chosen: GenerationOptions; signal: AbortSignal | undefined } {
    const turn = { ...(orientation === undefined ? {} : { orientation }), ...(mirrored === undefined ? {} : { mirrored }) };
    return { turn, chosen: generationOptions(options as Record<string, unknown>, this.defaults), signal };
  }

  private idsOf(text: string): { input_ids: { data: number[]; shape: number[] }; attention_mask: { data: number[]; shape: number[] } } {
    const ids = textIds(this.language, this.tokenizer, text);
    return { input_ids: { data: ids, shape: [1, ids.length] }, attention_mask: { data: ids.map(() => 1), shape: [1, ids.length] } };
  }

  private async textVector(text: string): Promise<Float32Array> {
    return output(await this.networks.get("text")!.run(this.idsOf(text)), "text_vector", [1, null]).data.slice();
  }

  private generating(method: string): void {
    if (this.kind !== "generation") throw new UsageError(`${method} needs ${KINDS.generation}; this is ${KINDS.retrieval}`);
  }

  private retrieving(method: string): void {
    if (this.kind !== "retrieval") throw new UsageError(`${method} needs ${KINDS.retrieval}; this is ${KINDS.generation}`);
  }

  /** Take the model until the returned function is called. */
  private begin(): () => void {
    if (this.state === "closed") throw new UsageError("this model is closed: open it again with VisionLanguage.open(...)");
    if (this.state === "busy") throw new BusyError("this model is busy: await its text, or end the loop over its stream, first");
    this.state = "busy";
    let done = (): void => {};
    this.running = new Promise<void>((resolve) => (done = resolve));
    return () => {
      if (this.state === "busy") this.state = "ready";
      done();
    };
  }

  private async exclusively<T>(work: () => Promise<T>): Promise<T> {
    const finish = this.begin();
    try {
      return await work();
    } finally {
      finish();
    }
  }
}

/** A language graph that counts its steps and milliseconds, and stops at a signal. */
class TimedGraph {
  constructor(private readonly graph: LanguageGraph) {}

  timed(signal: AbortSignal | undefined, name: string): LanguageGraph & { timings(): Omit<TextTimings, "vision"> } {
    let [prefill, decode, steps] = [0, 0, 0];
    const spent = async <T>(work: Promise<T>, add: (milliseconds: number) => void): Promise<T> => {
      const begun = performance.now();
      const made = await work;
      add(performance.now() - begun);
      stopped(signal, name);
      return made;
    };
    return {
      start: (embeddings) => spent(this.graph.start(embeddings), (time) => (prefill = time)),
      step: (tokens) => spent(this.graph.step(tokens), (time) => ((decode += time), steps++)),
      select: (rows) => this.graph.select(rows),
      timings: () => ({ prefill, decode, steps }),
    };
  }
}

function languageOf({ contract, name }: Manifest): Language {
  if (!contract.language) throw new UsageError(`${name} is a ${contract.task} model and no vision-language model; open it with EdgeModel.open(...)`);
  return contract.language;
}

const kindOf = ({ family }: Language): "generation" | "retrieval" => (family === "retrieval" ? "retrieval" : "generation");

function bundleDefaults({ generation }: Language): GenerationOptions {
  try {
    return generationOptions(plain(generation) as Record<string, unknown>);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    throw new BundleError("invalid", `the bundle's own defaults: ${error.message}; convert the model again`, { cause: error });
  }
}

/** The graphs of a bundle in the order in which they are opened; the last gives the logits. */
function graphsOf(manifest: Manifest, language: Language): Graph[] {
  return [...NETWORKS[kindOf(language)], ...SPOKEN[language.family]!].map((name) => {
    const graph = manifest.graphs.find((one) => one.name === name);
    if (!graph) throw new BundleError("invalid", `${manifest.name}: no graph ${quoted(name)}, only ${manifest.graphs.map((one) => one.name).join(", ")}; convert the model again`);
    const engine = graph.engine ?? manifest.engine;
    if (!ENGINES.includes(engine)) {
      throw new UsageError(`${manifest.name}: its ${name} is for the engine ${engine}, and this package runs ONNX files; convert the model with --target web`);
    }
    return graph;
  });
}

function guarded({ manifest, files }: Bundle, name: string): Uint8Array {
  const found = files.get(name);
  if (!found) throw new BundleError("invalid", `${manifest.name}: no ${quoted(name)} that the manifest lists; convert the model again`);
  return found;
}

/** Refuse embeddings that lack a token which the language model can give, or which the contract names. */
function checkVocabulary(graph: Graph, language: Language, rows: number): void {
  const vocabulary = graph.outputs.find(({ name }) => name === "logits")?.shape.at(-1) ?? 0;
  if (vocabulary < 1) throw new BundleError("invalid", `graph ${quoted(graph.name)} has no logits of a vocabulary; convert the model again`);
  for (const [name, token] of [["the vocabulary's last", vocabulary - 1], ["pad", language.pad], ["start", language.start]] as const) {
    if (token >= rows) throw new BundleError("invalid", `${name} token is ${token}, embeddings.npy has ${rows} rows; convert the model again`);
  }
}

function stopped(signal: AbortSignal | undefined, name: string): void {
  if (signal?.aborted) throw new StoppedError(`${name}: was stopped`);
}
