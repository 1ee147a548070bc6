// A cluster of both families whose primary one is IPv6, as kubectl and real requests see it: what has one address has
// an IPv6 one, what has two has it first, and both are reached.

import { isIPv6 } from "node:net";
import t from "tap";
import { createCluster } from "../../index.js";
import { freePort } from "../helpers/free-port.js";
import { kubectlOf } from "../helpers/kubectl.js";
import { deployment, netexec, service } from "../helpers/manifests.js";

t.setTimeout(240_000);

const selector = { app: "web" };
const ports = [{ port: 80, targetPort: 8080 }];
const WEB = [
  deployment("web", { containers: [netexec()] }, { replicas: 2 }, { labels: selector }),
  service("web", {
    type: "NodePort",
    ipFamilyPolicy: "RequireDualStack",
    selector,
    ports: [{ port: 80, targetPort: 8080, nodePort: 30080 }],
  }),
  service("single", { selector, ports }),
  service("old", { ipFamilies: ["IPv4"], selector, ports }),
];

t.test("IPv6 is the primary family", async (t) => {
  const networking = { ipFamily: "dual" as const, serviceSubnet: "fd00:10:96::/112,10.96.0.0/16" };
  const hostPort = await freePort();
  const publish = [{ hostPort, nodePort: 30080 }];
  await using cluster = await createCluster({ nodes: 2, config: { networking }, publish });
  const kubectl = kubectlOf(cluster);
  const get = (kind: string, path: string) => kubectl("get", ...kind.split(" "), "-o", `jsonpath=${path}`);
  const node = "{.metadata.name} {.spec.podCIDRs} {.status.addresses[?(@.type=='InternalIP')].address}";
  t.same((await get("nodes", `{range .items[*]}${node}{"\\n"}{end}`)).trim().split("\n"), [
    'node-1 ["fd00:10:244::/64","10.244.0.0/24"] fd00:192:168:56::b 192.168.56.11',
    'node-2 ["fd00:10:244:1::/64","10.244.1.0/24"] fd00:192:168:56::c 192.168.56.12',
  ]);

  await cluster.apply(WEB);
  // Not "Available", which three of four pods are.
  await kubectlOf(cluster)("rollout", "status", "deployment/web", "--timeout=60s");
  await cluster.waitForSync();
  t.equal(await get("service kubernetes", "{.spec.clusterIPs}"), '["fd00:10:96::1"]');
  t.match(await get("service single", "{.spec.ipFamilies} {.spec.clusterIP}"), /^\["IPv6"\] fd00:10:96::/);
  t.match(await get("service old", "{.spec.ipFamilies} {.spec.clusterIP}"), /^\["IPv4"\] 10\.96\./);
  const addresses = JSON.parse(await get("service web", "{.spec.clusterIPs}")) as string[];
  t.match(addresses, [/^fd00:10:96::/, /^10\.96\./]);
  for (const name of ["single", "old"]) addresses.push(await get(`service ${name}`, "{.spec.clusterIP}"));

  const { items } = JSON.parse(await kubectl("get", "pods", "-o", "json")) as {
    items: { metadata: { name: string }; status: { podIP: string; podIPs: { ip: string }[] } }[];
  };
  const pods = items.map(({ metadata: { name }, status: { podIP, podIPs } }) => {
    const ips = podIPs.map(({ ip }) => ip);
    t.same(ips.map(isIPv6), [true, false], `${name} has ${ips}`);
    t.equal(podIP, ips[0]);
    return { name, ips };
  });
  const [pod = { name: "", ips: [] }] = pods;
  const names = pods.map(({ name }) => name);
  t.equal((await kubectl("exec", pod.name, "--", "sh", "-c", "echo $IPS")).trim(), pod.ips.join(","));

  const answer = async (from: string, ip: string, port: number) => {
    const { status, body, stderr } = await cluster.curl(
      from,
      `http://${isIPv6(ip) ? `[${ip}]` : ip}:${port}/hostname`,
    );
    return status === 200 ? body : `${status} ${stderr}`;
  };
  for (const from of [`default/${pod.name}`, "node-1", "node-2"]) {
    for (const ip of addresses)
      t.ok(names.includes(await answer(from, ip, 80)), `ClusterIP ${ip} from ${from}`);
    for (const ip of ["fd00:192:168:56::c", "192.168.56.12"])
      t.ok(names.includes(await answer(from, ip, 30080)), `NodePort of ${ip} from ${from}`);
    for (const { name, ips } of pods)
      for (const ip of ips) t.equal(await answer(from, ip, 8080), name, `pod ${ip} from ${from}`);
  }
  const published = await fetch(`http://127.0.0.1:${hostPort}/hostname`);
  t.ok(names.includes(await published.text()), "a port of this machine");
  const api = await cluster.exec(`default/${pod.name}`, ["curl", "-sk", "https://[fd00:10:96::1]/version"]);
  t.match(api.stdout, /gitVersion|Forbidden|Unauthorized/, "the API server by its Service");
  const { stdout: links } = await cluster.exec("node-1", ["ip", "-br", "link"]);
  t.match(links, /flannel\.1[\s@]/);
  t.match(links, /flannel-v6\.1/);
  const metrics = await cluster.exec("node-1", ["curl", "-s", "http://127.0.0.1:10249/metrics"]);
  for (const family of ["IPv4", "IPv6"])
    t.match(
      metrics.stdout,
      new RegExp(`sync_proxy_rules_duration_seconds_count\\{ip_family="${family}"\\} [1-9]`),
    );
});
