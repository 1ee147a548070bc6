// The node agent on a real host namespace: pods that answer, real commands, probes, restarts, graceful ends, logs,
// exec, images, and what is left when it stops.

import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { WebSocket } from "ws";
import { CONFIG_MAPS, EVENTS, LEASES, NODES, PODS, SECRETS, SERVICES } from "../../common/client.js";
import type { Pod, PodStatus, Stored } from "../../common/k8s.js";
import { startNodeAgent } from "../../node/index.js";
import { Harness, isReady, NODE_IP } from "../unit/helpers/node-harness.js";

t.setTimeout(120_000);
const host = await Harness.create({
  images: { "example.com/mapped": "gcr.io/google-samples/kubernetes-bootcamp:v2" },
});
t.teardown(() => host[Symbol.asyncDispose]());
const { client } = host;

const ip = (pod: Stored<Pod>): string => pod.status?.podIP ?? "";
const main = (status: PodStatus | undefined) => status?.containerStatuses?.[0];
const restarts = (status: PodStatus): number => main(status)?.restartCount ?? 0;
const shell = (script: string) => ({ image: "busybox", command: ["sh", "-c", script] });

t.test("registers and becomes Ready", async (t) => {
  const node = await client.get(NODES, "node-1");
  t.match(node.metadata.labels, { "kubernetes.io/hostname": "node-1", "kubernetes.io/os": "linux" });
  t.match(node.status?.addresses, [
    { type: "InternalIP", address: NODE_IP },
    { type: "Hostname", address: "node-1" },
  ]);
  t.match(node.status?.nodeInfo, {
    kubeProxyVersion: "",
    kubeletVersion: "v1.36.0+kubeplumb",
    containerRuntimeVersion: "kubeplumb://0.1.0",
  });
  t.equal(node.status?.capacity?.pods, "110");
  const conditions = Object.fromEntries((node.status?.conditions ?? []).map((one) => [one.type, one.status]));
  t.same(conditions, {
    NetworkUnavailable: "False",
    MemoryPressure: "False",
    DiskPressure: "False",
    PIDPressure: "False",
    Ready: "True",
  });
  const lease = await client.get(LEASES, "node-1", "kube-node-lease");
  t.match(lease.spec, { holderIdentity: "node-1", leaseDurationSeconds: 40 });
  t.equal(lease.metadata.ownerReferences?.[0]?.uid, node.metadata.uid);
  t.ok(existsSync(join(host.directory, "var/etc/cni/net.d/10-kubeplumb.conflist")));
  t.equal(host.ns.sysctl("net.ipv4.ip_forward"), "1");
  t.match(await host.agent.rules(), /FLANNEL-POSTRTG/);
  t.match(await host.get("/healthz"), { code: 200, body: "ok" });
  t.match(await host.get("/nope"), { code: 404, body: /"kind":"Status"/ });

  for (const [unschedulable, state] of [
    [true, "NodeNotSchedulable"],
    [false, "NodeSchedulable"],
  ] as const) {
    await client.patch(NODES, "node-1", "merge", { spec: { unschedulable } });
    t.equal((await host.event("node-1", state)).message, `Node node-1 status is now: ${state}`);
  }

  const twin = await startNodeAgent(host.options({ name: "node-2", runDir: join(host.directory, "run2") }));
  await t.rejects(twin.ready, {
    message: /node "node-2" is refused: its InternalIP 192\.168\.56\.11 is already that of node "node-1"/,
  });
  await twin.stop({ graceful: true });
  await t.rejects(client.get(NODES, "node-2"), { message: 'nodes "node-2" not found' });
});

