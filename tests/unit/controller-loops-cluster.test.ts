// The controllers of taints, lost nodes, owners and the scheduler, one at a time on the real in-process API.

import t from "tap";
import { CONFIG_MAPS, EVENTS, isNotFound, NAMESPACES, NODES, PODS } from "../../common/client.js";
import type { KubeObject, Pod, Stored, Taint } from "../../common/k8s.js";
import { GarbageCollector } from "../../control/controllers/garbage-collector.js";
import { NodeLifecycleController } from "../../control/controllers/node-lifecycle.js";
import { Scheduler } from "../../control/controllers/scheduler.js";
import { TaintEvictionController } from "../../control/controllers/taint-eviction.js";
import { timestamp } from "../../control/controllers/time.js";
import { DEFAULT } from "./helpers/controller-objects.js";
import { addNodes, eventually, playKubelets, readyNode } from "./helpers/local-cluster.js";
import { alone, HOLD, pause, refusal } from "./helpers/one-controller.js";
import { CONTAINERS } from "./helpers/workload-objects.js";

t.test("taint eviction: when, for whom, and not after all", async (t) => {
  const { client, context, clock, start, queued, cached, told, bound } = await alone(t);
  await start(queued((queue) => new TaintEvictionController(context, queue)));
  await addNodes(client, 1);
  const taint = async (...keys: string[]) => {
    const taints: Taint[] = keys.map((key) => ({ key, effect: "NoExecute" }));
    await cached(NODES, await client.patch(NODES, "node-1", "merge", { spec: { taints } }));
  };
  const tolerate = (key: string, tolerationSeconds?: number) => ({
    key,
    operator: "Exists",
    effect: "NoExecute",
    ...(tolerationSeconds === undefined ? {} : { tolerationSeconds }),
  });
  const goes = (name: string) =>
    eventually(`${name} goes`, async () => {
      try {
        return (await client.get(PODS, name, "default")).metadata.deletionTimestamp;
      } catch (error) {
        if (!isNotFound(error)) throw error;
        return "gone";
      }
    });
  await bound("patient", "node-1", [tolerate("x", 600)]);
  await cached(PODS, await bound("brief", "node-1", [tolerate("x", 100), tolerate("y")]));
  await taint("x");
  // Seconds count from when the taint was first seen, whatever else comes to the node meanwhile.
  clock.ahead += 99_000;
  await taint("x", "y");
  t.notOk((await client.get(PODS, "brief", "default")).metadata.deletionTimestamp);
  clock.ahead += 2000;
  await goes("brief");
  await goes("patient");

  await taint("x");
  await cached(PODS, await bound("spared", "node-1", [tolerate("x", 600)]));
  await pause(20);
  await taint();
  await told(/^TaintManagerEviction: Cancelling deletion of Pod default\/spared$/);

  await taint("x");
  await bound("late", "node-1");
  await goes("late");
  await client.create(PODS, { metadata: { name: "free", ...DEFAULT }, spec: { containers: CONTAINERS } });
  await pause(20);
  t.notOk((await client.get(PODS, "free", "default")).metadata.deletionTimestamp, "bound to no node");
  const binding = {
    apiVersion: "v1",
    kind: "Binding",
    metadata: { name: "free", ...DEFAULT },
    target: { apiVersion: "v1", kind: "Node", name: "node-1" },
  };
  await client.create(PODS, binding as unknown as Pod, { ...DEFAULT, subresource: "binding" });
  await goes("free");
  const tolerations = (await client.get(PODS, "spared", "default")).spec?.tolerations ?? [];
  const sooner = tolerations.map((toleration) =>
    toleration.key === "x" ? { ...toleration, tolerationSeconds: 0 } : toleration,
  );
  await client.patch(PODS, "spared", "merge", { spec: { tolerations: sooner } }, DEFAULT);
  await goes("spared");
});

