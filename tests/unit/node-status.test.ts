// How pods fare, as the node agent sees it, pure: restart back-off, phase, status, probes.

import { createServer, type IncomingHttpHeaders } from "node:http";
import t from "tap";
import type { PodStatus } from "../../common/k8s.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { Backoff, goDuration } from "../../node/pods/backoff.js";
import { attempt, resolvePort } from "../../node/pods/probe-actions.js";
import { ProbeState, probeTiming } from "../../node/pods/probe-state.js";
import {
  type ContainerFacts,
  type PodFacts,
  podPhase,
  podStatus,
  sameInEssence,
} from "../../node/pods/status.js";
import { pod } from "./helpers/node-objects.js";

t.test(
  "restart back-off: first retry at once, then 10 s doubling to 5 min, forgotten after 10 min",
  async (t) => {
    const backoff = new Backoff();
    let now = 0;
    const waits: number[] = [];
    for (let crash = 0; crash < 8; crash++) {
      waits.push(backoff.remaining(now, now) / 1000);
      now += backoff.remaining(now, now);
      backoff.next(now, now);
    }
    t.same(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    t.equal(backoff.remaining(now, now + 1000), 299_000, "counts from the failure");
    t.equal(backoff.remaining(now + 700_000, now + 700_000), 0, "a long good run forgives");
    backoff.next(now + 700_000, now + 700_000);
    t.equal(backoff.delayMs, 10_000);
    backoff.reset();
    t.equal(backoff.remaining(now + 700_000, now + 700_000), 0, "another image starts anew");
    t.same([10_000, 160_000, 300_000, 3_600_000, 500].map(goDuration), [
      "10s",
      "2m40s",
      "5m0s",
      "1h0m0s",
      "500ms",
    ]);
  },
);

const facts = (
  name: string,
  state: ContainerFacts["state"],
  more: Partial<ContainerFacts> = {},
): ContainerFacts => ({
  name,
  image: "i",
  imageID: "i@sha256:0",
  containerID: "kubeplumb://1",
  restartCount: 0,
  state,
  ready: "running" in state,
  started: "running" in state,
  ...more,
});
const running = { running: { startedAt: "2026-11-21T00:00:01Z" } };
const ended = (exitCode: number) => ({ terminated: { exitCode, reason: exitCode ? "Error" : "Completed" } });
const waiting = (reason: string) => ({ waiting: { reason } });
const podFacts = (containers: ContainerFacts[], init: ContainerFacts[] = []): PodFacts => ({
  containers,
  init,
  ephemeral: [],
  sandboxReady: true,
  hostIPs: ["192.168.56.11"],
  podIPs: ["10.244.1.5"],
  startTime: "2026-11-21T00:00:00Z",
});

t.test("phase of a pod", async (t) => {
  type Policy = "Always" | "OnFailure" | "Never";
  const phase = (
    restartPolicy: Policy,
    containers: ContainerFacts[],
    init: ContainerFacts[] = [],
    initSpec = {},
  ) =>
    podPhase(
      {
        spec: {
          containers: [],
          restartPolicy,
          initContainers: init.map(({ name }) => ({ name, ...initSpec })),
        },
      },
      podFacts(containers, init),
    );
  t.equal(phase("Always", [facts("a", waiting("ContainerCreating"))]), "Pending");
  t.equal(phase("Always", [facts("a", running), facts("b", waiting("ErrImagePull"))]), "Pending");
  t.equal(phase("Always", [facts("a", running)]), "Running");
  t.equal(phase("Always", [facts("a", ended(0))]), "Running", "it will be restarted");
  const crashed = facts("a", waiting("CrashLoopBackOff"), { last: ended(1).terminated });
  t.equal(phase("Always", [crashed]), "Running");
  t.equal(phase("OnFailure", [facts("a", ended(0)), facts("b", ended(0))]), "Succeeded");
  t.equal(phase("OnFailure", [facts("a", ended(1))]), "Running");
  t.equal(phase("Never", [facts("a", ended(0)), facts("b", ended(2))]), "Failed");
  t.equal(phase("Never", [facts("a", running), facts("b", ended(2))]), "Running");
  t.equal(phase("Never", [facts("a", ended(0), { replaced: true })]), "Running", "its image was changed");
  const deleted = (exitCode: number) => ({ ...podFacts([facts("a", ended(exitCode))]), ended: true });
  t.equal(podPhase({}, deleted(0)), "Succeeded", "nothing is restarted in a pod that is deleted");
  t.equal(podPhase({}, deleted(137)), "Failed");
  const replaced = { ...podFacts([facts("a", ended(0), { replaced: true })]), ended: true };
  t.equal(podPhase({}, replaced), "Succeeded", "nor one whose image was changed");
  const evicted = { ...podFacts([facts("a", running)]), failed: { reason: "Evicted", message: "low" } };
  t.equal(podPhase({}, evicted), "Failed");
  const pending = [facts("a", waiting("PodInitializing"))];
  t.equal(phase("Always", pending, [facts("i", running)]), "Pending");
  t.equal(phase("Never", pending, [facts("i", ended(1))]), "Failed");
  t.equal(phase("Always", pending, [facts("i", ended(1))]), "Pending");
  t.equal(phase("Always", [facts("a", running)], [facts("i", ended(0))]), "Running");
  const sidecar = { restartPolicy: "Always" };
  t.equal(phase("Always", [facts("a", running)], [facts("s", running)], sidecar), "Running");
  t.equal(phase("Always", pending, [facts("s", running, { started: false })], sidecar), "Pending");
  t.equal(phase("Never", pending, [facts("s", ended(1))], sidecar), "Pending", "it will be restarted");
  t.equal(phase("Never", [facts("a", ended(0))], [facts("s", running)], sidecar), "Running", "not over yet");
  t.equal(phase("Never", [facts("a", ended(0))], [facts("s", ended(137))], sidecar), "Succeeded");
  t.equal(
    phase("OnFailure", [crashed], [facts("i", waiting("PodInitializing"))]),
    "Running",
    "in a new sandbox",
  );
});

t.test("status of a pod", async (t) => {
  const spec = { containers: [{ name: "a" }, { name: "b" }] };
  const gate = { type: "example.com/gate", status: "True", lastTransitionTime: "2026-01-01T00:00:00Z" };
  const subject = pod(spec, {}, { conditions: [gate] });
  const now = "2026-11-21T00:00:05Z";
  const unready = podStatus(
    subject,
    podFacts([facts("a", running), facts("b", running, { ready: false })]),
    undefined,
    now,
  );
  const of = (status: PodStatus, type: string) => status.conditions?.find((one) => one.type === type);
  t.match(of(unready, "Ready"), {
    status: "False",
    reason: "ContainersNotReady",
    message: "containers with unready status: [b]",
  });
  t.match(of(unready, "PodReadyToStartContainers"), { status: "True" });
  t.same(of(unready, "example.com/gate"), gate, "conditions of others are passed on");
  t.match(unready, {
    phase: "Running",
    podIP: "10.244.1.5",
    podIPs: [{ ip: "10.244.1.5" }],
    hostIP: "192.168.56.11",
  });

  const dual = {
    ...podFacts([facts("a", running)]),
    hostIPs: ["192.168.56.11", "fd00:56::11"],
    podIPs: ["10.244.1.5", "fd00:10:244:1::5"],
  };
  t.match(podStatus(subject, dual, undefined, now), {
    podIP: "10.244.1.5",
    podIPs: [{ ip: "10.244.1.5" }, { ip: "fd00:10:244:1::5" }],
    hostIP: "192.168.56.11",
    hostIPs: [{ ip: "192.168.56.11" }, { ip: "fd00:56::11" }],
  });

  const later = "2026-11-21T00:00:09Z";
  const ready = podStatus(subject, podFacts([facts("a", running), facts("b", running)]), unready, later);
  t.match(of(ready, "Ready"), { status: "True", lastTransitionTime: later, reason: undefined });
  t.equal(of(ready, "Initialized")?.lastTransitionTime, now, "what did not change keeps its time");
  t.notOk(sameInEssence(unready, ready));
  t.ok(sameInEssence(structuredClone(ready), ready));
  const { podIP: _address, ...without } = ready;
  t.ok(
    sameInEssence(ready, without),
    "an address that we do not report cannot be taken back by a merge patch",
  );
  t.notOk(sameInEssence(without, ready));
  t.ok(
    sameInEssence({ ...ready, startTime: "2020-01-01T00:00:00Z" }, ready),
    "the rest is nobody's business",
  );

  const gated = pod(
    { ...spec, readinessGates: [{ conditionType: "other/gate" }] },
    {},
    { conditions: [gate] },
  );
  t.match(of(podStatus(gated, podFacts([facts("a", running)]), undefined, now), "Ready"), {
    status: "False",
    reason: "ReadinessGatesNotReady",
    message: 'corresponding condition of pod readiness gate "other/gate" does not exist.',
  });
  const shut = { type: "other/gate", status: "False" as const };
  const refused = pod(gated.spec, {}, { conditions: [shut] });
  t.equal(
    of(podStatus(refused, podFacts([facts("a", running)]), undefined, now), "Ready")?.message,
    'the status of pod readiness gate "other/gate" is not "True", but False',
  );
  const opened = pod(gated.spec, {}, { conditions: [{ ...shut, status: "True" }] });
  t.match(of(podStatus(opened, podFacts([facts("a", running)]), undefined, now), "Ready"), {
    status: "True",
  });
  const done = podStatus(pod({ restartPolicy: "Never" }), podFacts([facts("a", ended(0))]), undefined, now);
  t.match(of(done, "Ready"), { status: "False", reason: "PodCompleted" });
  t.match(of(done, "Initialized"), { status: "True" });
  t.equal(podStatus(subject, podFacts([facts("a", running)]), done, now).phase, "Succeeded", "for good");
  const observed = podStatus(pod(spec, { generation: 3 }), podFacts([facts("a", running)]), undefined, now);
  t.match(observed, { observedGeneration: 3 });
  t.ok(observed.conditions?.every((one) => "observedGeneration" in one && one.observedGeneration === 3));
  t.notOk("observedGeneration" in unready, "of an API that has none");
  const overdue = { reason: "DeadlineExceeded", message: "too long" };
  const failed = podStatus(subject, { ...podFacts([facts("a", ended(0))]), failed: overdue }, undefined, now);
  t.match(failed, { phase: "Failed", ...overdue });
  t.match(of(failed, "Ready"), { status: "False", reason: "PodFailed" });
  const beside = pod({ ...spec, initContainers: [{ name: "s", restartPolicy: "Always" }, { name: "i" }] });
  const verdicts = (init: ContainerFacts[], container: ContainerFacts["state"]) => {
    const status = podStatus(beside, podFacts([facts("a", container)], init), undefined, now);
    return ["Initialized", "Ready"].map((type) => of(status, type)?.message ?? of(status, type)?.status);
  };
  t.same(verdicts([facts("s", running), facts("i", running)], waiting("PodInitializing")), [
    "containers with incomplete status: [i]",
    "containers with unready status: [a]",
  ]);
  const restarting = [facts("s", waiting("CrashLoopBackOff")), facts("i", ended(0))];
  t.same(
    verdicts(restarting, running),
    ["True", "containers with unready status: [s]"],
    "a sidecar counts for readiness; what was initialized once stays so",
  );
  t.notOk(
    sameInEssence({ ...ready, containerStatuses: [] }, ready),
    "containers are the kubelet's to tell of",
  );
  for (const change of [{ ready: false }, { restartCount: 7 }, { state: waiting("CrashLoopBackOff") }]) {
    const containerStatuses = ready.containerStatuses?.map((one) => ({ ...one, ...change }));
    t.notOk(sameInEssence({ ...ready, containerStatuses }, ready), JSON.stringify(change));
  }
  t.match(done.containerStatuses, [{ ready: false, started: false, state: { terminated: { exitCode: 0 } } }]);
});

t.test("probe thresholds", async (t) => {
  const timing = probeTiming({ failureThreshold: 2, successThreshold: 2, periodSeconds: 3 });
  t.match(timing, { periodMs: 3000, timeoutMs: 1000, initialDelayMs: 0 });
  t.match(probeTiming({}), { periodMs: 10_000, failureThreshold: 3, successThreshold: 1 });
  const readiness = new ProbeState("readiness", timing);
  t.notOk(readiness.passed, "not ready before the first result");
  const results = [true, true, false, true, false, false].map((one) => {
    const { changed, restart } = readiness.record(one);
    t.notOk(restart, "readiness restarts nothing");
    return [changed, readiness.passed];
  });
  t.same(results, [
    [false, false],
    [true, true],
    [false, true],
    [false, true],
    [false, true],
    [true, false],
  ]);
  const liveness = new ProbeState("liveness", timing);
  t.ok(liveness.passed, "alive until proved dead");
  t.same(
    [false, true, false, false].map((one) => liveness.record(one).restart),
    [false, false, false, true],
  );
  const startup = new ProbeState("startup", probeTiming({ failureThreshold: 1 }));
  t.ok(startup.record(false).restart);
  const ports = { name: "c", ports: [{ name: "http", containerPort: 8080 }] };
  t.equal(resolvePort("http", ports), 8080);
  t.equal(resolvePort("81", ports), 81);
  t.throws(() => resolvePort("nope", ports), { message: `couldn't find port: "nope" in container "c"` });
  t.throws(() => resolvePort(0, ports), { message: "invalid port number: 0" });
});

t.test("attempts of probes", async (t) => {
  const seen: IncomingHttpHeaders[] = [];
  let closed = () => {};
  const endOfEndless = new Promise<void>((resolve) => {
    closed = resolve;
  });
  const server = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url ?? "/", "http://x");
    seen.push(request.headers);
    if (pathname === "/slow") return;
    if (pathname === "/endless") {
      request.socket.once("close", () => closed());
      const more = () => response.destroyed || response.write("x".repeat(65_536), () => setImmediate(more));
      more();
      return;
    }
    if (pathname === "/cut") request.socket.resetAndDestroy();
    const left = Number(searchParams.get("left") ?? 0);
    const location = left > 0 ? `/hop?left=${left - 1}` : searchParams.get("to");
    if (location) response.writeHead(302, { Location: location }).end();
    else response.writeHead(Number(searchParams.get("code") ?? 200)).end("x".repeat(20_000));
  });
  const { port } = await NetNs.current().listen(server, { host: "127.0.0.1", port: 0 });
  t.teardown(() => {
    server.close();
    server.closeAllConnections();
  });
  const exec = async (argv: string[]) => ({
    exitCode: argv.length,
    output: "said",
    timedOut: argv[0] === "slow",
  });
  const container = { name: "c", ports: [{ name: "web", containerPort: port }] };
  const target = { hostNs: NetNs.current(), podIP: "127.0.0.1", container, exec };
  const get = (path: string, more: object = {}) =>
    attempt({ httpGet: { path, port: "web", ...more } }, target, 1000);
  const passed = { success: true, message: "" };
  const failed = (message: string | RegExp) => ({ success: false, message });
  t.same(await get("/?code=399"), passed);
  t.same(await get("?code=400"), failed("HTTP probe failed with statuscode: 400"));
  t.match(seen.at(-1), { "user-agent": /^kube-probe\//, accept: "*/*", host: `127.0.0.1:${port}` });
  const httpHeaders = [
    { name: "host", value: "shop.example.com" },
    { name: "User-Agent", value: "" },
    { name: "X-One", value: "1" },
  ];
  t.same(await get("/", { httpHeaders }), passed);
  t.match(seen.at(-1), { host: "shop.example.com", "x-one": "1", "user-agent": undefined });
  t.same(await get("/hop?left=9"), passed);
  t.match(await get("/hop?left=10"), failed(/^Get "\/hop\?left=0": stopped after 10 redirects$/));
  const elsewhere = encodeURIComponent("http://192.0.2.1/");
  t.same(await get(`/?to=${elsewhere}`), passed, "another host is not followed, and no failure");
  t.match(
    await attempt({ httpGet: { path: "/slow", port } }, target, 50),
    failed(/^Get "http:\/\/127.*\/slow": context deadline exceeded/),
  );
  t.match(await get("/cut"), failed(/: EOF$/));
  t.match(await get("/", { port: "nope" }), failed(`couldn't find port: "nope" in container "c"`));
  t.match(await get("/", { scheme: "HTTPS" }), { success: false });
  t.same(await get("/endless"), passed);
  await endOfEndless;
  t.same(await attempt({ tcpSocket: { port } }, target, 1000), passed);
  const other = { ...target, podIP: "127.0.0.2" };
  t.same(await attempt({ tcpSocket: { port, host: "127.0.0.1" } }, other, 1000), passed, "another host");
  t.same(await attempt({ httpGet: { port, host: "127.0.0.1" } }, other, 1000), passed);
  server.close();
  server.closeAllConnections();
  const refused = `dial tcp 127.0.0.1:${port}: connect: connection refused`;
  t.same(await attempt({ tcpSocket: { port } }, target, 1000), failed(refused));
  t.same(await get("/"), failed(`Get "http://127.0.0.1:${port}/": ${refused}`));
  t.same(await attempt({ exec: { command: [] } }, target, 1000), { success: true, message: "said" });
  t.same(await attempt({ exec: { command: ["x"] } }, target, 1000), failed("said"));
  t.same(
    await attempt({ exec: { command: ["slow", "one"] } }, target, 2000),
    failed('command timed out: "slow one" timed out after 2s'),
  );
  t.match(
    await attempt({ grpc: { port: 1 } }, target, 1000),
    failed(/failed to connect service "127.0.0.1:1"/),
  );
});
