/**
 * Replay a bundle's golden frames on this device.
 *
 * They lie in the folder `golden` of a bundle: `frames.json`, and a PNG for each picture, which is in the size of the
 * input already. The record of a device says so itself and is signed by nobody: it is worth what the way it came by is.
 */

import type { Tensor } from "./arrays.js";
import type { Bundle } from "./bundle/folder.js";
import { parseJson } from "./bundle/json.js";
import { sha256 } from "./bundle/manifest_file.js";
import * as s from "./bundle/schema.js";
import type { Session } from "./engines/onnxruntime.js";
import { BundleError, reason, UsageError } from "./errors.js";
import { type Pixels, type Preprocessor, whole } from "./inputs/images.js";
import { readPng } from "./inputs/png.js";
import type { Result, WithBoxes } from "./results/results.js";
import { expanded, type Mask, windowOf } from "./results/rle.js";
import type { Task, Untimed } from "./tasks/detect.js";
import { boxIou } from "./tasks/similarity.js";

/** Of this package; the record says which wrote it. */
export const VERSION = "0.1.0";
const FOLDER = "golden";
const FILE = `${FOLDER}/frames.json`;

/** What a device found when it replayed the golden frames, as `edgekit evidence add` reads it. */
export interface SelfCheck {
  readonly schema: 1;
  readonly bundle: string;
  readonly files: string;
  readonly time: string;
  readonly edgekit: string;
  readonly platform: "web";
  readonly machine: string;
  readonly engine: string;
  readonly word: "executed";
  readonly operators: Readonly<Record<string, number>>;
  readonly frames: number;
  readonly compared: "bundle" | "source";
  readonly agreed: boolean;
  readonly differences: readonly string[];
}

const row = s.struct({
  box: s.tuple(s.float(), s.float(), s.float(), s.float()),
  score: s.float(),
  class_id: s.int(),
  name: s.left(s.str, ""),
  track_id: s.maybe(s.int()),
  keypoints: s.maybe(s.list(s.list(s.float()))),
  mask: s.maybe(s.struct({ size: s.tuple(s.int(), s.int()), counts: s.str })),
  oriented: s.maybe(s.list(s.float())),
});
type Row = s.Infer<typeof row>;

/** The document of a result; which fields are there depends on its kind. */
const resultDocument = s.struct({
  image: s.left(s.str, ""),
  width: s.int(),
  height: s.int(),
  detections: s.maybe(s.list(row)),
  skeleton: s.maybe(s.anything),
  top: s.maybe(s.list(s.anything)),
  scores: s.maybe(s.list(s.float())),
  multi_label: s.maybe(s.bool),
  threshold: s.maybe(s.float()),
  class_ids: s.maybe(s.list(s.int())),
  lengths: s.maybe(s.list(s.int())),
  shares: s.maybe(s.anything),
  vector: s.maybe(s.list(s.float())),
});
type ResultDocument = s.Infer<typeof resultDocument>;

const frame = s.struct({
  image: s.str,
  source: resultDocument,
  bundle: s.left(s.nullable(resultDocument), null),
  outputs: s.left(s.list(s.struct({ name: s.str, step: s.int({ least: 1 }), values: s.list(s.float(), 256) })), []),
});
type Frame = s.Infer<typeof frame>;

const framesFile = s.struct({
  schema: s.left(s.int({ least: 1, most: 1 }), 1),
  word: s.str,
  engine: s.str,
  score: s.float(),
  iou: s.float(),
  frames: s.list(frame),
});
type Frames = s.Infer<typeof framesFile>;

/** How far two results of one picture may be apart and still agree; see `golden_frames.py` of edgekit. */
interface Margins {
  readonly score: number;
  readonly iou: number;
  readonly keypoint: number;
  readonly pixels: number;
  readonly cosine: number;
}

/** Between two runs of one bundle: engines order sums differently, and round INT8 differently on other instructions. */
const SAME: Margins = { score: 0.05, iou: 0.9, keypoint: 0.03, pixels: 0.99, cosine: 0.99 };
/** Between a bundle that has never run and its source, which quantisation lies between, too. */
const SOURCE: Margins = { score: 0.25, iou: 0.7, keypoint: 0.1, pixels: 0.95, cosine: 0.9 };

