// What a host of the lab decides by: its rules and its addresses and routes, read in one go.
// Knows the lab's exec protocol and two programs of the host; what the texts mean is dataplane's business.

import { Writable } from "node:stream";
import { remoteCommand } from "../../client/remote-command.js";
import { parseSave, type Ruleset } from "../../dataplane/iptables/index.js";
import { HOST_FACTS_SCRIPT, type Host, parseHost } from "../../dataplane/trace/index.js";
import type { ClusterInfo } from "../../lab/types.js";
import { explained } from "../clusters.js";

export interface HostState {
  readonly rules: Ruleset;
  readonly facts: Host;
}

const SEPARATOR = "=== rules end here ===";

/**
 * Rules and facts of one family.
 * @throws Error with what the programs say, or that the cluster does not run.
 */
export async function readHost(info: ClusterInfo, host: string, family: 4 | 6): Promise<HostState> {
  const save = family === 4 ? "iptables-save" : "ip6tables-save";
  const script = `${save} || exit\necho '${SEPARATOR}'\n${HOST_FACTS_SCRIPT}`;
  const [rules = "", facts = ""] = (await output(info, host, ["sh", "-c", script])).split(`${SEPARATOR}\n`);
  return { rules: parseSave(rules), facts: parseHost(facts, family) };
}

/** What iptables-save prints on the host, all tables. Throws as {@link readHost}. */
export function readRules(info: ClusterInfo, host: string, family: 4 | 6): Promise<string> {
  return output(info, host, [family === 4 ? "iptables-save" : "ip6tables-save"]);
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
