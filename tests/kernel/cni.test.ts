// The CNI plugin and the small libcni against the real kernel, in this process and as an executable. Runs in
// namespaces that it makes itself.

import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { isIP } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import {
  type AttachmentOptions,
  addNetwork,
  CniError,
  type CniResult,
  CODE,
  checkNetwork,
  defaultConflist,
  delNetwork,
  gcNetwork,
  type NetConfList,
  parseConflist,
  statusNetwork,
} from "../../cni/index.js";
import { CommandError } from "../../dataplane/kernel/command.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { NetlinkError, RtNetlink } from "../../dataplane/kernel/rtnetlink.js";
import { CniNetwork } from "../../node/host/network.js";

const dir = mkdtempSync(join(tmpdir(), "kubeplumb-cni-"));
const stateDir = join(dir, "cni");
const subnetFile = join(dir, "subnet.env");
const binDir = join(dir, "bin");
const host = NetNs.create("host");
const rt = RtNetlink.open(host);
const conflist = defaultConflist({ subnetFile });
let counter = 0;

t.teardown(() => {
  rt.close();
  rmSync(dir, { recursive: true, force: true });
});

interface Pod {
  ns: NetNs;
  options: AttachmentOptions;
}

function newPod(ns = NetNs.create(`pod-${counter}`)): Pod {
  const containerId = `pod-${counter++}`;
  const base = { containerId, netns: ns.path, ifName: "eth0" };
  return { ns, options: { ...base, binDirs: [binDir], confPath: dir, stateDir, hostNs: host } };
}

const addressOf = (result: CniResult): string => result.ips?.[0]?.address.split("/")[0] ?? "";

/** Everything that an attachment leaves on the host: ports, reserved addresses, cached results. */
async function traces(): Promise<{ ports: string[]; addresses: string[]; results: string[] }> {
  const names = (path: string) => (existsSync(path) ? readdirSync(path) : []);
  return {
    ports: (await rt.listLinks()).filter(({ master }) => master === "cni0").map(({ name }) => name),
    addresses: names(join(stateDir, "networks", "kubeplumb")).filter((name) => isIP(name) !== 0),
    results: names(join(stateDir, "results")),
  };
}

const NOTHING = { ports: [], addresses: [], results: [] };

const inside = async <T>(ns: NetNs, use: (rt: RtNetlink) => Promise<T>): Promise<T> => {
  using pod = RtNetlink.open(ns);
  return await use(pod);
};

const pings = (from: NetNs, to: string) =>
  from.exec("ping", ["-c", "1", "-W", "2", to]).then(
    () => true,
    () => false,
  );

/** A foreign plugin: a shell script that speaks the protocol. */
function plugin(name: string, body: string): void {
  mkdirSync(binDir, { recursive: true });
  writeFileSync(join(binDir, name), `#!/bin/sh\nconf=$(cat)\n${body}\n`);
  chmodSync(join(binDir, name), 0o755);
}

t.test("before the overlay is up, ADD says to try again and makes nothing", async (t) => {
  const pod = newPod();
  await t.rejects(addNetwork(conflist, pod.options), {
    name: "CniError",
    code: CODE.tryAgain,
    message: subnetFile,
  });
  await t.rejects(statusNetwork(conflist, pod.options), { code: CODE.unavailable });
  t.notOk(await rt.getLink("cni0"));
  t.strictSame(await traces(), NOTHING);
  writeFileSync(
    subnetFile,
    "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\n",
  );
  await statusNetwork(conflist, pod.options);
});

t.test("ADD, CHECK, DEL", async (t) => {
  const [a, b] = [newPod(), newPod()];
  const result = await addNetwork(conflist, a.options);
  const other = await addNetwork(conflist, b.options);
  const bridge = await rt.getLink("cni0");
  const port = (await rt.listLinks()).find(({ name }) => name === result.interfaces?.[1]?.name);
  t.match(bridge, { kind: "bridge", up: true, mtu: 1450, mac: "0a:58:0a:f4:01:01" });
  t.ok((await rt.listAddresses("cni0")).some(({ cidr }) => cidr === "10.244.1.1/24"));
  t.equal(host.sysctl("net/ipv4/ip_forward"), "1");
  t.match(port, { master: "cni0", hairpin: true, up: true, mtu: 1450 });
  t.match(port?.name, /^veth[0-9a-f]{8}$/);
  t.equal(a.ns.sysctl("net/ipv4/conf/eth0/arp_notify"), "1");
  await inside(a.ns, async (pod) => {
    t.match(await pod.getLink("eth0"), { mac: "0a:58:0a:f4:01:02", mtu: 1450, up: true, running: true });
    t.match(await pod.getLink("lo"), { up: true });
    const addresses = (await pod.listAddresses("eth0")).filter(({ family }) => family === 4);
    t.strictSame(
      addresses.map(({ cidr }) => cidr),
      ["10.244.1.2/24"],
    );
    const routes = (await pod.listRoutes()).filter(({ family }) => family === 4);
    t.match(
      routes.find(({ dst }) => dst === "0.0.0.0/0"),
      { via: "10.244.1.1", dev: "eth0" },
    );
  });
  t.strictSame(result, {
    cniVersion: "1.1.0",
    interfaces: [
      { name: "cni0", mac: "0a:58:0a:f4:01:01", mtu: 1450 },
      { name: port?.name, mac: port?.mac, mtu: 1450 },
      { name: "eth0", mac: "0a:58:0a:f4:01:02", mtu: 1450, sandbox: a.options.netns },
    ],
    ips: [{ address: "10.244.1.2/24", gateway: "10.244.1.1", interface: 2 }],
    routes: [{ dst: "0.0.0.0/0", gw: "10.244.1.1" }],
    dns: {},
  });
  t.equal(
    readFileSync(join(stateDir, "networks", "kubeplumb", "10.244.1.2"), "utf8"),
    `${a.options.containerId}\r\neth0`,
  );
  t.ok(await pings(a.ns, addressOf(other)), "pods of one host reach each other");
  t.ok(await pings(host, addressOf(result)), "the host reaches its pod");
  await checkNetwork(conflist, a.options);

  await delNetwork(conflist, a.options);
  t.notOk(await inside(a.ns, (pod) => pod.getLink("eth0")));
  await delNetwork(conflist, a.options);
  b.ns.close();
  await delNetwork(conflist, { ...b.options, netns: undefined });
  await delNetwork(conflist, { ...b.options, netns: "/nonexistent" });
  t.strictSame(await traces(), NOTHING);
});

