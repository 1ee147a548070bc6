// ipMasq: what leaves a pod's block gets the host's address, by one chain a pod in the nat table, as the reference
// bridge plugin has it. Which rules is pure.

import { createHash } from "node:crypto";
import type { IpFamily } from "../common/ip.js";
import {
  Iptables,
  type Rule,
  type RuleAt,
  renderRuleLine,
  renderTables,
} from "../dataplane/iptables/index.js";
import type { NetNs } from "../dataplane/kernel/netns.js";
import type { PodAddress } from "./interfaces.js";

/** Chain names have 28 characters at most. */
const HASHED = 28;
const CHAIN = /^CNI-[0-9a-f]{24}$/;
const MULTICAST: Record<IpFamily, string> = { 4: "224.0.0.0/4", 6: "ff00::/8" };

/** The chain of a container in a network: the same for ADD and DEL without any state. */
export function containerChain(prefix: string, network: string, containerId: string): string {
  const hash = createHash("sha512")
    .update(network + containerId)
    .digest("hex");
  return (prefix + hash).slice(0, HASHED);
}

/** The comment that says whose rules these are; GC reads it back. */
export const ownerComment = (network: string, containerId: string): string =>
  `name: "${network}" id: "${containerId}"`;

/** The container id in a comment of {@link ownerComment} for this network. */
export function commentedId({ args, comment: first }: Rule, network: string): string | undefined {
  const comment = first ?? args[args.indexOf("--comment") + 1] ?? "";
  const at = comment.indexOf(`name: "${network}" id: "`);
  return at < 0 ? undefined : /id: "([^"]*)"$/.exec(comment)?.[1];
}

function rulesOf(
  network: string,
  containerId: string,
  { ip, block }: PodAddress,
): { chain: Rule[]; jump: RuleAt } {
  const comment = ["-m", "comment", "--comment", ownerComment(network, containerId)];
  const own = `${ip}/${block.family === 6 ? 128 : 32}`;
  return {
    chain: [
      { args: ["-d", String(block), ...comment, "-j", "ACCEPT"] },
      { args: ["!", "-d", MULTICAST[block.family], ...comment, "-j", "MASQUERADE"] },
    ],
    jump: {
      table: "nat",
      chain: "POSTROUTING",
      rule: ["-s", own, ...comment, "-j", containerChain("CNI-", network, containerId)],
    },
  };
}

/** Puts the rules in; again is fine. Throws RestoreError, CommandError. */
export async function masquerade(
  ns: NetNs,
  network: string,
  containerId: string,
  addresses: readonly PodAddress[],
): Promise<void> {
  for (const family of [4, 6] as const) {
    const own = addresses.filter(({ block }) => block.family === family);
    if (own.length === 0) continue;
    const iptables = Iptables.open(ns, { family });
    const wanted = own.map((address) => rulesOf(network, containerId, address));
    const chain = {
      table: "nat" as const,
      name: containerChain("CNI-", network, containerId),
      rules: wanted.flatMap((one) => one.chain),
    };
    const lines = wanted.map(({ jump }) => renderRuleLine(jump.chain, { args: [...jump.rule] }));
    await iptables.restore(renderTables([{ table: "nat", chains: [chain], lines }]));
  }
}

/** Whether everything stands as {@link masquerade} made it. */
export async function isMasqueraded(
  ns: NetNs,
  network: string,
  containerId: string,
  addresses: readonly PodAddress[],
): Promise<boolean> {
  const name = containerChain("CNI-", network, containerId);
  for (const address of addresses) {
    const { chain, jump } = rulesOf(network, containerId, address);
    const rules = [jump, ...chain.map(({ args }) => ({ table: "nat" as const, chain: name, rule: args }))];
    if (!(await Iptables.open(ns, { family: address.block.family }).hasRules(rules))) return false;
  }
  return true;
}

/** For taking out: where the machine has no iptables, there are no rules of ours. */
export function iptablesOf(ns: NetNs, family: IpFamily): Iptables | undefined {
  try {
    return Iptables.open(ns, { family });
  } catch {
    return undefined;
  }
}

/** Takes out the rules of those containers of the network that `isDoomed` says; fine when there are none. */
export async function unmasquerade(
  ns: NetNs,
  network: string,
  isDoomed: (containerId: string) => boolean,
): Promise<void> {
  for (const family of [4, 6] as const) {
    const iptables = iptablesOf(ns, family);
    if (!iptables) continue;
    const nat = (await iptables.read("nat")).get("nat");
    const isStale = (rule: Rule) => {
      const id = commentedId(rule, network);
      return id !== undefined && isDoomed(id);
    };
    // By their own rules: the jumps may be gone, when somebody has flushed POSTROUTING.
    const stale = [...(nat?.values() ?? [])]
      .filter(({ name, rules }) => CHAIN.test(name) && rules.some(isStale))
      .map(({ name }) => name);
    const jumps = (nat?.get("POSTROUTING")?.rules ?? []).filter(
      (rule) => CHAIN.test(rule.args.at(-1) ?? "") && isStale(rule),
    );
    const lines = jumps.map((rule) => renderRuleLine("POSTROUTING", rule, "-D"));
    if (lines.length + stale.length === 0) continue;
    await iptables.restore(renderTables([{ table: "nat", chains: [], lines, deleteChains: stale }]));
  }
}
