// The standalone proxy and its Node, against a real API server and the rules of this process's own network namespace,
// which is an empty one (scripts/test.mjs): `nodePortAddresses: primary`, and a Node that gets other addresses.

import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { NODES, SERVICES } from "../../common/client.js";
import type { Node, Service } from "../../common/k8s.js";
import { silentLogger } from "../../common/log.js";
import { Iptables } from "../../dataplane/iptables/index.js";
import { NetNs } from "../../dataplane/kernel/netns.js";
import { configurationFromFlags } from "../../node/kube-proxy/flags.js";
import { runKubeProxy } from "../../node/kube-proxy/standalone.js";
import { controlFor } from "../helpers/control.js";
import { tempDir } from "../helpers/temp-dir.js";

t.setTimeout(220_000);
const strangers = Object.keys(networkInterfaces()).filter((name) => name !== "lo");
if (strangers.length > 0) t.bailout(`this is no namespace of its own: it has ${strangers}`);

const NODE = "guest";
const ip = (...words: string[]) => execFileSync("ip", words);
ip("link", "set", "lo", "up");
for (const address of ["192.168.56.20", "192.168.56.21"]) ip("addr", "add", `${address}/32`, "dev", "lo");

const { control } = await controlFor(t);
const kubeconfig = join(tempDir(t), "kubeconfig");
writeFileSync(kubeconfig, control.adminKubeconfig("test"));
const { client } = control;
const web: Service = {
  apiVersion: "v1",
  kind: "Service",
  metadata: { name: "web", namespace: "default" },
  spec: { type: "NodePort", selector: { app: "web" }, ports: [{ port: 80, nodePort: 30080 }] },
};
await client.create(SERVICES, web);
const iptables = Iptables.open(NetNs.current());

/** The destinations that are looked up among the node ports. */
async function answering(): Promise<string[]> {
  const rules = (await iptables.read("nat")).get("nat")?.get("KUBE-SERVICES")?.rules ?? [];
  return rules
    .filter(({ args }) => args.at(-1) === "KUBE-NODEPORTS")
    .map(({ args }) => args.filter((word) => word !== "-j" && word !== "KUBE-NODEPORTS").join(" "));
}

async function become(wanted: string): Promise<string> {
  for (let attempt = 0; attempt < 2400; attempt++) {
    if ((await answering()).join() === wanted) break;
    await sleep(25);
  }
  return (await answering()).join();
}

interface Program {
  /** "runs", or why it has ended. */
  readonly state: string;
  readonly ended: Promise<void>;
  readonly stop: () => void;
}

/** `kubeplumb proxy --nodeport-addresses primary`. */
function run(): Program {
  const configuration = configurationFromFlags({
    kubeconfig,
    "nodeport-addresses": "primary",
    "oom-score-adj": "0",
  });
  const abort = new AbortController();
  const program = { state: "runs", stop: () => abort.abort(), ended: Promise.resolve() };
  program.ended = runKubeProxy({
    configuration: { ...configuration, hostnameOverride: NODE },
    signal: abort.signal,
    log: silentLogger,
  }).then(
    () => {
      program.state = "ended in order";
    },
    (error: Error) => {
      program.state = error.message;
    },
  );
  return program;
}

const setAddress = (address: string) =>
  client.patch(
    NODES,
    NODE,
    "merge",
    { status: { addresses: [{ type: "InternalIP", address }] } },
    {
      subresource: "status",
    },
  );

t.test(
  "`primary` is the Node's address; with another one the program ends, to be started again",
  async (t) => {
    const node: Node = { apiVersion: "v1", kind: "Node", metadata: { name: NODE } };
    await client.create(NODES, node);
    await setAddress("192.168.56.20");
    const first = run();
    t.equal(await become("-d 192.168.56.20/32"), "-d 192.168.56.20/32");
    await client.patch(NODES, NODE, "merge", { metadata: { labels: { size: "small" } } });
    await sleep(200);
    t.equal(first.state, "runs", "other changes of the Node do not matter");

    await setAddress("192.168.56.21");
    await first.ended;
    t.equal(first.state, "Node guest had the addresses 192.168.56.20 and has now 192.168.56.21");
    t.same(await answering(), ["-d 192.168.56.20/32"], "the rules stay");
    const second = run();
    t.equal(await become("-d 192.168.56.21/32"), "-d 192.168.56.21/32");
    second.stop();
    await second.ended;
    t.equal(second.state, "ended in order");
  },
);

t.test("a Node that is not there yet", async (t) => {
  await client.delete(NODES, NODE);
  const early = run();
  const everywhere = "-m addrtype --dst-type LOCAL";
  t.match(await become(everywhere), everywhere, "nobody knows the primary address: all of them answer");
  await client.create(NODES, { apiVersion: "v1", kind: "Node", metadata: { name: NODE } });
  await sleep(200);
  t.equal(early.state, "runs", "a Node without addresses tells nothing");
  await setAddress("192.168.56.20");
  await early.ended;
  t.equal(early.state, "Node guest had the addresses (none) and has now 192.168.56.20");
});
