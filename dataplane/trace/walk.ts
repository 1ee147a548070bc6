// Takes the first packet of a connection through the rules of one host on paper, in the kernel's order of hooks
// (include/uapi/linux/netfilter_ipv4.h: raw, mangle, nat, filter, security; routing between them).
// Pure. Where a rule asks what nobody can know beforehand, the walk forks.

import type { Chain, Ruleset, TableName } from "../iptables/index.js";
import { matchRule, type View } from "./match.js";
import type { Branch, Effect, End, Fate, Host, Packet, Question, Step, Trace } from "./packet.js";
import { isLocal, isLoopback, LOOPBACK, type NextHop, nextHop } from "./routing.js";
import { effectOf } from "./target.js";

export interface WalkOptions {
  /** Answers for `recent`, by list name; undefined, or no function: both ways are walked. */
  seen?: (list: string) => boolean | undefined;
}

/** More ways than this are no help to anybody: unknown matches double them. */
const MAX_ENDS = 20_000;

type Stage = readonly [TableName, string] | "route" | "leave";

const INCOMING: readonly Stage[] = [
  ["raw", "PREROUTING"],
  ["mangle", "PREROUTING"],
  ["nat", "PREROUTING"],
  "route",
];
const OUTGOING: readonly Stage[] = [
  ["raw", "OUTPUT"],
  ["mangle", "OUTPUT"],
  ["nat", "OUTPUT"],
  "route",
  ["filter", "OUTPUT"],
  ["security", "OUTPUT"],
];
const TO_HOST: readonly Stage[] = [
  ["mangle", "INPUT"],
  ["filter", "INPUT"],
  ["security", "INPUT"],
  ["nat", "INPUT"],
];
const THROUGH: readonly Stage[] = [
  ["mangle", "FORWARD"],
  ["filter", "FORWARD"],
  ["security", "FORWARD"],
];
const OUT: readonly Stage[] = [["mangle", "POSTROUTING"], ["nat", "POSTROUTING"], "leave"];

/** A chain that is being read, and its next rule. */
interface Frame {
  readonly chain: Chain;
  readonly at: number;
}

/** Everything that a fork has to copy. Values are replaced, never changed in place. */
interface State {
  readonly packet: Packet;
  readonly stages: readonly Stage[];
  readonly frames: readonly Frame[];
  readonly hop: NextHop | undefined;
  /** Device names as the hook sees them; "" for none. */
  readonly input: string;
  readonly output: string;
  readonly translated: boolean;
  readonly masqueraded: boolean;
  /** It went out by the loopback device and has come in again: its translation is settled. */
  readonly looped: boolean;
}

/**
 * Every way that the packet may go on the host, as a tree.
 * @throws RangeError for an address that is none, or more than 20,000 ways.
 */
export function walk(rules: Ruleset, host: Host, packet: Packet, options: WalkOptions = {}): Trace {
  return new Walk(rules, host, options).from(packet);
}

class Walk {
  readonly #rules: Ruleset;
  readonly #host: Host;
  readonly #options: WalkOptions;
  #ends = 0;

  constructor(rules: Ruleset, host: Host, options: WalkOptions) {
    this.#rules = rules;
    this.#host = host;
    this.#options = options;
  }

