// Our plugin: joins a pod to the host's bridge and gives it an address of each of the host's blocks, one a family. The
// five verbs of CNI as functions; in this process when the runtime is ours, behind the protocol (main.ts) for others.

import { createHash } from "node:crypto";
import { Cidr } from "../common/ip.js";
import { NetNs } from "../dataplane/kernel/netns.js";
import { type Link, NetlinkError, RtNetlink } from "../dataplane/kernel/rtnetlink.js";
import { type BridgeConf, HOST_LOCAL, hostSubnets, parseBridgeConf } from "./config.js";
import { findPlugin } from "./exec.js";
import { configure, ensureBridge, ignore, macOf, routesOf, waitForPort } from "./interfaces.js";
import {
  delegate,
  delegateNewVerb,
  giveBack,
  isForeign,
  type Lease,
  type LeaseContext,
  storeOf,
  takeForeign,
  takeOwn,
} from "./lease.js";
import { checkMac, isMacChecked, uncheckMac } from "./mac-check.js";
import { isMasqueraded, masquerade, unmasquerade } from "./masquerade.js";
import {
  type Attachment,
  CniError,
  type CniResult,
  type CniRoute,
  CODE,
  type NetConf,
  validAttachments,
} from "./types.js";
import { resultFrom } from "./version.js";
import { isInVlans, joinVlans, openGate } from "./vlan.js";

/** IFALIASZ less the NUL. */
const MAX_ALIAS = 255;

/** What the protocol's environment says, and where the plugin is. */
export interface Invocation extends LeaseContext {
  containerId: string;
  ifName: string;
}

const ownerOf = (call: Invocation): Attachment => ({ containerID: call.containerId, ifname: call.ifName });

/** Name of the host's end: the same for the same attachment, so that DEL finds it without any state. */
export function hostInterface(network: string, owner: Attachment): string {
  const key = `${network}\0${owner.containerID}\0${owner.ifname}`;
  return `veth${createHash("sha256").update(key).digest("hex").slice(0, 8)}`;
}

/** Says on the interface whose it is; GC knows ports of this network by it. */
function aliasOf(network: string, owner: Attachment): string {
  return `${aliasPrefix(network)}${owner.containerID} ${owner.ifname}`.slice(0, MAX_ALIAS);
}

const aliasPrefix = (network: string): string => `kubeplumb-cni ${network} `;

/** Joins the pod. Throws CniError; then nothing is left of the attempt. */
export async function add(raw: NetConf, call: Invocation): Promise<CniResult> {
  const conf = parseBridgeConf(raw, call.args);
  const previous = conf.prevResult === undefined ? undefined : resultFrom(conf.prevResult);
  const foreign = isForeign(conf, call);
  const subnets = foreign
    ? { sets: [], ...(conf.mtu !== undefined && { mtu: conf.mtu }) }
    : hostSubnets(conf);
  using pod = openSandbox(call.netns);
  if (pod.inode === call.hostNs.inode) {
    throw new CniError(
      CODE.invalidEnvironment,
      `CNI_NETNS ${call.netns} is the host's own network namespace`,
    );
  }
  using host = RtNetlink.open(call.hostNs);
  using inside = RtNetlink.open(pod);
  const owner = ownerOf(call);
  const veth = hostInterface(conf.name, owner);
  const undo: (() => unknown)[] = [];
  try {
    const ranges = subnets.sets.flat();
    const { mtu } = subnets;
    const bridge = await ensureBridge(host, conf, { mtu, mac: bridgeMac(conf, ranges[0]?.gateway) });
    const only = conf.ipam.exclusive && conf.requests.sets.length === 0;
    let gate = foreign ? undefined : await openGate(host, conf, bridge, { gateways: ranges, only });
    let lease: Lease | undefined;
    if (!foreign) {
      const taken = takeOwn(conf, call, owner);
      lease = taken;
      // Not by owner: the same attachment may be there already, and keeps its own.
      undo.push(() => giveBack(conf, call, taken));
    }
    const mac = conf.requests.mac ?? (lease && macOf(lease.addresses[0]?.ip ?? ""));
    await host.addVeth({
      name: veth,
      mtu,
      master: bridge.index,
      up: true,
      peer: { name: call.ifName, ns: pod, ...(mac !== undefined && { mac }) },
    });
    undo.push(() => deleteIfThere(host, veth));
    await host.setLink(veth, {
      hairpin: conf.hairpinMode,
      ...(conf.portIsolation && { isolated: true }),
      alias: aliasOf(conf.name, owner),
    });
    if (conf.vlans) await joinVlans(host, veth, conf.vlans, bridge);
    if (conf.macspoofchk) {
      undo.push(() => uncheckMac(call.hostNs, conf.name, (port) => port === veth));
      await checkMac(call.hostNs, conf.name, veth, (await inside.getLink(call.ifName))?.mac ?? "");
    }
    if (!lease) {
      // Only now, and up: a plugin like dhcp asks through the interface. Its DEL is due also when its ADD has failed.
      undo.push(() => delegate("DEL", raw, conf, call));
      await inside.setLink(call.ifName, { up: true });
      lease = await takeForeign(raw, conf, call);
      const gateways = lease.addresses.flatMap(({ block, gateway }) => (gateway ? [{ block, gateway }] : []));
      gate = await openGate(host, conf, bridge, { gateways, only: false });
    }
    const { addresses } = lease;
    const routes = routesOf(conf, addresses, lease.routes);
    const link = await configure(inside, { ifName: call.ifName, addresses, routes, detect: conf.enabledad });
    const port = await waitForPort(host, veth);
    if (conf.ipMasq) {
      undo.push(() => unmasquerade(call.hostNs, conf.name, (id) => id === call.containerId));
      await masquerade(call.hostNs, conf.name, call.containerId, addresses);
    }
    return describe({ link, bridge, gate, port, lease, routes, call, conf, previous });
  } catch (error) {
    const reason = await explain(error, { conf, call, inside, veth });
    const left: string[] = [];
    for (const step of undo.toReversed()) {
      try {
        await step();
      } catch (failure) {
        left.push((failure as Error).message);
      }
    }
    if (left.length === 0) throw reason;
    const details = [reason.details, `and the clean-up failed: ${left.join("; ")}`]
      .filter(Boolean)
      .join("; ");
    throw new CniError(reason.code, reason.message, { details, cause: error });
  }
}

