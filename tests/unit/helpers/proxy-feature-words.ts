// Words for the features of the service proxy that tests describe: addresses, Services with one port, endpoints here
// and there, and what a feature is.

import { type DetectLocal, localDetector, type RuleContext } from "../../../dataplane/proxy/index.js";
import type { ApiObject } from "../../helpers/proxy-memory.js";
import type { Sender } from "../../helpers/proxy-packets.js";
import { type EndpointWords, type ServiceOptions, service, slice } from "../../helpers/service-objects.js";

export const VIP = "10.96.0.10:80";
export const NODE_PORT = "192.168.56.11:30080";
export const LB = "5.6.7.8:80";
/** Endpoints on this node and on another. */
export const HERE = "10.244.1.10:8080";
export const THERE = "10.244.2.20:8080";
export const BOTH: EndpointWords[] = [
  { ip: "10.244.1.10", node: "node-1" },
  { ip: "10.244.2.20", node: "node-2" },
];

type Row = readonly [from: Sender, to: string, fate: string, seen?: readonly string[]];

export interface Feature {
  name: string;
  /** What a reader of the rules should know. */
  about: string;
  objects: ApiObject[];
  context?: Partial<RuleContext>;
  family?: 6;
  /** Show the chains that every node has, too. */
  whole?: boolean;
  packets: Row[];
}

/** default/web by its ClusterIP. */
export function web(options: ServiceOptions = {}, endpoints: EndpointWords[] = BOTH): ApiObject[] {
  return [
    service("default/web", "10.96.0.10", [{ name: "http", port: 80 }], options),
    slice("default/web", [{ name: "http", port: 8080 }], endpoints),
  ];
}

export const PORT = { name: "http", port: 80, nodePort: 30080 };

/** default/web with a node port, too. */
export function exposed(options: ServiceOptions, endpoints: EndpointWords[] = BOTH): ApiObject[] {
  return [
    service("default/web", "10.96.0.10", [PORT], { type: "NodePort", ...options }),
    slice("default/web", [{ name: "http", port: 8080 }], endpoints),
  ];
}

/** A detect-local mode. */
export function detect(mode: DetectLocal, podCIDRs?: string[]): Partial<RuleContext> {
  return { localDetector: localDetector(mode, 4, podCIDRs) };
}

export const either = `${HERE} | ${THERE}`;
export const eitherMasqueraded = `${HERE} masqueraded | ${THERE} masqueraded`;
export const AWAY: EndpointWords[] = [{ ip: "10.244.2.20", node: "node-2" }];
export const TERMINATING = { ready: false, serving: true, terminating: true };
