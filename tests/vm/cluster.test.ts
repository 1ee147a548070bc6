// A cluster of VMs with kernels and systemd of their own, provisioned by the script that Vagrant runs: Services and pods
// across them, from inside and from outside, and through reboots, power cuts, a halted and an added VM. Under software
// emulation everything takes its time: each step waits for what it is about, within a generous bound.

import t from "tap";
import { CONFIG_MAPS } from "../../common/client.js";
import { type Ran, runToEnd } from "../helpers/machines.js";
import { until } from "../helpers/until.js";
import { runLabTests } from "./lab-tests.js";
import { Rack, type VirtualMachine } from "./machine.js";
import { testRealContainers } from "./real-containers.js";
import { eventually, JOIN, kubectlIn, NAMESPACE, SERVER, VmCluster } from "./vm-cluster.js";

const rack = await Rack.create();
t.teardown(() => rack.close());
t.comment(`accelerator: ${rack.accelerator}`);
const { old } = rack.image;
const [control, one, two] = (await Promise.all([
  rack.boot("control", "192.168.56.10"),
  rack.boot("node-1", "192.168.56.11"),
  rack.boot("node-2", "192.168.56.12", old),
])) as [VirtualMachine, VirtualMachine, VirtualMachine];
const cluster = new VmCluster(rack, control);
t.teardown(() => cluster.close());
const kubectl = kubectlIn(cluster);

const CURL = ["-sS", "--max-time", "10"] as const;
const outside = (url: string): Promise<Ran> => runToEnd("curl", [...CURL, url]);
const inside = async (vm: VirtualMachine, url: string): Promise<string> =>
  (await vm.run(`curl ${CURL.join(" ")} ${url}`)).out;
const ANSWER = /Running on: web-/;
/** Of the Service that stands all the time; the tests that VMs are lent to have addresses of their own. */
const VIP = "10.96.0.90";

/** Twenty connections in a row, none of them lost. */
async function allAnswer(url: string): Promise<boolean> {
  for (let count = 0; count < 20; count++) if (!ANSWER.test((await outside(url)).out)) return false;
  return true;
}

t.test("provisioned by one script, control and nodes are services that are ready", async (t) => {
  const made = await control.provision("control", control.address);
  t.match(made, /written: \/etc\/systemd\/system\/kubeplumb-control\.service/);
  t.match(made, /kubeplumb: control is ready at 192\.168\.56\.10\n$/);
  await cluster.fetchKubeconfig();
  t.match(await kubectl("cluster-info"), /192\.168\.56\.10:6443/);
  const joined = await Promise.all([cluster.join(one), cluster.join(two)]);
  t.match(joined[0], /kubeplumb: node is ready at 192\.168\.56\.11\n$/);
  t.match(joined[1], /kubeplumb: node is ready at 192\.168\.56\.12\n$/);
  const nodes = (await kubectl("get", "nodes", "-o", "wide", "--no-headers")).split("\n");
  t.equal(nodes.length, 2);
  t.match(nodes[0], /^node-1 +Ready .* 192\.168\.56\.11 .*Debian GNU\/Linux 12 .* 6\.\d+\.\d+.*-cloud-amd64/);
  const second = new RegExp(`^node-2 +Ready .* 192\\.168\\.56\\.12 .* ${old ? "5\\.10" : "6\\.\\d+"}\\.`);
  t.match(nodes[1], second);
  if (!old) t.pass("node-2 and node-3 have Linux 5.10", { skip: "it could not be had" });
  t.match(await one.must("ip -d link show flannel.1"), /vxlan id 1 .*dev eth1/);
  const show = "systemctl show -p SubState,NRestarts kubeplumb-node";
  t.equal(await one.must(show), "NRestarts=0\nSubState=running\n");
  t.match(await one.must("journalctl -u kubeplumb-node -o cat"), /the node is Ready/);
});

t.test("provisioned again, nothing changes", async (t) => {
  const state =
    "systemctl show -p MainPID,NRestarts 'kubeplumb-*'; stat -c '%n %Y' /etc/systemd/system/kubeplumb-*";
  const before = await Promise.all([control, one].map((vm) => vm.must(state)));
  const [made, joined] = await Promise.all([
    control.provision("control", control.address),
    one.provision("node", one.address, SERVER, JOIN),
  ]);
  t.equal(made, "all files are as they should be\nkubeplumb: control is ready at 192.168.56.10\n");
  t.equal(joined, "all files are as they should be\nkubeplumb: node is ready at 192.168.56.11\n");
  t.same(await Promise.all([control, one].map((vm) => vm.must(state))), before);
});

