// The pure parts of the node agent: status, back-off, environment, files, logs, probes, images, mounts.

import { readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type IncomingHttpHeaders } from "node:http";
import { join } from "node:path";
import t from "tap";
import { NODES } from "../../common/client.js";
import { InformerFactory } from "../../common/informer.js";
import type { Container, Node, Pod, PodStatus, Service, Stored } from "../../common/k8s.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { prettyName } from "../../node/host/machine.js";
import {
  addressHolder,
  type NodeFacts,
  nodeConditions,
  nodeStatus,
  sameNodeStatus,
} from "../../node/host/node-object.js";
import { FlagError, parseFlags } from "../../node/images/flags.js";
import { commandLine, parseReference, resolveImage, unknownImageMessage } from "../../node/images/index.js";
import { splitHostPort } from "../../node/images/resolve.js";
import { ContainerLog, readLog } from "../../node/kubelet/container-log.js";
import {
  formatEntry,
  LineSplitter,
  logTime,
  parseEntry,
  parseLogQuery,
  renderEntry,
  selectEntries,
} from "../../node/kubelet/log-format.js";
import { Backoff, goDuration } from "../../node/pods/backoff.js";
import {
  ContainerConfigError,
  containerEnv,
  type EnvSources,
  envReferences,
  expand,
  serviceEnv,
  servicesEnv,
} from "../../node/pods/env.js";
import {
  hostNetworkHostsFile,
  parseResolvConf,
  podDns,
  podHostname,
  podHostsFile,
  resolvConf,
} from "../../node/pods/files.js";
import { attempt, resolvePort } from "../../node/pods/probe-actions.js";
import { ProbeState, probeTiming } from "../../node/pods/probe-state.js";
import {
  type ContainerFacts,
  type PodFacts,
  podPhase,
  podStatus,
  sameInEssence,
} from "../../node/pods/status.js";
import { throughMounts } from "../../node/pods/volumes.js";
import { exitStatus, mappedIds } from "../../node/process/launch.js";
import { type FileView, planMounts } from "../../node/process/mounts.js";
import { launchScript, quote } from "../../node/process/script.js";
import { parseStat } from "../../node/reaper.js";
import { exitStatusMessage, parseRemoteCommandQuery } from "../../node/streams/remote-command.js";
import { wireOverlay } from "../../node/wiring.js";
import { FakeClient } from "./helpers/node-fake-client.js";
import { pod } from "./helpers/node-objects.js";

const service = (name: string, namespace: string, spec: Service["spec"]): Stored<Service> => ({
  apiVersion: "v1",
  kind: "Service",
  metadata: { name, namespace, uid: name, resourceVersion: "1", creationTimestamp: "" },
  ...(spec ? { spec } : {}),
});

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

