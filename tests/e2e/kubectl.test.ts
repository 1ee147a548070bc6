// What somebody who knows a real cluster sees through kubectl: printing, apply, patch, rollouts, exec, logs, deletion,
// drain, errors. Everything here was typed by hand first and compared with what a kubeadm cluster answers.

import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import t, { type Test } from "tap";
import { DEPLOYMENTS } from "../../common/client.js";
import { fileCluster, sedEditor } from "../helpers/file-cluster.js";
import { deployment, service } from "../helpers/manifests.js";

t.setTimeout(240_000);
const { cluster, directory } = await fileCluster(2);

interface Run {
  exitCode: number;
  stdout: string;
  stderr: string;
}

function run(args: readonly string[], input?: string): Promise<Run> {
  return cluster.kubectl(args, input === undefined ? {} : { input });
}

/** A kubectl command line, split at spaces, that must succeed; stdout without the last newline. */
async function kubectl(line: string, ...more: string[]): Promise<string> {
  const result = await run([...line.split(" "), ...more]);
  if (result.exitCode !== 0) throw new Error(`kubectl ${line}: ${result.stderr}`);
  return result.stdout.trimEnd();
}

/** kubectl with a manifest (YAML, which JSON is) on stdin. */
async function withManifest(line: string, manifest: string | object): Promise<Run> {
  const input = typeof manifest === "string" ? manifest : JSON.stringify(manifest);
  return await run([...line.split(" "), "-f", "-"], input);
}

async function apply(manifest: string | object): Promise<string> {
  const result = await withManifest("apply", manifest);
  if (result.exitCode !== 0) throw new Error(result.stderr);
  return result.stdout.trimEnd();
}

/** The command fails with exit code 1, says this, and nothing on stdout. */
function refused(t: Test, result: Run, pattern: RegExp): void {
  t.equal(result.exitCode, 1, String(pattern));
  t.match(result.stderr, pattern);
  t.equal(result.stdout, "", `nothing done: ${pattern}`);
}

const jsonpath = (line: string, path: string): Promise<string> =>
  kubectl(`get ${line} -o`, `jsonpath=${path}`);

const meta = (name: string, more: object = {}) => ({ name, ...more });

t.test("discovery, explain, version", async (t) => {
  t.match(await kubectl("version"), /Server Version: v1\.36\.0\+kubeplumb/);
  t.match(await kubectl("api-resources"), /^endpointslices +discovery\.k8s\.io\/v1 +true +EndpointSlice$/m);
  t.same((await kubectl("api-versions")).split("\n"), [
    "apps/v1",
    "authentication.k8s.io/v1",
    "authorization.k8s.io/v1",
    "autoscaling/v1",
    "autoscaling/v2",
    "batch/v1",
    "certificates.k8s.io/v1",
    "coordination.k8s.io/v1",
    "discovery.k8s.io/v1",
    "events.k8s.io/v1",
    "metrics.k8s.io/v1beta1",
    "networking.k8s.io/v1",
    "policy/v1",
    "rbac.authorization.k8s.io/v1",
    "scheduling.k8s.io/v1",
    "storage.k8s.io/v1",
    "v1",
  ]);
  t.match(
    await kubectl("explain pod.spec.containers"),
    /FIELD: containers <\[\]Container>[\s\S]*readinessProbe/,
  );
  t.match(await kubectl("explain deploy.spec --recursive"), /selector\t<LabelSelector> -required-/);
  t.match(
    await kubectl("describe node node-1"),
    /Type +Status[\s\S]*NetworkUnavailable +False[\s\S]*PodCIDR: +10\.244\./,
  );
});

