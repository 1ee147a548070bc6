// The wire between the hosts under people's hands: a cable out and in, routes removed, the bridge down and up, a
// debugger that begins to listen in the lab. All of it comes back by itself. The cable in a lab or on VMs.

import t from "tap";
import { clusterUnderTest, onlyInLab } from "../helpers/cluster-under-test.js";
import { kubectlOf } from "../helpers/kubectl.js";

/** The place beside the hosts. */
const OUTSIDE = "underlay";

const { cluster, lab, uplink, patience } = await clusterUnderTest(t, {
  nodes: 2,
  config: { networking: { ipFamily: "dual" }, dns: { enabled: false } },
});
const kubectl = kubectlOf(cluster);

const sh = (host: string, script: string) => cluster.exec(host, ["sh", "-ec", script]);
const answers = (host: string, url: string) => async () =>
  (await cluster.curl(host, url, ["--max-time", "1"])).status === 200;

const SERVED = `
apiVersion: v1
kind: Pod
metadata: { name: web, labels: { app: web } }
spec:
  nodeName: node-1
  containers: [{ name: web, image: nginx }]
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { type: LoadBalancer, ipFamilyPolicy: PreferDualStack, selector: { app: web }, ports: [{ port: 80 }] }`;
const ips = async (path: string) => {
  const text = await kubectl("get", "service", "web", "-o", `jsonpath={${path}}`);
  return text.split(" ").map((ip) => `http://${ip.includes(":") ? `[${ip}]` : ip}/`);
};
let clusterURLs: string[] = [];

t.test("a Service that answers", async (t) => {
  await cluster.apply(SERVED);
  await kubectl("wait", "--for=condition=Ready", "pod/web", `--timeout=${patience}`);
  clusterURLs = await ips(".spec.clusterIPs[*]");
  t.equal(clusterURLs.length, lab ? 2 : 1);
  for (const url of clusterURLs) await cluster.waitUntil(answers("node-2", url));
});

t.test("a cable that is pulled and put in again", async (t) => {
  const look = () => sh("node-2", `ip -o address show dev ${uplink}; ip route; ip -6 route show default`);
  const before = await look();
  // Both within one look at the news, and with a look in between.
  for (const pause of ["0", "1"]) {
    await sh("node-2", `ip link set ${uplink} down; sleep ${pause}; ip link set ${uplink} up`);
    for (const url of clusterURLs) {
      await cluster.waitUntil(answers("node-2", url), { timeoutMs: 60_000, what: `${url} after ${pause} s` });
      t.pass(`${url} answers on the host again`);
    }
  }
  const after = await look();
  const globals = (text: string) =>
    text
      .split("\n")
      .filter((line) => /scope global|^default/.test(line))
      .map((line) => line.replace(/ expires.*| pref.*|\\.*/, "").trim())
      .sort();
  t.same(globals(after.stdout), globals(before.stdout), "the addresses and default routes that it had");
});

t.test("routes to the addresses of load balancers", { skip: onlyInLab() }, async (t) => {
  const both = "--for=jsonpath={.status.loadBalancer.ingress[1].ip}";
  await kubectl("wait", both, "service/web", `--timeout=${patience}`);
  const balancerURLs = await ips(".status.loadBalancer.ingress[*].ip");
  for (const url of balancerURLs) await cluster.waitUntil(answers(OUTSIDE, url));
  // Somebody who puts them back may come before the look: then once more.
  await cluster.waitUntil(async () => {
    const gone = "ip route del 192.168.56.200 || true; ip -6 route del fd00:192:168:56::c8 || true";
    await sh(OUTSIDE, gone);
    return (await cluster.curl(OUTSIDE, balancerURLs[0] ?? "", ["--max-time", "1"])).status !== 200;
  });
  for (const url of balancerURLs) {
    await cluster.waitUntil(answers(OUTSIDE, url), { timeoutMs: 60_000, what: url });
    t.pass(`${url} answers again`);
  }
  await sh(OUTSIDE, "ip link set underlay down; ip link set underlay up");
  await cluster.waitUntil(answers(OUTSIDE, balancerURLs[0] ?? ""), { timeoutMs: 60_000 });
  t.pass("and after the bridge was down, which takes all routes");
});

t.test("a debugger in the lab ends nobody", { skip: onlyInLab() }, async (t) => {
  await sh("node-1", "true");
  const pid = lab?.pids().lab;
  if (pid === undefined) return t.fail("there is no lab");
  // Node starts the thread that listens: from then on another thread shares this one's root and working directory.
  process.kill(pid, "SIGUSR1");
  await cluster.waitUntil(async () => (await sh(OUTSIDE, "ss -Hltn sport = :9229")).stdout !== "");
  t.equal((await sh("node-1", "hostname")).stdout, "node-1\n", "processes in hosts go on");
  t.equal(lab?.pids().lab, pid);
});
