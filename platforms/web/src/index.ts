/** edgekit on the web: bundles opened, run and tracked. See docs/WEB.md. */

import "./tasks/decoders/index.js";

export * from "./errors.js";
export type { Size, Tensor } from "./arrays.js";
export { type BundleSource, folderAt, inMemory } from "./bundle/folder.js";
export type { Contract, Manifest, Skeleton } from "./bundle/manifest.js";
export { summary } from "./bundle/manifest.js";
export type { Device, OrtModule } from "./engines/onnxruntime.js";
export type { FrameSource, RawPixels, Turn } from "./inputs/frames.js";
export { type Frame, openCamera } from "./inputs/newest.js";
export type { GenerationOptions } from "./language/options.js";
export {
  type CaptionOptions, type Level, type Match, type OpenLanguageOptions, type StreamTextOptions, type Text, type TextOptions, type TextTimings, VisionLanguage,
} from "./language/vision_language.js";
export { type Attempt, EdgeModel, type OpenOptions, type Placement } from "./model.js";
export * from "./results/results.js";
export type { Mask, Rle } from "./results/rle.js";
export { type SelfCheck, VERSION } from "./selfcheck.js";
export { OneEuro, type OneEuroOptions } from "./smoothing.js";
export type { RunOptions, StreamOptions } from "./streaming.js";
export type { Thresholds } from "./tasks/detect.js";
export { TopDown, type TopDownOptions } from "./top_down.js";
export * from "./tracking/index.js";
