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
  const missing = peers.filter(
    (peer) =>
      !has.neighbor.has(`${peer.vtepIP} ${peer.vtepMAC}`) ||
      !has.fdb.has(`${peer.vtepMAC} ${peer.publicIP}`) ||
      !has.route.has(`${peer.podCIDR} ${peer.vtepIP}`),
  );
  const { added, failures } = await addPeers(rt, device, missing);
  const wanted = wantedKeys(peers);
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
  const removed = await removeAll(removals, failures);
  throwIfAny(failures);
  return { added, removed };
}

/**
 * The same from one set of peers to another, when the device's tables are known to hold exactly the first: costs what
 * changed, not what there is. After a failure the tables are no longer known.
 */
export async function changeEntries(
  rt: RtNetlink,
  device: DeviceRef,
  { before, after }: { before: readonly Lease[]; after: readonly Lease[] },
): Promise<Reconciled> {
  const [old, now] = [new Set(before.map(fingerprint)), new Set(after.map(fingerprint))];
  const { added, failures } = await addPeers(
    rt,
    device,
    after.filter((peer) => !old.has(fingerprint(peer))),
  );
  const wanted = wantedKeys(after);
  const dev = device.index;
  const removals = before
    .filter((peer) => !now.has(fingerprint(peer)))
    .flatMap(({ vtepIP, vtepMAC, publicIP, podCIDR }) => {
      const dst = String(podCIDR);
      return [
        ...(wanted.neighbor.has(vtepIP) ? [] : [() => rt.deleteNeighbor({ dev, ip: vtepIP })]),
        ...(wanted.fdb.has(vtepMAC) ? [] : [() => rt.deleteFdb({ dev, mac: vtepMAC, dst: publicIP })]),
        ...(wanted.route.has(dst) ? [] : [() => rt.deleteRoute({ dst, via: vtepIP, dev })]),
      ];
    });
  const removed = await removeAll(removals, failures);
  throwIfAny(failures);
  return { added, removed };
}

/** Everything of a peer that is in the kernel. */
export function fingerprint({ podCIDR, vtepMAC, publicIP }: Lease): string {
  return `${podCIDR} ${vtepMAC} ${publicIP}`;
}

function wantedKeys(peers: readonly Lease[]) {
  return {
    neighbor: new Set(peers.map(({ vtepIP }) => vtepIP)),
    fdb: new Set(peers.map(({ vtepMAC }) => vtepMAC)),
    route: new Set(peers.map(({ podCIDR }) => String(podCIDR))),
  };
}

async function removeAll(removals: readonly (() => Promise<void>)[], failures: unknown[]): Promise<number> {
  let removed = 0;
  for (const remove of removals) {
    try {
      await unlessGone(remove());
      removed++;
    } catch (error) {
      failures.push(error);
    }
  }
  return removed;
}

function throwIfAny(failures: readonly unknown[]): void {
  if (failures.length === 0) return;
  throw new AggregateError(failures, failures.map((failure) => (failure as Error).message).join("; "));
}

/** All in one go; when the kernel refuses a part, one by one, to know whose it is and take the rest of it back. */
async function addPeers(
  rt: RtNetlink,
  device: DeviceRef,
  peers: readonly Lease[],
): Promise<{ added: number; failures: unknown[] }> {
  const refused = await rt.batch(() =>
    peers.flatMap((peer) => steps(rt, device, peer).map(({ add }) => add())),
  );
  if (refused.length === 0) return { added: peers.length, failures: [] };
  const failures: unknown[] = [];
  for (const peer of peers) {
    try {
      await addPeer(rt, device, peer);
    } catch (error) {
      failures.push(error);
    }
  }
  return { added: peers.length - failures.length, failures };
}

/** Neighbour, FDB, route in flannel's order: the route last, for a packet that takes it would ask by ARP before. */
function steps(rt: RtNetlink, device: DeviceRef, peer: Lease) {
  const { vtepIP, vtepMAC, publicIP, podCIDR } = peer;
  const dev = device.index;
  const route = { dst: String(podCIDR), via: vtepIP, dev };
  return [
    {
      add: () => rt.setNeighbor({ dev, ip: vtepIP, mac: vtepMAC, permanent: true }),
      remove: () => rt.deleteNeighbor({ dev, ip: vtepIP }),
    },
    {
      add: () => rt.setFdb({ dev, mac: vtepMAC, dst: publicIP }),
      remove: () => rt.deleteFdb({ dev, mac: vtepMAC, dst: publicIP }),
    },
    { add: () => rt.addRoute({ ...route, onlink: true }), remove: () => rt.deleteRoute(route) },
  ];
}

async function addPeer(rt: RtNetlink, device: DeviceRef, peer: Lease): Promise<void> {
  const done: (() => Promise<void>)[] = [];
  try {
    for (const { add, remove } of steps(rt, device, peer)) {
      await add();
      done.push(remove);
    }
  } catch (error) {
    for (const remove of done.toReversed()) await unlessGone(remove());
    throw error;
  }
}

/** Takes a peer's entries out in flannel's order. */
export async function removePeer(rt: RtNetlink, device: DeviceRef, peer: Lease): Promise<void> {
  for (const { remove } of steps(rt, device, peer)) await unlessGone(remove());
}

async function unlessGone(work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    const gone = error instanceof NetlinkError && ["ENOENT", "ESRCH", "ENODEV"].includes(error.code);
    if (!gone) throw error;
  }
}