t.test("apply: create, unchanged, change one container, drop what is no longer listed", async (t) => {
  const side = {
    name: "side",
    image: "traefik/whoami",
    args: ["--port=81"],
    env: [{ name: "C", value: "3" }],
  };
  const main = (image: string, env: object[], ports: number[]) => ({
    name: "main",
    image,
    env,
    ports: ports.map((containerPort) => ({ containerPort })),
  });
  const both = [
    { name: "A", value: "1" },
    { name: "B", value: "2" },
  ];
  const first = deployment(
    "app",
    { containers: [main("nginx", both, [80, 81]), side] },
    {},
    { labels: { x: "1", z: "2" } },
  );
  const second = deployment(
    "app",
    { containers: [main("nginx:1.25", both.slice(0, 1), [80]), side] },
    {},
    { labels: { x: "1" } },
  );
  t.equal((await withManifest("diff", first)).exitCode, 1, "differs: it is not there");
  t.equal(
    (await withManifest("apply --dry-run=server", first)).stdout,
    "deployment.apps/app created (server dry run)\n",
  );
  t.equal((await run(["get", "deploy", "app"])).exitCode, 1, "nothing was created");
  t.equal(await apply(first), "deployment.apps/app created");
  t.equal(await apply(first), "deployment.apps/app unchanged");
  t.match((await withManifest("diff", second)).stdout, /-\s+image: nginx\n\+\s+image: nginx:1\.25/);
  t.equal(await apply(second), "deployment.apps/app configured");
  t.equal((await withManifest("diff", second)).exitCode, 0);
  const object = JSON.parse(await kubectl("get deploy app -o json"));
  t.same(object.metadata.labels, { x: "1" });
  const [one, two] = object.spec.template.spec.containers;
  t.match(one, { name: "main", image: "nginx:1.25", env: [{ name: "A", value: "1" }] });
  t.same([one.env.length, one.ports.length], [1, 1]);
  t.match(two, side, "the other container is untouched");
  t.equal(await kubectl("scale deploy/app --current-replicas=1 --replicas=2"), "deployment.apps/app scaled");
  refused(
    t,
    await run(["scale", "deploy/app", "--current-replicas=5", "--replicas=2"]),
    /Expected replicas to be 5, was 2/,
  );
  t.match(await kubectl("get deploy app --subresource=scale"), /^NAME +DESIRED +AVAILABLE +AGE\napp +2 +/);
});

t.test("rollout: status, pause, history, undo, a bad image", async (t) => {
  const container = { name: "c", image: "traefik/whoami:v1" };
  await apply(deployment("roll", { containers: [container] }, { replicas: 2 }));
  t.match(await kubectl("rollout status deploy/roll --timeout=60s"), /successfully rolled out/);
  await kubectl("rollout pause deploy/roll");
  await kubectl("set image deploy/roll c=traefik/whoami:v2");
  t.equal((await run("rollout status deploy/roll --timeout=1s".split(" "))).exitCode, 1, "paused");
  t.equal(await jsonpath("deploy/roll", "{.status.updatedReplicas}"), "");
  await kubectl("rollout resume deploy/roll");
  await kubectl("rollout status deploy/roll --timeout=60s");
  await kubectl("annotate deploy/roll", "kubernetes.io/change-cause=second");
  await cluster.waitUntil(async () => (await kubectl("rollout history deploy/roll")).includes("second"));
  t.match(await kubectl("rollout history deploy/roll"), /REVISION +CHANGE-CAUSE\n1 +<none>\n2 +second/);
  const deadline = (seconds: number) =>
    kubectl("patch deploy roll -p", JSON.stringify({ spec: { progressDeadlineSeconds: seconds } }));
  await kubectl("set image deploy/roll c=nosuch/image:v9");
  await deadline(3);
  refused(t, await quietly("rollout status deploy/roll --timeout=60s"), /exceeded its progress deadline/);
  await shows("pods -l app=roll", /0\/1 +(ImagePullBackOff|ErrImagePull) /);
  t.match(await kubectl("get deploy roll"), /roll +2\/2 +1 +2 /);
  await deadline(600);
  t.equal(await kubectl("rollout undo deploy/roll"), "deployment.apps/roll rolled back");
  t.match(await kubectl("rollout status deploy/roll --timeout=60s"), /successfully rolled out/);
  t.equal(await jsonpath("deploy/roll", "{.spec.template.spec.containers[0].image}"), "traefik/whoami:v2");
  refused(
    t,
    await run(["rollout", "undo", "deploy/roll", "--to-revision=99"]),
    /unable to find specified revision 99/,
  );
});

/** Waits until kubectl get says it. */
async function shows(what: string, pattern: RegExp): Promise<void> {
  await cluster.waitUntil(async () => pattern.test(await kubectl(`get ${what}`)), {
    what: `${what} ${pattern}`,
  });
}

/** Without the progress that kubectl prints while it waits. */
async function quietly(line: string): Promise<Run> {
  return { ...(await run(line.split(" "))), stdout: "" };
}