t.test("environment of a container", async (t) => {
  t.equal(expand("$(A)-$$(A)-$(NO)-$x-$", { A: "1" }), "1-$(A)-$(NO)-$x-$");
  const web = service("my-web", "shop", {
    clusterIP: "10.96.0.7",
    ports: [
      { name: "http", port: 80, protocol: "TCP" },
      { name: "dns-udp", port: 53, protocol: "UDP" },
    ],
  });
  t.same(serviceEnv(web), {
    MY_WEB_SERVICE_HOST: "10.96.0.7",
    MY_WEB_SERVICE_PORT: "80",
    MY_WEB_SERVICE_PORT_HTTP: "80",
    MY_WEB_SERVICE_PORT_DNS_UDP: "53",
    MY_WEB_PORT: "tcp://10.96.0.7:80",
    MY_WEB_PORT_80_TCP: "tcp://10.96.0.7:80",
    MY_WEB_PORT_80_TCP_PROTO: "tcp",
    MY_WEB_PORT_80_TCP_PORT: "80",
    MY_WEB_PORT_80_TCP_ADDR: "10.96.0.7",
    MY_WEB_PORT_53_UDP: "udp://10.96.0.7:53",
    MY_WEB_PORT_53_UDP_PROTO: "udp",
    MY_WEB_PORT_53_UDP_PORT: "53",
    MY_WEB_PORT_53_UDP_ADDR: "10.96.0.7",
  });
  const all = [
    web,
    service("kubernetes", "default", { clusterIP: "10.96.0.1", ports: [{ name: "https", port: 443 }] }),
    service("other", "elsewhere", { clusterIP: "10.96.0.9", ports: [{ port: 1 }] }),
    service("headless", "shop", { clusterIP: "None", ports: [{ port: 1 }] }),
  ];
  const hosts = (env: Record<string, string>) =>
    Object.keys(env).filter((key) => key.endsWith("_SERVICE_HOST"));
  t.same(hosts(servicesEnv(pod(), all)).sort(), ["KUBERNETES_SERVICE_HOST", "MY_WEB_SERVICE_HOST"]);
  t.same(hosts(servicesEnv(pod({ enableServiceLinks: false }), all)), ["KUBERNETES_SERVICE_HOST"]);

  const sources: EnvSources = {
    configMap: (name) => (name === "conf" ? { color: "blue" } : undefined),
    secret: (name) => (name === "key" ? { token: "s3cret" } : undefined),
    nodeName: "node-1",
    hostIPs: ["192.168.56.11", "fd00:56::11"],
    podIPs: ["10.244.1.5", "fd00:10:244:1::5"],
    allocatable: {},
  };
  const container: Pick<Container, "env" | "envFrom"> = {
    envFrom: [
      { prefix: "C_", configMapRef: { name: "conf" } },
      { secretRef: { name: "gone", optional: true } },
    ],
    env: [
      { name: "NAME", valueFrom: { fieldRef: { fieldPath: "metadata.name" } } },
      { name: "IP", valueFrom: { fieldRef: { fieldPath: "status.podIP" } } },
      { name: "IPS", valueFrom: { fieldRef: { fieldPath: "status.podIPs" } } },
      { name: "HOSTS", valueFrom: { fieldRef: { fieldPath: "status.hostIPs" } } },
      { name: "TIER", valueFrom: { fieldRef: { fieldPath: "metadata.labels['tier']" } } },
      { name: "TOKEN", valueFrom: { secretKeyRef: { name: "key", key: "token" } } },
      { name: "URL", value: "http://$(IP)/$(NAME)/$(LATER)" },
      { name: "LATER", value: "x" },
      { name: "MISSING", valueFrom: { configMapKeyRef: { name: "conf", key: "no", optional: true } } },
    ],
  };
  const labelled = pod({}, { labels: { tier: "front" } });
  t.same(containerEnv(labelled, container, { BASE: "1" }, sources), {
    BASE: "1",
    C_color: "blue",
    NAME: "web-1",
    IP: "10.244.1.5",
    IPS: "10.244.1.5,fd00:10:244:1::5",
    HOSTS: "192.168.56.11,fd00:56::11",
    TIER: "front",
    TOKEN: "s3cret",
    URL: "http://10.244.1.5/web-1/$(LATER)",
    LATER: "x",
  });
  t.same(envReferences(container), { configMaps: new Set(["conf"]), secrets: new Set(["gone", "key"]) });
  const missing = { env: [{ name: "A", valueFrom: { secretKeyRef: { name: "nope", key: "k" } } }] };
  t.throws(
    () => containerEnv(pod(), missing, {}, sources),
    new ContainerConfigError('secret "nope" not found'),
  );
  t.same(serviceEnv(service("bare", "shop", { clusterIP: "10.96.0.8" })), {});
  const absent = { name: "A", valueFrom: { configMapKeyRef: { name: "nope", key: "k", optional: true } } };
  t.same(containerEnv(pod(), { env: [absent] }, {}, sources), {});
  const odd = { env: [{ name: "A", valueFrom: { fieldRef: { fieldPath: "spec.nodename" } } }] };
  t.throws(() => containerEnv(pod(), odd, {}, sources), { message: "unsupported fieldPath: spec.nodename" });
  const noKey = { env: [{ name: "A", valueFrom: { configMapKeyRef: { name: "conf", key: "k" } } }] };
  t.throws(() => containerEnv(pod(), noKey, {}, sources), {
    message: "couldn't find key k in ConfigMap shop/conf",
  });
});

