// Demands of the CNI specification 1.1 that no other test has for its subject: on the plugins as processes, and on our
// small libcni as a runtime.

import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { addNetwork, checkNetwork, delNetwork, gcNetwork, parseConflist } from "../../cni/index.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { posixSpawn } from "../../dataplane/kernel/posix-spawn.js";
import { PluginHost } from "../helpers/cni.js";

const host = new PluginHost("host");
t.teardown(() => host.close());
const conf = (extra: object = {}) => ({
  cniVersion: "1.1.0",
  name: "spec",
  type: "kubeplumb-cni",
  bridge: "spec0",
  dataDir: host.dir,
  ipam: { type: "kubeplumb-cni", ranges: [[{ subnet: "10.71.0.0/24" }]] },
  ...extra,
});

t.test("a missing or malformed variable is error 4 and named; each verb wants its own", async (t) => {
  const all = { CNI_CONTAINERID: "c", CNI_NETNS: "/proc/self/ns/net", CNI_IFNAME: "eth0" };
  const run = async (verb: string | undefined, env: object, input = JSON.stringify(conf())) => {
    const own = { PATH: process.env.PATH, ...(verb && { CNI_COMMAND: verb }), ...env };
    const plugin = join(host.bin, "kubeplumb-cni");
    const { exitCode, stdout } = await host.ns.run(() => posixSpawn(plugin, [], { input, env: own })).ended;
    return { exitCode, json: stdout === "" ? undefined : JSON.parse(stdout) };
  };
  const without = (name: keyof typeof all) => ({ ...all, [name]: undefined });
  const names = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] as const;
  for (const verb of ["ADD", "CHECK"])
    for (const name of names)
      t.match(
        await run(verb, without(name)),
        { exitCode: 1, json: { code: 4, msg: name } },
        `${verb} ${name}`,
      );
  for (const name of ["CNI_CONTAINERID", "CNI_IFNAME"] as const)
    t.match(await run("DEL", without(name)), { exitCode: 1, json: { code: 4, msg: name } }, `DEL ${name}`);
  t.strictSame(await run("DEL", without("CNI_NETNS")), { exitCode: 0, json: undefined });
  t.match(await run(undefined, all), { exitCode: 1, json: { code: 4, msg: "CNI_COMMAND" } });
  t.match(await run("ADD", { ...all, CNI_IFNAME: "a/b" }), { json: { code: 4, msg: "CNI_IFNAME" } });
  t.strictSame(await run("STATUS", {}), { exitCode: 0, json: undefined });
  t.match(await run("ADD", all, "{"), { exitCode: 1, json: { code: 6 } });
  t.match(await run("VERSION", {}, ""), { exitCode: 0, json: { supportedVersions: /1\.1\.0/ } });
});

t.test(
  "a container may join twice by two names; CHECK at once; a later plugin may change routes",
  async (t) => {
    const pod = { id: "two", ns: NetNs.create("two") };
    const first = await host.run("ADD", conf(), pod);
    t.equal((await host.run("CHECK", conf({ prevResult: first.json }), pod)).exitCode, 0);
    const second = { ...pod, ifName: "net1" };
    t.match(await host.run("ADD", conf({ isDefaultGateway: false }), second), {
      exitCode: 0,
      json: { ips: [{ address: "10.71.0.3/24" }] },
    });
    await pod.ns.exec("ip", ["route", "del", "default"]);
    const claimed = await host.run("CHECK", conf({ prevResult: first.json }), pod);
    t.match(claimed, { exitCode: 1, json: { code: 104, msg: /default route/ } });
    const { routes: _, ...changed } = first.json;
    t.equal(
      (await host.run("CHECK", conf({ prevResult: changed }), pod)).exitCode,
      0,
      "not in the result any more",
    );
    t.equal((await host.run("DEL", conf(), second)).exitCode, 0);
    t.ok((await pod.ns.exec("ip", ["link", "show", "eth0"])).stdout, "the other one stays");
    t.equal((await host.run("DEL", conf(), pod)).exitCode, 0);
  },
);