t.test("an emulated pod answers, with one status write", async (t) => {
  const before = client.writes.get("patch pods/status") ?? 0;
  await host.pod("web", {
    image: "gcr.io/google-samples/kubernetes-bootcamp:v1",
    ports: [{ name: "http", containerPort: 8080 }],
    readinessProbe: { httpGet: { path: "/", port: "http" } },
  });
  const pod = await host.ready("web");
  t.equal((client.writes.get("patch pods/status") ?? 0) - before, 1);
  t.match(pod.status, {
    phase: "Running",
    hostIP: NODE_IP,
    podIP: /^10\.244\.1\.\d+$/,
    containerStatuses: [
      {
        ready: true,
        started: true,
        restartCount: 0,
        containerID: /^kubeplumb:\/\/[0-9a-f]{64}$/,
        imageID: /^gcr\.io\/google-samples\/kubernetes-bootcamp@sha256:/,
        state: { running: { startedAt: /Z$/ } },
      },
    ],
  });
  t.equal(await host.curl(`${ip(pod)}:8080`), "Hello Kubernetes bootcamp! | Running on: web | v=1\n");
  const lines = (await host.logs("web")).split("\n");
  t.match(lines[0], /^Kubernetes Bootcamp App Started At: \S+Z \| Running On: {2}web $/);
  t.match(
    lines[2],
    /^Running On: web \| Total Requests: 1 \| App Uptime: [\d.]+ seconds \| Log Time: \S+Z$/,
    "the probe",
  );
  t.match(lines[3], /Total Requests: 2 /);
  for (const [reason, message] of [
    ["Pulled", /^Container image ".*:v1" already present on machine and can be accessed by the pod$/],
    ["Created", /^Container created$/],
    ["Started", /^Container started$/],
  ] as const) {
    t.match(await host.event("web", reason, message), {
      type: "Normal",
      involvedObject: { kind: "Pod", fieldPath: "spec.containers{main}", uid: pod.metadata.uid },
      source: { component: "kubelet", host: "node-1" },
    });
  }
  await host.pod("v2", { image: "example.com/mapped" });
  t.match(await host.curl(`${ip(await host.running("v2"))}:8080`), /Running on: v2 \| v=2/, "a mapped image");
  t.equal(host.agent.podSandbox("default", "web")?.ns.name, "default/web");
  t.equal(host.agent.podSandbox("default", "nobody"), undefined);
});

t.test("exec into an emulated pod", async (t) => {
  t.match(await host.exec("web", ["hostname"]), { exitCode: 0, stdout: "web\n" });
  t.match(await host.exec("web", ["sh", "-c", "echo no >&2; exit 7"]), {
    exitCode: 7,
    stdout: "",
    stderr: "no\n",
  });
  const { stdout } = await host.exec("web", [
    "sh",
    "-c",
    "cat /etc/hosts /etc/hostname; ls /proc | grep -c '^[0-9]'",
  ]);
  t.match(stdout, /^10\.244\.1\.\d+\tweb$/m);
  t.match(stdout, /^web$/m);
  t.match(stdout, /^[1-9]$/m, "a PID namespace of its own");
  t.match(await host.exec("web", ["cat"], { stdin: "through and back" }), {
    exitCode: 0,
    stdout: "through and back",
  });
  t.match(await host.exec("web", ["curl", "-s", "localhost:8080"]), { stdout: /Running on: web/ });
  t.match(await host.exec("web", ["nosuchcommand"]), {
    exitCode: -1,
    status: { status: "Failure", message: /exec: "nosuchcommand": executable file not found in \$PATH$/ },
  });
  t.match(await host.exec("web", ["env"]), { stdout: /^HOSTNAME=web$/m });
  await t.rejects(host.exec("nobody", ["true"]), {
    message: /404: .*pod \\"default\/nobody\\" is not on node node-1/,
  });
});

