/** Files for tests that run in node. */

import { existsSync, readFileSync, statSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import type { BundleSource } from "../src/index.js";

/** The package's folder; the compiled tests lie in build/test. */
export const PACKAGE = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
export const GOLDEN = process.env["EDGEKIT_GOLDEN"] ?? path.resolve(PACKAGE, "../../golden");

/** A folder as a source of files. */
export const onDisk = (folder: string): BundleSource => ({
  name: `${folder}/`,
  async read(name) {
    const file = path.join(folder, name);
    return existsSync(file) && statSync(file).isFile() ? new Uint8Array(readFileSync(file)) : null;
  },
});
