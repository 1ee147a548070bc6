// One controller at a time on the real in-process API, with a clock that the test sets ahead: what sets each one going, what
// it does when something else writes too or the API refuses, and the queue and the sweep that all of them share.

import t from "tap";
import {
  CONFIG_MAPS,
  DEPLOYMENTS,
  ENDPOINT_SLICES,
  ENDPOINTS,
  EVENTS,
  isNotFound,
  type KubeClient,
  LEASES,
  NAMESPACES,
  NODES,
  PODS,
  REPLICA_SETS,
  type Resource,
  SERVICE_ACCOUNTS,
  SERVICES,
  StatusError,
} from "../../common/client.js";
import { InformerFactory } from "../../common/informer.js";
import { type KubeObject, keyOf, type Node, type Pod, type Stored, type Taint } from "../../common/k8s.js";
import { silentLogger } from "../../common/log.js";
import type { WorkQueue } from "../../common/workqueue.js";
import { BootstrapController } from "../../control/controllers/bootstrap.js";
import type { Controller, ControllerContext } from "../../control/controllers/context.js";
import { DeploymentController } from "../../control/controllers/deployment.js";
import { EndpointsController } from "../../control/controllers/endpoints.js";
import { EndpointSliceController } from "../../control/controllers/endpointslice.js";
import { EventBroadcaster } from "../../control/controllers/events.js";
import { Freshness } from "../../control/controllers/freshness.js";
import { GarbageCollector } from "../../control/controllers/garbage-collector.js";
import { NamespaceController } from "../../control/controllers/namespace.js";
import { NodeIpamController } from "../../control/controllers/node-ipam.js";
import { NodeLifecycleController } from "../../control/controllers/node-lifecycle.js";
import { finishedBeyond, PodGcController } from "../../control/controllers/pod-gc.js";
import { queueController, type Reconciler, sweepController } from "../../control/controllers/reconcile.js";
import { ReplicaSetController } from "../../control/controllers/replicaset.js";
import { Scheduler } from "../../control/controllers/scheduler.js";
import { ServiceAccountController } from "../../control/controllers/service-account.js";
import { TaintEvictionController } from "../../control/controllers/taint-eviction.js";
import { timestamp } from "../../control/controllers/time.js";
import { addNodes, eventually, openLocalApi, playKubelets, readyNode } from "./helpers/local-cluster.js";

const DEFAULT = { namespace: "default" };
const CONTAINERS = [{ name: "c", image: "v1" }];
const HOLD = "example.com/hold";
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** The same API, some verbs of which are the test's own. */
function withVerbs(client: KubeClient, own: Partial<KubeClient>): KubeClient {
  const verbs = ["get", "list", "watch", "create", "update", "patch", "delete", "deleteCollection"] as const;
  const all = Object.fromEntries(verbs.map((verb) => [verb, client[verb].bind(client)]));
  return { ...all, ...own } as unknown as KubeClient;
}

const refusal = () =>
  new StatusError({
    kind: "Status",
    apiVersion: "v1",
    metadata: {},
    status: "Failure",
    code: 403,
    reason: "Forbidden",
    message: "not today",
  });

/** An empty API with the namespace default; controllers started here see `own` instead of its verbs. */
async function alone(
  t: { teardown(fn: () => unknown): unknown },
  own: (client: KubeClient) => Partial<KubeClient> = () => ({}),
) {
  const { client, informers, close } = await openLocalApi();
  const clock = { ahead: 0 };
  const now = () => Date.now() + clock.ahead;
  const log = silentLogger;
  const events = new EventBroadcaster({ client, log, now });
  const context: ControllerContext = { client: withVerbs(client, own(client)), informers, events, log, now };
  const started: Controller[] = [];
  await client.create(NAMESPACES, { metadata: { name: "default" } });
  events.start();
  t.teardown(async () => {
    await Promise.all(started.map((controller) => controller.stop()));
    await events.stop();
    await close();
  });
  return {
    client,
    informers,
    clock,
    context,
    async start(...controllers: Controller[]): Promise<void> {
      informers.start();
      await informers.synced();
      for (const controller of controllers) controller.start();
      started.push(...controllers);
    },
    queued: <R extends Reconciler>(make: (queue: WorkQueue) => R) =>
      queueController(context, "test", 4, make),
    /** Resolves when the shared cache shows the object as it was written, or a newer state. */
    async cached<T extends KubeObject>(resource: Resource<T>, object: Stored<T>): Promise<void> {
      await eventually(`${keyOf(object)} in the cache`, async () => {
        const seen = informers.get(resource).get(keyOf(object));
        return Number(seen?.metadata.resourceVersion) >= Number(object.metadata.resourceVersion);
      });
    },
    async told(text: RegExp): Promise<void> {
      await eventually(`an Event ${text}`, async () =>
        (await client.list(EVENTS)).items.some(({ reason, message }) => text.test(`${reason}: ${message}`)),
      );
    },
    /** A pod bound to a node. */
    bound: (name: string, nodeName: string, tolerations: object[] = [], finalizers: string[] = []) =>
      client.create(PODS, {
        metadata: { name, ...DEFAULT, finalizers },
        spec: { nodeName, containers: CONTAINERS, tolerations },
      } as Pod),
    async gone(resource: Resource, name: string, namespace?: string): Promise<void> {
      await eventually(`${name} is gone`, async () => {
        try {
          await client.get(resource, name, namespace);
          return false;
        } catch (error) {
          if (!isNotFound(error)) throw error;
          return true;
        }
      });
    },
  };
}

