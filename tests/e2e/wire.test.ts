// The wire between the hosts under people's hands: a cable out and in, routes removed, the bridge down and up, a
// debugger that begins to listen in the lab. All of it comes back by itself.

import t from "tap";
import { createCluster } from "../../index.js";
import { kubectlOf } from "../helpers/kubectl.js";

/** The place beside the hosts. */
const OUTSIDE = "underlay";

t.setTimeout(240_000);
const cluster = await createCluster({
  nodes: 2,
  config: { networking: { ipFamily: "dual" }, dns: { enabled: false } },
});
t.teardown(() => cluster.stop());
const kubectl = kubectlOf(cluster);

const sh = (host: string, script: string) => cluster.exec(host, ["sh", "-ec", script]);
const answers = (host: string, url: string) => async () =>
  (await cluster.curl(host, url, ["--max-time", "1"])).status === 200;

await cluster.apply(`
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
spec: { type: LoadBalancer, ipFamilyPolicy: PreferDualStack, selector: { app: web }, ports: [{ port: 80 }] }`);
await kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=60s");
await kubectl("wait", "--for=jsonpath={.status.loadBalancer.ingress[1].ip}", "service/web", "--timeout=60s");
const ips = async (path: string) => {
  const text = await kubectl("get", "service", "web", "-o", `jsonpath={${path}}`);
  return text.split(" ").map((ip) => `http://${ip.includes(":") ? `[${ip}]` : ip}/`);
};
const clusterURLs = await ips(".spec.clusterIPs[0]}{' '}{.spec.clusterIPs[1]");
const balancerURLs = await ips(".status.loadBalancer.ingress[*].ip");

t.test("a cable that is pulled and put in again", async (t) => {
  for (const url of clusterURLs) await cluster.waitUntil(answers("node-2", url));
  const before = await sh("node-2", "ip -o address show dev eth0; ip route; ip -6 route show default");
  // Both within one look at the news, and with a look in between.
  for (const pause of ["0", "1"]) {
    await sh("node-2", `ip link set eth0 down; sleep ${pause}; ip link set eth0 up`);
    for (const url of clusterURLs) {
      await cluster.waitUntil(answers("node-2", url), { timeoutMs: 60_000, what: `${url} after ${pause} s` });
      t.pass(`${url} answers on the host again`);
    }
  }
  const after = await sh("node-2", "ip -o address show dev eth0; ip route; ip -6 route show default");
  const globals = (text: string) =>
    text
      .split("\n")
      .filter((line) => /scope global|^default/.test(line))
      .map((line) => line.replace(/ expires.*| pref.*|\\.*/, "").trim())
      .sort();
  t.same(globals(after.stdout), globals(before.stdout), "the addresses and default routes that it had");
});

t.test("routes to the addresses of load balancers", async (t) => {
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

t.test("a debugger in the lab ends nobody", async (t) => {
  await sh("node-1", "true");
  const { lab } = cluster.pids();
  // Node starts the thread that listens: from then on another thread shares this one's root and working directory.
  process.kill(lab, "SIGUSR1");
  await cluster.waitUntil(async () => (await sh(OUTSIDE, "ss -Hltn sport = :9229")).stdout !== "");
  t.equal((await sh("node-1", "hostname")).stdout, "node-1\n", "processes in hosts go on");
  t.equal(cluster.pids().lab, lab);
});
