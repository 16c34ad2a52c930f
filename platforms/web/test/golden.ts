/** What is done with a case of each kind of the golden set, in node and in a page. */

import { openBundle } from "../src/bundle/folder.js";
import { contract, type ImageRule, imageRule } from "../src/bundle/manifest.js";
import { BundleError, ContractError, EngineError, InputError, UsageError } from "../src/errors.js";
import { upright } from "../src/inputs/frames.js";
import { Preprocessor, transform } from "../src/inputs/images.js";
import { readPng } from "../src/inputs/png.js";
import { generate, type LanguageGraph } from "../src/language/generation.js";
import { generationOptions } from "../src/language/options.js";
import { chances, drawn } from "../src/language/sampling.js";
import { cut, Cutter } from "../src/language/stops.js";
import { Tokenizer } from "../src/language/tokenizer.js";
import { bitmap, labelsOf, topIds, toRle, type Detections, type Poses } from "../src/results/results.js";
import { expanded, windowOf } from "../src/results/rle.js";
import { joined, partOf, posesIn } from "../src/parts.js";
import { OneEuro } from "../src/smoothing.js";
import { openTask } from "../src/tasks/index.js";
import { nonMaximumSuppression } from "../src/tasks/nms.js";
import { keypointSimilarity, keypointSuppression } from "../src/tasks/similarity.js";
import { openTracker, State, visible } from "../src/tracking/index.js";
import { type Case, type Golden, type Numbers, stored } from "./cases.js";

const array = (data: ArrayLike<number>, ...shape: number[]) => ({ data, shape });
const isArray = (value: any): value is Numbers => value !== null && typeof value === "object" && "data" in value && "shape" in value;
const flat = (value: any): number[] => (isArray(value) ? Array.from(value.data) : [value].flat(Infinity));

/** In what two trees differ: whole numbers and texts exactly, other numbers within the tolerance of their entry. */
function apart(expected: any, answered: any, tolerance: Record<string, number>, place = ""): string[] {
  const numeric = (value: any): boolean => typeof value === "number" || isArray(value) || (Array.isArray(value) && value.flat(Infinity).every((one) => typeof one === "number"));
  if (numeric(expected) && numeric(answered)) {
    const [one, other] = [flat(expected), flat(answered)];
    if (one.length !== other.length) return [`${place}: ${other.length} numbers, not ${one.length}`];
    const allowed = tolerance[place.split(".").at(-1)!.replace(/\[\d+\]$/, "")] ?? 0;
    let most = 0;
    // An answer of NaN is off by any distance.
    one.forEach((value, i) => (most = Math.max(most, value === other[i] ? 0 : Number.isNaN(other[i]!) ? Infinity : Math.abs(value - other[i]!))));
    return most <= allowed ? [] : [`${place}: off by ${most}, ${allowed} is allowed`];
  }
  if (Array.isArray(expected)) {
    if (!Array.isArray(answered) || answered.length !== expected.length) return [`${place}: not ${expected.length} entries`];
    return expected.flatMap((one, i) => apart(one, answered[i], tolerance, `${place}[${i}]`));
  }
  if (expected && typeof expected === "object" && answered && typeof answered === "object") {
    if (Object.keys(expected).sort().join() !== Object.keys(answered).sort().join()) return [`${place || "answer"}: has ${Object.keys(answered)}, not ${Object.keys(expected)}`];
    return Object.keys(expected).flatMap((key) => apart(expected[key], answered[key], tolerance, place ? `${place}.${key}` : key));
  }
  return expected === answered ? [] : [`${place}: ${answered}, not ${expected}`];
}

async function preprocess({ name, given, raw, expected, tolerance, read }: Case): Promise<string[]> {
  const rule = imageRule.read(raw.get("rule")!, "");
  const picture = upright(await readPng((await read(given.image))!, given.image), { orientation: given.orientation ?? 1, mirrored: given.mirrored ?? false });
  const { tensor, mapping } = new Preprocessor(rule).run(picture);
  const { scaleX, scaleY, offsetX, offsetY, width, height, resized } = mapping;
  const found = apart(
    expected.transform,
    { scale_x: scaleX, scale_y: scaleY, offset_x: offsetX, offset_y: offsetY, width, height, resized: [...resized] },
    { scale_x: 1e-12, scale_y: 1e-12 },
  );
  // Not one pixel differs from what OpenCV gave on x86, but for strips, which it samples in another way.
  const exact = rule.interpolation === "linear" && !name.startsWith("strip-");
  return [...found, ...levelsApart(expected.tensor.data, tensor.data, rule, exact ? { levels: 0, share: 0 } : tolerance)];
}

