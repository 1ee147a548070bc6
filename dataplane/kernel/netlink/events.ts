// News about links and addresses of one namespace (rtnetlink(7), multicast groups LINK and IPV4_IFADDR).
// On npm `netlink`'s raw socket, which libuv polls for us.

import { RawNetlinkSocket } from "netlink/dist/raw.js";
import type { NetNs } from "../netns.js";
import { decodeAddress, RTM_DELADDR, RTM_NEWADDR } from "./addresses.js";
import { type NetlinkMessage, parseMessages } from "./codec.js";
import { decodeLink, RTM_DELLINK, RTM_NEWLINK } from "./links.js";

const NETLINK_ROUTE = 0;
/** RTNLGRP_LINK and RTNLGRP_IPV4_IFADDR as a mask. */
const GROUPS = (1 << 0) | (1 << 4);

export type LinkEvent =
  | { type: "link-changed" | "link-deleted"; index: number; name: string; up: boolean; mac: string }
  | { type: "address-added" | "address-deleted"; index: number; cidr: string }
  /** The kernel had more news than fitted the queue: look at everything again. */
  | { type: "lost"; error: Error };

export interface LinkMonitor {
  close(): void;
}

/** Listens until closed; does not keep the process alive. What the listener throws is thrown as uncaught. */
export function monitorLinks(ns: NetNs, listener: (event: LinkEvent) => void): LinkMonitor {
  const socket = ns.run(() => new RawNetlinkSocket(NETLINK_ROUTE, { localGroups: GROUPS } as RawOptions));
  socket.unref();
  let closed = false;
  // The addon swallows or dies of exceptions thrown in its callbacks, hence the turn of the event loop.
  const deliver = (events: LinkEvent[]) =>
    setImmediate(() => {
      for (const event of events) if (!closed) listener(event);
    });
  socket.on("message", (datagram) => {
    try {
      deliver([...parseMessages(datagram)].flatMap(decode));
    } catch (error) {
      deliver([{ type: "lost", error: error as Error }]);
    }
  });
  socket.on("error", (error) => deliver([{ type: "lost", error }]));
  return {
    close() {
      if (closed) return;
      closed = true;
      socket.close();
    },
  };
}

/** The package declares all socket options as required, though each has a default. */
type RawOptions = NonNullable<ConstructorParameters<typeof RawNetlinkSocket>[1]>;

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
