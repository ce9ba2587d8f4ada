// Removes the names of functions from WebAssembly files: `node strip.mjs FILE…`. worker-build keeps them, and wasm-opt
// needs them to put similar functions side by side; in the upload they would be a tenth of its size.
import { readFileSync, writeFileSync } from "node:fs";

for (const file of process.argv.slice(2)) {
  const bytes = readFileSync(file);
  // The header, and then sections: a byte of kind, the length in LEB128, the contents. Kind 0 is custom, with its name.
  const kept = [bytes.subarray(0, 8)];
  for (let at = 8; at < bytes.length; ) {
    let [length, end] = [0, at + 1];
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[end++];
      length += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) break;
    }
    const isNames = bytes[at] === 0 && bytes.toString("latin1", end, end + 5) === "\x04name";
    if (!isNames) kept.push(bytes.subarray(at, end + length));
    at = end + length;
  }
  writeFileSync(file, Buffer.concat(kept));
}
