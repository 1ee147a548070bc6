// Unicast routes of the main table (rtnetlink(7), linux/rtnetlink.h).

import { Cidr, formatIp, ipToBytes } from "../../../common/ip.js";
import { type MessageWriter, type NetlinkMessage, parseAttributes, readIp } from "./codec.js";
import { type Device, indexOf, listLinks } from "./links.js";
import { type Label, NetlinkError, type NetlinkSocket, NLM_F_CREATE, NLM_F_REPLACE } from "./socket.js";

const RTM_NEWROUTE = 24;
const RTM_DELROUTE = 25;
const RTM_GETROUTE = 26;

const RTMSG = 12;
const AF_INET = 2;
const AF_INET6 = 10;
const RTA_DST = 1;
const RTA_OIF = 4;
const RTA_GATEWAY = 5;
const RTA_PRIORITY = 6;
const RTA_PREFSRC = 7;
const RTA_METRICS = 8;
const RTA_TABLE = 15;
const RTAX_MTU = 2;
const RTAX_ADVMSS = 8;
const RT_TABLE_MAIN = 254;
const RTPROT_BOOT = 3;
const RT_SCOPE_UNIVERSE = 0;
const RT_SCOPE_LINK = 253;
const RT_SCOPE_NOWHERE = 255;
const RTN_UNICAST = 1;
const RTNH_F_ONLINK = 4;
const RTM_F_CLONED = 0x200;

export interface RouteOptions {
  /** A block, or "default". */
  dst: string;
  /** Gateway. */
  via?: string;
  dev?: Device;
  /** The gateway is taken to be on the link, whatever the addresses say. */
  onlink?: boolean;
  /** Preferred source address. */
  src?: string;
  metric?: number;
  mtu?: number;
  advmss?: number;
  /** Default the main table. */
  table?: number;
  /** 0 universe, 253 link, …; default by what the route is. */
  scope?: number;
}

export interface Route {
  /** A block; the default route is 0.0.0.0/0 or ::/0. */
  dst: string;
  via?: string;
  /** Name of the link. */
  dev?: string;
  onlink: boolean;
  src?: string;
  metric: number;
  family: 4 | 6;
  /** 2 kernel, 3 boot, 4 static, … */
  protocol: number;
  /** 0 universe, 253 link, 254 host. */
  scope: number;
}

function destination(options: RouteOptions): Cidr {
  if (options.dst !== "default") return Cidr.parse(options.dst);
  return Cidr.parse((options.via ?? options.src ?? "").includes(":") ? "::/0" : "0.0.0.0/0");
}

function describe(options: RouteOptions): Label["detail"] {
  const { dst, via, dev, onlink, src, metric } = options;
  const words = [dst];
  if (via) words.push("via", via);
  if (dev !== undefined) words.push("dev", String(dev));
  if (onlink) words.push("onlink");
  if (src) words.push("src", src);
  if (metric !== undefined) words.push("metric", String(metric));
  return words.join(" ");
}

function attributes(w: MessageWriter, dst: Cidr, options: RouteOptions, index?: number): void {
  if (dst.prefix > 0) w.bytes(RTA_DST, ipToBytes(formatIp(dst.base, dst.family)));
  if (options.via) w.bytes(RTA_GATEWAY, ipToBytes(options.via));
  if (index !== undefined) w.u32(RTA_OIF, index);
  if (options.src) w.bytes(RTA_PREFSRC, ipToBytes(options.src));
  if (options.metric !== undefined) w.u32(RTA_PRIORITY, options.metric);
  if (options.table !== undefined) w.u32(RTA_TABLE, options.table);
  const { mtu, advmss } = options;
  if (mtu === undefined && advmss === undefined) return;
  w.nest(RTA_METRICS, () => {
    if (mtu !== undefined) w.u32(RTAX_MTU, mtu);
    if (advmss !== undefined) w.u32(RTAX_ADVMSS, advmss);
  });
}

