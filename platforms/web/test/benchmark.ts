/**
 * How long parts of the library take on the inputs of a folder that benchmarks/platforms.py writes: milliseconds as JSON.
 *
 *     node build/test/benchmark.js FOLDER
 */

import { readFileSync } from "node:fs";
import path from "node:path";
import { type Json, parseJson, plain } from "../src/bundle/json.js";
import { contract, imageRule } from "../src/bundle/manifest.js";
import { Preprocessor, transform } from "../src/inputs/images.js";
import { openTask } from "../src/tasks/index.js";
import { openTracker } from "../src/tracking/index.js";

const TURNS = 300;
const TRACKED = 40;
const TRACKERS = ["sort", "bytetrack", "ocsort", "botsort"] as const;

const folder = process.argv[2]!;
const plan = parseJson(readFileSync(path.join(folder, "plan.json"))) as Map<string, Json>;
const found: Record<string, number> = {};

/** CPU time of this process in milliseconds. */
function now(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** Milliseconds of the fastest of many turns, the first of which the engine's compiler needs. */
function fastest(work: () => void): number {
  let best = Infinity;
  for (let turn = 0; turn < TURNS; turn++) {
    const begun = now();
    work();
    best = Math.min(best, now() - begun);
  }
  return best;
}

for (const one of plan.get("tasks") as Map<string, Json>[]) {
  const { name, size, outputs } = plain(one) as { name: string; size: [number, number]; outputs: { file: string; shape: number[] }[] };
  const rules = contract.read(one.get("contract")!, "");
  const task = openTask(rules);
  const mapping = transform(rules.image, ...size);
  const tensors = outputs.map(({ file, shape }) => ({ data: new Float32Array(new Uint8Array(readFileSync(path.join(folder, file))).buffer), shape }));
  found[name] = fastest(() => task.result(tensors, mapping, {}));
}

const picture = plan.get("picture") as Map<string, Json>;
const { file, size } = plain(picture) as { file: string; size: [number, number] };
const pixels = { data: new Uint8Array(readFileSync(path.join(folder, file))), width: size[0], height: size[1], channels: 3 as const };
const preprocess = new Preprocessor(imageRule.read(picture.get("rule")!, ""));
found["letterbox"] = fastest(() => preprocess.run(pixels));

for (const { name, frames } of plain(plan.get("tracks")!) as { name: string; frames: { boxes: number[][]; scores: number[] }[] }[]) {
  const given = frames.map(({ boxes, scores }) => [Float32Array.from(boxes.flat()), Float32Array.from(scores), new Int32Array(scores.length)] as const);
  for (const kind of TRACKERS) {
    // Of each frame the fastest turn counts.
    const best = new Float64Array(given.length).fill(Infinity);
    for (let turn = 0; turn < TRACKED; turn++) {
      const tracker = openTracker(kind);
      given.forEach(([boxes, scores, ids], number) => {
        const begun = performance.now();
        tracker.update(boxes, scores, ids, { time: number / 30 });
        best[number] = Math.min(best[number]!, performance.now() - begun);
      });
    }
    found[`${kind} ${name}`] = best.reduce((sum, time) => sum + time, 0) / best.length;
  }
}

console.log(JSON.stringify(found));
