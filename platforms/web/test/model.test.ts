/** EdgeModel with an engine of its own making: states, streams, devices, and what is refused. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { canonical, type Json, parseJson } from "../src/bundle/json.js";
import * as edgekit from "../src/index.js";

const { EdgeModel, inMemory } = edgekit;

const hash = (data: Uint8Array | string): string => createHash("sha256").update(data).digest("hex");

/** Files of a small detector: 32 x 32, stride 16, two classes. */
function files(changes: Record<string, unknown> = {}, contract: Record<string, unknown> = {}): Map<string, Uint8Array> {
  const model = new TextEncoder().encode("a model that only the test's engine can run");
  const manifest = {
    schema: 1, edgekit: "0.1.0", name: "tiny", target: "web", precision: "fp32", engine: "web",
    graphs: [{
      files: ["model.onnx"], inputs: [{ name: "images", shape: [1, 3, 32, 32] }],
      outputs: [{ name: "boxes", shape: [1, 4, 2, 2] }, { name: "classes", shape: [1, 2, 2, 2] }],
    }],
    contract: {
      image: { size: [32, 32] }, classes: ["cat", "dog"],
      decoder: { name: "anchor_free", options: { strides: [16], reg_max: 1 } },
      outputs: [{ name: "boxes", role: "boxes" }, { name: "classes", role: "classes" }], ...contract,
    },
    origin: { kind: "torch", name: "tiny", sha256: "00" }, toolchain: {},
    files: [{ path: "model.onnx", bytes: model.length, sha256: hash(model) }], digest: "", ...changes,
  };
  const document = parseJson(JSON.stringify(manifest)) as Map<string, Json>;
  document.set("digest", hash(canonical(document)));
  return new Map([["model.onnx", model], ["manifest.json", new TextEncoder().encode(canonical(document))]]);
}

interface Fake extends edgekit.OrtModule {
  runs: number;
  released: number;
  gate: Promise<void>;
}

/** An engine that finds one cat in the first cell, after `milliseconds` of its device. */
function engine(milliseconds: Record<string, number> = {}, score: Record<string, number> = {}): Fake {
  class Tensor {
    constructor(readonly type: string, readonly data: Float32Array | Int32Array | BigInt64Array, readonly dims: readonly number[]) {}
  }
  const fake: Fake = {
    runs: 0,
    released: 0,
    gate: Promise.resolve(),
    env: { wasm: {}, versions: { common: "0", web: "test" } },
    Tensor,
    InferenceSession: {
      async create(_, { executionProviders: [device] }) {
        return {
          inputNames: ["images"],
          outputNames: ["boxes", "classes"],
          async run() {
            fake.runs++;
            await fake.gate;
            const wait = milliseconds[device!] ?? 0;
            if (wait) await new Promise((resolve) => setTimeout(resolve, wait));
            const logit = score[device!] ?? 2;
            return {
              boxes: new Tensor("float32", new Float32Array(16).fill(0.5), [1, 4, 2, 2]),
              classes: new Tensor("float32", Float32Array.of(logit, -9, -9, -9, -9, -9, -9, -9), [1, 2, 2, 2]),
            };
          },
          async release() {
            fake.released++;
          },
        };
      },
    },
  };
  return fake;
}

const open = (ort: edgekit.OrtModule, options: edgekit.OpenOptions = {}, source = files()) =>
  EdgeModel.open(inMemory(source, "tiny/"), { device: "wasm", ort, ...options });

const frame = (width = 64, height = 32) => ({ data: new Uint8ClampedArray(4 * width * height), width, height });

