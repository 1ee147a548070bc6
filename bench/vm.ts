// A cluster of VMs: from their start to the first answered ClusterIP request, and what a packet between pods on two of
// them costs (VXLAN) beside one between the VMs themselves, in turn. As root; npm run bench -- vm [ROUNDS].

import { readFileSync } from "node:fs";
import { kubectlOf } from "../tests/helpers/kubectl.js";
import { eventually } from "../tests/helpers/until.js";
import { Rack, type VirtualMachine } from "../tests/vm/machine.js";
import { VmCluster } from "../tests/vm/vm-cluster.js";
import { machine, median, printTable } from "./report.js";

const ROUNDS = Number(process.argv[2] ?? 5);
const SECONDS = 4;
const PORT = 9000;
const STREAM = readFileSync(new URL("./stream.js", import.meta.url), "utf8");
const WITHIN = { withinMs: 600_000, everyMs: 500 };

const PODS = ["node-1", "node-2"].map(
  (node) => `
apiVersion: v1
kind: Pod
metadata: { name: on-${node}, labels: { app: ${node} } }
spec:
  nodeName: ${node}
  containers: [{ name: web, image: gcr.io/google-samples/kubernetes-bootcamp:v1 }]`,
);
const SERVICE = `
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { clusterIP: 10.96.0.80, selector: { app: node-2 }, ports: [{ port: 80, targetPort: 8080 }] }`;

/** Where a program runs: a VM or a pod. Takes the arguments of bench/stream.ts. */
type Place = (...words: string[]) => Promise<string>;

const onMachine =
  (vm: VirtualMachine): Place =>
  (...words) =>
    vm.must(`node --input-type=module - ${words.join(" ")} <<'END_OF_PROGRAM'\n${STREAM}\nEND_OF_PROGRAM`);

const inPod =
  (cluster: VmCluster, pod: string): Place =>
  async (...words) => {
    const program = ["node", "--input-type=module", "-", ...words];
    const { exitCode, stdout, stderr } = await cluster.kubectl(["exec", "-i", pod, "--", ...program], {
      input: STREAM,
    });
    if (exitCode !== 0) throw new Error(`${pod}: ${stderr}`);
    return stdout;
  };

interface Figures {
  rttUs: number;
  mbPerS: number;
}

async function measure(from: Place, to: Place, address: string): Promise<Figures> {
  const server = to("serve", String(PORT));
  const ask = async () => JSON.parse(await from("ask", address, String(PORT), String(SECONDS))) as Figures;
  const figures = await eventually(ask, WITHIN);
  await server;
  return figures;
}

const seconds = (from: number): number => (performance.now() - from) / 1000;

const rack = await Rack.create();
console.log(`three VMs, ${rack.accelerator === "kvm" ? "KVM" : "emulated by software"}; ${machine()}`);
if (rack.accelerator !== "kvm") console.log("Emulated, a VM is several times slower: the ratios say more.");
console.log();

const start = performance.now();
const [control, one, two] = await Promise.all([
  rack.boot("control", "192.168.56.10"),
  rack.boot("node-1", "192.168.56.11"),
  rack.boot("node-2", "192.168.56.12"),
]);
const booted = seconds(start);
const cluster = new VmCluster(rack, control);
const kubectl = kubectlOf(cluster);
await control.provision("control", control.address);
await cluster.fetchKubeconfig();
const served = seconds(start);
await Promise.all([cluster.join(one), cluster.join(two)]);
const joined = seconds(start);
await cluster.apply([...PODS, SERVICE].join("\n---"));
await one.must("until curl -sf --max-time 5 http://10.96.0.80/; do :; done");
const answered = seconds(start);
printTable(
  ["since the start of the VMs", "s", "ratio to boot"],
  (
    [
      ["three VMs answer to ssh", booted],
      ["control is ready", served],
      ["both nodes are Ready", joined],
      ["pods and Service created, first ClusterIP answer", answered],
    ] as const
  ).map(([step, s]) => [step, s, s / booted]),
);

await kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=600s");
const ip = await kubectl("get", "pod", "on-node-2", "-o", "jsonpath={.status.podIP}");
const paths = [
  { name: "VM to VM", from: onMachine(one), to: onMachine(two), address: two.address },
  {
    name: "pod to pod, VXLAN",
    from: inPod(cluster, "on-node-1"),
    to: inPod(cluster, "on-node-2"),
    address: ip,
  },
];
const all = new Map<string, Figures[]>(paths.map(({ name }) => [name, []]));
for (let round = 0; round < ROUNDS; round++)
  for (const { name, from, to, address } of paths) all.get(name)?.push(await measure(from, to, address));
const result = [...all].map(([name, figures]) => ({
  name,
  rttUs: median(figures.map((f) => f.rttUs)),
  mbPerS: median(figures.map((f) => f.mbPerS)),
}));
const [bare] = result;
if (!bare) throw new RangeError("nothing was measured");
printTable(
  ["path", "round trip µs", "ratio", "MB/s", "ratio"],
  result.map(({ name, rttUs, mbPerS }) => [name, rttUs, rttUs / bare.rttUs, mbPerS, mbPerS / bare.mbPerS]),
);
await cluster.close();
await rack.close();
