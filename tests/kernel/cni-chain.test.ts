// The CNI plugin among others against the real kernel: chains of foreign plugins, the executable and many of it at once,
// flannel's delegate; and what rtnetlink says of a failure. Runs in namespaces that it makes itself.

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { isIP } from "node:net";
import { join } from "node:path";
import t from "tap";
import {
  addNetwork,
  type CniResult,
  CODE,
  checkNetwork,
  delNetwork,
  gcNetwork,
  type NetConfList,
  parseConflist,
} from "../../cni/index.js";
import { CommandError } from "../../dataplane/kernel/command.js";
import { CniNetwork } from "../../node/host/network.js";
import {
  addressOf,
  binDir,
  conflist,
  dir,
  host,
  inside,
  NOTHING,
  newPod,
  overlayUp,
  type Pod,
  pings,
  plugin,
  rt,
  runPlugin,
  stateDir,
  subnetFile,
  traces,
} from "../helpers/cni-host.js";

overlayUp();

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
    msg: /bandwidth=1; allowed/,
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
  // What comes before the overflow has been read to its end is lost too: so something new until it is heard.
  for (let n = 0; last !== "burst1"; n++) {
    await rt.setLink("burst1", { mtu: 1400 + (n % 2) });
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  t.pass("an overflow is told, and news go on");
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