/** Leaves the network: fine when nothing, or only a part, is there. */
export async function del(raw: NetConf, call: Invocation): Promise<void> {
  const conf = parseBridgeConf(raw, call.args);
  const owner = ownerOf(call);
  const veth = hostInterface(conf.name, owner);
  const failures: unknown[] = [];
  // A DHCP lease is given back through the interface, so before it goes; and it goes also when that has failed.
  if (isForeign(conf, call))
    await delegate("DEL", raw, conf, call).catch((error: unknown) => failures.push(error));
  using host = RtNetlink.open(call.hostNs);
  await deleteIfThere(host, veth);
  if (conf.macspoofchk) await uncheckMac(call.hostNs, conf.name, (port) => port === veth);
  // Only now: an address that is given away again must not be answered for by the old pod.
  if (!isForeign(conf, call)) storeOf(conf, call).release(owner, hintOf(conf));
  if (conf.ipMasq) await unmasquerade(call.hostNs, conf.name, (id) => id === call.containerId);
  if (failures.length > 0) throw failures[0];
}

/** For a bridge that is made now. */
function bridgeMac({ name, bridge, vlans }: BridgeConf, gateway: string | undefined): string {
  // Of a VLAN's gateway the interface in the VLAN has it.
  if (gateway !== undefined && vlans?.access === undefined) return macOf(gateway);
  const hash = createHash("sha256").update(`${name}\0${bridge}`).digest();
  return macOf(hash.subarray(0, 4).join("."));
}

