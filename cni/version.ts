// Versions of the CNI protocol: which there are, and how a result looks in each. Pure.

import { ipFamily } from "../common/ip.js";
import { CniError, type CniIp, type CniResult, type CniRoute, CODE } from "./types.js";

/** Oldest first. */
export const SUPPORTED_VERSIONS = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] as const;
export const NEWEST_VERSION = "1.1.0";

/** Whether `version` is `least` or newer; both must be supported versions. */
export function atLeast(version: string, least: (typeof SUPPORTED_VERSIONS)[number]): boolean {
  return rank(version) >= rank(least);
}

function rank(version: string): number {
  return (SUPPORTED_VERSIONS as readonly string[]).indexOf(version);
}

/**
 * The version to run a configuration with: the highest supported one of `cniVersion` and `cniVersions`.
 * @throws CniError 1.
 */
export function negotiate(cniVersion: string, cniVersions: readonly string[] = []): string {
  const usable = [cniVersion, ...cniVersions].filter((version) => rank(version) >= 0);
  const [best] = usable.sort((a, b) => rank(b) - rank(a));
  if (best === undefined) {
    throw new CniError(
      CODE.incompatibleVersion,
      `cniVersion ${JSON.stringify(cniVersion)} is not supported`,
      { details: `supported: ${SUPPORTED_VERSIONS.join(", ")}` },
    );
  }
  return best;
}

interface LegacyIp {
  ip: string;
  gateway?: string;
  routes?: CniRoute[];
}

const plainRoute = ({ dst, gw }: CniRoute): CniRoute => (gw === undefined ? { dst } : { dst, gw });

/** A result as `version` wants it. Throws CniError 1 for an unknown version. */
export function resultAs(result: CniResult, version: string): Record<string, unknown> {
  negotiate(version);
  const { interfaces, ips = [], routes = [], dns } = result;
  const tail = dns === undefined ? {} : { dns };
  if (!atLeast(version, "0.3.0")) {
    const legacy = (family: 4 | 6): LegacyIp | undefined => {
      const own = ips.find(({ address }) => familyOf(address) === family);
      if (!own) return undefined;
      const of = routes.filter(({ dst }) => familyOf(dst) === family).map(plainRoute);
      return {
        ip: own.address,
        ...(own.gateway !== undefined && { gateway: own.gateway }),
        ...(of.length > 0 && { routes: of }),
      };
    };
    const [ip4, ip6] = [legacy(4), legacy(6)];
    return { cniVersion: version, ...(ip4 && { ip4 }), ...(ip6 && { ip6 }), ...tail };
  }
  const newest = atLeast(version, "1.1.0");
  return {
    cniVersion: version,
    ...(interfaces && {
      interfaces: newest
        ? interfaces
        : interfaces.map(({ name, mac, sandbox }) => ({
            name,
            ...(mac !== undefined && { mac }),
            ...(sandbox !== undefined && { sandbox }),
          })),
    }),
    ips: atLeast(version, "1.0.0")
      ? ips
      : ips.map((ip) => ({ version: familyOf(ip.address) === 6 ? "6" : "4", ...ip })),
    ...(routes.length > 0 && { routes: newest ? routes : routes.map(plainRoute) }),
    ...tail,
  };
}

/** A result of any version as a 1.1 one. Throws CniError 6 for what is none. */
export function resultFrom(raw: unknown): CniResult {
  if (typeof raw !== "object" || raw === null || Array.isArray(raw)) {
    throw new CniError(CODE.decode, "a CNI result must be a JSON object", { details: JSON.stringify(raw) });
  }
  const { ip4, ip6, ...rest } = raw as Partial<CniResult> & { ip4?: LegacyIp; ip6?: LegacyIp };
  const version = negotiate(rest.cniVersion ?? "0.1.0");
  const legacy = [ip4, ip6].filter((ip) => ip !== undefined);
  const ips = [
    ...legacy.map(({ ip, gateway }): CniIp => ({ address: ip, ...(gateway !== undefined && { gateway }) })),
    ...(rest.ips ?? []).map(
      ({ address, gateway, interface: index }): CniIp => ({
        address,
        ...(gateway !== undefined && { gateway }),
        ...(index !== undefined && { interface: index }),
      }),
    ),
  ];
  for (const { address } of ips) {
    if (familyOf(address) === 0) {
      throw new CniError(
        CODE.decode,
        `ips: ${JSON.stringify(address)} is not an address with a prefix length`,
      );
    }
  }
  const routes = [...legacy.flatMap((ip) => ip.routes ?? []), ...(rest.routes ?? [])];
  return { ...rest, cniVersion: version, ips, ...(routes.length > 0 && { routes }) };
}

function familyOf(cidr: unknown): 4 | 6 | 0 {
  if (typeof cidr !== "string" || !cidr.includes("/")) return 0;
  return ipFamily(cidr.slice(0, cidr.indexOf("/")));
}
