// What the target of a matching rule does to a packet.
// Pure; iptables-extensions(8). A target that is not known here is told as such.

import { ipFamily } from "../../common/ip.js";
import type { Rule, Ruleset, TableName } from "../iptables/index.js";
import { shape, type View } from "./match.js";
import type { Effect } from "./packet.js";
import { addressOn } from "./routing.js";

/** Targets that look at the packet and let it go on. */
const WATCHERS = new Set(["LOG", "NFLOG", "TRACE", "ULOG", "AUDIT"]);

/** `nextHop` is the address that the packet is handed to, for the choice of a source address. */
export function effectOf(rule: Rule, rules: Ruleset, table: TableName, view: View, nextHop: string): Effect {
  const { target } = shape(rule);
  if (!target || WATCHERS.has(target.name)) return { kind: "continue" };
  const { name, options } = target;
  const value = (option: string) => options.get(option)?.values[0] ?? "";
  const unknown: Effect = { kind: "unknown", what: rule.args.slice(rule.args.lastIndexOf("-j")).join(" ") };
  if (name === "ACCEPT" || name === "DROP" || name === "RETURN") {
    return { kind: name.toLowerCase() as "accept" | "drop" | "return" };
  }
  if (name === "REJECT") return { kind: "reject", with: value("--reject-with") };
  if (name === "MARK") {
    const from = view.packet.mark ?? 0;
    const [set = 0, mask = 0] = value("--set-xmark").split("/").map(Number);
    return options.has("--set-xmark") ? { kind: "mark", from, to: ((from & ~mask) ^ set) >>> 0 } : unknown;
  }
  if (name === "DNAT") return destination(value("--to-destination"), view) ?? unknown;
  if (name === "REDIRECT") return redirection(value("--to-ports"), view) ?? unknown;
  if (name === "MASQUERADE") {
    const source = addressOn(view.host, view.output, nextHop);
    return source === undefined ? { kind: "drop" } : { kind: "masquerade", source };
  }
  if (name === "SNAT") {
    const source = value("--to-source").replace(/^\[(.*)\].*$/, "$1");
    const [ip = ""] = ipFamily(source) === 6 ? [source] : source.split(":");
    return ipFamily(ip) ? { kind: "snat", source: ip } : unknown;
  }
  if (rules.get(table)?.has(name)) return { kind: target.goto ? "goto" : "jump", chain: name };
  return unknown;
}

/** `10.0.0.1:80`, `10.0.0.1`, `[fd00::1]:80`, `fd00::1`; undefined for ranges. */
function destination(text: string, { packet }: View): Effect | undefined {
  const [, six, four, port] = /^(?:\[([^\]]+)\]|([^:]+))(?::(\d+))?$/.exec(text) ?? [];
  const ip = six ?? four ?? text;
  return ipFamily(ip) ? { kind: "dnat", ip, port: port ? Number(port) : packet.dport } : undefined;
}

/** To this host itself: the address of the device that the packet came in by, loopback for its own packets. */
function redirection(ports: string, { packet, host, input }: View): Effect | undefined {
  const family = ipFamily(packet.dst);
  const loopback = family === 6 ? "::1" : "127.0.0.1";
  const own = host.addresses.find((one) => one.device === input && ipFamily(one.ip) === family);
  const ip = input === "" ? loopback : own?.ip;
  const port = ports === "" ? packet.dport : Number(ports);
  return ip === undefined || Number.isNaN(port) ? undefined : { kind: "dnat", ip, port };
}
