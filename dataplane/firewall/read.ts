// Reads what filters packets in a network namespace: iptables in both its forms, and the tables of nf_tables that are
// not iptables'. Changes nothing; loads no module, which the tools of the other form would do where they have no rules.

import { readFileSync } from "node:fs";
import type { IpFamily } from "../../common/ip.js";
import { askNft, Iptables, TABLES, type Variant } from "../iptables/index.js";
import { CommandError } from "../kernel/command.js";
import type { NetNs } from "../kernel/netns.js";
import type { Filters, IptablesFilter } from "./findings.js";
import { type NftTable, parseTable } from "./nft-rules.js";

const NFT_TIMEOUT_MS = 10_000;
const LEGACY_TABLES: Record<IpFamily, string> = {
  4: "/proc/net/ip_tables_names",
  6: "/proc/net/ip6_tables_names",
};

export class FilterReader {
  readonly #ns: NetNs;
  readonly #family: IpFamily;
  /** Undefined on a machine without, as one may be that is not a node. */
  readonly #own: Iptables | undefined;
  #known: { version: number; filters: Filters } | undefined;

  constructor(ns: NetNs, family: IpFamily) {
    this.#ns = ns;
    this.#family = family;
    try {
      this.#own = Iptables.open(ns, { family });
    } catch {
      this.#own = undefined;
    }
  }

  /** As they are now. Read again only when something has changed. @throws CommandError, RestoreError, NetlinkError. */
  async read(): Promise<Filters> {
    const hasLegacy = this.#legacyTables().includes("filter");
    const version = askNft(this.#ns, this.#family, (kernel) => kernel.generation());
    // Legacy rules have no version.
    const known = hasLegacy ? undefined : this.#known;
    if (known && known.version === version) return known.filters;
    const unread: string[] = [];
    const filters = {
      iptables: await this.#iptables(hasLegacy, unread),
      tables: await this.#tables(unread),
      unread,
    };
    this.#known = version === undefined ? undefined : { version, filters };
    return filters;
  }

  #legacyTables(): string[] {
    const path = LEGACY_TABLES[this.#family];
    try {
      return this.#ns.run(() => readFileSync(path, "utf8")).split("\n");
    } catch {
      // No module, or no right to look: then there are none to be seen either.
      return [];
    }
  }

  async #iptables(hasLegacy: boolean, unread: string[]): Promise<IptablesFilter[]> {
    if (!this.#own) return [];
    const { variant } = this.#own;
    const base = this.#family === 6 ? "ip6tables" : "iptables";
    const filters = [{ command: base, own: true, rules: await this.#own.read("filter") }];
    const other: Variant = variant === "nft" ? "legacy" : "nft";
    const isThere = other === "legacy" ? hasLegacy : this.#nftTables(this.#family).includes("filter");
    if (!isThere) return filters;
    const command = `${base}-${other}`;
    try {
      const driver = Iptables.open(this.#ns, { family: this.#family, variant: other });
      return [...filters, { command, own: false, rules: await driver.read("filter") }];
    } catch (error) {
      unread.push(`there are rules of ${command}, which could not be read: ${(error as Error).message}`);
      return filters;
    }
  }

  #nftTables(family: IpFamily | "inet"): string[] {
    return askNft(this.#ns, family, (kernel) => kernel.tables()) ?? [];
  }

  /** Those that others have made. */
  async #tables(unread: string[]): Promise<NftTable[]> {
    const isForeign = (name: string) => !TABLES.some((table) => table === name);
    const names = [
      ...this.#nftTables("inet").map((name) => ["inet", name] as const),
      ...this.#nftTables(this.#family)
        .filter(isForeign)
        .map((name) => [this.#family === 6 ? "ip6" : "ip", name] as const),
    ];
    const tables: NftTable[] = [];
    for (const [family, name] of names) {
      try {
        const { stdout } = await this.#ns.exec("nft", ["-j", "list", "table", family, name], {
          timeout: NFT_TIMEOUT_MS,
        });
        tables.push(parseTable(family, name, stdout));
      } catch (error) {
        if (!(error instanceof CommandError)) throw error;
        const why = error.exitCode === null ? "nft cannot be run (Debian: nftables)" : error.stderr.trim();
        unread.push(`the nftables table ${family} ${name} could not be looked at: ${why}`);
      }
    }
    return tables;
  }
}