test("a frame gives detections in its own pixels, with timings", async () => {
  const model = await open(engine());
  const found = await model.run(frame(), { time: 1.5 });
  assert.ok(edgekit.hasBoxes(found) && found.kind === "detections");
  assert.deepEqual([...found.boxes], [0, 0, 32, 16]);
  assert.ok(Math.abs(found.scores[0]! - 1 / (1 + Math.exp(-2))) < 1e-6);
  assert.deepEqual([found.time, found.size, found.classes], [1.5, [64, 32], ["cat", "dog"]]);
  assert.ok(found.timings.pre >= 0 && found.timings.inference >= 0 && found.timings.post >= 0);
  assert.equal(model.placement.device, "wasm");
  assert.equal((await model.run(frame(), { thresholds: { score: 0.95 } }) as edgekit.Detections).length, 0);
  await model.dispose();
});

test("a turned frame is looked at upright", async () => {
  const model = await open(engine());
  assert.deepEqual((await model.run(frame(), { orientation: 6 })).size, [32, 64]);
  await assert.rejects(model.run(frame(), { orientation: 9 }), /orientation must be 1..8/);
  await assert.rejects(model.run({ data: new Uint8Array(3), width: 0, height: 0 }), edgekit.InputError);
  await assert.rejects(model.run({ data: new Uint8Array(5), width: 4, height: 4 }), /64 bytes of RGBA/);
  await assert.rejects(model.run(frame(), { thresholds: { score: 2 } }), /score must be 0..1, not 2/);
  await model.run(frame()); // still ready
  await model.dispose();
});

test("a second call while it runs, and any call after dispose, are refused", async () => {
  const ort = engine();
  const model = await open(ort);
  let letGo = (): void => undefined;
  ort.gate = new Promise((resolve) => (letGo = resolve));
  const first = model.run(frame());
  await assert.rejects(model.run(frame()), edgekit.BusyError);
  const closing = model.dispose();
  assert.equal(ort.released, 0); // not under the feet of what runs
  letGo();
  await first;
  await closing;
  assert.equal(ort.released, 1);
  await assert.rejects(model.run(frame()), /this model is closed/);
  await assert.rejects(model.selfCheck(), /this model is closed/);
  await model.dispose();
});

async function* camera(count: number, milliseconds: number): AsyncGenerator<edgekit.Frame> {
  for (let i = 0; i < count; i++) {
    await new Promise((resolve) => setTimeout(resolve, milliseconds));
    yield { source: frame(), time: i / 30 };
  }
}

test("a stream takes the newest frame, counts the others, and tracks", async () => {
  const model = await open(engine({ wasm: 25 }));
  const times: number[] = [];
  const ids = new Set<number>();
  for await (const found of model.stream(camera(20, 5), { tracker: new edgekit.ByteTrack() })) {
    times.push(found.time!);
    if (edgekit.hasBoxes(found)) found.trackIds!.forEach((id) => ids.add(id));
  }
  assert.ok(times.length >= 2 && times.length < 15, `${times.length} results`);
  assert.ok(times.every((time, i) => i === 0 || time > times[i - 1]!));
  assert.ok(model.dropped > 0 && model.dropped + times.length <= 20);
  assert.deepEqual([...ids], [1]);
  await model.dispose();
});

test("a stream ends with its signal, with its camera, and with the loop", async () => {
  const model = await open(engine());
  const stop = new AbortController();
  let seen = 0;
  for await (const _ of model.stream(camera(1000, 2), { signal: stop.signal })) if (++seen === 3) stop.abort();
  assert.equal(seen, 3);
  let ended = false;
  async function* pulled(): AsyncGenerator<edgekit.Frame> {
    try {
      yield { source: frame(), time: 0 };
      throw new edgekit.InputError("the camera is gone");
    } finally {
      ended = true;
    }
  }
  await assert.rejects(async () => {
    for await (const _ of model.stream(pulled()));
  }, /the camera is gone/);
  assert.ok(ended);
  for await (const _ of model.stream(camera(1000, 2))) break;
  await model.run(frame());
  await model.dispose();
  await assert.rejects(async () => {
    for await (const _ of model.stream(camera(3, 1)));
  }, /closed/);
});