t.test("a real command: environment, files, exit code, logs", async (t) => {
  await client.create(SERVICES, {
    metadata: { name: "my-db", namespace: "default" },
    spec: { clusterIP: "10.96.0.50", ports: [{ port: 5432, protocol: "TCP" }] },
  });
  await client.create(CONFIG_MAPS, {
    metadata: { name: "conf", namespace: "default" },
    data: { color: "blue" },
  });
  await client.create(SECRETS, {
    metadata: { name: "key", namespace: "default" },
    data: { token: Buffer.from("s3cret").toString("base64") },
  });
  await host.informers.get(SERVICES).synced;
  const script = `hostname; pwd; echo "$COLOR $POD $MY_DB_SERVICE_HOST"; cat /config/color /shared/made; id -u
    [ -w /config ] || echo read-only; ls /proc | grep -c '^[0-9]'; printf 'no newline' >&2; exit 3`;
  await host.pod(
    "job",
    {
      ...shell(script),
      workingDir: "/tmp",
      env: [
        { name: "COLOR", valueFrom: { configMapKeyRef: { name: "conf", key: "color" } } },
        { name: "POD", valueFrom: { fieldRef: { fieldPath: "metadata.name" } } },
      ],
      volumeMounts: [
        { name: "config", mountPath: "/config", readOnly: true },
        { name: "shared", mountPath: "/shared" },
      ],
    },
    {
      restartPolicy: "Never",
      initContainers: [
        {
          name: "first",
          ...shell("echo init > /shared/made"),
          volumeMounts: [{ name: "shared", mountPath: "/shared" }],
        },
      ],
      volumes: [
        { name: "config", configMap: { name: "conf" } },
        { name: "shared", emptyDir: {} },
      ],
    },
  );
  const pod = await host.until("job", (status) => status.phase === "Failed");
  t.match(main(pod.status), { state: { terminated: { exitCode: 3, reason: "Error" } }, ready: false });
  t.match(pod.status?.initContainerStatuses, [
    { state: { terminated: { exitCode: 0, reason: "Completed" } }, ready: true },
  ]);
  t.match(
    pod.status?.conditions?.find((one) => one.type === "Ready"),
    { status: "False", reason: "PodFailed" },
  );
  const text = await host.logs("job");
  t.match(text, /^job\n\/tmp\nblue job 10\.96\.0\.50\nblueinit\n0\n/);
  t.match(text, /\n[1-9]\n/, "only its own processes");
  t.match(text, /read-only\n|\n0\n/);
  t.match(text, /no newline/);
  t.equal(await host.logs("job", "tailLines=1"), "no newline");
  t.match(await host.logs("job", "timestamps=true"), /^20\d\d-\d\d-\d\dT[\d:.]+Z job\n/);
  t.equal(await host.logs("job", "limitBytes=5"), "job\n/");
  t.match(await host.logs("job", "tailLines=x"), /^400 .*tailLines: \\"x\\" is not a whole number/);
  t.match(
    await host.logs("job", "previous=true"),
    /^400 .*previous terminated container \\"main\\" in pod \\"job\\" not found/,
  );
  t.notOk(existsSync("/config"), "no mount point was made on the machine");

  await host.pod("missing", { image: "busybox", command: ["no-such-program"] }, { restartPolicy: "Never" });
  const missing = await host.until("missing", (status) => status.phase === "Failed");
  t.match(main(missing.status)?.state?.terminated, {
    exitCode: 128,
    reason: "StartError",
    message: /exec: "no-such-program": executable file not found in \$PATH$/,
  });
  await host.event(
    "missing",
    "Failed",
    /failed to start container "main": exec: "no-such-program": executable/,
  );
  const told = host.informers.get(EVENTS).list();
  const reasons = told.filter((one) => one.involvedObject.name === "missing").map((one) => one.reason);
  t.same(reasons, ["Pulled", "Created", "Failed"]);
  await host.pod("done", { image: "busybox" }, { restartPolicy: "OnFailure" });
  await host.until("done", (status) => status.phase === "Succeeded");
  await host.pod("noconf", { ...shell("true"), envFrom: [{ configMapRef: { name: "absent" } }] });
  await host.until(
    "noconf",
    (status) => main(status)?.state?.waiting?.reason === "CreateContainerConfigError",
  );
  await client.create(CONFIG_MAPS, { metadata: { name: "absent", namespace: "default" }, data: {} });
  await host.running("noconf");
});

t.test("exec and attach with a real process", async (t) => {
  await host.pod("sh", {
    ...shell("echo up; while read line; do echo got $line; done"),
    stdin: true,
    stdinOnce: true,
  });
  await host.running("sh");
  t.match(await host.exec("sh", ["sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline; hostname"]), {
    stdout: /while read line.*sh\n$/s,
  });
  t.type(host.agent.podSandbox("default", "sh")?.pid, "number");
  const attached = await host.exec("sh", [], { verb: "attach", stdin: "one\ntwo\n" });
  t.match(attached.stdout, /got one\ngot two\n/);
  await host.until(
    "sh",
    (status) => main(status)?.lastState?.terminated?.exitCode === 0 || restarts(status) > 0,
  );
});

