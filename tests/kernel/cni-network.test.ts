// The CNI plugin and the small libcni against the real kernel, in this process: all verbs, failures at every step, full
// blocks, bridges of others, two families. Runs in namespaces that it makes itself.

import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { isIP } from "node:net";
import { join } from "node:path";
import t from "tap";
import {
  addNetwork,
  CniError,
  type CniResult,
  CODE,
  checkNetwork,
  defaultConflist,
  delNetwork,
  gcNetwork,
  statusNetwork,
} from "../../cni/index.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import {
  addressOf,
  conflist,
  dir,
  type FaultyMethod,
  host,
  inside,
  NOTHING,
  newPod,
  overlayUp,
  type Pod,
  pings,
  rt,
  stateDir,
  subnetFile,
  traces,
  withFault,
} from "../helpers/cni-host.js";

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
  overlayUp();
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
