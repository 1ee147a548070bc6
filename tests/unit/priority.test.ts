// PriorityClasses: what is refused, what they make of pods, and what more important pods do to less important ones.

import t, { type Test } from "tap";
import {
  EVENTS,
  type KubeClient,
  NODES,
  POD_DISRUPTION_BUDGETS,
  PODS,
  PRIORITY_CLASSES,
} from "../../common/client.js";
import type { Node, Pod, PriorityClass, Stored } from "../../common/k8s.js";
import { silentLogger } from "../../common/log.js";
import { WorkQueue } from "../../common/workqueue.js";
import { ADMISSION } from "../../control/api/admission.js";
import { ensureNamespaces, ensurePriorityClasses } from "../../control/controllers/bootstrap.js";
import { NodeInfo, podFacts } from "../../control/controllers/scheduler-node.js";
import { Nominations } from "../../control/controllers/scheduler-preemption.js";
import { caught } from "../helpers/caught.js";
import { startAll } from "./helpers/all-controllers.js";
import { eventually, openLocalApi, playKubelets, readyNode } from "./helpers/local-cluster.js";

const DEFAULT = { namespace: "default" };
const POLICY = "PreemptLowerPriority";

function pod(name: string, cpu: string, priorityClassName = "", more: Partial<Pod["metadata"]> = {}): Pod {
  const resources = { requests: { cpu } };
  return {
    metadata: { name, ...DEFAULT, ...more },
    spec: {
      containers: [{ name: "c", image: "nginx", resources }],
      ...(priorityClassName ? { priorityClassName } : {}),
    },
  };
}

async function open() {
  const api = await openLocalApi("error", undefined, ADMISSION);
  await ensureNamespaces(api.client);
  await ensurePriorityClasses(api.client);
  return api;
}

function classes(client: KubeClient) {
  return (name: string, value: number, more: Partial<PriorityClass> = {}) =>
    client.create(PRIORITY_CLASSES, { metadata: { name }, value, ...more });
}

/** Controllers on nodes with two cores each. */
async function start(t: Test, nodes: string[]) {
  const api = await open();
  const { client, informers } = api;
  await startAll(t, api);
  for (const name of nodes) {
    const node = readyNode(name);
    const amounts = { cpu: "2", memory: "4Gi", pods: "110" };
    const status = { ...node.status, capacity: amounts, allocatable: amounts };
    await client.create(NODES, { ...node, status } as Node);
  }
  t.teardown(playKubelets(client, informers));
  const make = classes(client);
  await make("low", 100);
  await make("high", 1000);
  const run = async (...args: Parameters<typeof pod>) => {
    await client.create(PODS, pod(...args));
    return await running(args[0]);
  };
  const running = (name: string) =>
    eventually(`${name} runs`, async () => {
      const one = await client.get(PODS, name, "default");
      return one.status?.phase === "Running" && one;
    });
  const told = (name: string, wanted: string | RegExp) =>
    eventually(`${name} is told ${wanted}`, async () => {
      const { items } = await client.list(EVENTS, DEFAULT);
      const texts = items
        .filter(({ involvedObject }) => involvedObject.name === name)
        .map(({ reason, message }) => `${reason}: ${message}`);
      return texts.some((text) => (typeof wanted === "string" ? text === wanted : wanted.test(text)));
    });
  return { client, run, running, told };
}

t.test("classes", async (t) => {
  const { client, close } = await open();
  t.teardown(close);
  const make = classes(client);
  const refused = async (promise: Promise<unknown>) => ((await caught(promise)) as Error).message;
  const { items } = await client.list(PRIORITY_CLASSES);
  t.same(
    items.map(({ metadata, value }) => [metadata.name, value]),
    [
      ["system-cluster-critical", 2_000_000_000],
      ["system-node-critical", 2_000_001_000],
    ],
  );
  t.match(
    await refused(make("x", 1_000_000_001)),
    /value: Forbidden: maximum allowed value of a user defined priority is 1000000000$/,
  );
  t.match(
    await refused(make("system-x", 1)),
    /metadata\.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only\. error: system-x is not a known system priority class$/,
  );
  t.match(
    await refused(make("x", 1, { preemptionPolicy: "Always" })),
    /preemptionPolicy: Unsupported value: "Always": supported values: "Never", "PreemptLowerPriority"$/,
  );
  t.equal(
    await refused(client.delete(PRIORITY_CLASSES, "system-node-critical")),
    'priorityclasses.scheduling.k8s.io "system-node-critical" is forbidden: this is a system priority class and cannot be deleted',
  );
  await make("usual", 7, { globalDefault: true });
  t.equal(
    await refused(make("other", 8, { globalDefault: true })),
    'priorityclasses.scheduling.k8s.io "other" is forbidden: PriorityClass usual is already marked as default. Only one default can exist',
  );
  const patched = client.patch(PRIORITY_CLASSES, "usual", "merge", { value: 8 });
  t.match(await refused(patched), /value: Forbidden: may not be changed in an update\.$/);

  await make("patient", 9, { preemptionPolicy: "Never" });
  const created = async (name: string, priorityClassName?: string) => {
    const account = { serviceAccountName: "default" };
    const one = pod(name, "1", priorityClassName);
    await client
      .create(
        { ...PODS, plural: "serviceaccounts", kind: "ServiceAccount" },
        { metadata: { name: "default", ...DEFAULT } },
      )
      .catch(() => undefined);
    return (await client.create(PODS, { ...one, spec: { containers: [], ...one.spec, ...account } })).spec;
  };
  t.match(await created("a"), { priorityClassName: "usual", priority: 7, preemptionPolicy: POLICY });
  t.match(await created("b", "patient"), { priority: 9, preemptionPolicy: "Never" });
  t.equal(
    await refused(created("c", "none")),
    'pods "c" is forbidden: no PriorityClass with name none was found',
  );
  await client.delete(PRIORITY_CLASSES, "usual");
  t.match(await created("d"), { priority: 0, preemptionPolicy: POLICY });
});