t.test("the runtime: what a plugin is given, where it stops, what it keeps", async (t) => {
  const seen = join(host.dir, "seen");
  const record = (name: string, rest: string) =>
    host.script(
      name,
      `cat > ${seen}.${name}.$CNI_COMMAND; env | grep ^CNI_ | sort > ${seen}.${name}.env; ${rest}`,
    );
  const result = '{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.1/24"}]}';
  record("good", `[ $CNI_COMMAND != ADD ] || echo '${result}'`);
  record(
    "bad",
    `[ $CNI_COMMAND = DEL ] && exit 0; echo '{"code":111,"msg":"no","cniVersion":"1.1.0"}'; exit 1`,
  );
  const list = (...types: string[]) =>
    parseConflist(
      JSON.stringify({
        cniVersion: "0.4.0",
        cniVersions: ["1.1.0", "1.0.0", "9.9.9"],
        name: "net",
        plugins: types.map((type) => ({ type, capabilities: { mac: true }, strange: { key: [1] } })),
      }),
    );
  const ns = NetNs.create("pod");
  const context = { binDirs: [host.bin], stateDir: join(host.dir, "state"), hostNs: host.ns };
  const pod = { ...context, containerId: "c", ifName: "eth0", netns: ns.path };
  const capabilityArgs = { mac: "02:00:00:00:00:01", ips: ["10.0.0.9"] };
  await addNetwork(list("good"), { ...pod, capabilityArgs });
  t.strictSame(JSON.parse(readFileSync(`${seen}.good.ADD`, "utf8")), {
    cniVersion: "1.1.0",
    name: "net",
    type: "good",
    strange: { key: [1] },
    runtimeConfig: { mac: "02:00:00:00:00:01" },
  });
  const env = readFileSync(`${seen}.good.env`, "utf8");
  t.equal(
    env,
    `CNI_ARGS=\nCNI_COMMAND=ADD\nCNI_CONTAINERID=c\nCNI_IFNAME=eth0\nCNI_NETNS=${ns.path}\nCNI_PATH=${host.bin}\n`,
  );
  const kept = JSON.parse(readFileSync(join(host.dir, "state/results/net-c-eth0"), "utf8"));
  t.match(kept.result, { ips: [{ address: "10.0.0.1/24" }] }, "the last result is kept");
  await t.rejects(checkNetwork(list("good"), { ...pod, containerId: "other" }), { code: 3 });
  await delNetwork(list("good"), pod);
  t.notOk(existsSync(join(host.dir, "state/results/net-c-eth0")));

  rmSync(`${seen}.good.ADD`);
  rmSync(`${seen}.good.DEL`);
  await t.rejects(addNetwork(list("bad", "good"), pod), { code: 111, message: /no/ });
  t.notOk(existsSync(`${seen}.good.ADD`), "ADD stops at the error");
  t.ok(existsSync(`${seen}.bad.DEL`), "and what failed is deleted");
  await t.rejects(gcNetwork(list("bad", "good"), { ...context, valid: [] }), { message: /no/ });
  t.strictSame(
    JSON.parse(readFileSync(`${seen}.good.GC`, "utf8"))["cni.dev/valid-attachments"],
    [],
    "GC goes on after an error",
  );
  await t.rejects(addNetwork(list("good", "nowhere"), pod), { message: /nowhere is not in/ });
  await t.rejects(addNetwork(list("good"), { ...pod, containerId: "-c" }), { code: 4 });
});

t.test("errors of an IPAM plugin come back, and GC goes on after them", async (t) => {
  const answer = '{"cniVersion":"1.1.0","ips":[{"address":"10.72.0.7/24"}]}';
  host.script(
    "moody",
    `[ -e ${host.dir}/moody ] && { echo '{"cniVersion":"1.1.0","code":142,"msg":"not today"}'; exit 1; }
     [ $CNI_COMMAND != ADD ] || echo '${answer}'`,
  );
  const net = conf({ name: "moody", bridge: "moody0", ipam: { type: "moody" } });
  const pod = { id: "moody", ns: NetNs.create("moody") };
  const added = await host.run("ADD", net, pod);
  t.equal(added.exitCode, 0);
  const ports = async () => (await host.rt.listLinks()).filter(({ master }) => master === "moody0").length;
  t.equal(await ports(), 1);
  host.script("../moody", "");
  const error = { exitCode: 1, json: { code: 142, msg: /moody [A-Z]+: not today/ } };
  for (const verb of ["CHECK", "DEL", "STATUS"])
    t.match(await host.run(verb, { ...net, prevResult: added.json }, pod), error, verb);
  const collected = await host.run("GC", { ...net, "cni.dev/valid-attachments": [] }, pod);
  t.match(collected, { exitCode: 1, json: { code: 100, details: /moody GC: not today/ } });
  t.equal(await ports(), 0, "the interface is gone all the same");
});
