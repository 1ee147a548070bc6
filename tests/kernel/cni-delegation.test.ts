// Delegation to an IPAM plugin (CNI specification 1.1, section 4): environment, stderr, its errors; and the reference
// plugin dhcp with a real server.

import { copyFileSync, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { startCniAgent } from "../../cni/agent.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { posixSpawn } from "../../dataplane/kernel/posix-spawn.js";
import { RtNetlink } from "../../dataplane/kernel/rtnetlink.js";
import { type Call, PluginHost, REFERENCE } from "../helpers/cni.js";
import { becomes, until } from "../helpers/until.js";

const host = new PluginHost("host");
t.teardown(() => host.close());
const FRONT = ["../../../bin/", "../../../../bin/"]
  .map((up) => fileURLToPath(new URL(`${up}cni-front-x64`, import.meta.url)))
  .find((path) => existsSync(path));

const conf = (name: string, ipam: object, extra: object = {}): Record<string, unknown> => ({
  ...{ cniVersion: "1.1.0", name, type: "kubeplumb-cni", bridge: name, dataDir: host.dir },
  ipam,
  ...extra,
});
const newPod = (id: string): Call & { ns: NetNs } => ({ id, ns: NetNs.create(id) });

/** Says something on stderr with each verb, and writes down its environment. */
const seen = join(host.dir, "seen");
host.script(
  "loud",
  `cat > ${seen}.conf; env > ${seen}.env; echo "loud $CNI_COMMAND" >&2
   [ -e ${host.dir}/fails ] && { echo '{"cniVersion":"1.1.0","code":142,"msg":"not today"}'; exit 1; }
   [ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.1.0","ips":[{"address":"10.94.0.7/24"}]}'`,
);
const loud = conf("loud", { type: "loud" });

t.test("its stderr is ours, its environment is the one that we have got", async (t) => {
  const pod = newPod("l1");
  const env = {
    ...{ PATH: process.env.PATH, CNI_COMMAND: "ADD", CNI_CONTAINERID: "l1", CNI_IFNAME: "eth0" },
    ...{ CNI_NETNS: pod.ns.path, CNI_PATH: host.bin, CNI_ARGS: "IgnoreUnknown=1;WHO=me" },
    ...{ SOMETHING: "of the runtime's", KUBEPLUMB_CNI_SOCKET: join(host.dir, "cni.sock") },
  };
  const call = async (program: string, verb: string, where: NetNs) => {
    const input = JSON.stringify(loud);
    const options = { input, env: { ...env, CNI_COMMAND: verb } };
    return where.run(() => posixSpawn(program, [], options)).ended;
  };
  const verify = async (program: string, where: NetNs, who: string) => {
    const added = await call(program, "ADD", where);
    t.match(added, { exitCode: 0, stderr: "loud ADD\n" }, who);
    t.match(JSON.parse(added.stdout).ips, [{ address: "10.94.0.7/24" }]);
    const got = new Set(readFileSync(`${seen}.env`, "utf8").split("\n"));
    for (const [key, value] of Object.entries(env).filter(([key]) => key !== "CNI_COMMAND"))
      t.ok(got.has(`${key}=${value}`), `${who}: ${key}`);
    t.strictSame(JSON.parse(readFileSync(`${seen}.conf`, "utf8")), loud, `${who}: the whole configuration`);
    t.match(await call(program, "DEL", where), { exitCode: 0, stdout: "", stderr: "loud DEL\n" }, who);
    host.script("../fails", "");
    const failed = await call(program, "ADD", where);
    t.match(failed, { exitCode: 1, stderr: "loud ADD\nloud DEL\n" }, `${who}: also when it fails`);
    t.match(JSON.parse(failed.stdout), { code: 142, msg: /not today/ });
    await host.ns.exec("rm", [join(host.dir, "fails")]);
  };
  await verify(join(host.bin, "kubeplumb-cni"), host.ns, "as a process");

  if (process.arch !== "x64" || FRONT === undefined) return;
  const front = join(host.dir, "kubeplumb-cni");
  copyFileSync(FRONT, front);
  const agent = await startCniAgent(join(host.dir, "cni.sock"));
  t.teardown(() => agent.close());
  await verify(front, NetNs.current(), "by the agent");
});

t.test("an error of its DEL comes back, and the interface goes all the same", async (t) => {
  const pod = newPod("l2");
  t.equal((await host.run("ADD", loud, pod)).exitCode, 0);
  host.script("../fails", "");
  t.match(await host.run("DEL", loud, pod), { exitCode: 1, json: { code: 142, msg: /not today/ } });
  t.notOk((await host.rt.listLinks()).some(({ master }) => master === "loud"));
  await host.ns.exec("rm", [join(host.dir, "fails")]);
  t.equal((await host.run("DEL", loud, pod)).exitCode, 0, "and once more");
});

const DHCP =
  REFERENCE !== undefined && existsSync(join(REFERENCE, "dhcp")) ? join(REFERENCE, "dhcp") : undefined;
const hasServer = await host.ns.exec("dnsmasq", ["--version"]).then(
  () => true,
  () => false,
);

t.test(
  "the reference plugin dhcp: a lease from a server on the bridge",
  { skip: !(DHCP && hasServer) && "containernetworking-plugins or dnsmasq-base is missing" },
  async (t) => {
    await host.rt.setLink("lo", { up: true });
    await host.rt.addBridge({ name: "lan0", up: true });
    await host.rt.addAddress("lan0", "10.95.0.1/24");
    const leases = join(host.dir, "leases");
    const socket = join(host.dir, "dhcp.sock");
    const server = host.ns.run(() =>
      posixSpawn("dnsmasq", [
        ...["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=", "--group="],
        ...[
          "--interface=lan0",
          "--bind-interfaces",
          "--no-ping",
          "--pid-file",
          "--log-dhcp",
          "--log-facility=-",
        ],
        ...["--dhcp-range=10.95.0.50,10.95.0.60,255.255.255.0,1h", `--dhcp-leasefile=${leases}`],
        ...["--dhcp-option=option:router,10.95.0.1"],
        ...["--dhcp-option=option:classless-static-route,0.0.0.0/0,10.95.0.1,192.0.2.0/24,10.95.0.9"],
      ]),
    );
    const daemon = host.ns.run(() =>
      posixSpawn(DHCP as string, ["daemon", "-socketpath", socket], { env: { PATH: process.env.PATH } }),
    );
    for (const program of [server, daemon]) {
      let isRunning = true;
      const ended = program.ended.finally(() => {
        isRunning = false;
      });
      t.teardown(async () => {
        if (isRunning) process.kill(program.pid, "SIGKILL");
        await ended;
      });
    }
    await until(() => existsSync(socket));

    const path = `${host.bin}:${REFERENCE}`;
    const pods = ["d1", "d2"].map((id) => ({ ...newPod(id), path }));
    const net = conf(
      "lan",
      { type: "dhcp", daemonSocketPath: socket, request: [{ option: "121" }] },
      { bridge: "lan0", cniVersion: "1.0.0" },
    );
    const results = [];
    for (const pod of pods) {
      const { exitCode, json } = await host.run("ADD", net, pod);
      t.equal(exitCode, 0, JSON.stringify(json));
      t.match(json.ips, [{ address: /^10\.95\.0\.\d+\/24$/, gateway: "10.95.0.1", interface: 2 }]);
      results.push(json);
    }
    const [one, two] = results.map(({ ips }) => ips[0].address.split("/")[0]);
    t.not(one, two);
    const [first, second] = pods as [Call & { ns: NetNs }, Call & { ns: NetNs }];
    await first.ns.exec("ping", ["-c1", "-W10", "10.95.0.1"]);
    await first.ns.exec("ping", ["-c1", "-W10", two]);
    const { stdout } = await first.ns.exec("ip", ["route"]);
    t.match(stdout, /^default via 10\.95\.0\.1 dev eth0/m);
    t.match(stdout, /^192\.0\.2\.0\/24 via 10\.95\.0\.9 dev eth0/m, "static routes of the lease");
    t.match(readFileSync(leases, "utf8"), ` ${results[0].interfaces[2].mac} ${one} `, "the server's record");
    const check = await host.run("CHECK", { ...net, prevResult: results[0] }, first);
    t.equal(check.exitCode, 0, JSON.stringify(check.json));

    t.equal((await host.run("DEL", { ...net, prevResult: results[0] }, first)).exitCode, 0);
    await becomes(t, "the lease is given back", () => !readFileSync(leases, "utf8").includes(` ${one} `));
    t.equal((await host.run("DEL", net, first)).exitCode, 0, "again");
    // The namespace is gone, so nothing can be sent; the lease ends by itself.
    second.ns.close();
    t.equal((await host.run("DEL", net, { ...second, ns: undefined as never })).exitCode, 0);
    using rt = RtNetlink.open(host.ns);
    t.notOk((await rt.listLinks()).some(({ master }) => master === "lan0"));

    process.kill(server.pid, "SIGSTOP");
    const nobody = await host.run("ADD", conf("lan", { type: "dhcp", daemonSocketPath: "/nowhere" }), {
      ...newPod("d3"),
      path,
    });
    process.kill(server.pid, "SIGCONT");
    t.match(nobody, { exitCode: 1, json: { msg: /dhcp ADD: / } }, "without the daemon");
  },
);
