// Runs a Worker on workerd: node workerd.mjs NODE_MODULES PROJECT STATE PORT
//
// wrangler reads the project's settings and Miniflare runs them, as in `wrangler dev`, but with another front. wrangler's
// own repeats requests that fail, and answers 503 in place of a Worker that has answered before it read the body.
import { createRequire } from "node:module";
import { join } from "node:path";

const [packages, project, state, port] = process.argv.slice(2);
const require = createRequire(join(packages, "x"));
const { Log, LogLevel, Miniflare } = require("miniflare");
const { unstable_getMiniflareWorkerOptions: read } = require("wrangler");

// Cloudflare's edge takes a request's body off the connection whether or not the Worker reads it. workerd alone would cut
// the connection under the client's next request.
const edge = {
  name: "edge",
  modules: true,
  script: `export default {
    async fetch(request, { node }) {
      const bodiless = !request.body || ["GET", "HEAD"].includes(request.method);
      return bodiless ? node.fetch(request) : node.fetch(request, { body: await request.arrayBuffer() });
    },
    async scheduled({ cron, scheduledTime }, { node }) {
      await node.scheduled({ cron, scheduledTime: new Date(scheduledTime) });
    },
  }`,
  serviceBindings: { node: "node" },
  compatibilityDate: "2026-05-03",
  compatibilityFlags: ["service_binding_extra_handlers"],
};

const { workerOptions, main } = read(join(project, "wrangler.json"));
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
