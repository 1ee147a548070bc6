// Controllers of nodes: subnets, taints, evictions, and the loops on the real in-process API.

import t from "tap";
import { EVENTS, LEASES, NAMESPACES, NODES, PODS } from "../../common/client.js";
import { Cidr } from "../../common/ip.js";
import type { Node, Pod, Stored, Taint } from "../../common/k8s.js";
import type { ControllerContext } from "../../control/controllers/context.js";
import { EventBroadcaster } from "../../control/controllers/events.js";
import { startControllers } from "../../control/controllers/index.js";
import { evictionAllowed } from "../../control/controllers/node-health.js";
import { CidrSet, cidrSets } from "../../control/controllers/node-ipam.js";
import { NodeLifecycleController, wantedTaints } from "../../control/controllers/node-lifecycle.js";
import { PodGcController } from "../../control/controllers/pod-gc.js";
import { queueController, sweepController } from "../../control/controllers/reconcile.js";
import { evictionTime, TaintEvictionController } from "../../control/controllers/taint-eviction.js";
import { timestamp } from "../../control/controllers/time.js";
import { OPTIONS, running } from "./helpers/all-controllers.js";
import { DEFAULT, makePod, NOW, stored } from "./helpers/controller-objects.js";
import { addNodes, eventually, openLocalApi, readyNode } from "./helpers/local-cluster.js";

t.test("node-ipam: no subnet twice", async (t) => {
  const set = new CidrSet(Cidr.parse("10.244.0.0/22"), 24);
  t.equal(set.occupy(Cidr.parse("10.244.1.0/24"), "b"), undefined);
  t.equal(set.occupy(Cidr.parse("10.244.1.0/24"), "c"), "b", "held by another");
  t.equal(set.occupy(Cidr.parse("10.244.1.0/24"), "b"), undefined, "noting it twice is once");
  t.throws(() => set.occupy(Cidr.parse("10.1.0.0/24"), "x"), { message: /10.1.0.0\/24.*10.244.0.0\/22/ });
  t.same([set.allocate("a"), set.allocate("d"), set.allocate("e")].map(String), [
    "10.244.0.0/24",
    "10.244.2.0/24",
    "10.244.3.0/24",
  ]);
  t.equal(set.allocate("f"), undefined, "exhausted");
  set.release("d");
  t.equal(String(set.allocate("f")), "10.244.2.0/24");
  t.throws(() => cidrSets(["10.244.0.0/16"], 8), { message: /nodeCIDRMaskSize 8/ });
  const both = cidrSets(["fd00:10::/56", "10.244.0.0/16"], 24);
  t.same(
    both.map((s) => String(s.allocate("a"))),
    ["fd00:10::/64", "10.244.0.0/24"],
  );
  t.throws(() => cidrSets(["10.244.0.0/16", "10.245.0.0/16"], 24), { message: /one IPv4 and one IPv6/ });
  t.throws(() => cidrSets([], 24), RangeError);
});

t.test("taints: eviction times", async (t) => {
  const taint = { key: "node.kubernetes.io/unreachable", effect: "NoExecute", timeAdded: timestamp(NOW) };
  const toleration = (seconds?: number) => ({
    spec: {
      tolerations: [
        {
          key: taint.key,
          operator: "Exists",
          effect: "NoExecute",
          ...(seconds === undefined ? {} : { tolerationSeconds: seconds }),
        },
      ],
    },
  });
  const since = () => NOW;
  t.equal(evictionTime(makePod("p"), [taint], since), 0, "at once");
  t.equal(evictionTime(makePod("p", toleration()), [taint], since), undefined, "never");
  t.equal(evictionTime(makePod("p", toleration(300)), [taint], since), NOW + 300_000);
  t.equal(evictionTime(makePod("p", toleration(-1)), [taint], since), NOW);
  const late = makePod("p", { ...toleration(10), metadata: { creationTimestamp: timestamp(NOW + 60_000) } });
  t.equal(evictionTime(late, [taint], since), NOW + 70_000, "counted from when the pod came");
  t.equal(evictionTime(makePod("p"), [{ ...taint, effect: "NoSchedule" }], since), undefined);

  t.equal(evictionAllowed(2, 1), true);
  t.equal(evictionAllowed(0, 3), false, "when all are lost, nobody is evicted");
  t.equal(evictionAllowed(2, 3), false, "nor from most of a small cluster");
  t.equal(evictionAllowed(40, 60), true);

  const node = stored("Node", {
    metadata: { name: "n" },
    spec: { unschedulable: true, taints: [{ key: "mine", effect: "NoSchedule" }, taint] },
    status: { conditions: [{ type: "Ready", status: "Unknown" }] },
  }) as unknown as Stored<Node>;
  const keys = (taints: Taint[]) => taints.map(({ key, effect }) => `${key}:${effect}`).sort();
  const wanted = wantedTaints(node, true, NOW + 5000);
  t.same(keys(wanted), [
    "mine:NoSchedule",
    "node.kubernetes.io/unreachable:NoExecute",
    "node.kubernetes.io/unreachable:NoSchedule",
    "node.kubernetes.io/unschedulable:NoSchedule",
  ]);
  t.equal(
    wanted.find(({ effect }) => effect === "NoExecute")?.timeAdded,
    timestamp(NOW),
    "its clock goes on",
  );
  t.notOk(keys(wantedTaints(node, false, NOW)).includes("node.kubernetes.io/unreachable:NoExecute"));
});

