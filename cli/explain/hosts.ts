// What a host of the lab decides by: its rules, its addresses and routes.
// Knows the lab's socket and ip(8) of the host; what the texts mean is dataplane's business.

import { Writable } from "node:stream";
import { remoteCommand } from "../../client/remote-command.js";
import type { ChainAt, Printout } from "../../dataplane/iptables/index.js";
import {
  HOST_FACTS_SCRIPT,
  type Host,
  type Packet,
  parseHost,
  type Trace,
} from "../../dataplane/trace/index.js";
import type { RulesQuery } from "../../lab/server.js";
import type { ClusterInfo } from "../../lab/types.js";
import { requestJson } from "../../lab/unix-http.js";
import { explained } from "../clusters.js";
import { LazyRules } from "./lazy-rules.js";

/** What is known of a host, of one family. */
export interface HostState {
  readonly facts: Host;
  /** The packet's ways by the host's rules, see {@link LazyRules.walk}. */
  walk(packet: Packet): Promise<Trace>;
}

/** Where the nft form is not ours, iptables-save reads, which may take minutes for 10,000 Services. */
const READ_TIMEOUT_MS = 600_000;

/**
 * Addresses and routes now, rules when a packet comes to them.
 * @throws Error with what the programs say, or that the cluster does not run; so does {@link HostState.walk}.
 */
export async function readHost(info: ClusterInfo, host: string, family: 4 | 6): Promise<HostState> {
  const facts = parseHost(await output(info, host, ["sh", "-c", HOST_FACTS_SCRIPT]), family);
  const rules = new LazyRules((chains) => readRules(info, host, family, chains));
  return { facts, walk: (packet) => rules.walk(facts, packet) };
}

/** The host's rules, all or the given chains, as iptables-save prints them. Throws as {@link readHost}. */
export async function readRules(
  info: ClusterInfo,
  host: string,
  family: 4 | 6,
  chains?: readonly ChainAt[],
): Promise<Printout> {
  const body: RulesQuery = { family, ...(chains && { chains }) };
  const path = `/hosts/${encodeURIComponent(host)}/rules`;
  const { labSocket: socketPath } = info;
  try {
    return await requestJson({ socketPath, method: "POST", path, body, timeoutMs: READ_TIMEOUT_MS });
  } catch (error) {
    throw explained(error, info.name);
  }
}

async function output(info: ClusterInfo, host: string, command: readonly string[]): Promise<string> {
  const [stdout, stderr] = [collector(), collector()];
  const path = `/hosts/${encodeURIComponent(host)}/exec`;
  let code: number;
  try {
    code = await remoteCommand({ socketPath: info.labSocket, path, command, stdout, stderr });
  } catch (error) {
    throw explained(error, info.name);
  }
  if (code !== 0) throw new Error(`${command[0]} on ${host} ended with ${code}: ${stderr.text().trim()}`);
  return stdout.text();
}

function collector(): Writable & { text(): string } {
  const chunks: Buffer[] = [];
  const stream = new Writable({
    write(chunk: Buffer, _encoding, done) {
      chunks.push(chunk);
      done();
    },
  });
  return Object.assign(stream, { text: () => Buffer.concat(chunks).toString() });
}
