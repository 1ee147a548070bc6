// A story as a tree for people: rules in the order in which they are met, forks with their odds, and at the end who
// gets the packet and what source address it sees. Pure.

import { KUBE_EXTERNAL_SERVICES, KUBE_SERVICES } from "../../dataplane/proxy/names.js";
import {
  type Branch,
  type End,
  type Names,
  noteOf,
  placeText,
  type Question,
  type Step,
  type Trace,
} from "../../dataplane/trace/index.js";
import type { Style } from "../style.js";
import { formatTable, visibleLength } from "../table.js";
import { endpointsText } from "./question.js";
import { keptReason, type Leg, masqueradeReason, type Result, type Story } from "./story.js";

/** A line of a tree: what hangs below it, and words beside it. */
interface Item {
  readonly text: string;
  readonly note?: string;
  readonly below?: readonly Item[];
}

/** The column of notes does not begin further right than this. */
const WIDEST = 46;

export function storyText(story: Story, names: Names, style: Style): string {
  const teller = new Teller(story, names, style);
  return [teller.head(), ...teller.legs(story.leg), teller.result()].join("\n");
}

class Teller {
  readonly #story: Story;
  readonly #names: Names;
  readonly #style: Style;

  constructor(story: Story, names: Names, style: Style) {
    this.#story = story;
    this.#names = names;
    this.#style = style;
  }