t.test("a more important pod takes the place of the least important ones", async (t) => {
  const { client, run, running, told } = await start(t, ["node-1", "node-2"]);
  const nodeOf = ({ spec }: Stored<Pod>) => spec?.nodeName;
  const first = await run("a", "1500m", "low");
  const second = await run("b", "1500m");
  t.not(nodeOf(first), nodeOf(second));
  await run("small", "200m", "high", {});
  await client.create(PODS, pod("urgent", "1500m", "high"));
  const urgent = await running("urgent");
  t.equal(nodeOf(urgent), nodeOf(second), "the one without a class goes");
  t.ok(await caught(client.get(PODS, "b", "default")));
  await told("b", `Preempted: Preempted by pod ${urgent.metadata.uid} on node ${nodeOf(second)}`);
  await told("urgent", "FailedScheduling: 0/2 nodes are available: 2 Insufficient cpu.");
  t.notOk(urgent.status?.nominatedNodeName, "it is there");
  t.equal((await client.get(PODS, "a", "default")).status?.phase, "Running");

  await client.create(PRIORITY_CLASSES, {
    metadata: { name: "polite" },
    value: 5000,
    preemptionPolicy: "Never",
  });
  await client.create(PODS, pod("waits", "1500m", "polite"));
  await told(
    "waits",
    "FailedScheduling: 0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.",
  );
  await client.create(PODS, pod("huge", "64", "high"));
  await told("huge", /preemption: 0\/2 nodes are available: 2 Preemption is not helpful for scheduling\.$/);
  await client.create(PODS, pod("late", "1500m", "low"));
  await told(
    "late",
    /preemption: 0\/2 nodes are available: 2 No preemption victims found for incoming pod\.$/,
  );
  await client.delete(PODS, "urgent", DEFAULT);
  await running("waits");
  t.equal(
    (await client.get(PODS, "late", "default")).status?.phase,
    "Pending",
    "the more important one was first",
  );
});

t.test("what a budget guards goes last", async (t) => {
  const { client, run, running } = await start(t, ["node-1", "node-2"]);
  const app = { labels: { app: "guarded" } };
  await run("guarded", "1500m", "", app);
  await run("other", "1500m", "low");
  const spec = { minAvailable: 1, selector: { matchLabels: app.labels } };
  await client.create(POD_DISRUPTION_BUDGETS, { metadata: { name: "budget", ...DEFAULT }, spec });
  await eventually("the budget counts", async () => {
    const { status } = await client.get(POD_DISRUPTION_BUDGETS, "budget", "default");
    return status?.expectedPods === 1 && status.observedGeneration === 1;
  });
  await client.create(PODS, pod("urgent", "1500m", "high"));
  await running("urgent");
  t.ok(await caught(client.get(PODS, "other", "default")), "though it is more important");
  t.ok(await client.get(PODS, "guarded", "default"));
});

t.test("keys of a higher rank go first, those of one rank in the order in which they came", async (t) => {
  const order: string[] = [];
  const queue = new WorkQueue({
    name: "ranks",
    worker: async (key) => void order.push(key),
    rank: (key) => Number(key[0]),
    log: silentLogger,
  });
  for (const key of ["1a", "2a", "0a", "2b", "1b", "2a"]) queue.add(key);
  queue.start();
  await queue.idle();
  t.same(order, ["2a", "2b", "1a", "1b", "0a"]);
  await queue.stop();
});

t.test("room that is kept for a pod is not given to a less important one", (t) => {
  const facts = (name: string, priority: number) => {
    const one = pod(name, "1");
    const metadata = { ...one.metadata, name, uid: name };
    return podFacts({ ...one, metadata, spec: { ...one.spec, priority } } as Stored<Pod>, undefined);
  };
  const info = new NodeInfo();
  const nominations = new Nominations();
  const victim = facts("victim", 0);
  info.add(victim);
  nominations.set(facts("urgent", 10), { info, victims: [victim] });
  const seen = (name: string, priority: number) =>
    nominations.reserving(info, facts(name, priority), () => info.pods.size);
  t.equal(seen("less", 5), 2);
  t.equal(seen("same", 10), 2);
  t.equal(seen("more", 11), 1);
  t.equal(seen("urgent", 10), 1, "it is its own");
  t.equal(info.pods.size, 1, "as before");
  t.ok(nominations.isWaiting("urgent"));
  info.remove("victim");
  t.notOk(nominations.isWaiting("urgent"));
  nominations.delete("urgent");
  t.equal(seen("less", 5), 0);
  t.end();
});