t.test("edit, replace, patch, label: conflicts and what may not change", async (t) => {
  const editor = sedEditor(directory, "s/replicas: 2/replicas: 3/");
  process.env.KUBE_EDITOR = editor;
  t.equal(await kubectl("edit deploy/app"), "deployment.apps/app edited");
  t.equal(await jsonpath("deploy/app", "{.spec.replicas}"), "3");
  const cm = (metadata: object, data: object) => ({ apiVersion: "v1", kind: "ConfigMap", metadata, data });
  await apply(cm(meta("cm"), { a: "1" }));
  const stale = await withManifest("replace", cm(meta("cm", { resourceVersion: "1" }), { a: "2" }));
  refused(
    t,
    stale,
    /\(Conflict\).*the object has been modified; please apply your changes to the latest version/,
  );
  t.equal((await withManifest("replace", cm(meta("cm"), { b: "2" }))).exitCode, 0);
  t.equal(await jsonpath("cm/cm", "{.data}"), '{"b":"2"}');
  await apply(service("s", { selector: { app: "app" }, ports: [{ port: 80 }] }));
  const ip = await jsonpath("svc/s", "{.spec.clusterIP}");
  await kubectl("patch svc s -p", '{"spec":{"type":"NodePort"}}');
  const nodePort = JSON.stringify([{ op: "replace", path: "/spec/ports/0/nodePort", value: 31234 }]);
  await kubectl("patch svc s --type=json -p", nodePort);
  t.match(await kubectl("get svc s"), new RegExp(`s +NodePort +${ip} +<none> +80:31234/TCP`));
  await kubectl("patch svc s --type=merge -p", '{"spec":{"type":"ClusterIP"}}');
  t.match(await kubectl("get svc s"), new RegExp(`s +ClusterIP +${ip} +<none> +80/TCP`));
  refused(
    t,
    await run(["patch", "svc", "s", "-p", '{"spec":{"clusterIP":"10.96.9.9"}}']),
    /spec\.clusterIPs\[0\]: Invalid value: \["10\.96\.9\.9"\]: may not change once set/,
  );
  t.match(await kubectl("label svc s tier=x"), /labeled/);
  refused(
    t,
    await run(["label", "svc", "s", "tier=y"]),
    /already has a value \(x\), and --overwrite is false/,
  );
  t.match(await kubectl("label svc s tier-"), /unlabeled/);
});

