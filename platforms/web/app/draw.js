// What a result looks like over its picture, and in words.

import { topIds } from "@edgekit/runtime";

/** A keypoint of which the model is less sure is not drawn. */
const KEYPOINT = 0.3;

/** The colour of a class: neighbours are far apart on the wheel. */
export const colour = (id, alpha = 1) => `hsl(${(168 + id * 137.508) % 360} 85% 58% / ${alpha})`;

/** Draw a result on a canvas, at the resolution of the screen. `rows` are those of objects that are shown. */
export function draw(canvas, result, rows) {
  const [width, height] = result.size;
  const scale = ((canvas.clientWidth || width) * devicePixelRatio) / width;
  Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale); // from here on in pixels of the frame
  pen.imageSmoothingEnabled = false;
  if (result.kind === "labels") return labels(pen, result);
  if (!("boxes" in result)) return;
  const unit = devicePixelRatio / scale; // a pixel of the page
  pen.lineWidth = 2.5 * unit;
  pen.lineJoin = "round";
  if (result.kind === "instances") for (const row of rows) mask(pen, result.masks[row], colourOf(result, row, 0.5));
  for (const row of rows) {
    pen.strokeStyle = colourOf(result, row);
    pen.stroke(outline(result, row));
    if (result.kind === "poses") skeleton(pen, result, row, unit);
  }
  for (const row of rows) tag(pen, result, row, unit);
}

/** A track keeps its colour, whatever it is taken for. */
export const colourOf = (result, row, alpha) => colour(result.trackIds ? result.trackIds[row] : result.classIds[row], alpha);

/** What is written at an object. */
export function caption(result, row) {
  const name = result.classes[result.classIds[row]] ?? `class ${result.classIds[row]}`;
  return result.trackIds ? `${name} #${result.trackIds[row]}` : name;
}

function outline(result, row) {
  const path = new Path2D();
  if (result.kind !== "oriented") {
    const [x1, y1, x2, y2] = result.boxes.subarray(4 * row, 4 * row + 4);
    path.rect(x1, y1, x2 - x1, y2 - y1);
    return path;
  }
  const [x, y, width, height, angle] = result.oriented.subarray(5 * row, 5 * row + 5);
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  for (const [a, b] of [[-1, -1], [1, -1], [1, 1], [-1, 1]]) {
    path.lineTo(x + (a * cos * width - b * sin * height) / 2, y + (a * sin * width + b * cos * height) / 2);
  }
  path.closePath();
  return path;
}

function skeleton(pen, { keypoints, skeleton: { names, edges } }, row, unit) {
  const points = names.map((_, k) => keypoints.subarray(3 * (row * names.length + k), 3 * (row * names.length + k) + 3));
  const seen = (k) => points[k][2] >= KEYPOINT;
  pen.beginPath();
  for (const [from, to] of edges) {
    if (!seen(from) || !seen(to)) continue;
    pen.moveTo(points[from][0], points[from][1]);
    pen.lineTo(points[to][0], points[to][1]);
  }
  pen.stroke();
  pen.fillStyle = "#fff";
  points.forEach(([x, y], k) => {
    if (!seen(k)) return;
    pen.beginPath();
    pen.arc(x, y, 3.5 * unit, 0, 2 * Math.PI);
    pen.fill();
    pen.stroke();
  });
}

function tag(pen, result, row, unit) {
  const size = 13 * unit;
  pen.font = `600 ${size}px system-ui, sans-serif`;
  const text = `${caption(result, row)} ${result.scores[row].toFixed(2)}`;
  const width = pen.measureText(text).width + size * 0.7;
  const [x, y] = [result.boxes[4 * row], result.boxes[4 * row + 1]];
  const left = Math.max(0, Math.min(x - pen.lineWidth / 2, result.size[0] - width));
  const top = y - size * 1.45 >= 0 ? y - size * 1.45 : y;
  pen.fillStyle = colourOf(result, row);
  pen.fillRect(left, top, width, size * 1.45);
  pen.fillStyle = "#0b0f0d";
  pen.fillText(text, left + size * 0.35, top + size * 1.08);
}

const scratch = document.createElement("canvas");

/** Paint pixels through a scratch canvas, which, unlike putImageData, blends. */
function paint(pen, width, height, left, top, fill) {
  if (!width || !height) return;
  Object.assign(scratch, { width, height });
  const pixels = new ImageData(width, height);
  fill(new Uint32Array(pixels.data.buffer));
  scratch.getContext("2d").putImageData(pixels, 0, 0);
  pen.drawImage(scratch, left, top);
}

/** A CSS colour as the four bytes of a pixel. */
function bytes(css) {
  Object.assign(scratch, { width: 1, height: 1 });
  const pen = scratch.getContext("2d", { willReadFrequently: true });
  pen.fillStyle = css;
  pen.fillRect(0, 0, 1, 1);
  return new Uint32Array(pen.getImageData(0, 0, 1, 1).data.buffer)[0];
}

function mask(pen, { left, top, width, height, data }, css) {
  const pixel = bytes(css);
  paint(pen, width, height, left, top, (pixels) => data.forEach((inside, i) => inside && (pixels[i] = pixel)));
}

/** Classes that are nothing in particular are not painted. */
const NOTHING = /^(_*background_*|void|unlabell?ed)$/i;

function labels(pen, { labels, classes, size: [width, height] }) {
  const palette = classes.map((name, id) => (NOTHING.test(name) ? 0 : bytes(colour(id, 0.6))));
  paint(pen, width, height, 0, 0, (pixels) => labels.forEach((id, i) => (pixels[i] = palette[id])));
}

/** What is found as lines: a colour, a name, a figure. */
export function lines(result, rows) {
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  if (result.kind === "classification") {
    return topIds(result, 5).map((id) => ({ colour: colour(id), name: result.classes[id] ?? `class ${id}`, figure: percent(result.scores[id]) }));
  }
  if (result.kind === "labels") {
    const counts = new Map();
    for (const id of result.labels) counts.set(id, (counts.get(id) ?? 0) + 1);
    return [...counts].sort((a, b) => b[1] - a[1]).map(([id, count]) => ({
      colour: colour(id), name: result.classes[id] ?? `class ${id}`, figure: percent(count / result.labels.length),
    }));
  }
  if (result.kind === "embedding") return [{ colour: colour(0), name: "vector", figure: `${result.vector.length} numbers` }];
  return rows.map((row) => ({ colour: colourOf(result, row), name: caption(result, row), figure: result.scores[row].toFixed(2) }));
}

/** One sentence of what is found, for the status line and screen readers. */
export function sentence(result, rows) {
  if (!("boxes" in result)) {
    const said = lines(result, rows).slice(0, 3).map(({ name, figure }) => `${name} ${figure}`);
    return `Found: ${said.join(", ")}.`;
  }
  if (!rows.length) return "Nothing found: try a lower least score.";
  const counts = new Map();
  for (const row of rows) {
    const name = result.classes[result.classIds[row]] ?? `class ${result.classIds[row]}`;
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  return `${rows.length} found: ${[...counts].map(([name, count]) => `${count} ${name}`).join(", ")}.`;
}
