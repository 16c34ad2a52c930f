/** The page that `edgekit app web` writes, in headless Chromium. See tests/test_app_web.py. */

import assert from "node:assert/strict";
import { mkdirSync, readFileSync, readdirSync } from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import type { Browser, BrowserContextOptions, Locator, Page } from "playwright-core";
import { type Content, launch, PATIENCE, serve, type Server, skip } from "./chromium.js";

/** A folder of apps, named by their task; detector.y4m is a camera, detector.json what Python finds in its example. */
const FOLDER = process.env["EDGEKIT_WEB_APPS"];
const without = skip || (FOLDER ? false : "EDGEKIT_WEB_APPS names no folder of apps");
const tasks = FOLDER ? readdirSync(FOLDER, { withFileTypes: true }).filter((one) => one.isDirectory()).map(({ name }) => name) : [];

const DESK = { width: 1280, height: 900 };
const PHONE = { width: 390, height: 844 };

let server: Server;
let browser: Browser;

before(async () => {
  if (without) return;
  const at = (task: string, ...rest: string[]): string => path.join(FOLDER!, task, ...rest);
  const model = readFileSync(at("detector", "bundle", "model.onnx"));
  model[model.length >> 1]! ^= 1;
  const manifest = readFileSync(at("detector", "bundle", "manifest.json"), "utf8").replace(/"schema":\s*1/, '"schema":9');
  const contents: Record<string, Content> = {
    ...Object.fromEntries(tasks.map((task) => [`/${task}/`, at(task)])),
    "/flipped/": at("detector"), "/flipped/bundle/model.onnx": new Uint8Array(model),
    "/newer/": at("detector"), "/newer/bundle/manifest.json": new TextEncoder().encode(manifest),
  };
  server = await serve(contents);
  browser = await launch(path.join(FOLDER!, "detector.y4m"));
  mkdirSync(path.join(FOLDER!, "made"), { recursive: true });
});

after(async () => {
  await browser?.close();
  server?.close();
});

/** The page of an app; what it complains of, or asks of others, is an error. */
async function open(app: string, work: (page: Page) => Promise<void>, options: BrowserContextOptions = {}, complains = false): Promise<void> {
  const context = await browser.newContext({ viewport: DESK, permissions: ["camera"], acceptDownloads: true, ...options });
  try {
    context.setDefaultTimeout(PATIENCE);
    const page = await context.newPage();
    const complaints: string[] = [];
    page.on("pageerror", (error) => complaints.push(error.message));
    page.on("console", (message) => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
    page.on("request", (request) => {
      if (!/^(blob:|data:)/.test(request.url()) && !request.url().startsWith(server.address)) complaints.push(`asks for ${request.url()}`);
    });
    await page.goto(`${server.address}${app}/?device=wasm`);
    await work(page);
    if (!complains) assert.deepEqual(complaints, []);
  } finally {
    await context.close();
  }
}

const ready = (page: Page): Promise<void> => page.getByText("Ready.").waitFor();
const button = (page: Page, name: string): Locator => page.getByRole("button", { name, exact: true });
const found = (page: Page): Promise<string[]> => page.locator("#found li:not(.none) span").allTextContents();
const text = async (page: Page, id: string): Promise<string> => (await page.locator(`#${id}`).textContent()) ?? "";

async function picture(page: Page, name: string): Promise<void> {
  await page.screenshot({ path: path.join(FOLDER!, "made", `${name}.png`), fullPage: true });
}

/** Nothing is cut off at the side, and whatever can be pressed has a name and is large enough for a finger. */
async function usable(page: Page): Promise<void> {
  const problems = await page.evaluate(() => {
    const said: string[] = [];
    if (document.documentElement.scrollWidth > innerWidth) said.push(`${document.documentElement.scrollWidth} wide, of ${innerWidth}`);
    for (const one of document.querySelectorAll<HTMLInputElement>("button, input, a, canvas, video")) {
      if (!one.checkVisibility()) continue;
      const name = one.ariaLabel || one.textContent?.trim() || [...(one.labels ?? [])].map((label) => label.textContent).join();
      if (!name) said.push(`${one.id} has no name`);
      if (one.tagName === "BUTTON" && one.getBoundingClientRect().height < 40) said.push(`${one.id} is ${one.getBoundingClientRect().height} high`);
    }
    return said;
  });
  assert.deepEqual(problems, []);
}

for (const task of tasks) {
  test(`${task}: the example of the bundle, on a desk and a phone, light and dark`, { skip: without }, async () => {
    await open(task, async (page) => {
      await ready(page);
      await usable(page);
      await picture(page, `${task}-desk-empty`);
      await button(page, "Show example").click();
      await page.locator("#status", { hasText: /[Ff]ound:/ }).waitFor();
      assert.ok((await found(page)).length > 0);
      assert.match(await text(page, "inference"), /^\d+\.\d ms$/);
      assert.match(await text(page, "device"), /^WebAssembly, onnxruntime-web 1\./);
      for (const [form, viewport] of [["desk", DESK], ["phone", PHONE]] as const) {
        await page.setViewportSize(viewport);
        await usable(page);
        for (const colorScheme of ["light", "dark"] as const) {
          await page.emulateMedia({ colorScheme });
          await picture(page, `${task}-${form}-${colorScheme}`);
        }
      }
    });
  });
}

test("the example's objects are Python's, and the threshold sorts them", { skip: without }, async () => {
  const expected: string[] = JSON.parse(readFileSync(path.join(FOLDER!, "detector.json"), "utf8"));
  await open("detector", async (page) => {
    await ready(page);
    await button(page, "Show example").click();
    await page.locator("#status", { hasText: "found:" }).waitFor();
    assert.deepEqual(await found(page), expected);
    await page.getByRole("slider", { name: /Least score/ }).fill("0.95");
    await page.getByText("Nothing found: try a lower least score.").waitFor();
    assert.deepEqual(await found(page), []);
  });
});

test("a picture by the picker and by drag and drop; a file that is none is refused", { skip: without }, async () => {
  await open("detector", async (page) => {
    await ready(page);
    const file = path.join(FOLDER!, "detector", "bundle", "golden", readdirSync(path.join(FOLDER!, "detector", "bundle", "golden")).find((name) => name.endsWith(".png"))!);
    await page.locator("#file").setInputFiles(file);
    await page.locator("#status", { hasText: "found:" }).waitFor();
    const before = await found(page);
    await page.locator("#file").setInputFiles({ name: "notes.png", mimeType: "image/png", buffer: Buffer.from("not a picture") });
    await page.getByRole("alert").getByText("This picture cannot be used").waitFor();
    assert.match(await text(page, "problem-text"), /notes.png is not a picture that the browser can read; choose/);
    const data = await page.evaluateHandle(async (bytes) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([Uint8Array.from(bytes)], "dropped.png", { type: "image/png" }));
      return transfer;
    }, [...readFileSync(file)]);
    await page.locator("#stage").dispatchEvent("drop", { dataTransfer: data });
    await page.locator("#problem").waitFor({ state: "hidden" });
    await page.locator("#status", { hasText: "found:" }).waitFor();
    assert.deepEqual(await found(page), before);
  }, {}, true);
});