t.test("termination messages, from the file and from the log", async (t) => {
  const machine = readdirSync("/dev").sort();
  const message = (status: PodStatus | undefined) => main(status)?.state?.terminated?.message;
  const ends = async (name: string, container: object, spec: object = {}) => {
    const path = { terminationMessagePath: "/dev/termination-log" };
    await host.pod(name, { ...path, ...container }, { restartPolicy: "Never", ...spec });
    return (await host.until(name, (status) => main(status)?.state?.terminated)).status;
  };
  const wrote = await ends(
    "last-words",
    shell(
      "echo bad > /dev/termination-log; : < /dev/null; [ -w /dev/tty ] && [ -c /dev/zero ] && [ -d /dev/pts ] && echo devices; exit 3",
    ),
  );
  t.match(main(wrote)?.state?.terminated, { exitCode: 3, message: "bad\n" });
  t.equal(await host.logs("last-words"), "devices\n");
  const long = await ends("long-words", {
    ...shell("i=0; while [ $i -lt 1000 ]; do echo $i-words; i=$((i+1)); done > /last/words"),
    terminationMessagePath: "/last/words",
  });
  t.match(message(long), /s\n.*\n999-words\n$/s);
  t.equal(message(long)?.length, 4096, "the end of it");
  t.same(readdirSync("/dev").sort(), machine, "nothing is written into the machine's /dev");

  const fallback = { terminationMessagePolicy: "FallbackToLogsOnError" as const };
  t.equal(message(await ends("logged", { ...shell("echo why; exit 1"), ...fallback })), "why\n");
  t.equal(message(await ends("well", { ...shell("echo fine"), ...fallback })), undefined, "it did not fail");
  t.equal(message(await ends("unasked", shell("echo why; exit 1"))), undefined);
  await host.pod("emulated", { image: "nginx", terminationMessagePath: "/dev/termination-log" });
  await host.running("emulated");
  t.match(await host.exec("emulated", ["sh", "-c", "echo x > /dev/termination-log"]), { exitCode: 0 });
  t.match(await host.exec("emulated", ["tty"], { tty: true }), { stdout: /^\/dev\/pts\/\d+\r\n$/ });
  t.same(readdirSync("/dev").sort(), machine);
});

t.test("volumes from the API follow it, read-only", async (t) => {
  const namespace = "default";
  await client.create(CONFIG_MAPS, { metadata: { name: "live", namespace }, data: { a: "old", gone: "x" } });
  const mount = (name: string, more = {}) => ({ name, mountPath: `/${name}`, ...more });
  await host.pod(
    "follower",
    {
      ...shell("sleep 60"),
      env: [{ name: "CPUS", valueFrom: { resourceFieldRef: { resource: "limits.cpu" } } }],
      resources: { limits: { cpu: "1500m" } },
      volumeMounts: [
        mount("live"),
        mount("all"),
        { name: "live", mountPath: "/one", subPath: "a" },
        { name: "all", mountPath: "/etc/hostname", subPath: "labels" },
      ],
      securityContext: { readOnlyRootFilesystem: true },
    },
    {
      volumes: [
        { name: "live", configMap: { name: "live" } },
        {
          name: "all",
          projected: {
            sources: [
              { configMap: { name: "live", items: [{ key: "a", path: "sub/a" }] } },
              { downwardAPI: { items: [{ path: "labels", fieldRef: { fieldPath: "metadata.labels" } }] } },
            ],
          },
        },
      ],
    },
  );
  await host.running("follower");
  const told = await host.event("follower", "NotHonoured");
  t.match(told.message, /spec\.containers\{main\}\.securityContext\.readOnlyRootFilesystem$/);
  const sh = async (script: string) => (await host.exec("follower", ["sh", "-c", script])).stdout;
  t.equal(await sh("cat /live/a /live/gone /all/sub/a /one; echo $CPUS"), "oldxoldold2\n");
  for (const path of ["/live/new", "/live/a", "/all/new", "/one"]) {
    t.match(await sh(`echo no 2>/dev/null > ${path} || echo refused`), "refused\n", path);
  }
  await client.patch(CONFIG_MAPS, "live", "merge", { data: { a: "new", gone: null, b: "b" } }, { namespace });
  await waitFor(async () => (await sh("cat /live/a")) === "new");
  t.equal(await sh("ls /live; cat /live/b /all/sub/a /one"), "a\nb\nbnewold", "a subPath stays as it was");
  await client.patch(PODS, "follower", "merge", { metadata: { labels: { app: "web" } } }, { namespace });
  await waitFor(async () => (await sh("cat /all/labels")) === 'app="web"');
  await client.delete(CONFIG_MAPS, "live", { namespace });
  await host.event("follower", "FailedMount", /SetUp failed for volume "live" : configmap "live" not found$/);
  t.equal(await sh("cat /live/a"), "new", "what is there stays");
});