t.test("a queue: NotFound ends a key, anything else comes again, stopping waits for what runs", async (t) => {
  const { client, queued } = await alone(t);
  const seen: string[] = [];
  const times = (key: string) => seen.filter((other) => other === key).length;
  let release = () => {};
  let closed = false;
  const controller = queued((queue) => ({
    watch: () => {
      for (const key of ["gone", "fails", "slow"]) queue.add(key);
    },
    async reconcile(key) {
      seen.push(key);
      if (key === "gone") await client.get(PODS, "nobody", "default");
      if (key === "fails" && times(key) === 1) throw new Error("once");
      if (key === "slow") await new Promise<void>((resolve) => (release = resolve));
    },
    close: () => {
      closed = true;
    },
  }));
  controller.start();
  await eventually("the failed one again", async () => times("fails") === 2);
  await pause(50);
  t.same([times("gone"), times("fails"), times("slow")], [1, 2, 1]);
  let stopped = false;
  const stopping = controller.stop().then(() => {
    stopped = true;
  });
  await pause(5);
  t.same([closed, stopped], [true, false]);
  release();
  await stopping;
});

t.test("a sweep: at once, again after a failure, never two together, stopping waits", async (t) => {
  const { context } = await alone(t);
  let sweeps = 0;
  let finish = () => {};
  const controller = sweepController(context, "test", {
    periodMs: 5,
    async sweep() {
      sweeps += 1;
      if (sweeps === 1) throw new Error("once");
      await new Promise<void>((resolve) => (finish = resolve));
    },
  });
  controller.start();
  t.equal(sweeps, 1, "at once");
  await eventually("the next one", async () => sweeps === 2);
  await pause(30);
  t.equal(sweeps, 2, "one at a time");
  let stopped = false;
  const stopping = controller.stop().then(() => {
    stopped = true;
  });
  await pause(20);
  t.notOk(stopped);
  finish();
  await stopping;
  t.equal(sweeps, 2);
});

t.test("freshness: a cache that lacks one's own writes is not acted upon, for ten seconds", async (t) => {
  const { client, informers, clock, context, start } = await alone(t);
  const pods = informers.get(PODS);
  const writes = new Freshness(pods, context.now);
  await start();
  const created = await client.create(PODS, {
    metadata: { name: "p", ...DEFAULT },
    spec: { containers: CONTAINERS },
  });
  // What is told of here comes about afterwards: then the cache is sure to lack it.
  const next = String(Number(created.metadata.resourceVersion) + 1);
  writes.wrote("a", { ...created, metadata: { ...created.metadata, resourceVersion: next } });
  t.same([writes.isFresh("a"), writes.isFresh("b")], [false, true], "only who wrote has to wait");
  await client.patch(PODS, "p", "merge", { metadata: { labels: { seen: "yes" } } }, DEFAULT);
  await eventually("seen", async () => pods.get("default/p")?.metadata.labels?.seen);
  t.ok(writes.isFresh("a"));
  writes.deleted("a", created);
  t.notOk(writes.isFresh("a"));
  await client.delete(PODS, "p", DEFAULT);
  await eventually("seen to go", async () => !pods.get("default/p"));
  t.ok(writes.isFresh("a"));
  const { metadata } = created;
  writes.wrote("a", { ...created, metadata: { ...metadata, resourceVersion: "1000000" } });
  clock.ahead += 9000;
  t.notOk(writes.isFresh("a"));
  clock.ahead += 2000;
  t.ok(writes.isFresh("a"), "the event was lost");
});

t.test("bootstrap: what a person changes or removes is put back", async (t) => {
  const { client, context, start, queued } = await alone(t);
  const options = { serviceCIDRs: ["10.96.0.0/16"], serverAddresses: { ip: "192.168.56.1", port: 6443 } };
  await start(
    queued((queue) => new BootstrapController(context, queue, options)),
    queued((queue) => new NamespaceController(context, queue)),
  );
  const whole = () =>
    eventually("default/kubernetes is whole", async () => {
      const [service, endpoints, slice] = await Promise.all([
        client.get(SERVICES, "kubernetes", "default").catch(() => undefined),
        client.get(ENDPOINTS, "kubernetes", "default").catch(() => undefined),
        client.get(ENDPOINT_SLICES, "kubernetes", "default").catch(() => undefined),
      ]);
      return (
        service?.spec?.ports?.[0]?.targetPort === 6443 &&
        endpoints?.subsets?.[0]?.addresses?.[0]?.ip === "192.168.56.1" &&
        slice?.endpoints[0]?.addresses[0] === "192.168.56.1"
      );
    });
  await whole();
  const ports = [{ name: "https", port: 443, targetPort: 1 }];
  await client.patch(SERVICES, "kubernetes", "merge", { spec: { ports } }, DEFAULT);
  await whole();
  await client.patch(ENDPOINTS, "kubernetes", "merge", { subsets: [] }, DEFAULT);
  await whole();
  await client.patch(ENDPOINT_SLICES, "kubernetes", "merge", { endpoints: [] }, DEFAULT);
  await whole();
  for (const resource of [SERVICES, ENDPOINTS, ENDPOINT_SLICES] as Resource[]) {
    await client.delete(resource, "kubernetes", DEFAULT);
    await whole();
  }
  const { metadata } = await client.get(NAMESPACES, "kube-node-lease");
  await client.delete(NAMESPACES, "kube-node-lease");
  await eventually("another kube-node-lease", async () =>
    (await client.list(NAMESPACES)).items.some(
      (other) => other.metadata.name === metadata.name && other.metadata.uid !== metadata.uid,
    ),
  );
});

