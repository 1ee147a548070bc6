// Chain names and the numbers of the masquerade mark, as kube-proxy's iptables mode has them.
// Pure; hashes per the test vectors in docs (a chain name tells the service to whoever knows its name).

import { createHash } from "node:crypto";
import type { Endpoint, ServicePort } from "./model.js";

export const KUBE_SERVICES = "KUBE-SERVICES";
export const KUBE_EXTERNAL_SERVICES = "KUBE-EXTERNAL-SERVICES";
export const KUBE_NODEPORTS = "KUBE-NODEPORTS";
export const KUBE_FORWARD = "KUBE-FORWARD";
export const KUBE_PROXY_FIREWALL = "KUBE-PROXY-FIREWALL";
export const KUBE_FIREWALL = "KUBE-FIREWALL";
export const KUBE_POSTROUTING = "KUBE-POSTROUTING";
export const KUBE_MARK_MASQ = "KUBE-MARK-MASQ";
export const KUBE_PROXY_CANARY = "KUBE-PROXY-CANARY";
/** A kubelet's; where it stands, KUBE-FIREWALL is that kubelet's too. */
export const KUBE_KUBELET_CANARY = "KUBE-KUBELET-CANARY";

/** The chains that there are whatever Services there are; port chains are in nat beside them. */
export const TOP_CHAINS = {
  mangle: [KUBE_PROXY_CANARY],
  filter: [
    KUBE_PROXY_CANARY,
    KUBE_SERVICES,
    KUBE_EXTERNAL_SERVICES,
    KUBE_NODEPORTS,
    KUBE_FORWARD,
    KUBE_PROXY_FIREWALL,
    KUBE_FIREWALL,
  ],
  nat: [KUBE_PROXY_CANARY, KUBE_SERVICES, KUBE_NODEPORTS, KUBE_POSTROUTING, KUBE_MARK_MASQ],
} as const;

const BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/** First 16 characters of base32(SHA-256(text)), RFC 4648 alphabet. */
export function chainHash(text: string): string {
  const digest = createHash("sha256").update(text).digest();
  let out = "";
  let bits = 0;
  let held = 0;
  for (const byte of digest.subarray(0, 10)) {
    held = (held << 8) | byte;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      out += BASE32.charAt((held >> bits) & 31);
    }
    held &= (1 << bits) - 1;
  }
  return out;
}

export interface PortChains {
  /** Cluster policy. */
  readonly svc: string;
  /** Local policy. */
  readonly svl: string;
  /** External destinations. */
  readonly ext: string;
  /** Source ranges of the load-balancer addresses. */
  readonly fw: string;
}

export function portChains(port: Pick<ServicePort, "id" | "protocol">): PortChains {
  const hash = chainHash(port.id + port.protocol);
  return {
    svc: `KUBE-SVC-${hash}`,
    svl: `KUBE-SVL-${hash}`,
    ext: `KUBE-EXT-${hash}`,
    fw: `KUBE-FW-${hash}`,
  };
}

export function endpointChain(
  port: Pick<ServicePort, "id" | "protocol">,
  endpoint: Pick<Endpoint, "text">,
): string {
  return `KUBE-SEP-${chainHash(port.id + port.protocol + endpoint.text)}`;
}

/** nfacct objects; the kernel keeps them when the rules go. */
export const PACKET_COUNTERS = {
  invalidDropped: "ct_state_invalid_dropped_pkts",
  localhostAccepted: "localhost_nps_accepted_pkts",
} as const;

/** Chains made per service port: whatever of these is in the kernel and not wanted is stale. */
export function isPortChain(name: string): boolean {
  return /^KUBE-(SVC|SVL|EXT|FW|SEP)-[A-Z2-7]{16}$/.test(name);
}
