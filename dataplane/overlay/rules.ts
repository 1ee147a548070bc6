// flannel's iptables rules: masquerade what leaves the pod network, never what stays in it; let it be forwarded. The
// same for both families. Which rules is pure; ensureRules and removeRules put them in and take them out.

import type { Cidr, IpFamily } from "../../common/ip.js";
import {
  type Chain,
  type IptablesDriver,
  type RuleAt,
  renderRuleLine,
  renderTables,
} from "../iptables/index.js";

export const POSTRTG = "FLANNEL-POSTRTG";
export const FWD = "FLANNEL-FWD";
/** kube-proxy's mark for "masquerade this". */
const KUBE_MARK = "0x4000/0x4000";
const MULTICAST: Record<IpFamily, string> = { 4: "224.0.0.0/4", 6: "ff00::/8" };

export interface RuleFacts {
  network: Cidr;
  podCIDR: Cidr;
  /** Whether this iptables knows MASQUERADE --random-fully. */
  randomFully: boolean;
}

/** flannel's chains with their rules in flannel's order. */
export function chains({ network, podCIDR, randomFully }: RuleFacts): Chain[] {
  const [n, p] = [String(network), String(podCIDR)];
  const masq = (...match: string[]) => [...match, "-m", "comment", "--comment", "flanneld masq", "-j"];
  const forward = (...match: string[]) => [...match, "-m", "comment", "--comment", "flanneld forward", "-j"];
  const masquerade = ["MASQUERADE", ...(randomFully ? ["--random-fully"] : [])];
  return [
    {
      table: "filter",
      name: FWD,
      rules: [{ args: [...forward("-s", n), "ACCEPT"] }, { args: [...forward("-d", n), "ACCEPT"] }],
    },
    {
      table: "nat",
      name: POSTRTG,
      rules: [
        // kube-proxy has decided already; twice would be a bug on some kernels.
        { args: [...masq("-m", "mark", "--mark", KUBE_MARK), "RETURN"] },
        // Pod to pod: the source address stays the pod's own.
        { args: [...masq("-s", p, "-d", n), "RETURN"] },
        { args: [...masq("-s", n, "-d", p), "RETURN"] },
        // From outside to a pod of this host: it shall see who asks.
        { args: [...masq("!", "-s", n, "-d", p), "RETURN"] },
        // Pods out into the world, but not to multicast.
        { args: [...masq("-s", n, "!", "-d", MULTICAST[network.family]), ...masquerade] },
        // From this host into the overlay.
        { args: [...masq("!", "-s", n, "-d", n), ...masquerade] },
      ],
    },
  ];
}

/** The jumps, at the end of the built-in chains. */
export const JUMPS: readonly RuleAt[] = [
  {
    table: "filter",
    chain: "FORWARD",
    rule: ["-m", "comment", "--comment", "flanneld forward", "-j", FWD],
  },
  {
    table: "nat",
    chain: "POSTROUTING",
    rule: ["-m", "comment", "--comment", "flanneld masq", "-j", POSTRTG],
  },
];

/** Puts missing rules back; returns whether anything had to be done. Throws RestoreError, CommandError. */
export async function ensureRules(
  iptables: IptablesDriver,
  facts: Omit<RuleFacts, "randomFully">,
): Promise<boolean> {
  const wanted = chains({ ...facts, randomFully: iptables.randomFully });
  const rules = wanted.flatMap(({ table, name, rules: own }) =>
    own.map(({ args }): RuleAt => ({ table, chain: name, rule: args })),
  );
  if (await iptables.hasRules([...rules, ...JUMPS])) return false;
  const kernel = await iptables.read();
  const missing = JUMPS.filter(({ table, chain, rule }) => {
    const present = kernel.get(table)?.get(chain)?.rules ?? [];
    return !present.some(({ args }) => args.at(-1) === rule.at(-1));
  });
  const input = (["filter", "nat"] as const).map((table) => ({
    table,
    chains: wanted.filter((chain) => chain.table === table),
    lines: missing
      .filter((jump) => jump.table === table)
      .map(({ chain, rule }) => renderRuleLine(chain, { args: [...rule] })),
  }));
  await iptables.restore(renderTables(input), { before: kernel });
  return true;
}

/** Takes jumps and chains out; fine when they are gone. */
export async function removeRules(iptables: IptablesDriver): Promise<void> {
  for (const { table, chain, rule } of JUMPS) await iptables.deleteRule(table, chain, rule);
  await iptables.deleteChain("filter", FWD);
  await iptables.deleteChain("nat", POSTRTG);
}