t.test("files of a pod", async (t) => {
  t.equal(
    podHostname(pod({}, { name: `${"a".repeat(62)}-b` })),
    "a".repeat(62),
    "63 characters, no dash at the end",
  );
  const named = pod({
    hostname: "db",
    subdomain: "pg",
    hostAliases: [{ ip: "10.0.0.1", hostnames: ["a", "b"] }],
  });
  const hosts = podHostsFile(named, ["10.244.1.5", "fd00:10:244:1::5"], "cluster.local");
  t.match(hosts, /^10\.244\.1\.5\tdb\.pg\.shop\.svc\.cluster\.local\tdb$/m);
  t.match(hosts, /^fd00:10:244:1::5\tdb\.pg\.shop\.svc\.cluster\.local\tdb$/m);
  t.match(hosts, /^# Entries added by HostAliases\.\n10\.0\.0\.1\ta\tb$/m);
  t.equal(
    hostNetworkHostsFile(named, "127.0.0.1 localhost\n\n"),
    "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n\n# Entries added by HostAliases.\n10.0.0.1\ta\tb\n",
  );
  const node = parseResolvConf("# c\nnameserver 9.9.9.9\nsearch lan # home\noptions edns0\n");
  t.same(node, { nameservers: ["9.9.9.9"], searches: ["lan"], options: ["edns0"] });
  const dns = (spec: Partial<Pod["spec"]>, clusterDNS?: string) =>
    resolvConf(podDns(pod(spec), { clusterDNS, clusterDomain: "cluster.local", node }));
  t.equal(
    dns({}, "10.96.0.10"),
    "search shop.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.96.0.10\noptions ndots:5\n",
  );
  t.notMatch(dns({}), /nameserver/, "no cluster DNS: asked nobody rather than nobody who answers");
  t.match(dns({ dnsPolicy: "Default" }, "10.96.0.10"), /nameserver 9\.9\.9\.9/);
  t.match(
    dns({ hostNetwork: true }, "10.96.0.10"),
    /nameserver 9\.9\.9\.9/,
    "ClusterFirst on the host network",
  );
  t.equal(
    dns({
      dnsPolicy: "None",
      dnsConfig: { nameservers: ["1.1.1.1"], searches: ["x"], options: [{ name: "ndots", value: "2" }] },
    }),
    "search x\nnameserver 1.1.1.1\noptions ndots:2\n",
  );
  t.match(
    dns({ dnsPolicy: "ClusterFirstWithHostNet", hostNetwork: true }, "10.96.0.10"),
    /nameserver 10\.96\.0\.10/,
  );
  t.equal(
    dns({ dnsPolicy: "Default", dnsConfig: { nameservers: ["9.9.9.9", "1.1.1.1"] } }).match(/nameserver/g)
      ?.length,
    2,
    "each once",
  );
  t.match(
    dns({ dnsConfig: { options: [{ name: "ndots", value: "1" }] } }, "10.96.0.10"),
    /^options ndots:1$/m,
  );
});

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
  t.match(await attempt({ grpc: { port: 1 } }, target, 1000), failed(/no gRPC probes/));
});

t.test("the log file of a container", async (t) => {
  const directory = t.testdir();
  const path = join(directory, "pods/c/0.log");
  const failures: Error[] = [];
  const log = new ContainerLog(path, (error) => failures.push(error));
  t.equal(log.read({}), "", "nothing written, no file");
  const followed: string[] = [];
  let over = 0;
  const stop = log.follow(
    {},
    (text) => followed.push(text),
    () => over++,
  );
  log.follow(
    { stream: "stderr", timestamps: true },
    (text) => followed.push(text),
    () => over++,
  );
  log.write("stdout", "one\ntw");
  log.write("stderr", "bad\n");
  t.equal(log.read({}), "one\nbad\n");
  t.match(followed.splice(0), ["one\n", "bad\n", /^20\S+Z bad\n$/]);
  stop();
  rmSync(join(directory, "pods"), { recursive: true });
  writeFileSync(join(directory, "pods"), "in the way");
  log.write("stdout", "o\n");
  log.flush();
  t.match(failures.splice(0), [{ code: "ENOTDIR" }], "told, not thrown");
  rmSync(join(directory, "pods"));
  log.write("stdout", "three\nfo");
  t.equal(log.read({}), "three\n", "made again");
  log.close();
  log.write("stdout", "late\n");
  log.close();
  t.same([followed, over, failures], [[], 1, []]);
  t.equal(readLog(path, {}), "three\nfo", "what had no end of line is there");
  log.follow(
    {},
    () => {},
    () => over++,
  );
  t.equal(over, 2, "over at once");

  const big = new ContainerLog(join(directory, "big.log"), (error) => failures.push(error));
  for (const letter of ["a", "b", "c"]) {
    big.write("stdout", `${letter.repeat(1023)}\n`.repeat(10 * 1024));
    big.flush();
  }
  t.same(readdirSync(directory).sort(), ["big.log", "big.log.1", "pods"], "one older file is kept");
  const text = big.read({});
  t.same([text.length, text[0], text.at(-2)], [20 * 1024 * 1024, "b", "c"]);
  big.close();
});

