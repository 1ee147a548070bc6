// A lab's life on the real kernel: up, up again, what is inside, what is outside, kill -9 of either process in every
// order, down; and that nothing remains. As the user who runs it and, when that is root, as an unprivileged one too.

import { spawn, spawnSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { RtNetlink } from "../../dataplane/kernel/rtnetlink.js";
import { createCluster, NODES, PODS } from "../../index.js";
import { isPrivileged, ownProcesses, runningProcess } from "../../lab/launch.js";
import { clusterInfo, down, listClusters, publish, status, up } from "../../lab/lifecycle.js";
import { clusterPaths, readJson } from "../../lab/state.js";
import type { UpResult } from "../../lab/types.js";
import { freePort } from "../helpers/free-port.js";
import { machineSnapshot } from "../helpers/machine-snapshot.js";

const MARKER = `KUBEPLUMB_TEST=${randomUUID()}`;
process.env[MARKER.split("=")[0] as string] = MARKER.split("=")[1];

/** Where a state directory may lie: short enough for sockets, gone at the end. */
const base = mkdtempSync(join(tmpdir(), "kpl-"));
chmodSync(base, 0o755);
t.teardown(() => rmSync(base, { recursive: true, force: true }));

// A new network namespace, as the runner makes one for this file, has its loopback down.
{
  const netlink = RtNetlink.open(NetNs.current());
  await netlink.setLink("lo", { up: true });
  netlink.close();
}

const UNPRIVILEGED_ID = 65_534;

/** A new place for clusters; what a failed test leaves there is ended. */
function freshHome(t: { teardown(fn: () => Promise<void>): void }, name: string): string {
  const home = join(base, name);
  mkdirSync(home);
  t.teardown(async () => {
    for (const cluster of await listClusters(home)) await down(cluster, { home });
  });
  return home;
}

const snapshot = () =>
  machineSnapshot({ marker: MARKER, directories: [base, "/run/netns", "/tmp/kubeplumb-cni"] });

/** Command in a host, stdout. */
async function inHost(info: UpResult, host: string, ...argv: string[]): Promise<string> {
  const { remoteCommand } = await import("../../client/remote-command.js");
  const { PassThrough } = await import("node:stream");
  const [stdout, stderr] = [new PassThrough(), new PassThrough()];
  const path = `/hosts/${host}/exec`;
  let text = "";
  stdout.on("data", (chunk) => {
    text += chunk;
  });
  stderr.on("data", (chunk) => {
    text += chunk;
  });
  const code = await remoteCommand({ socketPath: info.labSocket, path, command: argv, stdout, stderr });
  if (code !== 0) throw new Error(`${argv.join(" ")}: ${text}`);
  return text;
}

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

t.test("kill -9 in every order, then up or down", async (t) => {
  const home = freshHome(t, "c");
  const before = snapshot();
  const paths = clusterPaths("k", home);
  const { server } = await up({ name: "k", home, nodes: 2, ephemeral: true });
  const kill = async (role: "control" | "lab") => {
    const pid = runningProcess(paths, role)?.pid ?? 0;
    process.kill(pid, "SIGKILL");
    await waitUntil(() => runningProcess(paths, role) === undefined);
  };

  await kill("control");
  let now = await status("k", home);
  t.equal(now.state, "degraded");
  t.match(now.problems, [/the control process does not run; "kubeplumb up --name k" starts it again/]);
  await t.rejects(publish("k", { hostPort: 1, nodePort: 30000 }, home), { code: "NOT_RUNNING" });
  const repaired = await up({ name: "k", home, ephemeral: true });
  t.same([repaired.outcome, repaired.started], ["repaired", ["control"]]);
  t.equal(repaired.server, server, "the same address");

  await kill("lab");
  t.same(await waitGoneFor(() => ownProcesses(paths, "lab")), [], "nothing of the lab outlives its process");
  now = await status("k", home);
  t.equal(now.state, "degraded");
  t.same((await up({ name: "k", home, ephemeral: true })).started, ["lab"]);
  now = await status("k", home);
  t.equal(now.state, "running", now.problems.join());
  t.same(
    now.nodes.map(({ name, ip }) => `${name} ${ip}`),
    ["node-1 192.168.56.11", "node-2 192.168.56.12"],
  );

  await kill("control");
  await kill("lab");
  t.equal((await status("k", home)).state, "stopped");
  t.same((await up({ name: "k", home, ephemeral: true })).started, ["control", "lab"]);
  t.equal((await status("k", home)).state, "running");

  await kill("lab");
  t.same(await down("k", { home }), { existed: true });
  t.same(snapshot(), { ...before, files: before.files.filter((f) => f !== `${home}/`) }, "nothing remains");
});

/** Polls a synchronous condition. */
async function waitUntil(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
}

async function waitGoneFor<T>(list: () => T[]): Promise<T[]> {
  for (let i = 0; i < 12_000 && list().length > 0; i++)
    await new Promise((resolve) => setTimeout(resolve, 5));
  return list();
}

t.test("up says so when control is there but silent", async (t) => {
  const home = freshHome(t, "q");
  await up({ name: "q", home, nodes: 1, ephemeral: true });
  const pid = runningProcess(clusterPaths("q", home), "control")?.pid ?? 0;
  process.kill(pid, "SIGSTOP");
  await t.rejects(up({ name: "q", home, nodes: 1 }), {
    code: "NOT_RUNNING",
    message: new RegExp(`^the control process of cluster q \\(${pid}\\) is there but does not answer`),
  });
  process.kill(pid, "SIGCONT");
  t.equal((await up({ name: "q", home, nodes: 1 })).outcome, "running", "it was left alone");
  await down("q", { home });
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

t.test("stale, lost and foreign records", async (t) => {
  const home = freshHome(t, "d");
  const paths = clusterPaths("s", home);
  await up({ name: "s", home, nodes: 1 });
  const record = readJson<{ pid: number }>(paths.labRecord);
  // A record that names a living stranger, and one that is lost: both processes still run.
  const stranger = spawn("sleep", ["600"], { stdio: "ignore" });
  t.teardown(() => stranger.kill("SIGKILL"));
  writeFileSync(paths.labRecord, JSON.stringify({ ...record, pid: stranger.pid }));
  rmSync(paths.controlRecord);
  t.same(await down("s", { home }), { existed: true });
  t.same(ownProcesses(paths, "lab"), []);
  t.same(ownProcesses(paths, "control"), []);
  t.equal(stranger.exitCode ?? stranger.signalCode, null, "the stranger lives");

  mkdirSync(paths.dir, { recursive: true });
  for (const file of [paths.controlSocket, paths.labSocket, paths.config]) writeFileSync(file, "garbage");
  t.equal((await status("s", home)).state, "stopped");
  const fresh = await up({ name: "s", home, nodes: 1 });
  t.equal(fresh.outcome, "created", "garbage is not a cluster");
  await down("s", { home });
});

t.test("a start that fails leaves nothing and says why", async (t) => {
  const home = freshHome(t, "e");
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.teardown(() => server.close());
  const { port } = server.address() as { port: number };
  const before = snapshot();
  const steps: string[] = [];
  const onStep = (e: { id: string; state: string }) => steps.push(`${e.id} ${e.state}`);
  await t.rejects(up({ name: "f", home, nodes: 1, publish: [{ hostPort: port, nodePort: 30080 }], onStep }), {
    message: new RegExp(`127\\.0\\.0\\.1:${port} is in use`),
  });
  t.ok(steps.includes("control failed"));
  t.same(snapshot(), { ...before, files: before.files.filter((f) => f !== `${home}/`) });
  await t.rejects(up({ name: "f", home, nodes: 1, apiPort: port }), {
    code: "START_FAILED",
    message: /the control process .*(EADDRINUSE|in use)(.|\n)*control\.log/,
  });
  t.same(snapshot().processes, before.processes);

  // `up` itself killed half-way: what it had begun ends by itself.
  const script = `const { up } = await import(${JSON.stringify(new URL("../../lab/lifecycle.js", import.meta.url).href)});
    await up({ name: "f", home: ${JSON.stringify(home)}, nodes: 1, onStep: (e) => { if (e.state === "start") console.log(e.id); } });`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await new Promise((resolve) => child.stdout.once("data", resolve));
  await new Promise((resolve) => setTimeout(resolve, 100));
  child.kill("SIGKILL");
  const paths = clusterPaths("f", home);
  t.same(await waitGoneFor(() => [...ownProcesses(paths, "lab"), ...ownProcesses(paths, "control")]), []);
  await down("f", { home });
  t.notOk(existsSync(home));
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

t.test("a cluster of a test ends with the test, even when that is killed", async (t) => {
  const home = join(base, "eph");
  {
    await using cluster = await createCluster({ nodes: 1, home });
    const { items } = await cluster.client.list(NODES);
    t.same(
      items.map((node) => node.metadata.name),
      ["node-1"],
    );
    const { stdout, exitCode } = await cluster.exec("node-1", ["sh", "-c", "cat; exit 3"], { input: "in" });
    t.same([stdout, exitCode], ["in", 3]);
    t.match(await cluster.rules("node-1", "nat"), /^\*nat/m);
    t.ok((await cluster.parsedRules("node-1")).size > 0);
    await t.rejects(cluster.waitFor(NODES, "node-9", "Ready", { timeoutMs: 50 }), {
      code: "WAIT_TIMEOUT",
      message: /nodes\/node-9: not Ready after 50 ms; there is none/,
    });
    await cluster.waitForSync();
  }
  t.notOk(existsSync(home));

  const script = `const { createCluster } = await import(${JSON.stringify(new URL("../../index.js", import.meta.url).href)});
    const cluster = await createCluster({ nodes: 1, name: "e", home: ${JSON.stringify(home)} });
    console.log("up"); setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await new Promise((resolve) => child.stdout.once("data", resolve));
  const paths = clusterPaths("e", home);
  t.ok(runningProcess(paths, "lab"));
  child.kill("SIGKILL");
  t.same(await waitGoneFor(() => [...ownProcesses(paths, "lab"), ...ownProcesses(paths, "control")]), []);
  t.notOk(existsSync(home), "its files are gone too");
});

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