t.test("bootstrap: an API server on loopback has no endpoint that pods could reach", async (t) => {
  const { client, context, start, queued } = await alone(t);
  const options = { serviceCIDRs: ["10.96.0.0/16"], serverAddresses: { ip: "127.0.0.1", port: 6443 } };
  await start(queued((queue) => new BootstrapController(context, queue, options)));
  const slice = await eventually("the slice", () =>
    client.get(ENDPOINT_SLICES, "kubernetes", "default").catch(() => undefined),
  );
  t.same(slice.endpoints, []);
  t.same((await client.get(ENDPOINTS, "kubernetes", "default")).subsets ?? [], []);
});

t.test("service accounts: one that is removed comes back", async (t) => {
  const { client, context, start, queued } = await alone(t);
  await start(queued((queue) => new ServiceAccountController(context, queue)));
  const account = (except?: string) =>
    eventually("the ServiceAccount", async () => {
      const { items } = await client.list(SERVICE_ACCOUNTS, DEFAULT);
      return items.find(({ metadata }) => metadata.name === "default" && metadata.uid !== except);
    });
  const { uid } = (await account()).metadata;
  await client.delete(SERVICE_ACCOUNTS, "default", DEFAULT);
  await account(uid);
});

t.test("namespace: what holds it up is told, and it goes soon after", async (t) => {
  let refuse = true;
  const { client, context, start, queued, gone } = await alone(t, (client) => ({
    async deleteCollection(resource, options) {
      if ((resource as Resource) === (LEASES as Resource) && refuse) throw refusal();
      await client.deleteCollection(resource, options);
    },
  }));
  await start(queued((queue) => new NamespaceController(context, queue)));
  await client.create(NAMESPACES, { metadata: { name: "team" } });
  await client.create(CONFIG_MAPS, { metadata: { name: "held", namespace: "team", finalizers: [HOLD] } });
  await client.create(LEASES, { metadata: { name: "l", namespace: "team" } });
  await client.delete(NAMESPACES, "team");
  const conditionsOf = (leases: number) =>
    eventually(`conditions with ${leases} Leases`, async () => {
      const { status } = await client.get(NAMESPACES, "team");
      const text = JSON.stringify(status?.conditions ?? "");
      return text !== '""' && text.includes("leases.") === leases > 0 && status?.conditions;
    });
  t.match((await conditionsOf(1))[2], {
    type: "NamespaceDeletionContentFailure",
    status: "True",
    reason: "ContentDeletionFailed",
    message: "Failed to delete all resource types, 1 remaining: not today",
  });
  refuse = false;
  const conditions = await conditionsOf(0);
  t.match(conditions, [
    {
      type: "NamespaceDeletionDiscoveryFailure",
      status: "False",
      reason: "ResourcesDiscovered",
      message: "All resources successfully discovered",
    },
    {
      type: "NamespaceDeletionGroupVersionParsingFailure",
      status: "False",
      reason: "ParsedGroupVersions",
      message: "All legacy kube types successfully parsed",
    },
    {
      type: "NamespaceDeletionContentFailure",
      status: "False",
      reason: "ContentDeleted",
      message: "All content successfully deleted, may be waiting on finalization",
    },
    {
      type: "NamespaceContentRemaining",
      status: "True",
      reason: "SomeResourcesRemain",
      message: "Some resources are remaining: configmaps. has 1 resource instances",
    },
    {
      type: "NamespaceFinalizersRemaining",
      status: "True",
      reason: "SomeFinalizersRemain",
      message: `Some content in the namespace has finalizers remaining: ${HOLD} in 1 resource instances`,
    },
  ]);
  t.notOk("deletionGracePeriodSeconds" in (await client.get(NAMESPACES, "team")).metadata);
  const before = Date.now();
  await client.patch(CONFIG_MAPS, "held", "merge", { metadata: { finalizers: null } }, { namespace: "team" });
  await gone(NAMESPACES, "team");
  t.ok(Date.now() - before < 4000, "the event of the last object counts, not the next attempt");
});

