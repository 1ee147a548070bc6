// A host's addresses and routes from what ip(8) prints as JSON, both families in one call each.
// Pure: how the texts are had is the caller's business. Source of the fields: iproute2, ip/ipaddress.c and iproute.c.

import { ipFamily } from "../../common/ip.js";
import type { Address, Host, Route } from "./packet.js";

/** Prints what {@link parseHost} reads; for sh(1). */
export const HOST_FACTS_SCRIPT = [
  "ip -j address",
  "ip -j -4 route show table all",
  "ip -j -6 route show table all",
  "for key in conf/all/route_localnet ip_forward; do cat /proc/sys/net/ipv4/$key; done",
  "cat /proc/sys/net/ipv6/conf/all/forwarding 2>/dev/null || echo 0",
].join("\necho --\n");

interface IpAddress {
  ifname?: string;
  addr_info?: { local?: string; prefixlen?: number; scope?: string }[];
}

interface IpRoute {
  dst?: string;
  type?: string;
  dev?: string;
  gateway?: string;
  prefsrc?: string;
  metric?: number;
  /** Absent: main. */
  table?: string;
  nexthops?: { gateway?: string; dev?: string }[];
}

/** @throws SyntaxError for text that {@link HOST_FACTS_SCRIPT} did not print. */
export function parseHost(text: string, family: 4 | 6): Host {
  const [addresses = "", v4 = "", v6 = "", four = "", six = ""] = text.split(/^--\n/m);
  const list = <T>(json: string) => JSON.parse(json.trim() || "[]") as T[];
  const [routeLocalnet = "0", forwarding = "0"] = four.trim().split("\n");
  return {
    addresses: list<IpAddress>(addresses).flatMap(addressesOf),
    routes: list<IpRoute>(family === 4 ? v4 : v6).flatMap((route) => routeOf(route, family)),
    forwarding: (family === 4 ? forwarding : six.trim()) !== "0",
    routeLocalnet: routeLocalnet !== "0",
  };
}

function addressesOf({ ifname = "", addr_info = [] }: IpAddress): Address[] {
  return addr_info.flatMap(({ local, prefixlen = 32, scope }) => {
    if (!local) return [];
    const known = scope === "link" || scope === "host" ? scope : "global";
    return [{ ip: local, prefix: prefixlen, device: ifname, scope: known }];
  });
}

/** Of the local table only what is more than a single address: those are told by the devices. */
function routeOf(route: IpRoute, family: 4 | 6): Route[] {
  const { dst = "default", type, dev, gateway, prefsrc, metric, table = "main", nexthops = [] } = route;
  const isBlock = dst.includes("/");
  if (table === "local" ? type !== "local" || !isBlock : table !== "main") return [];
  const any = family === 4 ? "0.0.0.0/0" : "::/0";
  const [hop = {}] = nexthops;
  const via = gateway ?? hop.gateway;
  return [
    {
      to: dst === "default" ? any : isBlock ? dst : `${dst}/${ipFamily(dst) === 6 ? 128 : 32}`,
      device: dev ?? hop.dev ?? "",
      ...(type !== undefined && { type }),
      ...(via !== undefined && { via }),
      ...(prefsrc !== undefined && { src: prefsrc }),
      ...(metric !== undefined && { metric }),
    },
  ];
}
