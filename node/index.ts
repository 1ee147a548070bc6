// The node agent: kubelet, service proxy, overlay and pod network of one host.

export { startNodeAgent } from "./agent.js";
export type { ImageSpec } from "./images/index.js";
export { knownImages } from "./images/index.js";
export type { NodeAgent, NodeAgentOptions } from "./options.js";
export { startReaper } from "./reaper.js";