t.test("node lifecycle: nothing is evicted while every node is lost", async (t) => {
  const { client, context, clock, start, queued, cached, told, gone } = await alone(t);
  const controller = queued(
    (queue) => new NodeLifecycleController(context, queue, { nodeMonitorGracePeriodSeconds: 40 }),
  );
  await start(controller);
  await addNodes(client, 2);
  await client.create(NODES, { metadata: { name: "silent" } });
  await told(/^RegisteredNode: Node silent event: Registered Node silent in Controller$/);
  const readiness = async (name: string) =>
    (await client.get(NODES, name)).status?.conditions?.find(({ type }) => type === "Ready");
  const taints = async (name: string) =>
    ((await client.get(NODES, name)).spec?.taints ?? []).map(({ key, effect }) => `${key}:${effect}`);
  clock.ahead += 41_000;
  controller.reconciler.monitor();
  for (const name of ["node-1", "node-2"]) {
    await eventually(`${name} is tainted`, async () =>
      (await taints(name)).includes("node.kubernetes.io/unreachable:NoSchedule"),
    );
    t.same(await taints(name), ["node.kubernetes.io/unreachable:NoSchedule"], "and not NoExecute");
  }
  await told(/^NodeNotReady: Node node-1 status is now: NodeNotReady$/);
  t.equal(await readiness("silent"), undefined, "one that never said anything has half as long again");
  clock.ahead += 20_000;
  controller.reconciler.monitor();
  await eventually("the silent one is lost", async () => (await readiness("silent"))?.status === "Unknown");
  t.match(await readiness("silent"), { reason: "NodeStatusNeverUpdated" });

  const conditions = (readyNode("node-2").status?.conditions ?? []).map((condition) => ({
    ...condition,
    lastHeartbeatTime: timestamp(context.now()),
  }));
  const status = { conditions };
  await cached(
    NODES,
    await client.patch(NODES, "node-2", "strategic", { status }, { subresource: "status" }),
  );
  await eventually("evicted from the lost one", async () =>
    (await taints("node-1")).includes("node.kubernetes.io/unreachable:NoExecute"),
  );
  await eventually("but not from the other", async () => (await taints("node-2")).length === 0);
  await client.delete(NODES, "silent");
  await gone(NODES, "silent");
  await told(/^RemovingNode: Node silent event: Removing Node silent from Controller$/);
});

t.test("garbage collector: whose owner is who", async (t) => {
  const { client, context, start, queued, gone, told } = await alone(t);
  await start(queued((queue) => new GarbageCollector(context, queue)));
  await client.create(NAMESPACES, { metadata: { name: "other" } });
  const configMap = (name: string, owners: object[] = [], fields: object = {}, namespace = "default") =>
    client.create(CONFIG_MAPS, {
      metadata: { name, namespace, ownerReferences: owners, ...fields },
    } as KubeObject);
  const owned = ({ metadata }: Stored, more: object = {}) => ({
    apiVersion: "v1",
    kind: "ConfigMap",
    name: metadata.name,
    uid: metadata.uid,
    ...more,
  });
  const nobody = { apiVersion: "v1", kind: "ConfigMap", name: "nobody", uid: "0" };
  const owner = await configMap("owner");
  await configMap("child", [owned(owner)]);
  await configMap("half", [owned(owner), nobody]);
  await configMap("stranger", [owned(owner)], {}, "other");
  await gone(CONFIG_MAPS, "stranger", "other");
  const place = `\\[v1/ConfigMap, namespace: other, name: owner, uid: ${owner.metadata.uid}\\]`;
  await told(new RegExp(`^OwnerRefInvalidNamespace: ownerRef ${place} does not exist in namespace "other"$`));
  await configMap("misnamed", [{ ...owned(owner), name: "nobody" }]);
  await gone(CONFIG_MAPS, "misnamed", "default");
  await configMap("impostor", [{ ...owned(owner), uid: "1" }]);
  await gone(CONFIG_MAPS, "impostor", "default");
  await eventually("the absent owner is forgotten", async () => {
    const { metadata } = await client.get(CONFIG_MAPS, "half", "default");
    return metadata.ownerReferences?.length === 1;
  });
  t.ok(await client.get(CONFIG_MAPS, "child", "default"), "its owner is there");
  // A cluster-scoped object cannot have an owner in a namespace: nobody may judge it, and it stays.
  const ownerReferences = [nobody];
  await client.create(NODES, { metadata: { name: "node", ownerReferences } });
  await configMap("after", [nobody]);
  await gone(CONFIG_MAPS, "after", "default");
  t.ok(await client.get(NODES, "node"));

  // Foreground deletion waits for dependents that block it, and for no others.
  const free = await configMap("free");
  await configMap("lingering", [owned(free)], { finalizers: [HOLD] });
  await client.delete(CONFIG_MAPS, "free", { ...DEFAULT, propagationPolicy: "Foreground" });
  await gone(CONFIG_MAPS, "free", "default");
  const held = await configMap("held");
  await configMap("blocking", [owned(held, { blockOwnerDeletion: true })], { finalizers: [HOLD] });
  await client.delete(CONFIG_MAPS, "held", { ...DEFAULT, propagationPolicy: "Foreground" });
  await eventually("the blocking one goes first", async () => {
    const { metadata } = await client.get(CONFIG_MAPS, "blocking", "default");
    return metadata.deletionTimestamp;
  });
  await pause(20);
  t.ok(await client.get(CONFIG_MAPS, "held", "default"));
  await client.patch(CONFIG_MAPS, "blocking", "merge", { metadata: { ownerReferences: null } }, DEFAULT);
  await gone(CONFIG_MAPS, "held", "default");

  const one = await configMap("one");
  const block = { blockOwnerDeletion: true };
  const two = await configMap("two", [owned(one, block)]);
  const ownedByTwo = { metadata: { ownerReferences: [owned(two, block)] } };
  await client.patch(CONFIG_MAPS, "one", "merge", ownedByTwo, DEFAULT);
  await client.delete(CONFIG_MAPS, "one", { ...DEFAULT, propagationPolicy: "Foreground" });
  for (const name of ["one", "two"]) await gone(CONFIG_MAPS, name, "default");
});

