// The front and the agent behind it: who does the work, when it is handed over, and what happens when nobody answers.

import { copyFileSync, existsSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { parseRequest, startCniAgent } from "../../cni/agent.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { posixSpawn } from "../../dataplane/kernel/posix-spawn.js";
import { PluginHost } from "../helpers/cni.js";

// From the build's folder, wherever that is, up to the package.
const FRONT = ["../../../bin/", "../../../../bin/"]
  .map((up) => fileURLToPath(new URL(`${up}cni-front-x64`, import.meta.url)))
  .find((path) => existsSync(path));
const skip = process.arch !== "x64" && "the front is built for x86-64";

const host = new PluginHost("host");
const socket = join(host.dir, "cni.sock");
t.teardown(() => host.close());
for (const type of ["kubeplumb-cni", "kubeplumb-portmap"]) copyFileSync(FRONT ?? "", join(host.bin, type));

const conf = (extra: object = {}) => ({
  cniVersion: "1.1.0",
  name: "fast",
  type: "kubeplumb-cni",
  bridge: "fast0",
  dataDir: host.dir,
  ipam: { type: "kubeplumb-cni", ranges: [[{ subnet: "10.80.0.0/24" }]] },
  ...extra,
});

async function run(
  verb: string,
  body: Record<string, unknown>,
  pod: { id: string; ns: NetNs },
  inside = NetNs.current(),
) {
  const env = {
    ...{ PATH: process.env.PATH, CNI_COMMAND: verb, CNI_CONTAINERID: pod.id, CNI_IFNAME: "eth0" },
    ...{ CNI_NETNS: pod.ns.path, CNI_PATH: host.bin, KUBEPLUMB_CNI_SOCKET: socket },
  };
  const program = join(host.bin, String(body.type));
  const started = inside.run(() => posixSpawn(program, [], { input: JSON.stringify(body), env }));
  const { exitCode, stdout, stderr } = await started.ended;
  return { exitCode, json: stdout === "" ? undefined : JSON.parse(stdout), stderr };
}

t.test("with an agent, in other namespaces, and without one", { skip }, async (t) => {
  const pod = { id: "a1", ns: NetNs.create("a1") };
  const without = await run("ADD", conf(), pod);
  t.match(
    without,
    { exitCode: 0, json: { ips: [{ address: "10.80.0.2/24" }] } },
    "nobody is there: Node does it",
  );
  t.equal((await run("DEL", conf(), pod)).exitCode, 0);

  const agent = await startCniAgent(socket);
  t.equal(statSync(socket).mode & 0o777, 0o600);
  await t.rejects(startCniAgent(socket), { code: "EADDRINUSE" });
  const began = performance.now();
  const added = await run("ADD", conf(), pod);
  t.match(added, { exitCode: 0, json: { ips: [{ address: "10.80.0.3/24" }] } });
  t.comment(`ADD by the agent: ${(performance.now() - began).toFixed(1)} ms`);
  const ports = {
    runtimeConfig: { portMappings: [{ hostPort: 8080, containerPort: 80 }] },
    prevResult: added.json,
  };
  const portmap = {
    cniVersion: "1.1.0",
    name: "fast",
    type: "kubeplumb-portmap",
    dataDir: host.dir,
    ...ports,
  };
  t.match(await run("ADD", portmap, pod), { exitCode: 0, json: { ips: [{ address: "10.80.0.3/24" }] } });
  t.match(await run("ADD", conf(), pod), { exitCode: 1, json: { code: 101 } }, "errors come through");
  t.match(await run("ADD", conf({ vrf: 1 }), pod), { exitCode: 1, json: { code: 2 } });
  t.equal((await run("DEL", portmap, pod)).exitCode, 0);
  t.equal((await run("DEL", conf(), pod)).exitCode, 0);

  // A caller in another network namespace must not get the agent's host.
  const there = await run("ADD", conf(), { id: "a2", ns: pod.ns }, host.ns);
  t.equal(there.exitCode, 0, JSON.stringify(there.json));
  t.ok(await host.rt.getLink("fast0"), "made where the caller is");
  await run("DEL", conf(), { id: "a2", ns: pod.ns }, host.ns);
  await agent.close();
});

t.test("an agent that systemd has given mounts of its own", { skip }, async (t) => {
  // In a process of its own; the first one of its pid namespace is the caller's shell.
  const program = join(host.dir, "agent.mjs");
  const agent = new URL("../../cni/agent.js", import.meta.url).href;
  writeFileSync(
    program,
    `import { startCniAgent } from "${agent}";
     const { close } = await startCniAgent(process.argv[2]);
     console.log("listening");
     process.stdin.on("end", () => close().then(() => process.exit())).resume();`,
  );
  const body = JSON.stringify(conf());
  const env = `CNI_COMMAND=ADD CNI_CONTAINERID=m1 CNI_IFNAME=eth0 CNI_NETNS=/run/netns/m1 KUBEPLUMB_CNI_SOCKET=${socket}`;
  const plugin = join(host.bin, "kubeplumb-cni");
  // Without the module beside it the front can do nothing itself.
  renameSync(`${plugin}.mjs`, `${plugin}.away`);
  t.teardown(() => renameSync(`${plugin}.away`, `${plugin}.mjs`));
  const script = `mount -t tmpfs none /run && ip netns add m1
    mkfifo ${host.dir}/end ${host.dir}/said
    unshare -m ${process.execPath} ${program} ${socket} < ${host.dir}/end > ${host.dir}/said &
    exec 3> ${host.dir}/end
    read word < ${host.dir}/said
    echo '${body}' | ${env} ${plugin}
    echo '${body}' | ${env.replace("=ADD", "=DEL")} ${plugin}
    echo "DEL: $?"
    echo '${body}' | ${env} unshare -m ${plugin} | grep msg
    exec 3>&-; wait`;
  const { stdout } = await NetNs.current().exec("unshare", [
    ...["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script],
  ]);
  t.match(stdout, /"address": "10\.80\.0\.\d+\/24"/, "the machine's own mounts: done by the agent");
  t.match(stdout, /DEL: 0\n/);
  t.match(stdout, /the plugin's module/, "other mounts: the front is on its own");
});

t.test("an agent that dies in the middle, and one that talks nonsense", { skip }, async (t) => {
  const pod = { id: "b1", ns: NetNs.create("b1") };
  const server = createServer((client) => client.destroy());
  await new Promise<void>((resolve) => server.listen(socket, resolve));
  t.match(await run("ADD", conf(), pod), { exitCode: 0 }, "the front does it itself");
  await new Promise((resolve) => server.close(resolve));
  t.equal((await run("DEL", conf(), pod)).exitCode, 0);

  const agent = await startCniAgent(socket);
  const reply = await new Promise<string>((resolve) => {
    let text = "";
    const client = connect(socket, () => client.end("nonsense"));
    client.on("data", (data) => {
      text += data;
    });
    client.on("close", () => resolve(text));
  });
  t.equal(reply, "");
  t.equal(parseRequest(Buffer.from("a\0b\0c\0other\0\0{}")), undefined);
  await agent.close();
});

t.test("the front that is kept is the one that its source gives", { skip }, (t) => {
  const size = statSync(FRONT ?? "").size;
  t.ok(size < 16_384, `${size} bytes`);
  t.equal(readFileSync(FRONT ?? "").toString("latin1", 1, 4), "ELF");
  t.end();
});
