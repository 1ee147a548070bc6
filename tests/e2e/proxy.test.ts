// kubeplumb proxy as a program of its own: in the namespace of a pod, which stands for a host of somebody else's
// cluster, against the API server over TLS. And the servers that a host's own proxy has.

import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import t from "tap";
import { type Cluster, createCluster, DEPLOYMENTS } from "../../index.js";
import { kubectlOf } from "../helpers/kubectl.js";
import { machineFiles, PROGRAM_FILES } from "../helpers/machine-files.js";

t.setTimeout(240_000);
const cluster: Cluster = await createCluster({ nodes: 2 });
t.teardown(() => cluster.stop());
const kubectl = kubectlOf(cluster);

const bin = join(fileURLToPath(import.meta.url), "../../../../bin/kubeplumb.mjs");
const FLAGS = [
  ...["--kubeconfig", cluster.kubeconfigPath, "--master", "https://10.96.0.1:443"],
  ...["--hostname-override", "node-1", "--cluster-cidr", "10.244.0.0/16", "--oom-score-adj", "0"],
];

const files = machineFiles([...PROGRAM_FILES, dirname(cluster.kubeconfigPath)]);

const pod = (name: string, command: readonly string[]) => `
apiVersion: v1
kind: Pod
metadata: { name: ${name} }
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 2
  containers:
    - name: main
      image: busybox
      command: ${JSON.stringify(command)}
      securityContext: { privileged: true }
      volumeMounts: ${JSON.stringify(files.container.volumeMounts)}
  volumes: ${JSON.stringify(files.spec.volumes)}
`;

const WEB = `
apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  replicas: 1
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      nodeName: node-1
      terminationGracePeriodSeconds: 0
      containers: [{ name: web, image: nginx }]
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: { app: web }
  ports: [{ port: 80 }]
`;

/** What Services have of the nat table; `inside`: words before the command. */
async function serviceRules(target: string, inside: readonly string[] = []): Promise<string[]> {
  const { stdout } = await cluster.exec(target, [...inside, "iptables-save", "-t", "nat"]);
  return stdout
    .split("\n")
    .filter((line) => /^-A KUBE-(SERVICES|NODEPORTS|SVC|SVL|EXT|SEP)/.test(line))
    .sort();
}

const get = async (target: string, url: string) => {
  const format = ["-s", "--max-time", "30", "-w", "\n%{http_code}"];
  const { stdout } = await cluster.exec(target, ["curl", ...format, url]);
  const lines = stdout.split("\n");
  return { code: Number(lines.pop()), body: lines.join("\n") };
};

let vip = "";

t.test("another host's kube-proxy writes what this host's does", async (t) => {
  await cluster.apply(WEB);
  await cluster.apply(pod("kube-proxy", [process.execPath, bin, "proxy", ...FLAGS]));
  await cluster.waitFor(DEPLOYMENTS, "web", "Available");
  await kubectl("rollout", "status", "deployment/coredns", "-n", "kube-system", "--timeout=60s");
  await kubectl("wait", "--for=condition=Ready", "pod/kube-proxy", "--timeout=60s");
  await cluster.waitForSync();
  const host = await serviceRules("node-1");
  t.ok(host.length > 5, `${host.length} rules`);
  const same = async () => JSON.stringify(await serviceRules("default/kube-proxy")) === JSON.stringify(host);
  await cluster.waitUntil(same, { timeoutMs: 60_000 }).catch(() => {});
  t.strictSame(await serviceRules("default/kube-proxy"), host);
  vip = await kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}");
  const { stdout } = await cluster.exec("default/kube-proxy", ["iptables-save", "-c", "-t", "nat"]);
  t.match(stdout, /^\[0:0\] -A KUBE-SEP-\w+ .*-j DNAT/m, "nobody has used it yet");
  t.equal((await get("default/kube-proxy", `http://${vip}/`)).code, 200);
  const after = await cluster.exec("default/kube-proxy", ["iptables-save", "-c", "-t", "nat"]);
  t.match(after.stdout, /^\[1:\d+\] -A KUBE-SEP-\w+ .*-j DNAT/m, "now the program's own rule has done it");
  t.match(await kubectl("logs", "kube-proxy"), /rules are in place/);
  const events = () => kubectl("get", "events", "-o", "jsonpath={.items[*].source.component}");
  // Its connection went through the address that its own rules now translate: the first try is lost with it.
  await cluster.waitUntil(async () => /kube-proxy/.test(await events()), { timeoutMs: 60_000 });
  t.pass("it tells of itself as kube-proxy does");
});

