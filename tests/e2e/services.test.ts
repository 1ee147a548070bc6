// The main job as a user does it: kubectl against three hosts of a lab or VMs, real requests through ClusterIP and
// NodePort, the three rules of the Kubernetes network model, the rules that a host shows.

import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import t from "tap";
import { clusterUnderTest, onlyInLab } from "../helpers/cluster-under-test.js";
import { kubectlOf } from "../helpers/kubectl.js";
import { podRows } from "../helpers/pod-rows.js";
import { CHI_SQUARE_1E5, chiSquare, tally } from "../helpers/stats.js";

const { cluster, lab, uplink, apiAddress, subnetFile, patience } = await clusterUnderTest(t);
const kubectl = kubectlOf(cluster);

/** A command in a host or pod that must succeed. */
async function inside(target: string, ...argv: string[]): Promise<string> {
  const result = await cluster.exec(target, argv);
  if (result.exitCode !== 0)
    throw new Error(`${argv.join(" ")} in ${target}: ${result.stderr || result.stdout}`);
  return result.stdout;
}

const podsOf = (label: string) => podRows((argv) => kubectl(...argv), "-l", label);

t.test("nodes as kubectl shows them", async (t) => {
  const wide = await kubectl("get", "nodes", "-o", "wide");
  t.match(wide.split("\n")[0], /^NAME +STATUS +ROLES +AGE +VERSION +INTERNAL-IP +EXTERNAL-IP +OS-IMAGE/);
  for (const [i, ip] of ["192.168.56.11", "192.168.56.12", "192.168.56.13"].entries())
    t.match(wide, new RegExp(`node-${i + 1} +Ready +<none> +\\S+ +v1\\.36\\.0\\+kubeplumb +${ip}`));
});

t.test("create, scale, expose, curl", async (t) => {
  t.equal(
    await kubectl(
      "create",
      "deployment",
      "kubernetes-bootcamp",
      "--image=gcr.io/google-samples/kubernetes-bootcamp:v1",
    ),
    "deployment.apps/kubernetes-bootcamp created",
  );
  t.equal(
    await kubectl("scale", "deployments/kubernetes-bootcamp", "--replicas=4"),
    "deployment.apps/kubernetes-bootcamp scaled",
  );
  t.equal(
    await kubectl("expose", "deployment/kubernetes-bootcamp", "--type=NodePort", "--port", "8080"),
    "service/kubernetes-bootcamp exposed",
  );
  t.match(
    await kubectl("rollout", "status", "deployment/kubernetes-bootcamp", `--timeout=${patience}`),
    /successfully rolled out/,
  );
  t.match(await kubectl("get", "deployments"), /kubernetes-bootcamp +4\/4 +4 +4 /);

  const pods = await podsOf("app=kubernetes-bootcamp");
  t.equal(pods.length, 4);
  t.equal(new Set(pods.map((p) => p.node)).size, 3, "the scheduler spreads the pods over the hosts");
  const names = new Set(pods.map((p) => p.name));
  const clusterIP = await kubectl(
    "get",
    "service",
    "kubernetes-bootcamp",
    "-o",
    "jsonpath={.spec.clusterIP}",
  );
  const nodePort = await kubectl(
    "get",
    "service",
    "kubernetes-bootcamp",
    "-o",
    "jsonpath={.spec.ports[0].nodePort}",
  );

  await cluster.waitForSync();

  const reply = /^Hello Kubernetes bootcamp! \| Running on: (\S+) \| v=1$/m;
  for (const [what, target, url] of [
    ["ClusterIP from a host", "node-1", `${clusterIP}:8080`],
    ["ClusterIP from a pod", `default/${pods[0]?.name}`, `${clusterIP}:8080`],
    ["NodePort of another host", "node-2", `192.168.56.11:${nodePort}`],
    ["NodePort of the host itself", "node-3", `192.168.56.13:${nodePort}`],
    ["NodePort on a host's loopback", "node-3", `127.0.0.1:${nodePort}`],
    ["NodePort from a pod", `default/${pods[1]?.name}`, `192.168.56.12:${nodePort}`],
  ] as const) {
    const text = await inside(target, "curl", "-s", "--max-time", "60", url);
    t.ok(names.has(reply.exec(text)?.[1] ?? ""), `${what}: ${text.trim()}`);
  }

  const viaKubectl = await kubectl("exec", pods[0]?.name ?? "", "--", "curl", "-s", `${clusterIP}:8080`);
  t.match(viaKubectl, reply, "kubectl exec into a pod");
  t.match(await kubectl("logs", pods[0]?.name ?? ""), /Kubernetes Bootcamp App Started/);

  await t.test("1,000 requests spread evenly over four endpoints", async (t) => {
    const text = await inside(
      "node-1",
      "curl",
      "-s",
      "-H",
      "Connection: close",
      `http://${clusterIP}:8080/?[1-1000]`,
    );
    const counts = tally(text.match(/Running on: \S+/g) ?? []);
    const values = [...counts.values()];
    t.equal(
      values.reduce((a, b) => a + b, 0),
      1000,
      "every request was answered",
    );
    t.equal(counts.size, 4);
    t.ok(chiSquare(values) < (CHI_SQUARE_1E5[3] ?? 0), `counts ${values.join(", ")}`);
  });

  await t.test("none goes to a deleted endpoint", async (t) => {
    const victim = pods[0];
    if (!victim) return t.fail("no pod");
    await kubectl("delete", "pod", victim.name, "--wait=false");
    await cluster.waitForSync();
    const text = await inside(
      "node-2",
      "curl",
      "-s",
      "-H",
      "Connection: close",
      `http://${clusterIP}:8080/?[1-200]`,
    );
    t.equal(text.match(/Running on/g)?.length, 200);
    t.notMatch(text, victim.name);
    const rules = await cluster.rules("node-2");
    t.notMatch(rules, `${victim.ip}:8080`);
  });
});

