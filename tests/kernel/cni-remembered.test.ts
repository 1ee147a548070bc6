// A runtime that was killed gives back what it had begun, and nothing of another runtime on the same network.

import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { addNetwork, CODE, checkNetwork, delRemembered, parseConflist } from "../../cni/index.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { posixSpawn } from "../../dataplane/kernel/posix-spawn.js";
import { PluginHost } from "../helpers/cni.js";
import { until } from "../helpers/until.js";

const host = new PluginHost("host");
t.teardown(() => host.close());
const stateDir = join(host.dir, "own");
const context = { binDirs: [host.bin], stateDir, hostNs: host.ns };
const results = () => (existsSync(join(stateDir, "results")) ? readdirSync(join(stateDir, "results")) : []);
const newPod = (id: string) => ({
  ...context,
  containerId: id,
  ifName: "eth0",
  netns: NetNs.create(id).path,
});
const list = (plugins: object[]) =>
  parseConflist(JSON.stringify({ cniVersion: "1.1.0", name: "net", disableGC: true, plugins }));
const own = { type: "kubeplumb-cni", bridge: "net0", subnet: "10.70.0.0/24", dataDir: host.dir };

t.test("DEL of its own, by the configuration of ADD; the other runtime's pod stays", async (t) => {
  const { netns, ...pod } = newPod("mine");
  await addNetwork(list([own]), { ...pod, netns });
  const other = { id: "theirs", ns: NetNs.create("theirs") };
  const added = await host.run("ADD", { ...own, cniVersion: "1.1.0", name: "net" }, other);
  t.equal(added.exitCode, 0);
  t.equal((await host.traces("net")).addresses.length, 2);
  await delRemembered(context);
  t.match(await host.traces("net"), { addresses: ["10.70.0.3"], ports: { length: 1 } });
  t.strictSame(results(), []);
  await delRemembered(context);
});

t.test("killed in the middle of ADD: what had been begun is remembered", async (t) => {
  host.script(
    "hangs",
    `[ "$CNI_COMMAND" != ADD ] && exit 0; touch ${host.dir}/reached; while [ -d /proc/$PPID ]; do sleep 0.1; done`,
  );
  const conflist = list([own, { type: "hangs" }]);
  const options = newPod("half");
  const module = join(host.dir, "add.mjs");
  const index = new URL("../../cni/index.js", import.meta.url).href;
  const netns = new URL("../../dataplane/kernel/netns.js", import.meta.url).href;
  const { hostNs: _, ...plain } = options;
  writeFileSync(
    module,
    `import { addNetwork } from "${index}"; import { NetNs } from "${netns}";
     await addNetwork(${JSON.stringify(conflist)}, { ...${JSON.stringify(plain)}, hostNs: NetNs.open("${host.ns.path}") });`,
  );
  const child = posixSpawn(process.execPath, [module], { env: { PATH: process.env.PATH } });
  await until(() => existsSync(join(host.dir, "reached")));
  process.kill(child.pid, "SIGKILL");
  await child.ended;
  t.strictSame(results(), ["net-half-eth0"]);
  t.equal((await host.traces("net")).addresses.length, 2);
  await t.rejects(checkNetwork(conflist, options), { code: CODE.unknownContainer }, "it never was there");
  await delRemembered(context);
  t.match(await host.traces("net"), { addresses: ["10.70.0.3"], ports: { length: 1 } });
  t.strictSame(results(), []);
});

t.test("what cannot be given back is told, and does not keep the rest", async (t) => {
  host.script(
    "stubborn",
    `[ "$CNI_COMMAND" = ADD ] && { cat | sed 's/.*"prevResult"://; s/}$//'; exit 0; }; exit 1`,
  );
  await addNetwork(list([own, { type: "stubborn" }]), newPod("kept"));
  await addNetwork(list([own]), newPod("plain"));
  await t.rejects(delRemembered(context), { message: /DEL of former attachments: .*stubborn DEL/ });
  t.strictSame(results(), ["net-kept-eth0"]);
  t.match(JSON.parse(readFileSync(join(stateDir, "results/net-kept-eth0"), "utf8")), { containerId: "kept" });
});
