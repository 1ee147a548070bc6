// Labs that fail, on the real kernel: kill -9 of either process in every order, a silent one, records that lie, a
// start that fails, a test that is killed; and that nothing remains.

import { spawn } from "node:child_process";
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import t from "tap";
import { createCluster, NODES } from "../../index.js";
import { ownProcesses, runningProcess } from "../../lab/launch.js";
import { down, publish, status, up } from "../../lab/lifecycle.js";
import { clusterPaths, readJson } from "../../lab/state.js";
import { base, freshHome, snapshot, waitGoneFor } from "../helpers/lab-homes.js";

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