t.test("the three rules of the Kubernetes network model", async (t) => {
  await cluster.apply(
    [1, 2, 3]
      .map(
        (n) => `
apiVersion: v1
kind: Pod
metadata: { name: net-${n}, labels: { app: net, pod: net-${n} } }
spec:
  nodeName: node-${n}
  containers:
    - { name: agnhost, image: registry.k8s.io/e2e-test-images/agnhost:2.53, args: [netexec, --http-port=8080] }`,
      )
      .join("\n---"),
  );
  await kubectl("wait", "--for=condition=Ready", "pod", "-l", "app=net", `--timeout=${patience}`);
  const pods = await podsOf("app=net");
  t.equal(pods.length, 3);

  for (const from of pods) {
    for (const to of pods) {
      if (from === to) continue;
      const seen = await inside(`default/${from.name}`, "curl", "-s", `http://${to.ip}:8080/clientip`);
      t.match(seen, new RegExp(`^${from.ip}:\\d+$`), `${from.name} → ${to.name}: the server sees ${seen}`);
      const ping = await inside(`default/${from.name}`, "ping", "-c1", "-W10", to.ip);
      t.match(ping, /1 received/, `${from.name} pings ${to.name}`);
    }
    const own = await inside(from.node, "curl", "-s", `http://${from.ip}:8080/hostname`);
    t.equal(own.trim(), from.name, "agents on a node reach the node's pods");
    const addresses = await inside(`default/${from.name}`, "ip", "-4", "-o", "addr", "show", "dev", "eth0");
    t.match(addresses, `${from.ip}/24`, "a pod sees itself under the address that others see");
  }

  await kubectl("expose", "pod", "net-3", "--name=net", "--port=80", "--target-port=8080");
  await cluster.waitForSync();
  const vip = await kubectl("get", "service", "net", "-o", "jsonpath={.spec.clusterIP}");
  const client = pods.find((p) => p.name === "net-1");
  const seen = await inside("default/net-1", "curl", "-s", "--max-time", "60", `http://${vip}/clientip`);
  t.match(seen, new RegExp(`^${client?.ip}:`), "pod to ClusterIP across hosts keeps the client's address");
  const hairpin = await inside("default/net-3", "curl", "-s", "--max-time", "60", `http://${vip}/hostname`);
  t.equal(hairpin.trim(), "net-3", "a pod reaches itself through its Service");
});