t.test("node-ipam: nobody gets what another Node brought along", async (t) => {
  const { client, context, start, queued, told } = await alone(t);
  const options = { clusterCIDRs: ["10.244.0.0/22"], nodeCIDRMaskSize: 24 };
  await start(queued((queue) => new NodeIpamController(context, queue, options)));
  const bringing = (name: string, podCIDR: string): Node => ({
    ...readyNode(name),
    spec: { podCIDR, podCIDRs: [podCIDR] },
  });
  await client.create(NODES, bringing("own", "10.244.0.0/24"));
  await addNodes(client, 3);
  const cidrs = await eventually("podCIDRs", async () => {
    const found = (await client.list(NODES)).items.flatMap(({ spec }) => spec?.podCIDRs ?? []);
    return found.length === 4 && found;
  });
  t.equal(new Set(cidrs).size, 4);
  await client.create(NODES, bringing("double", "10.244.0.0/24"));
  await told(/^CIDRAssignmentFailed: podCIDR 10.244.0.0\/24 of node double is held by node own$/);
  await client.create(NODES, bringing("outside", "10.1.0.0/24"));
  await told(/^CIDRAssignmentFailed: podCIDR 10.1.0.0\/24 is outside of clusterCIDR 10.244.0.0\/22$/);
});

t.test("node-ipam: a subnet whose write failed is given to the same Node again", async (t) => {
  let refused = 0;
  const { client, context, start, queued } = await alone(t, (client) => ({
    patch: (...args) => {
      refused += 1;
      return refused < 4 ? Promise.reject(refusal()) : client.patch(...args);
    },
  }));
  const options = { clusterCIDRs: ["10.244.0.0/23"], nodeCIDRMaskSize: 24 };
  await start(queued((queue) => new NodeIpamController(context, queue, options)));
  await addNodes(client, 1);
  const cidr = await eventually(
    "the first podCIDR",
    async () => (await client.get(NODES, "node-1")).spec?.podCIDR,
  );
  t.equal(cidr, "10.244.0.0/24");
});

t.test("pod-gc: what no kubelet will remove", async (t) => {
  const { client, context, clock, start, cached, bound, gone } = await alone(t);
  const gc = new PodGcController(context, { quarantineMs: 40_000 });
  await start(sweepController(context, "pod-gc", gc));
  await addNodes(client, 1);
  const status = (name: string, status: object) =>
    client.patch(PODS, name, "strategic", { status }, { ...DEFAULT, subresource: "status" });

  await bound("stuck", "node-1");
  await client.delete(PODS, "stuck", DEFAULT);
  await bound("done", "node-1");
  await cached(PODS, await status("done", { phase: "Succeeded" }));
  const taints = [{ key: "node.kubernetes.io/out-of-service", value: "nodeshutdown", effect: "NoExecute" }];
  await cached(NODES, await client.patch(NODES, "node-1", "merge", { spec: { taints } }));
  await gc.sweep();
  t.ok(await client.get(PODS, "stuck", "default"), "a node that is ready ends its pods itself");
  const conditions = [{ type: "Ready", status: "False" }];
  const options = { subresource: "status" as const };
  await cached(NODES, await client.patch(NODES, "node-1", "strategic", { status: { conditions } }, options));
  await gc.sweep();
  await gone(PODS, "stuck", "default");
  t.ok(await client.get(PODS, "done", "default"), "a finished one stays to be looked at");

  await cached(PODS, await bound("lost", "nowhere", [], [HOLD]));
  await gc.sweep();
  clock.ahead += 39_000;
  await gc.sweep();
  t.notOk((await client.get(PODS, "lost", "default")).metadata.deletionTimestamp, "the node may come back");
  clock.ahead += 2000;
  await gc.sweep();
  t.match(await client.get(PODS, "lost", "default"), {
    metadata: { deletionTimestamp: String },
    status: {
      phase: "Failed",
      conditions: [{ type: "DisruptionTarget", status: "True", reason: "DeletionByPodGC" }],
    },
  });

  const blind = new InformerFactory(client);
  t.teardown(() => blind.stop());
  const blindGc = new PodGcController({ ...context, informers: blind }, { quarantineMs: 0 });
  blind.get(PODS).start();
  await blind.get(PODS).synced;
  await blindGc.sweep();
  t.ok(await client.get(PODS, "done", "default"), "a cache without the node is not believed");
});

t.test("pod-gc: of finished pods the oldest go", async (t) => {
  const pod = (name: string, second: number, phase: string, deletionTimestamp?: string) =>
    ({
      metadata: { name, creationTimestamp: `2026-03-01T12:00:0${second}Z`, deletionTimestamp },
      status: { phase },
    }) as Stored<Pod>;
  const pods = [
    pod("c", 3, "Failed"),
    pod("a", 1, "Succeeded"),
    pod("runs", 0, "Running"),
    pod("b", 2, "Succeeded"),
    pod("goes", 0, "Failed", "2026-03-01T12:00:09Z"),
  ];
  const names = (limit: number) => finishedBeyond(pods, limit).map(({ metadata }) => metadata.name);
  t.same([names(1), names(2), names(3), names(9)], [["a", "b"], ["a"], [], []]);
  const evicted = pod("e", 9, "Failed");
  pods.push({ ...evicted, status: { ...evicted.status, reason: "Evicted" } });
  t.same([names(3), names(1)], [["e"], ["e", "a", "b"]], "evicted ones before");
});

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

const LABELS = { app: "web" };
const TEMPLATE = { metadata: { labels: LABELS }, spec: { containers: CONTAINERS } };
const replicaSet = (spec: object) => ({
  metadata: { name: "web", ...DEFAULT },
  spec: { selector: { matchLabels: LABELS }, template: TEMPLATE, ...spec },
});

