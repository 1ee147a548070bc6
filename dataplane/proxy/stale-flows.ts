// Which tracked UDP flows must be forgotten, because they would go on sending to a backend that is no more.
// Pure. Only the first packet of a flow meets the rules, and a UDP client may keep its source port for ever.

import type { Flow } from "../kernel/conntrack.js";
import { addressKey } from "./addresses.js";
import { type PortState, serviceAddresses } from "./model.js";
import type { Change } from "./tracker.js";

/** Backends that flows to a destination may have, by `ip:port`; empty: none. */
export interface UdpServices {
  /** `ip:port` of service addresses. */
  readonly destinations: ReadonlyMap<string, ReadonlySet<string>>;
  readonly nodePorts: ReadonlyMap<number, ReadonlySet<string>>;
}

const NONE: ReadonlySet<string> = new Set();

/** An endpoint that serves, even while it terminates, keeps the flows that it has. */
function backends({ endpoints }: PortState): Set<string> {
  return new Set(
    endpoints.filter(({ serving }) => serving).map(({ ip, port }) => `${addressKey(ip)}:${port}`),
  );
}

/**
 * The UDP service ports among the changes. A port that is gone and a port without endpoints are the same thing here:
 * no backend is right. A destination that left one port for another belongs to the other.
 */
export function changedUdpServices(changes: Iterable<Change>): UdpServices {
  const destinations = new Map<string, ReadonlySet<string>>();
  const nodePorts = new Map<number, ReadonlySet<string>>();
  const all = [...changes];
  const add = (state: PortState | undefined, right: ReadonlySet<string>) => {
    if (state?.port.protocol !== "udp") return;
    const { port } = state;
    for (const ip of serviceAddresses(port)) destinations.set(`${addressKey(ip)}:${port.port}`, right);
    if (port.nodePort) nodePorts.set(port.nodePort, right);
  };
  for (const { before } of all) add(before, NONE);
  for (const { now } of all) if (now) add(now, backends(now));
  return { destinations, nodePorts };
}

/** Flows whose backend is not one of their service's. */
export function staleFlows(
  flows: readonly Flow[],
  services: UdpServices,
  nodeAddresses: ReadonlySet<string>,
): Flow[] {
  return flows.filter(({ original, reply }) => {
    const right =
      services.destinations.get(`${original.dst}:${original.dstPort}`) ??
      (nodeAddresses.has(original.dst) ? services.nodePorts.get(original.dstPort) : undefined);
    return right !== undefined && !right.has(`${reply.src}:${reply.srcPort}`);
  });
}
