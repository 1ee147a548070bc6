// One controller at a time on the real in-process API, with a clock that the test sets ahead: what sets each one going, what
// it does when something else writes too or the API refuses. Here what all of them share, and the controllers of the
// cluster, namespaces, nodes and finished pods.

import t from "tap";
import {
  CONFIG_MAPS,
  ENDPOINT_SLICES,
  ENDPOINTS,
  LEASES,
  NAMESPACES,
  NODES,
  PODS,
  type Resource,
  SERVICE_ACCOUNTS,
  SERVICES,
} from "../../common/client.js";
import { InformerFactory } from "../../common/informer.js";
import type { Node, Pod, Stored } from "../../common/k8s.js";
import { BootstrapController } from "../../control/controllers/bootstrap.js";
import { Freshness } from "../../control/controllers/freshness.js";
import { NamespaceController } from "../../control/controllers/namespace.js";
import { NodeIpamController } from "../../control/controllers/node-ipam.js";
import { finishedBeyond, PodGcController } from "../../control/controllers/pod-gc.js";
import { sweepController } from "../../control/controllers/reconcile.js";
import { ServiceAccountController } from "../../control/controllers/service-account.js";
import { DEFAULT } from "./helpers/controller-objects.js";
import { addNodes, eventually, readyNode } from "./helpers/local-cluster.js";
import { alone, HOLD, pause, refusal } from "./helpers/one-controller.js";
import { CONTAINERS } from "./helpers/workload-objects.js";

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
  const controller = queued((queue) => {
    const addAfter = queue.addAfter.bind(queue);
    // The next attempt, seconds later, never comes: the event of the last object has to do.
    queue.addAfter = (key, ms) => ms < 1000 && addAfter(key, ms);
    return new NamespaceController(context, queue);
  });
  await start(controller);
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
  await client.patch(CONFIG_MAPS, "held", "merge", { metadata: { finalizers: null } }, { namespace: "team" });
  await gone(NAMESPACES, "team");
  t.pass("the event of the last object counts");
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