  head(): string {
    const { destination, source, leg } = this.#story;
    const { way, state, port, protocol } = destination;
    const to = `${address(leg.packet.dst, port)}/${protocol.toUpperCase()}`;
    const name = state?.port.portName;
    const service =
      state && `Service ${this.#style.bold(state.port.service)}${name ? `, port ${name}` : ""}: ${way} ${to}`;
    const from = {
      node: () => leg.host,
      pod: () => source.kind === "pod" && `pod ${source.pod} on ${leg.host}`,
      external: () => "outside the cluster",
    }[source.kind]();
    return `${service ?? `${to}: ${placeText(this.#names, leg.packet.dst)}, the address of no Service`}\nfrom ${from} (${leg.packet.src})\n`;
  }

  legs(leg: Leg): string[] {
    const { host, packet, onward } = leg;
    const way = `${packet.src} → ${address(packet.dst, packet.dport)}`;
    const by = packet.input === undefined ? "made on the host" : `in by ${packet.input}`;
    const title = `${this.#style.bold(host)}  ${way}  ${this.#style.dim(by)}`;
    const text = `${title}\n${this.#tree(this.#items(leg.trace, onward))}`;
    return [text, ...onward.flatMap((one) => this.legs(one.leg))];
  }

  #items(trace: Trace, onward: Leg["onward"]): Item[] {
    const steps = withoutFruitless(trace.steps, trace);
    const items = steps.map((step) => this.#step(step));
    if (trace.end) items.push(this.#end(trace.end, onward));
    if (trace.branches.length > 0) items.push(...this.#fork(trace.branches, onward));
    return items;
  }

  #step(step: Step): Item {
    if (step.kind === "policy") {
      return {
        text: `${step.table} ${step.chain}`,
        note: this.#style.red(`the chain's policy: ${step.policy}`),
      };
    }
    if (step.kind === "route") {
      const { dst, local, device, via } = step;
      const note = local ? `${dst} is this host itself` : `to ${dst} by ${device}${via ? ` via ${via}` : ""}`;
      return { text: "routing", note };
    }
    const { effect } = step;
    const note = noteOf(step, this.#names);
    const paint =
      effect.kind === "drop" || effect.kind === "reject"
        ? this.#style.red
        : effect.kind === "dnat"
          ? this.#style.green
          : effect.kind === "masquerade" || effect.kind === "snat"
            ? this.#style.yellow
            : (text: string) => text;
    const verdict = effect.kind === "drop" ? "DROP" : effect.kind === "reject" ? "REJECT" : "";
    const words = [verdict, effect.kind === "unknown" ? `not known here: ${effect.what}` : note].filter(
      Boolean,
    );
    return { text: `${step.table} ${step.chain} ${step.number}`, note: paint(words.join(": ")) };
  }

  #end(end: End, onward: Leg["onward"]): Item {
    const next = onward.find((one) => one.end === end);
    const to = address(end.packet.dst, end.packet.dport);
    const from = `from ${end.packet.src}`;
    const text = {
      local: `delivered on the host, ${from}`,
      leaves: next
        ? `out by ${end.device}, on to ${next.leg.host}`
        : `out by ${end.device} to ${to}, ${from}`,
      dropped: "dropped: the client gets no answer",
      rejected: "refused: the client is told at once",
      unroutable: `goes nowhere: ${end.why}`,
      unknown: `unknown from here on: ${end.why}`,
    }[end.fate];
    return { text: this.#style.bold(text) };
  }

  /** Branches that differ in nothing but their endpoint have the rest of their way told once. */
  #fork(branches: readonly Branch[], onward: Leg["onward"]): Item[] {
    const again = branches.filter(({ when }) => when?.kind === "seen");
    const others = branches.filter(({ when }) => when?.kind !== "seen");
    const parts = others.map(({ trace }) => splitAtTranslation(trace));
    const [first] = parts;
    const alike = first && others.length > 1 && parts.every((part) => part?.key === first.key);
    const below: Item[] = others.map((branch, index) => {
      const head = alike ? parts[index]?.head.map((step) => this.#step(step)) : undefined;
      return {
        text: others.length === 1 ? "any other" : this.#label(branch),
        below: head ?? this.#items(branch.trace, onward),
      };
    });
    if (again.length > 0) below.unshift(affinityItem(again));
    const isChance = others.length > 1 && others.every(({ when }) => !when || when.kind === "chance");
    const fork = isChance ? "by chance, one of" : "one of";
    const items: Item[] = [{ text: fork, below }];
    if (!alike) return items;
    const tail = withoutFruitless(first.tail, {});
    for (const step of tail) {
      items.push(
        step.kind === "route" ? { text: "routing", note: "to the endpoint, see below" } : this.#step(step),
      );
    }
    const isSent = first.end.fate === "leaves" || first.end.fate === "local";
    items.push(isSent ? { text: this.#style.bold("on to the endpoint") } : this.#end(first.end, onward));
    return items;
  }

  #label({ when, odds }: Branch): string {
    if (when?.kind === "unknown") return `if ${when.what} (not known here)`;
    return percent(odds);
  }

  #tree(items: readonly Item[]): string {
    const rows: [string, string][] = [];
    const add = (list: readonly Item[], indent: string) => {
      for (const [index, { text, note = "", below = [] }] of list.entries()) {
        const last = index === list.length - 1;
        rows.push([`${this.#style.dim(`${indent}${last ? "└─" : "├─"} `)}${text}`, note]);
        add(below, `${indent}${last ? "   " : "│  "}`);
      }
    };
    add(items, "");
    const widths = rows.map(([left, note]) => (note ? visibleLength(left) : 0));
    const width = Math.min(WIDEST, Math.max(0, ...widths));
    const lines = rows.map(([left, note]) => {
      const gap = " ".repeat(Math.max(0, width - visibleLength(left)) + 2);
      return note ? `${left}${gap}${note}` : left;
    });
    return `${lines.join("\n")}\n`;
  }

  result(): string {
    const { results } = this.#story;
    const fresh = results.filter(({ assuming }) => !assuming.some(({ kind }) => kind === "seen"));
    const open = fresh.some(({ assuming }) => assuming.length > 0);
    const rows = merged(fresh).map(([result, odds]) =>
      this.#row(result, `${open ? "≤" : ""}${percent(odds)}`),
    );
    const table = formatTable([["ODDS", "TO", "WHO", "SOURCE IT SEES"], ...rows]);
    const style = this.#style;
    const hints = [
      ...(open ? ["the odds are upper bounds: a rule asks what is not known here"] : []),
      ...this.#reasons(fresh),
      ...this.#affinity(fresh),
      ...this.#unused(fresh),
      ...this.#deadEnd(fresh),
    ];
    return `${table}${hints.map((hint) => `${style.dim("•")} ${hint}\n`).join("")}`;
  }

  #row(result: Result, odds: string): string[] {
    const { end, masqueraded, host } = result;
    const { fate, packet } = end;
    const style = this.#style;
    if (fate === "dropped") return [odds, style.red("dropped"), endedBy(result), ""];
    if (fate === "rejected") return [odds, style.red("refused"), endedBy(result), ""];
    if (fate === "unroutable" || fate === "unknown") return [odds, style.red(fate), end.why ?? "", ""];
    const who = placeText(this.#names, packet.dst);
    const known = who === packet.dst ? (fate === "local" ? `${host} itself` : "") : who;
    const source = `${packet.src} ${masqueraded ? style.yellow("(masqueraded)") : "(the client's own)"}`;
    return [odds, address(packet.dst, packet.dport), known, source];
  }

  /** One line a reason, however many endpoints have it. */
  #reasons(results: readonly Result[]): string[] {
    const delivered = results.filter(({ end }) => end.fate === "leaves" || end.fate === "local");
    const reasons = delivered.map((result) =>
      result.masqueraded
        ? `masqueraded: ${withoutVerb(masqueradeReason(result, this.#names))}`
        : result.translated
          ? `source kept: ${keptReason(this.#story, result)}`
          : `unchanged: no Service rule on its way matches${this.#wrongPort(result)}`,
    );
    return [...new Set(reasons)];
  }

  /** The address is a Service's, but the port is none of its own. */
  #wrongPort({ end }: Result): string {
    const { dst } = end.packet;
    const ports = this.#names.ports.filter(({ port }) =>
      [port.clusterIP, ...port.externalIPs, ...port.loadBalancerIPs].includes(dst),
    );
    if (ports.length === 0) return "";
    const texts = ports.map(({ port }) => `${port.port}/${port.protocol.toUpperCase()}`);
    return `; ${dst} is Service ${ports[0]?.port.service}, whose ports are ${texts.join(", ")}`;
  }

  #affinity(results: readonly Result[]): string[] {
    const seconds = this.#story.destination.state?.port.affinitySeconds;
    if (!seconds || !results.some(({ translated }) => translated)) return [];
    return [`sessionAffinity ClientIP: for ${seconds} s the same client gets the same endpoint again`];
  }

