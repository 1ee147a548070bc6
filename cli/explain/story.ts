// Follows one packet from where it begins through the hosts whose rules decide about it, and says what may become of
// it. Knows walks and names; how hosts are read is given, how it is told is print.ts's business.

import {
  type End,
  type Names,
  nextHop,
  noteOf,
  outcomes,
  type Packet,
  type Question,
  type RuleStep,
  routeOf,
  type Step,
  sourceFor,
  type Trace,
} from "../../dataplane/trace/index.js";
import { OUTSIDE as BESIDE } from "../clusters.js";
import type { ClusterView } from "./cluster.js";
import type { HostState } from "./hosts.js";
import type { Destination, Source } from "./question.js";

/** One host's part. */
export interface Leg {
  readonly host: string;
  readonly packet: Packet;
  readonly trace: Trace;
  /** What leaves for another node's own address goes on there. */
  readonly onward: readonly { readonly end: End; readonly leg: Leg }[];
}

/** One thing that may become of the packet, all hosts together. */
export interface Result {
  readonly odds: number;
  readonly assuming: readonly Question[];
  readonly steps: readonly { readonly host: string; readonly step: Step }[];
  /** The host where it ends or leaves for good. */
  readonly host: string;
  readonly end: End;
  /** Its destination, or its source, was replaced on any of the hosts. */
  readonly translated: boolean;
  readonly masqueraded: boolean;
}

export interface Story {
  readonly destination: Destination;
  readonly source: Source;
  readonly leg: Leg;
  readonly results: readonly Result[];
}

/** An address that no cluster has (RFC 5737, RFC 3849): whoever is outside comes in as the world does. */
const OUTSIDE = { 4: "203.0.113.1", 6: "2001:db8::1" } as const;

/** To a node port of another node, and from there to an endpoint in a third node's own network. */
const MORE_HOSTS = 2;

export class Storyteller {
  readonly #view: ClusterView;
  readonly #read: (host: string, family: 4 | 6) => Promise<HostState>;

  constructor(view: ClusterView, read: (host: string, family: 4 | 6) => Promise<HostState>) {
    this.#view = view;
    this.#read = read;
  }

  /** @throws Error when there is no way to begin: no address of the family, no host. */
  async tell(source: Source, destination: Destination): Promise<Story> {
    const { family, port: dport, protocol } = destination;
    const host = await this.#firstHost(source, destination);
    const dst = destination.ip ?? this.#view.nodeIP(host, family);
    if (dst === undefined) throw new Error(`${host} has no IPv${family} address`);
    const { facts } = await this.#read(host, family);
    const base = { protocol, dst, dport };
    let packet: Packet;
    if (source.kind === "node") {
      const src = sourceFor(facts, dst) ?? this.#view.nodeIP(host, family) ?? dst;
      packet = { ...base, src };
    } else if (source.kind === "pod") {
      const src = source.ips.find((ip) => ip.includes(":") === (family === 6));
      if (src === undefined) throw new Error(`pod ${source.pod} has no IPv${family} address`);
      if (src === dst) throw new Error(`${dst} is the pod itself: the packet never leaves it`);
      packet = { ...base, src, input: nextHop(facts, src)?.device ?? "" };
    } else {
      const route = routeOf(facts, OUTSIDE[family]);
      packet = { ...base, src: route?.via ?? OUTSIDE[family], input: route?.device ?? "eth0" };
    }
    const leg = await this.#follow(host, packet, family, MORE_HOSTS);
    return { destination, source, leg, results: resultsOf(leg) };
  }

