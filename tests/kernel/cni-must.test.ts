// Demands of the CNI specification 1.1 on the plugins, for which the other test files have no place: STATUS when the
// addresses are used up, GC's own variable, CHECK of a bridge that is down, and the form of ipam.type.

import { join } from "node:path";
import t from "tap";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { posixSpawn } from "../../dataplane/kernel/posix-spawn.js";
import { PluginHost } from "../helpers/cni.js";

const host = new PluginHost("host");
t.teardown(() => host.close());
const conf = (extra: object = {}): Record<string, unknown> => ({
  ...{ cniVersion: "1.1.0", name: "must", type: "kubeplumb-cni", bridge: "must0", dataDir: host.dir },
  ipam: { type: "kubeplumb-cni", ranges: [[{ subnet: "10.96.0.0/29" }], [{ subnet: "fd00:96::/64" }]] },
  ...extra,
});
const newPod = (id: string) => ({ id, ns: NetNs.create(id) });

t.test("STATUS tells that no address is left, and ADD says the same", async (t) => {
  const pods = Array.from({ length: 5 }, (_, n) => newPod(`full${n}`));
  t.equal((await host.run("STATUS", conf(), { id: "s" })).exitCode, 0, "before anything is there");
  for (const pod of pods) {
    t.equal((await host.run("STATUS", conf(), { id: "s" })).exitCode, 0);
    t.equal((await host.run("ADD", conf(), pod)).exitCode, 0);
  }
  const full = /no address is free in 10\.96\.0\.0\/29/;
  t.match(await host.run("STATUS", conf(), { id: "s" }), { exitCode: 1, json: { code: 50, msg: full } });
  t.match(await host.run("ADD", conf(), newPod("one-more")), { exitCode: 1, json: { code: 11, msg: full } });
  t.equal((await host.run("DEL", conf(), pods[2] as (typeof pods)[0])).exitCode, 0);
  t.equal((await host.run("STATUS", conf(), { id: "s" })).exitCode, 0);
});

t.test("GC needs CNI_PATH, and no container", async (t) => {
  const input = JSON.stringify(conf({ "cni.dev/valid-attachments": [] }));
  const run = async (env: object) => {
    const own = { PATH: process.env.PATH, CNI_COMMAND: "GC", ...env };
    const plugin = join(host.bin, "kubeplumb-cni");
    const { exitCode, stdout } = await host.ns.run(() => posixSpawn(plugin, [], { input, env: own })).ended;
    return { exitCode, json: stdout === "" ? undefined : JSON.parse(stdout) };
  };
  t.match(await run({}), { exitCode: 1, json: { code: 4, msg: /CNI_PATH/ } });
  t.strictSame(await run({ CNI_PATH: host.bin }), { exitCode: 0, json: undefined });
  t.strictSame((await host.traces("must")).addresses, []);
});

t.test("CHECK finds that nobody can reach the container", async (t) => {
  const pod = newPod("cut");
  const { json } = await host.run("ADD", conf(), pod);
  const check = () => host.run("CHECK", conf({ prevResult: json }), pod);
  t.equal((await check()).exitCode, 0);
  await host.rt.setLink("must0", { up: false });
  t.match(await check(), { exitCode: 1, json: { code: 104, msg: "must0 is down" } });
  await host.rt.setLink("must0", { up: true });
  t.equal((await check()).exitCode, 0);
  t.equal((await host.run("DEL", conf(), pod)).exitCode, 0);
});

t.test("ipam.type is a file name", async (t) => {
  const pod = newPod("type");
  for (const type of ["a/b", "../dhcp", "", 5, undefined])
    t.match(await host.run("ADD", conf({ ipam: { type } }), pod), {
      exitCode: 1,
      json: { code: 7, msg: /ipam\.type must be/ },
    });
  t.notOk((await host.traces("must")).addresses.length);
});