  /** Endpoints that there are, but not for this packet: policy, topology, or their state. */
  #unused(results: readonly Result[]): string[] {
    const { state } = this.#story.destination;
    if (!state || !results.some(({ translated }) => translated)) return [];
    const used = new Set(results.map(({ end: { packet } }) => address(packet.dst, packet.dport)));
    const unused = state.endpoints.filter(({ text }) => !used.has(text));
    return endpointsText(unused, this.#names).map((text) => `not used: ${text}`);
  }

  /** Where a policy or the want of endpoints ends it: who there would have been. */
  #deadEnd(results: readonly Result[]): string[] {
    const { state } = this.#story.destination;
    const ends = results.map(({ steps }) => steps.at(-1)?.step);
    if (!state || !ends.some((step) => step?.kind === "rule" && DEAD_ENDS.includes(step.chain))) return [];
    const { id } = state.port;
    const endpoints = endpointsText(state.endpoints, this.#names);
    if (endpoints.length > 0) return endpoints.map((text) => `endpoint of ${id}: ${text}`);
    return [`${id} has no endpoints at all: no pod matches the selector`];
  }
}

/** Chains of the filter table for Services that have nowhere to send a packet. */
const DEAD_ENDS: readonly string[] = [KUBE_SERVICES, KUBE_EXTERNAL_SERVICES];

function affinityItem(again: readonly Branch[]): Item {
  const [first] = again;
  const when = first?.when as Extract<Question, { kind: "seen" }>;
  const rule = first?.trace.steps[0];
  const place =
    rule?.kind === "rule" ? `${rule.table} ${rule.chain} ${range(rule.number, again.length)}` : "";
  const within = when.seconds === undefined ? "" : ` in the last ${when.seconds} s`;
  return { text: place, note: `ClientIP affinity: a client seen${within} goes where it went` };
}

/** A branch up to its DNAT rule, and what comes after; undefined when it has none, or forks again. */
function splitAtTranslation({ steps, branches, end }: Trace) {
  const at = steps.findIndex((step) => step.kind === "rule" && step.effect.kind === "dnat");
  if (at < 0 || branches.length > 0 || !end) return undefined;
  const [head, tail] = [steps.slice(0, at + 1), steps.slice(at + 1)];
  const met = tail.map((step) =>
    step.kind === "rule" ? `${step.table} ${step.chain} ${step.number}` : step.kind,
  );
  return { head, tail, end, key: `${met.join("\n")}\n${end.fate} ${end.masqueraded}` };
}

/** Without jumps into chains in which nothing matched. */
function withoutFruitless(steps: readonly Step[], { branches = [] }: Partial<Trace>): Step[] {
  return steps.filter((step, index) => {
    if (step.kind !== "rule" || (step.effect.kind !== "jump" && step.effect.kind !== "goto")) return true;
    const next = steps[index + 1] ?? branches[0]?.trace.steps[0];
    return next !== undefined && next.kind !== "route" && next.chain === step.effect.chain;
  });
}

/** Results that look the same in the table are one row; where odds are bounds, their sum is no more than 1. */
function merged(results: readonly Result[]): [Result, number][] {
  const rows = new Map<string, [Result, number]>();
  for (const result of results) {
    const { end, masqueraded, odds } = result;
    const isSent = end.fate === "leaves" || end.fate === "local";
    const { dst, dport, src } = end.packet;
    const key = JSON.stringify(
      isSent ? [dst, dport, src, masqueraded] : [end.fate, endedBy(result), end.why],
    );
    const row = rows.get(key);
    rows.set(key, [row?.[0] ?? result, Math.min(1, (row?.[1] ?? 0) + odds)]);
  }
  return [...rows.values()];
}

/** A note of a rule that asks for masquerading, where that is said already. */
function withoutVerb(note = ""): string {
  return note.replace(/^masquerade: |(:|, so) masquerade$|: masquerade(?=,)/, "");
}

/** `2`, `2–4`. */
function range(first: number, count: number): string {
  return count === 1 ? `${first}` : `${first}–${first + count - 1}`;
}

/** The place of the rule, or the chain, that ended it. */
function endedBy({ steps, host }: Result): string {
  const step = steps.at(-1)?.step;
  if (!step || step.kind === "route") return "";
  return `by ${step.table} ${step.chain}${step.kind === "rule" ? ` ${step.number}` : ""} on ${host}`;
}

function percent(odds: number): string {
  const value = odds * 100;
  return `${Math.abs(value - Math.round(value)) < 0.005 ? Math.round(value) : value.toFixed(1)}%`;
}

function address(ip: string, port: number): string {
  return ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`;
}
