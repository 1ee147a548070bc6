// kubeplumb-portmap: real packets from outside, from the host, from 127.0.0.1 and from the pod itself, and the rules
// beside those of the reference plugin portmap.

import { createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { RtNetlink } from "../../dataplane/kernel/rtnetlink.js";
import { type Call, PluginHost, REFERENCE } from "../helpers/cni.js";

const host = new PluginHost("host");
const outside = NetNs.create("outside");
const HOST = "203.0.113.1";
const HOST6 = "2001:db8::1";
t.teardown(() => {
  outside.close();
  host.close();
});

await host.rt.setLink("lo", { up: true });
await host.rt.addVeth({ name: "up0", peer: { name: "up1", ns: outside }, up: true });
for (const cidr of [`${HOST}/24`, "203.0.113.9/24", `${HOST6}/64`]) await host.rt.addAddress("up0", cidr);
{
  using rt = RtNetlink.open(outside);
  await rt.setLink("up1", { up: true });
  for (const cidr of ["203.0.113.2/24", "2001:db8::2/64"]) await rt.addAddress("up1", cidr);
}

type Pod = Call & { ns: NetNs };
let counter = 0;
const newPod = (): Pod => ({ id: `p${counter}`, ns: NetNs.create(`p${counter++}`) });

const BRIDGE = {
  cniVersion: "1.1.0",
  name: "net",
  type: "kubeplumb-cni",
  ipam: { type: "kubeplumb-cni", ranges: [[{ subnet: "10.50.0.0/24" }], [{ subnet: "fd00:50::/64" }]] },
  dataDir: host.dir,
};
const portmap = (portMappings: object[], prevResult?: unknown, extra: object = {}) => ({
  cniVersion: "1.1.0",
  name: "net",
  type: "kubeplumb-portmap",
  dataDir: host.dir,
  runtimeConfig: { portMappings },
  ...(prevResult !== undefined && { prevResult }),
  ...extra,
});

/** Joins a pod and opens its ports. */
async function join(pod: Pod, mappings: object[], extra: object = {}) {
  const base = await host.run("ADD", BRIDGE, pod);
  const said = await host.run("ADD", portmap(mappings, base.json, extra), pod);
  if (said.exitCode !== 0) throw new Error(JSON.stringify(said.json));
  return said.json;
}

/** A server that says who asks. */
async function serve(pod: Pod, port: number): Promise<void> {
  for (const address of ["0.0.0.0", "::"]) {
    const server = createServer((socket) => socket.end(`${pod.id} ${socket.remoteAddress}`));
    await pod.ns.listen(server, { host: address, port });
    t.teardown(() => server.close());
  }
}

/** What the server said; "" when nobody answers. */
function ask(from: NetNs, to: string, port: number): Promise<string> {
  return new Promise((resolve) => {
    const socket = from.connect({ host: to, port, timeout: 30_000 });
    let text = "";
    socket.on("data", (data) => {
      text += data;
    });
    socket.on("error", () => resolve(""));
    socket.on("close", () => resolve(text));
  });
}

const nat = async (ns = host.ns, tool = "iptables-save") =>
  (await ns.exec(tool, ["-t", "nat"])).stdout
    .split("\n")
    .filter((line) => /^[:-]/.test(line) && !/^:(PRE|INPUT|OUT|POST)/.test(line))
    .map((line) => line.replace(/\[\d+:\d+\]/, ""));

t.test("TCP from everywhere", async (t) => {
  const pod = newPod();
  const result = await join(pod, [{ hostPort: 8080, containerPort: 80, protocol: "tcp" }]);
  t.match(result, { cniVersion: "1.1.0", ips: [{ address: "10.50.0.2/24" }, { address: "fd00:50::2/64" }] });
  await serve(pod, 80);
  t.equal(await ask(outside, HOST, 8080), "p0 203.0.113.2", "the client's address is kept");
  t.equal(await ask(outside, HOST6, 8080), "p0 2001:db8::2");
  t.match(await ask(host.ns, HOST, 8080), /^p0 /, "from the host itself");
  t.equal(await ask(host.ns, "127.0.0.1", 8080), "p0 10.50.0.1", "127.0.0.1, masqueraded");
  t.equal(await ask(pod.ns, HOST, 8080), "p0 10.50.0.1", "hairpin");
  const neighbour = newPod();
  await host.run("ADD", BRIDGE, neighbour);
  t.equal(await ask(neighbour.ns, HOST, 8080), "p0 10.50.0.1", "from a pod of the same block");
  t.equal(await ask(outside, HOST, 80), "", "and nothing else");
  const conf = portmap([{ hostPort: 8080, containerPort: 80 }], result);
  t.equal((await host.run("CHECK", conf, pod)).exitCode, 0);
  await host.ns.exec("iptables", ["-t", "nat", "-D", "OUTPUT", "1"]);
  t.match((await host.run("CHECK", conf, pod)).json, { code: 104, msg: /host ports of p0/ });
  t.equal((await host.run("ADD", conf, pod)).exitCode, 0, "ADD of another pod, or again, puts it back");
  t.equal((await host.run("CHECK", conf, pod)).exitCode, 0);
  for (let n = 0; n < 2; n++) t.equal((await host.run("DEL", portmap([]), pod)).exitCode, 0);
  t.equal(await ask(outside, HOST, 8080), "");
  t.notMatch((await nat()).join("\n"), /CNI-DN/);
  t.notMatch((await nat(host.ns, "ip6tables-save")).join("\n"), /CNI-DN/);
});

t.test("hostIP, several ports, SCTP", async (t) => {
  const pod = newPod();
  await join(pod, [
    { hostPort: 8081, containerPort: 80, protocol: "TCP", hostIP: "203.0.113.9" },
    { hostPort: 8082, containerPort: 80, protocol: "tcp", hostIP: "0.0.0.0" },
    { hostPort: 9000, containerPort: 9000, protocol: "sctp" },
    { hostPort: 0, containerPort: 1 },
  ]);
  await serve(pod, 80);
  t.match(await ask(outside, "203.0.113.9", 8081), `${pod.id} `);
  t.equal(await ask(outside, HOST, 8081), "", "another address of the host");
  t.match(await ask(outside, HOST, 8082), `${pod.id} `);
  t.equal(await ask(outside, HOST6, 8082), "", "0.0.0.0 is IPv4's");
  t.ok(
    (await nat()).some((line) => /-p sctp -m sctp --dport 9000 -j DNAT --to-destination 10\.50/.test(line)),
  );
  await host.run("DEL", portmap([]), pod);
});

t.test("a UDP client that asked before the pod was there is led to it", async (t) => {
  const pod = newPod();
  const base = (await host.run("ADD", BRIDGE, pod)).json;
  const server = await pod.ns.udp({ port: 53 });
  server.on("message", (_, peer) => server.send(pod.id, peer.port, peer.address));
  const client = await outside.udp();
  const client2 = new Promise<string>((resolve) => client.on("message", (data) => resolve(String(data))));
  t.teardown(() => {
    server.close();
    client.close();
  });
  // Somebody on the host takes them first, as the host itself would.
  const taker = await host.ns.udp({ port: 5353 });
  client.send("early", 5353, HOST);
  await new Promise((resolve) => taker.once("message", resolve));
  taker.close();
  await host.run("ADD", portmap([{ hostPort: 5353, containerPort: 53, protocol: "udp" }], base), pod);
  client.send("late", 5353, HOST);
  t.equal(await Promise.race([client2, sleep(30_000, "lost", { ref: false })]), pod.id);
  await host.run("DEL", portmap([]), pod);
});

t.test("refused, and GC", async (t) => {
  const pod = newPod();
  const prevResult = { cniVersion: "1.1.0", ips: [{ address: "10.50.0.77/24" }] };
  const errors: [Record<string, unknown>, number, RegExp][] = [
    [portmap([{ hostPort: 1, containerPort: 1 }]), 7, /prevResult is missing/],
    [
      portmap([{ hostPort: 70000, containerPort: 1 }], prevResult),
      7,
      /portMappings\[0\]\.hostPort must be .* 65535, not 70000/,
    ],
    [
      portmap([{ hostPort: 1, containerPort: 1, protocol: "icmp" }], prevResult),
      7,
      /protocol must be tcp, udp or sctp, not "icmp"/,
    ],
    [portmap([{ hostPort: 1, containerPort: 1, hostIP: "x" }], prevResult), 7, /hostIP: "x"/],
    [portmap([], prevResult, { snats: true }), 2, /unsupported field snats/],
    [portmap([], prevResult, { markMasqBit: 32 }), 7, /markMasqBit must be an integer from 0 to 31/],
  ];
  for (const [conf, code, msg] of errors) {
    t.match(await host.run("ADD", conf, pod), { exitCode: 1, json: { code, msg } }, String(msg));
  }
  const [keep, drop] = [newPod(), newPod()];
  await join(keep, [{ hostPort: 8001, containerPort: 80 }]);
  await join(drop, [{ hostPort: 8002, containerPort: 80 }]);
  const valid = [{ containerID: keep.id, ifname: "eth0" }];
  t.equal(
    (await host.run("GC", { ...portmap([]), "cni.dev/valid-attachments": valid }, { id: "gc" })).exitCode,
    0,
  );
  const left = (await nat()).join("\n");
  t.match(left, /--dport 8001/);
  t.notMatch(left, /8002/);
  t.equal((await host.run("STATUS", portmap([]), { id: "s" })).exitCode, 0);
  await host.run("DEL", portmap([]), keep);
});

t.test("30 at once: each has its rules, and the jumps are there once", async (t) => {
  t.setTimeout(240_000);
  const prevResult = (n: number) => ({ cniVersion: "1.1.0", ips: [{ address: `10.50.1.${n + 1}/24` }] });
  await host.ns.exec("iptables", ["-t", "nat", "-F"]);
  await host.ns.exec("iptables", ["-t", "nat", "-X"]);
  const pods = Array.from({ length: 30 }, (_, n) => ({ id: `all${n}`, n }));
  const ports = (n: number) => [{ hostPort: 20_000 + n, containerPort: 80 }];
  const ns = NetNs.create("any");
  const said = await Promise.all(
    pods.map(({ id, n }) => host.run("ADD", portmap(ports(n), prevResult(n)), { id, ns })),
  );
  t.ok(
    said.every(({ exitCode }) => exitCode === 0),
    JSON.stringify(said.find(({ exitCode }) => exitCode)?.json),
  );
  const lines = await nat();
  t.equal(lines.filter((line) => line.includes("-j CNI-HOSTPORT-DNAT")).length, 2);
  t.equal(lines.filter((line) => line.includes("-j CNI-HOSTPORT-MASQ")).length, 1);
  t.equal(lines.filter((line) => line.startsWith("-A CNI-HOSTPORT-DNAT")).length, 30);
  t.equal(lines.filter((line) => line.startsWith(":CNI-DN-")).length, 30);
  await Promise.all(pods.map(({ id }) => host.run("DEL", portmap([]), { id, ns })));
  t.notMatch((await nat()).join("\n"), /CNI-DN/);
});

t.test(
  "rule for rule what the reference plugin makes",
  { skip: !REFERENCE && "it is missing" },
  async (t) => {
    const mappings = [
      ...Array.from({ length: 17 }, (_, n) => ({ hostPort: 7000 + n, containerPort: 80, protocol: "tcp" })),
      { hostPort: 53, containerPort: 53, protocol: "udp" },
      { hostPort: 7099, containerPort: 8443, protocol: "tcp", hostIP: "203.0.113.9" },
    ];
    const prevResult = {
      cniVersion: "1.0.0",
      interfaces: [{ name: "eth0", sandbox: "/x" }],
      ips: [{ address: "10.60.0.5/24", interface: 0 }],
    };
    const conf = (type: string) => ({
      ...{ cniVersion: "1.0.0", name: "same", type, prevResult },
      runtimeConfig: { portMappings: mappings },
    });
    const rules: string[][] = [];
    for (const [type, extra] of [
      ["portmap", {}],
      ["kubeplumb-portmap", { dataDir: host.dir }],
    ] as const) {
      const other = new PluginHost(type);
      t.teardown(() => other.close());
      await other.rt.addBridge({ name: "br0", up: true });
      await other.rt.addAddress("br0", "10.60.0.1/24");
      const call = { id: "one", ns: outside, path: `${other.bin}:${REFERENCE}` };
      const said = await other.run("ADD", { ...conf(type), ...extra }, call);
      t.equal(said.exitCode, 0, JSON.stringify(said.json));
      t.equal(other.ns.sysctl("net/ipv4/conf/br0/route_localnet"), "1");
      rules.push(await nat(other.ns));
      const ours = { ...conf("kubeplumb-portmap"), dataDir: host.dir };
      t.equal((await other.run("CHECK", ours, call)).exitCode, 0, "our CHECK knows either one's rules");
      const deleted = await other.run("DEL", { ...conf(type), ...extra }, call);
      t.equal(deleted.exitCode, 0, JSON.stringify(deleted.json));
      t.notMatch((await nat(other.ns)).join("\n"), /CNI-DN/);
    }
    t.strictSame(rules[1]?.sort(), rules[0]?.sort());
  },
);