t.test("the API server goes away: rules stay, and follow when it is back", async (t) => {
  const before = await serviceRules("default/kube-proxy");
  // kubectl exec goes through control; a process of the pod is found from its host too.
  const found = await cluster.exec("node-2", ["pgrep", "-n", "-f", "hostname-override node-1"]);
  const inside = ["nsenter", "-n", "-t", found.stdout.trim()];
  await cluster.kill("control");
  await sleep(process.env.KUBEPLUMB_LONG_TESTS ? 60_000 : 3000);
  t.strictSame(await serviceRules("node-2", inside), before);
  const { stdout } = await cluster.exec("node-2", [...inside, "curl", "-sI", `http://${vip}/`]);
  t.match(stdout, /200 OK/, "and route");
  await cluster.restart();
  await kubectl("scale", "deployment/web", "--replicas=3");
  const endpoints = async () =>
    (await serviceRules("default/kube-proxy")).filter((rule) => /"default\/web".* -j DNAT /.test(rule))
      .length;
  await cluster.waitUntil(async () => (await endpoints()) === 3, { timeoutMs: 60_000 });
  t.pass("new endpoints are there");
});

for (const target of ["default/kube-proxy", "node-1"]) {
  t.test(`servers of the proxy in ${target}`, async (t) => {
    t.strictSame(await get(target, "http://127.0.0.1:10249/proxyMode"), { code: 200, body: "iptables" });
    const { code, body } = await get(target, "http://127.0.0.1:10256/healthz");
    t.equal(code, 200);
    t.match(JSON.parse(body), { nodeEligible: true, lastUpdated: /UTC/ });
    t.equal((await get(target, "http://127.0.0.1:10256/livez")).code, 200);
    const metrics = await get(target, "http://127.0.0.1:10249/metrics");
    t.match(
      metrics.body,
      /^kubeproxy_sync_proxy_rules_duration_seconds_count\{.*ip_family="IPv4".*\} [1-9]/m,
    );
    t.match(metrics.body, /^kubeproxy_proxy_healthz_total\{code="200"\} 1$/m);
    const configz = JSON.parse((await get(target, "http://127.0.0.1:10249/configz")).body);
    t.match(configz["kubeproxy.config.k8s.io"], { clusterCIDR: "10.244.0.0/16", mode: "iptables" });
  });
}

t.test("healthCheckNodePort tells which nodes have endpoints", async (t) => {
  const port = await kubectl("get", "service", "web", "-o", "jsonpath={.spec.healthCheckNodePort}");
  const [one, two] = cluster.hosts.map(({ ip }) => `http://${ip}:${port}/`);
  await kubectl("rollout", "status", "deployment/web", "--timeout=60s");
  const told = async () => JSON.parse((await get("node-2", one ?? "")).body).localEndpoints;
  await cluster.waitUntil(async () => (await told()) === 3, { timeoutMs: 60_000 });
  const here = await get("node-2", one ?? "");
  t.equal(here.code, 200);
  t.match(JSON.parse(here.body), {
    service: { namespace: "default", name: "web" },
    localEndpoints: 3,
    serviceProxyHealthy: true,
  });
  const there = await get("node-1", two ?? "");
  t.equal(there.code, 503);
  t.match(JSON.parse(there.body), { localEndpoints: 0 });
  await kubectl("delete", "service", "web");
  await cluster.waitUntil(async () => (await get("node-2", one ?? "")).code === 0, { timeoutMs: 60_000 });
  t.pass("the port is closed with the Service");
});