t.test("container logs", async (t) => {
  const entry = { time: logTime(new Date(0)), stream: "stdout", tag: "F", text: "a b  c" } as const;
  t.equal(formatEntry(entry), "1970-01-01T00:00:00.000000000Z stdout F a b  c\n");
  t.same(parseEntry(formatEntry(entry).trimEnd()), entry);
  t.same(parseEntry("2026-01-01T00:00:00Z stderr P "), {
    time: "2026-01-01T00:00:00Z",
    stream: "stderr",
    tag: "P",
    text: "",
  });
  t.match(parseEntry("2026-01-01T00:00:00Z stdout F:more x"), { tag: "F", text: "x" });
  t.equal(parseEntry("nonsense"), undefined);

  const pieces: string[] = [];
  const splitter = new LineSplitter((text, tag) => pieces.push(tag + text));
  splitter.write(Buffer.from([0x61, 0xc3]));
  splitter.write(Buffer.from([0xa4, 0x0a, 0x0a]));
  splitter.write("no end");
  t.same(pieces, ["Faä", "F"], "a character in two pieces, an empty line");
  splitter.end();
  t.same(pieces.at(-1), "Pno end");
  pieces.length = 0;
  splitter.write(`${"x".repeat(LineSplitter.LONGEST + 1)}\n`);
  t.same(
    pieces.map((one) => [one[0], one.length - 1]),
    [
      ["P", LineSplitter.LONGEST],
      ["F", 1],
    ],
  );

  const at = (second: number, text: string, tag = "F", stream = "stdout") =>
    `2026-11-21T00:00:0${second}.000000000Z ${stream} ${tag} ${text}\n`;
  const file =
    at(1, "one") + at(2, "tw", "P") + at(2, "o") + at(3, "three", "F", "stderr") + at(4, "rest", "P");
  const text = (options: Parameters<typeof selectEntries>[1]) =>
    selectEntries(file, options)
      .map((one) => renderEntry(one, false))
      .join("");
  t.equal(text({}), "one\ntwo\nthree\nrest");
  t.equal(text({ tailLines: 0 }), "");
  t.equal(text({ tailLines: 1 }), "rest");
  t.equal(text({ tailLines: 3 }), "two\nthree\nrest", "a line in pieces counts once");
  t.equal(text({ tailLines: 99 }), text({}));
  t.equal(text({ since: Date.parse("2026-11-21T00:00:03Z") }), "three\nrest");
  t.equal(text({ stream: "stderr" }), "three\n");
  const query = (q: string) => parseLogQuery(new URLSearchParams(q), 100_000);
  t.match(query("tailLines=5&follow=true&sinceSeconds=10"), { tailLines: 5, follow: true, since: 90_000 });
  t.throws(() => query("tailLines=-1"), { message: 'tailLines: "-1" is not a whole number of at least 0' });
  t.throws(() => query("sinceTime=yesterday"), { message: 'sinceTime: "yesterday" is not an RFC 3339 time' });
  t.throws(() => query("sinceTime=2026-01-01T00:00:00Z&sinceSeconds=1"), { message: /at most one of/ });
});