t.test("replicaset: refused pods are tried slowly, told in the status, and come when they may", async (t) => {
  let open = 3;
  let now = 0;
  let most = 0;
  const { client, context, start, queued, told } = await alone(t, (client) => ({
    async create(resource, object, options) {
      if ((resource as Resource) !== (PODS as Resource))
        return await client.create(resource, object, options);
      now += 1;
      most = Math.max(most, now);
      await pause(2);
      now -= 1;
      open -= 1;
      if (open < 0) throw refusal();
      return await client.create(resource, object, options);
    },
  }));
  await start(queued((queue) => new ReplicaSetController(context, queue)));
  await client.create(REPLICA_SETS, replicaSet({ replicas: 16 }));
  const failed = await eventually("ReplicaFailure", async () => {
    const { status } = await client.get(REPLICA_SETS, "web", "default");
    return status?.replicas === 3 && status.conditions;
  });
  t.match(failed, [{ type: "ReplicaFailure", status: "True", reason: "FailedCreate", message: "not today" }]);
  await told(/^FailedCreate: Error creating: not today$/);
  t.equal(most, 4, "one, two, four, and then no more");
  open = 100;
  await eventually("all of them", async () => {
    const { status } = await client.get(REPLICA_SETS, "web", "default");
    return status?.replicas === 16 && !status.conditions;
  });
});

t.test("replicaset: minReadySeconds, pods it loses, pods that others delete", async (t) => {
  const { client, context, informers, start, queued } = await alone(t, (client) => ({
    // Somebody else is faster each time.
    async delete(resource, name, options) {
      await client.delete(resource, name, { ...DEFAULT, gracePeriodSeconds: 0 });
      await client.delete(resource, name, options);
    },
  }));
  await start(queued((queue) => new ReplicaSetController(context, queue)));
  await addNodes(client, 1);
  t.teardown(playKubelets(client, informers));
  const template = { ...TEMPLATE, spec: { ...TEMPLATE.spec, nodeName: "node-1" } };
  await client.create(REPLICA_SETS, replicaSet({ replicas: 2, minReadySeconds: 1, template }));
  const status = (replicas: number, available: number) =>
    eventually(`${replicas} replicas, ${available} available`, async () => {
      const { status } = await client.get(REPLICA_SETS, "web", "default");
      return status?.replicas === replicas && (status.availableReplicas ?? 0) === available;
    });
  await status(2, 2);
  const [pod] = (await client.list(PODS, DEFAULT)).items;
  const name = pod?.metadata.name ?? "";
  // Given to another controller: its old one makes up for it.
  const ownerReferences = [
    {
      apiVersion: "v1",
      kind: "ConfigMap",
      name: "mine",
      uid: "1",
      controller: true,
      blockOwnerDeletion: true,
    },
  ];
  await client.patch(PODS, name, "merge", { metadata: { ownerReferences } }, DEFAULT);
  await eventually("another one", async () => (await client.list(PODS, DEFAULT)).items.length === 3);
  await client.patch(REPLICA_SETS, "web", "merge", { spec: { replicas: 0 } }, DEFAULT);
  await status(0, 0);
  const { items } = await client.list(EVENTS, DEFAULT);
  t.notOk(
    items.some(({ reason }) => reason === "SuccessfulDelete"),
    "it was not we who deleted them",
  );
});

t.test("replicaset: of equal pods one on the fullest node goes; a dying owner lets go of none", async (t) => {
  const { client, context, start, queued, cached } = await alone(t);
  await start(queued((queue) => new ReplicaSetController(context, queue)));
  const pod = async (name: string, nodeName: string, restartCount: number) => {
    const spec = { nodeName, containers: CONTAINERS };
    await client.create(PODS, { metadata: { name, ...DEFAULT, labels: LABELS }, spec });
    const status = {
      phase: "Running",
      conditions: [{ type: "Ready", status: "True", lastTransitionTime: "2026-03-01T12:00:00Z" }],
      containerStatuses: [{ name: "c", image: "v1", imageID: "", ready: true, restartCount }],
    };
    const options = { ...DEFAULT, subresource: "status" as const };
    await cached(PODS, await client.patch(PODS, name, "strategic", { status }, options));
  };
  await pod("alone", "node-2", 5);
  await pod("one", "node-1", 0);
  await pod("two", "node-1", 0);
  const finalizers = [HOLD];
  const { metadata, spec } = replicaSet({ replicas: 2 });
  await client.create(REPLICA_SETS, { metadata: { ...metadata, finalizers }, spec });
  const replicas = (count: number) =>
    eventually(`${count} replicas`, async () => {
      const { status } = await client.get(REPLICA_SETS, "web", "default");
      return status?.replicas === count;
    });
  await replicas(2);
  t.notOk((await client.get(PODS, "alone", "default")).metadata.deletionTimestamp);
  await client.delete(REPLICA_SETS, "web", DEFAULT);
  await client.patch(PODS, "alone", "merge", { metadata: { labels: { app: "other" } } }, DEFAULT);
  await replicas(1);
  const { ownerReferences } = (await client.get(PODS, "alone", "default")).metadata;
  t.equal(ownerReferences?.length, 1, "the garbage collector has to find it");
});