t.test("every node gets a subnet of its own, also after a restart, until none is left", async (t) => {
  const options = { clusterCIDRs: ["10.244.0.0/22"] };
  const api = await running(t, 3, options);
  const { client } = api;
  const cidrs = () =>
    eventually("podCIDRs", async () => {
      const { items } = await client.list(NODES);
      const found = items.flatMap(({ spec }) => spec?.podCIDRs ?? []);
      return found.length >= Math.min(items.length, 4) && found;
    });
  const first = (await cidrs()) as string[];
  t.equal(new Set(first).size, 3);
  await api.controllers.stop();
  const informers = api.newInformers();
  const again = startControllers({ client, informers, log: api.log, ...OPTIONS, ...options });
  t.teardown(() => again.stop());
  await again.ready;
  await client.create(NODES, readyNode("node-4"));
  const four = (await cidrs()) as string[];
  t.equal(new Set(four).size, 4, "the fourth is none of the three");
  await client.create(NODES, readyNode("node-5"));
  await eventually("told", async () =>
    (await client.list(EVENTS, DEFAULT)).items.some(({ reason }) => reason === "CIDRNotAvailable"),
  );
  const freed = (await client.get(NODES, "node-2")).spec?.podCIDR;
  await client.delete(NODES, "node-2");
  await eventually(
    "the freed one is given on",
    async () => (await client.get(NODES, "node-5")).spec?.podCIDR === freed,
  );
});