t.test("another image for a running container: it is restarted, whatever the restart policy", async (t) => {
  await kubectl("run img --image=nginx --restart=Never");
  await kubectl("wait --for=condition=Ready pod/img --timeout=60s");
  await kubectl("set image pod/img img=traefik/whoami");
  await kubectl("wait --timeout=60s pod/img", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1");
  await kubectl("wait --for=condition=Ready pod/img --timeout=60s");
  t.match((await cluster.curl("default/img", "http://localhost")).body, /Hostname: img/);
  t.match(await kubectl("describe pod img"), /Killing .*Container img definition changed, will be restarted/);
  // The bad image's back-off is ten seconds and more: being faster once tells that it does not count.
  const once = async () => {
    await kubectl("set image pod/img img=nosuch:v1");
    await shows("pod img", /img +0\/1 +(ImagePullBackOff|ErrImagePull) /);
    await kubectl("set image pod/img img=nginx");
    return (await run("wait --for=condition=Ready pod/img --timeout=8s".split(" "))).exitCode === 0;
  };
  await cluster.waitUntil(once, { what: "running without the back-off of the bad image" });
  t.match(await kubectl("get pod img"), /img +1\/1 +Running +[2-9] /);
  await kubectl("delete pod img");
});

t.test("pods that do not work say why", async (t) => {
  const pod = (name: string, container: object, more: object = {}) => ({
    apiVersion: "v1",
    kind: "Pod",
    metadata: meta(name),
    spec: { containers: [{ name: "c", image: "busybox", ...container }], ...more },
  });
  const pods = [
    pod("crash", { command: ["sh", "-c", "echo boom; exit 3"] }),
    pod("badcmd", { command: ["/no/such"] }),
    pod("nocfg", { image: "nginx", envFrom: [{ configMapRef: { name: "missing" } }] }),
    pod("nosched", { image: "nginx" }, { nodeSelector: { disk: "ssd" } }),
  ];
  for (const one of pods) await apply(one);
  await shows("pod crash", / CrashLoopBackOff /);
  await shows("pod badcmd", / CrashLoopBackOff /);
  await shows("pod nocfg", / CreateContainerConfigError /);
  t.match(await kubectl("describe pod crash"), /Last State: +Terminated\n +Reason: +Error\n +Exit Code: +3/);
  // A container that has just been started again has not said anything yet.
  for (const logs of ["logs crash", "logs crash --previous"])
    await cluster.waitUntil(async () => (await kubectl(logs)) === "boom", { what: logs });
  t.match(
    await kubectl("describe pod badcmd"),
    /Reason: +StartError\n +Message: +exec: "\/no\/such"[^\n]*\n +Exit Code: +128\n +Started: +Thu, 01 Jan 1970/,
  );
  t.match(
    await kubectl("describe pod nosched"),
    /0\/2 nodes are available: 2 node\(s\) didn't match Pod's node/,
  );
  await kubectl("delete pod crash badcmd nocfg nosched");
});

t.test("run, exec, logs, cp, with exit codes and a terminal", async (t) => {
  const once = await run(
    "run once --image=busybox --rm -i -q --restart=Never -- sh -c".split(" ").concat("sleep 1; exit 7"),
  );
  t.equal(once.exitCode, 7);
  await kubectl("run sh --image=busybox --command -- sh -c", "echo one; echo two; exec sleep 600");
  await kubectl("wait --for=condition=Ready pod/sh --timeout=60s");
  t.equal(await kubectl("logs sh --tail=1"), "two");
  t.match(await kubectl("logs sh --timestamps"), /^\d{4}-\d\d-\d\dT\S+Z one\n\S+ two$/);
  refused(t, await run(["logs", "sh", "-c", "nope"]), /container nope is not valid for pod sh/);
  t.equal((await run(["exec", "-i", "sh", "--", "tr", "a-z", "A-Z"], "stdin\n")).stdout, "STDIN\n");
  t.equal((await run(["exec", "sh", "--", "sh", "-c", "exit 5"])).exitCode, 5);
  const config = `--kubeconfig=${cluster.kubeconfigPath}`;
  // The size comes when the command already runs, as with every kubelet.
  const sized = `until [ "$(stty size)" = "40 100" ]; do sleep 0.1; done; tty; exit 6`;
  const tty = await script(`stty rows 40 cols 100; kubectl ${config} exec -it sh -- sh -c '${sized}'`);
  t.equal(tty.exitCode, 6);
  t.match(tty.stdout, /\/dev\/pts\/\d+\r\n/);
  const file = join(directory, "copied");
  writeFileSync(file, "content");
  await kubectl("exec sh -- mkdir -p", `${directory}/in`);
  await kubectl(`cp ${file} sh:${directory}/in/copy`);
  t.equal(await kubectl(`exec sh -- cat ${directory}/in/copy`), "content");
  await kubectl("delete pod sh --now");
});

/** A shell command with a terminal, by script(1). */
function script(command: string): Promise<{ exitCode: number; stdout: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn("timeout", ["100", "script", "-qec", command, "/dev/null"], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    let stdout = "";
    child.stdout.on("data", (chunk: Buffer) => {
      stdout += chunk.toString();
    });
    child.on("error", reject);
    child.on("close", (code) => {
      child.stdin.end();
      resolve({ exitCode: code ?? -1, stdout });
    });
  });
}

t.test("get: selectors, pages, watch from a resourceVersion, sorting, expressions", async (t) => {
  const sorted = () => kubectl("get pods -l app=app -o name --sort-by=.metadata.name");
  await cluster.waitUntil(async () => (await sorted()).split("\n").length === 3, { what: "three pods" });
  const names = await sorted();
  t.equal(await kubectl("get pods -l app=app -o name --chunk-size=1"), names);
  t.equal(await kubectl("get pods --field-selector status.phase=Failed"), "");
  refused(
    t,
    await run(["get", "pods", "--field-selector", "spec.foo=1"]),
    /field label not supported: spec\.foo/,
  );
  refused(t, await run(["get", "pods", "-l", "app in (x"]), /unable to parse requirement/);
  t.match(await kubectl("get deploy/app svc/kubernetes"), /deployment\.apps\/app[\s\S]*service\/kubernetes/);
  const columns = "custom-columns=N:.metadata.name,C:.spec.podCIDR";
  t.match(
    await kubectl("get nodes -o", columns),
    /N +C\nnode-1 +10\.244\.[01]\.0\/24\nnode-2 +10\.244\.[01]\.0\/24/,
  );
  const version = await jsonpath("cm/cm", "{.metadata.resourceVersion}");
  await kubectl("label cm cm seen=yes");
  const path = `/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1&resourceVersion=${version}`;
  const [event = "{}"] = (await kubectl("get --raw", path)).split("\n");
  t.match(JSON.parse(event), { type: "MODIFIED", object: { metadata: { labels: { seen: "yes" } } } });
});