t.test("a Service prefers endpoints of the client's zone, and follows a node's label", async (t) => {
  const server = (node: string) => `
apiVersion: v1
kind: Pod
metadata: { name: near-${node}, labels: { app: near } }
spec: { nodeName: ${node}, terminationGracePeriodSeconds: 0, containers: [{ name: web, image: nginx }] }`;
  const labels = (node: string, zone: string) =>
    kubectl("label", "--overwrite", "node", node, `topology.kubernetes.io/zone=${zone}`);
  await labels("node-1", "a");
  await labels("node-2", "b");
  await cluster.apply(`${server("node-1")}
---${server("node-2")}
---
apiVersion: v1
kind: Service
metadata: { name: near }
spec: { selector: { app: near }, ports: [{ port: 80 }], trafficDistribution: PreferSameZone }`);
  await kubectl("wait", "--for=condition=Ready", "pod/near-node-1", "pod/near-node-2", "--timeout=60s");
  const ip = (node: string) => kubectl("get", "pod", `near-${node}`, "-o", "jsonpath={.status.podIP}");
  const [one, two] = [await ip("node-1"), await ip("node-2")];
  const backends = async (node: string) =>
    (await serviceRules(node))
      .filter((rule) => rule.includes("default/near") && / -j DNAT /.test(rule))
      .map((rule) => rule.replace(/.*--to-destination (.*):80$/, "$1"))
      .sort();
  const become = (node: string, wanted: string[]) =>
    cluster.waitUntil(async () => JSON.stringify(await backends(node)) === JSON.stringify(wanted.sort()), {
      what: `${node} sends to ${wanted}`,
      timeoutMs: 60_000,
    });
  await become("node-1", [one]);
  await become("node-2", [two]);
  await labels("node-1", "b");
  await become("node-1", [one, two]);
  await become("node-2", [one, two]);
  t.pass("both nodes are in one zone now");
});

t.test("--cleanup removes what is ours and nothing else", async (t) => {
  await cluster.apply(pod("other", ["sleep", "600"]));
  await kubectl("wait", "--for=condition=Ready", "pod/other", "--timeout=60s");
  const inPod = (...argv: string[]) => cluster.exec("default/other", argv);
  const foreign = [
    "iptables -t nat -N MINE",
    "iptables -t nat -A OUTPUT -d 10.9.9.9/32 -j MINE",
    "iptables -t nat -A OUTPUT -d 10.9.9.8/32 -j MINE",
    "iptables -A INPUT -s 10.9.9.9/32 -j DROP",
    "iptables -P FORWARD DROP",
  ];
  await inPod("sh", "-ec", foreign.join("\n"));
  const rules = async () => {
    const { stdout } = await inPod("iptables-save");
    return stdout
      .split("\n")
      .filter((line) => /^[-:*]/.test(line))
      .map((line) => line.replace(/ \[.*\]/, ""));
  };
  const before = await rules();
  const program = [process.execPath, bin, "proxy"];
  const stopped =
    'timeout 100 "$@" & until iptables-save | grep -q "^-A KUBE-SERVICES"; do sleep 0.1; done; kill $!; wait';
  await inPod("sh", "-c", stopped, "sh", ...program, ...FLAGS);
  t.ok(
    (await rules()).some((line) => line.startsWith("-A KUBE-")),
    "rules stay when the program ends",
  );
  const { stderr } = await inPod(...program, "--cleanup");
  t.match(stderr, /rules removed/);
  const tables = new Set(before.filter((line) => line.startsWith("*")));
  const left: string[] = [];
  let shown = true;
  for (const line of await rules()) {
    // An empty table that only exists now is no rule.
    if (line.startsWith("*")) shown = tables.has(line);
    if (shown) left.push(line);
    else t.notMatch(line, /^-A|KUBE/);
  }
  t.strictSame(left, before);
});

t.test("wrong flags change nothing and are named", async (t) => {
  const run = (...args: string[]) => cluster.exec("default/other", [process.execPath, bin, "proxy", ...args]);
  const wrong = await run("--proxy-mode", "ipvs", "--iptables-masquerade-bit", "40");
  t.equal(wrong.exitCode, 2);
  t.match(wrong.stderr, /--proxy-mode: "ipvs": allowed is iptables/);
  t.match(wrong.stderr, /--iptables-masquerade-bit: 40: a whole number from 0 to 31/);
  const lost = await run("--kubeconfig", "/nowhere/config");
  t.equal(lost.exitCode, 1);
  t.match(lost.stderr, /ENOENT.*\/nowhere\/config/);
  const nothing = await cluster.exec("default/other", [
    ...["env", "-u", "KUBERNETES_SERVICE_HOST"],
    ...[process.execPath, bin, "proxy"],
  ]);
  t.match(nothing.stderr, /not in a pod: KUBERNETES_SERVICE_HOST/);
});
