// Files that edgekit reads back: `edgekit evidence add` and `edgekit profile import`.

import { EdgeModel, VERSION } from "@edgekit/runtime";

const ROUNDS = 3;
const MILLISECONDS = 1500;
const CALLS = { least: 10, most: 400 };

/**
 * Time a closed model on one frame: each round opens it anew, warms it up and calls it. All samples are in the record;
 * edgekit finds where the warm-up ends. `fresh` is the model of the last round, open.
 */
export async function benchmark({ manifest, placement }, frame, tell) {
  const rounds = [];
  let fresh;
  for (let round = 0; round < ROUNDS; round++) {
    tell(`Round ${round + 1} of ${ROUNDS}.`);
    await fresh?.dispose();
    const begun = performance.now();
    fresh = await EdgeModel.open("bundle/", { device: placement.device });
    const opened = performance.now();
    await fresh.run(frame);
    const first = performance.now();
    rounds.push({ open: opened - begun, first: first - opened, ...(await calls(fresh, frame, first + MILLISECONDS)) });
  }
  const { contract } = manifest;
  const bytes = manifest.files.filter(({ path }) => !path.startsWith("golden/")).reduce((sum, file) => sum + file.bytes, 0);
  const record = {
    schema: 1,
    kind: "edgekit browser benchmark",
    id: [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join(""),
    time: `${new Date().toISOString().slice(0, 19)}+00:00`,
    edgekit: VERSION,
    engine: placement.engine,
    device: placement.device,
    browser: navigator.userAgent,
    cores: navigator.hardwareConcurrency ?? 1,
    frame: [frame.width, frame.height],
    bundle: {
      name: manifest.name, digest: manifest.digest, target: manifest.target, precision: manifest.precision, engine: manifest.engine,
      task: contract.task, size: contract.image.size, bytes,
      proof: manifest.evidence?.word ?? null, agreement: manifest.evidence?.agreement?.matched ?? null,
    },
    rounds,
  };
  return { record, fresh };
}

async function calls(model, frame, end) {
  const found = { total: [], pre: [], inference: [], post: [] };
  while ((performance.now() < end && found.total.length < CALLS.most) || found.total.length < CALLS.least) {
    const begun = performance.now();
    const { timings } = await model.run(frame);
    found.total.push(performance.now() - begun);
    for (const stage of ["pre", "inference", "post"]) found[stage].push(timings[stage]);
    if (found.total.length % 5 === 0) await new Promise((resolve) => setTimeout(resolve)); // the page lives on
  }
  return found;
}

/** Let a link save a record. */
export function save(link, name, record) {
  if (link.href.startsWith("blob:")) URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([`${JSON.stringify(record, null, 1)}\n`], { type: "application/json" }));
  link.download = name;
  link.textContent = `Save ${name}`;
}
