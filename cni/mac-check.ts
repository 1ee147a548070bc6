// macspoofchk: frames that come from a pod's port with another source MAC than the pod's are dropped, by one rule of
// nftables a port. Knows the program nft and its words.

import { CommandError } from "../dataplane/kernel/command.js";
import type { NetNs } from "../dataplane/kernel/netns.js";
import { CniError, CODE } from "./types.js";

/** A table of our own: `bridge nat`, the reference plugin's, is ebtables' too. */
const CHAIN = "bridge kubeplumb-cni macspoofchk";
const PREPARE = [
  "add table bridge kubeplumb-cni",
  `add chain ${CHAIN} { type filter hook prerouting priority -300; policy accept; }`,
];
const RULE = /iifname "([^"]+)" ether saddr != ([0-9a-f:]+) drop comment "([^"]*)" # handle (\d+)/;
/** Of a comment, by nft's limit. */
const MAX_COMMENT = 128;

interface MacRule {
  port: string;
  mac: string;
  comment: string;
  handle: string;
}

const commentOf = (network: string): string => network.slice(0, MAX_COMMENT);

/** Throws CniError 100 where nft is missing or refuses. */
export async function checkMac(ns: NetNs, network: string, port: string, mac: string): Promise<void> {
  const rule = `add rule ${CHAIN} iifname "${port}" ether saddr != ${mac} drop comment "${commentOf(network)}"`;
  await nft(ns, ["-f", "-"], [...PREPARE, rule].join("\n"));
}

export async function isMacChecked(ns: NetNs, port: string, mac: string): Promise<boolean> {
  return (await rulesOf(ns)).some((rule) => rule.port === port && rule.mac === mac);
}

/** Takes out the rules of those ports of the network that `isDoomed` says; fine when there are none. */
export async function uncheckMac(
  ns: NetNs,
  network: string,
  isDoomed: (port: string) => boolean,
): Promise<void> {
  const doomed = (await rulesOf(ns)).filter(
    ({ port, comment }) => comment === commentOf(network) && isDoomed(port),
  );
  if (doomed.length === 0) return;
  const lines = doomed.map(({ handle }) => `delete rule ${CHAIN} handle ${handle}`);
  await nft(ns, ["-f", "-"], lines.join("\n"));
}

/** None where there is no such chain, or no nft. */
async function rulesOf(ns: NetNs): Promise<MacRule[]> {
  const { stdout } = await ns
    .exec("nft", ["-a", "list", "chain", ...CHAIN.split(" ")])
    .catch((error: unknown) => {
      if (error instanceof CommandError) return { stdout: "" };
      throw error;
    });
  return stdout.split("\n").flatMap((line) => {
    const [, port = "", mac = "", comment = "", handle = ""] = RULE.exec(line) ?? [];
    return handle === "" ? [] : [{ port, mac, comment, handle }];
  });
}

async function nft(ns: NetNs, args: string[], input: string): Promise<void> {
  try {
    await ns.exec("nft", args, { input });
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw new CniError(CODE.kernel, `macspoofchk: ${error.message}`, { details: input, cause: error });
  }
}