t.test("addresses go round and are not handed out again at once", async (t) => {
  const [a, b] = [newPod(), newPod()];
  const first = addressOf(await addNetwork(conflist, a.options));
  await delNetwork(conflist, a.options);
  const second = addressOf(await addNetwork(conflist, b.options));
  t.not(first, second);
  await delNetwork(conflist, b.options);
});

t.test("CHECK finds what is not as ADD left it", async (t) => {
  const pod = newPod();
  await t.rejects(checkNetwork(conflist, pod.options), { code: CODE.unknownContainer });
  const result = await addNetwork(conflist, pod.options);
  const address = result.ips?.[0]?.address ?? "";
  const veth = result.interfaces?.[1]?.name ?? "";
  const rejects = (message: RegExp) =>
    t.rejects(checkNetwork(conflist, pod.options), { code: CODE.checkFailed, message });
  await inside(pod.ns, async (own) => {
    await own.deleteRoute({ dst: "default" });
    await rejects(/no default route via 10\.244\.1\.1/);
    await own.addRoute({ dst: "default", via: "10.244.1.1" });
    await own.deleteAddress("eth0", address);
    await rejects(/eth0 has not the address/);
    await own.addAddress("eth0", address);
    await own.addRoute({ dst: "default", via: "10.244.1.1" });
    await checkNetwork(conflist, pod.options);
    await rt.setLink(veth, { hairpin: false });
    await rejects(/hairpin/);
    await rt.setLink(veth, { master: null });
    await rejects(/not a port of cni0/);
    await rt.setLink(veth, { master: "cni0", hairpin: true });
    await checkNetwork(conflist, pod.options);
    await own.setLink("eth0", { up: false });
    await rejects(/down/);
  });
  rmSync(join(stateDir, "networks", "kubeplumb", addressOf(result)));
  await inside(pod.ns, async (own) => {
    await own.setLink("eth0", { up: true });
    await own.addRoute({ dst: "default", via: "10.244.1.1" });
  });
  await rejects(/not reserved/);
  await rt.deleteLink(veth);
  await rejects(/eth0 is missing/);
  await delNetwork(conflist, pod.options);
  t.strictSame(await traces(), NOTHING);
});

t.test("a refused ADD leaves nothing and harms nobody", async (t) => {
  const live = newPod();
  await addNetwork(conflist, live.options);
  const before = await traces();
  // The same attachment again: the live one must survive.
  await t.rejects(addNetwork(conflist, live.options), { code: CODE.exists, message: /eth0 in/ });
  t.strictSame(await traces(), before);
  await checkNetwork(conflist, live.options);
  // Same container and interface, other namespace: the host's end exists.
  await t.rejects(addNetwork(conflist, { ...live.options, netns: NetNs.create("x").path }), {
    code: CODE.exists,
    message: /on the host/,
  });
  t.strictSame(await traces(), before);
  await checkNetwork(conflist, live.options);
  await t.rejects(addNetwork(conflist, { ...newPod().options, netns: "/nonexistent" }), {
    code: CODE.invalidEnvironment,
    message: /CNI_NETNS \/nonexistent cannot be opened/,
  });
  await t.rejects(addNetwork(conflist, { ...newPod().options, netns: host.path }), {
    code: CODE.invalidEnvironment,
    message: /host's own/,
  });
  await t.rejects(addNetwork(conflist, { ...newPod().options, ifName: "a-name-too-long-" }), {
    code: CODE.invalidEnvironment,
  });
  t.strictSame(await traces(), before);
  await delNetwork(conflist, live.options);
  t.strictSame(await traces(), NOTHING);
});

