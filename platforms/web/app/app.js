// A page around one bundle: a camera or a picture in, what the model finds over it, and records for edgekit.

import { ByteTrack, EdgeModel, hasBoxes, openCamera } from "@edgekit/runtime";
import { draw, lines, sentence } from "./draw.js";
import { at, clearProblem, complain as tell, frame, introduce, paint, pictureIn, receive, say } from "./page.js";
import { benchmark, save } from "./records.js";

const [video, picture, overlay] = ["video", "picture", "overlay"].map(at);

/** "auto", unless the address says otherwise: ?device=wasm. */
const device = new URLSearchParams(location.search).get("device") ?? "auto";

/** Frames whose median is shown. */
const FRAMES = 60;
/** Objects that are listed; all are drawn. */
const LISTED = 12;

let model;
let example;
/** Stops the camera; null where none runs. */
let running = null;
let facing = "environment";
/** What was seen last: a picture's pixels, so that other settings can be tried on it. */
let seen = null;
/** One at a time: the model runs one frame after the other. */
let work = Promise.resolve();

// The model

async function open() {
  const opened = await EdgeModel.open("bundle/", { device });
  await opened.run(noise()); // the first call of a model takes longer than the others
  model = opened;
  const { manifest, placement } = model;
  const { contract } = manifest;
  introduce(manifest, contract.task);
  at("device").textContent = `${placement.device === "webgpu" ? "WebGPU" : "WebAssembly"}, ${placement.engine}`;
  at("device").title = placement.reason;
  const boxes = ["detect", "pose", "segment", "obb"].includes(contract.task);
  at("settings").hidden = !boxes;
  const least = contract.postprocess.score_threshold;
  at("score").value = String(least);
  at("score-text").value = Number(at("score").value).toFixed(2);
  example = manifest.files.find(({ path }) => /^golden\/.*\.png$/.test(path))?.path;
  at("example").hidden = !example;
  at("selfcheck").title = example ? "" : "This bundle has no golden frames: convert the model again with --data";
  for (const id of ["camera", "choose", "example", "benchmark"]) at(id).disabled = false;
  at("selfcheck").disabled = !example;
  say("Ready.");
}

/** While one thing is done the others wait. The buttons stay where they are for the keyboard: a disabled one loses it. */
let busy = false;

function setBusy(on) {
  busy = on;
  for (const id of ["choose", "example", "selfcheck", "benchmark"]) at(id).setAttribute("aria-disabled", String(on));
}

/** Do something with the model alone: a camera that runs is stopped before. */
function alone(what) {
  if (busy) return;
  stopCamera();
  setBusy(true);
  clearProblem();
  work = work.then(what).catch(complain).finally(() => setBusy(false));
}

// What is looked at

const score = () => Number(at("score").value);
const trackable = () => !at("settings").hidden;

/** Run the model on a picture of any size, and show both. */
async function look(image) {
  const result = await model.run(image, trackable() ? { thresholds: { score: score() } } : {});
  seen = image;
  const [width, height] = result.size;
  paint(image, width, height);
  video.hidden = true;
  times = [];
  show(result);
  say(sentence(result, shown(result)));
}

const lookAtFile = async (file) => look(await pictureIn(file));

async function lookAtExample() {
  const answer = await fetch(`bundle/${example}`);
  await lookAtFile(await answer.blob());
}

function watch() {
  clearProblem();
  stopCamera();
  const stop = (running = new AbortController());
  at("camera").textContent = "Stop camera";
  const mirrored = facing === "user";
  video.classList.toggle("mirrored", mirrored);
  say("Waiting for the camera.");
  work = work.then(async () => {
    if (stop.signal.aborted) return;
    try {
      await openCamera(video, { facingMode: facing, width: { ideal: 640 }, height: { ideal: 480 } }, stop.signal);
      at("flip").hidden = false;
      picture.hidden = true;
      video.hidden = false;
      seen = null;
      times = [];
      const dropped = model.dropped;
      const settings = {};
      // A tracker needs the unsure ones, too; what is below the least score is not drawn.
      if (trackable() && at("tracking").checked) settings.tracker = new ByteTrack(Object.fromEntries(model.manifest.contract.tracker_options ?? []));
      else if (trackable()) settings.thresholds = { get score() { return score(); } }; // the slider's, as it is moved
      let told = 0;
      for await (const result of model.stream(video, { ...settings, mirrored, signal: stop.signal })) {
        show(result);
        at("dropped").textContent = String(model.dropped - dropped);
        if (performance.now() - told > 2000) {
          told = performance.now();
          say(sentence(result, shown(result)));
        }
      }
    } catch (error) {
      if (!stop.signal.aborted) complain(error);
    } finally {
      if (running === stop) stopCamera();
    }
  });
}

