// Names to addresses as a process in the pod would find them: literal, /etc/hosts and the pod's resolver, through
// getent(1) in the pod. Knows one question, caches nothing.

import { isIP } from "node:net";
import type { ContainerContext } from "./types.js";

/** @throws Error "lookup NAME: no such host" as Go words it. */
export async function resolveHost(context: ContainerContext, host: string): Promise<string> {
  const literal = host.replace(/^\[|\]$/g, "");
  if (isIP(literal)) return literal;
  if (literal === "localhost") return "127.0.0.1";
  const database = context.podIPs.some((ip) => !ip.includes(":")) ? "ahostsv4" : "ahostsv6";
  const { exitCode, output } = await context.exec(["getent", database, literal]);
  const address = /^(\S+)/.exec(output)?.[1];
  if (exitCode !== 0 || !address) throw new Error(`lookup ${literal}: no such host`);
  return address;
}

/** "host:port" taken apart. @throws Error worded as Go's net.SplitHostPort. */
export function splitHostPort(text: string): { host: string; port: number } {
  const match = /^(\[[^\]]+\]|[^:]*):(\d+)$/.exec(text);
  if (!match) throw new Error(`address ${text}: missing port in address`);
  return { host: (match[1] ?? "").replace(/^\[|\]$/g, ""), port: Number(match[2]) };
}
