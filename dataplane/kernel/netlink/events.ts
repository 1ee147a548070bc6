// News about links and addresses of a namespace (rtnetlink(7), multicast groups LINK, IPV4_IFADDR, IPV6_IFADDR).
// Node can wait for no netlink descriptor of ours, so all sockets are read by one timer; the kernel queues meanwhile.

import { closeSync } from "node:fs";
import * as libc from "../libc.js";
import type { NetNs } from "../netns.js";
import { decodeAddress, RTM_DELADDR, RTM_NEWADDR } from "./addresses.js";
import { type NetlinkMessage, parseMessages } from "./codec.js";
import { decodeLink, RTM_DELLINK, RTM_NEWLINK } from "./links.js";

const NETLINK_ROUTE = 0;
const RTNLGRP_LINK = 1;
const RTNLGRP_IPV4_IFADDR = 5;
const RTNLGRP_IPV6_IFADDR = 9;
/** How late news may be. Reading a thousand sockets costs about two milliseconds. */
const PERIOD_MS = 200;

export type LinkEvent =
  | { type: "link-changed" | "link-deleted"; index: number; name: string; up: boolean; mac: string }
  | { type: "address-added" | "address-deleted"; index: number; cidr: string }
  /** The kernel had more news than fitted the queue: look at everything again. */
  | { type: "lost"; error: Error };

export interface LinkMonitor {
  close(): void;
}

class Monitor implements LinkMonitor {
  readonly #listener: (event: LinkEvent) => void;
  #fd: number;

  constructor(ns: NetNs, listener: (event: LinkEvent) => void) {
    this.#listener = listener;
    this.#fd = ns.run(() => libc.netlinkSocket(NETLINK_ROUTE));
    libc.bindNetlink(this.#fd, [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR]);
  }

  /** Hands on everything that is queued. */
  read(): void {
    while (this.#fd >= 0) {
      let events: LinkEvent[];
      try {
        const length = libc.recv(this.#fd, inbox);
        if (length === undefined) return;
        events = [...parseMessages(inbox.subarray(0, length))].flatMap(decode);
      } catch (error) {
        events = [{ type: "lost", error: error as Error }];
      }
      for (const event of events) if (this.#fd >= 0) this.#listener(event);
    }
  }

  close(): void {
    if (this.#fd < 0) return;
    closeSync(this.#fd);
    this.#fd = -1;
    monitors.delete(this);
    if (monitors.size > 0) return;
    clearInterval(timer);
    timer = undefined;
  }
}

const inbox = Buffer.alloc(64 * 1024);
const monitors = new Set<Monitor>();
let timer: NodeJS.Timeout | undefined;

/** Listens until closed; does not keep the process alive. What the listener throws is thrown as uncaught. */
export function monitorLinks(ns: NetNs, listener: (event: LinkEvent) => void): LinkMonitor {
  const monitor = new Monitor(ns, listener);
  monitors.add(monitor);
  timer ??= setInterval(() => {
    for (const each of monitors) each.read();
  }, PERIOD_MS).unref();
  return monitor;
}

function decode(message: NetlinkMessage): LinkEvent[] {
  switch (message.type) {
    case RTM_NEWLINK:
    case RTM_DELLINK: {
      const { index, name, up, mac } = decodeLink(message).link;
      return [{ type: message.type === RTM_NEWLINK ? "link-changed" : "link-deleted", index, name, up, mac }];
    }
    case RTM_NEWADDR:
    case RTM_DELADDR: {
      const { index, cidr } = decodeAddress(message);
      return [{ type: message.type === RTM_NEWADDR ? "address-added" : "address-deleted", index, cidr }];
    }
    default:
      return [];
  }
}
