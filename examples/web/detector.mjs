// Opens an edgekit bundle (manifest.json, model.onnx) in a page with onnxruntime-web and finds what is in an image.
//
//   const detector = await Detector.open("bundle/", "ort/");   // folders on the server
//   const { detections } = await detector.detect(image);       // an <img>, <canvas>, <video> or ImageBitmap
//
// Each detection is { box: [x1, y1, x2, y2] in the image's pixels, score, classId, name }, best first.
// Boxes are decoded as edgekit/runtimes/tasks/decoders/boxes.py does it; this page knows the decoder "anchor_free" (YOLOv8, 11, 26).

export class Detector {
  // bundle: address of the bundle's folder. ort: address of the folder dist/ of the npm package onnxruntime-web.
  static async open(bundle, ort) {
    const manifest = await (await fetch(new URL("manifest.json", absolute(bundle)))).json();
    const { contract, graphs } = manifest;
    if (contract.decoder.name !== "anchor_free") {
      throw new Error(`decoder ${contract.decoder.name}: this page decodes anchor_free only`);
    }
    const engine = (await navigator.gpu?.requestAdapter()) ? "webgpu" : "wasm";
    const runtime = await import(new URL(`ort.${engine}.bundle.min.mjs`, absolute(ort)));
    const file = new URL(graphs[0].files[0], absolute(bundle)).href;
    const session = await runtime.InferenceSession.create(file, { executionProviders: [engine] });
    return new Detector(contract, graphs[0], runtime, session, engine);
  }

  constructor(contract, graph, runtime, session, engine) {
    Object.assign(this, { contract, graph, runtime, session, engine });
    const [height, width] = contract.image.size;
    this.canvas = new OffscreenCanvas(width, height);
    this.pen = this.canvas.getContext("2d", { willReadFrequently: true });
  }

  async detect(image) {
    const map = placement(this.contract.image, image.naturalWidth ?? image.width, image.naturalHeight ?? image.height);
    const input = this.graph.inputs[0];
    const tensor = new this.runtime.Tensor("float32", this.pixels(image, map), input.shape);
    const outputs = await this.session.run({ [input.name]: tensor });
    const kept = suppress(this.candidates(outputs), this.contract.postprocess);
    return { detections: kept.map((found) => this.detection(found, map)), engine: this.engine };
  }

  // The input tensor: the image on the canvas by the contract's rule, planes in its colour order, normalised.
  pixels(image, map) {
    const { size, color, scale, mean, std, pad } = this.contract.image;
    const [height, width] = size;
    this.pen.fillStyle = `rgb(${pad}, ${pad}, ${pad})`;
    this.pen.fillRect(0, 0, width, height);
    this.pen.imageSmoothingQuality = "low"; // bilinear, like the images that the bundle was proven with
    this.pen.drawImage(image, map.left, map.top, map.width, map.height);
    const { data } = this.pen.getImageData(0, 0, width, height);
    const tensor = new Float32Array(3 * width * height);
    const order = color === "rgb" ? [0, 1, 2] : [2, 1, 0];
    order.forEach((source, channel) => {
      const first = channel * width * height;
      for (let i = 0; i < width * height; i++) {
        tensor[first + i] = (data[4 * i + source] * scale - mean[channel]) / std[channel];
      }
    });
    return tensor;
  }

  // Cells whose best class passes the threshold, decoded to boxes in input pixels. Logits are compared, not scores.
  candidates(outputs) {
    const { classes, decoder, postprocess } = this.contract;
    const { strides, reg_max: bins = 16 } = decoder.options;
    const cut = Math.log(postprocess.score_threshold / (1 - postprocess.score_threshold));
    const head = (role, level) => {
      const { name } = this.contract.outputs.find((one) => one.role === role && (one.level ?? 0) === level);
      return outputs[name];
    };
    const found = [];
    strides.forEach((stride, level) => {
      const logits = head("classes", level);
      const reach = head("boxes", level).data;
      const [, , rows, columns] = logits.dims;
      const cells = rows * columns;
      for (let cell = 0; cell < cells; cell++) {
        let classId = 0;
        for (let c = 1; c < classes.length; c++) {
          if (logits.data[c * cells + cell] > logits.data[classId * cells + cell]) classId = c;
        }
        const logit = logits.data[classId * cells + cell];
        if (!(logit > cut)) continue;
        const [left, top, right, bottom] = [0, 1, 2, 3].map((side) => distance(reach, side * bins, bins, cells, cell));
        const x = (cell % columns) + 0.5;
        const y = Math.floor(cell / columns) + 0.5;
        const box = [x - left, y - top, x + right, y + bottom].map((value) => value * stride);
        found.push({ box, score: 1 / (1 + Math.exp(-logit)), classId });
      }
    });
    return found;
  }

