// The Vagrantfile, brought up for real: Debian's vagrant and vagrant-libvirt, with a box made of the tests' image.

import { writeFileSync } from "node:fs";
import t from "tap";
import { type Ran, runToEnd } from "../helpers/machines.js";
import { eventually as anywhere } from "../helpers/until.js";
import { inProject, startLibvirt, vagrant } from "./libvirt.js";

const KUBECONFIG = "/mnt/kubeconfig";

async function must(ran: Promise<Ran>): Promise<string> {
  const { code, out, err } = await ran;
  if (code !== 0) throw new Error(`ended with ${code}:\n${out}${err}`);
  return out;
}
const kubectl = (...argv: string[]): Promise<string> =>
  must(runToEnd("kubectl", ["--kubeconfig", KUBECONFIG, "--cache-dir", "/mnt/cache", ...argv]));
/** A command on a VM. */
const on = (name: string, command: string): Promise<string> => must(vagrant(1, "ssh", name, "-c", command));

const eventually = (look: () => Promise<boolean>): Promise<boolean> =>
  anywhere(look, { withinMs: 600_000, everyMs: 1000 }).catch(() => false);

await startLibvirt();
t.teardown(() => vagrant(2, "destroy", "-f"));

t.test("vagrant up makes a cluster", async (t) => {
  const out = await must(vagrant(1, "up"));
  t.match(out, /kubeplumb: control is ready at 192\.168\.56\.10/);
  t.match(out, /kubeplumb: node is ready at 192\.168\.56\.11/);
  const fetch = [process.execPath, "bin/kubeplumb.mjs", "kubeconfig", "--from-vagrant"];
  writeFileSync(KUBECONFIG, await must(inProject(...fetch)), { mode: 0o600 });
  t.match(await kubectl("get", "nodes", "-o", "wide", "--no-headers"), /^node-1 +Ready .* 192\.168\.56\.11 /);
  const merged = await inProject("KUBECONFIG=/mnt/merged", ...fetch, "--merge");
  t.match(merged.err, /context kubeplumb is in \/mnt\/merged and the current one/);
});

t.test("a Service answers: ClusterIP on a VM, NodePort from outside", async (t) => {
  const image = "gcr.io/google-samples/kubernetes-bootcamp:v1";
  await kubectl("create", "deployment", "web", `--image=${image}`, "--replicas=2");
  await kubectl("expose", "deployment", "web", "--type=NodePort", "--port=80", "--target-port=8080");
  await kubectl("rollout", "status", "deployment/web", "--timeout=600s");
  const [ip, port] = (
    await kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP} {.spec.ports[0].nodePort}")
  ).split(" ");
  const curl = (url: string) => ["curl", "-sS", "--max-time", "10", url];
  t.ok(await eventually(async () => /Running on: web-/.test(await on("node-1", curl(`${ip}`).join(" ")))));
  const [command = "", ...args] = curl(`192.168.56.11:${port}`);
  t.ok(await eventually(async () => /Running on: web-/.test(await must(runToEnd(command, args)))));
});

t.test("a second up, and provision, change nothing", async (t) => {
  const state =
    "sudo systemctl show -p MainPID,NRestarts 'kubeplumb-*'; stat -c '%n %Y' /etc/systemd/system/kubeplumb-*";
  const look = async () => [await on("control", state), await on("node-1", state)];
  const before = await look();
  await must(vagrant(1, "up"));
  const out = await must(vagrant(1, "provision"));
  t.equal(out.match(/all files are as they should be/g)?.length, 2, "both VMs");
  t.notMatch(out, /written:|copied|installing/);
  t.same(await look(), before);
  t.equal((await on("control", "sudo kubeplumb token list")).trim().split("\n").length, 2, "no more tokens");
});

t.test("a VM more joins", async (t) => {
  t.match(await must(vagrant(2, "up", "node-2")), /kubeplumb: node is ready at 192\.168\.56\.12/);
  t.match(await kubectl("get", "nodes", "--no-headers"), /^node-1 +Ready .*\nnode-2 +Ready /);
});

t.test("destroy leaves no VM", async (t) => {
  await must(vagrant(2, "destroy", "-f"));
  t.equal((await must(runToEnd("virsh", ["-c", "qemu:///system", "list", "--all", "--name"]))).trim(), "");
});