function stopCamera() {
  if (!running) return;
  running.abort();
  running = null;
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  at("camera").textContent = "Start camera";
  at("flip").hidden = true;
  say("The camera is off.");
}

// What is shown

/** Rows of the objects that are sure enough. */
const shown = (result) => (hasBoxes(result) ? Array.from(result.scores.keys()).filter((row) => result.scores[row] >= score()) : []);

let times = [];
/** What is drawn. */
let last = null;

function show(result) {
  const [width, height] = result.size;
  frame(width, height);
  overlay.hidden = false;
  last = result;
  const rows = shown(result);
  draw(overlay, result, rows);
  list(lines(result, rows));
  speed(result.timings);
}

function list(found) {
  const items = found.slice(0, LISTED).map(({ colour, name, figure }) => {
    const item = document.createElement("li");
    const [dot, text, value] = ["i", "span", "b"].map((kind) => document.createElement(kind));
    dot.style.background = colour;
    text.textContent = name;
    value.textContent = figure;
    item.append(dot, text, value);
    return item;
  });
  if (found.length > LISTED || !found.length) {
    items.push(Object.assign(document.createElement("li"), { className: "none", textContent: found.length ? `and ${found.length - LISTED} more` : "Nothing" }));
  }
  at("found").replaceChildren(...items);
}

function speed(timings) {
  times = [...times.slice(1 - FRAMES), { ...timings, at: performance.now() }];
  for (const stageName of ["pre", "inference", "post"]) at(stageName).textContent = `${median(times.map((one) => one[stageName])).toFixed(1)} ms`;
  const span = times.at(-1).at - times[0].at;
  at("rate").textContent = times.length > 2 && running ? ((1000 * (times.length - 1)) / span).toFixed(1) : "–";
  if (!running) at("dropped").textContent = "–";
}

const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];

const complain = (error) => tell(error, model);

// Records

function offer(name, record, command) {
  save(at("save"), name, record);
  at("command").textContent = command;
  at("record").hidden = false;
}

function prove(text, good) {
  at("proof").textContent = text;
  at("proof").className = good === undefined ? "" : good ? "good" : "bad";
}

async function check() {
  at("record").hidden = true;
  prove("Replaying the golden frames.");
  const record = await model.selfCheck();
  const than = record.compared === "bundle" ? "what it found when it was converted" : "what its source found";
  prove(
    record.agreed
      ? `All ${record.frames} golden frames agree with ${than}.`
      : `The golden frames do not agree with ${than}: ${record.differences.slice(0, 3).join("; ")}.`,
    record.agreed,
  );
  const file = `${model.manifest.name}-selfcheck.json`;
  offer(file, record, `edgekit evidence add BUNDLE ${file}`);
}

async function measure() {
  at("record").hidden = true;
  const frame = seen ?? (example ? await createImageBitmap(await (await fetch(`bundle/${example}`)).blob()) : noise());
  // Every round opens the model anew: what the page had of it makes room.
  await model.dispose();
  const { record, fresh } = await benchmark(model, frame, (text) => prove(text));
  model = fresh;
  const all = record.rounds.flatMap(({ total }) => total.slice(1));
  prove(`${all.length} calls in ${record.rounds.length} rounds: ${median(all).toFixed(1)} ms from picture to result (median), ${(1000 / median(all)).toFixed(0)} a second.`, true);
  const file = `${model.manifest.name}-benchmark.json`;
  offer(file, record, `edgekit profile import ${file}`);
}

/** A picture of nothing, for models without golden frames and before anything was shown. */
function noise() {
  const pixels = new ImageData(640, 480);
  for (let i = 0; i < pixels.data.length; i++) pixels.data[i] = (i * 2654435761) >>> 24;
  return pixels;
}

// Controls

at("camera").onclick = () => (running ? stopCamera() : busy || watch());
at("flip").onclick = () => {
  facing = facing === "user" ? "environment" : "user";
  at("flip").textContent = facing === "user" ? "Use back camera" : "Use front camera";
  watch();
};
at("choose").onclick = () => at("file").click();
at("example").onclick = () => alone(lookAtExample);
at("selfcheck").onclick = () => alone(check);
at("benchmark").onclick = () => alone(measure);
at("score").oninput = () => {
  at("score-text").value = score().toFixed(2);
  if (seen && !running) work = work.then(() => look(seen).catch(complain));
};
at("tracking").onchange = () => running && watch();

addEventListener("resize", () => last && draw(overlay, last, shown(last)));
receive((file) => model && alone(() => lookAtFile(file)));

open().catch(complain);
