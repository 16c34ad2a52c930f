/** What browser.test.ts has done in a page; `globalThis.checks` has it there. */

import * as edgekit from "../src/index.js";
import { kindsOf } from "./cases.js";
import { KINDS, tally, type Tally } from "./golden.js";
import { compared, type Compared, DECODED, SAME } from "./results.js";

/** Of the builds of onnxruntime-web the smallest; plain.html takes the one with WebGPU. */
const ORT = "/node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";

async function golden(): Promise<Record<string, Tally>> {
  const files: string[] = await (await fetch("/golden.json")).json();
  const there = new Set(files);
  const set = {
    files,
    async read(name: string) {
      const answer = there.has(name) ? await fetch(`/golden/${name.split("/").map(encodeURIComponent).join("/")}`) : null;
      return answer && new Uint8Array(await answer.arrayBuffer());
    },
  };
  if (String(kindsOf(set)) !== String(Object.keys(KINDS).sort())) throw new Error(`kinds ${kindsOf(set)}`);
  const tallies: Record<string, Tally> = {};
  for (const kind of kindsOf(set)) tallies[kind] = await tally(set, kind);
  return tallies;
}

/** A picture of a server as each thing that a page may have it as. */
const SOURCES: Record<string, (address: string) => Promise<edgekit.FrameSource>> = {
  async image(address) {
    const image = new Image();
    image.src = address;
    await image.decode();
    return image;
  },
  bitmap: async (address) => createImageBitmap(await (await fetch(address)).blob()),
  async canvas(address) {
    const image = await bitmapAt(address);
    const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
    canvas.getContext("2d")!.drawImage(image, 0, 0);
    return canvas;
  },
  async offscreen(address) {
    const image = await bitmapAt(address);
    const canvas = new OffscreenCanvas(image.width, image.height);
    canvas.getContext("2d")!.drawImage(image, 0, 0);
    return canvas;
  },
  async data(address) {
    const canvas = (await SOURCES["canvas"]!(address)) as HTMLCanvasElement;
    return canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
  },
  async video(address) {
    const video = Object.assign(document.createElement("video"), { muted: true, src: address });
    await new Promise((resolve, reject) => Object.assign(video, { onloadeddata: resolve, onerror: reject }));
    return video;
  },
};

const bitmapAt = async (address: string): Promise<ImageBitmap> => (await SOURCES["bitmap"]!(address)) as ImageBitmap;

/** Pictures of a bundle in each form, beside Python's results; and its golden frames. */
async function results(
  bundle: string, pictures: readonly { address: string; result: unknown }[], forms: readonly string[], options: edgekit.OpenOptions = {}, decoded = false,
): Promise<{ found: (Compared & { form: string })[]; record: edgekit.SelfCheck; placement: edgekit.Placement }> {
  const model = await edgekit.EdgeModel.open(bundle, { ort: ORT, ...options });
  const found = [];
  for (const { address, result } of pictures) {
    for (const form of forms) {
      const source = await SOURCES[form]!(address);
      found.push({ form, ...compared(await model.run(source), result, decoded ? DECODED : SAME) });
    }
  }
  const record = await model.selfCheck();
  await model.dispose();
  return { found, record, placement: model.placement };
}

/** What a call throws: the class and its message. */
async function refusal(work: () => Promise<unknown>): Promise<string> {
  try {
    await work();
  } catch (error) {
    const { name, message, kind } = error as edgekit.BundleError;
    return `${name}${kind ? ` ${kind}` : ""}: ${message}`;
  }
  return "nothing";
}

const opening = (address: string): Promise<string> => refusal(() => edgekit.EdgeModel.open(address, { ort: ORT, device: "wasm" }));

const refusals: Record<string, (address?: string) => Promise<string>> = {
  unloaded: () => refusal(async () => (await detector("/bundle/")).run(document.createElement("video"))),
  camera: () => refusal(() => edgekit.openCamera(document.createElement("video"))),
  async foreign(address) {
    const model = await detector("/bundle/");
    const image = await SOURCES["image"]!(address!);
    return refusal(() => model.run(image));
  },
};

const detector = (address: string): Promise<edgekit.EdgeModel> => edgekit.EdgeModel.open(address, { ort: ORT, device: "wasm" });

/** A stream of the camera: what it found, how many frames it dropped. */
async function camera(bundle: string, expected: unknown, mirrored: boolean): Promise<Record<string, unknown>> {
  const model = await detector(bundle);
  const video = document.createElement("video");
  const stream = await edgekit.openCamera(video, { width: 320, height: 240 });
  const times: number[] = [];
  const ids = new Set<number>();
  const comparisons: Compared[] = [];
  let boxes: number[] = [];
  const tracker = new edgekit.ByteTrack({ new_score: 0.3, high_score: 0.25, lost_seconds: 60 });
  for await (const found of model.stream(video, { mirrored, ...(expected ? {} : { tracker }) })) {
    times.push(found.time!);
    if (expected) comparisons.push(compared(found, expected, DECODED));
    else (found as edgekit.Detections).trackIds!.forEach((id) => ids.add(id));
    boxes = [...(found as edgekit.Detections).boxes];
    if (times.length >= 12) break;
    await new Promise((resolve) => setTimeout(resolve, 100)); // a page that draws slowly: frames come meanwhile
  }
  const size = [video.videoWidth, video.videoHeight];
  for (const track of stream.getTracks()) track.stop();
  const again = await model.run(new ImageData(64, 64)); // it is free when the loop has ended
  await model.dispose();
  return { times, ids: [...ids], comparisons, boxes, dropped: model.dropped, size, again: again.kind };
}

/** A stream whose camera goes away; `ready` is told when results come. */
async function pulled(bundle: string): Promise<string> {
  const model = await detector(bundle);
  const video = document.createElement("video");
  await edgekit.openCamera(video);
  return refusal(async () => {
    for await (const _ of model.stream(video)) document.title = "streaming";
  });
}

Object.assign(globalThis, { checks: { golden, results, opening, refusal: (name: string, address?: string) => refusals[name]!(address), camera, pulled } });
