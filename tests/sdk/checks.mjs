// Counts cases, tells of those that fail, and ends with `N passed, M failed`.

import { createRequire } from "node:module";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";

/** A package of OUTLIVE_NODE_MODULES, or of where Node looks otherwise. */
export function load(name) {
  const modules = process.env.OUTLIVE_NODE_MODULES;
  // The path of a file that need not exist: packages are looked for from its folder.
  return createRequire(modules ? join(modules, "..", "here.js") : import.meta.url)(name);
}

let passed = 0;
let failed = 0;

export function check(what, saw, expected) {
  if (isDeepStrictEqual(saw, expected)) {
    passed += 1;
  } else {
    failed += 1;
    console.log(`FAILED node: ${what}: expected ${JSON.stringify(expected)}; saw ${JSON.stringify(saw)}`);
  }
}

/** Counts an exception that nobody expects as a failure. */
export async function attempt(what, run) {
  try {
    await run();
  } catch (error) {
    check(what, `${error?.constructor?.name}: ${error?.message}`, "no exception");
  }
}

/** Expects an exception of exactly this class, with these fields. */
export async function raises(what, kind, run, fields = {}) {
  try {
    check(what, await run(), kind.name);
  } catch (error) {
    check(what, error?.constructor?.name, kind.name);
    const seen = Object.fromEntries(Object.keys(fields).map((name) => [name, error?.[name]]));
    check(`${what}, fields`, seen, fields);
  }
}

export function end() {
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed || !passed ? 1 : 0);
}
