// A host with a bridge of pods on paper, and rules from text, for tests of the walker. Pure.

import { parseSave, type Ruleset } from "../../../dataplane/iptables/index.js";
import type { Host } from "../../../dataplane/trace/index.js";

export const NODE = "192.168.56.11";
export const POD = "10.244.1.7";
export const HOST: Host = {
  addresses: [
    { ip: "127.0.0.1", prefix: 8, device: "lo", scope: "host" },
    { ip: NODE, prefix: 24, device: "eth0", scope: "global" },
    { ip: "10.244.1.1", prefix: 24, device: "cni0", scope: "global" },
    { ip: "10.244.1.0", prefix: 32, device: "flannel.1", scope: "global" },
    { ip: "fd56::11", prefix: 64, device: "eth0", scope: "global" },
  ],
  routes: [
    { to: "0.0.0.0/0", device: "eth0", via: "192.168.56.1" },
    { to: "192.168.56.0/24", device: "eth0", src: NODE },
    { to: "10.244.1.0/24", device: "cni0" },
    { to: "10.244.2.0/24", device: "flannel.1", via: "10.244.2.0" },
    { to: "10.9.0.0/16", device: "", type: "blackhole" },
    { to: "fd56::/64", device: "eth0" },
  ],
  forwarding: true,
  routeLocalnet: false,
};

/** Rules from lines as iptables-save prints them. */
export function rules(...lines: string[]): Ruleset {
  return parseSave(`${lines.join("\n")}\n`);
}