/** Do something where WebGPU is there. */
async function withGpu(work: () => Promise<void>): Promise<void> {
  const before = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  Object.defineProperty(globalThis, "navigator", { value: { gpu: { requestAdapter: async () => ({}) } }, configurable: true });
  try {
    await work();
  } finally {
    if (before) Object.defineProperty(globalThis, "navigator", before);
    else delete (globalThis as { navigator?: unknown }).navigator;
  }
}

test("auto keeps the faster device that is also right, and says why", async () => {
  await withGpu(async () => {
    const fast = await open(engine({ wasm: 20, webgpu: 2 }), { device: "auto" }, files({ name: "fast" }));
    assert.equal(fast.placement.device, "webgpu");
    assert.equal(fast.placement.attempts.length, 2);
    const slow = await open(engine({ wasm: 2, webgpu: 20 }), { device: "auto" }, files({ name: "slow" }));
    assert.equal(slow.placement.device, "wasm");
    const wrong = engine({ wasm: 20, webgpu: 2 }, { webgpu: -300 });
    const right = await open(wrong, { device: "auto" }, files({ name: "wrong" }));
    assert.equal(right.placement.device, "wasm");
    assert.match(right.placement.reason, /webgpu: wrong: the cosine/);
    assert.equal(wrong.released, 1);
    const before = engine();
    await open(before, { device: "auto" }, files({ name: "fast" }));
    assert.equal(before.runs, 0); // measured before in this page
  });
  const alone = await open(engine(), { device: "auto" }, files({ name: "alone" }));
  assert.match(alone.placement.reason, /webgpu: no WebGPU here/);
  await assert.rejects(open(engine(), { device: "auto", strict: true }, files({ name: "strict" })), /strict: not every device.*no WebGPU/);
  await assert.rejects(open(engine(), { device: "webgpu" }), /webgpu cannot be used: no WebGPU here/);
  await assert.rejects(open(engine(), { device: "npu" as "wasm" }), /'npu' is not one of: auto, wasm, webgpu/);
  await assert.rejects(open(engine(), { device: "webgpu", worker: true }), /worker: true is for WebAssembly/);
});

