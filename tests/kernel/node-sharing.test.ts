// Who sees whose processes in a pod, on a real host namespace: one's own, a whole pod's (the steps of "Share Process
// Namespace between Containers in a Pod"), the host's; and the kernel settings of a pod.

import { spawnSync } from "node:child_process";
import t from "tap";
import { PODS } from "../../common/client.js";
import { client, host, main, restarts, shell, waitFor } from "../helpers/agent-host.js";

const run = async (pod: string, script: string): Promise<string> =>
  (await host.exec(pod, ["sh", "-c", script])).stdout.trimEnd();
/** Process id and command line of each. */
const processes = async (pod: string): Promise<[pid: number, args: string][]> =>
  (await run(pod, "ps ax -o pid=,args="))
    .split("\n")
    .map((line) => /^ *(\d+) (.*)$/.exec(line))
    .map((found): [number, string] => [Number(found?.[1]), found?.[2]?.trim() ?? ""]);
const pidOf = async (pod: string, args: string): Promise<number | undefined> =>
  (await processes(pod)).find((one) => one[1] === args)?.[0];

const MASTER = "nginx: master process nginx -g daemon off;";
const WORKER = "nginx: worker process";

t.test("a container's processes are its own, the first one is its command", async (t) => {
  await host.pod("plain", { command: ["sleep", "3600"] });
  await host.running("plain");
  t.same((await processes("plain")).slice(0, 1), [[1, "sleep 3600"]]);
  t.equal((await processes("plain")).length, 2, "and that of the exec");
  t.equal(
    (await host.exec("plain", ["sh", "-c", "kill 0"])).exitCode,
    143,
    "which is a process group of its own",
  );
});

t.test("an emulated program is there for those who look", async (t) => {
  await host.pod("web", { image: "nginx", env: [{ name: "COLOUR", value: "blue" }] });
  await host.running("web");
  t.same((await processes("web"))[0], [1, MASTER]);
  await waitFor(async () => (await pidOf("web", WORKER)) !== undefined);
  t.match(
    await run("web", "cat /proc/1/comm; tr '\\0' '\\n' < /proc/1/environ"),
    /^nginx\n(.*\n)*COLOUR=blue$/m,
  );
  t.equal(await run("web", "grep CapEff /proc/1/status"), "CapEff:\t00000000a80425fb");
  await run("web", "(sleep 0.1; true) & exit 0");
  await waitFor(async () => !(await processes("web")).some((one) => /sleep|defunct/.test(one[1])));
});

t.test("a signal to it is a signal to the program", async (t) => {
  const waiting = host.exec("web", ["sleep", "3600"]);
  await waitFor(async () => (await pidOf("web", "sleep 3600")) !== undefined);
  await run("web", "kill 1");
  t.equal((await waiting).exitCode, 137, "and its end that of all others");
  const { status } = await host.until("web", (one) => restarts(one) === 1);
  t.match(main(status)?.lastState?.terminated, { exitCode: 0, reason: "Completed" });
  t.equal(await pidOf("web", MASTER), 1, "the next one has its own");
  await host.pod("deaf", { image: "gcr.io/google-samples/kubernetes-bootcamp:v1" });
  await host.running("deaf");
  await run("deaf", "kill 1; kill -9 1");
  t.same((await processes("deaf"))[0], [1, "/bin/sh -c node server.js"], "which has no handler");
});

