// The entry module of the Worker: loads agent.toml into a global, then exports the compiled node, which reads it at the
// first request. The configuration is a module of its own, so that changing it needs a deployment but no compiler.
import config from "./agent.toml";

globalThis.OUTLIVE_CONFIG = config;

export * from "./build/index.js";
export { default } from "./build/index.js";
