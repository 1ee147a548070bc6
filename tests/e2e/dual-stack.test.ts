// A cluster of both families and one of IPv6 alone, as kubectl and real requests see them.

import { isIPv6 } from "node:net";
import t, { type Test } from "tap";
import { type Cluster, createCluster } from "../../index.js";
import { freePort } from "../helpers/free-port.js";
import { kubectlOf } from "../helpers/kubectl.js";
import { deployment, netexec, service } from "../helpers/manifests.js";

t.setTimeout(240_000);

interface PodRow {
  name: string;
  node: string;
  ips: string[];
}

const MANIFEST = [
  deployment(
    "web",
    { containers: [netexec("--udp-port=8081")] },
    { replicas: 4 },
    { labels: { app: "web" } },
  ),
  service("web", {
    type: "NodePort",
    ipFamilyPolicy: "PreferDualStack",
    selector: { app: "web" },
    ports: [{ port: 80, targetPort: 8080, nodePort: 30080 }],
  }),
];

async function deploy(cluster: Cluster): Promise<{ pods: PodRow[]; clusterIPs: string[] }> {
  await cluster.apply(MANIFEST);
  // Not "Available", which three of four pods are.
  await kubectlOf(cluster)("rollout", "status", "deployment/web", "--timeout=60s");
  await cluster.waitForSync();
  const kubectl = kubectlOf(cluster);
  const { items } = JSON.parse(await kubectl("get", "pods", "-o", "json"));
  const pods = items.map(
    (pod: { metadata: { name: string }; spec: { nodeName: string }; status: object }) => ({
      name: pod.metadata.name,
      node: pod.spec.nodeName,
      ips: (pod.status as { podIPs: { ip: string }[] }).podIPs.map(({ ip }) => ip),
    }),
  );
  const service = JSON.parse(await kubectl("get", "service", "web", "-o", "json"));
  return { pods, clusterIPs: service.spec.clusterIPs };
}

/** What an HTTP server answers to a request from a host or pod. */
async function get(cluster: Cluster, from: string, ip: string, port: number, path: string): Promise<string> {
  const url = `http://${isIPv6(ip) ? `[${ip}]` : ip}:${port}${path}`;
  const { status, body, stderr } = await cluster.curl(from, url);
  if (status !== 200) throw new Error(`${url} from ${from}: ${status} ${stderr}`);
  return body;
}

/** Every pod answers by the address, and nobody else. */
async function reachesAll(
  cluster: Cluster,
  { from, ip, port }: { from: string; ip: string; port: number },
  pods: readonly PodRow[],
): Promise<boolean> {
  const seen = new Set<string>();
  for (let i = 0; i < 60 && seen.size < pods.length; i++)
    seen.add(await get(cluster, from, ip, port, "/hostname"));
  return pods.every(({ name }) => seen.delete(name)) && seen.size === 0;
}

/** The address without the port that a server saw. */
const addressOf = (peer: string): string => peer.slice(0, peer.lastIndexOf(":")).replace(/^\[|\]$/g, "");

/** Pods with pods, of one host and of two, over every family that they share: the client's own address is seen. */
async function checkPods(t: Test, cluster: Cluster, pods: readonly PodRow[]): Promise<void> {
  for (const from of pods) {
    for (const to of pods.filter(({ name }) => name !== from.name)) {
      for (const [i, ip] of to.ips.entries()) {
        const peer = await get(cluster, `default/${from.name}`, ip, 8080, "/clientip");
        t.equal(addressOf(peer), from.ips[i], `${from.node} → ${to.node}, ${ip}`);
      }
    }
    const [own = ""] = from.ips;
    const to = pods.find(({ node }) => node !== from.node);
    for (const [i, ip] of to?.ips.entries() ?? []) {
      const ask = `/dial?host=${encodeURIComponent(ip)}&port=8081&protocol=udp&request=clientip`;
      const { responses } = JSON.parse(await get(cluster, `default/${from.name}`, own, 8080, ask));
      t.equal(addressOf(responses[0]), from.ips[i], `the same by UDP to ${ip}`);
    }
  }
}