t.test("bad input: field, value, what is allowed; nothing changes", async (t) => {
  const cases: [object | string, RegExp][] = [
    [
      service("bad", { type: "NodePort", ports: [{ port: 80, nodePort: 8080 }] }),
      /spec\.ports\[0\]\.nodePort: Invalid value: 8080: .*The range of valid ports is 30000-32767/,
    ],
    [
      service("bad", { clusterIP: "10.97.0.1", ports: [{ port: 80 }] }),
      /spec\.clusterIPs: Invalid value: \["10\.97\.0\.1"\]: .*The range of valid IPs is 10\.96\.0\.0\/16/,
    ],
    [
      service("bad", { clusterIP: "10.96.0.1", ports: [{ port: 80 }] }),
      /spec\.clusterIPs: Invalid value: \["10\.96\.0\.1"\]: .*already allocated/,
    ],
    [
      service("bad", { selectr: { a: "b" }, ports: [{ port: 80, prt: 1 }] }),
      /strict decoding error: unknown field "spec\.ports\[0\]\.prt", unknown field "spec\.selectr"/,
    ],
    [
      { ...service("bad", { ports: [{ port: 80 }] }), metadata: meta("bad", { labels: { "a b": "c" } }) },
      /metadata\.labels: Invalid value: "a b": name part must consist of alphanumeric characters/,
    ],
    [
      deployment("bad", { containers: [{ name: "c", image: "nginx" }] }, { replicas: "3" }),
      /cannot unmarshal string into Go struct field DeploymentSpec\.spec\.replicas of type int32/,
    ],
    ["a: b\n c: d\n", /error converting YAML to JSON: yaml: line 2/],
    // Kinds that are not served: kubectl looks for them in both OpenAPI documents first.
    [
      { apiVersion: "batch/v2", kind: "Job", metadata: meta("bad") },
      /no matches for kind "Job" in version "batch\/v2"/,
    ],
    [
      { apiVersion: "apps/v1", kind: "Foo", metadata: meta("bad") },
      /no matches for kind "Foo" in version "apps\/v1"/,
    ],
    [
      { apiVersion: "v1", kind: "ConfigMap", metadata: meta("bad", { namespace: "nowhere" }) },
      /namespaces "nowhere" not found/,
    ],
  ];
  const before = await kubectl("get all,cm -A -o name");
  for (const [manifest, pattern] of cases) refused(t, await withManifest("apply", manifest), pattern);
  t.equal(await kubectl("get all,cm -A -o name"), before);
});

t.test("deletion: cascades, drain, namespaces, nodes", async (t) => {
  await kubectl("delete deploy app --cascade=orphan");
  t.match(await kubectl("get rs -l app=app -o name"), /replicaset\.apps\/app-/);
  await kubectl("delete rs -l app=app --cascade=foreground");
  t.equal(await kubectl("get rs,pods -l app=app"), "");
  const drained = await kubectl("drain node-2 --ignore-daemonsets --timeout=60s");
  t.match(drained, /node\/node-2 cordoned[\s\S]*node\/node-2 drained/);
  t.match(await kubectl("get nodes"), /node-2 +Ready,SchedulingDisabled /);
  t.equal(await kubectl("get pods -A -o name --field-selector spec.nodeName=node-2"), "");
  await cluster.waitFor(DEPLOYMENTS, "roll", "Available");
  await kubectl("uncordon node-2");
  await kubectl("taint nodes node-1 k=v:NoExecute");
  const moved = "get pods -l app=roll --field-selector=spec.nodeName=node-2,status.phase=Running -o name";
  await cluster.waitUntil(async () => (await kubectl(moved)).split("\n").length === 2, {
    what: "pods moved",
  });
  await kubectl("taint nodes node-1 k-");
  await kubectl("create ns tmp");
  await kubectl("-n tmp create deployment a --image=nginx --replicas=2");
  await kubectl("-n tmp create cm c --from-literal=a=b");
  await kubectl("-n tmp rollout status deploy/a --timeout=60s");
  await kubectl("delete ns tmp --timeout=60s");
  t.equal(await kubectl("get deploy,rs,pods,cm -n tmp"), "");
  refused(t, await run(["create", "cm", "x", "-n", "tmp"]), /namespaces "tmp" not found/);
  refused(t, await run(["delete", "ns", "default"]), /namespaces "default" is forbidden/);
  await kubectl("delete node node-2");
  t.notMatch(await kubectl("get nodes"), /node-2/);
});
