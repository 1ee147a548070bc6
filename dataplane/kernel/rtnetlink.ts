// The links, addresses, routes, neighbours and forwarding entries of one network namespace, one verb a method.
// Knows rtnetlink and nothing of why somebody wants a route.

import * as addresses from "./netlink/addresses.js";
import { type LinkEvent, type LinkMonitor, monitorLinks } from "./netlink/events.js";
import * as links from "./netlink/links.js";
import * as neighbors from "./netlink/neighbors.js";
import { removeLink } from "./netlink/removal.js";
import * as routes from "./netlink/routes.js";
import { type NetlinkError, NetlinkSocket } from "./netlink/socket.js";
import * as vlans from "./netlink/vlans.js";
import type { NetNs } from "./netns.js";

export type { Address } from "./netlink/addresses.js";
export type { LinkEvent } from "./netlink/events.js";
export type { BridgeOptions, Device, Link, LinkChange, VethOptions, VxlanOptions } from "./netlink/links.js";
export type { FdbEntry, FdbOptions, Neighbor, NeighborOptions } from "./netlink/neighbors.js";
export type { Route, RouteOptions } from "./netlink/routes.js";
export { NetlinkError } from "./netlink/socket.js";
export type { PortVlan, VlanOptions, VlanRange } from "./netlink/vlans.js";

/**
 * A netlink socket in one namespace. Every method but {@link deleteLink} does its whole work before it returns: the
 * promise is settled already. Methods reject with {@link NetlinkError} when the kernel refuses, with RangeError for
 * an argument that is no address, block, MAC or interface name.
 */
export class RtNetlink implements Disposable {
  readonly ns: NetNs;
  readonly #socket: NetlinkSocket;
  readonly #monitors = new Set<LinkMonitor>();

  private constructor(ns: NetNs, socket: NetlinkSocket) {
    this.ns = ns;
    this.#socket = socket;
  }

  /** Opens the socket inside `ns`, where it stays. Throws SyscallError. */
  static open(ns: NetNs): RtNetlink {
    return new RtNetlink(ns, NetlinkSocket.open(ns));
  }

  /** EEXIST when the name is taken. */
  async addBridge(bridge: string | links.BridgeOptions): Promise<void> {
    links.addBridge(this.#socket, typeof bridge === "string" ? { name: bridge } : bridge);
  }

  /** Creates the pair with the peer already in its namespace: one operation, no name ever taken here in between. */
  async addVeth(options: links.VethOptions): Promise<void> {
    links.addVeth(this.#socket, options);
  }

  async addVxlan(options: links.VxlanOptions): Promise<void> {
    links.addVxlan(this.#socket, options);
  }

  /** Takes 10 to 20 ms, in another thread; many at once cost as much as one. ENODEV when there is none. */
  async deleteLink(device: links.Device): Promise<void> {
    if (typeof device === "string") links.checkName(device);
    await removeLink(this.ns, device);
  }

  /** undefined when there is none. */
  async getLink(device: links.Device): Promise<links.Link | undefined> {
    return links.getLink(this.#socket, device);
  }

  async listLinks(): Promise<links.Link[]> {
    return links.listLinks(this.#socket);
  }

  async setLink(device: links.Device, change: links.LinkChange): Promise<void> {
    links.setLink(this.#socket, device, change);
  }

  /** A bridge port joins VLANs, or is in them otherwise from now on. */
  async addVlan(port: links.Device, options: vlans.VlanOptions): Promise<void> {
    vlans.addVlan(this.#socket, port, options);
  }

  async deleteVlan(port: links.Device, range: vlans.VlanRange): Promise<void> {
    vlans.deleteVlan(this.#socket, port, range);
  }

  /** Of a bridge port; none where the kernel has no VLANs of bridges. */
  async listVlans(port: links.Device): Promise<vlans.PortVlan[]> {
    return vlans.listVlans(this.#socket, port);
  }

  /** `cidr` with host bits: "10.244.1.1/24". EEXIST when it is there. `detect`: IPv6's duplicate detection runs. */
  async addAddress(device: links.Device, cidr: string, options?: { detect?: boolean }): Promise<void> {
    addresses.addAddress(this.#socket, device, cidr, options);
  }

  /** EADDRNOTAVAIL when it is not there. */
  async deleteAddress(device: links.Device, cidr: string): Promise<void> {
    addresses.deleteAddress(this.#socket, device, cidr);
  }

  /** Of one device, or of all. */
  async listAddresses(device?: links.Device): Promise<addresses.Address[]> {
    return addresses.listAddresses(this.#socket, device);
  }

  /** Adds or replaces. */
  async addRoute(route: routes.RouteOptions): Promise<void> {
    routes.addRoute(this.#socket, route);
  }

  /** ESRCH when there is none. */
  async deleteRoute(route: routes.RouteOptions): Promise<void> {
    routes.deleteRoute(this.#socket, route);
  }

  /** Unicast routes of the main table, IPv4 and IPv6. */
  async listRoutes(device?: links.Device): Promise<routes.Route[]> {
    return routes.listRoutes(this.#socket, device);
  }

  /** Adds or replaces. */
  async setNeighbor(neighbor: neighbors.NeighborOptions): Promise<void> {
    neighbors.setNeighbor(this.#socket, neighbor);
  }

  /** ENOENT when there is none. */
  async deleteNeighbor(neighbor: { dev: links.Device; ip: string }): Promise<void> {
    neighbors.deleteNeighbor(this.#socket, neighbor);
  }

  async listNeighbors(device: links.Device): Promise<neighbors.Neighbor[]> {
    return neighbors.listNeighbors(this.#socket, device);
  }

  /** Adds or replaces a permanent entry of a VXLAN device. */
  async setFdb(entry: neighbors.FdbOptions): Promise<void> {
    neighbors.setFdb(this.#socket, entry);
  }

  /** ENOENT when there is none. */
  async deleteFdb(entry: { dev: links.Device; mac: string; dst?: string }): Promise<void> {
    neighbors.deleteFdb(this.#socket, entry);
  }

  async listFdb(device: links.Device): Promise<neighbors.FdbEntry[]> {
    return neighbors.listFdb(this.#socket, device);
  }

  /**
   * Sends everything that `make` asks for by {@link setNeighbor}, {@link setFdb}, {@link addRoute}, {@link addAddress}
   * and {@link setLink} (devices by index) in few system calls. Resolves with what the kernel refused; the others are
   * done.
   */
  async batch(make: () => readonly Promise<void>[]): Promise<NetlinkError[]> {
    let asked: readonly Promise<void>[] = [];
    const refused = this.#socket.batch(() => {
      asked = make();
    });
    await Promise.all(asked);
    return refused;
  }

  /** Calls `listener` for each change of links and addresses until the returned function is called. */
  onLink(listener: (event: LinkEvent) => void): () => void {
    const monitor = monitorLinks(this.ns, listener);
    this.#monitors.add(monitor);
    return () => {
      this.#monitors.delete(monitor);
      monitor.close();
    };
  }

  /** Idempotent; ends the listeners too. */
  close(): void {
    for (const monitor of this.#monitors) monitor.close();
    this.#monitors.clear();
    this.#socket.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