/** Throws CniError 104 naming what is not as ADD left it. */
export async function check(raw: NetConf, call: Invocation): Promise<void> {
  const conf = parseBridgeConf(raw, call.args);
  if (conf.prevResult === undefined) throw new CniError(CODE.invalidConfig, "CHECK needs a prevResult");
  const result = resultFrom(conf.prevResult);
  const owner = ownerOf(call);
  using pod = openSandbox(call.netns);
  using host = RtNetlink.open(call.hostNs);
  using inside = RtNetlink.open(pod);
  const veth = hostInterface(conf.name, owner);
  const [port, link] = [await host.getLink(veth), await inside.getLink(call.ifName)];
  expect(link !== undefined, `${call.ifName} is missing in ${call.netns}`);
  expect(port !== undefined, `${veth}, the host's end of ${call.ifName}, is missing`);
  expect(link.up && port.up, `${call.ifName} or ${veth} is down`);
  expect(port.master === conf.bridge, `${veth} is not a port of ${conf.bridge}`);
  const bridge = await host.getLink(conf.bridge);
  expect(bridge?.up === true, `${conf.bridge} is down`);
  expect(!conf.hairpinMode || port.hairpin === true, `${veth} is not in hairpin mode`);
  expect(!conf.portIsolation || port.isolated === true, `${veth} is not isolated`);
  const isIn = !conf.vlans || (await isInVlans(host, veth, conf.vlans, bridge));
  expect(isIn, `${veth} is not in its VLANs`);
  const isChecked = !conf.macspoofchk || (await isMacChecked(call.hostNs, veth, link.mac));
  expect(isChecked, `the rule of macspoofchk for ${veth} is missing`);
  const wantedMac = result.interfaces?.find((i) => i.name === call.ifName && i.sandbox !== undefined)?.mac;
  expect(
    wantedMac === undefined || wantedMac === link.mac,
    `${call.ifName} has MAC ${link.mac}, not ${wantedMac}`,
  );
  const addresses = (await inside.listAddresses(call.ifName)).map(({ cidr }) => cidr);
  const routes = await inside.listRoutes(call.ifName);
  const own = (result.ips ?? []).filter(
    ({ interface: i }) => i === undefined || result.interfaces?.[i]?.name === call.ifName,
  );
  expect(own.length > 0, "prevResult lists no address");
  const foreign = isForeign(conf, call);
  const store = storeOf(conf, call);
  for (const { address } of own) {
    expect(addresses.includes(address), `${call.ifName} has not the address ${address}`);
    const ip = address.slice(0, address.indexOf("/"));
    const holds = foreign || store.isOwner(ip, owner);
    expect(holds, `${ip} is not reserved for ${call.containerId} in ${store.directory}`);
  }
  const leased = own.map(({ address, gateway }) => ({
    ip: address.slice(0, address.indexOf("/")),
    block: Cidr.parse(address),
    ...(gateway !== undefined && { gateway }),
  }));
  for (const { dst, gw, table } of routesOf(conf, leased, conf.ipam.routes)) {
    // A plugin behind us may have taken it out again; then it has taken it out of the result, too.
    if (!result.routes?.some((route) => route.dst === dst && route.gw === gw)) continue;
    const stands = table !== undefined || routes.some((route) => route.dst === dst && route.via === gw);
    const what = dst.endsWith("/0") ? "default route" : `route to ${dst}`;
    expect(stands, `there is no ${what} via ${gw}`);
  }
  if (foreign) await delegate("CHECK", raw, conf, call);
  if (conf.ipMasq) {
    const stand = await isMasqueraded(call.hostNs, conf.name, call.containerId, leased);
    expect(stand, `rules of ipMasq are missing for ${call.containerId}`);
  }
}

/** Deletes every attachment of this network that is not listed; best effort. Throws CniError 100 with all failures. */
export async function gc(raw: NetConf, call: LeaseContext): Promise<void> {
  const conf = parseBridgeConf(raw);
  const valid = validAttachments(conf.validAttachments);
  const store = storeOf(conf, call);
  using host = RtNetlink.open(call.hostNs);
  const keep = new Set(valid.map((owner) => hostInterface(conf.name, owner)));
  const stale = store.list().filter((entry) => !keep.has(hostInterface(conf.name, entry)));
  // Interfaces without an address file, as a crash or a lost disk leaves them.
  const orphans = (await host.listLinks())
    .filter((link) => link.alias?.startsWith(aliasPrefix(conf.name)))
    .map(({ name }) => name);
  const doomed = new Set([...stale.map((entry) => hostInterface(conf.name, entry)), ...orphans]);
  for (const name of keep) doomed.delete(name);
  const failures: string[] = [];
  for (const name of doomed) {
    await deleteIfThere(host, name).catch((error: unknown) => failures.push(String(error)));
  }
  for (const { ip } of stale) store.remove(ip);
  store.sweep();
  const attempt = (work: Promise<unknown>) => work.catch((error: unknown) => failures.push(String(error)));
  if (conf.macspoofchk) await attempt(uncheckMac(call.hostNs, conf.name, (port) => !keep.has(port)));
  if (conf.ipMasq) {
    const live = new Set(valid.map(({ containerID }) => containerID));
    await attempt(unmasquerade(call.hostNs, conf.name, (id) => !live.has(id)));
  }
  await attempt(delegateNewVerb("GC", raw, conf, call));
  if (failures.length > 0) {
    throw new CniError(CODE.kernel, `GC of network ${conf.name}: ${failures.length} steps failed`, {
      details: failures.join("; "),
    });
  }
}

