// What the pages of all kinds of bundles share: the frame of the picture, files that are chosen or dropped, and what is said.

import { BundleError, EdgekitError, EngineError, InputError } from "@edgekit/runtime";

export const at = (id) => document.getElementById(id);
const [picture, stage] = ["picture", "stage"].map(at);

/** Name the opened model in the head of the page. */
export function introduce({ name, precision, contract, evidence }, purpose) {
  document.title = `${name} – edgekit`;
  at("name").textContent = name;
  const [height, width] = contract.image.size;
  at("about").textContent = [purpose, precision, `${width}×${height}`, evidence ? `proof: ${evidence.word}` : "no proof"].join(" · ");
}

/** The picture in a file. Throws InputError. */
export async function pictureIn(file) {
  try {
    return await createImageBitmap(file);
  } catch (error) {
    throw new InputError(`${file.name || "this"} is not a picture that the browser can read; choose a PNG, JPEG or WebP file`, { cause: error });
  }
}

export function paint(image, width = image.width, height = image.height) {
  Object.assign(picture, { width, height });
  picture.getContext("2d").drawImage(image, 0, 0);
  picture.hidden = false;
}

/** Give the frame the shape of what it shows. */
export function frame(width, height) {
  stage.classList.remove("empty");
  stage.style.aspectRatio = `${width} / ${height}`;
  // As wide as its height allows, so that nothing is distorted where the height is limited.
  stage.style.maxWidth = `calc(72vh * ${width / height})`;
  at("invitation").hidden = true;
}

/** Hand on every file that is chosen, or dropped on the page. */
export function receive(look) {
  at("file").onchange = () => {
    const [file] = at("file").files;
    at("file").value = "";
    if (file) look(file);
  };
  addEventListener("dragover", (event) => {
    event.preventDefault();
    stage.classList.add("over");
  });
  addEventListener("dragleave", () => stage.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("over");
    const [file] = event.dataTransfer?.files ?? [];
    if (file) look(file);
  });
}

export function say(text) {
  at("status").textContent = text;
}

/** What went wrong in plain words, by the kind of the error; its own words say what to do. */
const TITLES = {
  "no-manifest": "There is no model here",
  "missing-file": "A file of the model is missing",
  "wrong-size": "A file of the model is damaged",
  "hash-differs": "A file of the model is damaged",
  "bad-digest": "The model's description was changed",
  "newer-schema": "This model needs a newer edgekit",
  "unreadable": "The model cannot be read",
};

function titleOf(error) {
  if (error instanceof BundleError) return TITLES[error.kind] ?? "This is not a valid model";
  if (error instanceof InputError) return /camera/.test(error.message) ? "The camera cannot be used" : "This picture cannot be used";
  if (error instanceof EngineError) return "The engine cannot run this model here";
  return error instanceof EdgekitError ? "This does not work" : "Something went wrong";
}

/** Show an error; without a `model` nothing else works. */
export function complain(error, model) {
  at("problem-title").textContent = titleOf(error);
  at("problem-text").textContent = `${error.message}.`.replace(/([.?!])\.$/, "$1");
  at("problem").hidden = false;
  if (!model) {
    at("name").textContent = "No model";
    at("invitation").hidden = true;
  }
  say(model ? "Ready." : "");
  console.warn(error);
}

export function clearProblem() {
  at("problem").hidden = true;
}
