// portIsolation and macspoofchk of the CNI plugin: what a pod's port of the bridge does not let through.

import t from "tap";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { type Call, PluginHost, pings } from "../helpers/cni.js";

const host = new PluginHost("host");
t.teardown(() => host.close());
let counter = 0;

type Pod = Call & { ns: NetNs };
const newPod = (): Pod => ({ id: `p${counter}`, ns: NetNs.create(`p${counter++}`) });
const conf = (name: string, subnet: string, extra: object): Record<string, unknown> => ({
  ...{ cniVersion: "1.1.0", name, type: "kubeplumb-cni", bridge: name, dataDir: host.dir },
  ipam: { type: "kubeplumb-cni", ranges: [[{ subnet }]] },
  ...extra,
});

t.test("isolated pods reach the gateway and not each other", async (t) => {
  const net = conf("iso", "10.90.0.0/24", { portIsolation: true });
  const [a, b] = [newPod(), newPod()];
  const result = await host.added(net, a);
  await host.added(net, b);
  t.ok(await pings(a.ns, "10.90.0.1"), "the gateway");
  t.ok(await pings(host.ns, "10.90.0.3"), "from the host");
  t.notOk(await pings(a.ns, "10.90.0.3", 2), "another pod");
  const check = () => host.run("CHECK", { ...net, prevResult: result }, a);
  t.equal((await check()).exitCode, 0);
  await host.rt.setLink(result.interfaces[1].name, { isolated: false });
  t.match(await check(), { exitCode: 1, json: { code: 104, msg: /is not isolated/ } });
  t.ok(await pings(b.ns, "10.90.0.2"), "one that is not isolated is reached by all");
});

const nft = await host.ns.exec("nft", ["--version"]).then(
  () => true,
  () => false,
);

t.test("frames with another MAC are dropped", { skip: !nft && "nft is not installed" }, async (t) => {
  const net = conf("mac", "10.91.0.0/24", { macspoofchk: true });
  const [a, b] = [newPod(), newPod()];
  const result = await host.added(net, a);
  await host.added(net, b);
  t.ok(await pings(a.ns, "10.91.0.1"));
  const own = result.interfaces[2].mac;
  const become = (mac: string) => a.ns.exec("ip", ["link", "set", "eth0", "address", mac]);
  const hear = async () => {
    // Whoever remembers the pod would answer to its old MAC.
    await host.ns.exec("ip", ["neigh", "flush", "dev", "mac"]);
    return pings(a.ns, "10.91.0.1", 2);
  };
  await become("02:00:00:00:00:99");
  t.notOk(await hear(), "with a MAC of its own choice");
  await become(own);
  t.ok(await pings(a.ns, "10.91.0.1"), "and with its own again");
  t.ok(await pings(b.ns, "10.91.0.1"), "others are not touched");

  const check = () => host.run("CHECK", { ...net, prevResult: result }, a);
  t.equal((await check()).exitCode, 0);
  const rules = async () => (await host.ns.exec("nft", ["list", "ruleset", "bridge"])).stdout;
  const port = result.interfaces[1].name;
  t.match(await rules(), `iifname "${port}" ether saddr != ${own} drop comment "mac"`);
  await host.ns.exec("nft", ["flush", "chain", "bridge", "kubeplumb-cni", "macspoofchk"]);
  t.match(await check(), { exitCode: 1, json: { code: 104, msg: /rule of macspoofchk/ } });
  t.equal((await host.run("DEL", net, a)).exitCode, 0, "DEL is fine without the rule");

  const again = newPod();
  await host.added(net, again);
  const elsewhere = conf("mac2", "10.92.0.0/24", { macspoofchk: true });
  await host.added(elsewhere, newPod());
  t.equal((await rules()).match(/ether saddr/g)?.length, 2);
  const valid = [{ containerID: again.id, ifname: "eth0" }];
  const gc = (list: object[]) => host.run("GC", { ...net, "cni.dev/valid-attachments": list }, { id: "gc" });
  t.equal((await gc(valid)).exitCode, 0);
  t.equal((await rules()).match(/ether saddr/g)?.length, 2, "GC leaves the valid one, and another network's");
  t.equal((await gc([])).exitCode, 0);
  t.match(await rules(), 'drop comment "mac2"');
  t.notMatch(await rules(), 'drop comment "mac"\n');
});

t.test("without nft ADD says so, and nothing is left", async (t) => {
  const pod = newPod();
  const net = conf("bare", "10.93.0.0/24", { macspoofchk: true });
  const PATH = process.env.PATH;
  process.env.PATH = host.bin;
  const said = await host.run("ADD", net, pod).finally(() => {
    process.env.PATH = PATH;
  });
  t.match(said, { exitCode: 1, json: { code: 100, msg: /macspoofchk: nft .*could not be started/ } });
  t.strictSame((await host.traces("bare")).addresses, []);
  t.notOk((await host.rt.listLinks()).some(({ master }) => master === "bare"));
});
