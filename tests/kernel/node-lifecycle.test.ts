// The life of pods on a real host namespace: probes, graceful ends, hooks, init containers, deadlines.

import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { PODS } from "../../common/client.js";
import { client, host, ip, main, restarts, shell, waitFor } from "../helpers/agent-host.js";
import { isReady } from "../unit/helpers/node-harness.js";

t.test("probes: liveness restarts, startup holds the others back, exec and tcp", async (t) => {
  await host.pod("sick", {
    image: "registry.k8s.io/e2e-test-images/agnhost:2.53",
    args: ["netexec", "--http-port=8080", "--udp-port=-1"],
    livenessProbe: { httpGet: { path: "/healthz", port: 8080 }, periodSeconds: 1, failureThreshold: 2 },
  });
  await host.event("sick", "Unhealthy", /^Liveness probe failed: HTTP probe failed with statuscode: 412$/);
  await host.event("sick", "Killing", /^Container main failed liveness probe, will be restarted$/);
  const restarted = await host.until("sick", (status) => restarts(status) >= 1);
  t.match(main(restarted.status)?.lastState?.terminated, { exitCode: 2 }, "a Go program's end by SIGTERM");

  await host.pod(
    "deaf",
    {
      ...shell("trap '' TERM; while :; do sleep 0.05; done"),
      livenessProbe: {
        exec: { command: ["false"] },
        periodSeconds: 1,
        failureThreshold: 1,
        terminationGracePeriodSeconds: 1,
      },
    },
    { terminationGracePeriodSeconds: 600 },
  );
  await host.until("deaf", (status) => restarts(status) > 0);
  await client.delete(PODS, "deaf", { namespace: "default", gracePeriodSeconds: 0 });

  await host.pod("refused", {
    ...shell("sleep 60"),
    readinessProbe: { tcpSocket: { port: 81 }, periodSeconds: 1 },
  });
  const refused = await host.running("refused");
  const failure = `Readiness probe failed: dial tcp ${ip(refused)}:81: connect: connection refused`;
  t.equal((await host.event("refused", "Unhealthy")).message, failure);
  t.match(main(refused.status), { ready: false, started: true });

  await host.pod(
    "slow",
    {
      ...shell("sleep 1; touch /state/ok; sleep 60"),
      startupProbe: {
        exec: { command: ["test", "-e", "/state/ok"] },
        periodSeconds: 1,
        failureThreshold: 30,
      },
      readinessProbe: { exec: { command: ["true"] }, periodSeconds: 60 },
      volumeMounts: [{ name: "state", mountPath: "/state" }],
    },
    { volumes: [{ name: "state", emptyDir: {} }] },
  );
  const early = await host.running("slow");
  t.match(main(early.status), { ready: false, started: false });
  t.match(main((await host.ready("slow")).status), { ready: true, started: true });
});

