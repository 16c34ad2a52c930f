/** The manifest of a bundle as validated types: contract, origin, calibration, evidence, files. */

import * as s from "./schema.js";

/** The newest manifest layout that this package reads. */
export const SCHEMA = 1;

export const MANIFEST = "manifest.json";

/** The longest side of an input in pixels, and the most pixels. */
const LARGEST = 1 << 14;
const MOST_PIXELS = 1 << 26;
const CACHE = 1 << 22;

const pair = s.tuple(s.int(), s.int());
const three = s.tuple(s.float(), s.float(), s.float());
const number = s.int({ least: 0, most: 2 ** 31 - 1 });
const up1024 = s.int({ least: 0, most: 1 << 10 });
const up65536 = s.int({ least: 0, most: 1 << 16 });

const text = (most: number): s.Schema<string> => ({
  read(node, path) {
    const value = s.str.read(node, path);
    if ([...value].length > most) throw new s.Invalid(`Expected \`str\` of length <= ${most}`, path);
    return value;
  },
});

/** How a photograph becomes the input tensor: `(pixel * scale - mean) / std` after resizing to `size` (height, width). */
export const imageRule = s.struct(
  {
    size: pair,
    resize: s.left(s.oneOf("letterbox", "stretch", "crop"), "letterbox"),
    color: s.left(s.oneOf("rgb", "bgr"), "rgb"),
    scale: s.left(s.float(), 1 / 255),
    mean: s.left(three, [0, 0, 0] as const),
    std: s.left(three, [1, 1, 1] as const),
    pad: s.left(s.either("int | array", s.int(), s.tuple(s.int(), s.int(), s.int())), 114),
    crop: s.left(s.float(), 1),
    interpolation: s.left(s.oneOf("linear", "bilinear", "bicubic"), "linear"),
    align: s.left(s.oneOf("center", "corner"), "center"),
  },
  ({ size, pad, std, scale, crop, resize, align }) => {
    if (Math.min(...size) < 1) return `size must be two positive numbers (height, width), not [${size.join(", ")}]`;
    if (Math.max(...size) > LARGEST || size[0] * size[1] > MOST_PIXELS) {
      return `size must be at most ${LARGEST} a side and ${MOST_PIXELS} pixels in all, not [${size.join(", ")}]`;
    }
    if (![pad].flat().every((level) => 0 <= level && level <= 255)) return `pad must be 0..255, not ${pad}`;
    if (Math.min(...std) <= 0) return `std must be positive, not [${std.join(", ")}]`;
    if (scale <= 0) return `scale must be positive, not ${scale}`;
    if (!(0 < crop && crop <= 1)) return `crop must be above 0 and at most 1, not ${crop}`;
    if (crop < 1 && resize !== "crop") return `crop must be 1 with resize: ${resize}, not ${crop}`;
    if (align !== "center" && resize !== "letterbox") {
      return `align must be left out with resize: ${resize}, not ${align}: only a letterbox has padding (center, corner)`;
    }
    return undefined;
  },
);
export type ImageRule = s.Infer<typeof imageRule>;

/** Which decoder turns raw heads into candidates, with its numbers. */
const decoder = s.struct({ name: s.str, options: s.left(s.anything, new Map()) });
export type Decoder = s.Infer<typeof decoder>;

/** One output of the graph: `role` is the decoder's word for it, `level` counts strides from the finest. */
const output = s.struct({ name: s.str, role: s.str, level: s.left(s.int(), 0) });
export type Output = s.Infer<typeof output>;

/** Defaults of what happens after decoding. */
const postprocess = s.struct(
  {
    score_threshold: s.left(s.float(), 0.25),
    iou_threshold: s.left(s.float(), 0.45),
    max_detections: s.left(s.int(), 300),
    class_agnostic: s.left(s.bool, false),
    nms: s.left(s.bool, true),
  },
  ({ score_threshold, iou_threshold, max_detections }) => {
    if (!(0 <= score_threshold && score_threshold <= 1)) return `score must be 0..1, not ${score_threshold}`;
    if (!(0 <= iou_threshold && iou_threshold <= 1)) return `iou must be 0..1, not ${iou_threshold}`;
    if (max_detections < 1) return `max_detections must be at least 1, not ${max_detections}`;
    if (max_detections > 1_000_000) return `max_detections must be at most 1000000, not ${max_detections}`;
    return undefined;
  },
);
export type Postprocess = s.Infer<typeof postprocess>;

