// What a configuration of the CNI plugin can ask of the bridge, and the protocol's own demands: versions, errors, its
// place in a chain.

import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { RtNetlink } from "../../dataplane/kernel/rtnetlink.js";
import { type Call, PluginHost, pings } from "../helpers/cni.js";

const host = new PluginHost("host");
t.teardown(() => host.close());
let counter = 0;

const newPod = (): Call & { ns: NetNs } => ({ id: `b${counter}`, ns: NetNs.create(`b${counter++}`) });

function conf(name: string, subnet: string, extra: object = {}): Record<string, unknown> {
  const ipam = { type: "kubeplumb-cni", ranges: subnet.split(" ").map((one) => [{ subnet: one }]) };
  const base = { cniVersion: "1.1.0", name, type: "kubeplumb-cni", bridge: name, dataDir: host.dir };
  return { ...base, ipam, ...extra };
}

t.test("a result in every version, errors in the one that was asked for", async (t) => {
  for (const cniVersion of ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]) {
    const pod = newPod();
    const net = conf("ver", "10.30.0.0/24", { cniVersion });
    const result = await host.added(net, pod);
    t.equal(result.cniVersion, cniVersion);
    t.equal(
      result.ips[0].version,
      cniVersion < "1.0.0" ? "4" : undefined,
      "ips[].version is older than 1.0.0",
    );
    t.equal("mtu" in result.interfaces[2], cniVersion === "1.1.0", "interfaces[].mtu is 1.1.0's");
    const check = await host.run("CHECK", { ...net, prevResult: result }, pod);
    t.match(
      check,
      cniVersion === "0.3.1" ? { exitCode: 1, json: { code: 1 } } : { exitCode: 0, json: undefined },
    );
    for (const verb of ["STATUS", "GC"]) {
      const said = await host.run(
        verb,
        { ...net, "cni.dev/valid-attachments": [{ containerID: pod.id, ifname: "eth0" }] },
        pod,
      );
      t.match(
        said,
        cniVersion === "1.1.0"
          ? { exitCode: 0, json: undefined }
          : { exitCode: 1, json: { code: 1, cniVersion } },
      );
    }
    t.match(await host.run("ADD", net, pod), {
      exitCode: 1,
      json: { cniVersion, code: 101, msg: /eth0 in/ },
    });
    t.strictSame(await host.run("DEL", { ...net, prevResult: result }, pod), {
      exitCode: 0,
      json: undefined,
      stderr: "",
    });
    t.equal(
      (await host.run("DEL", net, { ...pod, ns: undefined as never })).exitCode,
      0,
      "gone already, and no CNI_NETNS",
    );
  }
  const { json } = await host.run("VERSION", { cniVersion: "1.0.0", type: "kubeplumb-cni" }, { id: "v" });
  t.match(json, { cniVersion: "1.0.0" });
  for (const version of ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]) t.ok(json.supportedVersions.includes(version));
});

t.test("refused with the field named", async (t) => {
  const pod = newPod();
  const errors: [object, Partial<Call>, number, RegExp][] = [
    [{ vrf: 5 }, {}, 2, /unsupported field vrf=5; allowed: bridge, /],
    [{ mtu: 67 }, {}, 7, /mtu must be an integer from 68 to 65535, not 67/],
    [{ ipMasq: "yes" }, {}, 7, /ipMasq must be a boolean, not "yes"/],
    [{ hairpinMode: true, promiscMode: true }, {}, 7, /hairpinMode and promiscMode exclude/],
    [{ dns: { servers: [] } }, {}, 2, /unsupported field dns\.servers/],
    [{ runtimeConfig: { mac: "01:00:5e:00:00:01" } }, {}, 7, /runtimeConfig\.mac must be a unicast MAC/],
    [{ cniVersion: "9.0.0" }, {}, 1, /cniVersion "9\.0\.0" is not supported/],
    [{ name: "a b" }, {}, 7, /name "a b" is not a network name/],
    [{}, { args: "nonsense" }, 4, /CNI_ARGS: "nonsense" is not KEY=VALUE/],
    [{}, { args: "COLOUR=red" }, 4, /CNI_ARGS: unknown COLOUR/],
    [{}, { args: "MAC=x" }, 7, /CNI_ARGS MAC must be/],
  ];
  for (const [extra, call, code, msg] of errors) {
    const said = await host.run("ADD", conf("bad", "10.31.0.0/24", extra), { ...pod, ...call });
    t.match(said, { exitCode: 1, json: { code, msg } }, String(msg));
  }
  t.notOk(await host.rt.getLink("bad"));
});