/** Makes the n-th call of a method of RtNetlink fail, whoever calls it, while `use` runs. */
async function withFault<T>(method: FaultyMethod, n: number, use: () => Promise<T>): Promise<T> {
  const original = RtNetlink.prototype[method] as (...args: unknown[]) => Promise<void>;
  let calls = 0;
  const faulty = function (this: RtNetlink, ...args: unknown[]): Promise<void> {
    if (++calls === n) {
      const where = this.ns.name;
      return Promise.reject(
        new NetlinkError({ code: "ENOMEM", operation: method, detail: "injected", where }),
      );
    }
    return original.apply(this, args);
  };
  Object.defineProperty(RtNetlink.prototype, method, { value: faulty, configurable: true, writable: true });
  try {
    return await use();
  } finally {
    Object.defineProperty(RtNetlink.prototype, method, {
      value: original,
      configurable: true,
      writable: true,
    });
  }
}

type FaultyMethod = "addVeth" | "setLink" | "addAddress" | "addRoute" | "getLink";

t.test("a failure at any step takes back what was made", async (t) => {
  const steps: [FaultyMethod, number][] = [
    ["getLink", 1],
    ["addVeth", 1],
    ["setLink", 1],
    ["addAddress", 1],
    ["setLink", 2],
    ["setLink", 3],
    ["addRoute", 1],
    ["getLink", 2],
    ["getLink", 3],
  ];
  for (const [method, n] of steps) {
    const pod = newPod();
    const failed = withFault(method, n, () => addNetwork(conflist, pod.options));
    await t.rejects(failed, { name: "CniError", code: CODE.kernel, details: /ENOMEM/ }, `${method} ${n}`);
    t.strictSame(await traces(), NOTHING, `${method} ${n} leaves nothing on the host`);
    t.notOk(await inside(pod.ns, (own) => own.getLink("eth0")), "nor in the pod");
    await addNetwork(conflist, pod.options);
    await delNetwork(conflist, pod.options);
    pod.ns.close();
  }
  // State that cannot be written: a file where the directory should be.
  writeFileSync(join(dir, "broken"), "");
  await t.rejects(addNetwork(conflist, { ...newPod().options, stateDir: join(dir, "broken") }), {
    code: CODE.io,
    details: /ENOTDIR/,
  });
  t.strictSame(await traces(), NOTHING);
});

t.test("50 parallel ADDs, and more from other processes, share no address", async (t) => {
  const pods = Array.from({ length: 50 }, () => newPod());
  const conf = JSON.stringify({
    ...conflist.plugins[0],
    cniVersion: "1.1.0",
    name: "kubeplumb",
    dataDir: stateDir,
  });
  const others = Array.from({ length: 6 }, () => newPod());
  const results = await Promise.all([
    ...pods.map((pod) => addNetwork(conflist, pod.options)),
    ...others.map((pod) => runPlugin("ADD", conf, pod.options).then((out) => out as CniResult)),
  ]);
  const addresses = results.map(addressOf);
  t.equal(new Set(addresses).size, 56);
  t.equal((await traces()).ports.length, 56);
  t.notOk(addresses.some((ip) => ["10.244.1.0", "10.244.1.1", "10.244.1.255"].includes(ip)));
  await Promise.all([...pods, ...others].map((pod) => delNetwork(conflist, pod.options)));
  t.strictSame(await traces(), NOTHING);
  for (const { ns } of [...pods, ...others]) ns.close();
});

t.test("a full block is said so, and a freed address is used again", async (t) => {
  const small = defaultConflist({ name: "small", bridge: "small0", subnet: "10.9.0.0/29" });
  const pods = Array.from({ length: 5 }, () => newPod());
  const results: CniResult[] = [];
  for (const pod of pods) results.push(await addNetwork(small, pod.options));
  t.strictSame(results.map(addressOf).sort(), ["10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6"]);
  const sixth = newPod();
  await t.rejects(addNetwork(small, sixth.options), {
    code: CODE.tryAgain,
    message: "no address is free in 10.9.0.0/29",
  });
  const reused = addressOf(results[2] as CniResult);
  t.ok(await pings(host, reused), "the host has the old pod in its neighbour table");
  await delNetwork(small, (pods[2] as Pod).options);
  t.equal(addressOf(await addNetwork(small, sixth.options)), reused);
  t.ok(await pings(host, reused), "and finds the new one at once");
  await gcNetwork(small, { ...sixth.options, valid: [] });
  t.notOk((await rt.listLinks()).some(({ master }) => master === "small0"));
  t.notOk(await inside(sixth.ns, (own) => own.getLink("eth0")));
});

t.test("a bridge that belongs to somebody else is not taken", async (t) => {
  const pod = newPod();
  const other = defaultConflist({ name: "other", bridge: "cni0", subnet: "10.8.0.0/24" });
  await addNetwork(conflist, pod.options);
  await t.rejects(addNetwork(other, newPod().options), {
    code: CODE.bridgeAddress,
    message: /10\.244\.1\.1\/24/,
  });
  await delNetwork(conflist, pod.options);
  // Without pods the block may change: a host that was registered anew.
  const moved = newPod();
  await addNetwork(other, moved.options);
  const addresses = (await rt.listAddresses("cni0")).filter(({ family }) => family === 4);
  t.strictSame(
    addresses.map(({ cidr }) => cidr),
    ["10.8.0.1/24"],
  );
  await delNetwork(other, moved.options);
  await t.rejects(
    addNetwork(defaultConflist({ name: "lo", bridge: "lo", subnet: "10.7.0.0/24" }), newPod().options),
    { code: CODE.invalidConfig, message: /not a bridge/ },
  );
});

