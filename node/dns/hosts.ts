// The plugin "hosts": names and addresses from lines of a hosts file. Pure.

import { isIP } from "node:net";
import { comparableAddress, isWithin, plain, reverseAddress, zoneOf } from "./names.js";
import { bare, type Question, RCODE, type Record, type Reply } from "./reply.js";
import type { HostsSettings } from "./settings.js";

/** The addresses of names in a hosts file, and the names of addresses. */
export interface HostsTable {
  addresses: ReadonlyMap<string, readonly string[]>;
  names: ReadonlyMap<string, readonly string[]>;
}

/** hosts(5): an address and its names a line. Names outside of `zones` are left out. */
export function readHosts(lines: readonly string[], zones: readonly string[]): HostsTable {
  const addresses = new Map<string, string[]>();
  const names = new Map<string, string[]>();
  const add = (map: Map<string, string[]>, key: string, value: string) => {
    const values = map.get(key) ?? [];
    if (!values.includes(value)) values.push(value);
    map.set(key, values);
  };
  for (const line of lines) {
    const [address = "", ...own] = line.replace(/#.*$/, "").trim().split(/\s+/);
    if (isIP(address) === 0) continue;
    for (const name of own.map((one) => plain(one).toLowerCase())) {
      if (!zones.some((zone) => isWithin(name, zone))) continue;
      add(addresses, name, address);
      add(names, comparableAddress(address), name);
    }
  }
  return { addresses, names };
}

/** CoreDNS has no SOA to say NXDOMAIN with: a name of its zones that it lacks is a failure, unless it falls through. */
export function askHosts(
  table: HostsTable,
  { zones, ttl, fallthrough }: HostsSettings,
  { name, type }: Question,
): Reply | undefined {
  const lower = name.toLowerCase();
  const found = (answers: Record[]): Reply => ({ ...bare(RCODE.NOERROR), authoritative: true, answers });
  if (type === "PTR") {
    const names = table.names.get(reverseAddress(lower) ?? "");
    return names && found(names.map((data): Record => ({ name, type, ttl, data })));
  }
  if (zoneOf(name, zones) === undefined) return undefined;
  const addresses = table.addresses.get(lower);
  if (addresses) {
    const family = type === "A" ? 4 : type === "AAAA" ? 6 : 0;
    const own = addresses.filter((one) => isIP(one) === family);
    return found(own.map((data): Record => ({ name, type: family === 4 ? "A" : "AAAA", ttl, data })));
  }
  return zoneOf(name, fallthrough) === undefined ? bare(RCODE.SERVFAIL) : undefined;
}