t.test("in the second place of a chain the result goes on", async (t) => {
  const pod = { ...newPod(), ifName: "net1" };
  const prevResult = {
    cniVersion: "1.1.0",
    interfaces: [{ name: "eth0", mac: "02:00:00:00:00:01", sandbox: "/x" }],
    ips: [{ address: "192.0.2.9/24", interface: 0 }],
    routes: [{ dst: "198.51.100.0/24" }],
    dns: { nameservers: ["192.0.2.53"] },
  };
  const net = conf("chain", "10.32.0.0/24", { prevResult, isDefaultGateway: false });
  const result = await host.added(net, pod);
  t.match(result, {
    interfaces: [{ name: "eth0" }, { name: "chain" }, { name: /^veth/ }, { name: "net1" }],
    ips: [
      { address: "192.0.2.9/24", interface: 0 },
      { address: "10.32.0.2/24", interface: 3 },
    ],
    routes: [{ dst: "198.51.100.0/24" }],
    dns: { nameservers: ["192.0.2.53"] },
  });
  t.equal((await host.run("CHECK", { ...net, prevResult: result }, pod)).exitCode, 0);
  t.equal((await host.run("DEL", { ...net, prevResult: result }, pod)).exitCode, 0);
  t.notOk((await host.traces("chain")).addresses.length);
});

t.test("mac, mtu, dns and routes as asked for; what is for others is passed over", async (t) => {
  const pod = newPod();
  const ipam = {
    type: "kubeplumb-cni",
    ranges: [[{ subnet: "10.33.0.0/24" }]],
    routes: [
      { dst: "192.0.2.0/24", mtu: 1300, priority: 50 },
      { dst: "198.51.100.0/24", gw: "10.33.0.9" },
    ],
  };
  const net = conf("asks", "10.33.0.0/24", { ipam, mtu: 1450 });
  const runtimeConfig = {
    mac: "02:AA:00:00:00:01",
    mtu: 1400,
    dns: { servers: ["10.96.0.10"], searches: ["cluster.local"], options: ["ndots:5"] },
    aliases: { asks: ["web"] },
    bandwidth: { ingressRate: 1 },
    portMappings: [],
  };
  const result = await host.added({ ...net, runtimeConfig }, pod);
  t.match(result, {
    interfaces: [{ mtu: 1400 }, {}, { mac: "02:aa:00:00:00:01", mtu: 1400 }],
    routes: [{ dst: "0.0.0.0/0" }, { dst: "192.0.2.0/24", gw: "10.33.0.1", mtu: 1300 }, { gw: "10.33.0.9" }],
    dns: { nameservers: ["10.96.0.10"], search: ["cluster.local"], options: ["ndots:5"] },
  });
  const { stdout } = await pod.ns.exec("ip", ["route"]);
  t.match(stdout, /192\.0\.2\.0\/24 via 10\.33\.0\.1 dev eth0 metric 50 mtu 1300/);
  t.match(stdout, /198\.51\.100\.0\/24 via 10\.33\.0\.9/);
  t.equal((await host.run("CHECK", { ...net, prevResult: result }, pod)).exitCode, 0);
  await pod.ns.exec("ip", ["route", "del", "198.51.100.0/24"]);
  t.match((await host.run("CHECK", { ...net, prevResult: result }, pod)).json, {
    code: 104,
    msg: /198\.51\.100\.0/,
  });
  const other = newPod();
  const byArgs = await host.added(
    { ...net, dns: { nameservers: ["192.0.2.1"] } },
    { ...other, args: "IgnoreUnknown=1;MAC=02:aa:00:00:00:02;X=y" },
  );
  t.match(byArgs, {
    interfaces: [{}, {}, { mac: "02:aa:00:00:00:02" }],
    dns: { nameservers: ["192.0.2.1"] },
  });
});

t.test("without a gateway; promiscuous", async (t) => {
  const pod = newPod();
  const result = await host.added(
    conf("plain", "10.34.0.0/24", { isGateway: false, promiscMode: true }),
    pod,
  );
  t.notOk(result.routes);
  const own = (await host.rt.listAddresses("plain")).filter(({ family }) => family === 4);
  t.strictSame(own, []);
  t.match((await host.ns.exec("ip", ["-d", "link", "show", "plain"])).stdout, /promiscuity [1-9]/);
  const port = (await host.rt.listLinks()).find(({ master }) => master === "plain");
  t.equal(port?.hairpin, false);
  await host.added(conf("hair", "10.35.0.0/24"), newPod());
  t.notMatch((await host.ns.exec("ip", ["link", "show", "hair"])).stdout, /PROMISC/);
});