t.test("GC deletes what is not listed, with and without state", async (t) => {
  const [keep, drop, orphan] = [newPod(), newPod(), newPod()];
  const kept = await addNetwork(conflist, keep.options);
  await addNetwork(conflist, drop.options);
  const lost = await addNetwork(conflist, orphan.options);
  // A crash before anything was written, and one while an address was being reserved.
  rmSync(join(stateDir, "networks", "kubeplumb", addressOf(lost)));
  rmSync(join(stateDir, "results", `kubeplumb-${orphan.options.containerId}-eth0`));
  writeFileSync(join(stateDir, "networks", "kubeplumb", "10.244.1.200"), "killed\r\neth0");
  writeFileSync(join(stateDir, "networks", "kubeplumb", ".new-1-1"), "killed\r\neth0");
  const valid = [{ containerID: keep.options.containerId, ifname: "eth0" }];
  await gcNetwork(conflist, { ...keep.options, valid });
  t.strictSame(await traces(), {
    ports: [kept.interfaces?.[1]?.name],
    addresses: [addressOf(kept)],
    results: [`kubeplumb-${keep.options.containerId}-eth0`],
  });
  t.notOk(existsSync(join(stateDir, "networks", "kubeplumb", ".new-1-1")));
  await checkNetwork(conflist, keep.options);
  await gcNetwork(conflist, { ...keep.options, valid: [] });
  t.strictSame(await traces(), NOTHING);
});

t.test("foreign plugins are chained by the protocol", async (t) => {
  const log = join(dir, "calls");
  const record = `echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS $conf" >> ${log}`;
  plugin("noisy", `${record}\n[ "$CNI_COMMAND" != ADD ] || echo "$conf" | sed 's/.*"prevResult"://; s/}$//'`);
  plugin(
    "refuses",
    `${record}\n[ "$CNI_COMMAND" != ADD ] || { echo '{"code":123,"msg":"not today"}'; exit 1; }`,
  );
  plugin("dies", `${record}\n[ "$CNI_COMMAND" != ADD ] || { echo broken >&2; exit 7; }`);
  const calls = () => readFileSync(log, "utf8").trim().split("\n");
  const [own] = conflist.plugins;
  const chain = (...types: string[]): NetConfList => ({
    ...conflist,
    plugins: [
      own as { type: string },
      ...types.map((type) => ({ type, capabilities: { portMappings: true } })),
    ],
  });

  const pod = newPod();
  const options = {
    ...pod.options,
    args: { K8S_POD_NAME: "web", IgnoreUnknown: "1" },
    capabilityArgs: { portMappings: [{ hostPort: 80, containerPort: 8080 }], bandwidth: {} },
  };
  const result = await addNetwork(chain("noisy"), options);
  t.match(addressOf(result), /^10\.244\.1\./, "the result of the last plugin, which passed it on");
  const [add] = calls();
  t.match(add, new RegExp(`^ADD ${pod.options.containerId} eth0 K8S_POD_NAME=web;IgnoreUnknown=1 `));
  const conf = JSON.parse(add?.slice(add.indexOf("{")) ?? "");
  t.match(conf, { cniVersion: "1.1.0", name: "kubeplumb", type: "noisy", prevResult: { ips: result.ips } });
  t.strictSame(conf.runtimeConfig, { portMappings: [{ hostPort: 80, containerPort: 8080 }] });
  await checkNetwork(chain("noisy"), options);
  t.match(calls().at(-1), /^CHECK .*"prevResult"/);
  await delNetwork(chain("noisy"), options);
  t.match(calls().at(-1), /^DEL .*"prevResult"/);
  t.strictSame(await traces(), NOTHING);

  rmSync(log);
  await t.rejects(addNetwork(chain("noisy", "refuses"), options), { code: 123, message: /not today/ });
  t.strictSame(
    calls().map((line) => line.split(" ")[0]),
    ["ADD", "ADD", "DEL", "DEL"],
    "both foreign plugins are asked to clean up",
  );
  t.strictSame(await traces(), NOTHING);
  await t.rejects(addNetwork(chain("dies"), options), {
    code: CODE.plugin,
    message: /exited with 7: broken/,
  });
  await t.rejects(addNetwork(chain("missing"), options), { code: CODE.plugin, message: /missing is not in/ });
  t.strictSame(await traces(), NOTHING);
});

/** What the machine itself has at /var/lib/cni: plugins of a host must leave it alone. */
const machineState = () =>
  existsSync("/var/lib/cni") ? readdirSync("/var/lib/cni", { recursive: true }).sort() : undefined;

