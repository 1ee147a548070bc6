// Which iptables this machine has: the binaries' paths, variant (nft or legacy) and version, asked once a process.
// Knows file names and version lines only.

import { spawnSync } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { join } from "node:path";

export type Variant = "nft" | "legacy";
export type VariantChoice = "auto" | Variant;

export interface Tools {
  readonly iptables: string;
  readonly restore: string;
  readonly save: string;
  /** What really runs; "auto" is resolved. */
  readonly variant: Variant;
  /** As printed: 1.8.9. */
  readonly version: string;
  /** MASQUERADE takes --random-fully (since 1.6.2). */
  readonly randomFully: boolean;
  /** iptables-restore takes -w (since 1.6.2; means nothing to nft). */
  readonly wait: boolean;
  /** iptables-save reads rules in the form of nft-encode.ts (nft only, since 1.8.7: older ones were not tried). */
  readonly readsNetlinkRules: boolean;
}

// An ordinary user's PATH has no sbin on Debian.
const EXTRA_PATH = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

function locate(name: string): string {
  const folders = [...(process.env.PATH ?? "").split(":").filter(Boolean), ...EXTRA_PATH];
  for (const folder of folders) {
    const path = join(folder, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not in this folder: the next one.
    }
  }
  throw new Error(`${name} was not found in ${folders.join(":")}; install the package "iptables"`);
}

/** Compares dotted version numbers. */
export function atLeast(version: string, wanted: string): boolean {
  const [a, b] = [version.split(".").map(Number), wanted.split(".").map(Number)];
  for (let i = 0; i < b.length; i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0);
    if (difference !== 0) return difference > 0;
  }
  return true;
}

/** Reads "iptables v1.8.9 (nf_tables)"; before 1.8 there was only the legacy variant and no word in brackets. */
export function parseVersion(text: string): { version: string; variant: Variant } {
  const found = /v(\d+(?:\.\d+)+)(?: \((\w+)\))?/.exec(text);
  if (!found?.[1]) throw new Error(`cannot read the version of iptables in ${JSON.stringify(text.trim())}`);
  return { version: found[1], variant: found[2] === "nf_tables" ? "nft" : "legacy" };
}

const known = new Map<string, Tools>();

/**
 * The tools for an address family. "auto" takes `iptables` as the machine has it.
 * @throws Error naming the missing program and the package.
 */
export function findTools(family: 4 | 6, choice: VariantChoice): Tools {
  const base = family === 6 ? "ip6tables" : "iptables";
  const prefix = choice === "auto" ? base : `${base}-${choice}`;
  const cached = known.get(prefix);
  if (cached) return cached;
  const [iptables, restore, save] = [locate(prefix), locate(`${prefix}-restore`), locate(`${prefix}-save`)];
  const asked = spawnSync(iptables, ["--version"], { encoding: "utf8" });
  if (asked.status !== 0) {
    throw new Error(`${iptables} --version failed: ${asked.error?.message ?? asked.stderr.trim()}`);
  }
  const { version, variant } = parseVersion(asked.stdout);
  const modern = atLeast(version, "1.6.2");
  const readsNetlinkRules = variant === "nft" && atLeast(version, "1.8.7");
  const tools = {
    iptables,
    restore,
    save,
    variant,
    version,
    randomFully: modern,
    wait: modern,
    readsNetlinkRules,
  };
  known.set(prefix, tools);
  return tools;
}
