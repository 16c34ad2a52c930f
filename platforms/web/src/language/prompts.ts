/** Texts as a vision-language model reads them: behind an image for generation, alone for retrieval. */

import type { Tensor } from "../arrays.js";
import type { Language } from "../bundle/manifest.js";
import { BundleError, choices, quoted, UsageError } from "../errors.js";
import type { Embeddings } from "./embeddings.js";
import type { Prompt } from "./generation.js";
import type { Tokenizer } from "./tokenizer.js";

/** How BLIP-2 is asked where a bundle does not say. */
const QUESTION = "Question: {} Answer:";

/** The prompt of a caption: as given, or the contract's of a style, or its usual one. Throws UsageError. */
export function captionPrompt({ prompts }: Language, prompt: string | undefined, style: string | undefined): string {
  if (prompt !== undefined && style !== undefined) throw new UsageError(`prompt ${quoted(prompt)} and style ${quoted(style)} say the same thing twice; leave one out`);
  if (prompt !== undefined) return prompt;
  const styles = [...prompts.keys()].filter((name) => name !== "ask");
  if (style !== undefined && !styles.includes(style)) throw new UsageError(styles.length ? `style ${choices(style, styles)}` : `style ${quoted(style)}: this bundle has none`);
  return prompts.get(style ?? "caption") ?? "";
}

/** The prompt that asks a question. */
export const questionPrompt = ({ prompts }: Language, question: string): string => (prompts.get("ask") ?? QUESTION).replace("{}", () => question);

/**
 * A prompt behind its image, (1, queries, width).
 *
 * Throws UsageError: it is too long for the model, or holds the image's placeholder. BundleError: parts of another model.
 */
export function promptOf(language: Language, tokenizer: Tokenizer, embeddings: Embeddings, image: Tensor, text: string, most: number): Prompt {
  const { queries, image: placeholder, positions, eos, pad, family, start } = language;
  const { width } = embeddings;
  if (image.data.length !== queries * width) {
    throw new BundleError("invalid", `the Q-Former gives (${image.shape}) for an image, the contract says (1,${queries},${width}): convert the model again`);
  }
  const ids = tokenizer.encode(text);
  if (ids.includes(placeholder)) throw new UsageError(`prompt ${short(text)} holds the image's placeholder, which is put there anyway`);
  const beyond = ids.find((id) => id >= embeddings.count);
  if (beyond !== undefined) {
    throw new BundleError("invalid", `the tokenizer gave token ${beyond}, embeddings.npy has ${embeddings.count}: they are not of the same model; convert it again`);
  }
  const total = ids.length + queries + most;
  if (positions && total > positions) {
    throw new UsageError(
      `prompt ${short(text)}: ${ids.length} tokens, ${queries} of the image and max_new_tokens=${most} are ${total}, the model takes ${positions}: ` +
        "shorten the prompt or lower max_new_tokens",
    );
  }
  const data = new Float32Array((queries + ids.length) * width);
  data.set(image.data);
  for (const [i, id] of ids.entries()) embeddings.copy(id, data, (queries + i) * width);
  // The penalties of T5 read what its decoder begins with, not the encoder's prompt.
  const read = family === "t5" ? [start] : [...new Array<number>(queries).fill(placeholder), ...ids];
  return { embeddings: { data, shape: [1, queries + ids.length, width] }, ids: read, eos, pad };
}

/** Ids of a text for retrieval. Throws UsageError: more than the model takes. */
export function textIds({ positions }: Language, tokenizer: Tokenizer, text: string): number[] {
  const ids = tokenizer.encode(text);
  if (positions && ids.length > positions) throw new UsageError(`text ${short(text)}: ${ids.length} tokens, the model takes ${positions}; shorten it`);
  return ids;
}

const short = (text: string): string => quoted(text.length <= 60 ? text : `${text.slice(0, 57)}...`);