/** The keypoints of a pose: names, pairs joined by a line, and how exactly each can be placed. */
const skeleton = s.struct(
  {
    names: s.list(s.str, 1 << 10),
    edges: s.left(s.list(pair, 1 << 16), []),
    sigmas: s.left(s.list(s.float()), []),
  },
  ({ names, edges, sigmas }) => {
    if (!names.length) return "names must name at least one keypoint";
    for (const [a, b] of edges) {
      if (!(Math.min(a, b) >= 0 && Math.max(a, b) < names.length && a !== b)) {
        return `edges must be pairs of keypoints 0..${names.length - 1}, not [${a}, ${b}]`;
      }
    }
    if (sigmas.length && (sigmas.length !== names.length || Math.min(...sigmas) <= 0)) {
      return `sigmas must be ${names.length} positive numbers, not [${sigmas.join(", ")}]`;
    }
    return undefined;
  },
);
export type Skeleton = s.Infer<typeof skeleton>;

/** What a vision-language model is beyond its image rule; see `VisionLanguage`. */
const language = s.struct(
  {
    family: s.oneOf("opt", "t5", "retrieval"),
    queries: s.int({ least: 1, most: 1 << 16 }),
    image: s.left(number, 0),
    pad: s.left(number, 0),
    eos: s.left(s.list(number, 1 << 10), []),
    start: s.left(number, 0),
    layers: s.left(up1024, 0),
    heads: s.left(up65536, 0),
    head_size: s.left(up65536, 0),
    width: s.left(up65536, 0),
    positions: s.left(number, 0),
    prompts: s.left(s.dict(s.str), new Map<string, string>()),
    generation: s.left(s.anything, new Map()),
  },
  ({ layers, heads, head_size }) =>
    layers * heads * head_size > CACHE
      ? `layers, heads and head_size make ${layers * heads * head_size} numbers a token, above the ${CACHE} that a cache may have`
      : undefined,
);

export type Language = s.Infer<typeof language>;

const scalar = s.either("bool | int | float | str", s.bool, s.float(), s.str);

/** What goes into a graph and what comes out of it. */
export const contract = s.struct({
  task: s.left(s.str, "detect"),
  image: imageRule,
  classes: s.left(s.list(text(1000), 1 << 17), []),
  decoder: s.left(decoder, { name: "", options: new Map() }),
  outputs: s.left(s.list(output), []),
  postprocess: s.left(postprocess, {
    score_threshold: 0.25, iou_threshold: 0.45, max_detections: 300, class_agnostic: false, nms: true,
  }),
  skeleton: s.left(s.nullable(skeleton), null),
  language: s.left(s.nullable(language), null),
  tracker_options: s.maybe(s.dict(scalar)),
});
export type Contract = s.Infer<typeof contract>;

/** An input or output of a file; -1 in its shape where any size goes. */
const tensor = s.struct({
  name: s.str,
  shape: s.list(s.int()),
  dtype: s.left(s.str, "float32"),
  layout: s.left(s.oneOf("nchw", "nhwc"), "nchw"),
  scale: s.maybe(s.float()),
  zero_point: s.maybe(s.int()),
});
export type TensorSpec = s.Infer<typeof tensor>;

const speed = s.struct({
  ratio: s.float({ above: 0 }),
  low: s.float(),
  high: s.float(),
  of: s.str,
  rounds: s.int(),
  threads: s.int(),
  instructions: s.str,
  engine: s.str,
});

/** One network of a bundle: its files (the first is the one an engine opens), inputs and outputs. */
const graph = s.struct(
  {
    name: s.left(s.str, "model"),
    files: s.list(s.str),
    inputs: s.list(tensor),
    outputs: s.list(tensor),
    report: s.left(s.dict(s.either("str | int | float", s.str, s.float())), new Map()),
    engine: s.maybe(s.str),
    speed: s.maybe(speed),
  },
  ({ name, files, inputs, outputs }) =>
    files.length && inputs.length && outputs.length
      ? undefined
      : `graph '${name}' must have files, inputs and outputs`,
);
export type Graph = s.Infer<typeof graph>;

const origin = s.struct({
  kind: s.str,
  name: s.str,
  sha256: s.str,
  notes: s.left(s.list(s.str), []),
  cut: s.left(s.list(s.str), []),
  rewrites: s.maybe(s.dict(s.int())),
});

const calibration = s.struct({
  count: s.int(),
  method: s.str,
  seed: s.int(),
  sha256: s.str,
  held: s.left(s.int(), 0),
  images: s.left(s.list(s.str), []),
});

const agreement = s.struct({
  score_floor: s.float(),
  iou: s.float(),
  detections: s.int(),
  matched: s.float(),
  matched_at: s.dict(s.float()),
  score_drift: s.float(),
  score_drift_max: s.float(),
  class_flips: s.int(),
  extra: s.float(),
  top_score: s.float(),
  top_score_source: s.float(),
  measure: s.left(s.str, "IoU"),
  pixels: s.maybe(s.float()),
  miou: s.maybe(s.float()),
  by_size: s.maybe(s.dict(s.struct({ detections: number, matched: s.float() }))),
  angle: s.maybe(s.float()),
});

