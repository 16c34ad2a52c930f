/**
 * `manifest.json`: the structures of `bundle/manifest` as JSON with a digest, checked when read.
 *
 * The digest is a checksum. It tells accidents, and no attack: anyone can compute it anew.
 */

import { BundleError, reason } from "../errors.js";
import { canonical, type Json, parseJson } from "./json.js";
import { type Manifest, manifest, SCHEMA } from "./manifest.js";
import { Invalid, int } from "./schema.js";

/** SHA-256 of bytes, in hexadecimal digits. */
export async function sha256(bytes: Uint8Array): Promise<string> {
  const subtle = globalThis.crypto?.subtle;
  if (!subtle) {
    throw new BundleError("unreadable", "this page has no crypto.subtle to check a bundle with; serve it over HTTPS or from localhost");
  }
  const hash = new Uint8Array(await subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>));
  return [...hash].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** SHA-256 of a manifest's canonical form with its own `digest` left empty. */
export async function digest(document: ReadonlyMap<string, Json>): Promise<string> {
  return sha256(new TextEncoder().encode(canonical(new Map([...document, ["digest", ""]]))));
}

/**
 * Read and check `manifest.json`.
 *
 * Throws BundleError: not JSON, written by a newer edgekit, not valid, or changed after it was written.
 */
export async function decode(data: Uint8Array, origin: string): Promise<Manifest> {
  const document = read(data, origin);
  let found: Manifest;
  try {
    found = manifest.read(document, "");
  } catch (error) {
    if (!(error instanceof Invalid)) throw error;
    throw new BundleError("invalid", `${origin}: the manifest is not valid (${error.message}); convert the model again`);
  }
  if (found.digest !== (await digest(document))) {
    throw new BundleError(
      "bad-digest",
      `${origin}: the manifest was changed after it was written (digest ${found.digest.slice(0, 12) || "empty"} does ` +
        "not fit); restore the original or convert the model again",
    );
  }
  return found;
}

function read(data: Uint8Array, origin: string): Map<string, Json> {
  let document: Json;
  let version: number;
  try {
    document = parseJson(data);
    if (!(document instanceof Map)) throw new Invalid("Expected `object`", "");
    if (!document.has("schema")) throw new Invalid("Object missing required field `schema`", "");
    version = int().read(document.get("schema")!, ".schema");
  } catch (error) {
    throw new BundleError("not-json", `${origin}: not a readable manifest (${reason(error)}); convert the model again`, {
      cause: error,
    });
  }
  if (!(1 <= version && version <= SCHEMA)) {
    throw new BundleError(
      "newer-schema",
      `${origin}: manifest schema ${version}, this @edgekit/runtime reads up to ${SCHEMA}; npm install @edgekit/runtime@latest`,
    );
  }
  return document;
}
