// Takes a packet through iptables' filter table on paper: where, if anywhere, is it stopped? Pure.
// What flannel and kube-proxy put there themselves is thought to be there: it is as soon as the node runs.

import { Cidr } from "../../common/ip.js";
import { type Chain, type Rule, type Ruleset, shapeOf } from "../iptables/index.js";
import { DEVICE } from "../overlay/index.js";
import { chains, JUMPS } from "../overlay/rules.js";
import { type Host, outcomes, type Step, walk } from "../trace/index.js";
import { BRIDGE, type Flow, type Place } from "./needs.js";

/** The last thing that a stopped packet has met. */
export interface IptablesStop {
  readonly chain: string;
  /** `policy DROP`, or the rule from -A on. */
  readonly by: string;
}

/** The table with the overlay's rules at the end of FORWARD, unless they are there. */
export function withOverlayRules(rules: Ruleset, { network, podCIDR }: Place): Ruleset {
  const filter = rules.get("filter") ?? new Map<string, Chain>();
  const [jump] = JUMPS.filter(({ table }) => table === "filter");
  const [own] = chains({ network, podCIDR, randomFully: false }).filter(({ table }) => table === "filter");
  const forward = filter.get("FORWARD") ?? { table: "filter", name: "FORWARD", rules: [] };
  if (!jump || !own || forward.rules.some(({ args }) => args.at(-1) === own.name)) return rules;
  const added: Rule = { args: [...jump.rule] };
  const chain = { ...forward, rules: [...forward.rules, added] };
  return new Map([["filter", new Map([...filter, [own.name, own], ["FORWARD", chain]])]]);
}

/** Undefined: it is let through, or may be. */
export function stoppedByIptables(rules: Ruleset, place: Place, flow: Flow): IptablesStop | undefined {
  const filter = rules.get("filter");
  if (!filter) return undefined;
  const ends = outcomesOf(new Map([["filter", filter]]), place, flow);
  if (ends.some(({ end }) => end.fate !== "dropped" && end.fate !== "rejected")) return undefined;
  const last = (ends.find(({ assuming }) => assuming.length === 0) ?? ends.at(-1))?.steps.at(-1);
  return last && stopOf(last);
}

function outcomesOf(rules: Ruleset, place: Place, flow: Flow): ReturnType<typeof outcomes> {
  try {
    return outcomes(walk(rules, hostOf(place), flow.packet));
  } catch (error) {
    // So many ways that nobody can say which it goes: none of them is an end that is known.
    if (error instanceof RangeError) return [];
    throw error;
  }
}

function stopOf(step: Step): IptablesStop | undefined {
  if (step.kind === "policy") return { chain: step.chain, by: `policy ${step.policy}` };
  if (step.kind === "rule") return { chain: step.chain, by: `-A ${step.chain} ${step.rule.args.join(" ")}` };
  return undefined;
}

function hostOf({ family, uplink, ip, network, podCIDR }: Place): Host {
  const full = family === 6 ? 128 : 32;
  const address = (on: string, device: string) =>
    ({ ip: on, prefix: full, device, scope: "global" }) as const;
  return {
    addresses: [
      address(ip, uplink),
      address(podCIDR.at(1), BRIDGE),
      address(podCIDR.network, DEVICE[family]),
    ],
    routes: [
      { to: String(podCIDR), device: BRIDGE },
      { to: String(network), device: DEVICE[family] },
      { to: family === 6 ? "::/0" : "0.0.0.0/0", device: uplink },
    ],
    forwarding: true,
    routeLocalnet: false,
  };
}

/** Source addresses that rules of the table name: of each block the first. */
export function namedSources(rules: Ruleset): string[] {
  const found = [...(rules.get("filter")?.values() ?? [])].flatMap((chain) =>
    chain.rules.flatMap((rule) => {
      const source = shapeOf(rule).base.get("-s");
      return source && !source.not ? source.values.slice(0, 1) : [];
    }),
  );
  return [...new Set(found)].flatMap((text) => {
    if (!text.includes("/")) return [text];
    try {
      const block = Cidr.parse(text);
      return [block.size > 1n ? block.at(1) : block.network];
    } catch {
      // A mask that is no prefix length.
      return [];
    }
  });
}
