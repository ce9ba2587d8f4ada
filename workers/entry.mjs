// What Cloudflare runs: the configuration, then the code. The configuration is a module of its own, so that a changed
// agent.toml needs a deployment but no compiler. The code reads the global when the first request comes.
import config from "./agent.toml";

globalThis.OUTLIVE_CONFIG = config;

export * from "./build/index.js";
export { default } from "./build/index.js";
