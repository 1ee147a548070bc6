// kube-proxy's iptables mode: what other rooms may use of it.

export { removeProxyRules } from "./apply.js";
export type { ConntrackOptions } from "./conntrack-sysctls.js";
export type { ProxyHealth, ServiceHealthCheck } from "./health.js";
export { createMetrics, type ProxyMetrics } from "./metrics.js";
export type { Endpoint, PortState, Protocol, ServicePort } from "./model.js";
export { chainHash, endpointChain, portChains } from "./names.js";
export { type NodePortAddresses, nodePortAddresses } from "./node-port-addresses.js";
export type { ServiceProxyOptions } from "./options.js";
export { ServiceProxy, type Source } from "./proxy.js";
export { allChains, renderAll } from "./render.js";
export type { RuleContext } from "./rules/context.js";
export { type DetectLocal, type LocalDetector, localDetector } from "./rules/local-detector.js";
export { type NodePlace, type Selection, selectEndpoints } from "./topology.js";
export { type Change, type Changes, ChangeTracker } from "./tracker.js";