  from(packet: Packet): Trace {
    const { input } = packet;
    const state: State = {
      packet,
      stages: input === undefined ? [...OUTGOING, ...OUT] : INCOMING,
      frames: [],
      hop: undefined,
      input: input ?? "",
      output: "",
      translated: false,
      masqueraded: false,
      looped: false,
    };
    if (input !== undefined) return this.#follow(state);
    // What is made here is routed before any rule sees it.
    const hop = nextHop(this.#host, packet.dst);
    if (!hop) return this.#end(state, "unroutable", `no route to ${packet.dst}`);
    return this.#follow({ ...state, hop, output: hop.device });
  }

  #end(state: State, fate: Fate, why?: string, steps: readonly Step[] = []): Trace {
    if (++this.#ends > MAX_ENDS) throw new RangeError(`the rules leave more than ${MAX_ENDS} ways open`);
    const { packet, translated, masqueraded, hop } = state;
    const end: End = {
      fate,
      packet,
      translated,
      masqueraded,
      ...(fate === "leaves" && hop && { device: hop.device }),
      ...(why !== undefined && { why }),
    };
    return { steps, branches: [], end };
  }

  /** Reads on until something ends the packet's way. Forks that follow one another become one with many branches. */
  #follow(start: State): Trace {
    const steps: Step[] = [];
    const branches: Branch[] = [];
    let state = start;
    let left = 1;
    for (;;) {
      const frame = state.frames.at(-1);
      const rule = frame?.chain.rules[frame.at];
      let answer: boolean | Question = true;
      if (frame && rule) {
        answer = matchRule(rule, this.#view(state));
        if (answer === false) {
          state = skip(state);
          continue;
        }
      } else if (frame && state.frames.length > 1) {
        state = { ...state, frames: state.frames.slice(0, -1) };
        continue;
      } else if (!frame && isPassing(state, this.#rules)) {
        state = { ...state, stages: state.stages.slice(1) };
        continue;
      } else if (frame && (frame.chain.policy ?? "ACCEPT") === "ACCEPT") {
        state = { ...state, frames: [] };
        continue;
      }
      if (typeof answer === "object") {
        const odds = answer.kind === "chance" ? left * answer.probability : left;
        branches.push({ when: answer, odds, trace: this.#take(state) });
        if (answer.kind === "chance") left *= 1 - answer.probability;
        state = skip(state);
        continue;
      }
      // Something certain happens: what is left of the fork is its last branch.
      if (branches.length > 0) {
        branches.push({ odds: left, trace: this.#follow(state) });
        return { steps, branches };
      }
      const next = this.#advance(state);
      if ("steps" in next) return { ...next, steps: [...steps, ...next.steps] };
      if (next.step) steps.push(next.step);
      state = next.state;
    }
  }

  /** The matching rule at hand, and what follows. */
  #take(state: State): Trace {
    const next = this.#advance(state);
    if ("steps" in next) return next;
    const rest = this.#follow(next.state);
    return next.step ? { ...rest, steps: [next.step, ...rest.steps] } : rest;
  }

  #advance(state: State): Trace | { state: State; step?: Step } {
    const frame = state.frames.at(-1);
    const rule = frame?.chain.rules[frame.at];
    if (!frame) return this.#stage(state);
    const { table, name, policy = "" } = frame.chain;
    if (!rule)
      return this.#end(state, "dropped", undefined, [{ kind: "policy", table, chain: name, policy }]);
    const view = this.#view(state);
    const towards = state.hop?.via ?? state.packet.dst;
    const effect = effectOf(rule, this.#rules, table, view, towards);
    const step: Step = { kind: "rule", table, chain: name, number: frame.at + 1, rule, effect };
    return this.#apply(effect, skip(state), step);
  }

  #apply(effect: Effect, state: State, step: Step): Trace | { state: State; step?: Step } {
    const { packet, frames } = state;
    const done: State = { ...state, frames: [] };
    switch (effect.kind) {
      case "continue":
        return { state, step };
      case "accept":
        return { state: done, step };
      case "drop":
        return this.#end(state, "dropped", undefined, [step]);
      case "reject":
        return this.#end(state, "rejected", undefined, [step]);
      case "unknown":
        return this.#end(state, "unknown", effect.what, [step]);
      case "mark":
        return { state: { ...state, packet: { ...packet, mark: effect.to } }, step };
      case "dnat": {
        const moved = { ...packet, dst: effect.ip, dport: effect.port };
        return { state: { ...done, packet: moved, translated: true }, step };
      }
      case "snat":
      case "masquerade": {
        const moved = { ...packet, src: effect.source };
        return { state: { ...done, packet: moved, masqueraded: true }, step };
      }
      case "return":
        return { state: { ...state, frames: leave(frames) }, step };
      default: {
        const chain = this.#rules.get((step as { table: TableName }).table)?.get(effect.chain) as Chain;
        const callers = effect.kind === "goto" ? leave(frames) : frames;
        return { state: { ...state, frames: [...callers, { chain, at: 0 }] }, step };
      }
    }
  }

  #stage(state: State): Trace | { state: State; step?: Step } {
    const [stage, ...stages] = state.stages;
    const rest: State = { ...state, stages };
    if (stage === "route") return this.#route(rest);
    if (stage === "leave") return this.#leave(rest);
    if (!stage) return this.#end(rest, "local");
    const [table, name] = stage;
    const chain = this.#rules.get(table)?.get(name) as Chain;
    const output = name === "POSTROUTING" ? (state.hop?.device ?? "") : state.output;
    return { state: { ...rest, output, frames: [{ chain, at: 0 }] } };
  }

  #route(state: State): Trace | { state: State; step?: Step } {
    const { packet, input, stages } = state;
    const made = input === "";
    const refused = made ? this.#refusedOut(packet) : this.#refusedIn(packet, input);
    const hop = nextHop(this.#host, packet.dst);
    if (refused !== undefined) return this.#end(state, "unroutable", refused);
    if (!hop) return this.#end(state, "unroutable", `no route to ${packet.dst}`);
    const step: Step = { kind: "route", dst: packet.dst, ...hop };
    // The rules of OUTPUT go on seeing the device of before the translation (nf_hook_state.out).
    if (made) return { state: { ...state, hop }, step };
    if (hop.local) return { state: { ...state, hop, stages: TO_HOST }, step };
    if (!this.#host.forwarding) return this.#end(state, "unroutable", "the host does not forward", [step]);
    return { state: { ...state, hop, output: hop.device, stages: [...THROUGH, ...OUT, ...stages] }, step };
  }

  /** Martians (net/ipv4/route.c, ip_route_input_slow): loopback addresses do not come in from outside. */
  #refusedIn({ src, dst }: Packet, input: string): string | undefined {
    if (input === LOOPBACK) return undefined;
    for (const ip of [dst, src]) {
      if (!isLoopback(ip) || (this.#host.routeLocalnet && ip !== "::1")) continue;
      return `${ip} must not come in by ${input} (martian)`;
    }
    return undefined;
  }

  /** __mkroute_output: a loopback source leaves only where route_localnet allows it. */
  #refusedOut({ src, dst }: Packet): string | undefined {
    if (!isLoopback(src) || src === "::1" || isLocal(this.#host, dst) || this.#host.routeLocalnet)
      return undefined;
    return `${src} must not leave the host (route_localnet is off)`;
  }

  /** By the loopback device it comes in again, with its mark and its translation. */
  #leave(state: State): Trace | { state: State } {
    if (!state.hop?.local) return this.#end(state, "leaves");
    return { state: { ...state, input: LOOPBACK, output: "", looped: true, stages: INCOMING } };
  }

  #view({ packet, input, output, translated }: State): View {
    return { packet, host: this.#host, input, output, translated, seen: this.#options.seen };
  }
}

function skip(state: State): State {
  const frame = state.frames.at(-1) as Frame;
  return { ...state, frames: [...state.frames.slice(0, -1), { ...frame, at: frame.at + 1 }] };
}

/** Back to the caller; from a built-in chain to its policy, which is at the chain's end. */
function leave(frames: readonly Frame[]): Frame[] {
  const [first, second] = frames;
  return first && !second ? [{ ...first, at: first.chain.rules.length }] : frames.slice(0, -1);
}

/** Nothing can happen at the stage: no such chain, or nat after the translation is settled. */
function isPassing({ stages: [stage], looped }: State, rules: Ruleset): boolean {
  if (!stage || typeof stage === "string") return false;
  const [table, name] = stage;
  return (table === "nat" && looped) || !rules.get(table)?.has(name);
}