t.test("a lost node: conditions, taints, pods, eviction, and back", async (t) => {
  const api = await openLocalApi();
  const { client, informers, log } = api;
  let now = Date.now();
  const events = new EventBroadcaster({ client, log, now: () => now });
  const context: ControllerContext = { client, informers, events, log, now: () => now };
  const { reconciler: lifecycle, ...lifecycleLoop } = queueController(
    context,
    "node-lifecycle",
    8,
    (queue) => new NodeLifecycleController(context, queue, { nodeMonitorGracePeriodSeconds: 40 }),
  );
  const evictionLoop = queueController(
    context,
    "taint-eviction",
    8,
    (queue) => new TaintEvictionController(context, queue),
  );
  const gc = new PodGcController(context, { quarantineMs: 40_000 });
  const gcLoop = sweepController(context, "pod-gc", gc);
  informers.start();
  await informers.synced();
  for (const name of ["default", "kube-node-lease"]) await client.create(NAMESPACES, { metadata: { name } });
  await addNodes(client, 2);
  const lease = (name: string) => ({
    metadata: { name, namespace: "kube-node-lease" },
    spec: { holderIdentity: name, renewTime: `${new Date(now).toISOString().slice(0, 23)}000Z` },
  });
  for (const name of ["node-1", "node-2"]) await client.create(LEASES, lease(name));
  const pod = async (name: string, tolerations: object[]) => {
    const spec = { nodeName: "node-1", containers: [{ name: "c", image: "v1" }], tolerations };
    await client.create(PODS, { metadata: { name, namespace: "default" }, spec } as Pod);
    const conditions = [{ type: "Ready", status: "True", lastTransitionTime: timestamp(now) }];
    await client.patch(
      PODS,
      name,
      "strategic",
      { status: { phase: "Running", conditions } },
      { ...DEFAULT, subresource: "status" },
    );
  };
  const tolerate = (seconds?: number) =>
    ["node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"].map((key) => ({
      key,
      operator: "Exists",
      effect: "NoExecute",
      ...(seconds === undefined ? {} : { tolerationSeconds: seconds }),
    }));
  await pod("short", tolerate(0));
  await pod("staying", tolerate());
  events.start();
  lifecycleLoop.start();
  evictionLoop.start();
  t.teardown(async () => {
    await Promise.all([lifecycleLoop.stop(), evictionLoop.stop(), gcLoop.stop(), events.stop()]);
    await api.close();
  });
  const node = (name: string) => client.get(NODES, name);
  const ready = (object: Stored<Node>) => object.status?.conditions?.find(({ type }) => type === "Ready");
  const taintsOf = async (name: string) =>
    ((await node(name)).spec?.taints ?? []).map(({ key, effect }) => `${key}:${effect}`);
  const renew = async (name: string) => {
    const { spec } = lease(name);
    const written = await client.patch(LEASES, name, "merge", { spec }, { namespace: "kube-node-lease" });
    await eventually("seen", async () => {
      const seen = informers.get(LEASES).get(`kube-node-lease/${name}`);
      return seen?.metadata.resourceVersion === written.metadata.resourceVersion;
    });
  };

  now += 39_000;
  await renew("node-2");
  lifecycle.monitor();
  now += 2_000;
  t.equal(ready(await node("node-1"))?.status, "True", "39 seconds are no reason");
  lifecycle.monitor();
  const lost = await eventually("node-1 is lost", async () => {
    const object = await node("node-1");
    return ready(object)?.status === "Unknown" && object;
  });
  t.match(ready(lost), { reason: "NodeStatusUnknown", message: "Kubelet stopped posting node status." });
  t.equal(ready(await node("node-2"))?.status, "True", "the other renewed its Lease");
  await eventually("tainted", async () => {
    const taints = await taintsOf("node-1");
    return (
      taints.includes("node.kubernetes.io/unreachable:NoExecute") &&
      taints.includes("node.kubernetes.io/unreachable:NoSchedule")
    );
  });
  const stayed = await eventually("the pod that stays is marked", async () => {
    const object = await client.get(PODS, "staying", "default");
    return object.status?.conditions?.find(({ type }) => type === "Ready")?.status === "False" && object;
  });
  t.notOk(stayed.metadata.deletionTimestamp);
  await eventually("and told so", async () =>
    (await client.list(EVENTS, DEFAULT)).items.some(({ message }) => message === "Node is not ready"),
  );
  const evicted = await eventually("the other is evicted", async () => {
    const object = await client.get(PODS, "short", "default");
    return object.metadata.deletionTimestamp !== undefined && object;
  });
  t.match(
    evicted.status?.conditions?.find(({ type }) => type === "DisruptionTarget"),
    { status: "True", reason: "DeletionByTaintManager" },
  );

  await renew("node-1");
  const conditions = (readyNode("node-1").status?.conditions ?? []).map((condition) => ({
    ...condition,
    lastHeartbeatTime: timestamp(now),
  }));
  await client.patch(NODES, "node-1", "strategic", { status: { conditions } }, { subresource: "status" });
  await eventually("the taints are gone", async () => (await taintsOf("node-1")).length === 0);
  await client.patch(NODES, "node-1", "merge", { spec: { unschedulable: true } });
  await eventually("cordoned", async () =>
    (await taintsOf("node-1")).includes("node.kubernetes.io/unschedulable:NoSchedule"),
  );

  gcLoop.start();
  await client.delete(NODES, "node-1");
  await eventually("seen", async () => informers.get(NODES).get("node-1") === undefined);
  await gc.sweep();
  t.ok(await client.get(PODS, "staying", "default"), "the node may come back");
  now += 41_000;
  await gc.sweep();
  await t.rejects(client.get(PODS, "staying", "default"), { message: 'pods "staying" not found' });
});