/** Adds, or replaces the route to the same destination with the same metric: idempotent. */
export function addRoute(socket: NetlinkSocket, options: RouteOptions): void {
  const operation = "addRoute";
  const dst = destination(options);
  const index = options.dev === undefined ? undefined : indexOf(socket, operation, options.dev);
  const label = { operation, detail: describe(options) };
  socket.change(label, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, (w) => {
    w.fixed(RTMSG, (at) => {
      at.writeUInt8(dst.family === 6 ? AF_INET6 : AF_INET, 0);
      at.writeUInt8(dst.prefix, 1);
      // A byte is not enough for every table: the attribute counts.
      at.writeUInt8(options.table === undefined ? RT_TABLE_MAIN : 0, 4);
      at.writeUInt8(RTPROT_BOOT, 5);
      const usual = options.via || dst.family === 6 ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
      at.writeUInt8(options.scope ?? usual, 6);
      at.writeUInt8(RTN_UNICAST, 7);
      at.writeUInt32LE(options.onlink ? RTNH_F_ONLINK : 0, 8);
    });
    attributes(w, dst, options, index);
  });
}

/** Deletes the first route that has all the given properties. Throws {@link NetlinkError} ESRCH when none has. */
export function deleteRoute(socket: NetlinkSocket, options: RouteOptions): void {
  const operation = "deleteRoute";
  const dst = destination(options);
  const index = options.dev === undefined ? undefined : indexOf(socket, operation, options.dev);
  socket.change({ operation, detail: describe(options) }, RTM_DELROUTE, 0, (w) => {
    w.fixed(RTMSG, (at) => {
      at.writeUInt8(dst.family === 6 ? AF_INET6 : AF_INET, 0);
      at.writeUInt8(dst.prefix, 1);
      at.writeUInt8(RT_TABLE_MAIN, 4);
      at.writeUInt8(RT_SCOPE_NOWHERE, 6);
    });
    attributes(w, dst, options, index);
  });
}

/** Unicast routes of the main table, of both families, of one device or of all. */
export function listRoutes(socket: NetlinkSocket, device?: Device): Route[] {
  const operation = "listRoutes";
  const index = device === undefined ? undefined : indexOf(socket, operation, device);
  const label = { operation, detail: device === undefined ? "" : `dev ${device}` };
  const names = new Map(
    typeof device === "string" && index !== undefined
      ? [[index, device] as const]
      : listLinks(socket).map((link) => [link.index, link.name] as const),
  );
  return [AF_INET, AF_INET6].flatMap((family) => {
    const build = (w: MessageWriter) => {
      w.fixed(RTMSG, (at) => {
        at.writeUInt8(family, 0);
        at.writeUInt8(RT_TABLE_MAIN, 4);
      });
      w.u32(RTA_TABLE, RT_TABLE_MAIN);
      if (index !== undefined) w.u32(RTA_OIF, index);
    };
    try {
      return socket.dump(label, RTM_GETROUTE, build, (m) => decodeRoute(m, names, index));
    } catch (error) {
      // A namespace in which nothing was ever routed has no main table; one without IPv6 does not know the family.
      if (error instanceof NetlinkError && (error.code === "ENOENT" || error.code === "EAFNOSUPPORT"))
        return [];
      throw error;
    }
  });
}

function decodeRoute(
  message: NetlinkMessage,
  names: ReadonlyMap<number, string>,
  only: number | undefined,
): Route | undefined {
  const { body } = message;
  const found = parseAttributes(body, RTMSG);
  const flags = body.readUInt32LE(8);
  const table = found.get(RTA_TABLE)?.readUInt32LE(0) ?? body.readUInt8(4);
  const index = found.get(RTA_OIF)?.readUInt32LE(0);
  if (body.readUInt8(7) !== RTN_UNICAST || table !== RT_TABLE_MAIN || flags & RTM_F_CLONED) return undefined;
  if (only !== undefined && index !== only) return undefined;
  const family = body.readUInt8(0) === AF_INET6 ? 6 : 4;
  const dst = found.get(RTA_DST);
  const via = found.get(RTA_GATEWAY);
  const src = found.get(RTA_PREFSRC);
  const route: Route = {
    dst: `${dst ? readIp(dst) : family === 6 ? "::" : "0.0.0.0"}/${body.readUInt8(1)}`,
    onlink: (flags & RTNH_F_ONLINK) !== 0,
    metric: found.get(RTA_PRIORITY)?.readUInt32LE(0) ?? 0,
    family,
    protocol: body.readUInt8(5),
    scope: body.readUInt8(6),
  };
  if (via) route.via = readIp(via);
  if (src) route.src = readIp(src);
  const dev = index === undefined ? undefined : names.get(index);
  if (dev !== undefined) route.dev = dev;
  return route;
}