t.test("both families", async (t) => {
  await using cluster = await createCluster({ nodes: 2, config: { networking: { ipFamily: "dual" } } });
  const kubectl = kubectlOf(cluster);
  const nodes = await kubectl(
    "get",
    "nodes",
    "-o",
    'jsonpath={range .items[*]}{.metadata.name} {.spec.podCIDRs} {.status.addresses[?(@.type=="InternalIP")].address}{"\\n"}{end}',
  );
  t.equal(
    nodes.trim(),
    [
      'node-1 ["10.244.0.0/24","fd00:10:244::/64"] 192.168.56.11 fd00:192:168:56::b',
      'node-2 ["10.244.1.0/24","fd00:10:244:1::/64"] 192.168.56.12 fd00:192:168:56::c',
    ].join("\n"),
  );
  const { pods, clusterIPs } = await deploy(cluster);
  t.equal(new Set(pods.map(({ node }) => node)).size, 2, "pods are on both hosts");
  for (const { ips, node } of pods) {
    const n = node === "node-1" ? "0" : "1";
    t.match(ips[0], new RegExp(`^10\\.244\\.${n}\\.`));
    t.match(ips[1], n === "0" ? /^fd00:10:244::[^:]+$/ : /^fd00:10:244:1::[^:]+$/);
  }
  t.match(clusterIPs, [/^10\.96\./, /^fd00:10:96::/]);
  await checkPods(t, cluster, pods);
  const [client] = pods;
  const env = await cluster.exec(`default/${client?.name}`, ["sh", "-c", "echo $IPS"]);
  t.equal(env.stdout.trim(), client?.ips.join(","));
  for (const ip of clusterIPs) {
    for (const from of [`default/${client?.name}`, "node-1", "node-2"])
      t.ok(await reachesAll(cluster, { from, ip, port: 80 }, pods), `ClusterIP ${ip} from ${from}`);
  }
  for (const ip of ["192.168.56.12", "fd00:192:168:56::c"]) {
    for (const from of ["node-1", "node-2", `default/${client?.name}`])
      t.ok(await reachesAll(cluster, { from, ip, port: 30080 }, pods), `NodePort at ${ip} from ${from}`);
  }
  const slices = await kubectl(
    "get",
    "endpointslices",
    "-l",
    "kubernetes.io/service-name=web",
    "-o",
    'jsonpath={range .items[*]}{.addressType}{"\\n"}{end}',
  );
  t.same(slices.split("\n").filter(Boolean).sort(), ["IPv4", "IPv6"]);
  const { stdout: rules } = await cluster.exec("node-1", ["ip6tables-save"]);
  t.match(rules, new RegExp(`-A KUBE-SERVICES -d ${clusterIPs[1]}/128 `));
  t.match(rules, /FLANNEL-POSTRTG/);
  await kubectl("scale", "deployment/web", "--replicas=1");
  await kubectl("rollout", "status", "deployment/web", "--timeout=60s");
  await cluster.waitForSync();
  const { items } = JSON.parse(await kubectl("get", "pods", "-o", "json"));
  const stays = items.find(({ metadata }: { metadata: object }) => !("deletionTimestamp" in metadata));
  const rest = pods.filter(({ name }) => name === stays.metadata.name);
  t.equal(rest.length, 1);
  for (const ip of clusterIPs) {
    for (let i = 0; i < 5; i++)
      t.equal(await get(cluster, "node-2", ip, 80, "/hostname"), rest[0]?.name, "the same pod by both");
  }
});

t.test("IPv6 alone", async (t) => {
  const config = { networking: { ipFamily: "ipv6" as const } };
  const hostPort = await freePort();
  const publish = [{ hostPort, nodePort: 30080 }];
  await using cluster = await createCluster({ nodes: 2, config, publish });
  const kubectl = kubectlOf(cluster);
  t.same(
    cluster.hosts.map(({ ip }) => ip),
    ["fd00:192:168:56::b", "fd00:192:168:56::c"],
  );
  const { pods, clusterIPs } = await deploy(cluster);
  t.equal(new Set(pods.map(({ node }) => node)).size, 2, "pods are on both hosts");
  t.ok(pods.every(({ ips }) => ips.length === 1 && isIPv6(ips[0] ?? "")));
  t.match(clusterIPs, [/^fd00:10:96::/]);
  t.equal(clusterIPs.length, 1);
  await checkPods(t, cluster, pods);
  const pod = `default/${pods[0]?.name}`;
  for (const from of [pod, "node-1"])
    t.ok(
      await reachesAll(cluster, { from, ip: clusterIPs[0] ?? "", port: 80 }, pods),
      `ClusterIP from ${from}`,
    );
  t.ok(await reachesAll(cluster, { from: pod, ip: "fd00:192:168:56::c", port: 30080 }, pods), "NodePort");
  const api = await cluster.exec(pod, ["curl", "-sk", "https://[fd00:10:96::1]/version"]);
  t.match(api.stdout, /gitVersion|Forbidden|Unauthorized/, "the API server answers a pod over IPv6");
  const published = await fetch(`http://127.0.0.1:${hostPort}/hostname`);
  const text = await published.text();
  t.ok(
    pods.some(({ name }) => name === text),
    `${text} answers at a port of this machine`,
  );
  t.match(await kubectl("exec", pods[0]?.name ?? "", "--", "hostname"), pods[0]?.name);
  const { stdout: links } = await cluster.exec("node-1", ["ip", "-br", "link"]);
  t.match(links, /flannel-v6\.1/);
  t.notMatch(links, /flannel\.1/);
});
