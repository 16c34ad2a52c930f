/** What the vision model and the Q-Former see in an image; that of the last images is remembered. */

import { shown, type Tensor } from "../arrays.js";
import { sha256 } from "../bundle/manifest_file.js";
import type { Network } from "../engines/onnxruntime.js";
import { EngineError, quoted } from "../errors.js";
import type { Pixels, Preprocessor } from "../inputs/images.js";

/** Of one image; `projected` is what the Q-Former gives on: into the language model, or to be compared with texts. */
export interface ImageFeatures {
  readonly vision: Tensor;
  readonly queries: Tensor;
  readonly projected: Tensor;
}

/** Images whose features are kept: 1.5 MB each at 257 tokens of 1408. */
const KEPT = 16;

export class ImageEncoder {
  private readonly known = new Map<string, ImageFeatures>();
  /** How often the vision model ran. */
  runs = 0;

  constructor(
    private readonly vision: Network,
    private readonly qformer: Network,
    private readonly preprocess: Preprocessor,
    private readonly projected: string,
  ) {}

  async features(image: Pixels): Promise<ImageFeatures> {
    const { data, width, height, channels } = image;
    const key = `${width} ${height} ${channels} ${await sha256(new Uint8Array(data))}`;
    const found = this.known.get(key) ?? (await this.encoded(image));
    this.known.delete(key); // what was looked at last is the last to go
    this.known.set(key, found);
    const [oldest] = this.known.keys();
    if (this.known.size > KEPT) this.known.delete(oldest!);
    return found;
  }

  private async encoded(image: Pixels): Promise<ImageFeatures> {
    const { tensor } = this.preprocess.run(image);
    this.runs++;
    const vision = output(await this.vision.run({ pixel_values: tensor }), "image_embeds", [1, null, null]);
    const made = await this.qformer.run({ image_embeds: vision });
    const queries = output(made, "query_output", [1, null, null]);
    return { vision, queries, projected: output(made, this.projected, [1, queries.shape[1]!, null]) };
  }
}

/** One output of a network, null in `shape` is any size. Throws EngineError: not there, of another shape, or not finite. */
export function output(given: Readonly<Record<string, Tensor>>, name: string, shape: readonly (number | null)[]): Tensor {
  const found = given[name];
  if (!found) throw new EngineError(`a graph gave no ${quoted(name)}, only ${Object.keys(given).join(", ") || "nothing"}; convert the model again`);
  if (found.shape.length !== shape.length || !shape.every((size, i) => size === null || size === found.shape[i])) {
    throw new EngineError(`a graph gave ${quoted(name)} of shape ${shown(found.shape)}, not (${shape.map((size) => size ?? "any").join(", ")})`);
  }
  if (!found.data.every(Number.isFinite)) throw new EngineError(`a graph gave ${quoted(name)} with NaN or infinite numbers: try a higher precision`);
  return found;
}
