// A lab's life on the real kernel: up, up again, what is inside, what is outside, published ports, several labs, down;
// and that nothing remains. As the user who runs it and, when that is root, as an unprivileged one too.

import { spawnSync } from "node:child_process";
import { chownSync, existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { serverFlags } from "../../common/v8.js";
import { createCluster, NODES, PODS } from "../../index.js";
import { argvOf } from "../../lab/identity.js";
import { isPrivileged } from "../../lab/launch.js";
import { clusterInfo, down, publish, status, up } from "../../lab/lifecycle.js";
import { freePort } from "../helpers/free-port.js";
import { base, freshHome, inHost, snapshot } from "../helpers/lab-homes.js";

const UNPRIVILEGED_ID = 65_534;

t.test("up, up again, down", async (t) => {
  const home = freshHome(t, "a");
  const before = snapshot();
  const steps: string[] = [];
  const options = { name: "one", home, nodes: 2 };
  const first = await up({ ...options, onStep: (e) => steps.push(`${e.id} ${e.state}`) });
  t.equal(first.outcome, "created");
  t.same(steps.toSorted(), [
    "control done",
    "control start",
    "hosts done",
    "hosts start",
    "nodes done",
    "nodes start",
  ]);
  t.same(first.nodes, [
    { name: "node-1", ip: "192.168.56.11" },
    { name: "node-2", ip: "192.168.56.12" },
  ]);
  t.match(readFileSync(first.kubeconfigPath, "utf8"), /current-context: kubeplumb-one/);

  const again = await up({ name: "one", home });
  t.equal(again.outcome, "running");
  t.same(again.started, []);
  t.equal(again.server, first.server);
  await t.rejects(up({ ...options, nodes: 3 }), {
    code: "DIFFERENT_CONFIG",
    message: /nodes: is 2, asked for 3/,
  });
  await t.rejects(up({ name: "one", home, config: { networking: { podSubnet: "10.0.0.0/16" } } }), {
    code: "DIFFERENT_CONFIG",
    message: /networking\.podSubnet: is "10\.244\.0\.0\/16", asked for "10\.0\.0\.0\/16"/,
  });

  const now = await status("one", home);
  t.equal(now.state, "running", now.problems.join());
  t.same(
    now.nodes.map(({ name, ready }) => ({ name, ready })),
    [
      { name: "node-1", ready: true },
      { name: "node-2", ready: true },
    ],
  );
  t.same(argvOf(now.control.pid ?? 0).slice(0, 2), [process.execPath, ...serverFlags()]);
  t.ok((now.control.memoryBytes ?? 0) > 1e7 && (now.lab.memoryBytes ?? 0) > 1e7);

  const outside = snapshot();
  for (const key of [
    "links",
    "addresses",
    "routes",
    "iptables",
    "nftables",
    "sysctls",
    "mounts",
    "hostname",
  ] as const) {
    t.same(outside[key], before[key], `${key} of the machine are the same while the lab runs`);
  }
  t.same(await down("one", { home }), { existed: true });
  t.same(snapshot(), { ...before, files: before.files.filter((f) => f !== `${home}/`) }, "nothing remains");
  t.same(await down("one", { home }), { existed: false }, "idempotent");
});

t.test("inside a lab", async (t) => {
  const home = freshHome(t, "b");
  const info = await up({ name: "in", home, nodes: 2, ephemeral: true });
  t.teardown(() => down("in", { home }));
  t.match(await inHost(info, "node-1", "ip", "-4", "address", "show", "eth0"), /inet 192\.168\.56\.11\/21/);
  t.match(await inHost(info, "node-1", "ip", "link", "show", "eth0"), /mtu 1500/);
  t.match(await inHost(info, "node-1", "ip", "route"), /^default via 192\.168\.56\.1 dev eth0/m);
  t.match(
    await inHost(info, "node-2", "ping", "-c1", "-W2", "node-1"),
    / 0% packet loss/,
    "hosts know each other by name",
  );
  t.equal((await inHost(info, "node-2", "hostname")).trim(), "node-2");
  t.equal((await inHost(info, "node-2", "cat", "/proc/sys/net/ipv4/ip_forward")).trim(), "1");
  t.equal((await inHost(info, "node-2", "cat", "/proc/sys/net/bridge/bridge-nf-call-iptables")).trim(), "1");
  await inHost(info, "node-1", "sh", "-c", "echo mine > /run/own");
  await t.rejects(inHost(info, "node-2", "cat", "/run/own"), /No such file/, "each host has its own /run");
  t.notOk(existsSync("/run/own"));
  t.match(
    await inHost(info, "node-1", "sh", "-c", "ps ax | wc -l"),
    /^\s*\d{1,2}\s/,
    "no process of the machine is seen",
  );
  const api = ["curl", "-sk", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}"];
  t.equal(
    await inHost(info, "node-1", ...api, "https://192.168.56.1:6443/api"),
    "401",
    "the API answers on the bridge",
  );
  await t.rejects(inHost(info, "node-9", "true"), /there is no host/i);
  await t.rejects(inHost(info, "node-1", "no-such-program"), /executable file not found/);
  await t.rejects(
    inHost(info, "node-1", "curl", "-sS", "--max-time", "5", "http://8.8.8.8"),
    /(Network is unreachable|Failed to connect|Couldn't connect)/,
  );
});

t.test("a lab in a state directory below /run", async (t) => {
  const top = "/run/kubeplumb-test";
  try {
    mkdirSync(top);
  } catch {
    t.pass("this user may not write to /run");
    return;
  }
  t.teardown(() => rmSync(top, { recursive: true }));
  const home = join(top, "home");
  const info = await up({ name: "run", home, nodes: 1, ephemeral: true });
  t.equal((await status("run", home)).state, "running");
  t.equal(
    (await inHost(info, "node-1", "sh", "-c", "ls -d /run/kubeplumb-test 2>/dev/null || echo hidden"))
      .trim()
      .split("\n")
      .at(-1),
    "hidden",
  );
  await down("run", { home });
  t.notOk(existsSync(home));
});

t.test("a host's new underlay address is that of its Node and of published ports", async (t) => {
  const cluster = await createCluster({ nodes: 1, home: freshHome(t, "n") });
  t.teardown(() => cluster.stop());
  const hostPort = await freePort();
  await publish(cluster.name, { hostPort, nodePort: 30080 }, join(base, "n"));
  await cluster.apply(`
apiVersion: v1
kind: Pod
metadata: { name: web, labels: { app: web } }
spec: { containers: [{ name: web, image: "registry.k8s.io/e2e-test-images/agnhost:2.53", args: [netexec] }] }
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { type: NodePort, externalTrafficPolicy: Local, selector: { app: web }, ports: [{ port: 80, targetPort: 8080, nodePort: 30080 }] }
`);
  await cluster.waitFor(PODS, "web", "Ready");
  await cluster.waitForSync();
  const get = () => fetch(`http://127.0.0.1:${hostPort}/hostname`).then((answer) => answer.text());
  t.equal(await get(), "web");
  const [, prefix] = (await cluster.exec("node-1", ["ip", "-o", "-4", "addr", "show", "eth0"])).stdout.match(
    /192\.168\.56\.11(\/\d+)/,
  ) as string[];
  for (const change of [`del 192.168.56.11${prefix}`, `add 192.168.56.77${prefix}`])
    await cluster.exec("node-1", ["ip", "addr", ...change.split(" "), "dev", "eth0"]);
  const internalIP = async () =>
    (await cluster.client.get(NODES, "node-1")).status?.addresses?.find(({ type }) => type === "InternalIP")
      ?.address;
  await cluster.waitUntil(async () => (await internalIP()) === "192.168.56.77", { timeoutMs: 60_000 });
  await cluster.waitUntil(
    () =>
      get().then(
        (text) => text === "web",
        () => false,
      ),
    { timeoutMs: 60_000 },
  );
  t.equal(await get(), "web");
});

t.test("several labs, several commands at once, published ports", async (t) => {
  const home = freshHome(t, "g");
  const [a, b, c] = await Promise.all([
    up({ name: "a", home, nodes: 1, ephemeral: true }),
    up({ name: "b", home, nodes: 1, ephemeral: true }),
    up({ name: "a", home, nodes: 1, ephemeral: true }),
  ]);
  t.same([a?.outcome, c?.outcome].toSorted(), ["created", "running"], "two at once are one after the other");
  t.not(a?.server, b?.server);
  t.same([(await status("a", home)).state, (await status("b", home)).state], ["running", "running"]);
  t.same(await inHost(a, "node-1", "hostname"), await inHost(b, "node-1", "hostname"));

  const port = await freePort();
  await publish("a", { hostPort: port, nodePort: 30080 }, home);
  t.same(clusterInfo("a", home)?.published, [{ hostPort: port, nodePort: 30080, address: "127.0.0.1" }]);
  await t.rejects(publish("b", { hostPort: port, nodePort: 30081 }, home), { code: "PORT_IN_USE" });
  t.same(clusterInfo("b", home)?.published, [], "what failed is not kept");
  const server = inHost(
    a,
    "node-1",
    "sh",
    "-c",
    'exec node -e \'require("http").createServer((q,s)=>s.end("hello"+q.socket.remoteAddress,()=>process.exit())).listen(30080,"0.0.0.0")\'',
  );
  server.catch(() => {});
  await waitUntilFetched(`http://127.0.0.1:${port}/`, (text) =>
    t.equal(text, "hello192.168.56.1", "comes from outside the hosts"),
  );
  await server;
  await Promise.all(["a", "b"].map((name) => down(name, { home })));
  t.notOk(existsSync(home));
});

async function waitUntilFetched(url: string, check: (text: string) => void): Promise<void> {
  for (let i = 0; i < 6000; i++) {
    const text = await fetch(url).then(
      (response) => response.text(),
      () => undefined,
    );
    if (text !== undefined) return check(text);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`${url} does not answer`);
}

t.test("as an unprivileged user", async (t) => {
  // Inside a user namespace with one user there is nobody else to become; and this run is unprivileged already.
  const may =
    spawnSync("setpriv", ["--reuid", String(UNPRIVILEGED_ID), "--clear-groups", "true"]).status === 0;
  if (!isPrivileged() || !may) {
    t.pass("this test runs unprivileged as a whole");
    return;
  }
  const home = freshHome(t, "u");
  chownSync(home, UNPRIVILEGED_ID, UNPRIVILEGED_ID);
  const before = snapshot();
  const lifecycle = JSON.stringify(new URL("../../lab/lifecycle.js", import.meta.url).href);
  const steps = `const { up, down, status } = await import(${lifecycle});
    const home = ${JSON.stringify(join(home, "h"))};
    const say = (...words) => console.log(words.join(" "));
    say((await up({ name: "u", home, nodes: 2 })).outcome, process.getuid());
    const now = await status("u", home);
    say(now.state, now.nodes.map((node) => node.name + (node.ready ? " ready" : "")).join(), now.problems.join());
    process.kill(now.lab.pid, "SIGKILL");
    say((await up({ name: "u", home })).started.join());
    say((await down("u", { home })).existed);`;
  const argv = ["--reuid", String(UNPRIVILEGED_ID), "--regid", String(UNPRIVILEGED_ID), "--clear-groups"];
  const run = spawnSync("setpriv", [...argv, process.execPath, "--input-type=module", "-e", steps], {
    encoding: "utf8",
  });
  t.equal(run.stderr, "");
  t.same(run.stdout.trimEnd().split("\n"), [
    `created ${UNPRIVILEGED_ID}`,
    "running node-1 ready,node-2 ready ",
    "lab",
    "true",
  ]);
  t.same(snapshot(), before, "nothing remains");
});

t.test("where parts of /proc are hidden, as in a container", async (t) => {
  const home = freshHome(t, "p");
  const url = (path: string) => JSON.stringify(new URL(path, import.meta.url).href);
  const steps = `const { up, down, status } = await import(${url("../../lab/lifecycle.js")});
    const { processesInUserNamespace } = await import(${url("../../lab/identity.js")});
    const { remoteCommand } = await import(${url("../../client/remote-command.js")});
    const { readFileSync } = await import("node:fs");
    const home = ${JSON.stringify(home)};
    const info = await up({ name: "p", home, nodes: 1 });
    console.log((await status("p", home)).state);
    const io = { stdout: process.stdout, stderr: process.stdout };
    const command = ["sh", "-c", "sleep 300 >/dev/null 2>&1 &"];
    await remoteCommand({ socketPath: info.labSocket, path: "/hosts/node-1/exec", command, ...io });
    const { pid, userNamespace } = JSON.parse(readFileSync(info.dir + "/lab.json", "utf8"));
    const left = () => processesInUserNamespace(userNamespace).length > 0;
    process.kill(pid, "SIGKILL");
    console.log("left by kill -9:", left());
    console.log((await down("p", { home })).existed, "left by down:", left());`;
  // A mount that a user namespace inherits is locked in it, so the kernel lets it mount no /proc that would show more.
  const script = `mount -t tmpfs none /proc/fs && exec unshare -Urm "$@"`;
  const argv = ["sh", "-c", script, "sh", process.execPath, "--input-type=module", "-e", steps];
  const run = spawnSync("unshare", ["-Urm", ...argv], { encoding: "utf8" });
  t.equal(run.stderr, "");
  t.same(run.stdout.trimEnd().split("\n"), ["running", "left by kill -9: true", "true left by down: false"]);
});