test("the camera: results, tracks, front and back, and off", { skip: without }, async () => {
  await open("detector", async (page) => {
    await ready(page);
    await button(page, "Start camera").click();
    await page.locator("#status", { hasText: "found:" }).waitFor();
    assert.match(await text(page, "dropped"), /^\d+$/);
    assert.equal(await page.locator("#video.mirrored").count(), 0);
    await page.getByRole("checkbox", { name: /Track objects/ }).check();
    await page.locator("#found span", { hasText: /#1/ }).waitFor();
    await picture(page, "detector-desk-camera");
    await button(page, "Use front camera").click();
    await page.locator("#video.mirrored").waitFor();
    await page.locator("#found span", { hasText: /#1/ }).waitFor();
    await picture(page, "detector-desk-front");
    await button(page, "Stop camera").click();
    await page.getByText("The camera is off.").waitFor();
    assert.equal(await page.evaluate(() => document.querySelector("video")!.srcObject), null);
    await button(page, "Show example").click(); // and the model is free
    await page.locator("#status", { hasText: "found:" }).waitFor();
  });
});

test("self-check and benchmark write records, and give the camera's place back", { skip: without }, async () => {
  await open("detector", async (page) => {
    await ready(page);
    for (const [name, said, command] of [
      ["Self-check", /All \d+ golden frames agree with what it found when it was converted/, "edgekit evidence add BUNDLE"],
      ["Benchmark", /\d+ calls in 3 rounds: \d+\.\d ms/, "edgekit profile import"],
    ] as const) {
      await button(page, name).click();
      await page.locator("#proof", { hasText: said }).waitFor();
      assert.ok((await text(page, "command")).startsWith(command));
      const [saved] = await Promise.all([page.waitForEvent("download"), page.getByRole("link", { name: /^Save detector/ }).click()]);
      await saved.saveAs(path.join(FOLDER!, "made", saved.suggestedFilename()));
    }
    await picture(page, "detector-desk-benchmark");
    await button(page, "Show example").click();
    await page.locator("#status", { hasText: "found:" }).waitFor();
  });
});

test("all of it by keyboard", { skip: without }, async () => {
  await open("detector", async (page) => {
    await ready(page);
    const reached: string[] = [];
    for (let last = ""; last !== "Licences"; reached.push(last)) {
      await page.keyboard.press("Tab");
      last = await page.evaluate(() => document.activeElement!.id || document.activeElement!.textContent || "");
      if (last === "score") await page.keyboard.press("ArrowRight");
      if (last === "tracking") await page.keyboard.press("Space");
      if (last === "example") {
        await page.keyboard.press("Enter");
        await page.locator("#status", { hasText: "found:" }).waitFor();
      }
    }
    assert.deepEqual(reached, ["camera", "choose", "example", "score", "tracking", "selfcheck", "benchmark", "Licences"]);
    assert.ok(await page.locator("#tracking").isChecked());
    assert.equal(await text(page, "score-text"), "0.30");
  });
});

test("what goes wrong is said in plain words", { skip: without }, async () => {
  const alert = async (app: string, title: string, words: RegExp, options: BrowserContextOptions = {}, before?: (page: Page) => Promise<void>): Promise<void> =>
    open(app, async (page) => {
      await before?.(page);
      await page.getByRole("alert").getByText(title).waitFor();
      assert.match(await text(page, "problem-text"), words);
      await usable(page);
      await picture(page, `problem-${app}`);
    }, options, true);
  await alert("flipped", "A file of the model is damaged", /model.onnx: its content is not what was written/, { viewport: PHONE });
  await alert("newer", "This model needs a newer edgekit", /schema 9/);
  await alert("detector", "The camera cannot be used", /the camera was refused; allow it for this page/, { permissions: [] }, async (page) => {
    await ready(page);
    await button(page, "Start camera").click();
  });
});
