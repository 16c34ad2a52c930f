// The other end of edgekit/emulators/served.py in node: opens one ONNX file with onnxruntime-web and runs it until the
// pipe closes. Standard output carries answers only; everything that is said goes to standard error.
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

console.log = console.info = console.debug = console.warn = console.error;

const arriving = process.stdin[Symbol.asyncIterator]();
let pending = Buffer.alloc(0);

// Not fs.readSync: a worker thread of WebAssembly makes the pipes non-blocking.
async function more() {
  const { value, done } = await arriving.next();
  if (done) process.exit(0); // the parent is gone
  return value;
}

function take(size) {
  const taken = pending.subarray(0, size);
  pending = pending.subarray(size);
  return taken;
}

async function read(size) {
  const parts = [pending];
  for (let held = pending.length; held < size; held += parts.at(-1).length) parts.push(await more());
  pending = Buffer.concat(parts);
  return take(size);
}

async function readLine() {
  while (!pending.includes(10)) pending = Buffer.concat([pending, await more()]);
  return JSON.parse(take(pending.indexOf(10) + 1).toString("utf8"));
}

const write = (bytes) => new Promise((resolve) => process.stdout.write(bytes, resolve));

async function answer(record, ...parts) {
  await write(`${JSON.stringify(record)}\n`);
  for (const part of parts) await write(new Uint8Array(part.buffer, part.byteOffset, part.byteLength));
}

const said = (error) => String(error?.message ?? error).split("\n")[0];
const length = (shape) => shape.reduce((product, size) => product * size, 1);

// Weights beside the ONNX file. In pieces: node reads no more than 2 GiB at once.
function weights(file) {
  const data = new Uint8Array(fs.statSync(file).size);
  const opened = fs.openSync(file);
  for (let at = 0; at < data.length; ) at += fs.readSync(opened, data, at, Math.min(data.length - at, 2 ** 30), at);
  fs.closeSync(opened);
  return data;
}

async function open({ folder, graph, threads, device }) {
  const ort = await import(pathToFileURL(path.join(process.argv[2], "dist", "ort.node.min.mjs")).href);
  if (threads) ort.env.wasm.numThreads = threads;
  const file = fs.readFileSync(path.join(folder, graph.files[0]));
  const externalData = graph.files
    .filter((name) => name.endsWith(".data"))
    .map((name) => ({ path: name, data: weights(path.join(folder, name)) }));
  const session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"], externalData });
  const used = ort.env.wasm.numThreads; // the module refuses to load where WebAssembly has no SIMD
  const arithmetic = `onnxruntime-web ${ort.env.versions.web}: WebAssembly SIMD, ${used} thread${used > 1 ? "s" : ""}`;
  const missing = [...graph.inputs, ...graph.outputs]
    .map((tensor) => tensor.name)
    .filter((name) => ![...session.inputNames, ...session.outputNames].includes(name));
  if (missing.length) throw new Error(`the file has no ${missing.join(", ")}, which its manifest names; convert again`);
  await answer({ device, arithmetic, word: "executed" });
  return { ort, session };
}

const arrays = { float32: Float32Array, int32: Int32Array, int64: BigInt64Array };

async function run({ ort, session }, { graph, network }) {
  const feeds = {};
  // Of a network, a line says what follows.
  for (const { name, shape, dtype = "float32" } of network ? (await readLine()).inputs : graph.inputs) {
    const bytes = await read(arrays[dtype].BYTES_PER_ELEMENT * length(shape));
    feeds[name] = new ort.Tensor(dtype, new arrays[dtype](new Uint8Array(bytes).buffer), shape);
  }
  const found = await session.run(feeds);
  const outputs = graph.outputs.map(({ name }) => found[name]);
  await answer({ shapes: outputs.map((tensor) => tensor.dims) }, ...outputs.map((tensor) => tensor.data));
}

const opening = await readLine();
const file = path.join(opening.folder, opening.graph.files[0]);
const refused = (error) => answer({ error: `${file}: onnxruntime-web cannot open it: ${said(error)}` });
const failed = (error) => answer({ error: `onnxruntime-web failed: ${said(error)}` });
const opened = await open(opening).catch(refused);
while (opened) await run(opened, opening).catch(failed);
process.exit(0);
