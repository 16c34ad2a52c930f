// A page around one BLIP-2: a picture in, what the model says of it, or how well a text fits.

import { InputError, StoppedError, VisionLanguage } from "@edgekit/runtime";
import { at, clearProblem, complain, frame, introduce, paint, pictureIn, receive, say } from "./page.js";

const CONTROLS = ["choose", "caption", "ask"];

/** WebAssembly, unless the address says otherwise: ?device=webgpu. */
const device = new URLSearchParams(location.search).get("device") ?? "wasm";

let model;
/** The picture that is asked about. */
let image = null;
/** Stops the text that is being written; null while none is. */
let writing = null;

async function open() {
  model = await VisionLanguage.open("bundle/", { device });
  const { manifest, kind } = model;
  const { contract } = manifest;
  introduce(manifest, kind === "retrieval" ? "image-text matching" : "captions and answers");
  at("device").textContent = `${device === "webgpu" ? "WebGPU" : "WebAssembly"}, ${model.engine}`;
  const styles = [...contract.language.prompts.keys()].filter((name) => name !== "ask");
  at("style").replaceChildren(...styles.map((name) => Object.assign(document.createElement("option"), { value: name, textContent: name })));
  at("style").hidden = styles.length < 2;
  if (kind === "retrieval") {
    at("captions").hidden = true;
    at("asking-title").textContent = "Match";
    at("question-label").textContent = "A text that may fit the picture";
    at("ask").textContent = "Compare";
  }
  for (const id of CONTROLS) at(id).disabled = false;
  say("Ready. Choose a picture.");
}

// What is looked at

async function lookAtFile(file) {
  image = await pictureIn(file);
  paint(image);
  frame(image.width, image.height);
  for (const id of ["vision", "first", "total"]) at(id).textContent = "–";
  answer("Nothing yet", "");
  at("answer").className = "none";
  if (model.kind === "generation") await write({ style: at("style").value || undefined });
  else say("Write a text to compare the picture with.");
}

// What is said

/** One text after the other; the buttons stay where they are for the keyboard: a disabled one loses it. */
async function alone(work) {
  if (writing) return;
  writing = new AbortController();
  clearProblem();
  for (const id of CONTROLS) at(id).setAttribute("aria-disabled", "true");
  try {
    await work();
  } catch (error) {
    if (error instanceof StoppedError) say("Stopped.");
    else complain(error, model);
  } finally {
    writing = null;
    at("stop").hidden = true;
    for (const id of CONTROLS) at(id).setAttribute("aria-disabled", "false");
  }
}

/** Write a caption, or an answer where there is a question, piece by piece. */
async function write({ question, style }) {
  needsPicture();
  at("stop").hidden = false;
  answer("", question === undefined ? "" : question);
  say(question === undefined ? "Describing the picture." : "Answering.");
  const begun = performance.now();
  await model.embed(image); // is remembered, and timed by itself
  const seen = performance.now();
  at("vision").textContent = milliseconds(seen - begun);
  let first;
  let text = "";
  for await (const piece of model.stream(image, { ...(question === undefined ? { style } : { question }), signal: writing.signal })) {
    first ??= performance.now();
    text += piece;
    at("answer").textContent = text.trim();
  }
  const end = performance.now();
  if (!text.trim()) answer("The model says nothing.", question ?? "");
  at("first").textContent = milliseconds((first ?? end) - seen);
  at("total").textContent = milliseconds(end - begun);
  say(question === undefined ? "Described." : "Answered.");
}

async function compare(text) {
  needsPicture();
  const begun = performance.now();
  const { probability, similarity } = await model.match(image, text);
  answer(`${(100 * probability).toFixed(0)} % that it fits (similarity ${similarity.toFixed(2)})`, text);
  at("total").textContent = milliseconds(performance.now() - begun);
  say("Compared.");
}

function needsPicture() {
  if (!image) throw new InputError("there is no picture yet; choose one, or drop one on the page");
}

function answer(text, asked) {
  at("answer").className = "";
  at("answer").textContent = text;
  at("asked").textContent = asked;
  at("asked").hidden = !asked;
}

const milliseconds = (value) => (value < 1000 ? `${value.toFixed(0)} ms` : `${(value / 1000).toFixed(1)} s`);

// Controls

at("choose").onclick = () => writing || at("file").click();
at("caption").onclick = () => alone(() => write({ style: at("style").value || undefined }));
at("asking").onsubmit = (event) => {
  event.preventDefault();
  const text = at("question").value.trim();
  if (text && model) alone(() => (model.kind === "retrieval" ? compare(text) : write({ question: text })));
};
at("stop").onclick = () => writing?.abort();

receive((file) => model && alone(() => lookAtFile(file)));

open().catch((error) => complain(error, model));