t.test("UDP, several ports, affinity, no endpoints", async (t) => {
  await cluster.apply(`
apiVersion: apps/v1
kind: Deployment
metadata: { name: multi }
spec:
  replicas: 3
  selector: { matchLabels: { app: multi } }
  template:
    metadata: { labels: { app: multi } }
    spec:
      containers:
        - name: agnhost
          image: registry.k8s.io/e2e-test-images/agnhost:2.53
          args: [netexec, --http-port=8080, --udp-port=8081]
          readinessProbe: { httpGet: { path: /healthz, port: 8080 }, periodSeconds: 1 }
---
apiVersion: v1
kind: Service
metadata: { name: multi }
spec:
  selector: { app: multi }
  ports:
    - { name: http, port: 80, targetPort: 8080 }
    - { name: udp, port: 90, targetPort: 8081, protocol: UDP }
---
apiVersion: v1
kind: Service
metadata: { name: sticky }
spec:
  selector: { app: multi }
  sessionAffinity: ClientIP
  ports: [{ port: 80, targetPort: 8080 }]
---
apiVersion: v1
kind: Service
metadata: { name: empty }
spec:
  selector: { app: nobody }
  ports: [{ port: 80 }]
`);
  await kubectl("rollout", "status", "deployment/multi", `--timeout=${patience}`);
  await cluster.waitForSync();
  const vip = async (name: string) => kubectl("get", "service", name, "-o", "jsonpath={.spec.clusterIP}");

  const http = await inside(
    "node-1",
    "curl",
    "-s",
    "-H",
    "Connection: close",
    `http://${await vip("multi")}/hostname?[1-60]`,
  );
  t.equal(tally(http.match(/multi-[a-z0-9]+-[a-z0-9]{5}/g) ?? []).size, 3, "three pods answer over TCP");

  const dial = await inside(
    "default/net-1",
    "curl",
    "-s",
    `http://127.0.0.1:8080/dial?request=hostname&protocol=udp&host=${await vip("multi")}&port=90&tries=60`,
  );
  const { responses = [] } = JSON.parse(dial) as { responses?: string[] };
  t.equal(responses.length, 60, dial);
  t.equal(tally(responses).size, 3, "three pods answer over UDP");

  const sticky = await inside(
    "default/net-1",
    "curl",
    "-s",
    "-H",
    "Connection: close",
    `http://${await vip("sticky")}/hostname?[1-15]`,
  );
  t.equal(
    tally(sticky.match(/multi-[a-z0-9]+-[a-z0-9]{5}/g) ?? []).size,
    1,
    "ClientIP affinity: 15 equal replies",
  );

  const refused = await cluster.exec("default/net-1", [
    "curl",
    "-s",
    "--max-time",
    "60",
    `http://${await vip("empty")}/`,
  ]);
  t.equal(refused.exitCode, 7, "a Service without endpoints refuses at once");
});

t.test("iptables-save shows what kube-proxy's would", async (t) => {
  const nat = await inside("node-1", "iptables-save", "-t", "nat");
  for (const rule of [
    /^-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES$/m,
    /^-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES$/m,
    /^-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING$/m,
    /^-A KUBE-SERVICES -d 10\.96\.0\.1\/32 -p tcp -m comment --comment "default\/kubernetes:https cluster IP" -m tcp --dport 443 -j KUBE-SVC-NPX46M4PTMTKRN6Y$/m,
    /^-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS$/m,
    /^-A KUBE-NODEPORTS -p tcp -m comment --comment "default\/kubernetes-bootcamp" -m tcp --dport \d+ -j KUBE-EXT-/m,
    /^-A KUBE-SVC-\w+ ! -s 10\.244\.0\.0\/16 -d 10\.\d+\.\d+\.\d+\/32 -p tcp -m comment --comment "default\/kubernetes-bootcamp cluster IP" -m tcp --dport 8080 -j KUBE-MARK-MASQ$/m,
    /^-A KUBE-SVC-\w+ -m comment --comment "default\/kubernetes-bootcamp -> 10\.244\.\d+\.\d+:8080" -m statistic --mode random --probability 0\.25\d* -j KUBE-SEP-/m,
    /^-A KUBE-SEP-\w+ -p tcp -m comment --comment "default\/kubernetes-bootcamp" -m tcp -j DNAT --to-destination 10\.244\.\d+\.\d+:8080$/m,
    /^-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000\/0x4000$/m,
    /^-A KUBE-POSTROUTING -m mark ! --mark 0x4000\/0x4000 -j RETURN$/m,
    /^-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000\/0x0$/m,
    /^-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully$/m,
    /^-A FLANNEL-POSTRTG -m mark --mark 0x4000\/0x4000 .*-j RETURN$/m,
  ])
    t.match(nat, rule);
  const filter = await inside("node-1", "iptables-save", "-t", "filter");
  t.match(filter, /-A KUBE-SERVICES .*"default\/empty has no endpoints".* -j REJECT/);
  t.match(
    filter,
    /-A KUBE-FORWARD -m conntrack --ctstate INVALID (-m nfacct --nfacct-name +ct_state_invalid_dropped_pkts )?-j DROP/,
  );
  t.match(filter, /-A FLANNEL-FWD -s 10\.244\.0\.0\/16 .*-j ACCEPT/);
});

