// Our plugin: joins a pod to the host's bridge and gives it an address of each of the host's blocks, one a family. The
// five verbs of CNI as functions; in this process when the runtime is ours, behind the protocol (main.ts) for others.

import { createHash } from "node:crypto";
import { type IpFamily, ipFamily } from "../common/ip.js";
import { NetNs } from "../dataplane/kernel/netns.js";
import { type Link, NetlinkError, RtNetlink } from "../dataplane/kernel/rtnetlink.js";
import { type BridgeConf, hostSubnets, parseBridgeConf } from "./config.js";
import { configure, ensureBridge, ignore, macOf, type PodAddress } from "./interfaces.js";
import { AddressStore } from "./ipam.js";
import { type Attachment, CniError, type CniResult, CODE, type NetConf } from "./types.js";
import { resultFrom } from "./version.js";

export const DEFAULT_DATA_DIR = "/var/lib/cni";
/** IFALIASZ less the NUL. */
const MAX_ALIAS = 255;
const EVERYTHING: Record<IpFamily, string> = { 4: "0.0.0.0/0", 6: "::/0" };

/** What the protocol's environment says, and where the plugin is. */
export interface Invocation {
  containerId: string;
  ifName: string;
  /** Path of the pod's network namespace; may be missing for DEL. */
  netns?: string;
  hostNs: NetNs;
  /** Where state goes unless the configuration says so. Default /var/lib/cni. */
  dataDir?: string;
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
  const conf = parseBridgeConf(raw);
  const subnets = hostSubnets(conf);
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
  const store = storeOf(conf, call);
  const veth = hostInterface(conf.name, owner);
  const undo: (() => Promise<void> | void)[] = [];
  try {
    const bridge = await ensureBridge(host, conf, subnets);
    const addresses = subnets.ranges.map((range, n): PodAddress => {
      const ip = store.allocate(range, n, owner);
      undo.push(() => store.remove(ip));
      return { ...range, ip };
    });
    await host.addVeth({
      name: veth,
      mtu: subnets.mtu,
      master: bridge.index,
      up: true,
      peer: { name: call.ifName, ns: pod, mac: macOf(addresses[0]?.ip ?? "") },
    });
    undo.push(() => deleteIfThere(host, veth));
    await host.setLink(veth, { hairpin: conf.hairpinMode, alias: aliasOf(conf.name, owner) });
    const routes = routesOf(conf, addresses);
    const link = await configure(inside, call.ifName, addresses, routes);
    return await describe({ host, link, bridge, veth, addresses, routes, call, conf });
  } catch (error) {
    const reason = await explain(error, { conf, call, inside, veth });
    for (const step of undo.toReversed()) await step();
    throw reason;
  }
}

/** Leaves the network: fine when nothing, or only a part, is there. */
export async function del(raw: NetConf, call: Invocation): Promise<void> {
  const conf = parseBridgeConf(raw);
  const owner = ownerOf(call);
  using host = RtNetlink.open(call.hostNs);
  await deleteIfThere(host, hostInterface(conf.name, owner));
  // Only now: an address that is given away again must not be answered for by the old pod.
  storeOf(conf, call).release(owner, hintOf(conf));
}

/** Throws CniError 104 naming what is not as ADD left it. */
export async function check(raw: NetConf, call: Invocation): Promise<void> {
  const conf = parseBridgeConf(raw);
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
  expect(!conf.hairpinMode || port.hairpin === true, `${veth} is not in hairpin mode`);
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
  const store = storeOf(conf, call);
  for (const { address, gateway } of own) {
    expect(addresses.includes(address), `${call.ifName} has not the address ${address}`);
    const ip = address.slice(0, address.indexOf("/"));
    expect(store.isOwner(ip, owner), `${ip} is not reserved for ${call.containerId} in ${store.directory}`);
    const dst = EVERYTHING[ipFamily(ip) === 6 ? 6 : 4];
    const routed = routes.some((route) => route.dst === dst && route.via === gateway);
    expect(
      !conf.isDefaultGateway || gateway === undefined || routed,
      `there is no default route via ${gateway}`,
    );
  }
}

/** Deletes every attachment of this network that is not listed; best effort. Throws CniError 100 with all failures. */
export async function gc(raw: NetConf, call: Pick<Invocation, "hostNs" | "dataDir">): Promise<void> {
  const conf = parseBridgeConf(raw);
  const valid = validAttachments(conf);
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
  if (failures.length > 0) {
    throw new CniError(CODE.kernel, `GC could not delete ${failures.length} interfaces`, {
      details: failures.join("; "),
    });
  }
}

/** Throws CniError 50 when ADD could not work. */
export async function status(raw: NetConf): Promise<void> {
  const conf = parseBridgeConf(raw);
  try {
    hostSubnets(conf);
  } catch (error) {
    throw new CniError(CODE.unavailable, (error as Error).message, { cause: error });
  }
}

function validAttachments(conf: BridgeConf): Attachment[] {
  const { validAttachments: list } = conf;
  const isAttachment = (item: unknown): item is Attachment => {
    const { containerID, ifname } = (item ?? {}) as Partial<Attachment>;
    return typeof containerID === "string" && typeof ifname === "string";
  };
  // Without the list everything would be deleted: that is never what a missing key means.
  if (!Array.isArray(list) || !list.every(isAttachment)) {
    throw new CniError(
      CODE.invalidConfig,
      "GC needs cni.dev/valid-attachments: a list of { containerID, ifname }",
      { details: JSON.stringify(list) },
    );
  }
  return list;
}

function storeOf(conf: BridgeConf, call: Pick<Invocation, "dataDir">): AddressStore {
  return new AddressStore(conf.dataDir ?? call.dataDir ?? DEFAULT_DATA_DIR, conf.name);
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

function routesOf(conf: BridgeConf, addresses: readonly PodAddress[]): { dst: string; gw: string }[] {
  return addresses.flatMap(({ block: { family }, gateway }) => [
    ...(conf.isDefaultGateway ? [{ dst: EVERYTHING[family], gw: gateway }] : []),
    ...conf.routes
      .filter((route) => route.family === family)
      .map((route) => ({ dst: String(route), gw: gateway })),
  ]);
}

async function describe(facts: {
  host: RtNetlink;
  /** The pod's interface. */
  link: Link;
  bridge: Link;
  veth: string;
  addresses: readonly PodAddress[];
  routes: { dst: string; gw: string }[];
  call: Invocation;
  conf: BridgeConf;
}): Promise<CniResult> {
  const { host, link, bridge, veth, addresses, routes, call, conf } = facts;
  const port = await host.getLink(veth);
  return {
    cniVersion: conf.cniVersion,
    interfaces: [
      { name: bridge.name, mac: bridge.mac, mtu: bridge.mtu },
      { name: veth, mac: port?.mac, mtu: port?.mtu },
      { name: call.ifName, mac: link.mac, mtu: link.mtu, sandbox: call.netns },
    ],
    ips: addresses.map(({ ip, block, gateway }) => ({
      address: `${ip}/${block.prefix}`,
      gateway,
      interface: 2,
    })),
    routes,
    dns: {},
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