t.test("a shell in a container with a root of its own says nothing but what it is told", async (t) => {
  const volumes = [{ name: "v", emptyDir: {} }];
  const volumeMounts = [{ name: "v", mountPath: "/not/there" }];
  await host.pod("rooted", { ...shell("sleep 60"), workingDir: "/tmp", volumeMounts }, { volumes });
  await host.running("rooted");
  t.match(await host.exec("rooted", ["sh", "-c", "pwd"]), { exitCode: 0, stdout: "/tmp\n", stderr: "" });
  t.match(await host.exec("rooted", ["stat", "-c", "%a", "/not/there"]), { stdout: "777\n" }, "emptyDir");
});

t.test("restarts with back-off", async (t) => {
  await host.pod("crash", shell("echo run; exit 1"));
  const backing = await host.until(
    "crash",
    (status) => main(status)?.state?.waiting?.reason === "CrashLoopBackOff",
  );
  t.match(main(backing.status), {
    restartCount: 1,
    ready: false,
    state: {
      waiting: { message: /^back-off 400ms restarting failed container=main pod=crash_default\(.*\)$/ },
    },
    lastState: { terminated: { exitCode: 1, reason: "Error" } },
  });
  t.equal(backing.status?.phase, "Running");
  await host.event("crash", "BackOff", /^Back-off restarting failed container main in pod crash_default\(/);
  await host.until("crash", (status) => restarts(status) >= 3);
  t.equal(await host.logs("crash", "previous=true"), "run\n");
});

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
  await client.delete(PODS, "web", { namespace: "default", gracePeriodSeconds: 1 });
  t.match(await host.curl(`${ip(await host.until("web", () => true))}:8080`), /Running on: web/);
  await host.gone("web");

  const forced = await host.running("v2");
  await client.delete(PODS, "v2", { namespace: "default", gracePeriodSeconds: 0 });
  await t.resolves(waitFor(async () => (await host.curl(`${ip(forced)}:8080`).catch(() => "")) === ""));
});

/** Until `condition` holds; for what no watch tells. */
async function waitFor(condition: () => Promise<boolean>): Promise<void> {
  for (const end = Date.now() + 10_000; Date.now() < end; ) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error("waited in vain");
}

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