/** In how many grey levels tensors of (n, 3, height, width) differ. */
function levelsApart(expected: ArrayLike<number>, answered: ArrayLike<number>, rule: ImageRule, tolerance: Record<string, number>): string[] {
  if (expected.length !== answered.length) return [`tensor: ${answered.length} values, not ${expected.length}`];
  const cells = rule.size[0] * rule.size[1];
  let [most, differing] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    const levels = Math.abs(expected[i]! - answered[i]!) / (rule.scale / rule.std[Math.floor(i / cells) % 3]!);
    most = Math.max(most, levels);
    differing += Number(levels > 0.01);
  }
  const share = differing / Math.max(expected.length, 1);
  return most > tolerance["levels"]! + 0.01 || share > tolerance["share"]! ? [`tensor: ${most} levels apart, ${share} of the values differ`] : [];
}

function decode({ given, raw, expected, tolerance }: Case): string[] {
  const rule = contract.read(raw.get("contract")!, "");
  const thresholds = { ...(given.score === undefined ? {} : { score: given.score }), ...(given.iou === undefined ? {} : { iou: given.iou }) };
  const limits = { boxes: tolerance["box"], scores: tolerance["score"], vector: tolerance["score"], keypoints: tolerance["keypoint"], oriented: tolerance["box"] };
  let result;
  try {
    result = openTask(rule).result(given.outputs, transform(rule.image, given.width, given.height), thresholds);
  } catch (error) {
    const kind = error instanceof EngineError ? "not-finite" : error instanceof ContractError ? "contract" : String(error);
    return apart(expected, { error: kind }, {});
  }
  if (result.kind === "classification") {
    const whole = { ...result, time: null, timings: { pre: 0, inference: 0, post: 0 } };
    return apart(expected, { scores: array(result.scores), top_ids: topIds(whole, expected.top_ids?.data.length), labels: labelsOf(whole) }, limits);
  }
  if (result.kind === "embedding") return apart(expected, { vector: array(result.vector) }, limits);
  if (result.kind === "labels") {
    const off = (result.labels as Uint8Array).reduce((sum, label, i) => sum + Number(label !== expected.labels?.data[i]), 0);
    return off <= tolerance["label_pixels"] ? [] : [`labels: ${off} pixels differ`];
  }
  const n = result.length;
  const answered: Record<string, any> = { boxes: array(result.boxes, n, 4), scores: array(result.scores), class_ids: array(result.classIds) };
  const found: string[] = [];
  if (result.kind === "poses") answered["keypoints"] = array(result.keypoints);
  if (result.kind === "oriented") {
    const split = (boxes: ArrayLike<number>, angles: boolean) => Array.from(boxes).filter((_, i) => (i % 5 === 4) === angles);
    if (expected.oriented) found.push(...apart(split(expected.oriented.data, true), split(result.oriented, true), { angle: tolerance["angle"] }, "angle"));
    answered["oriented"] = array(split(result.oriented, false));
  }
  if (result.kind === "instances") {
    const { masks, size } = result;
    answered["masks"] = expected.masks;
    if (expected.masks?.length === n) {
      expected.masks.forEach(({ counts }: { counts: string }, i: number) => {
        const [one, other] = [bitmap(windowOf(expanded(counts), size), size), bitmap(masks[i]!, size)];
        const off = one.reduce((sum, pixel, at) => sum + Number(pixel !== other[at]), 0);
        if (off > tolerance["mask_pixels"]) found.push(`mask ${i}: ${off} pixels differ`);
      });
    } else found.push(`${n} masks`);
  }
  const wanted = result.kind === "oriented" && expected.oriented ? { ...expected, oriented: array(Array.from(expected.oriented.data as Float32Array).filter((_, i) => i % 5 !== 4)) } : expected;
  return [...found, ...apart(wanted, answered, limits)];
}

function nms({ given, expected }: Case): string[] {
  const kept = nonMaximumSuppression(given.boxes.data, given.scores.data, given.class_ids.data, given.iou, given.class_agnostic);
  return apart(expected, { kept: array(kept) }, {});
}

function rle({ given, expected }: Case): string[] {
  if (given.rle) {
    try {
      const [height, width] = given.rle.size;
      return apart(expected, { mask: array(bitmap(windowOf(expanded(given.rle.counts), [width, height]), [width, height])) }, {});
    } catch (error) {
      return apart(expected, { error: error instanceof InputError ? "input" : String(error) }, {});
    }
  }
  const [height, width] = given.mask.shape as [number, number];
  const mask = { left: 0, top: 0, width, height, data: given.mask.data };
  const found = toRle(mask, [width, height]);
  const area = given.mask.data.reduce((sum: number, pixel: number) => sum + Number(pixel > 0), 0);
  const differences = apart(expected, { rle: { size: [...found.size], counts: found.counts }, area }, {});
  if (differences.length) return differences;
  const trimmed = windowOf(expanded(expected.rle.counts), [width, height]);
  if (toRle(trimmed, [width, height]).counts !== expected.rle.counts) return ["rle: a mask that was trimmed has another"];
  return apart(array(given.mask.data), array(bitmap(trimmed, [width, height])), {});
}