t.test("replicaset: what adopts must live", async (t) => {
  const { client, context, start, queued } = await alone(t, (client) => ({
    async get(resource, name, namespace) {
      const object = await client.get(resource, name, namespace);
      return { ...object, metadata: { ...object.metadata, uid: "another" } };
    },
  }));
  await start(queued((queue) => new ReplicaSetController(context, queue)));
  await client.create(PODS, {
    metadata: { name: "orphan", ...DEFAULT, labels: LABELS },
    spec: TEMPLATE.spec,
  });
  await client.create(REPLICA_SETS, replicaSet({ replicas: 1 }));
  await pause(50);
  const orphan = await client.get(PODS, "orphan", "default");
  t.same(orphan.metadata.ownerReferences ?? [], [], "one that is being replaced adopts nothing");
});

const deployment = (spec: object = {}) => ({
  metadata: { name: "web", ...DEFAULT },
  spec: { replicas: 2, selector: { matchLabels: LABELS }, template: TEMPLATE, ...spec },
});

t.test("deployment: another owner holds the name of its ReplicaSet", async (t) => {
  const { client, context, start, queued } = await alone(t);
  await client.create(NAMESPACES, { metadata: { name: "other" } });
  await start(queued((queue) => new DeploymentController(context, queue)));
  const elsewhere = { ...deployment(), metadata: { name: "web", namespace: "other" } };
  await client.create(DEPLOYMENTS, elsewhere);
  const first = (namespace: string) =>
    eventually(`a ReplicaSet in ${namespace}`, async () =>
      (await client.list(REPLICA_SETS, { namespace })).items.find(({ metadata }) => metadata.ownerReferences),
    );
  const { name } = (await first("other")).metadata;
  const labels = { app: "stranger" };
  const strange = { selector: { matchLabels: labels }, template: { ...TEMPLATE, metadata: { labels } } };
  await client.create(REPLICA_SETS, { metadata: { name, ...DEFAULT }, spec: { replicas: 0, ...strange } });
  await client.create(DEPLOYMENTS, deployment());
  const own = await first("default");
  t.not(own.metadata.name, name);
  t.equal((await client.get(DEPLOYMENTS, "web", "default")).status?.collisionCount, 1);
  const ownerReferences = [{ apiVersion: "v1", kind: "ConfigMap", name: "mine", uid: "1", controller: true }];
  await client.patch(REPLICA_SETS, own.metadata.name, "merge", { metadata: { ownerReferences } }, DEFAULT);
  await eventually(
    "it is taken away, and there is another",
    async () => (await client.list(REPLICA_SETS, DEFAULT)).items.length === 3,
  );
});

t.test("deployment: its own ReplicaSet of a moment ago is no collision", async (t) => {
  const { client, context, start, queued } = await alone(t, (client) => ({
    async create(resource, object, options) {
      await client.create(resource, object, options);
      return await client.create(resource, object, options);
    },
  }));
  await start(queued((queue) => new DeploymentController(context, queue)));
  await client.create(DEPLOYMENTS, deployment());
  const { status } = await eventually("it is found", async () => {
    const object = await client.get(DEPLOYMENTS, "web", "default");
    return object.status?.conditions?.some(({ reason }) => reason === "FoundNewReplicaSet") && object;
  });
  t.equal(status?.collisionCount, undefined);
});

t.test("deployment: a ReplicaSet that is being deleted is not adopted", async (t) => {
  const { client, context, start, queued, cached } = await alone(t);
  const { spec } = replicaSet({ replicas: 2 });
  const metadata = { name: "leaving", ...DEFAULT, labels: LABELS, finalizers: [HOLD] };
  await client.create(REPLICA_SETS, { metadata, spec });
  await client.delete(REPLICA_SETS, "leaving", DEFAULT);
  await start(queued((queue) => new DeploymentController(context, queue)));
  await cached(DEPLOYMENTS, await client.create(DEPLOYMENTS, deployment()));
  const items = await eventually("one of its own", async () => {
    const { items } = await client.list(REPLICA_SETS, DEFAULT);
    return items.length === 2 && items;
  });
  const owners = items.map(({ metadata }) => (metadata.ownerReferences ?? []).length);
  t.same(owners.sort(), [0, 1]);
});

t.test("deployment: the deadline, a refused ReplicaSet, minReadySeconds, zero replicas", async (t) => {
  let refuse = true;
  const { client, context, clock, start, queued } = await alone(t, (client) => ({
    async create(resource, object, options) {
      if (refuse && (resource as Resource) === (REPLICA_SETS as Resource)) throw refusal();
      return await client.create(resource, object, options);
    },
  }));
  await start(queued((queue) => new DeploymentController(context, queue)));
  const get = () => client.get(DEPLOYMENTS, "web", "default");
  const progressing = (reason: string) =>
    eventually(`Progressing: ${reason}`, async () =>
      (await get()).status?.conditions?.find((one) => one.type === "Progressing" && one.reason === reason),
    );
  await client.create(DEPLOYMENTS, deployment({ progressDeadlineSeconds: 1 }));
  const failed = await progressing("ReplicaSetCreateError");
  t.match(failed, { status: "False", message: /^Failed to create new replica set "web-\w+": not today$/ });
  refuse = false;
  await progressing("NewReplicaSetCreated");
  clock.ahead += 60_000;
  t.match(await progressing("ProgressDeadlineExceeded"), { status: "False" }, "nobody makes its pods");

  const sets = async () => (await client.list(REPLICA_SETS, DEFAULT)).items;
  const slower = { spec: { minReadySeconds: 7, progressDeadlineSeconds: 600 } };
  await client.patch(DEPLOYMENTS, "web", "merge", slower, DEFAULT);
  await eventually("handed down", async () => (await sets())[0]?.spec?.minReadySeconds === 7);
  await client.patch(DEPLOYMENTS, "web", "merge", { spec: { replicas: 0 } }, DEFAULT);
  const status = await eventually("nothing is wanted", async () => {
    const { metadata, status } = await get();
    return status?.observedGeneration === metadata.generation && !status?.unavailableReplicas && status;
  });
  t.notOk("unavailableReplicas" in status, "a count of zero is left out");
});