/** Replicas that move, and a pod on each node that stays there however long its VM is away. */
const WORKLOADS = `
apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  replicas: 4
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      tolerations:
        - { key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5 }
        - { key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 120 }
      containers:
        - { name: web, image: "gcr.io/google-samples/kubernetes-bootcamp:v1", ports: [{ containerPort: 8080 }] }
---
apiVersion: apps/v1
kind: DaemonSet
metadata: { name: peer }
spec:
  selector: { matchLabels: { app: peer } }
  template:
    metadata: { labels: { app: peer }, annotations: { kubeplumb.io/runtime: emulated } }
    spec:
      containers:
        - { name: peer, image: "gcr.io/google-samples/kubernetes-bootcamp:v1" }
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec:
  type: NodePort
  clusterIP: ${VIP}
  selector: { app: web }
  ports: [{ port: 80, targetPort: 8080, nodePort: 30080 }]
`;

interface PodFact {
  name: string;
  node: string;
  ip: string;
}
/** Those that run and are not about to go. */
async function pods(app: "web" | "peer"): Promise<PodFact[]> {
  const columns = "N:.metadata.name,H:.spec.nodeName,I:.status.podIP,D:.metadata.deletionTimestamp";
  const selected = ["-l", `app=${app}`, "--field-selector", "status.phase=Running"];
  const text = await kubectl("get", "pods", ...selected, "-o", `custom-columns=${columns}`, "--no-headers");
  return text
    .split("\n")
    .filter((line) => line.endsWith("<none>"))
    .map((line) => {
      const [name = "", node = "", ip = ""] = line.split(/ +/);
      return { name, node, ip };
    });
}
async function peerOn(vm: VirtualMachine): Promise<PodFact> {
  const found = (await pods("peer")).find(({ node }) => node === vm.name);
  if (!found) throw new Error(`there is no pod on ${vm.name}`);
  return found;
}

/** All pods run, a pod on one node reaches the other's, and the Service answers. */
async function isWhole(): Promise<boolean> {
  if (!(await cluster.isReady(one)) || !(await cluster.isReady(two))) return false;
  for (const workload of ["deployment/web", "daemonset/peer"])
    await kubectl("rollout", "status", workload, "--timeout=300s");
  const [here, there] = [await peerOn(one), await peerOn(two)];
  const ping = await kubectl("exec", here.name, "--", "ping", "-c1", "-W5", there.ip);
  return / ttl=62 /.test(ping) && (await allAnswer(`${one.address}:30080`));
}

t.test("a Deployment answers on its ClusterIP, on every node's port, and across the VMs", async (t) => {
  await kubectl("create", "namespace", NAMESPACE);
  await cluster.apply(WORKLOADS, { namespace: NAMESPACE });
  t.ok(await eventually(isWhole), "pods on both nodes reach one another through two hosts");
  t.match(await inside(one, VIP), ANSWER, "ClusterIP from a node");
  for (const vm of [one, two])
    t.ok(await eventually(() => allAnswer(`${vm.address}:30080`)), `NodePort on ${vm.name} from outside`);
  const here = await peerOn(one);
  t.match(await kubectl("exec", here.name, "--", "curl", ...CURL, VIP), ANSWER);
  t.match(await kubectl("logs", here.name), /Kubernetes Bootcamp App Started/);
});

t.test("pods find Services by name", async (t) => {
  await kubectl("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=600s");
  const here = await peerOn(two);
  const found = await eventually(async () => {
    const out = await kubectl(
      "exec",
      here.name,
      "--",
      "curl",
      ...CURL,
      `http://web.${NAMESPACE}.svc.cluster.local`,
    );
    return ANSWER.test(out) && out;
  });
  t.match(found, ANSWER);
});

t.test("an address that cannot be a node's is refused, and told why", async (t) => {
  const refused = async (pattern: RegExp, ...words: string[]): Promise<void> => {
    const { code, out, err } = await one.run(`kubeplumb node --server ${SERVER} ${words.join(" ")}`);
    t.equal(code, 1);
    t.match(out + err, pattern);
  };
  await refused(/10\.0\.2\.15 is the address that VirtualBox and QEMU give to every machine/, "--iface eth0");
  await refused(/no interface of this machine has 192\.168\.56\.99/, "--node-ip 192.168.56.99");
});