t.test("a changed image: the container runs anew, whatever the restart policy", async (t) => {
  const change = (name: string, container: object) =>
    client.patch(
      PODS,
      name,
      "merge",
      { spec: { containers: [{ name: "main", ...container }] } },
      { namespace: "default" },
    );
  await host.pod("changed", { image: "nginx:1.27" }, { restartPolicy: "Never" });
  await host.running("changed");
  await change("changed", { image: "nginx:1.28" });
  await host.event("changed", "Killing", /^Container main definition changed, will be restarted$/);
  const phases = new Set<string | undefined>();
  const anew = await host.until("changed", (status) => {
    phases.add(status.phase);
    return restarts(status) === 1;
  });
  t.same([...phases], ["Running"], "it is not over in between");
  t.match(await host.curl("-i", ip(anew)), /Server: nginx\/1\.28/);

  const backingOff = /^back-off (\S+) restarting/;
  const delay = (status: PodStatus) => backingOff.exec(main(status)?.state?.waiting?.message ?? "")?.[1];
  await host.pod("reset", shell("exit 1"));
  const long = await host.until("reset", (status) => delay(status) === "800ms");
  await change("reset", { ...shell("exit 1"), image: "alpine" });
  const short = await host.until(
    "reset",
    (status) => restarts(status) > restarts(long.status ?? {}) && delay(status) !== undefined,
  );
  t.equal(delay(short.status ?? {}), "400ms", "another definition has its own back-off");

  await host.pod("last", { image: "nginx" }, { restartPolicy: "Always" });
  await host.running("last");
  const over = host.until("last", (status) => status.phase === "Succeeded");
  await change("last", { image: "ngnix:9" });
  await client.delete(PODS, "last", { namespace: "default" });
  t.match(main((await over).status)?.state, { terminated: { exitCode: 0 } }, "its end is what is told of it");

  await host.pod("twice", { image: "ngnix:1" });
  await host.until("twice", (status) => main(status)?.state?.waiting?.reason === "ImagePullBackOff");
  await change("twice", { image: "ngnix:2" });
  const other = await host.until("twice", (status) =>
    /ngnix:2/.test(main(status)?.state?.waiting?.message ?? ""),
  );
  t.equal(main(other.status)?.state?.waiting?.reason, "ErrImagePull", "tried at once");
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

t.test("an unknown image", async (t) => {
  await host.pod("typo", { image: "ngnix:1" });
  const waiting = (reason: string) => (status: PodStatus) => main(status)?.state?.waiting?.reason === reason;
  const first = await host.until("typo", waiting("ErrImagePull"));
  t.equal(first.status?.phase, "Pending");
  const backing = await host.until("typo", waiting("ImagePullBackOff"));
  t.match(
    main(backing.status)?.state?.waiting?.message,
    /^Back-off pulling image "ngnix:1": ErrImagePull: kubeplumb has no image/,
  );
  const event = await host.event("typo", "Failed", /^Failed to pull image "ngnix:1"/);
  t.match(event.message, /known images: .*nginx.*; map one in the cluster config under images:/);
  await host.event("typo", "BackOff", /^Back-off pulling image "ngnix:1"$/);
  t.match(await host.logs("typo"), /^400 .*is waiting to start: trying and failing to pull image"/);
  await host.until("typo", waiting("ErrImagePull"));
  await host.pod("wrong", { image: "Not An Image" });
  await host.until("wrong", waiting("InvalidImageName"));
  t.match(await host.logs("wrong"), /^400 .*is waiting to start: InvalidImageName"/);
  await host.pod("absent", { image: "ngnix:1", imagePullPolicy: "Never" });
  const absent = await host.until("absent", waiting("ErrImageNeverPull"));
  const never = 'Container image "ngnix:1" is not present with pull policy of Never';
  t.equal(main(absent.status)?.state?.waiting?.message, never);
  t.match(await host.event("absent", "ErrImageNeverPull"), { type: "Warning", message: never });
  await host.event("absent", "Failed", /^Error: ErrImageNeverPull$/);
  await host.pod("eager", { image: "nginx", imagePullPolicy: "Always" });
  await host.event("eager", "Pulling", /^Pulling image "nginx"$/);
  await host.event("eager", "Pulled", /^Successfully pulled image "nginx" in /);
});

t.test("images: nginx and agnhost", async (t) => {
  await client.create(CONFIG_MAPS, {
    metadata: { name: "site", namespace: "default" },
    data: { "a.txt": "from a volume" },
  });
  await host.pod("nginx", { image: "nginx:1.27" });
  await host.pod(
    "site",
    { image: "nginx", volumeMounts: [{ name: "site", mountPath: "/usr/share/nginx/html" }] },
    { volumes: [{ name: "site", configMap: { name: "site" } }] },
  );
  const nginx = ip(await host.running("nginx"));
  t.match(await host.curl("-i", nginx), /^HTTP\/1\.1 200 OK\r\nServer: nginx\/1\.27\r\n.*Welcome to nginx!/s);
  t.match(await host.curl("-i", `${nginx}/nope`), /^HTTP\/1\.1 404 Not Found\r\n.*<h1>404 Not Found<\/h1>/s);
  t.match(await host.curl("-I", nginx), /^HTTP\/1\.1 200 OK\r\n(?!.*<html>).*Content-Length: [1-9]/s);
  t.match(await host.logs("nginx"), /^\S+ - - \[.*\] "GET \/nope HTTP\/1\.1" 404 \d+ "-" "curl\/.*" "-"$/m);
  const site = ip(await host.running("site"));
  t.equal(await host.curl(`${site}/a.txt`), "from a volume");
  t.match(await host.curl("-i", site), /^HTTP\/1\.1 403 Forbidden\r\n/, "no page for a directory");
  t.match(await host.curl("-i", `${site}/no/`), /^HTTP\/1\.1 404 Not Found\r\n/);
  t.match(await host.curl(`${site}/../../etc/passwd`, "--path-as-is"), /404 Not Found/);

  const agnhost = "registry.k8s.io/e2e-test-images/agnhost:2.53";
  await host.pod("netexec", { image: agnhost, args: ["netexec", "--http-port", "8083", "--udp-port=8084"] });
  await host.pod("names", {
    image: agnhost,
    args: ["serve-hostname", "--tcp", "--http=false", "--port=9376"],
  });
  await host.pod("porter", {
    image: agnhost,
    args: ["porter"],
    env: [{ name: "SERVE_PORT_90", value: "ninety" }],
  });
  const netexec = `${ip(await host.running("netexec"))}:8083`;
  t.equal(await host.curl(`${netexec}/hostname`), "netexec");
  t.equal(await host.curl(`${netexec}/echo?msg=hello&code=201`, "-w", " %{http_code}"), "hello 201");
  t.match(await host.curl(`${netexec}/clientip`), /^10\.244\.1\.1:\d+$/, "the host's address on the bridge");
  t.equal(
    await host.curl(`${netexec}/redirect?location=/hostname`, "-w", "%{http_code} %{redirect_url}"),
    `302 http://${netexec}/hostname`,
  );
  t.same(JSON.parse(await host.curl(`${netexec}/shell?cmd=hostname`)), { output: "netexec\n" });
  t.same(JSON.parse(await host.curl(`${netexec}/shell?cmd=exit%203`)), { error: "exit status 3" });
  const dial = (query: string) =>
    host.curl(`${netexec}/dial?${query}`).then((text) => JSON.parse(text) as unknown);
  const address = netexec.replace(":8083", "");
  t.same(await dial(`host=${address}&port=8084&protocol=udp&request=hostname&tries=2`), {
    responses: ["netexec", "netexec"],
  });
  t.same(await dial(`host=${address}&port=8083&protocol=http&request=echo?msg=x`), { responses: ["x"] });
  t.match(await dial(`host=${address}&port=1&protocol=http&request=hostname`), {
    errors: [/connection refused/],
  });
  const names = ip(await host.running("names"));
  t.equal((await host.ns.exec("bash", ["-c", `cat < /dev/tcp/${names}/9376`])).stdout, "names");
  t.equal(await host.curl(`${ip(await host.running("porter"))}:90/anything`), "ninety");

  const connect = (...args: string[]) => host.exec("netexec", ["/agnhost", "connect", ...args]);
  t.match(await connect(`${address}:8083`), { exitCode: 0, stderr: "" });
  t.match(await connect(`${address}:1`), { exitCode: 1, stderr: "REFUSED\n" });
  t.match(await connect("--protocol=udp", `${address}:8084`), { exitCode: 0 });
  t.match(await connect("--protocol=udp", "--timeout=5s", `${address}:1`), {
    exitCode: 1,
    stderr: /^REFUSED/,
  });
  t.match(await connect("nonsense"), { exitCode: 1, stderr: /^UNKNOWN: address nonsense: missing port/ });
  t.match(await connect("no.such.host.invalid:80"), { exitCode: 1, stderr: /^DNS: / });
  const query = "command=/agnhost&command=connect&command=no.such.host.invalid:80&stdout=true";
  const path = `/exec/default/netexec/main?${query}`;
  const ws = new WebSocket(`ws+unix://${host.socketPath}:${path}`, ["v5.channel.k8s.io"]);
  await new Promise((resolve) => ws.once("message", resolve));
  ws.terminate();
  // As long as the look-up for the client that has gone takes: its answer is for nobody, and disturbs nobody.
  t.match(await connect("no.such.host.invalid:80"), { exitCode: 1 });
  // Ends with its container, as a real process does.
  const serving = host.exec("netexec", ["/agnhost", "netexec", "--http-port=9090", "--udp-port=-1"]);
  await waitFor(async () => (await host.curl(`${address}:9090/hostname`).catch(() => "")) === "netexec");
  await host.curl(`${netexec}/exit?code=5`).catch(() => {});
  const exited = await host.until("netexec", (status) => restarts(status) === 1);
  t.match(main(exited.status)?.lastState?.terminated, { exitCode: 5 });
  t.match(await serving, { exitCode: 137 });
});

t.test("follows logs until the container ends", async (t) => {
  const gate = join(host.directory, "gate");
  mkdirSync(gate);
  await host.pod(
    "talk",
    {
      ...shell("echo first; until [ -e /gate/open ]; do sleep 0.02; done; printf 'second\\nthird\\n'"),
      volumeMounts: [{ name: "gate", mountPath: "/gate" }],
    },
    { restartPolicy: "Never", volumes: [{ name: "gate", hostPath: { path: gate } }] },
  );
  await host.running("talk");
  await waitFor(async () => (await host.logs("talk")) === "first\n");
  const following = host.logs("talk", "follow=true");
  const cut = host.logs("talk", "follow=true&limitBytes=9");
  writeFileSync(join(gate, "open"), "");
  t.equal(await following, "first\nsecond\nthird\n");
  t.equal(await cut, "first\nsec", "to the byte, though more comes in the same chunk");
});

t.test("a new life of the agent starts pods anew and leaks nothing", async (t) => {
  await host.pod("once", { image: "nginx" }, { restartPolicy: "Never" });
  await host.pod(
    "half",
    {},
    {
      restartPolicy: "Never",
      containers: [
        { name: "main", ...shell("exit 4") },
        { name: "other", ...shell("sleep 60") },
      ],
    },
  );
  const begun = join(host.directory, "begun");
  mkdirSync(begun);
  const init = {
    name: "init",
    ...shell("echo $POD >> /begun/log"),
    env: [{ name: "POD", valueFrom: { fieldRef: { fieldPath: "metadata.name" } } }],
    volumeMounts: [{ name: "begun", mountPath: "/begun" }],
  };
  const withInit = { initContainers: [init], volumes: [{ name: "begun", hostPath: { path: begun } }] };
  await host.pod("again", shell("sleep 60"), withInit);
  await host.pod("over", shell("sleep 60"), { ...withInit, restartPolicy: "Never" });
  await Promise.all([host.running("again"), host.running("over")]);
  const before = await host.running("nginx");
  await host.running("once");
  await host.until("half", (status) => main(status)?.state?.terminated && status.phase === "Running");
  const gated = shell("[ -e /begun/open ] && exec sleep 60; exit 11");
  await host.pod("gated", { ...gated, volumeMounts: init.volumeMounts }, { volumes: withInit.volumes });
  const crashing = await host.until(
    "gated",
    (status) => restarts(status) > 0 && main(status)?.state?.waiting,
  );
  await host.stopAgent(true);
  const links = (await host.netlink.listLinks()).map((link) => link.name);
  t.same(
    links.filter((name) => name.startsWith("veth")),
    [],
    "no veth is left",
  );
  writeFileSync(join(begun, "open"), "");
  await host.start();
  const after = await host.until("nginx", (status, pod) => restarts(status) === 1 && ip(pod) !== ip(before));
  t.match(main(after.status)?.lastState?.terminated, { exitCode: 255, reason: "Unknown" });
  t.match(await host.curl(ip(after)), /Welcome to nginx/);
  await host.until("once", (status) => status.phase === "Failed");
  const half = await host.until("half", (status) => status.phase === "Failed");
  t.match(half.status?.containerStatuses, [
    { state: { terminated: { exitCode: 4, reason: "Error" } } },
    { state: { terminated: { exitCode: 255, reason: "Unknown" } } },
  ]);
  const again = await host.until("again", (status) => restarts(status) === 1 && status.phase === "Running");
  t.match(again.status?.initContainerStatuses, [{ ready: true, state: { terminated: { exitCode: 0 } } }]);
  const over = await host.until("over", (status) => status.phase === "Failed");
  t.match(over.status?.initContainerStatuses, [{ ready: true, state: { terminated: { exitCode: 0 } } }]);
  const log = readFileSync(join(begun, "log"), "utf8").trim().split("\n").sort();
  t.same(log, ["again", "again", "over"], "a new network needs its init containers again");
  const opened = await host.until("gated", (status) => main(status)?.state?.running);
  t.ok(restarts(opened.status ?? {}) > restarts(crashing.status ?? {}));
  t.match(main(opened.status)?.lastState?.terminated, { exitCode: 11, reason: "Error" });
  t.equal((await host.until("job", () => true)).status?.phase, "Failed", "what was finished stays so");

  // Killed, not stopped: the next life gives back what this one took.
  await host.stopAgent(false);
  await host.start();
  await host.until("nginx", (status) => restarts(status) === 2);
  const networks = join(host.directory, "run/cni/networks/kubeplumb");
  const held = () => readdirSync(networks).filter((name) => /^\d+\.\d+\.\d+\.\d+$/.test(name)).length;
  const all = (await client.list(PODS)).items;
  const living = () => all.filter((pod) => host.agent.podSandbox("default", pod.metadata.name)).length;
  await t.resolves(
    waitFor(async () => held() === living()),
    "as many addresses as pods that live",
  );
  t.notOk((await client.list(EVENTS)).items.some((event) => event.reason === "FailedCreatePodSandBox"));
});
