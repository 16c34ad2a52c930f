/** A bundle: `manifest.json` and the files it names, from a folder on a server or from memory, verified when opened. */

import { BundleError, quoted, reason, StoppedError } from "../errors.js";
import { MANIFEST, type Manifest } from "./manifest.js";
import { decode, sha256 } from "./manifest_file.js";
import { namedFiles } from "./onnx_external.js";

/** The most bytes of a `manifest.json`. */
const MOST = 64 << 20;

/** Where the files of a bundle come from. */
export interface BundleSource {
  /** What it is called in messages. */
  readonly name: string;
  /** The bytes of a file; null where there is none of that name. */
  read(path: string, signal?: AbortSignal): Promise<Uint8Array | null>;
}

/** A bundle's checked manifest and files. */
export interface Bundle {
  readonly manifest: Manifest;
  readonly files: ReadonlyMap<string, Uint8Array>;
}

/** A folder on a web server. */
export function folderAt(address: string | URL): BundleSource {
  const base = typeof document === "undefined" ? undefined : document.baseURI;
  const given = String(address).replace(/\/manifest\.json$/, "/");
  const folder = new URL(given.endsWith("/") ? given : `${given}/`, base);
  return {
    name: folder.href,
    async read(path, signal) {
      const place = new URL(path.split("/").map(encodeURIComponent).join("/"), folder);
      const answer = await fetch(place, signal ? { signal } : {});
      if (answer.status === 404 || answer.status === 410) return null;
      if (!answer.ok) throw new Error(`the server says ${answer.status} ${answer.statusText}`.trim());
      return new Uint8Array(await answer.arrayBuffer());
    },
  };
}

/** Files that are in memory already, by path. */
export function inMemory(files: ReadonlyMap<string, Uint8Array>, name = "bundle"): BundleSource {
  return { name, read: async (path) => files.get(path) ?? null };
}

/**
 * Open a bundle and check all of it: manifest, names, sizes and hashes.
 *
 * Throws BundleError: not there, damaged, altered or too new. StoppedError: `signal` was aborted.
 */
export async function openBundle(source: BundleSource, signal?: AbortSignal): Promise<Bundle> {
  const data = await fetched(source, MANIFEST, signal);
  if (data === null) {
    throw new BundleError("no-manifest", `${source.name}: no bundle there (no ${MANIFEST}); give the folder that edgekit convert wrote`);
  }
  if (data.length > MOST) {
    throw new BundleError("unreadable", `${source.name}: a manifest of ${data.length} bytes, and none has more than ${MOST}; do not use this bundle`);
  }
  const manifest = await decode(data, `${source.name}${MANIFEST}`);
  const listed = new Set(manifest.files.map((file) => file.path));
  const normal = new Set<string>();
  const files = new Map<string, Uint8Array>();
  for (const file of manifest.files) {
    checkName(source.name, file.path, normal);
    const bytes = await fetched(source, file.path, signal);
    if (bytes === null) {
      throw new BundleError("missing-file", `${source.name}${file.path}: missing from the bundle; copy the bundle again`);
    }
    if (bytes.length !== file.bytes) {
      throw new BundleError(
        "wrong-size",
        `${source.name}${file.path}: ${bytes.length} bytes, the manifest says ${file.bytes}; truncated or replaced, copy it again`,
      );
    }
    if ((await sha256(bytes)) !== file.sha256) {
      throw new BundleError(
        "hash-differs",
        `${source.name}${file.path}: its content is not what was written (hash differs); copy the bundle again`,
      );
    }
    files.set(file.path, bytes);
  }
  refuseUnlisted(source.name, files);
  for (const graph of manifest.graphs) {
    for (const file of graph.files) {
      if (!listed.has(file)) {
        throw new BundleError("unguarded", `${source.name}: graph ${quoted(graph.name)} uses ${quoted(file)}, which the manifest does not list`);
      }
    }
  }
  return { manifest, files };
}

/** Refuse a file name that leaves the bundle, or that stands there twice. */
function checkName(name: string, path: string, seen: Set<string>): void {
  const parts = path.split("/").filter((part) => part !== "" && part !== ".");
  if (path.startsWith("/") || parts.includes("..") || /[\\:\0]/.test(path) || !parts.length) {
    throw new BundleError("unsafe-path", `${name}: the file name ${quoted(path)} leaves the bundle; do not use this bundle`);
  }
  const normal = parts.join("/");
  if (seen.has(normal)) {
    throw new BundleError("named-twice", `${name}: the manifest names ${quoted(path)} more than once; do not use this bundle`);
  }
  seen.add(normal);
}

/** Refuse ONNX files that have an engine read what the manifest does not list. */
function refuseUnlisted(name: string, files: ReadonlyMap<string, Uint8Array>): void {
  for (const [path, data] of files) {
    if (!path.toLowerCase().endsWith(".onnx")) continue;
    let others: Set<string>;
    try {
      others = namedFiles(data);
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      throw new BundleError("invalid", `${name}${path}: not a whole ONNX file (${error.message}); convert the model again`, { cause: error });
    }
    const folder = path.slice(0, path.lastIndexOf("/") + 1);
    for (const other of others) {
      if (!files.has(folder + other)) {
        throw new BundleError("unguarded", `${name}${path}: keeps weights in ${quoted(other)}, which the manifest does not list; do not use this bundle`);
      }
    }
  }
}

async function fetched(source: BundleSource, path: string, signal?: AbortSignal): Promise<Uint8Array | null> {
  if (signal?.aborted) throw new StoppedError(`${source.name}: opening was stopped`);
  try {
    return await source.read(path, signal);
  } catch (error) {
    if (signal?.aborted) throw new StoppedError(`${source.name}: opening was stopped`, { cause: error });
    throw new BundleError("unreadable", `${source.name}${path}: cannot be read: ${reason(error)}`, { cause: error });
  }
}
