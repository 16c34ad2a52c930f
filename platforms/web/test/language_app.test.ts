/** The page that `edgekit app web` writes for a BLIP-2, in headless Chromium. See tests/test_platform_web.py. */

import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import type { Browser, Page } from "playwright-core";
import { launch, PATIENCE, serve, type Server, skip } from "./chromium.js";

/** A folder with the app `opt`, the app `retrieval`, and `expected.json`: a picture, what Python says of it, and a question with its answer. */
const FOLDER = process.env["EDGEKIT_WEB_LANGUAGE_APPS"];
const without = skip || (FOLDER ? false : "EDGEKIT_WEB_LANGUAGE_APPS names no folder of apps");

let server: Server;
let browser: Browser;
let expected: { picture: string; caption: string; question: string; answer: string };

before(async () => {
  if (without) return;
  expected = JSON.parse(readFileSync(path.join(FOLDER!, "expected.json"), "utf8"));
  server = await serve({ "/opt/": path.join(FOLDER!, "opt"), "/retrieval/": path.join(FOLDER!, "retrieval") });
  browser = await launch();
  mkdirSync(path.join(FOLDER!, "made"), { recursive: true });
});

after(async () => {
  await browser?.close();
  server?.close();
});

async function inPage(app: string, work: (page: Page) => Promise<void>): Promise<void> {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
  try {
    context.setDefaultTimeout(PATIENCE);
    const page = await context.newPage();
    const complaints: string[] = [];
    page.on("pageerror", (error) => complaints.push(error.message));
    page.on("request", (request) => {
      if (!/^(blob:|data:)/.test(request.url()) && !request.url().startsWith(server.address)) complaints.push(`asks for ${request.url()}`);
    });
    await page.goto(`${server.address}${app}/`);
    await page.getByText("Ready. Choose a picture.").waitFor();
    await work(page);
    assert.deepEqual(complaints, []);
  } finally {
    await context.close();
  }
}

const said = (page: Page): Promise<string | null> => page.locator("#answer").textContent();

test("a caption, an answer by keyboard, on a desk and a phone, light and dark", { skip: without }, async () => {
  await inPage("opt", async (page) => {
    await page.locator("#question").fill("what?");
    await page.keyboard.press("Enter");
    await page.getByRole("alert").getByText("This picture cannot be used").waitFor();
    await page.locator("#file").setInputFiles(expected.picture);
    await page.getByText("Described.", { exact: true }).waitFor();
    assert.equal(await said(page), expected.caption);
    await page.getByRole("textbox", { name: "What do you want to know of the picture?" }).fill(expected.question);
    await page.keyboard.press("Enter");
    await page.getByText("Answered.", { exact: true }).waitFor();
    assert.equal(await said(page), expected.answer);
    assert.match((await page.locator("#total").textContent())!, /^\d+ ms$|^\d+\.\d s$/);
    for (const [form, viewport] of [["desk", { width: 1280, height: 900 }], ["phone", { width: 390, height: 844 }]] as const) {
      await page.setViewportSize(viewport);
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${form}: cut off at the side`);
      for (const colorScheme of ["light", "dark"] as const) {
        await page.emulateMedia({ colorScheme });
        await page.screenshot({ path: path.join(FOLDER!, "made", `opt-${form}-${colorScheme}.png`), fullPage: true });
      }
    }
    await page.locator("#file").setInputFiles({ name: "notes.png", mimeType: "image/png", buffer: Buffer.from("not a picture") });
    await page.getByRole("alert").getByText(/notes.png is not a picture that the browser can read/).waitFor();
  });
});

test("a retrieval bundle compares a text with the picture", { skip: without }, async () => {
  await inPage("retrieval", async (page) => {
    await page.locator("#file").setInputFiles(expected.picture);
    await page.getByText("Write a text to compare the picture with.").waitFor();
    await page.getByRole("textbox", { name: "A text that may fit the picture" }).fill("a red circle");
    await page.getByRole("button", { name: "Compare" }).click();
    await page.getByText("Compared.").waitFor();
    assert.match((await said(page))!, /^\d+ % that it fits \(similarity -?\d\.\d\d\)$/);
    await page.screenshot({ path: path.join(FOLDER!, "made", "retrieval-desk.png"), fullPage: true });
  });
});
