// The plugins as `kubeplumb install cni` writes them, called as cnitool and libcni call them: the list from its
// directory, each program with its environment and derived configuration, the result kept between the calls. With an
// agent and without one.

import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, join } from "node:path";
import t from "tap";
import { cniFiles } from "../../cli/install/cni.js";
import { startCniAgent } from "../../cni/agent.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { posixSpawn } from "../../dataplane/kernel/posix-spawn.js";
import { RtNetlink } from "../../dataplane/kernel/rtnetlink.js";
import { PluginHost } from "../helpers/cni.js";

const host = new PluginHost("unused");
t.teardown(() => host.close());
const BIN = join(host.dir, "opt/cni/bin");
const subnetFile = join(host.dir, "subnet.env");
for (const [path, file] of cniFiles({ node: process.execPath, subnetFile })) {
  mkdirSync(dirname(join(host.dir, path)), { recursive: true });
  writeFileSync(join(host.dir, path), file.text);
  chmodSync(join(host.dir, path), file.mode ?? 0o644);
}
writeFileSync(
  subnetFile,
  "FLANNEL_SUBNET=10.97.0.1/24\nFLANNEL_IPV6_SUBNET=fd00:97::1/64\nFLANNEL_MTU=1430\n",
);
const list = JSON.parse(readFileSync(join(host.dir, "etc/cni/net.d/10-kubeplumb.conflist"), "utf8"));
const socket = join(host.dir, "cni.sock");

type Tap = Pick<typeof t, "teardown" | "match" | "equal" | "notOk" | "notMatch" | "rejects">;
interface Attachment {
  id: string;
  ns: NetNs;
  /** Capability arguments. */
  args: Record<string, unknown>;
  // biome-ignore lint/suspicious/noExplicitAny: a result of any version.
  result?: any;
}

/** libcni's order and configurations for one verb. Throws the first plugin's error. */
async function cnitool(verb: string, version: string, pod?: Attachment, extra: object = {}): Promise<void> {
  const plugins = verb === "DEL" ? list.plugins.toReversed() : list.plugins;
  let previous = verb === "ADD" ? undefined : pod?.result;
  for (const { capabilities = {}, ...plugin } of plugins) {
    const wanted = Object.entries(pod?.args ?? {}).filter(([key]) => capabilities[key] === true);
    const conf = {
      ...plugin,
      ...{ cniVersion: version, name: list.name, dataDir: join(host.dir, "state") },
      ...(wanted.length > 0 && { runtimeConfig: Object.fromEntries(wanted) }),
      ...(previous && { prevResult: previous }),
      ...extra,
    };
    // Nothing else: a runtime need not have a PATH with Node in it.
    const env = {
      ...{ PATH: "/usr/sbin:/usr/bin:/sbin:/bin", CNI_COMMAND: verb, CNI_PATH: BIN },
      KUBEPLUMB_CNI_SOCKET: socket,
      ...(pod && { CNI_CONTAINERID: pod.id, CNI_NETNS: pod.ns.path, CNI_IFNAME: "eth0", CNI_ARGS: "" }),
    };
    const input = JSON.stringify(conf);
    const { exitCode, stdout, stderr } = await posixSpawn(join(BIN, plugin.type), [], { input, env }).ended;
    t.equal(stderr, "", `${plugin.type} ${verb} says nothing on stderr`);
    if (exitCode !== 0) throw Object.assign(new Error(stdout), JSON.parse(stdout));
    if (verb === "ADD") previous = JSON.parse(stdout);
    else t.equal(stdout, "", `${plugin.type} ${verb} prints nothing`);
  }
  if (verb === "ADD" && pod) pod.result = previous;
}

const answers = (from: NetNs, ip: string, port: number) =>
  from
    .exec("curl", ["-gsS", "--max-time", "20", `http://${ip.includes(":") ? `[${ip}]` : ip}:${port}/`])
    .then(({ stdout }) => stdout);

async function round(t: Tap, version: string, name: string): Promise<void> {
  const here = NetNs.current();
  using rt = RtNetlink.open(here);
  await rt.setLink("lo", { up: true });
  const portMappings = [{ hostPort: 8080, containerPort: 80, protocol: "tcp" }];
  const pod: Attachment = {
    id: `${name}-1`,
    ns: NetNs.create(`${name}-1`),
    args: { portMappings, mac: "x" },
  };
  const other: Attachment = { id: `${name}-2`, ns: NetNs.create(`${name}-2`), args: {} };
  if (version === "1.1.0") await cnitool("STATUS", version);
  await cnitool("ADD", version, pod);
  await cnitool("ADD", version, other);
  t.match(pod.result, {
    cniVersion: version,
    interfaces: [{ name: "cni0" }, { name: /^veth/ }, { name: "eth0", sandbox: pod.ns.path }],
    ips: [
      { address: /^10\.97\.0\.\d+\/24$/, gateway: "10.97.0.1", interface: 2 },
      { address: /^fd00:97::\w+\/64$/, gateway: "fd00:97::1", interface: 2 },
    ],
    routes: [{ dst: "0.0.0.0/0" }, { dst: "::/0" }],
  });
  const [four, six] = pod.result.ips.map(({ address }: { address: string }) => address.split("/")[0]);
  const servers = [four, six].map(() => createServer((_, response) => response.end("hello from the pod")));
  for (const [n, server] of servers.entries())
    await pod.ns.listen(server, { host: n === 0 ? four : six, port: 80 });
  t.teardown(() => {
    for (const server of servers) server.close();
  });
  for (const [from, ip, port] of [
    [other.ns, four, 80],
    [other.ns, six, 80],
    [other.ns, "10.97.0.1", 8080],
    [other.ns, "fd00:97::1", 8080],
    [here, "127.0.0.1", 8080],
  ] as const)
    t.equal(await answers(from, ip, port), "hello from the pod", `${ip} ${port}`);
  await cnitool("CHECK", version, pod);
  await t.rejects(cnitool("ADD", version, { ...pod }), { code: 101 });
  await cnitool("CHECK", version, pod);
  await cnitool("DEL", version, pod);
  await cnitool("DEL", version, pod);
  await t.rejects(cnitool("CHECK", version, pod), { code: 104 });
  // The runtime has died and forgotten the other one.
  if (version === "1.1.0") await cnitool("GC", version, undefined, { "cni.dev/valid-attachments": [] });
  else await cnitool("DEL", version, other);
  t.notOk((await rt.listLinks()).some(({ master }) => master === "cni0"));
  const { stdout } = await here.exec("iptables-save", ["-t", "nat"]);
  t.notMatch(stdout, `${name}-`);
  for (const { ns } of [pod, other]) ns.close();
}
t.test("without an agent", (t) => round(t, "1.0.0", "none"));

t.test("with an agent, and one that comes and goes", async (t) => {
  const agent = await startCniAgent(socket);
  t.teardown(() => agent.close());
  await round(t, "1.1.0", "some");
  const pod: Attachment = { id: "late", ns: NetNs.create("late"), args: {} };
  await cnitool("ADD", "1.1.0", pod);
  await agent.close();
  await cnitool("CHECK", "1.1.0", pod);
  await cnitool("DEL", "1.1.0", pod);
});
