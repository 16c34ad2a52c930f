/** Converted BLIP-2 with onnxruntime-web, against what Python said with the same files. See tests/test_platform_web.py. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import * as edgekit from "../src/index.js";
import { readPng } from "../src/inputs/png.js";
import { onDisk } from "./disk.js";

const FOLDER = process.env["EDGEKIT_WEB_LANGUAGE"];
const skip = FOLDER ? false : "EDGEKIT_WEB_LANGUAGE names no folder of BLIP-2 bundles";
const entries: any[] = FOLDER ? JSON.parse(readFileSync(path.join(FOLDER, "expected.json"), "utf8")) : [];

const picture = async (file: string) => readPng(readFileSync(file), file);
const { VisionLanguage } = edgekit;

test("there are bundles to run", { skip }, () => assert.ok(entries.length > 0));

for (const { bundle, texts, matches, score } of entries) {
  test(`${path.basename(bundle)}: texts, pieces and matches are Python's`, { skip }, async (t) => {
    const model = await VisionLanguage.open(onDisk(bundle));
    for (const { image, question, options, tokens, text, others, score: sum } of texts) {
      const pixels = await picture(image);
      const made = question === null ? await model.caption(pixels, options) : await model.ask(pixels, question, options);
      assert.deepEqual([made.text, made.tokens, made.others.map((one) => one.tokens)], [text, tokens, others], JSON.stringify(options));
      assert.ok(Math.abs(made.score - sum) < score, `${made.score}, not ${sum}`);
      assert.ok(made.timings.prefill > 0 && made.timings.steps > 0);
      if (!("beams" in options)) {
        const pieces: string[] = [];
        for await (const piece of model.stream(pixels, { ...options, ...(question === null ? {} : { question }) })) pieces.push(piece);
        assert.equal(pieces.join("").trim(), text);
        assert.ok(pieces.length > 1 || question !== null); // an answer may be one word
      }
    }
    for (const { image, text, probability, similarity } of matches) {
      const made = await model.match(await picture(image), text);
      assert.ok(Math.abs(made.probability - probability) < score && Math.abs(made.similarity - similarity) < score, `${JSON.stringify(made)}, not ${probability}, ${similarity}`);
    }
    const pictures = new Set([...texts, ...matches].map(({ image }) => image)).size;
    assert.equal(model.encoder.runs, pictures, "an image is seen once");
    t.diagnostic(`${texts.length} texts and ${matches.length} matches are Python's`);
    await model.dispose();
  });
}

const spoken = entries.find(({ texts }) => texts.length);

test("one thing at a time, stops, and what is refused", { skip }, async () => {
  const model = await VisionLanguage.open(onDisk(spoken.bundle));
  const pixels = await picture(spoken.texts[0].image);
  const refused = (work: Promise<unknown>, kind: new (...given: any[]) => Error, words: RegExp) =>
    assert.rejects(work, (error: Error) => error instanceof kind && words.test(error.message));
  const first = model.caption(pixels);
  await refused(model.caption(pixels), edgekit.BusyError, /this model is busy/);
  await first;
  for await (const _ of model.stream(pixels)) {
    await refused(model.ask(pixels, "how many?"), edgekit.BusyError, /end the loop over its stream/);
    break; // and the model is free
  }
  const controller = new AbortController();
  let pieces = 0;
  const stopped = async () => {
    for await (const _ of model.stream(pixels, { signal: controller.signal, min_new_tokens: 20 })) if (++pieces === 2) controller.abort();
  };
  await refused(stopped(), edgekit.StoppedError, /was stopped/);
  const { text } = await model.caption(pixels, { stop: [" "], prompt: "" });
  assert.ok(!text.includes(" "));
  await refused(model.caption(pixels, { style: "long" }), edgekit.UsageError, /'long' is not one of: caption, short, detailed/);
  await refused(model.caption(pixels, { style: "short", prompt: "a" }), edgekit.UsageError, /say the same thing twice/);
  await refused(model.caption(pixels, { beams: 0 }), edgekit.UsageError, /option beams=0: expected 1 to 1000/);
  await refused(model.caption(pixels, { prompt: "a <image>" }), edgekit.UsageError, /holds the image's placeholder/);
  await refused(model.caption(pixels, { prompt: "red ".repeat(400) }), edgekit.UsageError, /the model takes 256: shorten the prompt/);
  await refused(model.stream(pixels, { beams: 2 }).next(), edgekit.UsageError, /beams=2 cannot be streamed/);
  await refused(model.stream(pixels, { question: "how many?", style: "short" }).next(), edgekit.UsageError, /not both/);
  await refused(model.match(pixels, "a red circle"), edgekit.UsageError, /match needs a retrieval bundle/);
  await refused(model.embed(pixels, "itc"), edgekit.UsageError, /level 'itc' is not one of: language, queries, vision/);
  assert.deepEqual((await model.embed(pixels)).shape, [16, 128]);
  const drawn = await Promise.resolve(model.caption(pixels, { sample: true, seed: 7, temperature: 2, returned: 2 }));
  assert.deepEqual((await model.caption(pixels, { sample: true, seed: 7, temperature: 2, returned: 2 })).tokens, drawn.tokens);
  await model.dispose();
  await refused(model.caption(pixels), edgekit.UsageError, /this model is closed/);
  await refused(edgekit.EdgeModel.open(onDisk(spoken.bundle)), edgekit.UsageError, /open it with VisionLanguage.open/);
});

test("damaged bundles are refused", { skip }, async () => {
  const source = onDisk(spoken.bundle);
  const changed = (name: string, change: (bytes: Uint8Array) => Uint8Array) => ({
    ...source, read: async (file: string) => { const bytes = await source.read(file); return bytes && file === name ? change(bytes) : bytes; },
  });
  const flipped = changed("tokenizer.json", (bytes) => { bytes[100]! ^= 1; return bytes; });
  await assert.rejects(VisionLanguage.open(flipped), (error: any) => error instanceof edgekit.BundleError && error.kind === "hash-differs");
  const missing = changed("embeddings.npy", (bytes) => bytes.subarray(0, 40));
  await assert.rejects(VisionLanguage.open(missing), (error: any) => error instanceof edgekit.BundleError && error.kind === "wrong-size");
});
