/** The runtime in headless Chromium: the golden set, and converted bundles with pictures, video and a camera. */

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { type Content, launch, PATIENCE, serve, type Server, skip } from "./chromium.js";
import { GOLDEN, PACKAGE } from "./disk.js";
import type { Tally } from "./golden.js";

const FOLDER = process.env["EDGEKIT_WEB_BUNDLES"];
const without = skip || (FOLDER ? false : "EDGEKIT_WEB_BUNDLES names no folder of bundles");
const entries: any[] = FOLDER ? JSON.parse(readFileSync(path.join(FOLDER, "expected.json"), "utf8")) : [];
const detector = entries.find(({ camera }) => camera);

/** A bundle's files with one byte of the model flipped, or another schema. */
function damaged(bundle: string): Record<string, Content> {
  const model = readFileSync(path.join(bundle, "model.onnx"));
  model[model.length >> 1]! ^= 1;
  const manifest = readFileSync(path.join(bundle, "manifest.json"), "utf8").replace(/"schema":\s*1/, '"schema":9');
  return {
    "/flipped/": bundle, "/flipped/model.onnx": new Uint8Array(model),
    "/newer/": bundle, "/newer/manifest.json": new TextEncoder().encode(manifest),
  };
}

const html = (script: string): Uint8Array =>
  new TextEncoder().encode(`<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>test</title><script type="module">${script}</script>`);

/** As docs/WEB.md says it: no bundler, no import map. */
const PLAIN = `
  import { EdgeModel } from "/dist/index.js";
  const model = await EdgeModel.open("/bundle/", { ort: "/node_modules/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs" });
  const result = await model.run(new ImageData(64, 48));
  document.title = result.kind + " " + result.size;`;

let server: Server;
/** Of another origin. */
let foreign: Server;
let browser: Browser;

before(async () => {
  if (skip) return;
  const files = readdirSync(GOLDEN, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(GOLDEN, path.join(entry.parentPath, entry.name)).replaceAll(path.sep, "/"));
  server = await serve({
    "/": html('import "/build/test/page.js"; document.title = "ready";'),
    "/plain.html": html(PLAIN),
    "/build/": path.join(PACKAGE, "build"),
    "/dist/": path.join(PACKAGE, "dist"),
    "/node_modules/": path.join(PACKAGE, "node_modules"),
    "/golden/": GOLDEN,
    "/golden.json": new TextEncoder().encode(JSON.stringify(files)),
    ...(FOLDER ? { "/files/": FOLDER } : {}),
    ...(detector ? { "/bundle/": detector.bundle, ...damaged(detector.bundle) } : {}),
  });
  foreign = await serve(FOLDER ? { "/files/": FOLDER } : {});
  browser = await launch(detector?.camera.file);
});

after(async () => {
  await browser?.close();
  server?.close();
  foreign?.close();
});

/** A page; what it asks of other servers, or complains of, is noted. */
interface Opened {
  readonly page: Page;
  readonly context: BrowserContext;
  readonly complaints: string[];
}

/** A fresh page, with a camera or without. */
async function opened(camera = true): Promise<Opened> {
  const context = await browser.newContext({ permissions: camera ? ["camera"] : [] });
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  const complaints: string[] = [];
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("request", (request) => {
    const known = ["blob:", "data:", server.address, foreign.address];
    if (!known.some((start) => request.url().startsWith(start))) complaints.push(`asks for ${request.url()}`);
  });
  await page.goto(server.address);
  await page.waitForFunction(() => document.title === "ready");
  return { page, context, complaints };
}

/** Do something in a page of its own. */
async function inPage<T>(work: (page: Page, context: BrowserContext) => Promise<T>, camera = true): Promise<T> {
  const { page, context, complaints } = await opened(camera);
  try {
    const done = await work(page, context);
    assert.deepEqual(complaints, []);
    return done;
  } finally {
    await context.close();
  }
}

let kept: Promise<Opened> | undefined;

/** Do something in the page that is kept: compiling the engine takes longer than most of what is done with it. */
async function inKeptPage<T>(work: (page: Page) => Promise<T>): Promise<T> {
  const { page, complaints } = await (kept ??= opened());
  const done = await work(page);
  assert.deepEqual(complaints, []);
  return done;
}

/** Call one of the checks of page.ts. */
const check = <T>(page: Page, name: string, ...given: unknown[]): Promise<T> =>
  page.evaluate(([name, given]) => (globalThis as any).checks[name as string](...(given as unknown[])), [name, given] as const);

/** The address of a file of the folder of bundles. */
const at = (file: string): string => `/files/${path.relative(FOLDER!, file).split(path.sep).map(encodeURIComponent).join("/")}`;

test("the golden set in the page: all cases pass, all planted errors are found", { skip }, async (t) => {
  const tallies = await inKeptPage((page) => check<Record<string, Tally>>(page, "golden"));
  const stated = [...readFileSync(path.join(GOLDEN, "README.md"), "utf8").matchAll(/^\| (\w+) \| (\d+) \| (\d+) \|$/gm)];
  assert.deepEqual(
    tallies,
    Object.fromEntries(stated.map(([, kind, cases, controls]) => [kind, { cases: Number(cases), controls: Number(controls), wrong: [] }])),
  );
  t.diagnostic(stated.map(([, kind, cases, controls]) => `${kind} ${cases} (${controls} must fail)`).join(", "));
});

