// The hosts of a lab: namespace, name in /run/netns, directories, files, shell. Knows what a machine has before
// anything of Kubernetes runs on it.

import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { findTools, type VariantChoice } from "../dataplane/iptables/variant.js";
import type { NetNs } from "../dataplane/kernel/netns.js";
import { HostShell } from "./host-process.js";
import { LAB_RUN, NETNS_DIR } from "./machine.js";
import type { IptablesMode, ResolvedConfig, ResolvedNode } from "./types.js";
import type { Underlay } from "./underlay.js";

/** Where the iptables programs of the host's variant stand first on the PATH, as seen in the host. */
const HOST_BIN = "/run/kubeplumb/bin";
const HOST_PATH = `${HOST_BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`;

/** Where a command can run. */
export interface Place {
  ns: NetNs;
  /** Its /run: as long-lived as the lab process. */
  runDir: string;
  shell: HostShell;
  /** Environment of a process started there. */
  env: Record<string, string>;
}

/** One host. */
export interface Host extends Place {
  node: ResolvedNode;
  /** The host's /var: container logs, CNI state, volumes. Outlives the lab process, as a disk does. */
  rootDir: string;
}

/** Makes every host of the configuration on the wire. On failure those that were made are closed again. */
export async function makeHosts(
  config: ResolvedConfig,
  underlay: Underlay,
  hostsDir: string,
): Promise<Host[]> {
  const etcHosts = hostsFile(config);
  const hosts: Host[] = [];
  try {
    for (const node of config.nodes) {
      const ns = await underlay.addHost(node.name, node.ips);
      hosts.push(makeHost(node, ns, { etcHosts, hostsDir, iptables: config.networking.iptables }));
    }
    return hosts;
  } catch (error) {
    for (const host of hosts) host.ns.close();
    throw error;
  }
}

function makeHost(
  node: ResolvedNode,
  ns: NetNs,
  shared: { etcHosts: string; hostsDir: string; iptables: IptablesMode },
): Host {
  ns.bindTo(join(NETNS_DIR, node.name));
  const rootDir = join(shared.hostsDir, node.name, "var");
  const base = join(LAB_RUN, "hosts", node.name);
  const runDir = join(base, "run");
  for (const dir of [rootDir, join(runDir, "lock"), join(runDir, "netns"), join(base, "etc")]) {
    mkdirSync(dir, { recursive: true });
  }
  linkIptables(join(runDir, "kubeplumb", "bin"), shared.iptables);
  return { node, rootDir, ...makePlace(node.name, ns, { base, runDir, etcHosts: shared.etcHosts }) };
}

/** The wire's own namespace: where one stands who is in none of the hosts, and knows their names. */
export function makeOutside(name: string, ns: NetNs, config: ResolvedConfig): Place {
  const base = join(LAB_RUN, "outside");
  const runDir = join(base, "run");
  for (const dir of [join(runDir, "lock"), join(base, "etc")]) mkdirSync(dir, { recursive: true });
  return makePlace(name, ns, { base, runDir, etcHosts: hostsFile(config) });
}

function makePlace(
  name: string,
  ns: NetNs,
  { base, runDir, etcHosts }: { base: string; runDir: string; etcHosts: string },
): Place {
  const files = { "/etc/hosts": join(base, "etc", "hosts"), "/etc/hostname": join(base, "etc", "hostname") };
  writeFileSync(files["/etc/hosts"], etcHosts);
  writeFileSync(files["/etc/hostname"], `${name}\n`);
  const env = {
    PATH: HOST_PATH,
    HOME: "/root",
    USER: "root",
    LOGNAME: "root",
    SHELL: "/bin/sh",
    HOSTNAME: name,
    LANG: process.env.LANG ?? "C.UTF-8",
    XTABLES_LOCKFILE: "/run/xtables.lock",
  };
  return { ns, runDir, shell: new HostShell(ns, name, { runDir, files }), env };
}

/** Every host knows every other by name. */
function hostsFile({ nodes }: ResolvedConfig): string {
  const lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"];
  return `${[...lines, ...nodes.flatMap(({ ips, name }) => ips.map((ip) => `${ip} ${name}`))].join("\n")}\n`;
}

/**
 * `iptables` typed in a host must show the rules that the host has: nft and legacy rules are two worlds. `auto` is
 * whatever `iptables` is, so it needs no link.
 */
function linkIptables(dir: string, choice: VariantChoice): void {
  if (choice === "auto") return;
  mkdirSync(dir, { recursive: true });
  for (const family of [4, 6] as const) {
    const { iptables, restore, save } = findTools(family, choice);
    const base = family === 4 ? "iptables" : "ip6tables";
    symlinkSync(iptables, join(dir, base));
    symlinkSync(restore, join(dir, `${base}-restore`));
    symlinkSync(save, join(dir, `${base}-save`));
  }
}
