// Limits of memory and CPU on a real host namespace, with control groups where this user may make some and without them
// elsewhere: the steps of "Assign Memory Resources" and "Assign CPU Resources".

import { accessSync, constants, existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { PODS } from "../../common/client.js";
import type { PodStatus } from "../../common/k8s.js";
import { mapsEverybody } from "../../node/process/user-ns.js";
import { client, host, main, restarts, shell, waitFor } from "../helpers/agent-host.js";

const stress = (bytes: string, limit: string) => ({
  image: "polinux/stress",
  command: ["stress"],
  args: ["--vm", "1", "--vm-bytes", bytes, "--vm-hang", "1"],
  resources: { limits: { memory: limit } },
});
const last = (status: PodStatus | undefined) => main(status)?.lastState?.terminated;

/** Our control groups, as written down; none where this user may make none. */
const record = join(host.directory, "var", "cgroups");
const bases = (): string[] =>
  existsSync(record)
    ? readFileSync(record, "utf8")
        .split("\n")
        .filter((at) => at && existsSync(at))
    : [];
const groups = (): string[] =>
  bases().flatMap((base) =>
    readdirSync(base, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => join(base, name)),
  );

/** Root of the machine may, where they are mounted to be written to; in version 2 if the topmost hands the controllers on. */
function mayMakeGroups(): boolean {
  if (!mapsEverybody()) return false;
  const top = "/sys/fs/cgroup";
  const handedOn = `${top}/cgroup.subtree_control`;
  if (!existsSync(handedOn)) return isWritable(`${top}/memory`) && isWritable(`${top}/cpu`);
  const controllers = readFileSync(handedOn, "utf8").trim().split(" ");
  return controllers.includes("memory") && controllers.includes("cpu") && isWritable(top);
}

function isWritable(directory: string): boolean {
  try {
    accessSync(directory, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

async function usage(pod: string): Promise<{ memory: number; cpuSeconds: number }> {
  const { body: text } = await host.get("/metrics/resource");
  const value = (name: string) =>
    Number(new RegExp(`^${name}\\{.*pod="${pod}"\\} (\\S+)`, "m").exec(text)?.[1] ?? Number.NaN);
  return {
    memory: value("pod_memory_working_set_bytes"),
    cpuSeconds: value("pod_cpu_usage_seconds_total"),
  };
}

t.test("memory within its limit is taken and measured", async (t) => {
  await host.pod("memory-demo", stress("150M", "200Mi"));
  await host.running("memory-demo");
  await waitFor(async () => (await usage("memory-demo")).memory > 150 * 2 ** 20);
  t.ok((await usage("memory-demo")).memory < 200 * 2 ** 20);
  t.equal(main((await host.running("memory-demo")).status)?.restartCount, 0);
  t.equal(
    (await host.exec("memory-demo", ["ps", "-o", "args=", "-p", "1"])).stdout.trim(),
    "stress --vm 1 --vm-bytes 150M --vm-hang 1",
  );
});

t.test("a container that holds more than its limit is ended and started again", async (t) => {
  await host.pod("memory-demo-2", stress("250M", "100Mi"));
  const pod = await host.until(
    "memory-demo-2",
    (status) => restarts(status) >= 2 && main(status)?.state?.waiting?.reason === "CrashLoopBackOff",
  );
  t.match(last(pod.status), { exitCode: 137, reason: "OOMKilled" });
  const told = await host.event("node-1", "OOMKilling");
  t.equal(told.involvedObject.kind, "Node");
  t.match(told.message, /^Memory cgroup out of memory: Killed process \d+ \(stress\)$/);
  t.ok(await host.event("memory-demo-2", "BackOff"));
});

t.test("who asks for too much by exec ends the container, emulated or not", async (t) => {
  // tail keeps all of it until its input ends.
  const hog = "(head -c 100M /dev/zero; sleep 60) | tail -c 200M > /dev/null";
  const resources = { limits: { memory: "60Mi" } };
  await host.pod("shell", { ...shell("sleep 1h"), resources });
  await host.pod("nginx", { image: "nginx", resources });
  for (const name of ["shell", "nginx"]) {
    await host.running(name);
    const ended = host.exec(name, ["sh", "-c", hog]);
    const pod = await host.until(name, (status) => restarts(status) === 1);
    t.match(last(pod.status), { exitCode: 137, reason: "OOMKilled" }, name);
    t.equal((await ended).exitCode, 137);
  }
});

t.test("control groups are made where this user may make them, and keep CPU time down", async (t) => {
  await host.pod("cpu-demo", {
    image: "vish/stress",
    args: ["-cpus", "2"],
    resources: { limits: { cpu: "500m", memory: "200Mi" } },
  });
  await host.running("cpu-demo");
  await waitFor(async () => /Spawning a thread to consume CPU\n.*Spawning/.test(await host.logs("cpu-demo")));
  if (!mayMakeGroups()) return;
  t.ok(groups().length > 0);
  const [began, before] = [performance.now(), (await usage("cpu-demo")).cpuSeconds];
  await waitFor(async () => (await usage("cpu-demo")).cpuSeconds > before + 1);
  const cpus = ((await usage("cpu-demo")).cpuSeconds - before) / ((performance.now() - began) / 1000);
  t.ok(cpus < 0.6, `${cpus} CPUs`);
});

t.test("groups go with their containers", async (t) => {
  for (const name of ["memory-demo", "memory-demo-2", "shell", "nginx", "cpu-demo"]) {
    await client.delete(PODS, name, { namespace: "default", gracePeriodSeconds: 0 });
    await host.gone(name);
  }
  await waitFor(async () => groups().length === 0);
  t.pass("none is left");
});