t.test(
  "ipMasq gives what leaves the block the host's address, and DEL and GC take the rules out",
  async (t) => {
    const outside = NetNs.create("outside");
    await host.rt.addVeth({ name: "up0", peer: { name: "up1", ns: outside }, up: true });
    await host.rt.addAddress("up0", "203.0.113.1/24");
    {
      using rt = RtNetlink.open(outside);
      await rt.setLink("up1", { up: true });
      await rt.addAddress("up1", "203.0.113.2/24");
    }
    const masq = conf("masq", "10.38.0.0/24 fd00:38::/64", { ipMasq: true });
    const pods = [newPod(), newPod()] as const;
    const plain = newPod();
    await host.added(conf("nomasq", "10.39.0.0/24"), plain);
    t.notOk(await pings(plain.ns, "203.0.113.2", 1), "nobody out there knows the way back to a pod");
    const results = [await host.added(masq, pods[0]), await host.added(masq, pods[1])];
    t.ok(await pings(pods[0].ns, "203.0.113.2"));
    const rules = async (tool = "iptables-save") => (await host.ns.exec(tool, ["-t", "nat"])).stdout;
    t.match(
      await rules(),
      /-A POSTROUTING -s 10\.38\.0\.2\/32 -m comment --comment "name: \\"masq\\" id: \\"b\d+\\"" -j CNI-[0-9a-f]{24}/,
    );
    t.match(await rules("ip6tables-save"), /-A POSTROUTING -s fd00:38::2\/128 /);
    const checked = { ...masq, prevResult: results[0] };
    t.equal((await host.run("CHECK", checked, pods[0])).exitCode, 0);
    await host.ns.exec("iptables", ["-t", "nat", "-F", "POSTROUTING"]);
    t.match((await host.run("CHECK", checked, pods[0])).json, { code: 104, msg: /ipMasq/ });
    await host.run("DEL", masq, pods[0]);
    const again = newPod();
    await host.added(masq, again);
    const valid = [{ containerID: again.id, ifname: "eth0" }];
    t.equal(
      (await host.run("GC", { ...masq, "cni.dev/valid-attachments": valid }, { id: "gc" })).exitCode,
      0,
    );
    t.notMatch(await rules("ip6tables-save"), `id: \\"${pods[1].id}\\"`);
    t.match(await rules("ip6tables-save"), `id: \\"${again.id}\\"`);
    await host.run("DEL", masq, again);
    t.notMatch(await rules("ip6tables-save"), /masq/);
  },
);

t.test("duplicate addresses are found, and the new one is announced", async (t) => {
  const [a, b] = [newPod(), newPod()];
  const net = conf("dad", "10.40.0.0/24 fd00:40::/64", { enabledad: true });
  const result = await host.added(net, a);
  t.match(result.ips, [{ address: "10.40.0.2/24" }, { address: "fd00:40::2/64" }]);
  t.ok(await pings(a.ns, "fd00:40::1"), "settled: it answers at once");
  await a.ns.exec("ip", ["addr", "add", "fd00:40::77/64", "dev", "eth0", "nodad"]);
  const taken = await host.run("ADD", { ...net, runtimeConfig: { ips: ["fd00:40::77"] } }, b);
  t.match(taken.json, { code: 101, msg: "fd00:40::77 is used by another one on the link already" });
  t.notOk((await host.traces("dad")).addresses.includes("fd00:40::77"), "and nothing is left");
  // A neighbour that remembers the address with another MAC learns the new one without asking.
  await host.ns.exec("ip", [
    "neigh",
    "replace",
    "10.40.0.9",
    "lladdr",
    "02:00:00:00:00:99",
    "dev",
    "dad",
    "nud",
    "stale",
  ]);
  await host.added({ ...net, runtimeConfig: { ips: ["10.40.0.9"] } }, b);
  const neighbour = async () => (await host.ns.exec("ip", ["neigh", "show", "10.40.0.9"])).stdout;
  while (!/0a:58:0a:28:00:09/.test(await neighbour())) await sleep(20);
  t.pass("gratuitous ARP");
});