t.test("deployment: scaled in the middle of a rollout, old and new grow in proportion", async (t) => {
  const { client, context, informers, start, queued, told } = await alone(t);
  await start(
    queued((queue) => new DeploymentController(context, queue)),
    queued((queue) => new ReplicaSetController(context, queue)),
  );
  const nodeName = "node-1";
  const template = (image: string) => ({
    metadata: { labels: LABELS },
    spec: { nodeName, containers: [{ name: "c", image }] },
  });
  t.teardown(
    playKubelets(client, informers, (pod, becomeReady) => {
      if (pod.spec?.containers[0]?.image === "v1") void becomeReady();
    }),
  );
  await client.create(DEPLOYMENTS, deployment({ replicas: 8, template: template("v1") }));
  const sizes = (wanted: string) =>
    eventually(`sizes ${wanted}`, async () => {
      const { items } = await client.list(REPLICA_SETS, DEFAULT);
      const found = items.map(({ spec, status }) => `${spec?.replicas}/${status?.replicas}`);
      return found.sort().join(" ") === wanted;
    });
  await eventually("8 available", async () => {
    const { status } = await client.get(DEPLOYMENTS, "web", "default");
    return status?.availableReplicas === 8;
  });
  await client.patch(DEPLOYMENTS, "web", "merge", { spec: { template: template("v2") } }, DEFAULT);
  await sizes("4/4 6/6");
  await client.patch(DEPLOYMENTS, "web", "merge", { spec: { replicas: 16 } }, DEFAULT);
  await sizes("12/12 8/8");
  await told(/^ScalingReplicaSet: Scaled up replica set web-\w+ from 6 to 12$/);
  const paused = { spec: { paused: true, revisionHistoryLimit: 0 } };
  await client.patch(DEPLOYMENTS, "web", "merge", { spec: { replicas: 0 } }, DEFAULT);
  await sizes("0/0 0/0");
  await client.patch(DEPLOYMENTS, "web", "merge", paused, DEFAULT);
  await sizes("0/0");
});

t.test("deployment: Recreate waits until the last old pod has really ended", async (t) => {
  const { client, context, start, queued } = await alone(t);
  await start(
    queued((queue) => new DeploymentController(context, queue)),
    queued((queue) => new ReplicaSetController(context, queue)),
  );
  const spec = { ...TEMPLATE.spec, nodeName: "node-1" };
  const strategy = { type: "Recreate" };
  await client.create(DEPLOYMENTS, deployment({ replicas: 1, strategy, template: { ...TEMPLATE, spec } }));
  const [old] = await eventually("the old pod", async () => {
    const { items } = await client.list(PODS, DEFAULT);
    return items.length === 1 && items;
  });
  const next = { ...TEMPLATE, spec: { ...spec, containers: [{ name: "c", image: "v2" }] } };
  await client.patch(DEPLOYMENTS, "web", "merge", { spec: { template: next } }, DEFAULT);
  const name = old?.metadata.name ?? "";
  await eventually("it ends", async () => {
    const { metadata } = await client.get(PODS, name, "default");
    return metadata.deletionTimestamp;
  });
  await pause(50);
  t.equal((await client.list(REPLICA_SETS, DEFAULT)).items.length, 1, "it has not ended yet");
  const ended = { status: { phase: "Succeeded" } };
  await client.patch(PODS, name, "strategic", ended, { ...DEFAULT, subresource: "status" });
  await eventually("the new pod", async () =>
    (await client.list(PODS, DEFAULT)).items.some((pod) => pod.spec?.containers[0]?.image === "v2"),
  );
});

const SERVICE = {
  metadata: { name: "web", ...DEFAULT },
  spec: { selector: LABELS, ports: [{ port: 80 }] },
};

