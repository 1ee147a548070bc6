// kubeplumb-portmap: ports of the host that lead to a pod, as a plugin that is chained behind the one that made the
// pod's network. Knows iptables and conntrack; which rules is portmap-rules.ts.

import { closeSync, mkdirSync, openSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Cidr, type IpFamily, ipToBytes } from "../common/ip.js";
import {
  Iptables,
  type Rule,
  renderRuleLine,
  renderTables,
  splitWords,
} from "../dataplane/iptables/index.js";
import { Conntrack } from "../dataplane/kernel/conntrack.js";
import { tryLock } from "../dataplane/kernel/libc.js";
import type { NetNs } from "../dataplane/kernel/netns.js";
import { RtNetlink } from "../dataplane/kernel/rtnetlink.js";
import type { Invocation } from "./bridge.js";
import { DEFAULT_DATA_DIR, type LeaseContext } from "./lease.js";
import { commentedId, iptablesOf } from "./masquerade.js";
import {
  DNAT,
  dnatChain,
  mappingsOf,
  type PortmapConf,
  parsePortmapConf,
  podRules,
  sharedRules,
  type Target,
} from "./portmap-rules.js";
import { CniError, type CniResult, CODE, type NetConf, validAttachments } from "./types.js";

const LOCK_STEP_MS = 5;

/** The previous result, unchanged. Throws CniError 7 without one; after an error nothing is left. */
export async function add(raw: NetConf, call: Invocation): Promise<CniResult> {
  const conf = parsePortmapConf(raw);
  const { previous } = conf;
  if (!previous) throw notChained();
  try {
    for (const target of targets(conf, previous)) await open(conf, call, target);
  } catch (error) {
    await close(call.hostNs, conf, call.containerId);
    throw error;
  }
  return { ...previous, cniVersion: conf.cniVersion };
}

/** Fine when nothing is there. */
export async function del(raw: NetConf, call: Invocation): Promise<void> {
  await close(call.hostNs, parsePortmapConf(raw), call.containerId);
}

/** Throws CniError 104 when rules are missing. */
export async function check(raw: NetConf, call: Invocation): Promise<void> {
  const conf = parsePortmapConf(raw);
  if (!conf.previous) throw notChained();
  const { chains, jumps } = sharedRules(conf);
  for (const target of targets(conf, conf.previous)) {
    const { chain, leads } = podRules(conf, call.containerId, target);
    const inChains = [...chains, chain].flatMap(({ table, name, rules }) =>
      rules.map(({ args }) => ({ table, chain: name, rule: args })),
    );
    const iptables = Iptables.open(call.hostNs, { family: familyOf(target) });
    if (await iptables.hasRules([...jumps, ...leads, ...inChains])) continue;
    throw new CniError(
      CODE.checkFailed,
      `rules for host ports of ${call.containerId} (${target.ip}) are missing`,
    );
  }
}

/** Takes out the rules of this network's containers that are not listed. */
export async function gc(raw: NetConf, call: LeaseContext): Promise<void> {
  const conf = parsePortmapConf(raw);
  const live = new Set(validAttachments(conf.validAttachments).map(({ containerID }) => containerID));
  for (const family of [4, 6] as const) {
    const iptables = iptablesOf(call.hostNs, family);
    const leads = iptables ? await leadsOf(iptables) : [];
    const ids = new Set(leads.map((rule) => commentedId(rule, conf.name)));
    for (const id of ids) if (id !== undefined && !live.has(id)) await close(call.hostNs, conf, id);
  }
}

/** Throws CniError 50 without iptables. */
export async function status(raw: NetConf, call: LeaseContext): Promise<void> {
  parsePortmapConf(raw);
  try {
    Iptables.open(call.hostNs);
  } catch (error) {
    throw new CniError(CODE.unavailable, (error as Error).message, { cause: error });
  }
}

function notChained(): CniError {
  return new CniError(
    CODE.invalidConfig,
    "prevResult is missing: kubeplumb-portmap must stand behind another plugin",
  );
}

const familyOf = ({ ip }: Target): IpFamily => (ip.includes(":") ? 6 : 4);

/** The first address of each family that ports are asked for; the pod's own, not those of the host. */
function targets(conf: PortmapConf, { ips = [], interfaces = [] }: CniResult): Target[] {
  const own = ips.filter(({ interface: n }) => n === undefined || interfaces[n]?.sandbox !== undefined);
  return ([4, 6] as const).flatMap((family) => {
    const ip = own.find(({ address }) => Cidr.parse(address).family === family);
    if (!ip || mappingsOf(conf, family).length === 0) return [];
    return [{ ip: ip.address.slice(0, ip.address.indexOf("/")), cidr: String(Cidr.parse(ip.address)) }];
  });
}