function track({ given, expected, tolerance }: Case): string[] {
  let tracker: ReturnType<typeof openTracker>;
  try {
    tracker = openTracker(given.tracker, given.options);
  } catch (error) {
    return apart(expected, { error: error instanceof UsageError ? "usage" : String(error) }, {});
  }
  const frames = given.frames.map((frame: any) => {
    try {
      const tracks = frame.predict
        ? tracker.predict(frame.time)
        : tracker.update(frame.boxes.flat(), frame.scores, frame.class_ids, { time: frame.time, embeddings: frame.embeddings?.flat() });
      const seen = visible(tracks);
      return {
        track_ids: [...seen.trackIds],
        boxes: [...seen.boxes],
        scores: [...seen.scores],
        class_ids: [...seen.classIds],
        detections: [...seen.detections],
        lost: [...tracks.trackIds].filter((_, i) => tracks.states[i] === State.LOST),
      };
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      return { error: "usage" };
    }
  });
  return apart(expected, { frames }, { boxes: tolerance["box"], scores: tolerance["score"] });
}

function smooth({ given, expected, tolerance }: Case): string[] {
  let filter: OneEuro;
  try {
    filter = new OneEuro(given.options);
  } catch (error) {
    return apart(expected, { error: error instanceof UsageError ? "usage" : String(error) }, {});
  }
  const frames = given.frames.map((frame: any) => {
    const count = frame.boxes.length;
    const names = ["tip", "left", "right", "end"];
    const poses: Poses = {
      kind: "poses", length: count, boxes: Float32Array.from(frame.boxes.flat()), scores: new Float32Array(count).fill(1),
      classIds: new Int32Array(count), trackIds: Int32Array.from(frame.track_ids), keypoints: Float32Array.from(frame.keypoints.flat(2)),
      skeleton: { names, edges: [], sigmas: [] }, classes: ["arrow"], size: [640, 480], time: frame.time, timings: { pre: 0, inference: 0, post: 0 },
    };
    return { keypoints: [...filter.smooth(poses).keypoints] };
  });
  return apart(expected, { frames }, { keypoints: tolerance["keypoint"] });
}

function oksNms({ given, expected, tolerance }: Case): string[] {
  const { keypoints, scores, areas, sigmas, limit } = given;
  const kept = keypointSuppression(keypoints.data, scores.data, areas.data, sigmas, limit);
  return apart(expected, { kept: array(kept), similarity: array(keypointSimilarity(keypoints.data, keypoints.data, areas.data, sigmas)) }, tolerance);
}

async function topDown({ given, raw, expected, tolerance, read }: Case): Promise<string[]> {
  const rule = contract.read(raw.get("contract")!, "");
  const image = await readPng((await read(given.image))!, given.image);
  const tensors: number[] = [];
  const outputs = given.outputs.values();
  const { keypoints } = await posesIn(image, given.boxes.data, given.margin, openTask(rule), new Preprocessor(rule.image), async ({ data }) => {
    for (const value of data) tensors.push(value);
    return outputs.next().value;
  });
  const found: Detections = {
    kind: "detections", length: given.scores.data.length, boxes: given.boxes.data, scores: given.scores.data, classIds: given.class_ids.data,
    trackIds: null, classes: ["person"], size: [image.width, image.height], time: null, timings: { pre: 0, inference: 0, post: 0 },
  };
  const poses = joined(found, keypoints, rule.skeleton!, given.double);
  const transforms = given.outputs.map((_: unknown, i: number) => {
    const { scaleX, scaleY, offsetX, offsetY } = partOf(image, given.boxes.data.subarray(4 * i, 4 * i + 4), rule.image, given.margin);
    return { scale_x: scaleX, scale_y: scaleY, offset_x: offsetX, offset_y: offsetY };
  });
  const { tensors: wanted, ...rest } = expected;
  const places = { scale_x: 1e-9, scale_y: 1e-9, offset_x: 1e-9, offset_y: 1e-9 };
  const answered = { transforms, boxes: array(poses.boxes), scores: array(poses.scores), class_ids: array(poses.classIds), keypoints: array(poses.keypoints) };
  const differences = apart(rest, answered, { ...places, scores: tolerance["score"], keypoints: tolerance["keypoint"] });
  return [...differences, ...levelsApart(wanted.data, tensors, rule.image, tolerance)];
}

