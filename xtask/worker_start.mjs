// Measures how long a fresh workerd takes from the start of its process to its first answer, a chat completion: with
// the built Worker, and with an empty one. Usage: node worker_start.mjs NODE_MODULES BUILD ENTRY STARTS
//
// Prints the median of the Worker and the median of what it adds to the empty one, in milliseconds. The two take turns,
// so that the machine's drift affects both alike.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const [nodeModules, build, entry, starts] = process.argv.slice(2);
const workerd = createRequire(join(nodeModules, "x"))("workerd").default;

// The demo answers, since no provider is configured. The key is "bench-0123456789".
const CONFIG = `[[key]]
name = "bench"
sha256 = "53bce7d0bec8cf1325ade9685106837fb20377112ea7deb6399fa49e891b5c59"
scopes = ["inference"]
`;
const BODY = JSON.stringify({ model: "default", messages: [{ role: "user", content: "Hello" }] });
const REQUEST = [
  "POST /v1/chat/completions HTTP/1.1",
  "host: localhost",
  "authorization: Bearer bench-0123456789",
  "content-type: application/json",
  `content-length: ${BODY.length}`,
  "",
  BODY,
].join("\r\n");

/** A project of workerd with one service. `modules` and `more` are fields in Cap'n Proto's text format. */
const project = (modules, more) => `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "worker", worker = (compatibilityDate = "2026-05-03", modules = [${modules}], ${more}))],
  sockets = [(name = "http", address = "*:0", http = (), service = "worker")],
);`;
const EMPTY = project(
  `(name = "entry.mjs", esModule = "export default { fetch() { return new Response('ok'); } }")`,
  "",
);
const NODE = project(
  `(name = "entry.mjs", esModule = embed "entry.mjs"), (name = "agent.toml", text = embed "agent.toml"),
   (name = "build/index.js", esModule = embed "build/index.js"),
   (name = "build/index_bg.wasm", wasm = embed "build/index_bg.wasm")`,
  `durableObjectStorage = (inMemory = void),
   durableObjectNamespaces = [(className = "Log", uniqueKey = "log"), (className = "Index", uniqueKey = "index")],
   bindings = [(name = "LOGS", durableObjectNamespace = "Log"), (name = "INDEX", durableObjectNamespace = "Index")]`,
);

const directory = mkdtempSync(join(tmpdir(), "worker-start-"));
try {
  writeFileSync(join(directory, "empty.capnp"), EMPTY);
  writeFileSync(join(directory, "node.capnp"), NODE);
  writeFileSync(join(directory, "agent.toml"), CONFIG);
  cpSync(entry, join(directory, "entry.mjs"));
  for (const file of ["index.js", "index_bg.wasm"]) cpSync(join(build, file), join(directory, "build", file));
  const [node, added] = [[], []];
  for (let start = 0; start < Number(starts); start++) {
    const empty = await firstAnswer("empty.capnp");
    node.push(await firstAnswer("node.capnp"));
    added.push(node.at(-1) - empty);
  }
  console.log(`${median(node)} ${median(added)}`);
} finally {
  rmSync(directory, { recursive: true });
}

async function firstAnswer(file) {
  const port = await freePort();
  const start = performance.now();
  const arguments_ = ["serve", file, `--socket-addr=http=127.0.0.1:${port}`];
  const child = spawn(workerd, arguments_, { cwd: directory, env: {}, stdio: "ignore" });
  try {
    for (;;) {
      const answer = await exchange(port).catch(() => null);
      if (answer?.startsWith("HTTP/1.1 200 ")) return performance.now() - start;
      if (answer) throw new Error(`the first answer: ${answer}`);
      if (child.exitCode !== null) throw new Error(`workerd ended with ${child.exitCode}`);
      await sleep(1);
    }
  } finally {
    child.kill("SIGKILL");
    if (child.exitCode === null) await once(child, "exit");
  }
}

/** Sends the request and returns the head of the answer; fails while workerd does not listen. */
async function exchange(port) {
  const socket = connect(port, "127.0.0.1");
  await once(socket, "connect");
  socket.write(REQUEST);
  const [head] = await once(socket, "data");
  socket.destroy();
  return head.toString();
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  return port;
}

function median(values) {
  return values.sort((a, b) => a - b)[Math.floor(values.length / 2)].toFixed(1);
}