  detection({ box, score, classId }, map) {
    const limits = [map.original[0], map.original[1], map.original[0], map.original[1]];
    const offsets = [map.left, map.top, map.left, map.top];
    const scales = [map.width / limits[0], map.height / limits[1], map.width / limits[0], map.height / limits[1]];
    const mapped = box.map((value, i) => Math.min(Math.max((value - offsets[i]) / scales[i], 0), limits[i]));
    return { box: mapped, score, classId, name: this.contract.classes[classId] };
  }
}

// Where the whole image lies on the input, in its pixels: edgekit/runtimes/inputs/images.py.
export function placement(rule, width, height) {
  const [inputHeight, inputWidth] = rule.size;
  let resized = [inputWidth, inputHeight];
  if (rule.resize !== "stretch") {
    const ratios = [inputWidth / width, inputHeight / height];
    const ratio = rule.resize === "letterbox" ? Math.min(...ratios) : Math.max(...ratios) / (rule.crop ?? 1);
    resized = [Math.max(1, rounded(width * ratio)), Math.max(1, rounded(height * ratio))];
    if (rule.resize === "crop") resized = [Math.max(resized[0], inputWidth), Math.max(resized[1], inputHeight)];
  }
  const corner = rule.align === "corner"; // all of the padding right and below
  return {
    left: corner ? 0 : Math.floor((inputWidth - resized[0]) / 2),
    top: corner ? 0 : Math.floor((inputHeight - resized[1]) / 2),
    width: resized[0],
    height: resized[1],
    original: [width, height],
  };
}

// Halves go to the even neighbour, as in Python.
const rounded = (value) => (Math.abs(value % 1) === 0.5 ? 2 * Math.round(value / 2) : Math.round(value));

// One distance in cells: the expectation over the bins' logits, or the value itself where there is one bin.
function distance(values, first, bins, cells, cell) {
  if (bins === 1) return values[first * cells + cell];
  let most = -Infinity;
  for (let bin = 0; bin < bins; bin++) most = Math.max(most, values[(first + bin) * cells + cell]);
  let total = 0;
  let mean = 0;
  for (let bin = 0; bin < bins; bin++) {
    const weight = Math.exp(values[(first + bin) * cells + cell] - most);
    total += weight;
    mean += weight * bin;
  }
  return mean / total;
}

// Greedy NMS, best score first; boxes of different classes do not suppress each other unless the contract says so.
export function suppress(found, { iou_threshold, max_detections, class_agnostic, nms }) {
  const sorted = [...found].sort((a, b) => b.score - a.score);
  if (!nms) return sorted.slice(0, max_detections);
  const kept = [];
  for (const one of sorted) {
    const rivals = kept.filter((other) => class_agnostic || other.classId === one.classId);
    if (rivals.every((other) => overlap(one.box, other.box) <= iou_threshold)) kept.push(one);
  }
  return kept.slice(0, max_detections);
}

function overlap(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  const shared = Math.max(width, 0) * Math.max(height, 0);
  const area = (box) => Math.max(box[2] - box[0], 0) * Math.max(box[3] - box[1], 0);
  const union = area(a) + area(b) - shared;
  return union > 0 ? shared / union : 0;
}

export function draw(canvas, image, detections) {
  canvas.width = image.naturalWidth ?? image.width;
  canvas.height = image.naturalHeight ?? image.height;
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  pen.lineWidth = Math.max(1, canvas.width / 300);
  pen.font = `${Math.max(10, canvas.width / 40)}px sans-serif`;
  for (const { box, score, classId, name } of detections) {
    pen.strokeStyle = pen.fillStyle = `hsl(${(classId * 137) % 360} 90% 45%)`;
    pen.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
    pen.fillText(`${name} ${score.toFixed(2)}`, box[0] + 2, Math.max(box[1] - 3, 10));
  }
}

const absolute = (folder) => new URL(folder.endsWith("/") ? folder : `${folder}/`, document.baseURI);