/** Throws UsageError: no golden frames. BundleError: they are not valid. EngineError: the engine failed. */
export async function selfCheck(bundle: Bundle, task: Task, preprocess: Preprocessor, session: Session): Promise<SelfCheck> {
  const { manifest } = bundle;
  const { score, iou, frames } = readFrames(bundle);
  const mapping = whole(manifest.contract.image.size);
  const differences: string[] = [];
  for (const one of frames) {
    const picture = await pictureOf(bundle, one);
    const outputs = await session.run(preprocess.normalise(picture.data as Uint8Array));
    const found = task.result(outputs, mapping, { score, iou });
    const said = one.bundle
      ? [...outputsApart(one, manifest.contract.outputs.map(({ name }) => name), outputs), ...apart(one.bundle, found, SAME, score)]
      : apart(one.source, found, SOURCE, score);
    differences.push(...said.map((text) => `${one.image}: ${text}`));
  }
  return {
    schema: 1,
    bundle: manifest.name,
    files: await filesOf(bundle),
    time: `${new Date().toISOString().slice(0, 19)}+00:00`,
    edgekit: VERSION,
    platform: "web",
    machine: `${host()}, ${session.device}`,
    engine: session.engine,
    word: "executed",
    operators: {},
    frames: frames.length,
    compared: frames[0]!.bundle ? "bundle" : "source",
    agreed: !differences.length,
    differences,
  };
}

/** The browser, or node. */
function host(): string {
  const { process } = globalThis as { process?: { version: string; platform: string; arch: string } };
  return process?.version ? `node ${process.version}, ${process.platform} ${process.arch}` : (globalThis.navigator?.userAgent ?? "unknown");
}

function readFrames(bundle: Bundle): Frames {
  const { name } = bundle.manifest;
  const data = bundle.files.get(FILE);
  let found: Frames | undefined;
  try {
    found = data && framesFile.read(parseJson(data), "");
  } catch (error) {
    throw new BundleError("invalid", `${name}: the golden frames are not valid (${reason(error)}); convert the model again`, { cause: error });
  }
  if (!found?.frames.length) throw new UsageError(`${name}: has no golden frames; convert the model again with --data`);
  return found;
}

async function pictureOf(bundle: Bundle, { image }: Frame): Promise<Pixels> {
  const { name, contract } = bundle.manifest;
  const data = bundle.files.get(`${FOLDER}/${image}`);
  if (!data) throw new BundleError("invalid", `${name}: the picture '${image}' is not one of the bundle's files; convert it again`);
  const picture = await readPng(data, image);
  const [height, width] = contract.image.size;
  if (picture.width !== width || picture.height !== height) {
    throw new BundleError("invalid", `${name}: ${image} is ${picture.width}x${picture.height}, and the input ${width}x${height}; convert it again`);
  }
  return picture;
}

/** SHA-256 of the lines `SHA256 PATH` of all files of a bundle, sorted: what amendments do not change. */
async function filesOf({ manifest }: Bundle): Promise<string> {
  const lines = manifest.files.map(({ sha256: hash, path }) => `${hash} ${path}\n`).sort();
  return sha256(new TextEncoder().encode(lines.join("")));
}

/** The raw outputs whose values are not those of the golden frame, a sentence each. */
function outputsApart({ outputs }: Frame, names: readonly string[], found: readonly Tensor[]): string[] {
  return outputs.flatMap(({ name, step, values }) => {
    const output = found[names.indexOf(name)]?.data;
    const alike = output && Math.ceil(output.length / step) === values.length ? cosine(values, (i) => output[i * step]!) : -1;
    return alike >= SAME.cosine ? [] : [`output '${name}': cosine ${alike.toFixed(4)}`];
  });
}

function cosine(mine: ArrayLike<number>, other: (i: number) => number): number {
  let [product, first, second] = [0, 0, 0];
  for (let i = 0; i < mine.length; i++) {
    product += mine[i]! * other(i);
    first += mine[i]! ** 2;
    second += other(i) ** 2;
  }
  const lengths = Math.sqrt(first) * Math.sqrt(second);
  return lengths ? product / lengths : Number(!first && !second);
}

/** In what two results of one picture differ by more than the margins, a sentence each. */
function apart(expected: ResultDocument, found: Untimed<Result>, margins: Margins, threshold: number): string[] {
  if (found.kind === "classification" && expected.scores) {
    const away = Array.from(found.scores, (score, i) => Math.abs(score - expected.scores![i]!));
    const worst = away.indexOf(Math.max(...away));
    if (away[worst]! <= margins.score) return [];
    return [`${found.classes[worst]} has ${found.scores[worst]!.toFixed(3)}, not ${expected.scores[worst]?.toFixed(3)}`];
  }
  if (found.kind === "labels" && expected.class_ids && expected.lengths) {
    const { class_ids: ids, lengths } = expected;
    let [same, at] = [0, 0];
    ids.forEach((id, run) => {
      for (const end = at + lengths[run]!; at < end; at++) same += Number(found.labels[at] === id);
    });
    const share = same / found.labels.length;
    return share >= margins.pixels ? [] : [`${(100 * share).toFixed(1)}% of the pixels have the same class`];
  }
  if (found.kind === "embedding" && expected.vector) {
    const alike = cosine(expected.vector, (i) => found.vector[i]!);
    return alike >= margins.cosine ? [] : [`the cosine of the vectors is ${alike.toFixed(3)}`];
  }
  if ("boxes" in found && expected.detections) {
    const [before, now] = [written(expected), rowsOf(found as WithBoxes)];
    const missing = alone(before, now, margins, threshold, found.classes).map((text) => `${text} is missing`);
    return [...missing, ...alone(now, before, margins, threshold, found.classes).map((text) => `${text} is new`)];
  }
  throw new BundleError("invalid", `the golden frames are of another task than ${found.kind}; convert the model again`);
}