t.test("foreign plugins have the host's own /var/lib/cni", async (t) => {
  const before = machineState();
  plugin(
    "keeps",
    `mkdir -p /var/lib/cni/kept || exit
case $CNI_COMMAND in ADD) echo "$conf" > /var/lib/cni/kept/$CNI_CONTAINERID; echo "$conf" | sed 's/.*"prevResult"://; s/}$//';;
DEL) rm /var/lib/cni/kept/$CNI_CONTAINERID;; esac`,
  );
  const [own] = conflist.plugins;
  const list: NetConfList = { ...conflist, plugins: [own as { type: string }, { type: "keeps" }] };
  const kept = () => readdirSync(join(stateDir, "kept"));
  const [one, other] = [newPod(), newPod()];
  await addNetwork(list, one.options);
  await addNetwork(list, other.options);
  t.same(kept(), [one.options.containerId, other.options.containerId].sort(), "one for all its pods");
  await delNetwork(list, one.options);
  t.same(kept(), [other.options.containerId]);
  await delNetwork(list, other.options);
  t.same(machineState(), before, "nothing on the machine");
  t.strictSame(await traces(), NOTHING);
});

const REAL = ["/opt/cni/bin", "/usr/lib/cni"].filter((path) => existsSync(join(path, "host-local")));

t.test(
  "the reference plugins bridge and host-local",
  { skip: REAL.length === 0 && "containernetworking-plugins are not installed" },
  async (t) => {
    const before = machineState();
    const ipam = { type: "host-local", ranges: [[{ subnet: "10.250.0.0/24" }]] };
    const text = { cniVersion: "1.0.0", name: "real", plugins: [{ type: "bridge", bridge: "real0", ipam }] };
    const list = parseConflist(JSON.stringify(text));
    const pod = newPod();
    const options = { ...pod.options, binDirs: REAL };
    const ip = addressOf(await addNetwork(list, options));
    t.match(ip, /^10\.250\.0\./);
    const reserved = () => readdirSync(join(stateDir, "networks", "real")).filter((name) => isIP(name) !== 0);
    t.same(reserved(), [ip], "the address is written down in the host's state");
    await delNetwork(list, options);
    t.same(reserved(), []);
    t.same(machineState(), before, "nothing on the machine");
    await rt.deleteLink("real0");
  },
);

t.test("a pod leaves by the configuration it came by", async (t) => {
  const calls = join(dir, "by-conf");
  for (const name of ["first", "second"]) {
    const added = `echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.9.9/24"}]}'`;
    plugin(name, `echo "${name} $CNI_COMMAND" >> ${calls}\n[ "$CNI_COMMAND" != ADD ] || ${added}`);
  }
  const confDir = join(dir, "net.d");
  mkdirSync(confDir);
  const configure = (name: string) =>
    writeFileSync(
      join(confDir, "10.conflist"),
      JSON.stringify({ cniVersion: "1.0.0", name, plugins: [{ type: name }] }),
    );
  configure("first");
  const network = new CniNetwork({ confDir, binDirs: [binDir], stateDir, subnetFile, hostNs: host });
  const identity = { namespace: "default", name: "web", uid: "u" };
  const [one, other, third] = [newPod(), newPod(), newPod()];
  for (const pod of [one, other]) await network.add(identity, pod.options.containerId, pod.ns);
  configure("second");
  await network.add(identity, third.options.containerId, third.ns);
  await network.remove(identity, one.options.containerId, one.ns);
  rmSync(join(confDir, "10.conflist"));
  rmSync(join(binDir, "first"));
  await t.rejects(network.remove(identity, other.options.containerId, other.ns), /first is not in/);
  plugin("first", `echo "first again $CNI_COMMAND" >> ${calls}`);
  await network.remove(identity, other.options.containerId, other.ns);
  await network.remove(identity, third.options.containerId, third.ns);
  const seen = readFileSync(calls, "utf8").trim().split("\n");
  t.same(seen, ["first ADD", "first ADD", "second ADD", "first DEL", "first again DEL", "second DEL"]);
  t.strictSame(await traces(), NOTHING);
});

/** Runs cni/main.js of this build as the executable would. */
async function runPlugin(verb: string, conf: string, options: AttachmentOptions): Promise<unknown> {
  const main = fileURLToPath(new URL("../../cni/main.js", import.meta.url));
  const script = `import { runProcess } from ${JSON.stringify(main)}; await runProcess();`;
  const env = {
    ...process.env,
    CNI_COMMAND: verb,
    CNI_CONTAINERID: options.containerId,
    CNI_NETNS: options.netns,
    CNI_IFNAME: options.ifName,
    CNI_PATH: binDir,
  };
  const args = ["--input-type=module", "--eval", script];
  // The configuration comes on stdin, which --eval leaves alone.
  const { stdout } = await host.exec(process.execPath, args, { input: conf, env });
  return stdout.trim() === "" ? undefined : JSON.parse(stdout);
}

