// The lab without its processes: configuration, names, state directory, locks, process identity, relays.

import { spawn } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:http";
import { type AddressInfo, connect, createServer as createTcpServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import t from "tap";
import type { EndpointSlice, Pod, Service, Stored } from "../../common/k8s.js";
import { silentLogger } from "../../common/log.js";
import { acceptDial } from "../../common/tunnel.js";
import {
  bridgeAddresses,
  ConfigError,
  checkConfig,
  overrideConfig,
  parseConfig,
  publishProblem,
  resolveConfig,
} from "../../lab/config.js";
import { removeTree } from "../../lab/files.js";
import { identify, isAlive, processesWithArgument, signal, waitGone } from "../../lab/identity.js";
import { namespaceCommand } from "../../lab/launch.js";
import { clusterInfo, down, listClusters, status, up } from "../../lab/lifecycle.js";
import { readManifest } from "../../lab/manifests.js";
import { IPTABLES_FEATURES } from "../../lab/probe.js";
import { Relay } from "../../lab/relay.js";
import { featureRemedy, namespaceRemedy } from "../../lab/remedies.js";
import { clusterNames, clusterPaths, readJson, stateHome, withLock, writeJson } from "../../lab/state.js";
import { behind, staleService } from "../../lab/sync.js";
import { dial } from "../../lab/tunnel.js";
import { requestJson } from "../../lab/unix-http.js";
import { fulfils } from "../../lab/wait.js";

/** Short, for unix sockets; gone at the end. */
function tempDir(): string {
  const dir = mkdtempSync(join(tmpdir(), "kp-"));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** The messages of everything that is wrong with a YAML text. */
function problems(yaml: string): string[] {
  try {
    parseConfig(yaml, "c.yaml");
    return [];
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return error.message.split("\n");
  }
}

t.test("an empty configuration is a whole one", async (t) => {
  const config = resolveConfig(parseConfig(""));
  t.equal(config.name, "kubeplumb");
  t.same(config.networking, {
    ipFamily: "ipv4",
    podSubnet: "10.244.0.0/16",
    serviceSubnet: "10.96.0.0/16",
    nodeSubnet: "192.168.56.0/21",
    loadBalancerPool: "192.168.56.200-192.168.56.250",
    iptables: "auto",
    nodePortRange: [30000, 32767],
  });
  t.same(
    config.nodes.map(({ name, ip }) => `${name} ${ip}`),
    ["node-1 192.168.56.11", "node-2 192.168.56.12", "node-3 192.168.56.13"],
  );
  t.same(config.controlPlane, {
    apiPort: 0,
    nodeMonitorGracePeriodSeconds: 40,
    defaultTolerationSeconds: 300,
  });
});

t.test("every field is taken over", async (t) => {
  const config = parseConfig(`
apiVersion: kubeplumb.dev/v1alpha1
kind: Cluster
name: blue
networking: { podSubnet: 10.0.0.0/14, serviceSubnet: 172.30.0.0/16, nodeSubnet: 192.168.0.0/24, iptables: legacy, nodePortRange: 30100-30200 }
nodes:
  - name: edge
    labels: { example.com/zone: a, empty: "" }
    taints: [{ key: dedicated, value: infra, effect: NoSchedule }]
  - {}
images:
  my/web:1: nginx
  my/tool: { command: [sh, -c], args: ["echo hi"], env: { A: "1" } }
publish: [{ hostPort: 8080, nodePort: 30100 }, { hostPort: 8080, nodePort: 30101, address: 127.0.0.2 }]
controlPlane: { apiPort: 6443, nodeMonitorGracePeriodSeconds: 5, defaultTolerationSeconds: 0 }
`);
  const resolved = resolveConfig(config);
  t.same(resolved.nodes, [
    {
      name: "edge",
      ip: "192.168.0.11",
      ips: ["192.168.0.11"],
      labels: { "example.com/zone": "a", empty: "" },
      taints: [{ key: "dedicated", value: "infra", effect: "NoSchedule" }],
    },
    { name: "node-2", ip: "192.168.0.12", ips: ["192.168.0.12"], labels: {}, taints: [] },
  ]);
  t.same(resolved.networking.nodePortRange, [30100, 30200]);
  t.same(resolved.images, {
    "my/web:1": "nginx",
    "my/tool": { command: ["sh", "-c"], args: ["echo hi"], env: { A: "1" } },
  });
  t.same(resolved.publish[0], { hostPort: 8080, nodePort: 30100, address: "127.0.0.1" });
  t.same(resolved.controlPlane, {
    apiPort: 6443,
    nodeMonitorGracePeriodSeconds: 5,
    defaultTolerationSeconds: 0,
  });
  t.same(checkConfig(config), config, "an object is read like a text");
  t.equal(resolveConfig(parseConfig("nodes: 5")).nodes.length, 5);
});

t.test("both families, and IPv6 alone", async (t) => {
  const resolve = (networking: object) => resolveConfig(checkConfig({ nodes: 2, networking }));
  const dual = resolve({ ipFamily: "dual" });
  t.match(dual.networking, {
    ipFamily: "dual",
    podSubnet: "10.244.0.0/16,fd00:10:244::/56",
    serviceSubnet: "10.96.0.0/16,fd00:10:96::/112",
    nodeSubnet: "192.168.56.0/21,fd00:192:168:56::/64",
  });
  t.match(dual.nodes, [
    { ip: "192.168.56.11", ips: ["192.168.56.11", "fd00:192:168:56::b"] },
    { ip: "192.168.56.12", ips: ["192.168.56.12", "fd00:192:168:56::c"] },
  ]);
  t.same(bridgeAddresses(dual), [
    { address: "192.168.56.1", prefix: 21 },
    { address: "fd00:192:168:56::1", prefix: 64 },
  ]);
  const six = resolve({ ipFamily: "ipv6", podSubnet: "fd01::/60" });
  t.match(six.networking, { podSubnet: "fd01::/60", serviceSubnet: "fd00:10:96::/112" });
  t.same(six.nodes[1]?.ips, ["fd00:192:168:56::c"]);
});

t.test("what is wrong is named: file, line, column, field, value, what is allowed", async (t) => {
  t.same(problems("name: kubeplumb\nnodez: 3\n"), [
    "c.yaml:2:1: nodez: unknown field, allowed are apiVersion, kind, name, networking, dns, nodes, images, publish, controlPlane",
  ]);
  t.same(problems("networking:\n  podSubnet: 10.244.0.0/33\n"), [
    'c.yaml:2:14: networking.podSubnet: "10.244.0.0/33": an IPv4 network like 10.244.0.0/16 with a prefix from /8 to /24 is expected',
  ]);
  const cases: [yaml: string, expected: RegExp][] = [
    ["name: Blue_1", /name: "Blue_1": allowed are 1 to 63 of a-z, 0-9 and -/],
    ["apiVersion: v1", /apiVersion: "v1": allowed is kubeplumb\.dev\/v1alpha1/],
    ["kind: Pod", /kind: "Pod": allowed is Cluster/],
    ["nodes: 0", /nodes: 0: a whole number from 1 to 4096/],
    ["nodes: []", /nodes: \[\]: at least one host/],
    ["nodes: many", /nodes: "many": a number of hosts or a list/],
    [
      "nodes: 257",
      /nodes: 257: 257 hosts are too many for networking\.podSubnet 10\.244\.0\.0\/16: it has 256/,
    ],
    [
      "networking: { nodeSubnet: 10.1.0.0/27 }\nnodes: 21",
      /21 hosts are too many for networking\.nodeSubnet .* it has 20/,
    ],
    ["nodes: [{ name: a }, { name: a }]", /nodes\[1\]: .*two hosts are called a \(nodes\[0\] too\)/],
    ["nodes: [{ labels: { '-x': a } }]", /nodes\[0\]\.labels\["-x"\]: "a": label key "-x"/],
    ["nodes: [{ labels: { x: 1 } }]", /nodes\[0\]\.labels\.x: 1: a string is expected/],
    ["nodes: [{ labels: { x: 'a b' } }]", /a label value is up to 63/],
    ["nodes: [{ taints: [{ key: a }] }]", /nodes\[0\]\.taints\[0\]\.effect: is required: NoSchedule/],
    [
      "nodes: [{ taints: [{ key: a, effect: No }] }]",
      /effect: "No": allowed are NoSchedule, PreferNoSchedule, NoExecute/,
    ],
    [
      "networking: { serviceSubnet: 10.244.8.0/24 }",
      /serviceSubnet: .*overlaps networking\.podSubnet 10\.244\.0\.0\/16/,
    ],
    ["networking: { nodeSubnet: 10.96.0.0/12 }", /nodeSubnet: .*overlaps networking\.serviceSubnet/],
    [
      "networking: { podSubnet: 10.244.0.1/16 }",
      /bits are set beyond the prefix; the network is 10\.244\.0\.0\/16/,
    ],
    ["networking: { podSubnet: 127.0.0.0/16 }", /overlaps 127\.0\.0\.0\/8, which is reserved/],
    ["networking: { podSubnet: 'fd00::/64' }", /networking\.ipFamily is ipv4: expected is one IPv4 network$/],
    ["networking: { ipFamily: both }", /ipFamily: "both": allowed are ipv4, ipv6, dual/],
    [
      "networking: { ipFamily: dual, podSubnet: 10.244.0.0/16 }",
      /podSubnet: .*ipFamily is dual: expected is one IPv4 network, a comma and one IPv6 network$/,
    ],
    [
      "networking: { ipFamily: dual, nodeSubnet: 'fd01::/64,10.1.0.0/24', podSubnet: '10.2.0.0/16,fd02::/56' }",
      /nodeSubnet: .*expected is one IPv4 network, a comma and one IPv6 network$/,
    ],
    ["networking: { ipFamily: ipv6, podSubnet: 'fd00::/47' }", /an IPv6 network .* from \/48 to \/64/],
    ["networking: { ipFamily: ipv6, serviceSubnet: 'fd00::/64' }", /an IPv6 network .* from \/108 to \/124/],
    ["networking: { ipFamily: ipv6, nodeSubnet: 'fe80::/64' }", /overlaps fe80::\/10, which is reserved/],
    [
      "networking: { ipFamily: dual, nodeSubnet: '10.1.0.0/24,fd00:10:244::/64' }",
      /nodeSubnet: .*fd00:10:244::\/64 overlaps networking\.podSubnet fd00:10:244::\/56/,
    ],
    [
      "networking: { ipFamily: ipv6, podSubnet: 'fd00:1::/63' }\nnodes: 3",
      /3 hosts are too many for networking\.podSubnet fd00:1::\/63: it has 2 networks of \/64/,
    ],
    ["networking: { iptables: ebpf }", /iptables: "ebpf": allowed are auto, nft, legacy/],
    ["networking: { nodePortRange: 30000 }", /nodePortRange: 30000: a string is expected/],
    ["networking: { nodePortRange: 9-1 }", /nodePortRange: "9-1": first-last/],
    ["networking: []", /networking: \[\]: a mapping is expected/],
    ["images: { web: no/such:1 }", /1:16: images\.web: "no\/such:1": a known image is expected: .*, nginx, /],
    ["images: { web: { image: nothing } }", /images\.web\.image: "nothing": a known image is expected/],
    ["images: { web: { args: [a] } }", /images\.web: .*image .* or command .* is required/],
    ["images: { web: { command: [a, 1] } }", /images\.web\.command\[1\]: 1: a string is expected/],
    ["images: { web: { command: [a], env: { 1a: x } } }", /env\["1a"\]: "x": a variable name/],
    ["publish: [{ hostPort: 8080 }]", /publish\[0\]\.nodePort: is required/],
    ["publish: [{ hostPort: 0, nodePort: 30000 }]", /hostPort: 0: a whole number from 1 to 65535/],
    ["publish: [{ hostPort: 80, nodePort: 80 }]", /nodePort 80 is not in 30000-32767/],
    [
      "publish: [{ hostPort: 80, nodePort: 30080, address: 0.0.0.0 }]",
      /address: "0\.0\.0\.0": a loopback address/,
    ],
    [
      "publish: [{ hostPort: 80, nodePort: 30080 }, { hostPort: 80, nodePort: 30081 }]",
      /publish\[1\]: .*127\.0\.0\.1:80 is published twice \(publish\[0\] too\)/,
    ],
    ["controlPlane: { apiPort: 70000 }", /apiPort: 70000: a whole number from 1 to 65535/],
    ["name: a\n---\nname: b", /c\.yaml:3:1: .*one document is expected/],
    ["name: [a", /c\.yaml:1:\d+: malformed YAML/],
    ["name: a\nname: b", /malformed YAML: Map keys must be unique/],
    ["- a", /a mapping is expected/],
  ];
  for (const [yaml, expected] of cases) t.match(problems(yaml).join("\n"), expected, yaml);
  t.equal(problems("name: A\nnodes: x\nfoo: 1").length, 3, "everything is said at once");
});

t.test("the published JSON Schema names the fields that the reader takes", async (t) => {
  interface Schema {
    properties?: Record<string, Schema>;
    items?: Schema;
    oneOf?: Schema[];
    additionalProperties?: Schema | boolean;
  }
  // From dist/tests/unit as from a folder of .build: the schema stands beside its source.
  const path = ["../../../", "../../../../"].map(
    (up) => new URL(`${up}lab/cluster.schema.json`, import.meta.url),
  );
  const schema = JSON.parse(readFileSync(path.find((url) => existsSync(url)) ?? "", "utf8")) as Schema;
  const named = (at: Schema | undefined) => Object.keys(at?.properties ?? {}).join(", ");
  const { networking, nodes, images, publish, controlPlane } = schema.properties ?? {};
  const node = nodes?.oneOf?.[1]?.items;
  const image = (images?.additionalProperties as Schema | undefined)?.oneOf?.[1];
  const places: [yaml: string, at: Schema | undefined][] = [
    ["zzz: 1", schema],
    ["networking: { zzz: 1 }", networking],
    ["nodes: [{ zzz: 1 }]", node],
    ["nodes: [{ taints: [{ key: a, effect: NoExecute, zzz: 1 }] }]", node?.properties?.taints?.items],
    ["images: { a: { image: b, zzz: 1 } }", image],
    ["publish: [{ hostPort: 1, nodePort: 30000, zzz: 1 }]", publish?.items],
    ["controlPlane: { zzz: 1 }", controlPlane],
  ];
  for (const [yaml, at] of places) {
    t.match(problems(yaml)[0], new RegExp(`unknown field, allowed are ${named(at)}$`), yaml);
  }
});

t.test("the command line wins over the configuration", async (t) => {
  const config = parseConfig(
    "name: blue\nnodes: [{ name: a, labels: { x: y } }, { name: b }]\npublish: [{ hostPort: 1, nodePort: 30001 }]",
  );
  const names = (nodes: number) =>
    resolveConfig(overrideConfig(config, { nodes })).nodes.map(({ name }) => name);
  t.same(names(1), ["a"]);
  t.same(names(3), ["a", "b", "node-3"]);
  const other = overrideConfig(config, {
    name: "red",
    publish: [{ hostPort: 2, nodePort: 30002 }],
    apiPort: 7000,
  });
  t.equal(other.name, "red");
  t.same(
    other.publish?.map(({ hostPort }) => hostPort),
    [1, 2],
  );
  t.equal(other.controlPlane?.apiPort, 7000);
  t.throws(() => overrideConfig(config, { nodes: 1.5 }), /options: nodes: 1.5: a whole number/);
  t.throws(() => overrideConfig({}, { name: "-" }), /options: name: "-": allowed are/);
});

t.test("a single published port is judged like one of the configuration", async (t) => {
  const config = resolveConfig({});
  t.equal(publishProblem({ hostPort: 8080, nodePort: 30080 }, config), undefined);
  t.match(publishProblem({ hostPort: 0, nodePort: 30080 }, config), /hostPort 0: a whole number/);
  t.match(publishProblem({ hostPort: 8080, nodePort: 1 }, config), /nodePort 1 is not in 30000-32767/);
  t.match(publishProblem({ hostPort: 8080, nodePort: 30080, address: "8.8.8.8" }, config), /loopback/);
});

t.test("the state directory", async (t) => {
  t.equal(stateHome({ KUBEPLUMB_HOME: "/k", XDG_STATE_HOME: "/x" }), "/k");
  t.equal(stateHome({ XDG_STATE_HOME: "/x", HOME: "/h" }), "/x/kubeplumb");
  const home = tempDir();
  t.equal(stateHome({ HOME: home }), join(home, ".local/state/kubeplumb"));
  t.equal(stateHome({ HOME: "/nonexistent/home" }), join(tmpdir(), `kubeplumb-${process.getuid?.()}`));
  t.throws(() => clusterPaths("a/b", "/h"), { code: "INVALID_NAME", message: /cluster name "a\/b"/ });
  t.throws(() => clusterPaths("..", "/h"), { code: "INVALID_NAME" });
  const long = `/${"x".repeat(91)}`;
  t.equal(clusterPaths("a", long).controlSocket.length, 107);
  t.throws(() => clusterPaths("ab", long), {
    code: "PATH_TOO_LONG",
    message: /has 108 bytes, a unix socket path may have 107; set KUBEPLUMB_HOME/,
  });
  const dir = tempDir();
  for (const name of ["blue", ".hidden", "UPPER"]) mkdirSync(join(dir, name));
  writeFileSync(join(dir, "a-file"), "");
  t.same(clusterNames(dir), ["blue"]);
  t.same(clusterNames(join(dir, "none")), []);
  writeJson(join(dir, "x.json"), { a: 1 });
  t.same(readJson(join(dir, "x.json")), { a: 1 });
  writeFileSync(join(dir, "x.json"), '{"a":');
  t.equal(readJson(join(dir, "x.json")), undefined, "half a file is none");
});

t.test("directories above the state directory go with it when they were made for it", async (t) => {
  const top = tempDir();
  const paths = clusterPaths("one", join(top, "a", "b", "home"));
  await withLock(paths, async () => mkdirSync(paths.dir));
  t.ok(existsSync(paths.dir), "a cluster holds them");
  await withLock(paths, async () => removeTree(paths.dir));
  t.same(readdirSync(top), [], "another command removes all three");
  mkdirSync(join(top, "a"));
  await withLock(paths, async () => mkdirSync(paths.dir));
  await withLock(paths, async () => removeTree(paths.dir));
  t.same(readdirSync(top), ["a"], "what was there before stays");
  const nowhere = clusterPaths("one", "/proc/kubeplumb/home");
  await t.rejects(
    withLock(nowhere, async () => {}),
    { code: "ENOENT" },
    "below /proc no directory can be made, and that is said",
  );
});

t.test("one command at a time works on a cluster", async (t) => {
  const home = join(tempDir(), "home");
  const paths = clusterPaths("one", home);
  const log: string[] = [];
  const work = (name: string) =>
    withLock(paths, async () => {
      log.push(`${name} begins`);
      await new Promise((resolve) => setTimeout(resolve, 15));
      log.push(`${name} ends`);
    });
  await Promise.all(["a", "b", "c"].map(work));
  for (let i = 0; i < log.length; i += 2) {
    t.equal(log[i + 1], log[i]?.replace("begins", "ends"), "never two at once");
  }
  t.notOk(existsSync(home), "neither the lock nor an empty directory remains");

  const holder = `import { withLock, clusterPaths } from ${JSON.stringify(new URL("../../lab/state.js", import.meta.url).href)};
    await withLock(clusterPaths("one", ${JSON.stringify(home)}), () => { console.log("held"); return new Promise((r) => setTimeout(r, 60000)); });`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", holder], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await new Promise((resolve) => child.stdout.once("data", resolve));
  await t.rejects(
    withLock(paths, async () => {}, 30),
    { code: "LOCK_TIMEOUT", message: new RegExp(`process ${child.pid}`) },
  );
  child.kill("SIGKILL");
  await new Promise((resolve) => child.once("exit", resolve));
  await withLock(paths, async () => t.pass("a dead holder holds nothing"), 1000);
  await t.rejects(
    withLock(paths, async () => {
      throw new Error("work failed");
    }),
    /work failed/,
  );
  t.notOk(existsSync(home));
});

t.test("a process is known by more than its number", async (t) => {
  const marker = `--marker=${Math.random()}`;
  const child = spawn("sh", ["-c", "echo ready; read x", "sh", marker], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  await new Promise((resolve) => child.stdout.once("data", resolve));
  const id = identify(child.pid ?? 0);
  t.ok(id && isAlive(id));
  t.same(
    processesWithArgument(marker).map(({ pid }) => pid),
    [child.pid],
  );
  if (!id) return;
  const stranger = { ...id, startTime: "1" };
  t.notOk(isAlive(stranger), "another process with that number");
  t.notOk(isAlive({ ...id, bootId: "other" }), "a number of before the reboot");
  t.notOk(signal(stranger, "SIGKILL"), "is not signalled");
  t.ok(isAlive(id));
  t.equal(await waitGone([id], 5), false);
  t.ok(signal(id, "SIGKILL"));
  t.equal(await waitGone([id], 5000), true, "a zombie is gone");
  t.equal(identify(2 ** 22 + 1), undefined);
});

t.test("down and status of what never was", async (t) => {
  const home = join(tempDir(), "home");
  t.same(await down("none", { home }), { existed: false });
  const none = await status("none", home);
  t.equal(none.state, "absent");
  t.same(none.problems, []);
  t.same(await listClusters(home), []);
  t.equal(clusterInfo("none", home), undefined);
  t.notOk(existsSync(home));
  mkdirSync(join(home, "half"), { recursive: true });
  writeFileSync(join(home, "half", "lab.json"), JSON.stringify({ ...identify(process.pid), startTime: "1" }));
  t.equal((await status("half", home)).state, "stopped");
  t.same(
    await down("half", { home }),
    { existed: true },
    "and this process, of the same number, still lives",
  );
  t.notOk(existsSync(home));
  await t.rejects(down("UP", { home }), { code: "INVALID_NAME" });
  await t.rejects(up({ home, nodes: -1 }), /nodes: -1: a whole number/);
  await t.rejects(up({ home, name: "a.b" }), /name: "a\.b": allowed are/);
  t.notOk(existsSync(home), "bad input changes nothing");
});

t.test("trees with closed directories are removed", async (t) => {
  const dir = tempDir();
  mkdirSync(join(dir, "a", "b"), { recursive: true });
  writeFileSync(join(dir, "a", "b", "c"), "");
  symlinkSync("/etc", join(dir, "a", "link"));
  chmodSync(join(dir, "a", "b"), 0);
  removeTree(join(dir, "a"));
  t.notOk(existsSync(join(dir, "a")));
  t.ok(existsSync("/etc"));
});

t.test("what to do about what a machine lacks", async (t) => {
  const { iptables, ...features }: Record<string, string> = {
    vxlan: "sudo modprobe vxlan",
    "bridge-nf-call-iptables": "sudo modprobe br_netfilter",
    "iptables statistic": "sudo modprobe xt_statistic",
    "iptables-legacy tables": "sudo modprobe -a iptable_nat iptable_filter iptable_mangle",
    iptables: "sudo apt-get install -y iptables",
  };
  t.equal(featureRemedy("iptables", "not found", false), iptables);
  for (const [id, remedy] of Object.entries(features)) {
    t.equal(featureRemedy(id, "EOPNOTSUPP: addVxlan vx0", false), remedy);
    t.equal(featureRemedy(id, "EPERM: addVxlan vx0", false), "run kubeplumb with sudo");
    t.match(featureRemedy(id, "EPERM: addVxlan vx0", true), /--privileged/, "root in a container");
  }
  for (const [id] of IPTABLES_FEATURES) {
    t.match(
      featureRemedy(`iptables ${id}`, "No chain/target/match by that name", true),
      /modprobe (xt|ipt)_/,
    );
  }
  t.equal(featureRemedy("sysctl ip_forward", "ENOENT", false), "run kubeplumb with sudo");
  t.equal(namespaceRemedy(true), undefined, "this machine forbids root nothing");
});

t.test("the lab's namespaces", async (t) => {
  const line = namespaceCommand(["prog"], { pidNamespace: true, privileged: false }).join(" ");
  for (const flag of [
    "--user --map-root-user",
    "--net",
    "--mount",
    "--pid --fork",
    "--kill-child=SIGKILL",
    "--mount-proc",
    "--propagation private",
  ]) {
    t.ok(line.includes(flag), flag);
  }
  const root = namespaceCommand(["prog"], { pidNamespace: false, privileged: true }).join(" ");
  t.notMatch(root, /--user|--mount-proc|--pid/);
});

t.test("connections through the lab's socket and a published port", async (t) => {
  const dir = tempDir();
  const labSocket = join(dir, "lab.sock");
  // Answers when the request has ended, with its length: needs half-open connections all the way.
  const target = createTcpServer({ allowHalfOpen: true }, (socket) => {
    let length = 0;
    socket.on("data", (chunk) => {
      length += chunk.length;
    });
    socket.once("end", () => socket.end(`got ${length}\n${"y".repeat(300_000)}`));
  });
  await new Promise<void>((resolve) => target.listen(0, "127.0.0.1", resolve));
  const { port } = target.address() as AddressInfo;
  const lab = createServer();
  const asked: string[] = [];
  lab.on("upgrade", (req, socket, head) => {
    const [, , ip = "", to = ""] = (req.url ?? "").split("/");
    asked.push(ip);
    // A host that drops what comes.
    if (ip === "192.0.2.1") socket.once("end", () => socket.end());
    else acceptDial(socket as Socket, head, ip, Number(to));
  });
  await new Promise<void>((resolve) => lab.listen(labSocket, resolve));
  t.teardown(() => {
    lab.close();
    target.close();
  });

  const direct = await dial(labSocket, "127.0.0.1", port);
  direct.end(Buffer.alloc(200_000));
  t.match(await text(direct), /^got 200000\ny{300000}$/);
  const free = await freePort();
  await t.rejects(dial(labSocket, "127.0.0.1", free), /connection refused/);
  await t.rejects(dial(join(dir, "none"), "127.0.0.1", free), { code: "ENOENT" });

  const hosts = ["127.0.0.1"];
  const relay = new Relay({ labSocket, nextHosts: () => hosts, log: silentLogger });
  t.teardown(() => relay.close());
  const published = { hostPort: await freePort(), nodePort: port, address: "127.0.0.1" };
  await relay.open(published);
  await relay.open(published);
  t.same(relay.list(), [published], "twice the same is once");
  const client = connect({ port: published.hostPort, host: "127.0.0.1", allowHalfOpen: true });
  client.end(Buffer.alloc(100_000));
  t.match(await text(client), /^got 100000\ny{300000}$/);
  await t.rejects(relay.open({ ...published, nodePort: 1 }), {
    code: "PORT_IN_USE",
    message: /leads to NodePort/,
  });
  await t.rejects(relay.open({ ...published, hostPort: port }), {
    code: "PORT_IN_USE",
    message: `127.0.0.1:${port} is in use by another program; publish another port`,
  });
  for (const [refused, silent] of [
    ["127.0.0.2", "192.0.2.1"],
    ["192.0.2.1", "127.0.0.2"],
  ] as const) {
    hosts.splice(0, 3, refused, silent, "127.0.0.1");
    asked.length = 0;
    const began = performance.now();
    const patient = connect({ port: published.hostPort, host: "127.0.0.1", allowHalfOpen: true });
    patient.end("x");
    t.match(await text(patient), /^got 1\n/);
    t.ok(
      performance.now() - began < 60_000,
      "a silent host is given a second, where the kernel gives two minutes",
    );
    if (refused === "127.0.0.2") t.same(asked, hosts, "each host once");
    else t.same(asked, ["127.0.0.1"], "the one that answered is asked first from then on");
  }
  hosts.length = 0;
  await t.rejects(
    text(connect({ port: published.hostPort, host: "127.0.0.1" })),
    { code: "ECONNRESET" },
    "no host is Ready",
  );
});

async function freePort(): Promise<number> {
  const server = createTcpServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

t.test("requests over a unix socket", async (t) => {
  const dir = tempDir();
  const socketPath = join(dir, "s");
  const server = createServer((req, res) => {
    if (req.url === "/echo")
      void text(req).then((body) => res.end(JSON.stringify({ method: req.method, body })));
    else if (req.url === "/taken") res.writeHead(409).end('{"message":"no","code":"PORT_IN_USE"}');
    else if (req.url === "/odd") res.end("odd");
    else if (req.url === "/never") return;
    else res.writeHead(500).end('{"message":"broken"}');
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  t.teardown(() => server.closeAllConnections());
  t.teardown(() => server.close());
  t.same(await requestJson({ socketPath, method: "POST", path: "/echo", body: { a: 1 } }), {
    method: "POST",
    body: '{"a":1}',
  });
  await t.rejects(requestJson({ socketPath, path: "/taken" }), { code: "PORT_IN_USE", message: "no" });
  await t.rejects(requestJson({ socketPath, path: "/x" }), { code: "COMMAND_FAILED", message: "broken" });
  await t.rejects(requestJson({ socketPath, path: "/odd" }), /is not JSON: odd/);
  await t.rejects(requestJson({ socketPath, path: "/never", timeoutMs: 20 }), /no answer in 20 ms/);
  await t.rejects(requestJson({ socketPath: join(dir, "none"), path: "/" }), { code: "ENOENT" });
});

t.test("manifests", async (t) => {
  const items = readManifest(
    "kind: List\nitems:\n  - { apiVersion: v1, kind: Pod, metadata: { name: a } }\n---\n---\napiVersion: v1\nkind: Namespace\nmetadata: { name: n }\n",
  );
  t.same(
    items.map(({ name, namespace, resource }) => [resource.plural, namespace, name]),
    [
      ["pods", "default", "a"],
      ["namespaces", undefined, "n"],
    ],
  );
  const [pod] = readManifest({ apiVersion: "v1", kind: "Pod", metadata: { name: "b", namespace: "x" } }, "y");
  t.equal(pod?.namespace, "x", "what the object says wins");
  t.throws(
    () => readManifest("apiVersion: v1\nkind: Job\nmetadata: { name: a }"),
    /object 1: v1 Job is not served; known are v1 Namespace/,
  );
  t.throws(() => readManifest("apiVersion: v1\nkind: Pod"), /object 1 \(Pod\): metadata.name is required/);
  t.throws(() => readManifest("a: [b"), /malformed YAML: .*line 1/);
});

const meta = (name: string, version = 1, more = {}) => ({
  name,
  namespace: "default",
  uid: name,
  resourceVersion: String(version),
  creationTimestamp: "2026-01-01T00:00:00Z",
  ...more,
});

t.test("when EndpointSlices and caches have caught up", async (t) => {
  const service = {
    apiVersion: "v1",
    kind: "Service",
    metadata: meta("web"),
    spec: { selector: { app: "web" } },
  } as Stored<Service>;
  const pod = (name: string, ip: string, ready: boolean, more = {}) =>
    ({
      apiVersion: "v1",
      kind: "Pod",
      metadata: meta(name, 1, { labels: { app: "web" }, ...more }),
      status: { podIP: ip, conditions: [{ type: "Ready", status: ready ? "True" : "False" }] },
    }) as Stored<Pod>;
  const slice = (...addresses: string[]) =>
    ({
      apiVersion: "discovery.k8s.io/v1",
      kind: "EndpointSlice",
      metadata: meta("web-1", 1, { labels: { "kubernetes.io/service-name": "web" } }),
      addressType: "IPv4",
      endpoints: addresses.map((ip) => ({ addresses: [ip], conditions: { ready: true } })),
    }) as Stored<EndpointSlice>;
  const pods = [
    pod("a", "10.0.0.1", true),
    pod("b", "10.0.0.2", false),
    pod("c", "10.0.0.3", true, { deletionTimestamp: "x" }),
  ];
  t.equal(staleService([service], [slice("10.0.0.1")], pods), undefined);
  t.match(staleService([service], [], pods), /Service default\/web/);
  t.match(staleService([service], [slice("10.0.0.1", "10.0.0.3")], pods), /default\/web/);
  t.match(staleService([service], [slice("10.0.0.2")], pods), /default\/web/);
  const both = { ...service, spec: { ...service.spec, ipFamilies: ["IPv4", "IPv6"] } };
  const ips = { podIP: "10.0.0.1", podIPs: [{ ip: "10.0.0.1" }, { ip: "fd00::1" }] };
  const dual = pods.map((one) => ({ ...one, status: { ...one.status, ...ips } }));
  t.equal(staleService([both], [slice("10.0.0.1"), slice("fd00::1")], dual), undefined);
  t.match(staleService([both], [slice("10.0.0.1")], dual), /default\/web/, "one family is not all");
  const four = { ...both, spec: { ...both.spec, ipFamilies: ["IPv4"] } };
  t.equal(staleService([four], [slice("10.0.0.1")], dual), undefined);
  t.equal(
    staleService([{ ...service, spec: {} }], [], pods),
    undefined,
    "without selector nothing is expected",
  );

  const object = (name: string, version: number) =>
    ({ apiVersion: "v1", kind: "X", metadata: meta(name, version) }) as Stored;
  t.equal(behind([object("a", 3)], [object("a", 3)], "x"), undefined);
  t.equal(
    behind([object("a", 3)], [object("a", 4), object("new", 5)], "x"),
    undefined,
    "a cache may be ahead",
  );
  t.match(behind([object("a", 3)], [object("a", 2)], "x"), /x default\/a/);
  t.match(behind([object("a", 3)], [], "x"), /x default\/a/);
  t.match(behind([object("a", 3)], [object("a", 3), object("b", 2)], "x"), /deleted x default\/b/);
});

t.test("conditions to wait for", async (t) => {
  const object = {
    apiVersion: "v1",
    kind: "Pod",
    metadata: meta("a"),
    status: {
      conditions: [
        { type: "Ready", status: "True" },
        { type: "Gone", status: "False" },
      ],
    },
  } as Stored;
  t.ok(fulfils(object, "Ready"));
  t.notOk(fulfils(object, "Gone"));
  t.notOk(fulfils(undefined, "Ready"));
  t.ok(fulfils(undefined, "deleted"));
  t.notOk(fulfils(object, "deleted"));
  t.ok(fulfils(object, (o) => o?.metadata.name === "a"));
});
