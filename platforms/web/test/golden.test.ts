/** The golden set in node: every case gives what it says, and no planted error passes. */

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { kindsOf } from "./cases.js";
import { GOLDEN, onDisk } from "./disk.js";
import { KINDS, tally } from "./golden.js";

const files = readdirSync(GOLDEN, { recursive: true, encoding: "utf8" }).map((name) => name.replaceAll(path.sep, "/"));
const golden = { files, read: onDisk(GOLDEN).read };

/** Rows of the table in golden/README.md: kind, cases, and how many of these must fail. */
const stated = [...readFileSync(path.join(GOLDEN, "README.md"), "utf8").matchAll(/^\| (\w+) \| (\d+) \| (\d+) \|$/gm)];

test("every kind of the golden set is read", () => {
  assert.deepEqual(kindsOf(golden), Object.keys(KINDS).sort());
  assert.deepEqual(stated.map(([, kind]) => kind).sort(), kindsOf(golden));
});

for (const [, kind, cases, controls] of stated) {
  test(`golden: ${kind}, ${cases} cases, of which ${controls} must fail`, async () => {
    assert.deepEqual(await tally(golden, kind!), { cases: Number(cases), controls: Number(controls), wrong: [] });
  });
}
