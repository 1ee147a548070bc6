// What the doctor says of this machine's own firewalls: they concern `kubeplumb node` and `kubeplumb control`, not
// labs, whose hosts have a network of their own. Reads only.

import {
  controlNeeds,
  FilterReader,
  type Filters,
  findPlaces,
  judge,
  mixedVariants,
  nodeNeeds,
} from "../dataplane/firewall/index.js";
import { NetNs } from "../dataplane/kernel/netns.js";
import { machineAddresses, outerAddresses } from "../node/host/uplink.js";
import type { Check } from "./doctor.js";
import { messageOf } from "./errors.js";

export interface FirewallRoles {
  /** Where a node's overlay keeps subnet.env. */
  runDir: string;
  node: boolean;
  /** The port of the API server, where this machine has one. */
  controlPort?: number | undefined;
}

const NAME = "firewall (kubeplumb node)";
const CONTROL_NAME = "firewall (kubeplumb control)";
/** Of a machine that has not joined a cluster. */
const NETWORKS = ["10.244.0.0/16"];

/** For root only, who alone may see the rules. */
export async function firewallChecks({ runDir, node, controlPort }: FirewallRoles): Promise<Check[]> {
  try {
    const outer = outerAddresses(machineAddresses());
    const uplink = outer[0]?.iface;
    if (uplink === undefined) return [];
    const ips = outer.filter(({ iface }) => iface === uplink).map(({ address }) => address);
    const ns = NetNs.current();
    const checks: Check[] = [];
    for (const place of await findPlaces(ns, { runDir, uplink, ips, networks: NETWORKS })) {
      const filters = await new FilterReader(ns, place.family).read();
      const needs = [
        ...(node ? nodeNeeds(place) : []),
        ...(controlPort === undefined ? [] : controlNeeds(place, controlPort)),
      ];
      for (const { need, title, detail, commands, hint } of judge(filters, place, needs)) {
        const name = need === "api" ? CONTROL_NAME : NAME;
        const remedy = `${commands.join(" && ")}${hint ? `   (${hint})` : ""}`;
        checks.push({ name, status: "warn", detail: `${title}, ${detail}`, remedy });
      }
      checks.push(...othersOf(filters));
    }
    return checks.length > 0
      ? checks
      : [{ name: NAME, status: "ok", detail: "lets everything needed through" }];
  } catch (error) {
    return [{ name: NAME, status: "warn", detail: messageOf(error) }];
  }
}

function othersOf(filters: Filters): Check[] {
  const name = "iptables variants";
  const mixed = mixedVariants(filters);
  return [
    ...(mixed ? [{ name, status: "warn" as const, ...mixed }] : []),
    ...filters.unread.map((detail) => ({ name: NAME, status: "warn" as const, detail })),
  ];
}