const textAgreement = s.struct({
  measure: s.oneOf("tokens", "decisions"),
  positions: s.int(),
  matched: s.float(),
  score_drift: s.float(),
  score_drift_max: s.float(),
  answers: s.int(),
  identical: s.float(),
});

const budget = s.struct({
  max_drop: s.float(),
  by: s.str,
  before: s.float(),
  drop: s.float(),
  kept: s.bool,
  floats: s.list(s.str),
  bytes_before: s.int(),
  bytes: s.int(),
  milliseconds_before: s.float(),
  milliseconds: s.float(),
});

const proofWord = s.oneOf("executed", "emulated", "interpreted", "reference", "compiled");

/** The measured evidence that a bundle gives the source's results. */
const evidence = s.struct({
  word: proofWord,
  engine: s.str,
  images: s.int(),
  views: s.int(),
  images_sha256: s.str,
  reference: s.str,
  compared: s.oneOf("detections", "candidates", "texts", "nothing"),
  decoded: s.nullable(agreement),
  outputs: s.list(s.struct({ name: s.str, cosine: s.float(), max_error: s.float(), mean_error: s.float() })),
  gate: s.struct({
    iou: s.float(),
    matched: s.float(),
    score_drift: s.float(),
    extra: s.left(s.float(), 1),
    small: s.maybe(s.float()),
    medium: s.maybe(s.float()),
    large: s.maybe(s.float()),
    angle: s.maybe(s.float()),
  }),
  passed: s.bool,
  failures: s.left(s.list(s.str), []),
  placement: s.left(s.dict(s.int()), new Map<string, number>()),
  recipe: s.left(s.str, ""),
  recipes: s.left(s.dict(s.float()), new Map<string, number>()),
  budget: s.left(s.nullable(budget), null),
  texts: s.left(s.nullable(textAgreement), null),
  accuracy: s.maybe(s.struct({ measure: s.str, source: s.float(), bundle: s.float() })),
  control: s.maybe(s.struct({ damage: s.str, failures: s.list(s.str) })),
});

const amendment = s.struct({
  time: s.str,
  changes: s.list(s.struct({ name: s.str, before: s.nullable(scalar), after: scalar })),
});

/** A device that replayed the golden frames and found what it should. */
const execution = s.struct({
  time: s.str,
  platform: s.str,
  machine: s.str,
  engine: s.str,
  word: proofWord,
  frames: s.int(),
  compared: s.str,
});

/** A file of a bundle: relative path with forward slashes, size in bytes, SHA-256. */
const file = s.struct({ path: s.str, bytes: s.int(), sha256: s.str });
export type File = s.Infer<typeof file>;

/** A further batch and input size that a bundle takes. */
const variant = s.struct(
  {
    batch: s.int({ least: 1, most: 1 << 10 }),
    size: pair,
    evidence: s.left(s.nullable(evidence), null),
  },
  ({ batch, size }) =>
    Math.min(...size) < 1 || Math.max(...size) > LARGEST || batch * size[0] * size[1] > MOST_PIXELS
      ? `a batch of ${batch} at [${size.join(", ")}] must have at most ${MOST_PIXELS} pixels in all`
      : undefined,
);

/** Everything a bundle says about itself. */
export const manifest = s.struct({
  schema: s.left(s.int(), SCHEMA),
  edgekit: s.str,
  name: s.str,
  target: s.str,
  precision: s.str,
  engine: s.str,
  graphs: s.list(graph),
  contract,
  origin,
  toolchain: s.dict(s.str),
  options: s.left(s.anything, new Map()),
  calibration: s.left(s.nullable(calibration), null),
  evidence: s.left(s.nullable(evidence), null),
  proven: s.left(s.bool, false),
  variants: s.maybe(s.list(variant)),
  files: s.left(s.list(file), []),
  digest: s.left(s.str, ""),
  amendments: s.maybe(s.list(amendment)),
  executions: s.maybe(s.list(execution)),
});
export type Manifest = s.Infer<typeof manifest>;

/** What a bundle is, in a few words: `shapes web int8, detect, 7 classes, 256x256, proven`. */
export function summary(one: Manifest): string {
  const { contract: its, name, target, precision, proven } = one;
  const classes = its.classes.length ? `${its.classes.length} classes, ` : "";
  return `${name} ${target} ${precision}, ${its.task}, ${classes}${its.image.size.join("x")}, ${proven ? "proven" : "unproven"}`;
}

/** The levels around a letterboxed image in RGB, the order of pixels on the web. */
export function padding(rule: ImageRule): readonly [number, number, number] {
  const [first, second, third] = typeof rule.pad === "number" ? [rule.pad, rule.pad, rule.pad] : rule.pad;
  return rule.color === "rgb" ? [first, second, third] : [third, second, first];
}