/** Throws CniError 50 when ADD could not work, or what the IPAM plugin says. */
export async function status(raw: NetConf, call: LeaseContext): Promise<void> {
  const conf = parseBridgeConf(raw);
  await delegateNewVerb("STATUS", raw, conf, call);
  try {
    if (!isForeign(conf, call)) {
      const store = storeOf(conf, call);
      for (const set of hostSubnets(conf).sets) store.expectFree(set);
    }
    if (isForeign(conf, call) && conf.ipam.type !== HOST_LOCAL) findPlugin(conf.ipam.type, call.binDirs);
  } catch (error) {
    throw new CniError(CODE.unavailable, (error as Error).message, { cause: error });
  }
}

/** Addresses of the prevResult, so that DEL need not read every file. A broken one is no reason not to delete. */
function hintOf(conf: BridgeConf): string[] {
  try {
    if (conf.prevResult === undefined) return [];
    return (resultFrom(conf.prevResult).ips ?? []).map(({ address }) =>
      address.slice(0, address.indexOf("/")),
    );
  } catch (error) {
    if (error instanceof CniError) return [];
    throw error;
  }
}

function openSandbox(path: string | undefined): NetNs {
  if (!path) throw new CniError(CODE.invalidEnvironment, "CNI_NETNS is required");
  try {
    return NetNs.open(path);
  } catch (error) {
    throw new CniError(
      CODE.invalidEnvironment,
      `CNI_NETNS ${path} cannot be opened: ${(error as Error).message}`,
      {
        cause: error,
      },
    );
  }
}

/** The result: of the plugins before this one first, as the specification wants it of a chain. */
function describe(facts: {
  /** The pod's interface. */
  link: Link;
  bridge: Link;
  gate: Link | undefined;
  port: Link;
  lease: Lease;
  routes: CniRoute[];
  call: Invocation;
  conf: BridgeConf;
  previous: CniResult | undefined;
}): CniResult {
  const { link, bridge, gate, port, lease, routes, call, conf, previous } = facts;
  const before = previous?.interfaces ?? [];
  const dns = conf.requests.dns ?? conf.dns ?? lease.dns ?? previous?.dns ?? {};
  return {
    cniVersion: conf.cniVersion,
    interfaces: [
      ...before,
      { name: bridge.name, mac: bridge.mac, mtu: bridge.mtu },
      { name: port.name, mac: port.mac, mtu: port.mtu },
      { name: call.ifName, mac: link.mac, mtu: link.mtu, sandbox: call.netns },
      ...(gate && gate.index !== bridge.index ? [{ name: gate.name, mac: gate.mac, mtu: gate.mtu }] : []),
    ],
    ips: [
      ...(previous?.ips ?? []),
      ...lease.addresses.map(({ ip, block, gateway }) => ({
        address: `${ip}/${block.prefix}`,
        ...(gateway !== undefined && { gateway }),
        interface: before.length + 2,
      })),
    ],
    routes: [...(previous?.routes ?? []), ...routes],
    dns,
  };
}

/** A kernel error in words of the network. */
async function explain(
  error: unknown,
  facts: { conf: BridgeConf; call: Invocation; inside: RtNetlink; veth: string },
): Promise<CniError> {
  if (error instanceof CniError) return error;
  const { conf, call, inside, veth } = facts;
  const options = { details: (error as Error).message, cause: error };
  if (error instanceof NetlinkError && error.code === "EEXIST") {
    const which = (await inside.getLink(call.ifName))
      ? `${call.ifName} in ${call.netns}`
      : `${veth} on the host, the other end of ${call.ifName} of container ${call.containerId}`;
    return new CniError(CODE.exists, `the interface is there already: ${which}`, options);
  }
  if (error instanceof NetlinkError && error.code === "EXFULL") {
    return new CniError(
      CODE.bridgeFull,
      `${conf.bridge} has no free port: the kernel allows 1023 on one bridge, so this host can take no more pods`,
      options,
    );
  }
  return new CniError(
    error instanceof NetlinkError ? CODE.kernel : CODE.io,
    `container ${call.containerId} could not be joined to ${conf.bridge}`,
    options,
  );
}

async function deleteIfThere(host: RtNetlink, name: string): Promise<void> {
  await host.deleteLink(name).catch(ignore("ENODEV"));
}

function expect(holds: boolean, otherwise: string): asserts holds {
  if (!holds) throw new CniError(CODE.checkFailed, otherwise);
}