t.test("endpoints and slices: what others change, and what goes with the Service", async (t) => {
  const { client, context, informers, start, queued, cached, gone } = await alone(t);
  await start(
    queued((queue) => new EndpointsController(context, queue)),
    queued((queue) => new EndpointSliceController(context, queue)),
  );
  t.teardown(playKubelets(client, informers));
  await addNodes(client, 1);
  const spec = { nodeName: "node-1", containers: CONTAINERS };
  for (const name of ["a", "b"]) {
    await client.create(PODS, { metadata: { name, ...DEFAULT, labels: LABELS }, spec });
  }
  await client.create(SERVICES, SERVICE);
  const slices = async () =>
    (await client.list(ENDPOINT_SLICES, { labelSelector: "kubernetes.io/service-name=web" })).items;
  const pods = (count: number) =>
    eventually(`${count} in both`, async () => {
      const endpoints = await client.get(ENDPOINTS, "web", "default").catch(() => undefined);
      const ready = (await slices()).flatMap((slice) =>
        slice.endpoints.filter((one) => one.conditions?.ready),
      );
      return (endpoints?.subsets?.[0]?.addresses ?? []).length === count && ready.length === count;
    });
  await pods(2);
  const { metadata } = await client.get(ENDPOINTS, "web", "default");
  t.ok(metadata.annotations?.["endpoints.kubernetes.io/last-change-trigger-time"]);
  await client.patch(ENDPOINTS, "web", "merge", { subsets: [] }, DEFAULT);
  await pods(2);
  for (const slice of await slices()) await client.delete(ENDPOINT_SLICES, slice.metadata.name, DEFAULT);
  await pods(2);
  const [slice] = await slices();
  const held = slice?.metadata.name ?? "";
  await client.patch(ENDPOINT_SLICES, held, "merge", { metadata: { finalizers: [HOLD] } }, DEFAULT);
  await client.delete(ENDPOINT_SLICES, held, DEFAULT);
  await eventually("one in its place", async () => (await slices()).length === 2);
  await client.patch(ENDPOINT_SLICES, held, "merge", { metadata: { finalizers: null } }, DEFAULT);
  await pods(2);
  await client.patch(PODS, "b", "merge", { metadata: { labels: { app: "other" } } }, DEFAULT);
  await pods(1);
  const zone = { metadata: { labels: { "topology.kubernetes.io/zone": "z9" } } };
  await client.patch(NODES, "node-1", "merge", zone);
  await eventually("the zone", async () => (await slices())[0]?.endpoints[0]?.zone === "z9");
  await client.patch(SERVICES, "web", "merge", { metadata: { labels: { team: "a" } } }, DEFAULT);
  await eventually("the label", async () => {
    const endpoints = await client.get(ENDPOINTS, "web", "default");
    return endpoints.metadata.labels?.team === "a" && (await slices())[0]?.metadata.labels?.team === "a";
  });
  const leftover = {
    metadata: { name: "extra", ...DEFAULT, labels: (await slices())[0]?.metadata.labels ?? {} },
  };
  await client.create(ENDPOINT_SLICES, { ...leftover, addressType: "IPv6", endpoints: [] });
  await gone(ENDPOINT_SLICES, "extra", "default");

  const subsets = [{ addresses: [{ ip: "192.0.2.1" }], ports: [{ port: 80 }] }];
  await client.create(SERVICES, {
    metadata: { name: "manual", ...DEFAULT },
    spec: { ports: [{ port: 80 }] },
  });
  for (const name of ["manual", "lonely"]) {
    await cached(ENDPOINTS, await client.create(ENDPOINTS, { metadata: { name, ...DEFAULT }, subsets }));
  }
  for (const name of ["manual", "web"]) {
    await client.delete(SERVICES, name, DEFAULT);
    await gone(ENDPOINTS, name, "default");
  }
  t.ok(await client.get(ENDPOINTS, "lonely", "default"), "not ours, and never had a Service");
  await client.patch(
    ENDPOINTS,
    "lonely",
    "merge",
    {
      metadata: { labels: { "endpoints.kubernetes.io/managed-by": "endpoint-controller" } },
    },
    DEFAULT,
  );
  await gone(ENDPOINTS, "lonely", "default");
});

t.test("endpoints: more pods than one object holds", async (t) => {
  const { client, context, start, queued } = await alone(t);
  const options = { ...DEFAULT, subresource: "status" as const };
  for (let n = 0; n < 1001; n++) {
    const name = `pod-${n}`;
    await client.create(PODS, {
      metadata: { name, ...DEFAULT, labels: LABELS },
      spec: { containers: CONTAINERS },
    });
    const podIPs = [{ ip: `10.1.${n >> 8}.${n & 255}` }];
    await client.patch(PODS, name, "strategic", { status: { podIPs } }, options);
  }
  await client.create(SERVICES, SERVICE);
  await start(queued((queue) => new EndpointsController(context, queue)));
  const mark = async () =>
    (await client.get(ENDPOINTS, "web", "default").catch(() => undefined))?.metadata.annotations?.[
      "endpoints.kubernetes.io/over-capacity"
    ];
  await eventually("marked", async () => (await mark()) === "truncated");
  await client.delete(PODS, "pod-0", { ...DEFAULT, gracePeriodSeconds: 0 });
  await eventually("not any more", async () => (await mark()) === undefined);
});

t.test("endpoints and slices: refused ones are told", async (t) => {
  const { client, context, start, queued, told } = await alone(t, () => ({
    create: () => Promise.reject(refusal()),
  }));
  await start(
    queued((queue) => new EndpointsController(context, queue)),
    queued((queue) => new EndpointSliceController(context, queue)),
  );
  await client.create(SERVICES, SERVICE);
  await told(/^FailedToUpdateEndpoint: Failed to update endpoint default\/web: not today$/);
  const text = "Error updating Endpoint Slices for Service default/web: not today";
  await told(new RegExp(`^FailedToUpdateEndpointSlices: ${text}$`));
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
