// Both families in one attachment of the CNI plugin: requested addresses with a prefix length, static routes of each
// family, and masquerading that is seen outside.

import t from "tap";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { RtNetlink } from "../../dataplane/kernel/rtnetlink.js";
import { type Call, PluginHost, pings } from "../helpers/cni.js";

const host = new PluginHost("host");
t.teardown(() => host.close());
const newPod = (id: string): Call & { ns: NetNs } => ({ id, ns: NetNs.create(id) });

const conf = (extra: object = {}): Record<string, unknown> => ({
  ...{ cniVersion: "1.1.0", name: "dual", type: "kubeplumb-cni", bridge: "dual0", dataDir: host.dir },
  ipam: {
    type: "kubeplumb-cni",
    ranges: [[{ subnet: "10.98.0.0/24" }], [{ subnet: "fd00:98::/64" }]],
    routes: [
      { dst: "192.0.2.0/24" },
      { dst: "2001:db8:1::/48" },
      { dst: "198.51.100.0/24", gw: "10.98.0.9" },
      { dst: "2001:db8:2::/48", gw: "fd00:98::9", priority: 77 },
    ],
  },
  ...extra,
});

async function added(net: Record<string, unknown>, pod: Call) {
  const { exitCode, json } = await host.run("ADD", net, pod);
  if (exitCode !== 0) throw new Error(JSON.stringify(json));
  return json;
}

t.test("addresses with a prefix length, by each of the three ways", async (t) => {
  const wanted = (result: { ips: { address: string }[] }) => result.ips.map(({ address }) => address);
  const ips = (n: number) => [`10.98.0.${n}/24`, `fd00:98::${n}/64`];
  const capability = await added(conf({ runtimeConfig: { ips: ips(21) } }), newPod("w1"));
  t.strictSame(wanted(capability), ips(21));
  const args = await added(conf({ args: { cni: { ips: ips(22).reverse() } } }), newPod("w2"));
  t.strictSame(wanted(args), ips(22), "whatever their order");
  const env = await added(conf(), { ...newPod("w3"), args: `IgnoreUnknown=1;IP=${ips(23).join(",")}` });
  t.strictSame(wanted(env), ips(23));
  const bare = await added(conf({ runtimeConfig: { ips: ["fd00:98::0:24"] } }), newPod("w4"));
  t.equal(wanted(bare)[1], "fd00:98::24/64", "without one, and only of one family");
  const foreign = await host.run("ADD", conf({ runtimeConfig: { ips: ["10.99.0.5/24"] } }), newPod("w5"));
  t.match(foreign, { exitCode: 1, json: { code: 7, msg: /10\.99\.0\.5 cannot be given/ } });
});

t.test("static routes of both families", async (t) => {
  const pod = newPod("r1");
  const result = await added(conf(), pod);
  t.strictSame(result.routes, [
    { dst: "0.0.0.0/0", gw: "10.98.0.1" },
    { dst: "::/0", gw: "fd00:98::1" },
    { dst: "192.0.2.0/24", gw: "10.98.0.1" },
    { dst: "2001:db8:1::/48", gw: "fd00:98::1" },
    { dst: "198.51.100.0/24", gw: "10.98.0.9" },
    { dst: "2001:db8:2::/48", gw: "fd00:98::9", priority: 77 },
  ]);
  const four = (await pod.ns.exec("ip", ["route"])).stdout;
  t.match(four, /^192\.0\.2\.0\/24 via 10\.98\.0\.1 dev eth0/m);
  t.match(four, /^198\.51\.100\.0\/24 via 10\.98\.0\.9 dev eth0/m);
  const six = (await pod.ns.exec("ip", ["-6", "route"])).stdout;
  t.match(six, /^2001:db8:1::\/48 via fd00:98::1 dev eth0/m);
  t.match(six, /^2001:db8:2::\/48 via fd00:98::9 dev eth0 metric 77/m);
  const check = () => host.run("CHECK", conf({ prevResult: result }), pod);
  t.equal((await check()).exitCode, 0);
  await pod.ns.exec("ip", ["-6", "route", "del", "2001:db8:1::/48"]);
  t.match(await check(), { exitCode: 1, json: { code: 104, msg: /no route to 2001:db8:1::\/48/ } });
  const single = newPod("r2");
  const only4 = {
    type: "kubeplumb-cni",
    ranges: [[{ subnet: "10.99.0.0/24" }]],
    routes: [{ dst: "2001:db8:1::/48" }, { dst: "192.0.2.0/24" }],
  };
  t.match(
    (await added(conf({ name: "one", bridge: "one0", ipam: only4 }), single)).routes.map(
      ({ dst }: { dst: string }) => dst,
    ),
    ["0.0.0.0/0", "192.0.2.0/24"],
    "a route of a family that the pod has not is left out",
  );
});

t.test("ipMasq: outside, both families are seen as the host", async (t) => {
  const outside = NetNs.create("outside");
  await host.rt.addVeth({ name: "up0", peer: { name: "up1", ns: outside }, up: true });
  await host.rt.addAddress("up0", "203.0.113.1/24");
  await host.rt.addAddress("up0", "2001:db8:ffff::1/64");
  {
    using rt = RtNetlink.open(outside);
    await rt.setLink("up1", { up: true });
    await rt.addAddress("up1", "203.0.113.2/24");
    await rt.addAddress("up1", "2001:db8:ffff::2/64");
  }
  const plain = newPod("m1");
  await added(conf(), plain);
  // The way there is open: it is the way back that nobody knows.
  t.notOk(await pings(plain.ns, "2001:db8:ffff::2", 2));
  const one = newPod("m2");
  const result = await added(conf({ ipMasq: true }), one);
  t.ok(await pings(one.ns, "203.0.113.2"));
  t.ok(await pings(one.ns, "2001:db8:ffff::2"));
  t.equal((await host.run("CHECK", conf({ ipMasq: true, prevResult: result }), one)).exitCode, 0);
  t.equal((await host.run("DEL", conf({ ipMasq: true }), one)).exitCode, 0);
  t.notMatch((await host.ns.exec("ip6tables-save", ["-t", "nat"])).stdout, "CNI-");
});