for (const { bundle, images } of entries) {
  test(`${path.basename(bundle)} in the page: pictures in every form, and golden frames`, { skip: without }, async () => {
    const pictures = images.slice(0, 3).map(({ image, result }: any) => ({ address: at(image), result }));
    const forms = bundle === detector.bundle ? ["image", "bitmap", "canvas", "offscreen", "data"] : ["bitmap"];
    const { found, record, placement } = await inKeptPage((page) => check<any>(page, "results", `${at(bundle)}/`, pictures, forms));
    assert.deepEqual(found.filter(({ wrong }: any) => wrong.length), []);
    assert.ok(found.length === pictures.length * forms.length && found.some(({ objects }: any) => objects > 0));
    assert.deepEqual([record.agreed, record.differences, record.word], [true, [], "executed"]);
    assert.match(record.machine, /Chrome.*wasm/);
    assert.equal(placement.device, "wasm");
  });
}

test("a video element: what is found is Python's but for the decoder", { skip: without }, async (t) => {
  const { file, result } = detector.video;
  const { found } = await inKeptPage((page) => check<any>(page, "results", "/bundle/", [{ address: at(file), result }], ["video"], {}, true));
  assert.deepEqual(found[0].wrong, []);
  t.diagnostic(`${found[0].objects} objects: boxes within ${found[0].pixels.toFixed(2)} px, scores within ${found[0].scores.toFixed(4)} of Python's`);
});

test("worker: true gives the same, from a worker", { skip: without }, async () => {
  await inPage(async (page) => {
    let workers = 0;
    page.on("worker", () => workers++);
    const pictures = detector.images.slice(0, 2).map(({ image, result }: any) => ({ address: at(image), result }));
    const { found, record } = await check<any>(page, "results", "/bundle/", pictures, ["bitmap"], { worker: true, device: "wasm" });
    assert.deepEqual(found.flatMap(({ wrong }: any) => wrong), []);
    assert.ok(record.agreed && workers > 0, `${workers} workers`);
  });
});

test("a camera: the newest frame, Python's boxes, the rest dropped and counted", { skip: without }, async (t) => {
  const seen = await inKeptPage((page) => check<any>(page, "camera", "/bundle/", detector.camera.result, false));
  assert.deepEqual(seen.size, [320, 240]);
  assert.equal(seen.times.length, 12);
  assert.ok(seen.times.every((time: number, i: number) => i === 0 || time > seen.times[i - 1]));
  assert.ok(seen.dropped >= 12, `${seen.dropped} dropped`);
  assert.deepEqual(seen.comparisons.flatMap(({ wrong }: any) => wrong), []);
  assert.equal(seen.again, "detections");
  const most = (name: string): number => Math.max(...seen.comparisons.map((one: any) => one[name]));
  t.diagnostic(`${seen.dropped} frames dropped; boxes within ${most("pixels").toFixed(2)} px, scores within ${most("scores").toFixed(4)} of Python's`);
});

test("a mirrored camera, tracked: boxes of the mirror image, every object keeps its id", { skip: without }, async () => {
  const { detections } = detector.camera.result;
  const seen = await inKeptPage((page) => check<any>(page, "camera", "/bundle/", null, true));
  assert.ok(seen.ids.length >= 1 && seen.ids.length <= detections.length, `ids ${seen.ids}`);
  const [x1, y1, x2, y2] = detections[0].box;
  const mirrored = [320 - x2, y1, 320 - x1, y2];
  const near = (from: number): boolean => mirrored.every((value, i) => Math.abs(value - seen.boxes[from + i]) < 4);
  assert.ok([...Array(seen.boxes.length / 4).keys()].some((row) => near(4 * row)), `${seen.boxes} without ${mirrored}`);
});

test("a camera that is refused", { skip: without }, async () => {
  assert.match(await inPage((page) => check<string>(page, "refusal", "camera"), false), /^InputError: the camera was refused; allow it/);
});

test("a camera that is pulled", { skip: without }, async () => {
  await inPage(async (page, context) => {
    const refusal = check<string>(page, "pulled", "/bundle/");
    await page.waitForFunction(() => document.title === "streaming");
    await context.clearPermissions();
    assert.match(await refusal, /^InputError: the camera is gone/);
  });
});

test("what is damaged or too new is refused, and so is a frame without pixels", { skip: without }, async () => {
  await inKeptPage(async (page) => {
    assert.match(await check(page, "opening", "/flipped/"), /^BundleError hash-differs: .*model.onnx: its content is not what was written/);
    assert.match(await check(page, "opening", "/newer/"), /^BundleError newer-schema: .*schema 9/);
    assert.match(await check(page, "opening", "/nothing/"), /^BundleError no-manifest: .*no bundle there/);
    assert.match(await check(page, "refusal", "unloaded"), /^InputError: the frame is 0x0: wait until the video plays/);
    assert.match(await check(page, "refusal", "foreign", new URL(at(detector.images[0].image), foreign.address).href), /^InputError: the page may not read this picture/);
  });
});

test("a plain page without a bundler", { skip: without }, async () => {
  await inPage(async (page) => {
    await page.goto(`${server.address}plain.html`);
    await page.waitForFunction(() => document.title !== "test");
    assert.equal(await page.title(), "detections 64,48");
    assert.equal(await page.evaluate(() => crossOriginIsolated), true);
  });
});
