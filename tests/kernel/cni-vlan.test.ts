// VLANs of the pod network: what a configuration may say of them, and on a kernel that has VLANs of bridges, whom a pod
// reaches. On one without, that ADD says so and leaves nothing.

import t from "tap";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { NetlinkError, RtNetlink } from "../../dataplane/kernel/rtnetlink.js";
import { type Call, PluginHost, pings } from "../helpers/cni.js";

const host = new PluginHost("host");
t.teardown(() => host.close());
let counter = 0;

type Pod = Call & { ns: NetNs };
const newPod = (): Pod => ({ id: `v${counter}`, ns: NetNs.create(`v${counter++}`) });

/** One bridge; each network has its own block. */
function conf(name: string, subnet: string, extra: object = {}): Record<string, unknown> {
  const ipam = { type: "kubeplumb-cni", ranges: [[{ subnet }]] };
  const base = { cniVersion: "1.1.0", name, type: "kubeplumb-cni", bridge: "vbr0", dataDir: host.dir };
  return { ...base, ipam, ...extra };
}

const hasVlans = await host.rt
  .addBridge({ name: "probe", vlanFiltering: true })
  .then(() => host.rt.deleteLink("probe"))
  .then(
    () => true,
    (error: unknown) => {
      if (error instanceof NetlinkError && error.code === "ENOTSUP") return false;
      throw error;
    },
  );
const skip = !hasVlans && "this kernel is built without CONFIG_BRIDGE_VLAN_FILTERING";

t.test("refused with the field named", async (t) => {
  const pod = newPod();
  const errors: [object, RegExp][] = [
    [{ vlan: 4095 }, /vlan must be an integer from 0 to 4094, not 4095/],
    [{ vlan: -1 }, /vlan must be/],
    [{ vlan: 5, vlanTrunk: [{ id: 6 }] }, /vlan and vlanTrunk exclude each other/],
    [{ vlanTrunk: [] }, /vlanTrunk must be a list of at least one/],
    [{ vlanTrunk: [{ id: 0 }] }, /vlanTrunk\[0\]\.id must be an integer from 1 to 4094, not 0/],
    [{ vlanTrunk: [{ minID: 5 }] }, /vlanTrunk\[0\] must be \{ id \}, or \{ minID, maxID \}/],
    [{ vlanTrunk: [{}] }, /vlanTrunk\[0\] must be/],
    [{ vlanTrunk: [{ minID: 9, maxID: 8 }] }, /vlanTrunk\[0\]\.maxID must be an integer from 9 to 4094/],
    [{ preserveDefaultVlan: 1 }, /preserveDefaultVlan must be a boolean/],
    [{ bridge: "twelve-chars", vlan: 4000 }, /bridge twelve-chars is too long a name with vlan 4000/],
  ];
  for (const [extra, msg] of errors)
    t.match(
      await host.run("ADD", conf("bad", "10.60.0.0/24", extra), pod),
      { exitCode: 1, json: { code: 7, msg } },
      String(msg),
    );
  t.match((await host.run("ADD", conf("bad", "10.60.0.0/24", { vlanTrunk: [{ id: 1, x: 2 }] }), pod)).json, {
    code: 2,
    msg: /vlanTrunk\[0\]\.x=2/,
  });
  t.notOk(await host.rt.getLink("vbr0"));
});

t.test(
  "a kernel without says so, and nothing is left",
  { skip: hasVlans && "this kernel has VLANs of bridges" },
  async (t) => {
    const pod = newPod();
    const error = { exitCode: 1, json: { code: 100, msg: /CONFIG_BRIDGE_VLAN_FILTERING.*for vbr0/ } };
    for (const extra of [{ vlan: 5 }, { vlanTrunk: [{ id: 5 }] }])
      t.match(await host.run("ADD", conf("none", "10.60.0.0/24", extra), pod), error);
    t.notOk(await host.rt.getLink("vbr0"), "no bridge");
    t.strictSame(await host.traces("none"), { ports: [], addresses: [] });
    t.equal((await host.run("DEL", conf("none", "10.60.0.0/24", { vlan: 5 }), pod)).exitCode, 0);
    await host.added(conf("none", "10.60.0.0/24"), pod);
    t.match(await host.run("ADD", conf("none", "10.60.0.0/24", { vlan: 5 }), newPod()), error);
    t.equal((await host.run("CHECK", conf("none", "10.60.0.0/24", { vlan: 0 }), pod)).exitCode, 1);
    await host.run("DEL", conf("none", "10.60.0.0/24"), pod);
    t.strictSame(await host.traces("none"), { ports: [], addresses: [] });
    await host.rt.deleteLink("vbr0");
  },
);