  /** From outside: the node that is addressed, that an address of a load balancer leads to, else any. */
  async #firstHost(source: Source, { ip, way, family }: Destination): Promise<string> {
    let host = source.kind === "external" ? ip && this.#view.nodeWith(ip) : source.node;
    if (!host && ip && way === "load balancer") {
      const { facts } = await this.#read(BESIDE, family);
      const via = routeOf(facts, ip)?.via;
      host = via && this.#view.nodeWith(via);
    }
    const first = host ?? this.#view.hosts[0];
    if (first === undefined) throw new Error("the cluster has no hosts");
    return first;
  }

  /** `further`: how many more hosts may be gone through. */
  async #follow(host: string, packet: Packet, family: 4 | 6, further: number): Promise<Leg> {
    const trace = await (await this.#read(host, family)).walk(packet);
    const onward: { end: End; leg: Leg }[] = [];
    for (const { end } of further > 0 ? outcomes(trace) : []) {
      const next = end.fate === "leaves" ? this.#view.nodeWith(end.packet.dst) : undefined;
      if (next === undefined || next === host || !this.#view.hosts.includes(next)) continue;
      const there = await this.#read(next, family);
      const { mark: _, ...sent } = end.packet;
      const arriving = { ...sent, input: nextHop(there.facts, sent.src)?.device ?? "" };
      onward.push({ end, leg: await this.#follow(next, arriving, family, further - 1) });
    }
    return { host, packet, trace, onward };
  }
}

function resultsOf({ host, trace, onward }: Leg): Result[] {
  return outcomes(trace).flatMap(({ odds, assuming, steps, end }) => {
    const own = steps.map((step) => ({ host, step }));
    const next = onward.find((one) => one.end === end);
    const { translated, masqueraded } = end;
    if (!next) return [{ odds, assuming, steps: own, host, end, translated, masqueraded }];
    return resultsOf(next.leg).map((rest) => ({
      ...rest,
      odds: odds * rest.odds,
      assuming: [...assuming, ...rest.assuming],
      steps: [...own, ...rest.steps],
      translated: translated || rest.translated,
      masqueraded: masqueraded || rest.masqueraded,
    }));
  });
}

/** Why the source address is replaced, in words of the rule that asked for it. */
export function masqueradeReason(result: Pick<Result, "steps">, names: Names): string | undefined {
  const rules = result.steps.flatMap(({ step }) => (step.kind === "rule" ? [step] : []));
  const replaced = rules.findLastIndex(
    ({ effect }) => effect.kind === "masquerade" || effect.kind === "snat",
  );
  const asked = rules
    .slice(0, replaced)
    .findLastIndex(({ effect }) => effect.kind === "mark" && effect.to > effect.from);
  const isKubes = rules[replaced]?.chain === "KUBE-POSTROUTING";
  const rule: RuleStep | undefined = isKubes && asked > 0 ? rules[asked - 1] : rules[replaced];
  return rule && noteOf(rule, names);
}

/** Why nothing was replaced: what the rules would have asked for. */
export function keptReason(
  { source, destination }: Pick<Story, "source" | "destination">,
  result: Result,
): string {
  const chains = result.steps.flatMap(({ step }) => (step.kind === "rule" ? [step.chain] : []));
  if (!result.translated) return "no rule replaced it";
  const external = chains.some((chain) => chain.startsWith("KUBE-EXT-"));
  if (external && chains.some((chain) => chain.startsWith("KUBE-SVL-"))) {
    return "externalTrafficPolicy Local keeps the client's address";
  }
  if (source.kind === "pod") return "pods keep their address inside the cluster";
  return destination.way === "ClusterIP"
    ? "nothing tells clients outside from pods here"
    : "no rule asked for it";
}

/** The outcome as data, without the parts that only a tree needs. */
export function resultJson(story: Story, result: Result, names: Names): object {
  const { odds, assuming, end, host, steps, translated, masqueraded } = result;
  const { packet } = end;
  const place = names.places.get(packet.dst) ?? {};
  return {
    odds,
    ...(assuming.length > 0 && { assuming }),
    fate: end.fate,
    ...(end.why !== undefined && { why: end.why }),
    host,
    ...(end.device !== undefined && { device: end.device }),
    destination: { ip: packet.dst, port: packet.dport, ...place },
    translated,
    source: packet.src,
    masqueraded,
    reason: masqueraded ? masqueradeReason(result, names) : keptReason(story, result),
    steps: steps.map(({ host: at, step }) =>
      step.kind === "rule"
        ? {
            host: at,
            ...step,
            rule: step.rule.args.join(" "),
            comment: step.rule.comment,
            note: noteOf(step, names),
          }
        : { host: at, ...step },
    ),
  };
}
