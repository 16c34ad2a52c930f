/** Converted bundles with onnxruntime-web, against what Python found with the same files. See tests/test_platform_web.py. */

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import * as edgekit from "../src/index.js";
import { readPng } from "../src/inputs/png.js";
import { onDisk } from "./disk.js";
import { compared } from "./results.js";

const FOLDER = process.env["EDGEKIT_WEB_BUNDLES"];
const skip = FOLDER ? false : "EDGEKIT_WEB_BUNDLES names no folder of bundles";
const entries: any[] = FOLDER ? JSON.parse(readFileSync(path.join(FOLDER, "expected.json"), "utf8")) : [];

/** What was found, as docs/platforms_picture.py draws it. */
const document = (found: edgekit.WithBoxes): object => ({
  boxes: [...found.boxes],
  scores: [...found.scores],
  class_ids: [...found.classIds],
  track_ids: [...found.trackIds!],
  keypoints: found.kind === "poses" ? [...found.keypoints] : [],
  masks: found.kind === "instances" ? found.masks.map((mask) => edgekit.toRle(mask, found.size).counts) : [],
});

const picture = async (file: string) => readPng(readFileSync(file), file);

test("there are bundles to run", { skip }, () => assert.ok(entries.length > 0));

for (const { bundle, images, frames, golden } of entries) {
  test(`${path.basename(bundle)}: results, tracks and golden frames are Python's`, { skip }, async () => {
    const model = await edgekit.EdgeModel.open(onDisk(bundle));
    assert.equal(model.placement.device, "wasm");
    let objects = 0;
    for (const { image, result } of images) {
      const found = compared(await model.run(await picture(image)), result);
      assert.deepEqual(found.wrong, []);
      objects += found.objects;
    }
    assert.ok(objects > 0);
    if (frames) {
      const tracker = new edgekit.ByteTrack({ new_score: 0.3, high_score: 0.25 });
      const ids: number[][] = [];
      let last: edgekit.WithBoxes | undefined;
      for (const [number, { image }] of frames.entries()) {
        async function* one(): AsyncGenerator<edgekit.Frame> {
          yield { source: await picture(image), time: number / 30 };
        }
        for await (const found of model.stream(one(), { tracker })) ids.push([...(last = found as edgekit.WithBoxes).trackIds!]);
      }
      writeFileSync(`${bundle}-found.json`, JSON.stringify(document(last!)));
      assert.deepEqual(ids, frames.map((frame: any) => frame.track_ids));
    }
    if (golden) {
      const record = await model.selfCheck();
      assert.deepEqual(record.differences, []);
      assert.ok(record.agreed && record.frames > 0);
      writeFileSync(`${bundle}-record.json`, JSON.stringify(record));
    } else await assert.rejects(model.selfCheck(), /has no golden frames/);
    await model.dispose();
  });
}