/** One object of a result. */
interface One {
  readonly box: Float32Array;
  readonly score: number;
  readonly classId: number;
  readonly keypoints: ArrayLike<number> | null;
  readonly mask: Mask | null;
  readonly oriented: ArrayLike<number> | null;
}

function written({ detections = [], width, height }: ResultDocument): One[] {
  return detections.map((one: Row) => ({
    box: Float32Array.from(one.box),
    score: one.score,
    classId: one.class_id,
    keypoints: one.keypoints?.flat() ?? null,
    mask: one.mask ? windowOf(expanded(one.mask.counts), [width, height]) : null,
    oriented: one.oriented ?? null,
  }));
}

function rowsOf(found: Untimed<WithBoxes>): One[] {
  return Array.from(found.scores, (score, i) => {
    const part = (values: Float32Array, width: number): Float32Array => values.subarray(i * width, (i + 1) * width);
    return {
      box: part(found.boxes, 4),
      score,
      classId: found.classIds[i]!,
      keypoints: found.kind === "poses" ? part(found.keypoints, 3 * found.skeleton.names.length) : null,
      mask: found.kind === "instances" ? found.masks[i]! : null,
      oriented: found.kind === "oriented" ? part(found.oriented, 5) : null,
    };
  });
}

/** The certain objects of one result that have no partner in the other. */
function alone(some: readonly One[], others: readonly One[], margins: Margins, threshold: number, classes: readonly string[]): string[] {
  return some
    .filter(({ score }) => score >= threshold + margins.score)
    .filter((one) => !others.some((other) => alike(one, other, margins)))
    .map(({ box, score, classId }) => `${classes[classId]} ${score.toFixed(3)} at [${Array.from(box, Math.round).join(", ")}]`);
}

function alike(one: One, other: One, margins: Margins): boolean {
  if (one.classId !== other.classId || Math.abs(one.score - other.score) > margins.score) return false;
  if (boxIou(one.box, other.box)[0]! < margins.iou) return false;
  if (one.oriented && other.oriented) return turnedAlike(one.oriented, other.oriented, margins);
  if (one.keypoints && other.keypoints) return keypointsAway(one, other) <= margins.keypoint;
  if (one.mask && other.mask) return masksAlike(one.mask, other.mask, margins.iou - 0.05);
  return true;
}

/** Mean distance of keypoints in sizes of the box. */
function keypointsAway({ box, keypoints: mine }: One, { keypoints: theirs }: One): number {
  const size = Math.sqrt(Math.max(box[2]! - box[0]!, 1) * Math.max(box[3]! - box[1]!, 1));
  let sum = 0;
  for (let k = 0; k < mine!.length; k += 3) sum += Math.hypot(mine![k]! - theirs![k]!, mine![k + 1]! - theirs![k + 1]!);
  return sum / (mine!.length / 3) / size;
}

/** Whether two oriented boxes have nearly the same corners: all within the share of the shorter side that the IoU leaves. */
function turnedAlike(one: ArrayLike<number>, other: ArrayLike<number>, { iou }: Margins): boolean {
  const most = ((1 - iou) / 2) * Math.max(Math.min(one[2]!, one[3]!), 1);
  const [mine, theirs] = [cornersOf(one), cornersOf(other)];
  return mine.every(([x, y]) => theirs.some(([a, b]) => Math.hypot(x - a, y - b) <= most));
}

function cornersOf(box: ArrayLike<number>): [number, number][] {
  const [cos, sin] = [Math.cos(box[4]!), Math.sin(box[4]!)];
  return ([[-1, -1], [1, -1], [1, 1], [-1, 1]] as const).map(([a, b]) => [
    box[0]! + (a * cos * box[2]! - b * sin * box[3]!) / 2,
    box[1]! + (a * sin * box[2]! + b * cos * box[3]!) / 2,
  ]);
}

function masksAlike(one: Mask, other: Mask, least: number): boolean {
  const area = ({ data }: Mask): number => data.reduce((sum, pixel) => sum + pixel, 0);
  const [mine, theirs] = [area(one), area(other)];
  if (!mine && !theirs) return true;
  let shared = 0;
  for (let y = Math.max(one.top, other.top); y < Math.min(one.top + one.height, other.top + other.height); y++) {
    for (let x = Math.max(one.left, other.left); x < Math.min(one.left + one.width, other.left + other.width); x++) {
      const [a, b] = [one, other].map(({ data, left, top, width }) => data[(y - top) * width + x - left]!);
      shared += a! & b!;
    }
  }
  return shared / (mine + theirs - shared) >= least;
}
