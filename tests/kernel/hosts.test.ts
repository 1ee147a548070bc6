// A cluster of machines without a lab: `kubeplumb control` on one, `kubeplumb node` on others that join by token, each a
// real process in network and mount namespaces of its own; what survives kill -9, and what is refused.

import { copyFileSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { certificateSigner } from "../../control/certificate-requests.js";
import { newRequest, writeKeyPair } from "../../node/machine/key-pair.js";
import { installCommand } from "../helpers/cli.js";
import { type Daemon, Machine, makeWire, type Ran, runToEnd } from "../helpers/machines.js";
import { BOOTCAMP, deployment, manifest, service } from "../helpers/manifests.js";
import { type PodRow, podRows } from "../helpers/pod-rows.js";
import { eventually } from "../helpers/until.js";

t.setTimeout(220_000);
const directory = mkdtempSync(join(tmpdir(), "kp-hosts-"));
const command = installCommand(join(directory, "bin"));
const daemons: Daemon[] = [];
const machines: Machine[] = [];
t.teardown(async () => {
  for (const { child } of daemons) child.kill("SIGKILL");
  await Promise.all(daemons.map(({ exited }) => exited));
  for (const machine of machines) machine.close();
  rmSync(directory, { recursive: true, force: true });
});

const strangers = Object.keys(networkInterfaces()).filter((name) => name !== "lo");
if (strangers.length > 0) t.bailout(`this is no namespace of its own: it has ${strangers}`);
makeWire();
const make = async (name: string, ip: string): Promise<Machine> => {
  const machine = await Machine.create(name, ip, directory);
  machines.push(machine);
  return machine;
};
const control = await make("control", "192.168.56.10");
const one = await make("one", "192.168.56.11");
const two = await make("two", "192.168.56.12");
const spare = await make("spare", "192.168.56.13");

const SERVER = "https://192.168.56.10:6443";
const kubeconfig = join(directory, "control/var/kubeplumb/control/admin.kubeconfig");
const pki = join(directory, "control/var/kubeplumb/control/pki");

function start(machine: Machine, ...argv: string[]): Daemon {
  const daemon = machine.start(command, ...argv);
  daemons.push(daemon);
  return daemon;
}

async function kubectl(argv: readonly string[], input?: string): Promise<string> {
  const own = ["--kubeconfig", kubeconfig, "--cache-dir", join(directory, "cache")];
  const { code, out, err } = await runToEnd("kubectl", [...own, ...argv], input);
  if (code !== 0) throw new Error(`kubectl ${argv.join(" ")}: ${err}`);
  return out;
}

const controlArgs = ["control", "--advertise-address", "192.168.56.10"];
let api = start(control, ...controlArgs);
await api.logged(/INFO {2}ready/);
const joinCommand = async (): Promise<string[]> => {
  const { out } = await control.run(command, "token", "create", "--print-join-command");
  return out.trim().split(" ").slice(1);
};
const words = await joinCommand();
let first = start(one, ...words, "--name", "node-1");
const second = start(two, ...words, "--name", "node-2", "--iface", "eth1");
await Promise.all([first, second].map((node) => node.logged(/the node is Ready/)));

t.test("machines join by token, with the address that others reach them by", async (t) => {
  t.match(words.slice(0, 3), ["node", "--server", SERVER]);
  const nodes = (await kubectl(["get", "nodes", "-o", "wide", "--no-headers"])).trim().split("\n");
  t.equal(nodes.length, 2);
  t.match(nodes[0], /^node-1 +Ready .* 192\.168\.56\.11 /);
  t.match(nodes[1], /^node-2 +Ready .* 192\.168\.56\.12 /);
  t.match(await kubectl(["get", "csr"]), /system:bootstrap:[a-z0-9]{6} .*Approved,Issued/);
  t.match((await one.run("ls", "/etc/cni/net.d")).out, /10-kubeplumb\.conflist/);
  t.match((await one.run("ip", "-d", "link", "show", "flannel.1")).out, /vxlan id 1 .*dev eth1/);
});

const WEB = manifest(
  deployment(
    "web",
    { containers: [{ name: "web", image: `${BOOTCAMP}:v1`, ports: [{ containerPort: 8080 }] }] },
    { replicas: 4 },
  ),
  service("web", {
    type: "NodePort",
    clusterIP: "10.96.0.80",
    selector: { app: "web" },
    ports: [{ port: 80, targetPort: 8080, nodePort: 30080 }],
  }),
);
const CURL = ["curl", "-sS", "--max-time", "60"] as const;
const outside = (url: string): Promise<Ran> => runToEnd(CURL[0], [...CURL.slice(1), url]);

const pods = () => podRows(kubectl, "-l", "app=web");
const podOn = (all: readonly PodRow[], node: string): PodRow => {
  const found = all.find((pod) => pod.node === node);
  if (!found) throw new Error(`there is no pod on ${node}`);
  return found;
};

t.test("a Deployment answers: ClusterIP, NodePort, pod to pod through VXLAN", async (t) => {
  await kubectl(["apply", "-f", "-"], WEB);
  await kubectl(["rollout", "status", "deployment/web", "--timeout=60s"]);
  const all = await pods();
  const [here, there] = [podOn(all, "node-1"), podOn(all, "node-2")];
  await eventually(async () => /Running on: web-/.test((await one.run(...CURL, "10.96.0.80")).out));
  for (const node of [one, two])
    t.match((await outside(`${node.ip}:30080`)).out, /Running on: web-/, `NodePort on ${node.name}`);
  t.match(await kubectl(["exec", here.name, "--", ...CURL, "10.96.0.80"]), /Running on: web-/);
  const ping = await kubectl(["exec", here.name, "--", "ping", "-c1", "-W10", there.ip]);
  t.match(ping, /ttl=62 /, "through two hosts");
  t.match((await one.run("bridge", "fdb", "show", "dev", "flannel.1")).out, /dst 192\.168\.56\.12/);
});

t.test("control reaches the kubelets: logs, exec, proxy; nobody else does", async (t) => {
  const there = podOn(await pods(), "node-2");
  t.match(await kubectl(["logs", there.name]), /Kubernetes Bootcamp App Started/);
  t.equal(await kubectl(["exec", there.name, "--", "hostname"]), `${there.name}\n`);
  const path = `/api/v1/namespaces/default/pods/${there.name}:8080/proxy/`;
  t.match(await kubectl(["get", "--raw", path]), /Running on: web-/, "dialled by the node");
  t.equal(await kubectl(["get", "--raw", "/api/v1/nodes/node-2/proxy/healthz"]), "ok");
  const bare = await runToEnd("curl", ["-sk", "https://192.168.56.12:10250/pods"]);
  t.equal(bare.out, "Unauthorized");
  const own = join(directory, "one/var/kubeplumb/node/pki/kubelet-client.pem");
  const asNode = await runToEnd("curl", ["-sk", "--cert", own, "https://192.168.56.12:10250/pods"]);
  t.match(asNode.out, /^Forbidden \(user=system:node:node-1/);
});

t.test("a node writes only what is its own", async (t) => {
  const pem = join(directory, "node-1.pem");
  copyFileSync(join(directory, "one/var/kubeplumb/node/pki/kubelet-client.pem"), pem);
  const flags = ["--kubeconfig", "/dev/null", "--cache-dir", join(directory, "cache"), "--server", SERVER];
  const identity = ["--certificate-authority", join(pki, "ca.crt"), "--client-certificate", pem];
  const asNode = async (...argv: string[]): Promise<string> => {
    const { out, err } = await runToEnd("kubectl", [...flags, ...identity, "--client-key", pem, ...argv]);
    return out + err;
  };
  const label = JSON.stringify({ metadata: { labels: { a: "b" } } });
  t.match(await asNode("patch", "node", "node-1", "-p", label), /node\/node-1 patched/);
  t.match(
    await asNode("patch", "node", "node-2", "-p", label),
    /nodes "node-2" is forbidden: node "node-1" is not allowed to modify node "node-2"/,
  );
  const all = await pods();
  const foreign = podOn(all, "node-2").name;
  const path = `${SERVER}/api/v1/namespaces/default/pods/${foreign}/status`;
  const patch = ["-X", "PATCH", "-H", "content-type: application/merge-patch+json", "-d", '{"status":{}}'];
  const status = await runToEnd("curl", ["-sk", "--cert", pem, ...patch, path]);
  t.match(
    status.out,
    /node \\"node-1\\" can only update pod status for pods with spec.nodeName set to itself/,
  );
  t.match(await asNode("delete", "pod", foreign), /can only delete pods with spec.nodeName set to itself/);
  t.match(await asNode("exec", foreign, "--", "true"), /cannot (create|get) resource "pods\/exec"/);
  t.match(
    await asNode("get", "secrets", "-n", "kube-system"),
    /secrets is forbidden: User "system:node:node-1" cannot list resource "secrets" in API group "" in the namespace "kube-system": No Object name found/,
  );
  t.match(await asNode("create", "token", "default"), /node requested token not bound to a pod/);
  t.match(
    await asNode("get", "configmap", "kube-root-ca.crt"),
    /kube-root-ca\.crt/,
    "a pod of its own has it",
  );
});

t.test("without a name, or with a token only, there is little to see", async (t) => {
  const ask = async (path: string, ...flags: string[]): Promise<string> =>
    (await runToEnd("curl", ["-sk", "--path-as-is", ...flags, SERVER + path])).out;
  const info = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
  t.match(await ask(info), /certificate-authority-data/);
  t.match(await ask(info, "-X", "DELETE"), /User \\"system:anonymous\\" cannot delete resource/);
  t.match(await ask(`${info}/../../../../secrets`), /"code": ?40[13]/, "no way around by dots");
  t.match(await ask("/healthz/../api/v1/secrets"), /User \\"system:anonymous\\" cannot list resource/);
  t.match(await ask("/api/v1/nodes"), /"code": ?401/);
  t.equal(await ask("/readyz"), "ok");
  const token = ["-H", `authorization: Bearer ${words[words.indexOf("--token") + 1]}`];
  t.match(await ask("/api/v1/secrets", ...token), /cannot list resource \\"secrets\\"/);
  t.match(await ask("/api/v1/nodes/node-1", ...token, "-X", "DELETE"), /cannot delete resource/);
  t.match(await ask("/apis/certificates.k8s.io/v1/certificatesigningrequests", ...token), /node-csr-/);
});

t.test("what must not join is refused, and told why", async (t) => {
  const refused = async (pattern: RegExp, machine: Machine, argv: string[]): Promise<void> => {
    const { code, err } = await machine.run(command, ...argv);
    t.equal(code, 1);
    t.match(err, pattern);
    await machine.run("rm", "-rf", "/var/lib/kubeplumb/node");
  };
  const changed = (flag: string, value: string): string[] => {
    const copy = [...words];
    copy[copy.indexOf(flag) + 1] = value;
    return copy;
  };
  await refused(
    /does not accept the token: it is wrong, or has expired/,
    spare,
    changed("--token", "abcdef.0123456789abcdef"),
  );
  const hash = `sha256:${"0".repeat(64)}`;
  await refused(
    /the CA of https:\/\/192\.168\.56\.10:6443 is not the one that was expected/,
    spare,
    changed("--discovery-token-ca-cert-hash", hash),
  );
  await refused(/a Node with name "node-1" and status "Ready" already exists/, spare, [
    ...words,
    "--name",
    "node-1",
  ]);
  await refused(/has not joined a cluster yet: it needs --token/, spare, words.slice(0, 3));
  await refused(/10\.0\.2\.15 is the address that VirtualBox and QEMU give to every machine/, spare, [
    ...words,
    "--iface",
    "eth0",
  ]);
  await refused(/no interface of this machine has 192\.168\.56\.99/, spare, [
    ...words,
    "--node-ip",
    "192.168.56.99",
  ]);
  // The same address as another's, where only this machine sees it.
  await spare.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore");
  await spare.run("ip", "addr", "add", "192.168.56.11/32", "dev", "eth0");
  await refused(
    /node "node-3" is refused: its InternalIP 192\.168\.56\.11 is already that of node "node-1"/,
    spare,
    [...words, "--name", "node-3", "--node-ip", "192.168.56.11"],
  );
  t.notMatch(await kubectl(["get", "nodes"]), /node-3/);
  await control.run(command, "token", "delete", words[words.indexOf("--token") + 1] ?? "");
  await refused(/does not accept the token/, spare, words);
  t.match((await control.run(command, "token", "list")).out, /^TOKEN +TTL +EXPIRES +DESCRIPTION\n$/);
});

const rulesOf = async (machine: Machine): Promise<string> =>
  (await machine.run("iptables-save")).out.replaceAll(/^#.*\n/gm, "").replaceAll(/\[\d+:\d+\]/g, "[]");

t.test("kill -9 of control: traffic goes on, and all is there again", async (t) => {
  const before = await kubectl(["get", "deployment,service", "-o", "name"]);
  api.child.kill("SIGKILL");
  await api.exited;
  t.match((await outside(`${one.ip}:30080`)).out, /Running on: web-/);
  api = start(control, ...controlArgs);
  await api.logged(/INFO {2}ready/);
  t.equal(await kubectl(["get", "deployment,service", "-o", "name"]), before);
  await kubectl(["scale", "deployment/web", "--replicas=6"]);
  await kubectl(["rollout", "status", "deployment/web", "--timeout=60s"]);
});

t.test(
  "kill -9 of a node: it comes back without a token, takes over the rules, and its pods run",
  async (t) => {
    // Six pods, the API server, and two pods of the DNS with three ports.
    const isWhole = (rules: string) => rules.match(/^:KUBE-SEP-/gm)?.length === 13 && rules;
    const before = await eventually(async () => isWhole(await rulesOf(one)));
    first.child.kill("SIGKILL");
    await first.exited;
    t.equal(await rulesOf(one), before, "the rules stay");
    t.match(
      (
        await two.run(
          ...CURL,
          "--retry",
          "30",
          "--retry-delay",
          "1",
          "--retry-all-errors",
          "--connect-timeout",
          "1",
          "10.96.0.80",
        )
      ).out,
      /Running on/,
    );
    // As if it had been away for most of its certificate's life.
    const pem = join(directory, "one/var/kubeplumb/node/pki/kubelet-client.pem");
    const [cert, key] = ["crt", "key"].map((end) => readFileSync(join(pki, `ca.${end}`), "utf8"));
    const made = await newRequest("system:node:node-1", []);
    const sign = certificateSigner({ cert: cert ?? "", key: key ?? "" });
    const old = await sign(made.request, { usage: "client", seconds: 30 });
    writeKeyPair(pem, { cert: old, key: made.key });
    first = start(one, "node", "--server", SERVER, "--name", "node-1");
    await first.logged(/certificate renewed for=client/);
    t.notMatch(readFileSync(pem, "utf8"), old);
    await first.logged(/the node is Ready/);
    await kubectl(["wait", "--for=condition=Ready", "pod", "-l", "app=web", "--timeout=60s"]);
    await eventually(async () => isWhole(await rulesOf(one)));
    t.notMatch(first.log(), /overlay entries changed .*removed=[1-9]/, "tunnels stay, too");
    const all = await pods();
    const [here, there] = [podOn(all, "node-1"), podOn(all, "node-2")];
    await eventually(async () => {
      const ping = await kubectl(["exec", there.name, "--", "ping", "-c1", "-W10", here.ip]);
      return /ttl=62 /.test(ping);
    });
    await eventually(async () => /Running on: web-/.test((await outside(`${one.ip}:30080`)).out));
  },
);

t.test("SIGTERM ends both in order; rules and overlay stay", async (t) => {
  second.child.kill("SIGTERM");
  t.equal(await second.exited, 0, second.log());
  t.match(await rulesOf(two), /KUBE-SVC-/);
  t.match((await two.run("ip", "link", "show", "flannel.1")).out, /flannel\.1/);
  const { err } = await two.run(command, "uninstall", "node");
  t.match(
    err,
    /removed: \/var\/lib\/kubeplumb\/node\n.*removed: \/etc\/cni\/net\.d\/10-kubeplumb\.conflist/s,
  );
  t.notMatch(await rulesOf(two), /KUBE-(SVC|SERVICES)|FLANNEL/);
  t.notMatch((await two.run("ip", "link")).out, /flannel|cni0/);
  t.match((await two.run(command, "uninstall", "node")).err, /there is nothing of kubeplumb node here/);
  api.child.kill("SIGTERM");
  t.equal(await api.exited, 0, api.log());
  t.match(api.log(), /INFO {2}ending reason="interrupted by SIGTERM"/);
});
