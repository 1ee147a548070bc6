// The kernel's own price of the objects of hosts and pods, made in bare namespaces by one program over netlink: what
// nobody can be faster than. Run as a program: `bare-objects.js pods N` or `hosts N` prints milliseconds each.

import { fileURLToPath } from "node:url";
import { runCommand } from "../dataplane/kernel/command.js";
import { NetNs } from "../dataplane/kernel/netns.js";
import { RtNetlink } from "../dataplane/kernel/rtnetlink.js";
import { isPrivileged } from "../lab/launch.js";
import { timed } from "./report.js";

const FILE = fileURLToPath(import.meta.url);

/** A "pod": namespace, veth into a bridge, lo, address, default route. */
async function pods(count: number): Promise<number> {
  const host = NetNs.create("bench");
  const rt = RtNetlink.open(host);
  const kept: NetNs[] = [];
  await rt.addBridge({ name: "br0", up: true });
  const { ms } = await timed(async () => {
    for (let i = 0; i < count; i++) {
      const pod = NetNs.create(`pod-${i}`);
      kept.push(pod);
      await rt.addVeth({ name: `v${i}`, peer: { name: "eth0", ns: pod }, master: "br0", up: true });
      const inside = RtNetlink.open(pod);
      await inside.setLink("lo", { up: true });
      await inside.addAddress("eth0", `10.9.${i >> 8}.${i & 255}/16`);
      await inside.setLink("eth0", { up: true });
      await inside.addRoute({ dst: "0.0.0.0/0", via: "10.9.255.254", dev: "eth0" });
      inside.close();
    }
  });
  for (const ns of kept) ns.close();
  rt.close();
  host.close();
  return ms / count;
}

const vtep = (i: number) => ({
  ip: `10.9.${i}.0`,
  mac: `0a:58:0a:09:${i.toString(16).padStart(2, "0")}:00`,
  underlay: `192.168.${i >> 8}.${(i & 255) + 1}`,
});

/** A "host": namespace, veth into the underlay, VXLAN device, and for every other host neighbour, FDB entry, route. */
async function hosts(count: number): Promise<number> {
  const underlay = NetNs.create("bench");
  const rt = RtNetlink.open(underlay);
  const kept: NetNs[] = [];
  await rt.addBridge({ name: "br0", up: true });
  const { ms } = await timed(async () => {
    for (let i = 0; i < count; i++) {
      const host = NetNs.create(`host-${i}`);
      kept.push(host);
      await rt.addVeth({ name: `v${i}`, peer: { name: "eth0", ns: host }, master: "br0", up: true });
      using inside = RtNetlink.open(host);
      const { underlay: local, ip } = vtep(i);
      await inside.setLink("lo", { up: true });
      await inside.addAddress("eth0", `${local}/16`);
      await inside.setLink("eth0", { up: true });
      await inside.addVxlan({
        name: "vx",
        id: 1,
        port: 8472,
        local,
        link: "eth0",
        learning: false,
        up: true,
      });
      await inside.addAddress("vx", `${ip}/32`);
      const dev = (await inside.getLink("vx"))?.index ?? 0;
      const refused = await inside.batch(() =>
        Array.from({ length: count }, (_, j) => j)
          .filter((j) => j !== i)
          .map(vtep)
          .flatMap((peer) => [
            inside.setNeighbor({ dev, ip: peer.ip, mac: peer.mac }),
            inside.setFdb({ dev, mac: peer.mac, dst: peer.underlay }),
            inside.addRoute({ dst: `${peer.ip}/24`, via: peer.ip, dev, onlink: true }),
          ]),
      );
      if (refused[0]) throw refused[0];
    }
  });
  for (const ns of kept) ns.close();
  rt.close();
  underlay.close();
  return ms / count;
}

/** Milliseconds for one, in a process of its own that may make namespaces, so that the caller stays an ordinary user's. */
export async function bareObjects(kind: "pods" | "hosts", count: number): Promise<number> {
  const user = isPrivileged() ? [] : ["--user", "--map-root-user"];
  const namespaces = [...user, "--net", "--mount", "--propagation", "private"];
  const { stdout } = await runCommand("unshare", [
    ...namespaces,
    process.execPath,
    FILE,
    kind,
    String(count),
  ]);
  return Number(stdout);
}

if (process.argv[1] === FILE) {
  const [, , kind, count] = process.argv;
  console.log(await (kind === "hosts" ? hosts : pods)(Number(count)));
}