t.test("images", async (t) => {
  t.same(parseReference("nginx"), { name: "nginx", tag: "latest" });
  t.same(parseReference("docker.io/library/nginx:1.29"), { name: "nginx", tag: "1.29" });
  t.match(parseReference("localhost:5000/a/b_c:v1"), { name: "localhost:5000/a/b_c", tag: "v1" });
  t.match(parseReference(`nginx@sha256:${"0".repeat(64)}`), {
    name: "nginx",
    digest: `sha256:${"0".repeat(64)}`,
  });
  for (const bad of ["", "Nginx", "nginx:", "nginx:a b", "-x", "a//b", `a@sha256:${"0".repeat(64)}@b`])
    t.equal(parseReference(bad), undefined, bad);

  const find = (name: string, hasCommand = false, mapped = {}) => resolveImage(name, { mapped, hasCommand });
  const known = (name: string) => {
    const found = find(name);
    return found !== undefined && found !== "invalid";
  };
  const bootcamp = "gcr.io/google-samples/kubernetes-bootcamp";
  for (const name of [
    `${bootcamp}:v1`,
    `${bootcamp}:v2`,
    "docker.io/jocatalin/kubernetes-bootcamp:v2",
    "kubernetes-bootcamp",
    "nginx:1.29-alpine",
    "registry.k8s.io/e2e-test-images/agnhost:2.53",
    "registry.k8s.io/pause:3.10",
    "busybox:1.28",
    "quay.io/somebody/busybox",
    "nicolaka/netshoot",
    "traefik/whoami",
  ]) {
    t.ok(known(name), name);
  }
  t.notOk(known(`${bootcamp}:v10`), "the tutorial's tag that does not exist");
  t.notOk(known("example.com/app:1"));
  t.equal(find("Bad Name"), "invalid");
  t.ok(find("example.com/app:1", true), "with a command any image will do");
  t.match(find("app", false, { app: `${bootcamp}:v2` }), { tag: "v2", reference: "app" });
  t.match(find("app:3", false, { "app:3": { command: ["sleep"], args: ["1"] } }), {
    image: { entrypoint: ["sleep"], cmd: ["1"] },
  });
  t.equal(find("app:4", false, { "app:3": "nginx" }), undefined, "another tag is another image");
  t.match(
    find("app:3", false, { "app:3": { command: ["exact"] }, app: { command: ["any"] } }),
    { image: { entrypoint: ["exact"], cmd: [] } },
    "the full reference first",
  );
  t.match(find("app:3", false, { app: { command: ["any"] }, "app:3": { command: ["exact"] } }), {
    image: { entrypoint: ["exact"] },
  });
  t.equal(find("app", false, { app: { image: "no/such" } }), undefined, "mapped to nothing");
  t.match(find("app", false, { app: { image: "nginx", command: ["sh"], env: { A: "1" } } }), {
    image: { entrypoint: ["sh"], cmd: [], env: { A: "1", NGINX_VERSION: /./ } },
  });
  const digest = `sha256:${"0".repeat(64)}`;
  t.match(find(`nginx:1.29@${digest}`), { imageID: `nginx@${digest}`, tag: "1.29" });
  t.match(
    unknownImageMessage("x/y"),
    /kubeplumb has no image of that name and tag; known images: .*nginx.*; map one .* under images:/,
  );

  const image = { names: [], entrypoint: ["/e"], cmd: ["c"] };
  t.same(commandLine(image, {}), ["/e", "c"]);
  t.same(commandLine(image, { args: ["a"] }), ["/e", "a"]);
  t.same(commandLine(image, { command: ["x"] }), ["x"], "a command drops the image's cmd");
  t.same(commandLine(image, { command: ["x"], args: ["a"] }), ["x", "a"]);

  const kinds = { port: "number", tcp: "boolean", name: "string", wait: "duration" } as const;
  t.same(parseFlags(["--port=1", "-tcp", "--name", "n", "--wait=1m1.5s", "rest"], kinds), {
    flags: { port: 1, tcp: true, name: "n", wait: 61_500 },
    operands: ["rest"],
  });
  t.throws(() => parseFlags(["--nope"], kinds), new FlagError("unknown flag: --nope"));
  t.throws(() => parseFlags(["--port", "x"], kinds), new FlagError('invalid argument "x" for "--port" flag'));
  t.throws(() => parseFlags(["--name"], kinds), new FlagError("flag needs an argument: --name"));
  t.same(parseFlags(["--tcp=false", "-"], kinds), { flags: { tcp: false }, operands: ["-"] });
  t.same(splitHostPort("[::1]:80"), { host: "::1", port: 80 });
  t.throws(() => splitHostPort("1.2.3.4"), { message: "address 1.2.3.4: missing port in address" });
});