t.test("the executable speaks the protocol", async (t) => {
  const pod = newPod();
  const conf = (extra: object = {}, version = "1.0.0") =>
    JSON.stringify({
      ...conflist.plugins[0],
      cniVersion: version,
      name: "exec",
      bridge: "exec0",
      subnet: "10.6.0.0/24",
      dataDir: stateDir,
      ...extra,
    });
  const failure = async (verb: string, input: string, options = pod.options) => {
    try {
      await runPlugin(verb, input, options);
    } catch (error) {
      if (error instanceof CommandError) return JSON.parse(error.stdout);
      throw error;
    }
    throw new Error(`${verb} did not fail`);
  };
  t.strictSame(await runPlugin("VERSION", '{"cniVersion":"1.0.0"}', pod.options), {
    cniVersion: "1.0.0",
    supportedVersions: ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
  });
  const result = (await runPlugin("ADD", conf(), pod.options)) as CniResult;
  t.match(result, { cniVersion: "1.0.0", interfaces: [{ name: "exec0" }, {}, { name: "eth0" }] });
  t.notOk("mtu" in (result.interfaces?.[0] ?? {}), "1.0 knows no mtu");
  t.ok(await pings(host, addressOf(result)));
  t.equal(await runPlugin("CHECK", conf({ prevResult: result }), pod.options), undefined);
  t.match(await failure("ADD", conf()), { cniVersion: "1.0.0", code: CODE.exists, msg: /already/ });
  t.match(await failure("ADD", "{"), { code: CODE.decode });
  t.match(await failure("ADD", conf({}, "9.9.9")), { code: CODE.incompatibleVersion, details: /1\.1\.0/ });
  t.match(await failure("ADD", conf({ bandwidth: 1 })), {
    code: CODE.unsupportedField,
    details: "bandwidth=1",
  });
  t.match(await failure("JUMP", conf()), { code: CODE.invalidEnvironment, msg: /JUMP/ });
  t.match(await failure("ADD", conf(), { ...pod.options, netns: "" }), {
    code: CODE.invalidEnvironment,
    msg: /CNI_NETNS/,
  });
  t.equal(await runPlugin("DEL", conf({ prevResult: result }), pod.options), undefined);
  t.equal(await runPlugin("DEL", conf(), pod.options), undefined);
  t.notOk(await inside(pod.ns, (own) => own.getLink("eth0")));
  t.equal(await runPlugin("STATUS", conf({}, "1.1.0"), pod.options), undefined);
  t.match(await failure("STATUS", conf({ subnet: undefined, subnetFile: "/nonexistent" }, "1.1.0")), {
    code: CODE.unavailable,
  });
  t.match(await failure("GC", conf({}, "1.1.0")), { code: CODE.invalidConfig, msg: /valid-attachments/ });
  t.equal(await runPlugin("GC", conf({ "cni.dev/valid-attachments": [] }, "1.1.0"), pod.options), undefined);
});