t.test("graceful termination", async (t) => {
  const shared = join(host.directory, "shared");
  mkdirSync(shared);
  const volumes = [{ name: "out", hostPath: { path: shared } }];
  const volumeMounts = [{ name: "out", mountPath: "/out" }];
  await host.pod(
    "polite",
    {
      ...shell("trap 'echo bye > /out/polite; exit 0' TERM; while :; do sleep 0.05; done"),
      lifecycle: { preStop: { exec: { command: ["sh", "-c", "echo hook > /out/hook"] } } },
      volumeMounts,
    },
    { volumes, terminationGracePeriodSeconds: 30 },
  );
  await host.pod("stubborn", shell("trap '' TERM; while :; do sleep 0.05; done"), {
    terminationGracePeriodSeconds: 1,
  });
  await host.pod(
    "leaving",
    {
      ...shell("trap 'touch /out/leaving' TERM; until [ -e /out/left ]; do sleep 0.05; done"),
      readinessProbe: {
        exec: { command: ["test", "!", "-e", "/out/leaving"] },
        periodSeconds: 1,
        failureThreshold: 1,
      },
      volumeMounts,
    },
    { volumes, terminationGracePeriodSeconds: 30 },
  );
  await host.ready("leaving");
  await client.delete(PODS, "leaving", { namespace: "default" });
  const leaving = await host.until("leaving", (status) => main(status)?.ready === false);
  t.match(main(leaving.status)?.state, { running: {} }, "asked until its end whether it is ready");
  writeFileSync(join(shared, "left"), "");
  await host.gone("leaving");

  const links = await host.netlink.listLinks();
  await Promise.all([host.running("polite"), host.running("stubborn")]);
  const addresses = (await host.netlink.listLinks()).length - links.length;
  await client.delete(PODS, "polite", { namespace: "default" });
  await host.gone("polite");
  t.equal(readFileSync(join(shared, "hook"), "utf8"), "hook\n");
  t.equal(readFileSync(join(shared, "polite"), "utf8"), "bye\n");
  await host.event("polite", "Killing", /^Stopping container main$/);

  const ended = host.until("stubborn", (status) => status.phase === "Failed");
  await client.delete(PODS, "stubborn", { namespace: "default" });
  t.match(main((await ended).status)?.state?.terminated, { exitCode: 137 });
  await host.gone("stubborn");
  t.equal(
    addresses >= 0 && (await host.netlink.listLinks()).length <= links.length,
    true,
    "their links are gone",
  );

  // The tutorial's server serves until the grace is over, nginx ends at once.
  await host.pod("quick", { image: "nginx" }, { terminationGracePeriodSeconds: 30 });
  await host.running("quick");
  await client.delete(PODS, "quick", { namespace: "default" });
  await host.gone("quick");
  await host.pod("web", { image: "gcr.io/google-samples/kubernetes-bootcamp:v1" });
  await host.ready("web");
  await client.delete(PODS, "web", { namespace: "default", gracePeriodSeconds: 1 });
  t.match(await host.curl(`${ip(await host.until("web", () => true))}:8080`), /Running on: web/);
  await host.gone("web");

  await host.pod("v2", { image: "example.com/mapped" });
  const forced = await host.running("v2");
  await client.delete(PODS, "v2", { namespace: "default", gracePeriodSeconds: 0 });
  await t.resolves(waitFor(async () => (await host.curl(`${ip(forced)}:8080`).catch(() => "")) === ""));
});

t.test("hooks", async (t) => {
  const out = join(host.directory, "hooks");
  mkdirSync(out);
  const spec = { volumes: [{ name: "out", hostPath: { path: out } }], terminationGracePeriodSeconds: 1 };
  const volumeMounts = [{ name: "out", mountPath: "/out" }];
  const exec = (script: string) => ({ exec: { command: ["sh", "-c", script] } });
  await host.pod(
    "started",
    {
      ...shell("sleep 60"),
      readinessProbe: exec("true"),
      lifecycle: { postStart: exec("until [ -e /out/go ]; do sleep 0.02; done") },
      volumeMounts,
    },
    spec,
  );
  t.match(main((await host.running("started")).status), { ready: false, started: false });
  writeFileSync(join(out, "go"), "");
  t.match(
    main((await host.ready("started")).status),
    { ready: true, started: true },
    "probed after the hook",
  );

  await host.pod("unstarted", {
    ...shell("sleep 60"),
    lifecycle: { postStart: exec("echo no; exit 3") },
  });
  await host.pod(
    "first",
    { ...shell("sleep 1"), lifecycle: { preStop: { sleep: { seconds: 600 } } as object } },
    { terminationGracePeriodSeconds: 600 },
  );
  await host.running("first");
  await client.delete(PODS, "first", { namespace: "default" });
  await host.event("unstarted", "FailedPostStartHook", /^PostStartHook failed$/);
  await host.until("unstarted", (status) => restarts(status) > 0);

  await host.pod(
    "stuck",
    {
      ...shell("trap 'echo bye > /out/late; exit 0' TERM; while :; do sleep 0.05; done"),
      // Kubernetes 1.29; newer than the published types.
      lifecycle: { preStop: { sleep: { seconds: 60 } } as object },
      volumeMounts,
    },
    spec,
  );
  await host.pod("unhooked", { image: "nginx", lifecycle: { preStop: exec("exit 4") } });
  await Promise.all([host.running("stuck"), host.running("unhooked")]);
  for (const name of ["stuck", "unhooked"]) await client.delete(PODS, name, { namespace: "default" });
  await host.event("unhooked", "FailedPreStopHook");
  await Promise.all([host.gone("stuck"), host.gone("unhooked")]);
  // Nobody waits for the hook of a container that has ended.
  await host.gone("first");
  t.equal(
    readFileSync(join(out, "late"), "utf8"),
    "bye\n",
    "a hook that takes all the time leaves some for it",
  );
});