t.test("a VM is added: not with another one's address, and with iptables-legacy as with nft", async (t) => {
  const three = await rack.boot("node-3", "192.168.56.13", old);
  // Where nobody but this VM sees it: the address of another node.
  await three.must("echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore; ip addr add 192.168.56.11/32 dev eth0");
  const words = await control.must("kubeplumb token create --print-join-command");
  const { out, err } = await three.run(
    `timeout 600 node /vagrant/bin/kubeplumb.mjs ${words.trim().split(" ").slice(1).join(" ")} --node-ip 192.168.56.11 2>&1`,
  );
  t.match(
    out + err,
    /node "node-3" is refused: its InternalIP 192\.168\.56\.11 is already that of node "node-1"/,
  );
  await three.must("ip addr del 192.168.56.11/32 dev eth0; rm -r /var/lib/kubeplumb/node");
  for (const name of ["iptables", "ip6tables"])
    await three.must(`update-alternatives --set ${name} /usr/sbin/${name}-legacy`);
  t.match(await cluster.join(three), /kubeplumb: node is ready at 192\.168\.56\.13\n$/);
  t.ok(await eventually(() => allAnswer(`${three.address}:30080`)), "NodePort by legacy rules");
  t.match(await three.must("iptables-legacy-save"), /KUBE-SVC-/);
  t.notMatch(await three.must("iptables-nft-save"), /KUBE-SVC-/);
});

await runLabTests(cluster, [
  "services",
  "workloads",
  "access",
  "jobs",
  "dns",
  "host-port",
  "wire",
  "streams",
  "api-proxy",
  "ingress",
]);

t.test("reboot of a worker and of control: both come back by themselves", async (t) => {
  const before = await kubectl("get", "deployment,service", "-o", "name");
  await Promise.all([one.reboot(), control.reboot()]);
  t.equal(await eventually(() => kubectl("get", "deployment,service", "-o", "name")), before);
  t.ok(await eventually(isWhole));
  t.match(await inside(one, VIP), ANSWER);
  await kubectl("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=600s");
});

t.test("power cut of control amid writes: traffic goes on, all that was acknowledged is there", async (t) => {
  const acknowledged: string[] = [];
  let isCut = false;
  const write = async (writer: number): Promise<void> => {
    for (let count = 0; !isCut; count++) {
      const name = `written-${writer}-${count}`;
      try {
        await cluster.client.create(CONFIG_MAPS, { metadata: { name, namespace: NAMESPACE } });
        acknowledged.push(name);
      } catch (error) {
        if (!isCut) throw error;
      }
    }
  };
  const writers = [1, 2, 3, 4].map(write);
  await until(() => acknowledged.length >= 100);
  isCut = true;
  await control.cutPower();
  t.ok(await allAnswer(`${one.address}:30080`), "without control");
  t.match(await inside(two, VIP), ANSWER);
  await control.powerOn();
  await Promise.all(writers);
  const there = await eventually(() => kubectl("get", "configmaps", "-o", "name"));
  const names = new Set(there.split("\n").map((name) => name.replace("configmap/", "")));
  t.same(
    acknowledged.filter((name) => !names.has(name)),
    [],
    `of ${acknowledged.length} writes none is lost`,
  );
  t.ok(await eventually(isWhole));
});

t.test("power cut of a worker: its pods leave the Service, and it comes back", async (t) => {
  await one.cutPower();
  t.ok(await eventually(() => cluster.isReady(one, "Unknown")), "NotReady");
  t.ok(await eventually(() => allAnswer(`${two.address}:30080`)), "only what is there is asked");
  await one.powerOn();
  t.ok(await eventually(isWhole));
});

t.test("a VM is halted: its pods move, and leave the Service", async (t) => {
  await two.halt();
  t.ok(await eventually(() => cluster.isReady(two, "Unknown")));
  const moved = await eventually(async () => {
    const all = await pods("web");
    return all.length === 4 && all.every(({ node }) => node !== two.name) && all;
  });
  t.same([...new Set(moved.map(({ node }) => node))].sort(), ["node-1", "node-3"]);
  const slices = ["get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o"];
  const path = "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].nodeName}";
  t.ok(await eventually(async () => !(await kubectl(...slices, path)).includes(two.name)));
  for (const address of ["192.168.56.11", "192.168.56.13"])
    t.ok(await eventually(() => allAnswer(`${address}:30080`)), `NodePort on ${address}`);
});

testRealContainers(cluster, rack.directory);

t.test("uninstall takes everything away", async (t) => {
  const [, , three] = cluster.nodes;
  if (!three) return t.fail("there is no third node");
  const { err: said } = await three.run("kubeplumb uninstall node");
  t.match(said, /removed: \/etc\/systemd\/system\/kubeplumb-node\.service/);
  t.notMatch(await three.must("iptables-save; ip link"), /KUBE-(SVC|SERVICES)|FLANNEL|flannel|cni0/);
  const left =
    "ls -d /etc/kubeplumb /var/lib/kubeplumb /run/kubeplumb /etc/*/*kubeplumb* 2> /dev/null || true";
  t.equal(await three.must(left), "", "nothing is left");
});