async function manifest({ given, expected, read, tolerance }: Case): Promise<string[]> {
  const root = given.manifest.slice(0, given.manifest.lastIndexOf("/") + 1);
  try {
    const { manifest: found } = await openBundle({ name: "bundle/", read: (name) => read(root + name) });
    const { name, target, precision, engine, proven, files, contract: its } = found;
    const engines = [...new Set(found.graphs.map((graph) => graph.engine ?? engine))];
    const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
    return apart(expected, {
      ok: true, name, target, precision, engines, task: its.task, classes: [...its.classes], size: [...its.image.size], proven, bytes,
    }, {});
  } catch (error) {
    if (!(error instanceof BundleError)) throw error;
    return (tolerance["error"] ?? []).includes(error.kind) ? [] : apart(expected, { error: error.kind }, {});
  }
}

/** Texts, ids and pieces of a tokenizer file. */
async function tokenizer({ given, expected, read }: Case): Promise<string[]> {
  try {
    const found = Tokenizer.read((await read(given.tokenizer))!);
    const answered: Record<string, unknown> = {};
    if (given.texts) answered["texts"] = given.texts.map((text: string) => ({ ids: found.encode(text), decoded: found.decode(found.encode(text)) }));
    if (given.ids) answered["ids"] = given.ids.map(({ ids }: any) => ({ decoded: found.decode(ids) }));
    if (given.streams) answered["pieces"] = given.streams.map(({ ids, stop }: any) => ({ pieces: pieces(found, ids, stop), whole: cut(found.decode(ids), stop) }));
    return apart(expected, answered, {});
  } catch (error) {
    if (!(error instanceof BundleError)) throw error;
    return apart(expected, { error: "bundle" }, {});
  }
}

function pieces(tokenizer: Tokenizer, ids: readonly number[], stop: readonly string[]): string[] {
  const [decoded, cutter] = [tokenizer.pieces(), new Cutter(stop)];
  const found: string[] = [];
  for (const id of ids) {
    if (!cutter.ended) found.push(cutter.add(decoded(id) ?? ""));
  }
  return [...found, cutter.rest()].filter(Boolean);
}

/** A language model that is a table (states, vocabulary) of logits; the tokens of a row lead from state to state. */
function tableGraph({ data, shape }: Numbers, start: number): LanguageGraph {
  const [count, vocabulary] = shape as [number, number];
  let states: number[] = [];
  const logits = async () => ({ data: Float32Array.from(states.flatMap((state) => [...data.subarray(state * vocabulary, (state + 1) * vocabulary)])), shape: [states.length, vocabulary] });
  return {
    start: () => ((states = [start]), logits()),
    step: (tokens) => ((states = states.map((state, i) => (5 * state + tokens[i]! + 1) % count)), logits()),
    select: (rows) => void (states = rows.map((row) => states[row]!)),
  };
}

async function generation({ given, expected, tolerance }: Case): Promise<string[]> {
  try {
    const options = generationOptions(given.options);
    if (given.draws) {
      const likely = chances(given.scores.data, options);
      return apart(expected, { probabilities: array(likely), tokens: given.draws.map((place: number) => drawn(likely, place)) }, tolerance);
    }
    const graph = tableGraph(given.table, given.start);
    const embeddings = { data: new Float32Array(given.prompt.length), shape: [1, given.prompt.length, 1] };
    const made = await generate(graph, { embeddings, ids: given.prompt, eos: given.eos, pad: given.pad }, options);
    return apart(expected, { sequences: made.map(({ tokens }) => ({ tokens })), scores: array(made.map(({ score }) => score)) }, tolerance);
  } catch (error) {
    const kind = error instanceof UsageError ? "usage" : error instanceof EngineError ? "engine" : String(error);
    return apart(expected, { error: kind }, {});
  }
}

export const KINDS: Record<string, (one: Case) => string[] | Promise<string[]>> = {
  preprocess, decode, nms, rle, track, smooth, oks_nms: oksNms, top_down: topDown, manifest, tokenizer, generation,
};

/** How many cases of a kind there are, and what is wrong with them. */
export interface Tally {
  readonly cases: number;
  /** Of these, planted errors that have to be found. */
  readonly controls: number;
  readonly wrong: readonly string[];
}

/** Run all cases of a kind. */
export async function tally(golden: Golden, kind: string): Promise<Tally> {
  const cases = await stored(golden, kind);
  const wrong: string[] = [];
  for (const one of cases) {
    const found = await KINDS[kind]!(one);
    if (one.mustFail && !found.length) wrong.push(`${one.name}: passes, and must fail`);
    if (!one.mustFail && found.length) wrong.push(`${one.name}: ${found.slice(0, 3).join("; ")}`);
  }
  return { cases: cases.length, controls: cases.filter(({ mustFail }) => mustFail).length, wrong };
}
