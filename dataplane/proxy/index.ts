// kube-proxy's iptables mode: what other rooms may use of it.

export { createMetrics, type ProxyMetrics } from "./metrics.js";
export type { Endpoint, PortState, Protocol, ServicePort } from "./model.js";
export { chainHash, endpointChain, portChains } from "./names.js";
export { ServiceProxy, type ServiceProxyOptions, type Source } from "./proxy.js";
export { allChains, renderAll } from "./render.js";
export type { RuleContext } from "./rules/context.js";
export { type Selection, selectEndpoints } from "./topology.js";
export { type Change, type Changes, ChangeTracker } from "./tracker.js";