t.test("mounts of a process", async (t) => {
  const directories: Record<string, FileView["entries"] extends (p: string) => infer R ? R : never> = {
    "/": [
      { name: "bin", kind: "link", link: "usr/bin" },
      { name: "etc", kind: "directory" },
      { name: "usr", kind: "directory" },
    ],
    "/usr": [
      { name: "bin", kind: "directory" },
      { name: "share", kind: "directory" },
    ],
    "/usr/share": [{ name: "doc", kind: "directory" }],
  };
  const existing = new Set(["/", "/etc", "/etc/hosts", "/usr", "/usr/bin", "/usr/share", "/usr/share/doc"]);
  const view: FileView = {
    exists: (path) => existing.has(path),
    realpath: (path) => path,
    entries: (path) => directories[path] ?? [],
  };
  t.same(planMounts([{ source: "/pod/hosts", target: "/etc/hosts", file: true }], "/s", view), {
    steps: [{ do: "bind", from: "/pod/hosts", at: "/etc/hosts", readOnly: false }],
  });
  const plan = planMounts(
    [
      { source: "/pod/html", target: "/usr/share/nginx/html/", readOnly: true },
      { source: "/pod/data", target: "/data" },
      { source: "/pod/sub", target: "/data/sub" },
    ],
    "/s",
    view,
  );
  t.equal(plan.root, "/s");
  t.same(plan.steps, [
    { do: "tmpfs", at: "/s" },
    { do: "link", at: "/s/bin", to: "usr/bin" },
    { do: "mkdir", at: "/s/etc" },
    { do: "rbind", from: "/etc", at: "/s/etc" },
    { do: "mkdir", at: "/s/usr" },
    { do: "mkdir", at: "/s/usr/bin" },
    { do: "rbind", from: "/usr/bin", at: "/s/usr/bin" },
    { do: "mkdir", at: "/s/usr/share" },
    { do: "mkdir", at: "/s/usr/share/doc" },
    { do: "rbind", from: "/usr/share/doc", at: "/s/usr/share/doc" },
    { do: "mkdir", at: "/s/data" },
    { do: "bind", from: "/pod/data", at: "/s/data", readOnly: false },
    { do: "mkdir", at: "/s/data/sub" },
    { do: "bind", from: "/pod/sub", at: "/s/data/sub", readOnly: false },
    { do: "mkdir", at: "/s/usr/share/nginx" },
    { do: "mkdir", at: "/s/usr/share/nginx/html" },
    { do: "bind", from: "/pod/html", at: "/s/usr/share/nginx/html", readOnly: true },
  ]);
  const devices: FileView = {
    ...view,
    exists: (path) => path.startsWith("/dev") || view.exists(path),
    entries: (path) =>
      path === "/dev"
        ? [
            { name: "null", kind: "other" },
            { name: "shm", kind: "directory" },
          ]
        : view.entries(path),
  };
  const log = { source: "/pod/log", target: "/dev/termination-log", file: true };
  const lacksLog = {
    ...devices,
    exists: (path: string) => path !== log.target && !path.startsWith("/dev/shm/") && devices.exists(path),
  };
  const covered = planMounts(
    [log, { source: "/pod/hosts", target: "/etc/hosts", file: true }],
    "/s",
    lacksLog,
  );
  t.same(
    covered,
    {
      steps: [
        { do: "tmpfs", at: "/s" },
        { do: "mkdir", at: "/s/.machine" },
        { do: "rbind", from: "/dev", at: "/s/.machine" },
        { do: "links", at: "/s", to: ".machine", names: ["null", "shm"] },
        { do: "bind", from: "/pod/hosts", at: "/etc/hosts", readOnly: false },
        { do: "touch", at: "/s/termination-log" },
        { do: "bind", from: "/pod/log", at: "/s/termination-log", readOnly: false },
        { do: "cover", from: "/s", at: "/dev" },
      ],
    },
    "another /dev, the root stays",
  );
  const both = planMounts(
    [
      { source: "/a", target: "/dev/shm/a" },
      { source: "/b", target: "/b" },
    ],
    "/s",
    lacksLog,
  );
  t.equal(both.root, "/s");
  const linked: FileView = {
    ...view,
    exists: (path) => path === "/var/run" || view.exists(path),
    realpath: (path) => (path === "/var/run" ? "/etc" : path),
  };
  t.same(
    planMounts([{ source: "/p", target: "/var/run/hosts", file: true }], "/s", linked).steps,
    [{ do: "bind", from: "/p", at: "/etc/hosts", readOnly: false }],
    "through a link of the machine",
  );
  const deep = planMounts(
    [
      { source: "/a", target: "/x/y/a" },
      { source: "/b", target: "/x/y/b" },
    ],
    "/s",
    view,
  );
  t.same(
    deep.steps.flatMap((step) => (step.do === "mkdir" && step.at.startsWith("/s/x") ? [step.at] : [])),
    ["/s/x", "/s/x/y", "/s/x/y/a", "/s/x/y/b"],
    "parents once",
  );
  t.equal(quote("it's"), "'it'\\''s'");
  const script = launchScript({ plan, hostname: "web", cwd: "/tmp", tty: false });
  t.match(script, /mount --bind \/pod\/html \/s\/usr\/share\/nginx\/html/);
  t.match(script, /remount,bind,ro \/s\/usr\/share\/nginx\/html/);
  t.match(script, /exec "\$chroot" \/s \/bin\/sh -c/);

  const mounts = [
    { source: "/v/html", target: "/usr/share/nginx/html" },
    { source: "/v/x", target: "/usr/share/nginx/html/x" },
  ];
  t.equal(throughMounts("/usr/share/nginx/html/a.txt", mounts), "/v/html/a.txt");
  t.equal(throughMounts("/usr/share/nginx/html/x/b", mounts), "/v/x/b", "the deepest mount holds it");
  t.equal(throughMounts("/usr/share/nginx/html/../../../v/secret", mounts), undefined, "no way out");
  t.equal(throughMounts("/etc/passwd", mounts), undefined);
});

