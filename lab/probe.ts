// What the kernel can do, by doing it: runs as a short-lived process in the same kind of namespaces as a lab and
// writes one line of JSON for each thing tried. Started by doctor.ts; nothing it makes outlives it.

import { writeSync } from "node:fs";
import { findTools, type Tools } from "../dataplane/iptables/variant.js";
import { CommandError } from "../dataplane/kernel/command.js";
import { mount } from "../dataplane/kernel/libc.js";
import { NetNs } from "../dataplane/kernel/netns.js";
import { RtNetlink } from "../dataplane/kernel/rtnetlink.js";
import { messageOf } from "./errors.js";

/** One thing tried; `error` when it did not work. */
export interface ProbeResult {
  id: string;
  detail?: string;
  error?: string;
}

/** Rules as kube-proxy and flannel write them; each is tried on its own so that the missing match has a name. */
export const IPTABLES_FEATURES: readonly (readonly [id: string, table: string, rule: string])[] = [
  [
    "DNAT",
    "nat",
    "-A OUTPUT -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.244.0.2:80",
  ],
  ["MASQUERADE --random-fully", "nat", "-A POSTROUTING -j MASQUERADE --random-fully"],
  ["comment", "filter", '-A FORWARD -m comment --comment "kubeplumb" -j ACCEPT'],
  ["conntrack", "filter", "-A FORWARD -m conntrack --ctstate INVALID -j DROP"],
  ["mark", "nat", "-A POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN"],
  ["MARK", "nat", "-A OUTPUT -j MARK --or-mark 0x4000"],
  ["addrtype", "nat", "-A OUTPUT -m addrtype --dst-type LOCAL -j RETURN"],
  ["statistic", "nat", "-A OUTPUT -m statistic --mode random --probability 0.5 -j RETURN"],
  [
    "recent",
    "nat",
    "-A OUTPUT -m recent --name KUBEPLUMB --rcheck --seconds 10800 --reap --rsource -j RETURN",
  ],
  ["REJECT", "filter", "-A OUTPUT -d 10.96.0.2/32 -j REJECT"],
];

/** A string that `work` returns is the detail. Resolves with whether it worked. */
async function attempt(id: string, work: () => unknown): Promise<boolean> {
  try {
    const detail = await work();
    report(typeof detail === "string" ? { id, detail } : { id });
    return true;
  } catch (error) {
    // Of what iptables-restore says the first line is the reason.
    const said = error instanceof CommandError ? error.stderr.trim().split("\n")[0] : "";
    report({ id, error: said || messageOf(error) });
    return false;
  }
}

function report(result: ProbeResult): void {
  writeSync(1, `${JSON.stringify(result)}\n`);
}

async function devices(ns: NetNs): Promise<void> {
  const netlink = RtNetlink.open(ns);
  try {
    await netlink.setLink("lo", { up: true });
    await attempt("bridge", () => netlink.addBridge({ name: "br0", up: true }));
    await attempt("veth", () =>
      netlink.addVeth({ name: "veth0", peer: { name: "veth1" }, master: "br0", up: true }),
    );
    await attempt("vxlan", async () => {
      await netlink.addAddress("br0", "192.0.2.1/24");
      await netlink.addVxlan({
        name: "vx0",
        id: 1,
        port: 8472,
        local: "192.0.2.1",
        link: "br0",
        learning: false,
      });
    });
  } finally {
    netlink.close();
  }
}

/** Rules with every match are tried only where the tables themselves are to be had. */
async function rules(ns: NetNs, tools: Tools): Promise<void> {
  const restore = (id: string, input: string) =>
    attempt(id, async () => {
      const env = { ...process.env, XTABLES_LOCKFILE: "/run/xtables.lock" };
      await ns.exec(tools.restore, ["--noflush"], { input, timeout: 10_000, env });
    });
  const empty = ["mangle", "nat", "filter"].map((table) => `*${table}\nCOMMIT\n`).join("");
  if (!(await restore(`iptables-${tools.variant} tables`, empty))) return;
  for (const [id, table, rule] of IPTABLES_FEATURES) {
    await restore(`iptables ${id}`, `*${table}\n${rule}\nCOMMIT\n`);
  }
}

async function main(): Promise<void> {
  await attempt("mount tmpfs", () => mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"));
  let ns: NetNs | undefined;
  await attempt("network namespace", () => {
    ns = NetNs.create("doctor");
  });
  if (!ns) return;
  const host = ns;
  await devices(host);
  await attempt("sysctl ip_forward", () => host.sysctl("net.ipv4.ip_forward", 1));
  await attempt("sysctl route_localnet", () => host.sysctl("net.ipv4.conf.all.route_localnet", 1));
  let tools: Tools | undefined;
  await attempt("iptables", () => {
    tools = findTools(4, "auto");
    return `${tools.version} (${tools.variant})`;
  });
  if (tools) await rules(host, tools);
  // After the rules: on some kernels the first use of a bridge match brings the module.
  await attempt("bridge-nf-call-iptables", () => host.sysctl("net.bridge.bridge-nf-call-iptables", 1));
  host.close();
}

if (process.argv.includes("--kubeplumb-probe")) await main();