t.test("two families: an address of each, all verbs", async (t) => {
  const file = join(dir, "dual.env");
  const dual = defaultConflist({ name: "dual", bridge: "dual0", subnetFile: file });
  const env = (lines: string[]) => writeFileSync(file, [...lines, "FLANNEL_MTU=1430", ""].join("\n"));
  const v4 = "FLANNEL_SUBNET=10.244.3.1/24";
  const v6 = "FLANNEL_IPV6_SUBNET=fd00:10:244:3::1/64";
  env([v4, v6]);
  const [a, b] = [newPod(), newPod()];
  await statusNetwork(dual, a.options);
  t.equal(host.sysctl("net/ipv6/conf/all/forwarding"), "0");
  const result = await addNetwork(dual, a.options);
  const port = result.interfaces?.[1];
  t.strictSame(result, {
    cniVersion: "1.1.0",
    interfaces: [
      { name: "dual0", mac: "0a:58:0a:f4:03:01", mtu: 1430 },
      { name: port?.name, mac: port?.mac, mtu: 1430 },
      { name: "eth0", mac: "0a:58:0a:f4:03:02", mtu: 1430, sandbox: a.options.netns },
    ],
    ips: [
      { address: "10.244.3.2/24", gateway: "10.244.3.1", interface: 2 },
      { address: "fd00:10:244:3::2/64", gateway: "fd00:10:244:3::1", interface: 2 },
    ],
    routes: [
      { dst: "0.0.0.0/0", gw: "10.244.3.1" },
      { dst: "::/0", gw: "fd00:10:244:3::1" },
    ],
    dns: {},
  });
  t.equal(host.sysctl("net/ipv6/conf/all/forwarding"), "1");
  const gateways = (await rt.listAddresses("dual0")).filter(({ scope }) => scope === 0);
  t.strictSame(gateways.map(({ cidr }) => cidr).sort(), ["10.244.3.1/24", "fd00:10:244:3::1/64"]);
  t.match(
    (await rt.listLinks()).find(({ name }) => name === port?.name),
    { hairpin: true },
  );
  const { stdout } = await a.ns.exec("ip", ["-6", "addr", "show", "dev", "eth0"]);
  t.match(stdout, /inet6 fd00:10:244:3::2\/64 scope global nodad/);
  t.notMatch(stdout, /tentative/, "everything can be used at once");
  t.equal(a.ns.sysctl("net/ipv6/conf/eth0/accept_ra"), "0");
  t.equal(a.ns.sysctl("net/ipv6/conf/eth0/ndisc_notify"), "1");
  await inside(a.ns, async (pod) => {
    const defaults = (await pod.listRoutes("eth0")).filter(({ dst }) => dst.endsWith("/0"));
    t.strictSame(
      defaults.map(({ dst, via }) => `${dst} ${via}`),
      ["0.0.0.0/0 10.244.3.1", "::/0 fd00:10:244:3::1"],
    );
  });
  const other = await addNetwork(dual, b.options);
  for (const ip of other.ips?.map(({ address }) => address.split("/")[0] ?? "") ?? []) {
    t.ok(await pings(a.ns, ip), `a pod of the host reaches ${ip}`);
    t.ok(await pings(host, ip), `the host reaches ${ip}`);
  }
  const store = join(stateDir, "networks", "dual");
  t.strictSame(readdirSync(store).sort(), [
    "10.244.3.2",
    "10.244.3.3",
    "fd00:10:244:3::2",
    "fd00:10:244:3::3",
    "last_reserved_ip.0",
    "last_reserved_ip.1",
  ]);

  await checkNetwork(dual, a.options);
  const rejects = (message: RegExp) =>
    t.rejects(checkNetwork(dual, a.options), { code: CODE.checkFailed, message });
  await inside(a.ns, async (pod) => {
    await pod.deleteRoute({ dst: "::/0", via: "fd00:10:244:3::1" });
    await rejects(/no default route via fd00:10:244:3::1/);
    await pod.addRoute({ dst: "::/0", via: "fd00:10:244:3::1", dev: "eth0" });
    await pod.deleteAddress("eth0", "fd00:10:244:3::2/64");
    await rejects(/eth0 has not the address fd00:10:244:3::2\/64/);
    await pod.addAddress("eth0", "fd00:10:244:3::2/64");
    await pod.addRoute({ dst: "::/0", via: "fd00:10:244:3::1", dev: "eth0" });
  });
  await checkNetwork(dual, a.options);
  rmSync(join(store, "fd00:10:244:3::2"));
  await rejects(/fd00:10:244:3::2 is not reserved/);

  await delNetwork(dual, b.options);
  t.strictSame(readdirSync(store).filter(isIP), ["10.244.3.2"], "DEL frees both");
  const lost = newPod();
  await addNetwork(dual, lost.options);
  rmSync(join(stateDir, "results", `dual-${lost.options.containerId}-eth0`));
  await gcNetwork(dual, { ...a.options, valid: [{ containerID: a.options.containerId, ifname: "eth0" }] });
  t.strictSame(readdirSync(store).filter(isIP), ["10.244.3.2"], "and so does GC");
  t.equal((await rt.listLinks()).filter(({ master }) => master === "dual0").length, 1);
  await t.rejects(
    addNetwork(
      defaultConflist({ name: "x", bridge: "dual0", subnet: "fd00:10:244:9::/64" }),
      newPod().options,
    ),
    { code: CODE.bridgeAddress, message: /dual0 has fd00:10:244:3::1\/64/ },
  );
  await delNetwork(dual, a.options);

  // The host is registered anew, without IPv4.
  env([v6]);
  const only = newPod();
  const six = await addNetwork(dual, only.options);
  t.strictSame(
    six.ips?.map(({ address }) => address),
    ["fd00:10:244:3::2/64"],
  );
  t.strictSame(six.routes, [{ dst: "::/0", gw: "fd00:10:244:3::1" }]);
  t.equal(six.interfaces?.[2]?.mac, "0a:58:00:00:00:02");
  t.ok(await pings(only.ns, "fd00:10:244:3::1"));
  await delNetwork(dual, only.options);
  env([]);
  await t.rejects(statusNetwork(dual, only.options), { code: CODE.unavailable, message: /IPV6_SUBNET/ });
});