t.test("the Node object", async (t) => {
  const nodeFacts: NodeFacts = {
    name: "node-1",
    nodeIPs: ["192.168.56.11", "fd00:56::11"],
    labels: { zone: "a" },
    taints: [],
    arch: "amd64",
    info: {} as NodeFacts["info"],
    capacity: { pods: "110" },
  };
  const [early, late] = ["2026-11-21T00:00:00Z", "2026-11-21T00:01:00Z"];
  const down = nodeStatus(nodeFacts, { networkProblem: "no network" }, undefined, early);
  const ready = (status: typeof down) => status.conditions?.find((one) => one.type === "Ready");
  t.match(ready(down), { status: "False", reason: "KubeletNotReady", message: "no network" });
  t.notOk(
    down.conditions?.some((one) => one.type === "NetworkUnavailable"),
    "the overlay has said nothing yet",
  );
  const up = nodeStatus(nodeFacts, { overlayUp: true }, down, late);
  t.match(ready(up), { status: "True", reason: "KubeletReady", lastTransitionTime: late });
  t.match(
    up.conditions?.find((one) => one.type === "NetworkUnavailable"),
    { status: "False", reason: "FlannelIsUp" },
  );
  t.equal(up.conditions?.find((one) => one.type === "DiskPressure")?.lastTransitionTime, early);
  t.ok(
    sameNodeStatus(nodeStatus(nodeFacts, { overlayUp: true }, up, "2026-11-21T00:09:00Z"), up),
    "heartbeats aside",
  );
  t.notOk(sameNodeStatus(down, up));
  for (const change of [
    { addresses: [{ type: "InternalIP", address: "192.168.56.99" }] },
    { capacity: { pods: "1" } },
    { allocatable: { pods: "1" } },
    { nodeInfo: { kubeletVersion: "v1.0.0" } as NodeFacts["info"] },
  ]) {
    t.notOk(sameNodeStatus({ ...up, ...change }, up), JSON.stringify(change));
  }
  const foreign = { type: "Custom", status: "True" };
  t.match(nodeConditions({}, [foreign], late)[0], foreign, "conditions of others stay");

  const other = (name: string, address: string) => ({
    apiVersion: "v1",
    kind: "Node",
    metadata: { name, uid: name, resourceVersion: "1", creationTimestamp: "" },
    status: { addresses: [{ type: "InternalIP", address }] },
  });
  const nodes = [other("node-1", "192.168.56.11"), other("node-2", "192.168.56.12")];
  t.equal(addressHolder(nodes, nodeFacts), undefined, "the node itself may have it");
  t.match(addressHolder([...nodes, other("node-3", "192.168.56.11")], nodeFacts), {
    node: { metadata: { name: "node-3" } },
    ip: "192.168.56.11",
  });
  t.match(addressHolder([...nodes, other("node-3", "fd00:56::11")], nodeFacts), { ip: "fd00:56::11" });
  t.same(up.addresses, [
    { type: "InternalIP", address: "192.168.56.11" },
    { type: "InternalIP", address: "fd00:56::11" },
    { type: "Hostname", address: "node-1" },
  ]);
  t.equal(
    prettyName('NAME=x\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'),
    "Debian GNU/Linux 12 (bookworm)",
  );
  t.equal(prettyName("PRETTY_NAME=Plain\n"), "Plain");
  t.equal(prettyName("NAME=x\n"), "Linux");
});

