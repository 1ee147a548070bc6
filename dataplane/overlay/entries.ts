// The three kernel objects of each tunnel (neighbour, FDB entry, route), brought to what they should be.
// Level-triggered: looks at what the kernel has, not at what was done before.

import type { RtNetlink } from "../kernel/rtnetlink.js";
import { NetlinkError } from "../kernel/rtnetlink.js";
import type { Lease } from "./lease.js";

const RTPROT_KERNEL = 2;

export interface Reconciled {
  added: number;
  removed: number;
}

/** The device by index (cheap) and by name (for listing routes). */
export interface DeviceRef {
  index: number;
  name: string;
}

/**
 * Makes the device's tables hold exactly the peers' entries. What is missing is put in before what is foreign is
 * taken out, so that a peer that changes one property is never without a path.
 * @throws AggregateError when some peers failed; all others are done, and of the failed nothing is left.
 */
export async function reconcileEntries(
  rt: RtNetlink,
  device: DeviceRef,
  peers: readonly Lease[],
): Promise<Reconciled> {
  const [neighbors, fdb, routes] = await Promise.all([
    rt.listNeighbors(device.index),
    rt.listFdb(device.index),
    rt.listRoutes(device.name),
  ]);
  const has = {
    neighbor: new Set(neighbors.filter((n) => n.permanent).map(({ ip, mac }) => `${ip} ${mac}`)),
    fdb: new Set(fdb.filter((e) => e.permanent).map(({ mac, dst }) => `${mac} ${dst}`)),
    route: new Set(routes.filter((r) => r.onlink).map(({ dst, via }) => `${dst} ${via}`)),
  };
  const failures: unknown[] = [];
  let added = 0;
  for (const peer of peers) {
    const complete =
      has.neighbor.has(`${peer.vtepIP} ${peer.vtepMAC}`) &&
      has.fdb.has(`${peer.vtepMAC} ${peer.publicIP}`) &&
      has.route.has(`${peer.podCIDR} ${peer.vtepIP}`);
    if (complete) continue;
    try {
      await addPeer(rt, device, peer);
      added++;
    } catch (error) {
      failures.push(error);
    }
  }
  const wanted = {
    neighbor: new Set(peers.map(({ vtepIP }) => vtepIP)),
    fdb: new Set(peers.map(({ vtepMAC }) => vtepMAC)),
    route: new Set(peers.map(({ podCIDR }) => String(podCIDR))),
  };
  const removals = [
    ...neighbors
      .filter(({ ip }) => !wanted.neighbor.has(ip))
      .map(
        ({ ip }) =>
          () =>
            rt.deleteNeighbor({ dev: device.index, ip }),
      ),
    ...fdb
      .filter(({ mac, self }) => self && !wanted.fdb.has(mac))
      .map(
        ({ mac, dst }) =>
          () =>
            rt.deleteFdb({ dev: device.index, mac, dst }),
      ),
    ...routes
      .filter(({ dst, protocol }) => protocol !== RTPROT_KERNEL && !wanted.route.has(dst))
      .map(
        ({ dst, via, metric }) =>
          () =>
            rt.deleteRoute({ dst, via, metric, dev: device.index }),
      ),
  ];
  let removed = 0;
  for (const remove of removals) {
    try {
      await unlessGone(remove());
      removed++;
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 0) {
    throw new AggregateError(failures, failures.map((failure) => (failure as Error).message).join("; "));
  }
  return { added, removed };
}

/** Neighbour, FDB, route in flannel's order: the route last, for a packet that takes it would ask by ARP before. */
async function addPeer(rt: RtNetlink, device: DeviceRef, peer: Lease): Promise<void> {
  const { vtepIP, vtepMAC, publicIP, podCIDR } = peer;
  const dev = device.index;
  const undo: (() => Promise<void>)[] = [];
  try {
    await rt.setNeighbor({ dev, ip: vtepIP, mac: vtepMAC, permanent: true });
    undo.push(() => rt.deleteNeighbor({ dev, ip: vtepIP }));
    await rt.setFdb({ dev, mac: vtepMAC, dst: publicIP });
    undo.push(() => rt.deleteFdb({ dev, mac: vtepMAC, dst: publicIP }));
    await rt.addRoute({ dst: String(podCIDR), via: vtepIP, dev, onlink: true });
  } catch (error) {
    for (const step of undo.toReversed()) await unlessGone(step());
    throw error;
  }
}

/** Takes a peer's entries out in flannel's order. */
export async function removePeer(rt: RtNetlink, device: DeviceRef, peer: Lease): Promise<void> {
  const { vtepIP, vtepMAC, publicIP, podCIDR } = peer;
  const dev = device.index;
  await unlessGone(rt.deleteNeighbor({ dev, ip: vtepIP }));
  await unlessGone(rt.deleteFdb({ dev, mac: vtepMAC, dst: publicIP }));
  await unlessGone(rt.deleteRoute({ dst: String(podCIDR), via: vtepIP, dev }));
}

async function unlessGone(work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    const gone = error instanceof NetlinkError && ["ENOENT", "ESRCH", "ENODEV"].includes(error.code);
    if (!gone) throw error;
  }
}
