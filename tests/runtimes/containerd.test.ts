// containerd with our plugins, by `ctr --cni` and by its CRI plugin: containers on two machines, among the pods of the
// node agents there.

import { join } from "node:path";
import t from "tap";
import { REFERENCE } from "../helpers/cni.js";
import { callRuntime, fieldsOf, message, textOf } from "../helpers/cri.js";
import type { Machine } from "../helpers/machines.js";
import { IMAGE } from "../helpers/oci-image.js";
import { checkPublished, containersBy, page, withRuntimeCluster } from "../helpers/runtime-checks.js";
import { cannotRun, type RuntimeCluster } from "../helpers/runtime-machines.js";
import { eventually } from "../helpers/until.js";

const SOCKET = "/var/lib/containerd.sock";
const CONFIG = `version = 2
[grpc]
  address = "${SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "/run/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${IMAGE}"
  # The controllers that it would set may be those of an older hierarchy; and root need not have CAP_SYS_RESOURCE.
  disable_cgroup = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
`;

await withRuntimeCluster(
  cannotRun("containerd", "ctr", "runc") || (!REFERENCE && "not installed: containernetworking-plugins"),
  suite,
);

async function suite(cluster: RuntimeCluster): Promise<void> {
  const { one, two } = cluster;
  const ctr = (machine: Machine, ...argv: string[]) => cluster.must(machine, "ctr", "-a", SOCKET, ...argv);
  function startContainerd(machine: Machine) {
    cluster.write(machine, "/etc/containerd/config.toml", CONFIG);
    return cluster.startRuntime(machine, "containerd");
  }
  // Before 2.0 its CRI plugin has the reference plugin make 127.0.0.1 in a pod.
  for (const machine of [one, two])
    await cluster.must(machine, "ln", "-s", join(REFERENCE ?? "", "loopback"), "/opt/cni/bin/loopback");
  for (const machine of [one, two]) await startContainerd(machine).logged(/containerd successfully booted/);
  for (const machine of [one, two])
    for (const namespace of ["default", "k8s.io"])
      await ctr(machine, "-n", namespace, "images", "import", "--snapshotter", "native", cluster.image);
  t.comment((await cluster.must(one, "containerd", "--version")).trim());
  const clusterIP = await cluster.serveWeb();

  const run = (machine: Machine, id: string) =>
    ctr(machine, "run", "-d", "--cni", "--cpu-shares", "0", "--snapshotter", "native", IMAGE, id);
  let execs = 0;
  const exec = (machine: Machine, id: string, ...argv: string[]) =>
    ctr(machine, "task", "exec", "--exec-id", `e${execs++}`, id, ...argv);
  const { wget, addressOf } = containersBy(exec);
  const criOf = (machine: Machine) => (method: string, request: Parameters<typeof message>[0]) =>
    callRuntime(join(cluster.directory, machine.name, "var/containerd.sock"), method, message(request));

  t.test("ctr --cni: from machine to machine by the overlay, and to Services", async (t) => {
    await run(one, "a");
    await run(two, "b");
    const b = await addressOf(two, "b");
    t.match(await addressOf(one, "a"), /^10\.244\.\d+\.\d+$/);
    t.match(await exec(one, "a", "ping", "-c1", "-W5", b), /ttl=62 /, "through two hosts");
    t.match(await wget(one, "a", `http://${clusterIP}/`), /Running on: web/);
    await exec(two, "b", "httpd", "-h", "/www");
    const service = await cluster.serveContainer("box", b);
    await eventually(() => wget(one, "a", `http://${service}/`));
    t.match(await wget(one, "a", `http://${service}/`), /hello of the container/);
  });

  const cri = criOf(one);
  const sandboxConfig = (name: string, hostPort: number) =>
    message({
      1: message({ 1: name, 2: `uid-${name}`, 3: "default" }),
      2: name,
      5: message({ 2: 80, 3: hostPort }),
      8: message({}),
    });
  const sandbox = async (name: string, hostPort: number): Promise<string> =>
    textOf(await cri("RunPodSandbox", { 1: sandboxConfig(name, hostPort) }), 1);
  const sandboxAddress = async (id: string): Promise<string> => {
    const status = fieldsOf(await cri("PodSandboxStatus", { 1: id })).get(1) as Buffer;
    return textOf(fieldsOf(status).get(5) as Buffer, 1);
  };
  const httpd = async (id: string, name: string, hostPort: number): Promise<void> => {
    const container = message({
      1: message({ 1: "web" }),
      2: message({ 1: IMAGE }),
      3: ["/bin/httpd", "-f", "-h", "/www"],
      15: message({}),
    });
    const request = { 1: id, 2: container, 3: sandboxConfig(name, hostPort) };
    const made = textOf(await cri("CreateContainer", request), 1);
    await cri("StartContainer", { 1: made });
  };
  let web = "";
  let ip = "";

  t.test("CRI: a published port, from here, from elsewhere and from 127.0.0.1", async (t) => {
    web = await sandbox("web", 8081);
    ip = await sandboxAddress(web);
    t.match(ip, /^10\.244\.\d+\.\d+$/);
    await httpd(web, "web", 8081);
    await eventually(async () => /hello/.test(await page(one, `http://${ip}/`)));
    await checkPublished(t, cluster);
    t.match(await wget(one, "a", "http://192.168.56.11:8081/"), /hello/);
    const gone = await sandbox("gone", 8082);
    await cri("StopPodSandbox", { 1: gone });
    await cri("RemovePodSandbox", { 1: gone });
    t.equal((await cluster.traces(one)).rules.length, 1, "DEL took out the other one's rules");
  });

  t.test("the node agent is killed and comes back: addresses stay, and none is given twice", async (t) => {
    const before = await cluster.traces(one);
    t.equal(before.addresses.length, 2);
    await cluster.killNode(one);
    const b = await addressOf(two, "b");
    t.match(await exec(one, "a", "ping", "-c1", "-W5", b), /ttl=62 /, "while it is away");
    const meanwhile = await sandbox("meanwhile", 8083);
    const extra = await sandboxAddress(meanwhile);
    await (await cluster.startNode(one)).logged(/the node is Ready/);
    const after = await cluster.traces(one);
    t.strictSame(after.addresses.sort(), [...before.addresses, extra].sort());
    t.strictSame([await sandboxAddress(web), before.addresses.includes(ip)], [ip, true]);
    t.match(await page(two, "http://192.168.56.11:8081/"), /hello/, "the rules of the port stand");
    t.match(await wget(one, "a", `http://${clusterIP}/`), /Running on: web/);
    await cri("StopPodSandbox", { 1: meanwhile });
    await cri("RemovePodSandbox", { 1: meanwhile });
    t.notOk((await cluster.traces(one)).addresses.includes(extra));
  });

  t.test("kill -9 of containerd and all that it runs: GC takes away what is left", async (t) => {
    await cluster.killRuntime(one);
    const left = await cluster.traces(one);
    t.equal(left.addresses.length, 2);
    t.equal(left.rules.length, 1);
    await cluster.collectGarbage(one);
    t.strictSame(await cluster.traces(one), { addresses: [], ports: [], rules: [] });
    t.match(await page(one, `http://${clusterIP}/`), /Running on: web/, "pods of the nodes are as they were");
  });

  t.test("a new containerd takes up where it was killed, and DEL of what is gone succeeds", async (t) => {
    await startContainerd(one).logged(/containerd successfully booted/);
    // Its CRI service comes a moment after that.
    await eventually(() => cri("ListPodSandbox", {}));
    await cri("StopPodSandbox", { 1: web });
    await cri("RemovePodSandbox", { 1: web });
    const again = await sandbox("again", 8081);
    await httpd(again, "again", 8081);
    await eventually(async () => /hello/.test(await page(two, "http://192.168.56.11:8081/")));
    await cri("StopPodSandbox", { 1: again });
    await cri("RemovePodSandbox", { 1: again });
    t.strictSame(await cluster.traces(one), { addresses: [], ports: [], rules: [] });
  });
}