t.test("Nodes to the overlays of hosts that share an informer", async (t) => {
  const client = new FakeClient();
  const informers = new InformerFactory(client);
  t.teardown(() => informers.stop());
  /** A host that notes what it is told. */
  const host = (name: string) => {
    const heard = { own: [] as string[], lease: [] as string[], lists: [] as string[] };
    const overlay = {
      setOwnNode: (node: Stored<Node>) => void heard.lease.push(node.spec?.podCIDR ?? ""),
      nodesChanged: (nodes: readonly Stored<Node>[]) =>
        void heard.lists.push(nodes.map((node) => node.metadata.name).join(" ")),
    };
    const leave = wireOverlay(informers, overlay, name, (node) => heard.own.push(node.metadata.name));
    return { heard, leave };
  };
  /** What a host has heard since the last time, when there is nothing more to come. */
  const news = async ({ heard }: ReturnType<typeof host>) => {
    await new Promise((resolve) => setTimeout(resolve, 30));
    const { own, lease, lists } = heard;
    Object.assign(heard, { own: [], lease: [], lists: [] });
    return { own, lease, lists };
  };
  const none = { own: [], lease: [], lists: [] };
  const create = (name: string) => client.create(NODES, { metadata: { name } });
  const patch = (name: string, change: object) => client.patch(NODES, name, "merge", change);
  const condition = (type: string, status: "True" | "False", lastHeartbeatTime: string) => ({
    status: { conditions: [{ type, status, lastHeartbeatTime }] },
  });

  const one = host("node-1");
  t.same(await news(one), none, "no list yet is not an empty one");
  informers.start();
  t.same(await news(one), { own: [], lease: [], lists: [""] });
  await create("node-1");
  t.same(await news(one), { own: ["node-1"], lease: [], lists: ["node-1"] }, "no lease without a podCIDR");
  await patch("node-1", { spec: { podCIDR: "10.244.0.0/24" } });
  t.same(await news(one), { own: ["node-1"], lease: ["10.244.0.0/24"], lists: ["node-1"] });

  const two = host("node-2");
  t.same(await news(two), { own: [], lease: [], lists: ["node-1"] }, "one that joins hears what there is");
  await news(one);
  await Promise.all([create("node-2"), create("node-3"), create("node-4")]);
  const all = "node-1 node-2 node-3 node-4";
  t.same(await news(one), { own: [], lease: [], lists: [all] }, "many changes in one go");
  t.same(await news(two), { own: ["node-2"], lease: [], lists: [all] });

  await patch("node-1", condition("Ready", "True", "2026-11-21T00:00:00Z"));
  await patch("node-3", condition("NetworkUnavailable", "False", "2026-11-21T00:00:00Z"));
  t.same(
    [await news(one), await news(two)],
    [none, none],
    "heartbeats and the conditions of others are no news",
  );
  await patch("node-1", condition("NetworkUnavailable", "False", "2026-11-21T00:00:00Z"));
  t.same(await news(one), { own: ["node-1"], lease: ["10.244.0.0/24"], lists: [] }, "of interest to itself");
  t.same(await news(two), none);
  for (const change of [
    { metadata: { annotations: { "flannel.alpha.coreos.com/public-ip": "192.168.56.13" } } },
    { spec: { podCIDR: "10.244.3.0/24" } },
    { status: { addresses: [{ type: "InternalIP", address: "192.168.56.13" }] } },
  ]) {
    await patch("node-3", change);
    t.same(await news(two), { own: [], lease: [], lists: [all] }, JSON.stringify(change));
  }
  await patch("node-3", { metadata: { annotations: { "example.com/other": "x" } } });
  await news(one);
  t.same(await news(two), none, "nobody's annotation");
  await client.delete(NODES, "node-4");
  t.same(await news(two), { own: [], lease: [], lists: ["node-1 node-2 node-3"] });

  const successor = host("node-1");
  one.leave();
  t.same((await news(successor)).own, ["node-1"], "told of a Node that was there before");
  await patch("node-1", { spec: { podCIDR: "10.244.9.0/24" } });
  t.same((await news(successor)).lease, ["10.244.9.0/24"], "the end of the former life does not end it");
  successor.leave();
  two.leave();
  await news(two);
  await patch("node-1", { spec: { podCIDR: "10.244.8.0/24" } });
  t.same([await news(successor), await news(two)], [none, none], "who has left hears nothing");
  const again = host("node-1");
  t.match(await news(again), { lease: ["10.244.8.0/24"], lists: ["node-1 node-2 node-3"] });
  await client.delete(NODES, "node-2");
  t.same((await news(again)).lists, ["node-1 node-3"], "and what comes after");
});

t.test("remote commands and processes", async (t) => {
  t.same(
    parseRemoteCommandQuery(
      "/exec/a/b/c?command=sh&command=-c&command=x%20y&stdin=true&stdout=1&stderr=1&tty=1",
    ),
    {
      command: ["sh", "-c", "x y"],
      stdin: true,
      stdout: true,
      stderr: false,
      tty: true,
    },
  );
  t.match(exitStatusMessage(0), { status: "Success" });
  t.match(exitStatusMessage(3), {
    status: "Failure",
    reason: "NonZeroExitCode",
    details: { causes: [{ reason: "ExitCode", message: "3" }] },
  });
  t.same(exitStatus(3, null), { exitCode: 3 });
  t.same(exitStatus(null, "SIGKILL"), { exitCode: 137, signal: 9 });
  t.same(exitStatus(null, "SIGTERM"), { exitCode: 143, signal: 15 });
  t.equal(mappedIds("         0       1000          1\n"), 1);
  t.equal(mappedIds("0 1000 1\n1 100000 65536\n"), 65_537);
  const rest = Array.from({ length: 17 }, () => "0").join(" ");
  t.same(parseStat(`42 (a b) c)) Z 7 ${rest} 12345 0`), { pid: 42, state: "Z", ppid: 7, startTime: "12345" });
  t.equal(parseStat("nonsense"), undefined);
});