t.test("the overlay's kernel objects are flannel's", async (t) => {
  const link = await inside("node-1", "ip", "-d", "link", "show", "flannel.1");
  t.match(link, /mtu 1450/);
  t.match(link, new RegExp(`vxlan id 1 local 192\\.168\\.56\\.11 dev ${uplink} .*dstport 8472 .*nolearning`));
  const cidr = async (n: number) => kubectl("get", "node", `node-${n}`, "-o", "jsonpath={.spec.podCIDR}");
  const peer = (await cidr(2)).replace("/24", "");
  t.match(
    await inside("node-1", "ip", "-4", "addr", "show", "flannel.1"),
    (await cidr(1)).replace("/24", "/32"),
  );
  t.match(await inside("node-1", "ip", "route"), `${peer}/24 via ${peer} dev flannel.1 onlink`);
  t.match(
    await inside("node-1", "ip", "neigh", "show", "dev", "flannel.1"),
    new RegExp(`${peer} lladdr \\S+ PERMANENT`),
  );
  t.match(
    await inside("node-1", "bridge", "fdb", "show", "dev", "flannel.1"),
    /dst 192\.168\.56\.12 self permanent/,
  );
  t.match(await inside("node-1", "cat", subnetFile), /FLANNEL_MTU=1450/);
  const node = await kubectl("get", "node", "node-2", "-o", "json");
  t.match(node, /"flannel\.alpha\.coreos\.com\/public-ip": "192\.168\.56\.12"/);
});

t.test("the API from a pod, through the Service default/kubernetes", async (t) => {
  t.match(await kubectl("get", "endpoints", "kubernetes"), new RegExp(`kubernetes +${apiAddress}:6443`));
  const answer = await inside(
    "default/net-1",
    "curl",
    "-sk",
    "--max-time",
    "60",
    "https://10.96.0.1/api/v1/nodes",
  );
  t.match(
    JSON.parse(answer),
    { kind: "Status", code: 401, reason: "Unauthorized" },
    "TLS answers, without a certificate nothing else",
  );
});

t.test("a published NodePort answers on this machine's loopback", { skip: onlyInLab() }, async (t) => {
  const nodePort = Number(
    await kubectl("get", "service", "kubernetes-bootcamp", "-o", "jsonpath={.spec.ports[0].nodePort}"),
  );
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port: hostPort } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  await lab?.publish({ hostPort, nodePort });
  const answer = await fetch(`http://127.0.0.1:${hostPort}/`);
  t.match(await answer.text(), /Hello Kubernetes bootcamp!/);
  await t.rejects(
    async () => lab?.publish({ hostPort, nodePort: 80 }),
    /80.*30000-32767/s,
    "a port that no NodePort can have",
  );
});

t.test("bad input: field, value, what is allowed; nothing changed", async (t) => {
  const before = await kubectl("get", "services,deployments,pods", "-A", "-o", "name");
  const service = (spec: string) => `
apiVersion: v1
kind: Service
metadata: { name: bad }
spec: { selector: { app: x }, ${spec} }`;
  const cases: [string, string, RegExp][] = [
    [
      "nodePort out of range",
      service("type: NodePort, ports: [{ port: 80, nodePort: 40000 }]"),
      /spec\.ports\[0\]\.nodePort: Invalid value: 40000: provided port is not in the valid range\. The range of valid ports is 30000-32767/,
    ],
    [
      "ClusterIP outside the range",
      service("clusterIP: 10.200.0.1, ports: [{ port: 80 }]"),
      /spec\.clusterIPs?(\[0\])?: Invalid value: .*10\.200\.0\.1.*10\.96\.0\.0\/16/,
    ],
    [
      "bad label",
      "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: bad, labels: { x: '-a-' } }",
      /metadata\.labels: Invalid value: "-a-": a valid label must be/,
    ],
    ["unknown field", service("ports: [{ port: 80 }], selektor: { a: b }"), /unknown field "spec\.selektor"/],
    ["wrong type", service('ports: [{ port: "eighty" }]'), /port/],
  ];
  for (const [what, yaml, expected] of cases) {
    const result = await cluster.kubectl(["create", "-f", "-"], { input: yaml });
    t.not(result.exitCode, 0, what);
    t.match(result.stderr, expected, what);
  }
  const taken = await kubectl(
    "get",
    "service",
    "kubernetes-bootcamp",
    "-o",
    "jsonpath={.spec.ports[0].nodePort}",
  );
  const clash = await cluster.kubectl(["create", "-f", "-"], {
    input: service(`type: NodePort, ports: [{ port: 80, nodePort: ${taken} }]`),
  });
  t.match(clash.stderr, /nodePort: Invalid value: \d+: provided port is already allocated/);
  t.equal(await kubectl("get", "services,deployments,pods", "-A", "-o", "name"), before);
});
