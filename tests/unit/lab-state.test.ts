// What a lab keeps on this machine and what it needs of it: the state directory, its lock, the identity of processes,
// the command that makes namespaces, and what to do about what is missing.

import { spawn } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { removeTree } from "../../lab/files.js";
import { identify, isAlive, processesWithArgument, signal, waitGone } from "../../lab/identity.js";
import { namespaceCommand } from "../../lab/launch.js";
import { clusterInfo, down, listClusters, status, up } from "../../lab/lifecycle.js";
import { IPTABLES_FEATURES } from "../../lab/probe.js";
import { featureRemedy, namespaceRemedy } from "../../lab/remedies.js";
import { clusterNames, clusterPaths, readJson, stateHome, withLock, writeJson } from "../../lab/state.js";
import { tempDir } from "../helpers/temp-dir.js";

t.test("the state directory", async (t) => {
  t.equal(stateHome({ KUBEPLUMB_HOME: "/k", XDG_STATE_HOME: "/x" }), "/k");
  t.equal(stateHome({ XDG_STATE_HOME: "/x", HOME: "/h" }), "/x/kubeplumb");
  const home = tempDir(t);
  t.equal(stateHome({ HOME: home }), join(home, ".local/state/kubeplumb"));
  t.equal(stateHome({ HOME: "/nonexistent/home" }), join(tmpdir(), `kubeplumb-${process.getuid?.()}`));
  t.throws(() => clusterPaths("a/b", "/h"), { code: "INVALID_NAME", message: /cluster name "a\/b"/ });
  t.throws(() => clusterPaths("..", "/h"), { code: "INVALID_NAME" });
  const long = `/${"x".repeat(91)}`;
  t.equal(clusterPaths("a", long).controlSocket.length, 107);
  t.throws(() => clusterPaths("ab", long), {
    code: "PATH_TOO_LONG",
    message: /has 108 bytes, a unix socket path may have 107; set KUBEPLUMB_HOME/,
  });
  const dir = tempDir(t);
  for (const name of ["blue", ".hidden", "UPPER"]) mkdirSync(join(dir, name));
  writeFileSync(join(dir, "a-file"), "");
  t.same(clusterNames(dir), ["blue"]);
  t.same(clusterNames(join(dir, "none")), []);
  writeJson(join(dir, "x.json"), { a: 1 });
  t.same(readJson(join(dir, "x.json")), { a: 1 });
  writeFileSync(join(dir, "x.json"), '{"a":');
  t.equal(readJson(join(dir, "x.json")), undefined, "half a file is none");
});

t.test("directories above the state directory go with it when they were made for it", async (t) => {
  const top = tempDir(t);
  const paths = clusterPaths("one", join(top, "a", "b", "home"));
  await withLock(paths, async () => mkdirSync(paths.dir));
  t.ok(existsSync(paths.dir), "a cluster holds them");
  await withLock(paths, async () => removeTree(paths.dir));
  t.same(readdirSync(top), [], "another command removes all three");
  mkdirSync(join(top, "a"));
  await withLock(paths, async () => mkdirSync(paths.dir));
  await withLock(paths, async () => removeTree(paths.dir));
  t.same(readdirSync(top), ["a"], "what was there before stays");
  const nowhere = clusterPaths("one", "/proc/kubeplumb/home");
  await t.rejects(
    withLock(nowhere, async () => {}),
    { code: "ENOENT" },
    "below /proc no directory can be made, and that is said",
  );
});

t.test("one command at a time works on a cluster", async (t) => {
  const home = join(tempDir(t), "home");
  const paths = clusterPaths("one", home);
  const log: string[] = [];
  const work = (name: string) =>
    withLock(paths, async () => {
      log.push(`${name} begins`);
      await new Promise((resolve) => setTimeout(resolve, 15));
      log.push(`${name} ends`);
    });
  await Promise.all(["a", "b", "c"].map(work));
  for (let i = 0; i < log.length; i += 2) {
    t.equal(log[i + 1], log[i]?.replace("begins", "ends"), "never two at once");
  }
  t.notOk(existsSync(home), "neither the lock nor an empty directory remains");

  const holder = `import { withLock, clusterPaths } from ${JSON.stringify(new URL("../../lab/state.js", import.meta.url).href)};
    await withLock(clusterPaths("one", ${JSON.stringify(home)}), () => { console.log("held"); return new Promise((r) => setTimeout(r, 60000)); });`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", holder], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await new Promise((resolve) => child.stdout.once("data", resolve));
  await t.rejects(
    withLock(paths, async () => {}, 30),
    { code: "LOCK_TIMEOUT", message: new RegExp(`process ${child.pid}`) },
  );
  child.kill("SIGKILL");
  await new Promise((resolve) => child.once("exit", resolve));
  await withLock(paths, async () => t.pass("a dead holder holds nothing"), 1000);
  await t.rejects(
    withLock(paths, async () => {
      throw new Error("work failed");
    }),
    /work failed/,
  );
  t.notOk(existsSync(home));
});