t.test("pods of one VLAN reach each other and its gateway, and nobody else", { skip }, async (t) => {
  const five = conf("five", "10.61.0.0/24", { vlan: 5 });
  const six = conf("six", "10.62.0.0/24", { vlan: 6, preserveDefaultVlan: false });
  const [a, b, c] = [newPod(), newPod(), newPod()];
  const result = await host.added(five, a);
  t.match(result, {
    interfaces: [
      { name: "vbr0" },
      { name: /^veth/ },
      { name: "eth0" },
      { name: "vbr0.5", mac: "0a:58:0a:3d:00:01" },
    ],
    ips: [{ address: "10.61.0.2/24", gateway: "10.61.0.1", interface: 2 }],
  });
  await host.added(five, b);
  const other = await host.added(six, c);
  t.match(other.interfaces[3], { name: "vbr0.6" });
  const addresses = async (name: string) =>
    (await host.rt.listAddresses(name)).filter(({ family }) => family === 4).map(({ cidr }) => cidr);
  t.strictSame(await addresses("vbr0.5"), ["10.61.0.1/24"]);
  t.strictSame(await addresses("vbr0"), []);
  t.ok(await pings(a.ns, "10.61.0.3"), "the other pod of VLAN 5");
  t.ok(await pings(a.ns, "10.61.0.1"), "the gateway of VLAN 5");
  t.ok(await pings(host.ns, "10.61.0.2"), "from the host");
  t.ok(await pings(c.ns, "10.62.0.1"), "the gateway of VLAN 6");
  t.ok(await pings(a.ns, "10.62.0.2"), "another VLAN, routed by the host");
  // On the wire: an address of the same block in the other VLAN is not to be found.
  await c.ns.exec("ip", ["addr", "add", "10.61.0.77/24", "dev", "eth0"]);
  t.notOk(await pings(a.ns, "10.61.0.77", 2), "VLANs are apart");

  const port = result.interfaces[1].name;
  const vlans = (name: string) => host.rt.listVlans(name);
  t.strictSame(await vlans(port), [
    { vid: 1, pvid: false, untagged: true },
    { vid: 5, pvid: true, untagged: true },
  ]);
  t.strictSame(await vlans(other.interfaces[1].name), [{ vid: 6, pvid: true, untagged: true }]);
  const check = () => host.run("CHECK", { ...five, prevResult: result }, a);
  t.equal((await check()).exitCode, 0);
  await host.rt.deleteVlan(port, [5, 5]);
  t.match(await check(), { exitCode: 1, json: { code: 104, msg: /is not in its VLANs/ } });

  // A gateway whose maker was killed before it was in its VLAN is put right by the next ADD.
  const gate = (await host.rt.listLinks()).find(({ name, master }) => name.startsWith("vgw") && master);
  await host.rt.deleteVlan(gate?.name ?? "", [5, 6]);
  for (const net of [five, six]) {
    const late = newPod();
    const { ips } = await host.added(net, late);
    t.ok(await pings(late.ns, ips[0].gateway), "the gateway is back in its VLAN");
    await host.run("DEL", net, late);
  }
  for (const [net, pod] of [
    [five, a],
    [five, b],
    [six, c],
  ] as const)
    t.equal((await host.run("DEL", net, pod)).exitCode, 0);
  t.strictSame((await host.traces("five")).addresses, []);
  t.notOk((await host.rt.listLinks()).some(({ alias }) => alias?.startsWith("kubeplumb-cni")));
});

t.test(
  "a trunk: frames with a tag, of these VLANs only; a bridge of before is turned",
  { skip },
  async (t) => {
    const plain = conf("plain", "10.63.0.0/24", { bridge: "tbr0" });
    const old = newPod();
    await host.added(plain, old);
    t.match((await host.rt.getLink("tbr0"))?.vlans, { filtering: false });
    const trunk = conf("trunk", "10.64.0.0/24", {
      bridge: "tbr0",
      isGateway: false,
      isDefaultGateway: false,
      vlanTrunk: [{ minID: 100, maxID: 110 }, { id: 200 }],
      preserveDefaultVlan: false,
    });
    const pods = [newPod(), newPod()];
    const results = [];
    for (const pod of pods) results.push(await host.added(trunk, pod));
    t.match((await host.rt.getLink("tbr0"))?.vlans, { filtering: true });
    t.ok(await pings(old.ns, "10.63.0.1"), "pods of before go on");
    const vids = (await host.rt.listVlans(results[0].interfaces[1].name)).map(({ vid }) => vid);
    t.strictSame(vids, [...Array.from({ length: 11 }, (_, n) => 100 + n), 200]);
    t.equal((await host.run("CHECK", { ...trunk, prevResult: results[0] }, pods[0] as Pod)).exitCode, 0);
    for (const [n, pod] of pods.entries()) {
      for (const vid of [105, 200, 300]) {
        await pod.ns.exec("ip", [
          "link",
          "add",
          "link",
          "eth0",
          "name",
          `t${vid}`,
          "type",
          "vlan",
          "id",
          `${vid}`,
        ]);
        using inside = RtNetlink.open(pod.ns);
        await inside.setLink(`t${vid}`, { up: true });
        await inside.addAddress(`t${vid}`, `10.65.${vid % 256}.${n + 1}/24`);
      }
    }
    const [first] = pods as [Pod, Pod];
    t.ok(await pings(first.ns, "10.65.105.2"), "a VLAN of the range");
    t.ok(await pings(first.ns, "10.65.200.2"), "a VLAN by its id");
    t.notOk(await pings(first.ns, "10.65.44.2", 2), "VLAN 300 is not let through");
    t.notOk(await pings(first.ns, "10.64.0.3", 2), "nor is a frame without a tag, without the default VLAN");
    for (const pod of pods) await host.run("DEL", trunk, pod);
    await host.run("DEL", plain, old);
  },
);

t.test("20 ADDs at once make one gateway, and GC takes all pods out", { skip }, async (t) => {
  const net = conf("many", "10.66.0.0/24", { bridge: "mbr0", vlan: 9 });
  const pods = Array.from({ length: 20 }, newPod);
  const results = await Promise.all(pods.map((pod) => host.added(net, pod)));
  t.equal(new Set(results.map(({ ips }) => ips[0].address)).size, 20);
  const gates = (await host.rt.listLinks()).filter(({ name }) => name.startsWith("mbr0."));
  t.equal(gates.length, 1);
  for (const pod of [pods[0], pods[19]] as Pod[]) t.ok(await pings(pod.ns, "10.66.0.1"));
  const gc = { ...net, "cni.dev/valid-attachments": [] };
  t.equal((await host.run("GC", gc, { id: "gc" })).exitCode, 0);
  t.strictSame((await host.traces("many")).addresses, []);
});
