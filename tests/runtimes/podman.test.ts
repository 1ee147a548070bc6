// podman with its CNI backend and our plugins: containers on two machines, among the pods of the node agents there.

import t from "tap";
import type { Machine } from "../helpers/machines.js";
import { IMAGE } from "../helpers/oci-image.js";
import { checkPublished, containersBy, page, withRuntimeCluster } from "../helpers/runtime-checks.js";
import { cannotRun, type RuntimeCluster } from "../helpers/runtime-machines.js";
import { eventually } from "../helpers/until.js";

const CONTAINERS = `[containers]
cgroups = "disabled"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
[network]
network_backend = "cni"
`;
const STORAGE = `[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
`;
const NETWORK = "kubeplumb";

await withRuntimeCluster(cannotRun("podman", "conmon", "crun"), suite);

async function suite(cluster: RuntimeCluster): Promise<void> {
  const { one, two } = cluster;
  const podman = (machine: Machine, ...argv: string[]) => cluster.runtime(machine, "podman", ...argv);
  for (const machine of [one, two]) {
    cluster.write(machine, "/etc/containers/containers.conf", CONTAINERS);
    cluster.write(machine, "/etc/containers/storage.conf", STORAGE);
  }
  const { err } = await one.run("podman", "info");
  if (/cni support is not enabled/i.test(err)) {
    t.pass("", { skip: "this podman is built without its CNI backend" });
    return;
  }
  for (const machine of [one, two]) await podman(machine, "load", "-q", "-i", cluster.image);
  t.comment((await podman(one, "--version")).trim());
  const clusterIP = await cluster.serveWeb();
  const run = (machine: Machine, name: string, ...flags: string[]) =>
    podman(
      machine,
      "run",
      "-d",
      "--name",
      name,
      "--network",
      NETWORK,
      "--cap-add",
      "NET_RAW",
      ...flags,
      IMAGE,
    );
  const exec = (machine: Machine, name: string, ...argv: string[]) => podman(machine, "exec", name, ...argv);
  const { wget, addressOf } = containersBy(exec);

  t.test("from machine to machine by the overlay, to Services, and by a published port", async (t) => {
    await run(one, "a", "-p", "8081:80");
    await run(two, "b");
    const b = await addressOf(two, "b");
    t.match(await exec(one, "a", "ping", "-c1", "-W5", b), /ttl=62 /, "through two hosts");
    t.match(await wget(one, "a", `http://${clusterIP}/`), /Running on: web/);
    await exec(two, "b", "httpd", "-h", "/www");
    const service = await cluster.serveContainer("box", b);
    await eventually(() => wget(one, "a", `http://${service}/`));
    t.match(await wget(one, "a", `http://${service}/`), /hello of the container/);
    await exec(one, "a", "httpd", "-h", "/www");
    await checkPublished(t, cluster);
    t.match(await wget(one, "a", "http://192.168.56.11:8081/"), /hello/, "hairpin");
  });

  t.test("an address and a MAC that are asked for", async (t) => {
    const [, block] = /^(10\.244\.\d+)\./.exec(await addressOf(two, "b")) ?? [];
    await run(two, "c", "--ip", `${block}.77`, "--mac-address", "02:aa:00:00:00:01");
    t.equal(await addressOf(two, "c"), `${block}.77`);
    t.match(await exec(two, "c", "ip", "link", "show", "dev", "eth0"), /02:aa:00:00:00:01/);
    await t.rejects(run(two, "d", "--ip", `${block}.77`), /the requested address .* is taken/);
    await podman(two, "rm", "-f", "-t", "0", "c", "d");
    t.equal((await cluster.traces(two)).addresses.length, 1);
  });

  t.test("the node agent is killed and comes back: addresses stay, and none is given twice", async (t) => {
    const before = await cluster.traces(one);
    t.equal(before.addresses.length, 1);
    await cluster.killNode(one);
    t.match(await exec(one, "a", "ping", "-c1", "-W5", await addressOf(two, "b")), /ttl=62 /);
    await run(one, "meanwhile");
    const extra = await addressOf(one, "meanwhile");
    await (await cluster.startNode(one)).logged(/the node is Ready/);
    const after = await cluster.traces(one);
    t.strictSame(after.addresses.sort(), [...before.addresses, extra].sort());
    t.match(await page(two, "http://192.168.56.11:8081/"), /hello/, "the rules of the port stand");
    t.match(await wget(one, "a", `http://${clusterIP}/`), /Running on: web/);
    await podman(one, "rm", "-f", "-t", "0", "meanwhile");
    t.notOk((await cluster.traces(one)).addresses.includes(extra));
  });

  t.test("kill -9 of conmon and the containers: GC takes away what is left", async (t) => {
    await cluster.killRuntime(one);
    const left = await cluster.traces(one);
    t.match(left, { addresses: { length: 1 }, rules: { length: 1 } });
    await cluster.collectGarbage(one);
    t.strictSame(await cluster.traces(one), { addresses: [], ports: [], rules: [] });
    t.match(await page(one, `http://${clusterIP}/`), /Running on: web/, "pods of the nodes are as they were");
    // It finds out by the first try that nothing runs.
    await eventually(() => podman(one, "rm", "-f", "-t", "0", "a"));
    await run(one, "again", "-p", "8081:80");
    await exec(one, "again", "httpd", "-h", "/www");
    t.match(await page(two, "http://192.168.56.11:8081/"), /hello/);
    await podman(one, "rm", "-f", "-t", "0", "again");
    t.strictSame(await cluster.traces(one), { addresses: [], ports: [], rules: [] });
  });
}