test("what cannot be run is refused before an engine is loaded", async () => {
  const refused = (changes: Record<string, unknown>, contract: Record<string, unknown>, expected: RegExp) =>
    assert.rejects(open({} as edgekit.OrtModule, {}, files(changes, contract)), expected);
  await refused({ engine: "litert" }, {}, /for the engine litert.*--target web/);
  await refused({}, { decoder: { name: "telepathy" } }, /'telepathy' is not one of: anchor_free/);
  await refused({}, { decoder: { name: "anchor_free", options: { strides: [16], nonsense: 1 } } }, /unknown field `nonsense`.*its options are: strides/);
  await refused({}, { task: "dance" }, /task 'dance' is not one of: classify/);
  await refused({}, { image: { size: [64, 64] } }, /makes a float32 input of 64x64/);
  await refused({}, { task: "pose" }, /names its keypoints/);
  await assert.rejects(EdgeModel.open(inMemory(files()), { ort: "no-such-package-anywhere" }), /onnxruntime-web cannot be loaded from 'no-such/);
  const stop = AbortSignal.abort();
  await assert.rejects(open(engine(), { signal: stop }), edgekit.StoppedError);
});

test("an engine that fails, gives NaN, or lacks an output is an EngineError", async () => {
  const ort = engine({}, { wasm: NaN });
  const model = await open(ort);
  await assert.rejects(model.run(frame()), /NaN or infinite outputs/);
  await model.dispose();
  const lacking = engine();
  const create = lacking.InferenceSession.create;
  const session = await create(new Uint8Array(), { executionProviders: ["wasm"] });
  const broken = { ...lacking, InferenceSession: { create: async () => ({ ...session, outputNames: ["boxes"] }) } };
  await assert.rejects(open(broken), /has no output 'classes', only boxes/);
});

test("a camera that is refused is an InputError that says what to do", async () => {
  const video = { play: async () => undefined } as unknown as HTMLVideoElement;
  const before = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  const error = Object.assign(new Error("no"), { name: "NotAllowedError" });
  Object.defineProperty(globalThis, "navigator", {
    value: { mediaDevices: { getUserMedia: async () => Promise.reject(error) } }, configurable: true,
  });
  try {
    await assert.rejects(edgekit.openCamera(video), /the camera was refused; allow it/);
  } finally {
    if (before) Object.defineProperty(globalThis, "navigator", before);
    else delete (globalThis as { navigator?: unknown }).navigator;
  }
  await assert.rejects(edgekit.openCamera(video), /serve it over HTTPS/);
});

test("a detector and a pose model work as one, also on a stream, and refuse what does not fit", async () => {
  const output = { name: "boxes", shape: [1, 2, 3] };
  const pose = files(
    { graphs: [{ files: ["model.onnx"], inputs: [{ name: "images", shape: [1, 3, 32, 32] }], outputs: [output] }] },
    { task: "pose", classes: ["cat"], decoder: { name: "keypoints" }, outputs: [{ name: "boxes", role: "predictions" }], skeleton: { names: ["nose", "tail"] } },
  );
  const found = engine();
  class Points { type = "float32" as const; dims = [1, 2, 3]; data = Float32Array.of(0.5, 0.5, 1, 1, 1, 0.9); }
  const seer = engine();
  const session = { inputNames: ["images"], outputNames: ["boxes"], run: async () => ({ boxes: new Points() }), release: async () => undefined };
  const ort = { ...seer, InferenceSession: { create: async () => session } } as edgekit.OrtModule;
  const detector = await EdgeModel.open(inMemory(files()), { ort: found, device: "wasm" });
  const poses = await EdgeModel.open(inMemory(pose), { ort, device: "wasm" });
  const both = new edgekit.TopDown(detector, poses, { classes: ["cat"] });
  const picture = { data: new Uint8Array(32 * 32 * 4), width: 32, height: 32 };
  const one = await both.run(picture);
  assert.equal(one.kind, "poses");
  assert.equal(one.length, 1);
  const [x1, y1, x2, y2] = one.boxes;
  const [x, y] = one.keypoints;
  assert.ok(Math.abs(x! - (x1! + x2!) / 2) < 0.01 && Math.abs(y! - (y1! + y2!) / 2) < 0.01, "the middle of the input is the middle of the box");
  assert.ok(Math.abs(one.keypoints[3]! - ((x1! + x2!) / 2 + 0.625 * Math.max(x2! - x1!, y2! - y1!))) < 0.01, "its corner that of the part");
  assert.ok(Math.abs(one.scores[0]! - 0.95 / (1 + Math.exp(-2))) < 1e-5);
  assert.ok(one.timings.inference >= 0 && one.timings.post >= 0);
  assert.equal((await new edgekit.TopDown(detector, poses, { classes: ["dog"] }).run(picture)).length, 0);
  const frames = async function* () { for (let i = 0; i < 3; i++) yield { source: picture, time: i / 30 }; };
  for await (const seen of both.stream(frames(), { tracker: new edgekit.ByteTrack() })) assert.deepEqual([seen.kind, ...seen.trackIds!], ["poses", 1]);
  assert.throws(() => new edgekit.TopDown(detector, detector), /one of poses, not of the task 'detect'/);
  assert.throws(() => new edgekit.TopDown(poses, poses), /must find boxes, not be one of the task 'pose'/);
  assert.throws(() => new edgekit.TopDown(detector, poses, { classes: ["cow"] }), /knows no class 'cow'; it knows cat, dog/);
  assert.throws(() => new edgekit.TopDown(detector, poses, { margin: 0.5 }), /margin must be at least 1, not 0.5/);
  await poses.dispose();
  await assert.rejects(both.run(picture), /closed/);
  await detector.dispose();
});
