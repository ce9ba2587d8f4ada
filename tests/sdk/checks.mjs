// Counts checks, prints the failed ones, and ends with the line `N passed, M failed`. Knows no API.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { isDeepStrictEqual } from "node:util";

/** Loads a package from OUTLIVE_NODE_MODULES, or from where Node looks by default. */
export function load(name) {
  const modules = process.env.OUTLIVE_NODE_MODULES;
  // A file that need not exist: Node looks for packages from its folder.
  return createRequire(modules ? join(modules, "..", "here.js") : import.meta.url)(name);
}

/** Loads a package that is written in modules only. */
export async function loadModule(name) {
  const modules = process.env.OUTLIVE_NODE_MODULES;
  if (!modules) return import(name);
  const folder = join(modules, name);
  const { exports, module } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
  return import(pathToFileURL(join(folder, exports?.["."]?.import ?? module)));
}

let passed = 0;
let failed = 0;

/** Checks that `actual` equals `expected`. `title` says what is checked. */
export function check(title, actual, expected) {
  if (isDeepStrictEqual(actual, expected)) {
    passed += 1;
  } else {
    failed += 1;
    console.log(`FAILED node: ${title}: expected ${JSON.stringify(expected)}; got ${JSON.stringify(actual)}`);
  }
}

/** Runs `run`, and counts an exception as a failed check. */
export async function attempt(title, run) {
  try {
    await run();
  } catch (error) {
    check(title, `${error?.constructor?.name}: ${error?.message}`, "no exception");
  }
}

/** Checks that `run` throws an exception of exactly this class, with these fields. */
export async function raises(title, kind, run, fields = {}) {
  try {
    check(title, await run(), kind.name);
  } catch (error) {
    check(title, error?.constructor?.name, kind.name);
    const actual = Object.fromEntries(Object.keys(fields).map((name) => [name, error?.[name]]));
    check(`${title}: fields`, actual, fields);
  }
}

/** Prints the counts and exits. Fails also if there was no check. */
export function end() {
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed || !passed ? 1 : 0);
}
