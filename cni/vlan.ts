// VLANs of the pod network, as the reference plugin bridge has them: the VLANs of a port, and where the gateway is. In a
// VLAN that is an interface of the host whose other end is a port in it. Knows the kernel, nothing of the protocol.

import { createHash } from "node:crypto";
import type { Link, RtNetlink } from "../dataplane/kernel/rtnetlink.js";
import type { BridgeConf, PortVlans } from "./config.js";
import { ensureGateways, GATEWAY_PORT, ignore, macOf } from "./interfaces.js";
import type { Range } from "./ranges.js";
import { CniError, CODE } from "./types.js";

/** Puts a port into its VLANs; again is fine. */
export async function joinVlans(
  host: RtNetlink,
  port: string,
  vlans: PortVlans,
  bridge: Link,
): Promise<void> {
  const standard = bridge.vlans?.defaultVlan ?? 0;
  if (!vlans.preserveDefault && standard !== 0) await host.deleteVlan(port, [standard, standard]);
  const { access } = vlans;
  if (access !== undefined) await host.addVlan(port, { range: [access, access], pvid: true, untagged: true });
  for (const range of vlans.trunk) await host.addVlan(port, { range });
}

/** Whether a port is in its VLANs, and in the bridge's own one only where that is to be. */
export async function isInVlans(
  host: RtNetlink,
  port: string,
  vlans: PortVlans,
  bridge: Link | undefined,
): Promise<boolean> {
  const present = new Map((await host.listVlans(port)).map((vlan) => [vlan.vid, vlan]));
  const own = present.get(vlans.access ?? 0);
  if (vlans.access !== undefined && !(own?.pvid && own.untagged)) return false;
  for (const [first, last] of vlans.trunk)
    for (let vid = first; vid <= last; vid++) if (present.get(vid)?.untagged !== false) return false;
  const standard = bridge?.vlans?.defaultVlan ?? 0;
  const isWanted =
    standard === vlans.access || vlans.trunk.some(([first, last]) => first <= standard && standard <= last);
  return vlans.preserveDefault || isWanted || !present.has(standard);
}

/**
 * The interface that has the gateways' addresses: the bridge, or in a VLAN the host's end of a pair, named BRIDGE.VLAN.
 * `mac` is for a new one.
 */
async function gatewayLink(
  host: RtNetlink,
  bridge: Link,
  vlans: PortVlans | undefined,
  mac: string | undefined,
): Promise<Link> {
  if (vlans?.access === undefined) return bridge;
  const name = `${bridge.name}.${vlans.access}`;
  const port = `${GATEWAY_PORT}${createHash("sha256").update(name).digest("hex").slice(0, 8)}`;
  const peer = { name, ...(mac !== undefined && { mac }) };
  if (!(await host.getLink(name))) {
    const pair = { name: port, mtu: bridge.mtu, master: bridge.index, up: true, peer };
    await host.addVeth(pair).catch(ignore("EEXIST"));
  }
  // Also where it was there: whoever made it may have been killed before this.
  if (!(await isInVlans(host, port, vlans, bridge))) await joinVlans(host, port, vlans, bridge);
  await host.setLink(name, { up: true });
  const link = await host.getLink(name);
  if (link) return link;
  throw new CniError(CODE.kernel, `${name}, the gateway's interface, is gone`);
}

/** The interface with the gateways' addresses; undefined for a bridge that is no gateway. Throws CniError 100 or 103. */
export async function openGate(
  host: RtNetlink,
  conf: BridgeConf,
  bridge: Link,
  { gateways, only }: { gateways: readonly Pick<Range, "gateway" | "block">[]; only: boolean },
): Promise<Link | undefined> {
  const [first] = gateways;
  if (!conf.isGateway || !first) return undefined;
  const gate = await gatewayLink(host, bridge, conf.vlans, macOf(first.gateway));
  await ensureGateways(host, gate, { bridge: bridge.name, gateways, only });
  return gate;
}