t.test("init containers and sidecars", async (t) => {
  const out = join(host.directory, "order");
  mkdirSync(out);
  const volumes = [{ name: "out", hostPath: { path: out } }];
  const volumeMounts = [{ name: "out", mountPath: "/out" }];
  const order = () => readFileSync(join(out, "order"), "utf8").trim().split("\n");
  const sidecar = (name: string) => ({
    name,
    ...shell(
      `trap 'echo ${name} >> /out/order; exit 0' TERM; touch /out/${name}; while :; do sleep 0.02; done`,
    ),
    restartPolicy: "Always" as const,
    startupProbe: { exec: { command: ["test", "-e", `/out/${name}`] }, periodSeconds: 1 },
    volumeMounts,
  });
  const failsOnce = (mark: string) => `[ -e /out/${mark} ] || { touch /out/${mark}; exit 1; }`;
  await host.pod(
    "parts",
    { ...shell(`${failsOnce("run")}; [ -e /out/one ] && echo main >> /out/order`), volumeMounts },
    {
      restartPolicy: "OnFailure",
      volumes,
      initContainers: [
        sidecar("one"),
        sidecar("two"),
        {
          name: "first",
          ...shell(
            `until [ -e /out/go ]; do sleep 0.02; done; ${failsOnce("init")}; echo first >> /out/order`,
          ),
          volumeMounts,
        },
      ],
    },
  );
  const early = await host.until("parts", (status) => status.initContainerStatuses);
  const before = await host.until(
    "parts",
    (status) => status.initContainerStatuses?.[2]?.state?.running !== undefined,
  );
  t.match(main(before.status)?.state, { waiting: { reason: "PodInitializing" } });
  t.equal(before.status?.phase, "Pending");
  t.match(early.status?.initContainerStatuses?.[2]?.state, { waiting: { reason: "PodInitializing" } });
  writeFileSync(join(out, "go"), "");
  const done = await host.until("parts", (status) => status.phase === "Succeeded");
  t.same(order(), ["first", "main", "two", "one"], "each once, sidecars last, in the reverse order");
  t.equal(restarts(done.status ?? {}), 1);
  t.match(done.status?.initContainerStatuses, [
    { restartCount: 0 },
    { restartCount: 0 },
    { restartCount: 1 },
  ]);

  await host.pod("never", shell("true"), {
    restartPolicy: "Never",
    initContainers: [{ name: "first", ...shell("exit 1") }],
  });
  const failed = await host.until("never", (status) => status.phase === "Failed");
  t.match(main(failed.status)?.state, { waiting: { reason: "PodInitializing" } }, "it never ran");
});

t.test("deadlines, and statuses that others write", async (t) => {
  await host.pod("overdue", shell("sleep 60"), { activeDeadlineSeconds: 1 });
  const overdue = await host.until("overdue", (status) => status.phase === "Failed");
  t.match(overdue.status, { reason: "DeadlineExceeded", message: /longer than the specified deadline/ });
  t.equal(host.agent.podSandbox("default", "overdue")?.pid, undefined, "nothing runs");

  await host.pod("disputed", { image: "nginx" });
  const truth = await host.ready("disputed");
  const conditions = truth.status?.conditions?.map((one) => ({ ...one, status: "False" }));
  await client.patch(PODS, "disputed", "merge", { status: { conditions } }, { namespace: "default" });
  await host.until("disputed", (status) => !isReady(status));
  await host.ready("disputed");

  await host.pod("patient", shell("trap '' TERM; while :; do sleep 0.05; done"), {
    terminationGracePeriodSeconds: 600,
  });
  await host.running("patient");
  await client.delete(PODS, "patient", { namespace: "default" });
  await host.event("patient", "Killing");
  await client.delete(PODS, "patient", { namespace: "default", gracePeriodSeconds: 1 });
  await host.gone("patient");
  t.same(
    readdirSync(join(host.directory, "var/log/pods")).filter((name) => name.startsWith("default_patient_")),
    [],
    "its logs are gone",
  );
});