async function open(conf: PortmapConf, call: Invocation, target: Target): Promise<void> {
  const family = familyOf(target);
  const iptables = Iptables.open(call.hostNs, { family });
  await ensureShared(iptables, conf, call);
  const { chain, leads } = podRules(conf, call.containerId, target);
  const lines = leads.map(({ chain: at, rule }) => renderRuleLine(at, { args: rule }));
  await iptables.restore(renderTables([{ table: "nat", chains: [chain], lines }]));
  if (family === 4 && conf.snat) await routeLocalnet(call.hostNs, target);
  forgetFlows(call.hostNs, conf, family);
}

/** One process at a time: each looks first, and two would find the same jump missing. */
async function ensureShared(iptables: Iptables, conf: PortmapConf, call: Invocation): Promise<void> {
  const { chains, jumps } = sharedRules(conf);
  const filled = chains.flatMap(({ table, name, rules }) =>
    rules.map(({ args }) => ({ table, chain: name, rule: args })),
  );
  const stands = async () =>
    (await iptables.chainExists("nat", DNAT)) && iptables.hasRules([...filled, ...jumps]);
  if (await stands()) return;
  await locked(join(conf.dataDir ?? call.dataDir ?? DEFAULT_DATA_DIR), async () => {
    if (await stands()) return;
    // DNAT holds the pods' rules: it is made, never filled.
    await iptables.ensureChain("nat", DNAT);
    const others = chains.filter(({ name }) => name !== DNAT);
    await iptables.restore(renderTables([{ table: "nat", chains: others }]));
    await iptables.ensureRules(jumps);
  });
}

async function locked(directory: string, work: () => Promise<void>): Promise<void> {
  mkdirSync(directory, { recursive: true });
  const fd = openSync(join(directory, "portmap.lock"), "w", 0o600);
  try {
    while (!tryLock(fd)) await sleep(LOCK_STEP_MS);
    await work();
  } finally {
    closeSync(fd);
  }
}

/** 127.0.0.1 as a source may go out by the pod's bridge: it is masqueraded there. */
async function routeLocalnet(ns: NetNs, { ip }: Target): Promise<void> {
  using rt = RtNetlink.open(ns);
  const routes = (await rt.listRoutes()).filter(({ dst, via }) => !via && Cidr.parse(dst).contains(ip));
  const [best] = routes.sort((a, b) => Cidr.parse(b.dst).prefix - Cidr.parse(a.dst).prefix);
  if (best?.dev === undefined) return;
  const key = `net/ipv4/conf/${best.dev}/route_localnet`;
  if (ns.sysctl(key) !== "1") ns.sysctl(key, 1);
}

/** UDP flows to these ports go on where they went before the rules; a client that goes on asking is never led here. */
function forgetFlows(ns: NetNs, conf: PortmapConf, family: IpFamily): void {
  const own = mappingsOf(conf, family).filter(({ protocol }) => protocol === "udp");
  if (own.length === 0) return;
  using conntrack = Conntrack.open(ns, family);
  const key = (ip: string) => (family === 4 ? ip : Buffer.from(ipToBytes(ip)).toString("hex"));
  for (const flow of conntrack.udpFlows()) {
    const { dst, dstPort } = flow.original;
    const isOurs = own.some(
      ({ hostPort, hostIP }) => hostPort === dstPort && (hostIP === undefined || key(hostIP) === dst),
    );
    if (isOurs) conntrack.delete(flow);
  }
}

/** The rules of {@link DNAT}; none when there is no such chain. */
async function leadsOf(iptables: Iptables): Promise<Rule[]> {
  if (!(await iptables.chainExists("nat", DNAT))) return [];
  const { text } = await iptables.print([{ table: "nat", chain: DNAT }]);
  const prefix = `-A ${DNAT} `;
  const lines = text.split("\n").filter((line) => line.startsWith(prefix));
  return lines.map((line) => ({ args: splitWords(line.slice(prefix.length)) }));
}

async function close(ns: NetNs, conf: PortmapConf, containerId: string): Promise<void> {
  const chain = dnatChain(conf.name, containerId);
  for (const family of [4, 6] as const) {
    const iptables = iptablesOf(ns, family);
    if (!iptables || !(await iptables.chainExists("nat", chain))) continue;
    const leads = (await leadsOf(iptables)).filter(({ args }) => args.at(-1) === chain);
    const lines = leads.map((rule) => renderRuleLine(DNAT, rule, "-D"));
    await iptables.restore(renderTables([{ table: "nat", chains: [], lines, deleteChains: [chain] }]));
  }
}