t.test("called as flannel's plugin calls its delegate", async (t) => {
  const pod = newPod();
  const conf = (extra: object = {}) =>
    JSON.stringify({
      cniVersion: "0.3.1",
      name: "cbr0",
      type: "kubeplumb-cni",
      bridge: "cbr0",
      hairpinMode: true,
      isGateway: true,
      isDefaultGateway: false,
      ipMasq: false,
      mtu: 1430,
      ipam: {
        type: "host-local",
        ranges: [[{ subnet: "10.244.8.0/24" }], [{ subnet: "fd00:10:244:8::/125" }]],
        routes: [{ dst: "10.244.0.0/16" }, { dst: "fd00:10:244::/56" }],
      },
      dataDir: stateDir,
      ...extra,
    });
  t.match(await runPlugin("ADD", conf(), pod.options), {
    cniVersion: "0.3.1",
    ips: [
      { version: "4", address: "10.244.8.2/24", gateway: "10.244.8.1", interface: 2 },
      { version: "6", address: "fd00:10:244:8::2/125", gateway: "fd00:10:244:8::1", interface: 2 },
    ],
    routes: [
      { dst: "10.244.0.0/16", gw: "10.244.8.1" },
      { dst: "fd00:10:244::/56", gw: "fd00:10:244:8::1" },
    ],
  });
  await inside(pod.ns, async (own) => {
    const routes = (await own.listRoutes("eth0")).filter(({ via }) => via !== undefined);
    t.strictSame(
      routes.map(({ dst, via }) => `${dst} ${via}`),
      ["10.244.0.0/16 10.244.8.1", "fd00:10:244::/56 fd00:10:244:8::1"],
      "and no default route",
    );
  });
  t.ok(await pings(host, "fd00:10:244:8::2"));
  // The second block is full before the first: what was reserved of the first is given back.
  const network = parseConflist(conf());
  const more = Array.from({ length: 5 }, () => newPod());
  for (const one of more.slice(0, 4)) await addNetwork(network, one.options);
  const before = readdirSync(join(stateDir, "networks", "cbr0"))
    .filter(isIP)
    .sort();
  t.equal(before.length, 10);
  await t.rejects(addNetwork(network, (more[4] as Pod).options), {
    code: CODE.tryAgain,
    message: "no address is free in fd00:10:244:8::/125",
  });
  t.strictSame(
    readdirSync(join(stateDir, "networks", "cbr0"))
      .filter(isIP)
      .sort(),
    before,
  );
  t.equal(await runPlugin("DEL", conf(), pod.options), undefined);
  await gcNetwork(network, { ...pod.options, valid: [] });
  t.strictSame(readdirSync(join(stateDir, "networks", "cbr0")).filter(isIP), []);
});

t.test("a bridge without a free port is said so", async (t) => {
  const wide = defaultConflist({ name: "wide", bridge: "wide0", subnet: "10.32.0.0/16" });
  const first = newPod();
  await addNetwork(wide, first.options);
  const elsewhere = NetNs.create("elsewhere");
  const index = (await rt.getLink("wide0"))?.index;
  for (let i = 1; i < 1023; i++) {
    await rt.addVeth({ name: `full${i}`, master: index, peer: { name: `p${i}`, ns: elsewhere } });
  }
  const error: unknown = await addNetwork(wide, newPod().options).catch((reason: unknown) => reason);
  t.ok(error instanceof CniError);
  t.match(error, { code: CODE.bridgeFull, message: /wide0 has no free port: the kernel allows 1023/ });
  t.strictSame(readdirSync(join(stateDir, "networks", "wide")).sort(), ["10.32.0.2", "last_reserved_ip.0"]);
  elsewhere.close();
});

t.test("rtnetlink says what was asked and what the kernel answered", async (t) => {
  await t.rejects(rt.addRoute({ dst: "10.99.0.0/24", via: "203.0.113.1" }), {
    name: "NetlinkError",
    code: "ENETUNREACH",
    message: /^ENETUNREACH: addRoute 10\.99\.0\.0\/24 via 203\.0\.113\.1 \(in host\): /,
  });
  await t.rejects(rt.deleteLink("nope"), { code: "ENODEV", message: /deleteLink nope/ });
  await t.rejects(rt.addBridge("sixteen-bytes-xx"), { name: "RangeError", message: /1 to 15 bytes/ });
  t.equal(await rt.getLink("nope"), undefined);
  const seen: string[] = [];
  const off = rt.onLink((event) => {
    if ("name" in event) seen.push(`${event.type} ${event.name}`);
    else if ("cidr" in event) seen.push(`${event.type} ${event.cidr}`);
  });
  await rt.addBridge("news0");
  await rt.addAddress("news0", "10.66.0.1/24");
  await rt.setLink("news0", { name: "news1" });
  await rt.deleteLink("news1");
  while (!seen.includes("link-deleted news1")) await new Promise((resolve) => setTimeout(resolve, 5));
  t.ok(seen.includes("link-changed news0"));
  t.ok(seen.includes("address-added 10.66.0.1/24"));
  off();
  let lost = 0;
  let last = "";
  const offBurst = rt.onLink((event) => {
    if (event.type === "lost") lost++;
    else if ("name" in event) last = event.name;
  });
  await rt.addBridge("burst0");
  for (let i = 0; i < 2000; i++) await rt.setLink("burst0", { mtu: 1000 + (i % 400) });
  while (lost === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  await rt.setLink("burst0", { name: "burst1" });
  while (last !== "burst1") await new Promise((resolve) => setTimeout(resolve, 5));
  t.equal(lost, 1, "an overflow is told, and news go on");
  offBurst();
  t.match(await Promise.all([rt.addBridge("a0"), rt.addBridge("b0"), rt.deleteLink("a0")]), [undefined]);
  await rt.addBridge("c0");
  const removals = ["c0", "missing", "b0"].map((name) => rt.deleteLink(name));
  const outcome = await Promise.allSettled(removals);
  t.match(
    outcome.map(({ status }) => status),
    ["fulfilled", "rejected", "fulfilled"],
    "links that are removed together are answered for one by one",
  );
  t.match(outcome[1], { reason: { code: "ENODEV", message: /deleteLink missing/ } });
  t.strictSame([await rt.getLink("b0"), await rt.getLink("c0")], [undefined, undefined]);
  rt.close();
  await t.rejects(rt.listLinks(), { code: "EBADF" });
});