t.test("a process is known by more than its number", async (t) => {
  const marker = `--marker=${Math.random()}`;
  const child = spawn("sh", ["-c", "echo ready; read x", "sh", marker], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  await new Promise((resolve) => child.stdout.once("data", resolve));
  const id = identify(child.pid ?? 0);
  t.ok(id && isAlive(id));
  t.same(
    processesWithArgument(marker).map(({ pid }) => pid),
    [child.pid],
  );
  if (!id) return;
  const stranger = { ...id, startTime: "1" };
  t.notOk(isAlive(stranger), "another process with that number");
  t.notOk(isAlive({ ...id, bootId: "other" }), "a number of before the reboot");
  t.notOk(signal(stranger, "SIGKILL"), "is not signalled");
  t.ok(isAlive(id));
  t.equal(await waitGone([id], 5), false);
  t.ok(signal(id, "SIGKILL"));
  t.equal(await waitGone([id], 5000), true, "a zombie is gone");
  t.equal(identify(2 ** 22 + 1), undefined);
});

t.test("down and status of what never was", async (t) => {
  const home = join(tempDir(t), "home");
  t.same(await down("none", { home }), { existed: false });
  const none = await status("none", home);
  t.equal(none.state, "absent");
  t.same(none.problems, []);
  t.same(await listClusters(home), []);
  t.equal(clusterInfo("none", home), undefined);
  t.notOk(existsSync(home));
  mkdirSync(join(home, "half"), { recursive: true });
  writeFileSync(join(home, "half", "lab.json"), JSON.stringify({ ...identify(process.pid), startTime: "1" }));
  t.equal((await status("half", home)).state, "stopped");
  t.same(
    await down("half", { home }),
    { existed: true },
    "and this process, of the same number, still lives",
  );
  t.notOk(existsSync(home));
  await t.rejects(down("UP", { home }), { code: "INVALID_NAME" });
  await t.rejects(up({ home, nodes: -1 }), /nodes: -1: a whole number/);
  await t.rejects(up({ home, name: "a.b" }), /name: "a\.b": allowed are/);
  t.notOk(existsSync(home), "bad input changes nothing");
});

t.test("trees with closed directories are removed", async (t) => {
  const dir = tempDir(t);
  mkdirSync(join(dir, "a", "b"), { recursive: true });
  writeFileSync(join(dir, "a", "b", "c"), "");
  symlinkSync("/etc", join(dir, "a", "link"));
  chmodSync(join(dir, "a", "b"), 0);
  removeTree(join(dir, "a"));
  t.notOk(existsSync(join(dir, "a")));
  t.ok(existsSync("/etc"));
});

t.test("what to do about what a machine lacks", async (t) => {
  const { iptables, ...features }: Record<string, string> = {
    vxlan: "sudo modprobe vxlan",
    "bridge-nf-call-iptables": "sudo modprobe br_netfilter",
    "iptables statistic": "sudo modprobe xt_statistic",
    "iptables-legacy tables": "sudo modprobe -a iptable_nat iptable_filter iptable_mangle",
    iptables: "sudo apt-get install -y iptables",
  };
  t.equal(featureRemedy("iptables", "not found", false), iptables);
  for (const [id, remedy] of Object.entries(features)) {
    t.equal(featureRemedy(id, "EOPNOTSUPP: addVxlan vx0", false), remedy);
    t.equal(featureRemedy(id, "EPERM: addVxlan vx0", false), "run kubeplumb with sudo");
    t.match(featureRemedy(id, "EPERM: addVxlan vx0", true), /--privileged/, "root in a container");
  }
  for (const [id] of IPTABLES_FEATURES) {
    t.match(
      featureRemedy(`iptables ${id}`, "No chain/target/match by that name", true),
      /modprobe (xt|ipt)_/,
    );
  }
  t.equal(featureRemedy("sysctl ip_forward", "ENOENT", false), "run kubeplumb with sudo");
  t.equal(namespaceRemedy(true), undefined, "this machine forbids root nothing");
});

t.test("the lab's namespaces", async (t) => {
  const line = namespaceCommand(["prog"], { pidNamespace: true, privileged: false }).join(" ");
  for (const flag of [
    "--user --map-root-user",
    "--net",
    "--mount",
    "--pid --fork",
    "--kill-child=SIGKILL",
    "--mount-proc",
    "--propagation private",
  ]) {
    t.ok(line.includes(flag), flag);
  }
  const root = namespaceCommand(["prog"], { pidNamespace: false, privileged: true }).join(" ");
  t.notMatch(root, /--user|--mount-proc|--pid/);
});