t.test("containers that share their processes", async (t) => {
  await host.pod("shared", shell("sleep 3600"), {
    shareProcessNamespace: true,
    containers: [
      { name: "main", ...shell("sleep 3600"), securityContext: { capabilities: { add: ["SYS_PTRACE"] } } },
      { name: "nginx", image: "nginx" },
      { name: "leaver", ...shell("sleep 7200 & touch /tmp/x; exec sleep 5400") },
    ],
  });
  await host.running("shared");
  await waitFor(async () => (await pidOf("shared", "sleep 7200")) !== undefined);
  const all = await processes("shared");
  t.same(all[0], [1, "/pause"]);
  const [master, worker] = [MASTER, WORKER].map((name) => all.find((one) => one[1] === name)?.[0] ?? 0);
  t.match(await run("shared", `head -2 /proc/${master}/root/usr/share/nginx/html/index.html`), /<html>/);
  await run("shared", `kill -HUP ${master}`);
  await waitFor(async () => ![undefined, worker].includes(await pidOf("shared", WORKER)));
  t.equal(await pidOf("shared", MASTER), master);
  await run("shared", `kill ${await pidOf("shared", "sleep 5400")}`);
  const count = (name: string, pod: Awaited<ReturnType<typeof host.running>>) =>
    pod.status?.containerStatuses?.find((one) => one.name === name)?.restartCount;
  const restarted = await host.until("shared", (_, pod) => count("leaver", pod) === 1);
  await waitFor(
    async () => (await processes("shared")).filter((one) => one[1] === "sleep 7200").length === 1,
  );
  t.equal(count("main", restarted), 0);
  await run("shared", `kill -9 ${master}`);
  await host.until("shared", (_, pod) => count("nginx", pod) === 1);
  await client.delete(PODS, "shared", { namespace: "default" });
  await host.gone("shared");
});

t.test("a container added later sees those of its target, emulated or not", async (t) => {
  const container = { name: "look", image: "busybox", command: ["ps", "ax", "-o", "pid=,args="] };
  for (const [pod, first] of [
    ["web", MASTER],
    ["plain", "sleep 3600"],
  ] as const) {
    const ephemeralContainers = [{ ...container, targetContainerName: "main" }];
    await client.patch(PODS, pod, "merge", { spec: { ephemeralContainers } }, { namespace: "default" });
    await host.until(pod, (status) => status.ephemeralContainerStatuses?.[0]?.state?.terminated);
    t.match(await host.logs(pod, "", "look"), new RegExp(`^ *1 ${first}$`, "m"));
  }
});

/** As a lab may, whose PID namespace is its own; a user namespace in the machine's may not. */
const mayMountProc = spawnSync("unshare", ["--mount", "mount", "-t", "proc", "proc", "/proc"]).status === 0;
const skip = mayMountProc ? false : "these tests are in a PID namespace whose /proc they may not mount";
t.test("the processes of the host", { skip }, async (t) => {
  await host.pod("seer", shell("sleep 3600"), { hostPID: true });
  await host.running("seer");
  const all = await processes("seer");
  t.ok(all.some(([pid, args]) => pid === process.pid && args.includes("node-sharing")));
  t.match(all.at(0)?.[0], 1);
  await client.delete(PODS, "seer", { namespace: "default" });
  await host.gone("seer");
});

t.test("kernel settings of a pod's network, and those that nobody may set", async (t) => {
  const sysctls = [
    { name: "net.ipv4.ip_local_port_range", value: "40000\t40100" },
    { name: "net/ipv4/tcp_syncookies", value: "0" },
  ];
  await host.pod("tuned", shell("sleep 3600"), { securityContext: { sysctls } });
  await host.running("tuned");
  t.equal(
    await run("tuned", "cd /proc/sys/net/ipv4; cat ip_local_port_range tcp_syncookies"),
    "40000\t40100\n0",
  );
  const unsafe = [{ name: "kernel.msgmax", value: "65536" }];
  await host.pod("unsafe", shell("sleep 3600"), { securityContext: { sysctls: unsafe } });
  const why = 'forbidden sysctl: "kernel.msgmax" not allowlisted';
  const { status } = await host.until("unsafe", ({ phase }) => phase === "Failed");
  t.match(status, { reason: "SysctlForbidden", message: `Pod was rejected: ${why}` });
  t.match(await host.event("unsafe", "SysctlForbidden"), { type: "Warning", message: why });
  await host.pod("both", shell("sleep 3600"), { hostNetwork: true, securityContext: { sysctls } });
  const both = await host.until("both", ({ phase }) => phase === "Failed");
  t.match(both.status?.message, /"net\.ipv4\.ip_local_port_range" not allowed with host net enabled$/);
});
