// Runs a built Worker on workerd until SIGTERM; builds nothing. Usage: node workerd.mjs NODE_MODULES PROJECT STATE PORT
//
// wrangler reads the project's settings and Miniflare runs them, as in `wrangler dev`, but with another proxy in front.
// wrangler's own repeats failed requests, and answers 503 for a Worker that responds before it has read the body.
import { createRequire } from "node:module";
import { join } from "node:path";

const [nodeModules, project, state, port] = process.argv.slice(2);
const require = createRequire(join(nodeModules, "x"));
const { Log, LogLevel, Miniflare } = require("miniflare");
const { unstable_getMiniflareWorkerOptions: readOptions } = require("wrangler");

// Stands for Cloudflare's edge, which reads a request's body whether or not the Worker does. workerd alone would close
// the connection that the client's next request uses.
const edge = {
  name: "edge",
  modules: true,
  script: `export default {
    async fetch(request, { node }) {
      const hasNoBody = !request.body || ["GET", "HEAD"].includes(request.method);
      return hasNoBody ? node.fetch(request) : node.fetch(request, { body: await request.arrayBuffer() });
    },
    async scheduled({ cron, scheduledTime }, { node }) {
      await node.scheduled({ cron, scheduledTime: new Date(scheduledTime) });
    },
  }`,
  serviceBindings: { node: "node" },
  compatibilityDate: "2026-05-03",
  compatibilityFlags: ["service_binding_extra_handlers"],
};

const { workerOptions, main } = readOptions(join(project, "wrangler.json"));
const node = {
  ...workerOptions,
  name: "node",
  modules: true,
  modulesRoot: project,
  modulesRules: [{ type: "ESModule", include: ["**/*.js", "**/*.mjs"] }, ...workerOptions.modulesRules],
  scriptPath: main,
};

const miniflare = new Miniflare({
  workers: [edge, node],
  host: "127.0.0.1",
  port: Number(port),
  defaultPersistRoot: state,
  cf: false,
  log: new Log(LogLevel.WARN),
  unsafeTriggerHandlers: true,
  handleRuntimeStdio: (...streams) => streams.forEach((stream) => stream.pipe(process.stderr)),
});
process.on("SIGTERM", () => miniflare.dispose().then(() => process.exit()));
await miniflare.ready;
