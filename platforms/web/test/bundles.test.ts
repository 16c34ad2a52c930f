/** Converted bundles with onnxruntime-web, against what Python found with the same files. See tests/test_platform_web.py. */

import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import * as edgekit from "../src/index.js";
import { readPng } from "../src/inputs/png.js";

const FOLDER = process.env["EDGEKIT_WEB_BUNDLES"];
const skip = FOLDER ? false : "EDGEKIT_WEB_BUNDLES names no folder of bundles";
const entries: any[] = FOLDER ? JSON.parse(readFileSync(path.join(FOLDER, "expected.json"), "utf8")) : [];

const onDisk = (folder: string): edgekit.BundleSource => ({
  name: `${folder}/`,
  async read(name) {
    const file = path.join(folder, name);
    return existsSync(file) ? new Uint8Array(readFileSync(file)) : null;
  },
});

const picture = async (file: string) => readPng(readFileSync(file), file);

/** Largest difference of two lists of numbers of one length. */
function off(one: ArrayLike<number>, other: ArrayLike<number>): number {
  assert.equal(one.length, other.length);
  let most = 0;
  for (let i = 0; i < one.length; i++) most = Math.max(most, Math.abs(one[i]! - other[i]!));
  return most;
}

/** The engines are the same source on other instructions: sums are ordered differently. */
const PIXEL = 0.05;
const SCORE = 1e-4;
/** A resize may be a grey level off in a few pixels, as the golden set allows, and a softmax makes much of little. */
const PROBABILITY = 5e-4;

function same(found: edgekit.Result, expected: any): void {
  if (found.kind === "classification") return assert.ok(off(found.scores, expected.scores) < PROBABILITY);
  if (found.kind === "embedding") return assert.ok(off(found.vector, expected.vector) < SCORE);
  if (found.kind === "labels") {
    const labels = expected.class_ids.flatMap((id: number, i: number) => new Array(expected.lengths[i]).fill(id));
    const differing = labels.filter((label: number, i: number) => label !== found.labels[i]).length;
    return assert.ok(differing <= labels.length / 1000, `${differing} pixels`);
  }
  const rows = expected.detections;
  assert.deepEqual([...found.classIds], rows.map((row: any) => row.class_id));
  assert.ok(off(found.scores, rows.map((row: any) => row.score)) < SCORE);
  assert.ok(off(found.boxes, rows.flatMap((row: any) => row.box)) < PIXEL);
  if (found.kind === "poses") assert.ok(off(found.keypoints, rows.flatMap((row: any) => row.keypoints.flat())) < PIXEL);
  if (found.kind === "instances") {
    found.masks.forEach((mask, i) => {
      const own = edgekit.toRle(mask, found.size);
      assert.deepEqual(own.size, rows[i].mask.size);
      const area = (one: edgekit.Mask) => one.data.reduce((sum, pixel) => sum + pixel, 0);
      assert.ok(own.counts === rows[i].mask.counts || area(mask) > 0, `mask ${i}`);
    });
    const equal = found.masks.filter((mask, i) => edgekit.toRle(mask, found.size).counts === rows[i].mask.counts).length;
    assert.ok(equal >= found.masks.length * 0.8, `${equal} of ${found.masks.length} masks are equal`);
  }
}

test("there are bundles to run", { skip }, () => assert.ok(entries.length > 0));

for (const { bundle, images, frames, golden } of entries) {
  test(`${path.basename(bundle)}: results, tracks and golden frames are Python's`, { skip }, async () => {
    const model = await edgekit.EdgeModel.open(onDisk(bundle));
    assert.equal(model.placement.device, "wasm");
    let objects = 0;
    for (const { image, result } of images) {
      const found = await model.run(await picture(image));
      same(found, result);
      objects += edgekit.hasBoxes(found) ? found.length : 1;
    }
    assert.ok(objects > 0);
    if (frames) {
      const tracker = new edgekit.ByteTrack({ new_score: 0.3, high_score: 0.25 });
      const ids: number[][] = [];
      for (const [number, { image }] of frames.entries()) {
        async function* one(): AsyncGenerator<edgekit.Frame> {
          yield { source: await picture(image), time: number / 30 };
        }
        for await (const found of model.stream(one(), { tracker })) ids.push([...(found as edgekit.WithBoxes).trackIds!]);
      }
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
