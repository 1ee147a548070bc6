// The node agent on a real host namespace: it registers, pods answer, real commands with their files, streams and
// termination messages.

import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { CONFIG_MAPS, EVENTS, LEASES, NODES, PODS, SECRETS, SERVICES } from "../../common/client.js";
import type { PodStatus } from "../../common/k8s.js";
import { startNodeAgent } from "../../node/index.js";
import { client, host, ip, main, restarts, shell, waitFor } from "../helpers/agent-host.js";
import { NODE_IP } from "../unit/helpers/node-harness.js";

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
    },
    {
      runtimeClassName: "sandboxed",
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
  t.match(told.message, /spec\.runtimeClassName$/);
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
