// Runs the simulation as WebAssembly and prints the hash of each seed's trace; compares nothing. Usage:
// node simulate.mjs MODULE SEED…
import { readFileSync } from "node:fs";

const [file, ...seeds] = process.argv.slice(2);
const module = new WebAssembly.Module(readFileSync(file));
const imports = WebAssembly.Module.imports(module);
if (imports.length > 0) {
  console.error("the simulation imports", imports.map(({ module, name }) => `${module}.${name}`).join(", "));
  process.exit(1);
}
const { simulate } = new WebAssembly.Instance(module).exports;
for (const seed of seeds) {
  console.log(BigInt.asUintN(64, simulate(BigInt.asIntN(64, BigInt(seed)))).toString());
}
