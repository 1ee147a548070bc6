// Removing links without paying for each: a removal makes the kernel wait for all its processors (10 to 20 ms),
// however many links it takes along. What is asked for while one is under way goes together in the next.

import type { NetNs } from "../netns.js";
import { type Device, indexOf, setGroup, target } from "./links.js";
import { type Label, NetlinkSocket } from "./socket.js";

const RTM_DELLINK = 17;
const IFLA_GROUP = 27;
/** "kplb": links are in this group only while they are being removed. */
const GROUP = 0x6b706c62;

interface Wish {
  device: Device;
  resolve: () => void;
  reject: (error: unknown) => void;
}

/** By inode of the namespace: present while a removal is under way there. */
const underway = new Map<number, Wish[]>();

const labelOf = (device: Device): Label => ({ operation: "deleteLink", detail: String(device) });

/** Resolves when the link is gone; rejects with NetlinkError ENODEV when there is none. */
export function removeLink(ns: NetNs, device: Device): Promise<void> {
  const { inode } = ns;
  return new Promise((resolve, reject) => {
    const wish: Wish = { device, resolve, reject };
    const waiting = underway.get(inode);
    if (waiting) {
      waiting.push(wish);
      return;
    }
    underway.set(inode, []);
    let socket: NetlinkSocket;
    try {
      // Its own: the caller may close his before the answer is there.
      socket = NetlinkSocket.open(ns);
    } catch (error) {
      underway.delete(inode);
      reject(error);
      return;
    }
    void work(socket, inode, [wish]);
  });
}

async function work(socket: NetlinkSocket, inode: number, first: Wish[]): Promise<void> {
  for (let batch = first; batch.length > 0; batch = underway.get(inode) ?? []) {
    underway.set(inode, []);
    const marked = batch.length > 1 ? mark(socket, batch) : batch;
    const together = marked.length > 1 && (await removeMarked(socket, marked));
    if (!together) for (const wish of marked) await removeOne(socket, wish);
  }
  underway.delete(inode);
  socket.close();
}

/** Puts the links into the group; those that do not exist are answered for at once. */
function mark(socket: NetlinkSocket, batch: readonly Wish[]): Wish[] {
  return batch.filter(({ device, reject }) => {
    try {
      setGroup(socket, indexOf(socket, "deleteLink", device), GROUP);
      return true;
    } catch (error) {
      reject(error);
      return false;
    }
  });
}

/** false when the kernel did not want to: then one by one tells whose fault it is. */
async function removeMarked(socket: NetlinkSocket, marked: readonly Wish[]): Promise<boolean> {
  try {
    await socket.changeSlowly(labelOf(`${marked.length} links`), RTM_DELLINK, (w) => {
      target(w, 0);
      w.u32(IFLA_GROUP, GROUP);
    });
  } catch {
    return false;
  }
  for (const { resolve } of marked) resolve();
  return true;
}

async function removeOne(socket: NetlinkSocket, { device, resolve, reject }: Wish): Promise<void> {
  try {
    await socket.changeSlowly(labelOf(device), RTM_DELLINK, (w) => target(w, device));
    resolve();
  } catch (error) {
    reject(error);
  }
}