t.test("scheduler: what lets waiting pods go on", async (t) => {
  let refuse = 1;
  const { client, context, informers, start, queued, told } = await alone(t, (client) => ({
    async create(resource, object, options) {
      if (options?.subresource === "binding" && refuse-- > 0) throw refusal();
      return await client.create(resource, object, options);
    },
  }));
  await start(queued((queue) => new Scheduler(context, queue)));
  t.teardown(playKubelets(client, informers));
  await addNodes(client, 1, { pods: 3 });
  const pod = (name: string, spec: object = {}, labels = {}) =>
    client.create(PODS, {
      metadata: { name, ...DEFAULT, labels },
      spec: { containers: CONTAINERS, ...spec },
    } as Pod);
  const nodeOf = async (name: string) => (await client.get(PODS, name, "default")).spec?.nodeName;
  const placed = (name: string) => eventually(`${name} has a node`, () => nodeOf(name));
  const waits = (name: string, why: RegExp) =>
    eventually(`${name} waits: ${why}`, async () => {
      const { status } = await client.get(PODS, name, "default");
      return status?.conditions?.some(
        ({ reason, message = "" }) => reason === "Unschedulable" && why.test(message),
      );
    });
  const term = (app: string) => ({
    requiredDuringSchedulingIgnoredDuringExecution: [
      { labelSelector: { matchLabels: { app } }, topologyKey: "kubernetes.io/hostname" },
    ],
  });
  await pod("a");
  await placed("a");
  await told(/^FailedScheduling: binding rejected: not today$/);
  await pod("near", { affinity: { podAffinity: term("db") } });
  await waits("near", /didn't match pod affinity rules/);
  await pod("db", { affinity: { podAntiAffinity: term("noise") } }, { app: "db" });
  await placed("db");
  await placed("near");
  await pod("full");
  await waits("full", /Too many pods/);
  await pod("noisy", {}, { app: "noise" });
  await client.delete(PODS, "a", DEFAULT);
  await placed("full");
  await client.delete(PODS, "full", DEFAULT);
  await waits("noisy", /existing pods anti-affinity rules/);
  await client.patch(PODS, "noisy", "merge", { metadata: { labels: { app: "quiet" } } }, DEFAULT);
  await placed("noisy");

  await client.delete(PODS, "noisy", DEFAULT);
  await pod("foreign", { schedulerName: "other" });
  await pod("gated", { schedulingGates: [{ name: HOLD }] });
  await pause(50);
  t.same([await nodeOf("foreign"), await nodeOf("gated")], [undefined, undefined]);
  await client.patch(PODS, "gated", "merge", { spec: { schedulingGates: null } }, DEFAULT);
  await placed("gated");
});

t.test("scheduler: of those that wait, the one of the highest priority goes first", async (t) => {
  const { client, context, informers, start, queued } = await alone(t);
  await start(queued((queue) => new Scheduler(context, queue)));
  t.teardown(playKubelets(client, informers));
  const waits = (name: string) =>
    eventually(`${name} waits`, async () => {
      const { status } = await client.get(PODS, name, "default");
      return status?.conditions?.some(({ reason }) => reason === "Unschedulable");
    });
  for (const [name, priority] of [
    ["first", 1],
    ["middle", 5],
    ["high", 10],
    ["last", 2],
  ] as const) {
    // Without preemption: else it would push the others out, and win however late it came.
    const spec = { containers: CONTAINERS, priority, preemptionPolicy: "Never" };
    await client.create(PODS, { metadata: { name, ...DEFAULT }, spec } as Pod);
    await waits(name);
  }
  // Room for two of the four.
  await addNodes(client, 1, { pods: 2 });
  const placed = async () => {
    const { items } = await client.list(PODS);
    return items.filter(({ spec }) => spec?.nodeName).map(({ metadata }) => metadata.name);
  };
  await eventually("the node is full", async () => (await placed()).length === 2);
  t.same((await placed()).sort(), ["high", "middle"]);
});

t.test(
  "scheduler: what cannot help a waiting pod does not try it again, but for every five minutes",
  async (t) => {
    const { client, context, informers, start, queued, cached } = await alone(t);
    const later = new Map<string, number>();
    await start(
      queued((queue) => {
        queue.addAfter = (key, ms) => later.set(key, ms);
        return new Scheduler(context, queue);
      }),
    );
    t.teardown(playKubelets(client, informers));
    const NAMES = ["choosy", "hungry", "apart"] as const;
    const told = async () => {
      await context.events.idle();
      const { items } = await client.list(EVENTS);
      return NAMES.map((name) =>
        items
          .filter((event) => event.reason === "FailedScheduling" && event.involvedObject.name === name)
          .reduce((sum, { count }) => sum + (count ?? 1), 0),
      );
    };
    const pod = async (name: string, spec: object, labels = {}) => {
      const made = await client.create(PODS, {
        metadata: { name, ...DEFAULT, labels },
        spec: { containers: CONTAINERS, ...spec },
      } as Pod);
      await cached(PODS, made);
    };
    const placed = (name: string) =>
      eventually(`${name} has a node`, async () => (await client.get(PODS, name, "default")).spec?.nodeName);
    const tellings = (...wanted: number[]) =>
      eventually(`told ${wanted}`, async () => `${await told()}` === `${wanted}`);
    await addNodes(client, 1);
    const requests = (cpu: string) => ({
      containers: [{ name: "c", image: "v1", resources: { requests: { cpu } } }],
    });
    const term = { labelSelector: { matchLabels: { app: "noise" } }, topologyKey: "kubernetes.io/hostname" };
    const away = { podAntiAffinity: { requiredDuringSchedulingIgnoredDuringExecution: [term] } };
    await pod("noise", {}, { app: "noise" });
    await pod("big", requests("5"));
    for (const name of ["noise", "big", "passer"]) {
      if (name === "passer") await pod(name, {});
      await placed(name);
    }
    await pod("choosy", { nodeSelector: { disk: "ssd" } });
    await pod("hungry", requests("6"));
    await pod("apart", { affinity: away });
    await tellings(1, 1, 1);
    t.strictSame([...later.values()], [300_000, 300_000, 300_000]);

    await client.delete(PODS, "passer", DEFAULT);
    await client.create(NODES, { ...readyNode("small"), spec: { unschedulable: true } });
    await client.patch(NODES, "small", "merge", { metadata: { annotations: { note: "n" } } });
    const allocatable = { cpu: "7", memory: "16Gi", pods: "100" };
    await client.patch(NODES, "node-1", "merge", { status: { allocatable } }, { subresource: "status" });
    const tainted = { taints: [{ key: "k", effect: "PreferNoSchedule" }] };
    await client.patch(NODES, "node-1", "merge", { spec: tainted });
    await pod("bystander", {});
    await placed("bystander");
    await pause(150);
    t.strictSame(
      await told(),
      [1, 1, 2],
      "a node is a new domain for rules between pods; nothing else helps",
    );

    await client.patch(NODES, "node-1", "merge", { metadata: { labels: { disk: "ssd" } } });
    await placed("choosy");
    await client.delete(PODS, "big", DEFAULT);
    await placed("hungry");
    await client.delete(PODS, "noise", DEFAULT);
    await placed("apart");
  },
);
