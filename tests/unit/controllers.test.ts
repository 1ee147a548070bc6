// The controllers: decisions as pure functions, properties over random rollouts, and the loops themselves on the real
// in-process API with kubelets that only report.

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
} from "../../common/client.js";
import { InformerFactory } from "../../common/informer.js";
import { Cidr } from "../../common/ip.js";
import type {
  Deployment,
  EndpointSlice,
  Node,
  Pod,
  ReplicaSet,
  Service,
  Stored,
  Taint,
} from "../../common/k8s.js";
import { canonicalJson, semanticallyEqual } from "../../control/controllers/canonical.js";
import type { ControllerContext } from "../../control/controllers/context.js";
import {
  fenceposts,
  newSize,
  planRollingUpdate,
  planScale,
  type ReplicaSets,
  scaledValue,
} from "../../control/controllers/deployment-plan.js";
import {
  annotationsForRevision,
  fnv32a,
  safeEncode,
  sizeAnnotations,
  splitReplicaSets,
  templateHash,
} from "../../control/controllers/deployment-revision.js";
import { rolloutStatus } from "../../control/controllers/deployment-status.js";
import { desiredSubsets } from "../../control/controllers/endpoints.js";
import { planSlices, type SliceChanges } from "../../control/controllers/endpointslice-plan.js";
import { EventBroadcaster } from "../../control/controllers/events.js";
import { EventTtlController } from "../../control/controllers/events-ttl.js";
import { judge } from "../../control/controllers/garbage-collector.js";
import { startControllers } from "../../control/controllers/index.js";
import { evictionAllowed } from "../../control/controllers/node-health.js";
import { CidrSet, cidrSets } from "../../control/controllers/node-ipam.js";
import { NodeLifecycleController, wantedTaints } from "../../control/controllers/node-lifecycle.js";
import { PodGcController } from "../../control/controllers/pod-gc.js";
import { queueController, sweepController } from "../../control/controllers/reconcile.js";
import { planReplicas } from "../../control/controllers/replicaset-plan.js";
import { filterNode, unschedulableMessage } from "../../control/controllers/scheduler-filter.js";
import { NodeInfo, podFacts } from "../../control/controllers/scheduler-node.js";
import { bestNode } from "../../control/controllers/scheduler-score.js";
import { topologyRules } from "../../control/controllers/scheduler-topology.js";
import { evictionTime, TaintEvictionController } from "../../control/controllers/taint-eviction.js";
import { timestamp } from "../../control/controllers/time.js";
import {
  addNodes,
  eventually,
  type LocalApi,
  openLocalApi,
  playKubelets,
  readyNode,
} from "./helpers/local-cluster.js";

const NOW = Date.parse("2026-03-01T12:00:00Z");
const DEFAULT = { namespace: "default" };

/** Deterministic random numbers: a failure can be had again. */
function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

let uids = 0;
function stored<T extends object>(kind: string, object: T & { metadata: { name: string } }): T & Stored {
  uids += 1;
  return {
    apiVersion: "v1",
    kind,
    ...object,
    metadata: {
      namespace: "default",
      uid: `uid-${uids}`,
      resourceVersion: "1",
      creationTimestamp: timestamp(NOW),
      ...object.metadata,
    },
  } as unknown as T & Stored;
}

function makeDeployment(spec: Partial<NonNullable<Deployment["spec"]>>): Stored<Deployment> {
  const labels = { app: "web" };
  return stored("Deployment", {
    metadata: { name: "web", generation: 1 },
    spec: {
      selector: { matchLabels: labels },
      template: { metadata: { labels }, spec: { containers: [{ name: "c", image: "v1" }] } },
      ...spec,
    },
  }) as unknown as Stored<Deployment>;
}

function makeReplicaSet(name: string, image: string, replicas: number, age = 0): Stored<ReplicaSet> {
  return stored("ReplicaSet", {
    metadata: { name, creationTimestamp: timestamp(NOW - age * 1000) },
    spec: {
      replicas,
      selector: {},
      template: { metadata: { labels: { app: "web" } }, spec: { containers: [{ name: "c", image }] } },
    },
    status: { replicas: 0 },
  }) as unknown as Stored<ReplicaSet>;
}

function makePod(
  name: string,
  fields: { spec?: object; status?: object; metadata?: object } = {},
): Stored<Pod> {
  return stored("Pod", {
    metadata: { name, labels: { app: "web" }, ...fields.metadata },
    spec: { containers: [{ name: "c" }], ...fields.spec },
    status: fields.status ?? {},
  }) as unknown as Stored<Pod>;
}

t.test("semantic equality", async (t) => {
  t.ok(semanticallyEqual({ a: 1, b: [] }, { a: 1, c: null }), "absent, null and empty lists are the same");
  t.ok(semanticallyEqual({ a: { x: 1, y: 2 } }, { a: { y: 2, x: 1 } }));
  t.notOk(semanticallyEqual({ emptyDir: {} }, {}), "an empty object is something");
  t.notOk(semanticallyEqual([1, 2], [2, 1]));
  t.notOk(semanticallyEqual({ a: 1 }, { a: 1, b: 0 }));
  const values = [undefined, null, [], {}, 0, "", [1], { a: [] }, { a: null }, { b: 1 }, [[1]]];
  for (const a of values) {
    for (const b of values) {
      const wrapped = canonicalJson({ v: a }) === canonicalJson({ v: b });
      t.equal(
        semanticallyEqual({ v: a }, { v: b }),
        wrapped,
        `${JSON.stringify(a)} and ${JSON.stringify(b)}`,
      );
    }
  }
});

t.test("deployment: sizes", async (t) => {
  t.equal(scaledValue("25%", 10, "up"), 3);
  t.equal(scaledValue("25%", 10, "down"), 2);
  t.equal(scaledValue(4, 10, "down"), 4);
  t.throws(() => scaledValue("a lot", 10, "up"), { message: /"a lot"/ });
  const posts = (replicas: number, maxSurge: number | string, maxUnavailable: number | string) =>
    fenceposts(makeDeployment({ replicas, strategy: { rollingUpdate: { maxSurge, maxUnavailable } } }));
  t.same(posts(4, "25%", "25%"), { maxSurge: 1, maxUnavailable: 1 });
  t.same(posts(1, "25%", "25%"), { maxSurge: 1, maxUnavailable: 0 });
  t.same(posts(4, 0, 0), { maxSurge: 0, maxUnavailable: 1 }, "both 0 would never move");
  t.same(posts(2, 0, 5), { maxSurge: 0, maxUnavailable: 2 }, "no more than there are");
  t.same(posts(0, "25%", "25%"), { maxSurge: 0, maxUnavailable: 0 });
});

/** ReplicaSets and their pods in small: what the world answers to the decisions of the plan. */
class SimulatedRollout {
  readonly ready = new Map<string, boolean[]>();
  sets: Stored<ReplicaSet>[] = [];
  constructor(
    public deployment: Stored<Deployment>,
    private readonly pick: (below: number) => number,
  ) {}

  add(rs: Stored<ReplicaSet>, readyPods: number): void {
    this.sets.push(rs);
    const count = rs.spec?.replicas ?? 0;
    this.ready.set(
      rs.metadata.name,
      Array.from({ length: count }, (_, index) => index < readyPods),
    );
    this.refresh(rs.metadata.name);
  }

  split(): ReplicaSets {
    return splitReplicaSets(this.deployment, this.sets);
  }

  resize(name: string, replicas: number): void {
    const rs = this.sets.find((other) => other.metadata.name === name);
    const pods = this.ready.get(name) ?? [];
    // The ReplicaSet controller deletes pods that are not ready first.
    pods.sort((a, b) => Number(b) - Number(a));
    while (pods.length > replicas) pods.pop();
    while (pods.length < replicas) pods.push(false);
    if (rs?.spec) this.replace(name, { ...rs, spec: { ...rs.spec, replicas } });
    this.refresh(name);
  }

  /** A random pod becomes ready. */
  somePodReady(): void {
    const waiting = this.sets
      .map((rs) => rs.metadata.name)
      .filter((name) => this.ready.get(name)?.includes(false));
    const name = waiting[this.pick(waiting.length)];
    const pods = name === undefined ? undefined : this.ready.get(name);
    if (name === undefined || !pods) return;
    pods[pods.indexOf(false)] = true;
    this.refresh(name);
  }

  refresh(name: string): void {
    const rs = this.sets.find((other) => other.metadata.name === name);
    const pods = this.ready.get(name) ?? [];
    const available = pods.filter(Boolean).length;
    if (rs) this.replace(name, { ...rs, status: { replicas: pods.length, availableReplicas: available } });
  }

  replace(name: string, rs: Stored<ReplicaSet>): void {
    this.sets = this.sets.map((other) => (other.metadata.name === name ? rs : other));
  }

  total(): number {
    return [...this.ready.values()].reduce((sum, pods) => sum + pods.length, 0);
  }

  available(): number {
    return [...this.ready.values()].reduce((sum, pods) => sum + pods.filter(Boolean).length, 0);
  }
}

t.test("deployment: a rolling update never has too few available nor too many pods", async (t) => {
  const pick = random(20260301);
  for (let round = 0; round < 400; round++) {
    const replicas = 1 + pick(12);
    const choose = () => (pick(2) ? pick(replicas + 1) : `${pick(101)}%`);
    const rollingUpdate = { maxSurge: choose(), maxUnavailable: choose() };
    const strategy = { type: "RollingUpdate", rollingUpdate };
    const world = new SimulatedRollout(makeDeployment({ replicas, strategy }), pick);
    world.add(makeReplicaSet("old", "v0", replicas, 100), replicas);
    const { maxSurge, maxUnavailable } = fenceposts(world.deployment);
    const name = `replicas ${replicas} ${JSON.stringify(rollingUpdate)}`;
    const check = () => {
      if (world.available() < replicas - maxUnavailable)
        t.fail(`${name}: only ${world.available()} available`);
      if (world.total() > replicas + maxSurge) t.fail(`${name}: ${world.total()} pods`);
    };
    world.add(makeReplicaSet("new", "v1", newSize(world.deployment, world.sets, 0)), 0);
    check();
    let steps = 0;
    for (; steps < 500; steps++) {
      const plan = planRollingUpdate(world.deployment, world.split());
      // The plan is acted upon late, in part, or while pods become ready: never all in step.
      for (const { rs, replicas } of plan) world.resize(rs.metadata.name, replicas);
      check();
      if (plan.length === 0 && world.available() === replicas && world.total() === replicas) break;
      if (pick(3) > 0 || plan.length === 0) world.somePodReady();
      check();
    }
    if (steps === 500) t.fail(`${name}: never ended`);
    t.equal(world.ready.get("old")?.length, 0);
  }
});

t.test("deployment: a broken rollout makes room for its repair, and a third template does too", async (t) => {
  const deployment = makeDeployment({
    replicas: 4,
    strategy: { rollingUpdate: { maxSurge: 1, maxUnavailable: 1 } },
  });
  const world = new SimulatedRollout(deployment, random(1));
  world.add(makeReplicaSet("old", "v0", 3, 200), 3);
  world.add(makeReplicaSet("broken", "v-broken", 2, 100), 0);
  world.add(makeReplicaSet("new", "v1", newSize(deployment, world.sets, 0)), 0);
  t.equal(world.sets[2]?.spec?.replicas, 0, "no room yet");
  const plan = planRollingUpdate(deployment, world.split());
  t.same(
    plan.map(({ rs, replicas }) => [rs.metadata.name, replicas]),
    [["broken", 0]],
    "pods that do not work go first",
  );
});

t.test("deployment: scaling in the middle of a rollout is proportional", async (t) => {
  const deployment = makeDeployment({
    replicas: 20,
    strategy: { rollingUpdate: { maxSurge: 3, maxUnavailable: 2 } },
  });
  const withSize = (rs: Stored<ReplicaSet>) => ({
    ...rs,
    metadata: { ...rs.metadata, annotations: sizeAnnotations(10, 13) },
  });
  const sets = splitReplicaSets(deployment, [
    withSize(makeReplicaSet("old", "v0", 8, 100)),
    withSize(makeReplicaSet("new", "v1", 5)),
  ]);
  const sizes = Object.fromEntries(
    planScale(deployment, sets).map(({ rs, replicas }) => [rs.metadata.name, replicas]),
  );
  t.same(sizes, { old: 14, new: 9 }, "23 = 20 + surge, shared 8 : 5");
  const down = { ...deployment, spec: { ...deployment.spec, replicas: 5 } } as Stored<Deployment>;
  const fewer = planScale(down, sets).map(({ rs, replicas }) => [rs.metadata.name, replicas]);
  t.same(Object.fromEntries(fewer), { old: 5, new: 3 });
  const zero = { ...deployment, spec: { ...deployment.spec, replicas: 0 } } as Stored<Deployment>;
  t.same(new Set(planScale(zero, sets).map(({ replicas }) => replicas)), new Set([0]));
  const single = { current: sets.current, old: [] };
  t.same(
    planScale(deployment, single).map(({ replicas }) => replicas),
    [20],
  );
});

t.test("deployment: hashes and revisions", async (t) => {
  t.equal(fnv32a(""), 0x811c9dc5);
  t.equal(fnv32a("a"), 0xe40c292c, "the published test vector");
  t.equal(safeEncode("0123456789"), "456789bcdf");
  const template = makeDeployment({}).spec?.template ?? {};
  const reordered = { spec: template.spec, metadata: template.metadata };
  t.equal(templateHash(template, undefined), templateHash(reordered, undefined), "stable");
  t.not(templateHash(template, 1), templateHash(template, undefined), "a collision gives another");
  t.match(templateHash(template, undefined), /^[456789bcdf]{1,10}$/);
  const deployment = makeDeployment({});
  t.same(annotationsForRevision(deployment, undefined, 1), { "deployment.kubernetes.io/revision": "1" });
  t.same(annotationsForRevision(deployment, { "deployment.kubernetes.io/revision": "1" }, 3), {
    "deployment.kubernetes.io/revision": "3",
    "deployment.kubernetes.io/revision-history": "1",
  });
  const newest = { "deployment.kubernetes.io/revision": "5" };
  t.same(annotationsForRevision(deployment, newest, 3), newest, "never lowered");
});

t.test("deployment: the deadline", async (t) => {
  const started = timestamp(NOW - 700_000);
  const base = makeDeployment({ replicas: 2, progressDeadlineSeconds: 600 });
  const deployment = {
    ...base,
    status: {
      observedGeneration: 1,
      replicas: 2,
      updatedReplicas: 2,
      conditions: [
        { type: "Progressing", status: "True", reason: "ReplicaSetUpdated", lastUpdateTime: started },
      ],
    },
  } as Stored<Deployment>;
  const current = { ...makeReplicaSet("web-1", "v1", 2), status: { replicas: 2 } } as Stored<ReplicaSet>;
  const status = rolloutStatus(deployment, { current, old: [] }, NOW);
  const condition = status.conditions?.find(({ type }) => type === "Progressing");
  t.match(condition, {
    status: "False",
    reason: "ProgressDeadlineExceeded",
    message: 'ReplicaSet "web-1" has timed out progressing.',
  });
  const earlier = rolloutStatus(deployment, { current, old: [] }, NOW - 200_000);
  t.equal(earlier.conditions?.find(({ type }) => type === "Progressing")?.reason, "ReplicaSetUpdated");
  t.equal(earlier.unavailableReplicas, 2);
});

t.test("replicaset: which pods go first", async (t) => {
  const ready = (since: number) => ({
    phase: "Running",
    conditions: [{ type: "Ready", status: "True", lastTransitionTime: timestamp(NOW - since * 1000) }],
  });
  const on = (nodeName: string) => ({ nodeName, containers: [] });
  const pods = [
    makePod("old-ready", { spec: on("n1"), status: ready(10_000) }),
    makePod("young-ready", { spec: on("n1"), status: ready(10) }),
    makePod("doubled", { spec: on("n2"), status: ready(10_000) }),
    makePod("cheap", {
      spec: on("n1"),
      status: ready(10_000),
      metadata: { annotations: { "controller.kubernetes.io/pod-deletion-cost": "-5" } },
    }),
    makePod("not-ready", { spec: on("n1"), status: { phase: "Running" } }),
    makePod("pending", { spec: on("n1"), status: { phase: "Pending" } }),
    makePod("unassigned", { status: { phase: "Running" } }),
  ];
  const ranks = new Map([
    ["n1", 1],
    ["n2", 2],
  ]);
  const expected = ["unassigned", "pending", "not-ready", "cheap", "doubled", "young-ready", "old-ready"];
  for (let left = 1; left < pods.length; left++) {
    const plan = planReplicas(left, pods, ranks, NOW);
    const gone = plan.type === "delete" ? plan.pods.map((pod) => pod.metadata.name) : [];
    t.same(gone, expected.slice(0, pods.length - left));
  }
  t.same(planReplicas(9, pods, ranks, NOW), { type: "create", count: 2 });
  t.same(planReplicas(2000, pods, ranks, NOW), { type: "create", count: 500 }, "bursts are bounded");
  t.same(planReplicas(7, pods, ranks, NOW), { type: "none" });
});

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

const READY = {
  phase: "Running",
  conditions: [{ type: "Ready", status: "True", lastTransitionTime: timestamp(NOW) }],
};

function backend(n: number, fields: { spec?: object; status?: object; metadata?: object } = {}): Stored<Pod> {
  return makePod(`pod-${n}`, {
    spec: {
      nodeName: "n1",
      containers: [{ name: "c", ports: [{ name: "http", containerPort: 8080 }] }],
      ...fields.spec,
    },
    status: { ...READY, podIP: `10.1.${n >> 8}.${n & 255}`, ...fields.status },
    ...(fields.metadata ? { metadata: fields.metadata } : {}),
  });
}

function makeService(spec: object = {}): Stored<Service> {
  return stored("Service", {
    metadata: { name: "web", labels: { team: "a" } },
    spec: {
      clusterIP: "10.96.0.9",
      ipFamilies: ["IPv4"],
      selector: { app: "web" },
      ports: [{ name: "web", port: 80, targetPort: "http", protocol: "TCP" }],
      ...spec,
    },
  }) as unknown as Stored<Service>;
}

let slices = 0;
/** What the API would hold after these changes. */
function applied(existing: Stored<EndpointSlice>[], changes: SliceChanges): Stored<EndpointSlice>[] {
  const updates = new Map(changes.update.map((slice) => [slice.metadata.uid, slice]));
  const gone = new Set(changes.delete.map((slice) => slice.metadata.uid));
  const kept = existing.filter(({ metadata }) => !gone.has(metadata.uid));
  const made = changes.create.map((slice) => {
    slices += 1;
    const metadata = { ...slice.metadata, name: `web-${slices}` };
    return stored("EndpointSlice", { ...slice, metadata }) as unknown as Stored<EndpointSlice>;
  });
  return [...kept.map((slice) => updates.get(slice.metadata.uid) ?? slice), ...made];
}

function plan(service: Stored<Service>, pods: Stored<Pod>[], existing: Stored<EndpointSlice>[]) {
  const cpuRatios = () => undefined;
  return planSlices({ service, pods, existing, zoneOf: () => "z1", triggerTime: NOW, cpuRatios });
}

const writes = (changes: SliceChanges) => [
  changes.create.length,
  changes.update.length,
  changes.delete.length,
];

t.test("endpointslice: the fewest writes", async (t) => {
  const service = makeService();
  const pods = Array.from({ length: 250 }, (_, n) => backend(n));
  const first = plan(service, pods, []);
  t.same(
    first.create.map(({ endpoints }) => endpoints.length),
    [100, 100, 50],
  );
  let existing = applied([], first);
  t.same(writes(plan(service, pods, existing)), [0, 0, 0], "nothing to do is nothing done");

  const notReady = backend(7, { status: { conditions: [{ type: "Ready", status: "False" }] } });
  const changed = pods.map((pod, n) =>
    n === 7 ? ({ ...notReady, metadata: pod.metadata } as Stored<Pod>) : pod,
  );
  const second = plan(service, changed, existing);
  t.same(writes(second), [0, 1, 0], "one endpoint, one slice");
  const touched = second.update[0]?.endpoints.find(({ targetRef }) => targetRef?.name === "pod-7");
  t.same(touched?.conditions, { ready: false, serving: false, terminating: false });

  t.same(writes(plan(service, pods.slice(1), existing)), [0, 1, 0], "one fewer");
  const oneMore = plan(service, [...pods, backend(250)], existing);
  t.same(writes(oneMore), [0, 1, 0], "one more goes where there is room");
  t.equal(oneMore.update[0]?.endpoints.length, 51);
  const manyMore = plan(
    service,
    [...pods, ...Array.from({ length: 60 }, (_, n) => backend(300 + n))],
    existing,
  );
  t.same(writes(manyMore), [1, 0, 0], "what does not fit whole into an old one gets a new one");
  const swapped = plan(service, [...pods.slice(1), backend(251)], existing);
  t.same(writes(swapped), [0, 1, 0], "a new one takes the place of one that left");

  const none = plan(service, [], existing);
  t.same(writes(none), [0, 1, 2], "the placeholder is one of the old ones");
  existing = applied(existing, none);
  t.same(
    existing.map(({ endpoints, ports }) => [endpoints.length, (ports ?? []).length]),
    [[0, 0]],
  );
  t.same(writes(plan(service, [], existing)), [0, 0, 0]);
  t.same(writes(plan(service, pods.slice(0, 3), existing)), [0, 1, 0], "and becomes a slice again");
  t.same(writes(plan(service, [], [])), [1, 0, 0], "a Service without endpoints has one empty slice");
});

t.test("endpointslice: the same set of endpoints after any series of changes", async (t) => {
  const pick = random(7);
  const service = makeService();
  let existing: Stored<EndpointSlice>[] = [];
  let pods: Stored<Pod>[] = [];
  for (let step = 0; step < 60; step++) {
    const removed = pick(60);
    pods = pods.filter(() => pick(100) > removed);
    for (let add = pick(120); add > 0; add--) pods.push(backend(1000 + step * 200 + add));
    existing = applied(existing, plan(service, pods, existing));
    const names = existing.flatMap(({ endpoints }) => endpoints.map(({ targetRef }) => targetRef?.name));
    t.same(names.sort(), pods.map((pod) => pod.metadata.name).sort());
    t.ok(existing.every(({ endpoints }) => endpoints.length <= 100));
  }
});

t.test("endpointslice: contents", async (t) => {
  const [slice] = plan(makeService(), [backend(1)], []).create;
  t.match(slice, {
    metadata: {
      generateName: "web-",
      labels: {
        team: "a",
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
      },
      annotations: { "endpoints.kubernetes.io/last-change-trigger-time": "2026-03-01T12:00:00Z" },
      ownerReferences: [{ kind: "Service", name: "web", controller: true, blockOwnerDeletion: true }],
    },
    addressType: "IPv4",
    ports: [{ name: "web", port: 8080, protocol: "TCP" }],
    endpoints: [
      {
        addresses: ["10.1.0.1"],
        conditions: { ready: true, serving: true, terminating: false },
        nodeName: "n1",
        zone: "z1",
        targetRef: { kind: "Pod", namespace: "default", name: "pod-1" },
      },
    ],
  });
  t.notOk(slice?.endpoints[0]?.hints);
  const hinted = plan(makeService({ trafficDistribution: "PreferClose" }), [backend(1)], []).create[0];
  t.same(hinted?.endpoints[0]?.hints, { forZones: [{ name: "z1" }] });

  const going = backend(2, { metadata: { deletionTimestamp: timestamp(NOW) } });
  const starting = backend(3, { status: { conditions: [] } });
  const done = backend(4, { status: { phase: "Succeeded" } });
  const addressless = backend(5, { status: { podIP: undefined } });
  const conditions = (service: Stored<Service>) =>
    Object.fromEntries(
      plan(service, [going, starting, done, addressless], []).create.flatMap(({ endpoints }) =>
        endpoints.map(({ targetRef, conditions }) => [targetRef?.name, conditions]),
      ),
    );
  t.same(conditions(makeService()), {
    "pod-2": { ready: false, serving: true, terminating: true },
    "pod-3": { ready: false, serving: false, terminating: false },
  });
  t.same(conditions(makeService({ publishNotReadyAddresses: true })), {
    "pod-2": { ready: true, serving: true, terminating: true },
    "pod-3": { ready: true, serving: false, terminating: false },
  });

  const other = backend(6, {
    spec: { containers: [{ name: "c", ports: [{ name: "http", containerPort: 9090 }] }] },
  });
  const named = plan(makeService(), [backend(1), other], []).create;
  t.same(
    named.map(({ ports }) => ports?.[0]?.port).sort(),
    [8080, 9090],
    "port sets have slices of their own",
  );

  const headless = plan(makeService({ clusterIP: "None" }), [backend(1)], []).create[0];
  t.equal(headless?.metadata?.labels?.["service.kubernetes.io/headless"], "");
  const named1 = backend(8, { spec: { hostname: "db-0", subdomain: "web" } });
  t.equal(plan(makeService(), [named1], []).create[0]?.endpoints[0]?.hostname, "db-0");
  const unknown = planSlices({
    service: makeService(),
    pods: [backend(1)],
    existing: [],
    zoneOf: () => undefined,
    triggerTime: undefined,
    cpuRatios: () => undefined,
  });
  t.same(unknown.create[0]?.endpoints, [], "a pod on a node that is gone is no endpoint");
});

t.test("endpoints: subsets and capacity", async (t) => {
  const starting = backend(2, { status: { conditions: [] } });
  const { subsets, truncated } = desiredSubsets(makeService(), [backend(1), starting]);
  t.equal(truncated, false);
  t.match(subsets, [
    {
      addresses: [{ ip: "10.1.0.1", nodeName: "n1", targetRef: { kind: "Pod", name: "pod-1" } }],
      notReadyAddresses: [{ ip: "10.1.0.2" }],
      ports: [{ name: "web", port: 8080, protocol: "TCP" }],
    },
  ]);
  t.same(desiredSubsets(makeService(), []).subsets, []);
  const without = backend(3, { spec: { containers: [{ name: "c" }] } });
  t.same(desiredSubsets(makeService(), [without]).subsets, [], "none of the ports is a port of the pod");
  const portless = desiredSubsets(makeService({ clusterIP: "None", ports: [] }), [without]).subsets;
  t.match(portless, [{ addresses: [{ ip: "10.1.0.3" }] }], "a headless Service needs no ports");
  const many = Array.from({ length: 1001 }, (_, n) =>
    backend(n, n === 0 ? { status: { conditions: [] } } : {}),
  );
  const full = desiredSubsets(makeService(), many);
  t.equal(full.truncated, true);
  t.equal(full.subsets[0]?.addresses?.length, 1000);
  t.notOk(full.subsets[0]?.notReadyAddresses, "those that do not work are the ones left out");
});

function infoOf(node: Node): NodeInfo {
  const info = new NodeInfo();
  info.node = stored("Node", node as Node & { metadata: { name: string } }) as unknown as Stored<Node>;
  return info;
}

function reasons(
  pod: Stored<Pod>,
  infos: NodeInfo[],
  guarded: Parameters<typeof topologyRules>[2] = [],
): string {
  const facts = podFacts(pod, undefined);
  const rules = topologyRules(facts, infos, guarded, () => ({}));
  const refusals = infos.flatMap((info) => filterNode(facts, info, rules) ?? []);
  return unschedulableMessage(infos.length, refusals);
}

t.test("scheduler: why not, in kube-scheduler's words", async (t) => {
  const preempt = (n: number, text: string) =>
    ` no new claims to deallocate, preemption: 0/${n} nodes are available: ${n} ${text}.`;
  const unhelpful = (n: number) => preempt(n, "Preemption is not helpful for scheduling");
  const pod = makePod("p", { status: { phase: "Pending" } });
  t.equal(reasons(pod, []), "no nodes available to schedule pods");

  const tainted = (taint: Taint) => {
    const node = readyNode("n");
    return infoOf({ ...node, spec: { taints: [taint] } });
  };
  const taint = { key: "dedicated", value: "db", effect: "NoSchedule" };
  t.equal(
    reasons(pod, [tainted(taint), tainted(taint), tainted(taint)]),
    `0/3 nodes are available: 3 node(s) had untolerated taint(s).${unhelpful(3)}`,
  );
  const tolerant = makePod("p", { spec: { tolerations: [{ key: "dedicated", operator: "Exists" }] } });
  t.equal(filterNode(podFacts(tolerant, undefined), tainted(taint), { check: () => undefined }), undefined);
  t.equal(
    filterNode(podFacts(pod, undefined), tainted({ ...taint, effect: "PreferNoSchedule" }), {
      check: () => undefined,
    }),
    undefined,
    "only a preference",
  );
  const lost: Node = { ...readyNode("n"), status: { conditions: [{ type: "Ready", status: "Unknown" }] } };
  t.match(reasons(pod, [infoOf(lost)]), "1 node(s) had untolerated taint(s).");
  t.match(
    reasons(pod, [infoOf({ ...readyNode("n"), spec: { unschedulable: true } })]),
    "1 node(s) were unschedulable.",
  );

  const choosy = makePod("p", { spec: { nodeSelector: { disk: "ssd" } } });
  t.match(reasons(choosy, [infoOf(readyNode("n"))]), "1 node(s) didn't match Pod's node affinity/selector.");
  const affinity = (operator: string, values?: string[]) =>
    makePod("p", {
      spec: {
        affinity: {
          nodeAffinity: {
            requiredDuringSchedulingIgnoredDuringExecution: {
              nodeSelectorTerms: [
                { matchExpressions: [{ key: "size", operator, ...(values ? { values } : {}) }] },
              ],
            },
          },
        },
      },
    });
  const sized = infoOf(readyNode("n", { labels: { size: "5" } }));
  t.match(reasons(affinity("Gt", ["5"]), [sized]), "didn't match Pod's node affinity/selector");
  t.equal(
    filterNode(podFacts(affinity("Gt", ["4"]), undefined), sized, { check: () => undefined }),
    undefined,
  );
  t.match(reasons(affinity("DoesNotExist"), [sized]), "didn't match Pod's node affinity/selector");

  const hostPort = (hostIP?: string, protocol = "TCP") => ({
    containers: [
      { name: "c", ports: [{ containerPort: 80, hostPort: 80, protocol, ...(hostIP ? { hostIP } : {}) }] },
    ],
  });
  const busy = infoOf(readyNode("n"));
  busy.add(podFacts(makePod("holder", { spec: hostPort("127.0.0.1") }), undefined));
  t.equal(
    reasons(makePod("p", { spec: hostPort() }), [busy]),
    "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports." +
      preempt(1, "No preemption victims found for incoming pod"),
  );
  for (const spec of [hostPort("192.168.56.11"), hostPort("127.0.0.1", "UDP")]) {
    t.equal(
      filterNode(podFacts(makePod("p", { spec }), undefined), busy, { check: () => undefined }),
      undefined,
    );
  }

  const small = infoOf(readyNode("n", { pods: 1 }));
  const hungry = makePod("p", {
    spec: { containers: [{ name: "c", resources: { requests: { cpu: "7500m" } } }] },
  });
  small.add(podFacts({ ...hungry, metadata: { ...hungry.metadata, uid: "other" } }, undefined));
  t.match(reasons(hungry, [small]), "1 Insufficient cpu, 1 Too many pods.");
  t.match(
    reasons(pod, [small, infoOf({ ...readyNode("m"), spec: { unschedulable: true } })]),
    "0/2 nodes are available: 1 Too many pods, 1 node(s) were unschedulable. no new claims to deallocate, preemption: 0/2 nodes are available: " +
      "1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.",
  );
});

t.test("scheduler: rules between pods", async (t) => {
  const spread = makePod("p", {
    spec: {
      topologySpreadConstraints: [
        {
          maxSkew: 1,
          topologyKey: "kubernetes.io/hostname",
          whenUnsatisfiable: "DoNotSchedule",
          labelSelector: { matchLabels: { app: "web" } },
        },
      ],
    },
  });
  const [full, empty] = [infoOf(readyNode("full")), infoOf(readyNode("empty"))];
  full.add(podFacts(makePod("a"), undefined));
  const facts = podFacts(spread, undefined);
  const rules = topologyRules(facts, [full, empty], [], () => ({}));
  t.match(rules.check(full)?.reasons, ["node(s) didn't match pod topology spread constraints"]);
  t.equal(rules.check(empty), undefined);

  const term = { labelSelector: { matchLabels: { app: "web" } }, topologyKey: "kubernetes.io/hostname" };
  const apart = makePod("p", {
    spec: { affinity: { podAntiAffinity: { requiredDuringSchedulingIgnoredDuringExecution: [term] } } },
  });
  t.match(reasons(apart, [full]), "1 node(s) didn't match pod anti-affinity rules.");
  const guard = podFacts(apart, undefined);
  empty.add(guard);
  t.match(
    reasons(makePod("q"), [empty], [{ facts: guard, info: empty }]),
    "1 node(s) didn't satisfy existing pods anti-affinity rules.",
  );
  const together = (app: string) =>
    makePod("p", {
      spec: {
        affinity: {
          podAffinity: {
            requiredDuringSchedulingIgnoredDuringExecution: [
              { ...term, labelSelector: { matchLabels: { app } } },
            ],
          },
        },
      },
    });
  t.match(reasons(together("db"), [full]), "1 node(s) didn't match pod affinity rules.");
  const alone = infoOf(readyNode("alone"));
  t.equal(
    topologyRules(podFacts(together("web"), undefined), [alone], [], () => ({})).check(alone),
    undefined,
    "the first of its kind may go anywhere",
  );
});

t.test("scheduler: pods of one owner are spread, the rest goes to the least loaded", async (t) => {
  const infos = ["a", "b", "c"].map((name) => infoOf(readyNode(name)));
  const placed = new Map<string, number>();
  for (let n = 0; n < 10; n++) {
    const facts = podFacts(makePod(`p${n}`), "owner");
    const best = bestNode(facts, infos);
    best?.add(facts);
    const name = best?.node?.metadata.name ?? "";
    placed.set(name, (placed.get(name) ?? 0) + 1);
  }
  t.same([...placed.values()].sort(), [3, 3, 4]);
  const lonely = podFacts(makePod("q"), undefined);
  const least = infos.toSorted((a, b) => a.pods.size - b.pods.size)[0]?.pods.size;
  t.equal(bestNode(lonely, infos)?.pods.size, least);
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

t.test("garbage collector: the verdict", async (t) => {
  const object = makePod("p");
  const owner = (uid: string, state: "solid" | "waiting" | "absent") => ({ uid, state });
  t.same(judge(object, [], false), { type: "keep" });
  t.same(judge(object, [owner("a", "solid")], false), { type: "keep" });
  t.same(judge(object, [owner("a", "absent")], false), { type: "delete", policy: "Background" });
  t.same(judge(object, [owner("a", "absent"), owner("b", "solid")], false), {
    type: "forget-owners",
    uids: ["a"],
  });
  t.same(judge(object, [owner("a", "waiting")], true), { type: "delete", policy: "Foreground" });
  t.same(judge(object, [owner("a", "waiting")], false), { type: "delete", policy: "Background" });
  for (const [finalizer, policy] of [
    ["orphan", "Orphan"],
    ["foregroundDeletion", "Foreground"],
  ]) {
    const asked = makePod("p", { metadata: { finalizers: [finalizer] } });
    t.same(judge(asked, [owner("a", "absent")], true), { type: "delete", policy }, "as it was asked for");
  }
  const going = makePod("p", { metadata: { deletionTimestamp: timestamp(NOW) } });
  t.same(judge(going, [owner("a", "absent")], false), { type: "keep" }, "it goes already");
});

// From here on: the loops on the real API.

interface Running extends LocalApi {
  controllers: ReturnType<typeof startControllers>;
}

const OPTIONS = {
  clusterCIDRs: ["10.244.0.0/16"],
  nodeCIDRMaskSize: 24,
  nodeMonitorGracePeriodSeconds: 40,
  serverAddresses: { ip: "192.168.56.1", port: 6443 },
  serviceCIDRs: ["10.96.0.0/16"],
  caCert: "the CA",
  tokens: { issue: async () => ({ token: "a token" }) },
};

/** The same API, whose watches tell everything late: what a busy server does to a cache. */
function late(client: KubeClient, ms: number): KubeClient {
  const slow = Object.create(client) as KubeClient;
  for (const verb of ["get", "list", "create", "update", "patch", "delete", "deleteCollection"] as const) {
    Object.defineProperty(slow, verb, { value: client[verb].bind(client) });
  }
  slow.watch = async function* (resource, options) {
    for await (const event of client.watch(resource, options)) {
      await new Promise((resolve) => setTimeout(resolve, ms));
      yield event;
    }
  };
  return slow;
}

async function running(
  t: { teardown(fn: () => unknown): unknown },
  nodes = 3,
  options: Partial<typeof OPTIONS> = {},
): Promise<Running> {
  const api = await openLocalApi();
  const { client, informers, log } = api;
  const controllers = startControllers({ client, informers, log, ...OPTIONS, ...options });
  t.teardown(async () => {
    await controllers.stop();
    await api.close();
  });
  await controllers.ready;
  await addNodes(client, nodes);
  return { ...api, controllers };
}

function webDeployment(spec: Partial<NonNullable<Deployment["spec"]>> = {}, image = "v1"): Deployment {
  const labels = { app: "web" };
  return {
    metadata: { name: "web", namespace: "default" },
    spec: {
      replicas: 4,
      selector: { matchLabels: labels },
      template: {
        metadata: { labels },
        spec: { containers: [{ name: "c", image, ports: [{ containerPort: 8080 }] }] },
      },
      ...spec,
    },
  };
}

const imagePatch = (image: string) => ({
  spec: { template: { spec: { containers: [{ name: "c", image }] } } },
});

/** Everything of the current template and available, as kubectl rollout status sees it. */
function rolledOut({ client }: LocalApi, replicas: number, revision: string) {
  return eventually(`revision ${revision} with ${replicas} available`, async () => {
    const deployment = await client.get(DEPLOYMENTS, "web", "default");
    const { status, metadata } = deployment;
    return (
      status?.observedGeneration === metadata.generation &&
      metadata.annotations?.["deployment.kubernetes.io/revision"] === revision &&
      (status?.updatedReplicas ?? 0) === replicas &&
      (status?.replicas ?? 0) === replicas &&
      (status?.availableReplicas ?? 0) === replicas &&
      status?.conditions?.some(({ reason }) => reason === "NewReplicaSetAvailable") &&
      deployment
    );
  });
}

t.test("a Deployment from nothing to traffic, rolled forth and back", async (t) => {
  const api = await running(t);
  const { client, informers } = api;
  t.teardown(playKubelets(client, informers));
  await client.create(SERVICES, {
    metadata: { name: "web", namespace: "default" },
    spec: { selector: { app: "web" }, ports: [{ port: 80, targetPort: 8080 }] },
  });
  await client.create(DEPLOYMENTS, webDeployment());
  await rolledOut(api, 4, "1");
  const ready = await eventually("four ready endpoints", async () => {
    const { items } = await client.list(ENDPOINT_SLICES, { labelSelector: "kubernetes.io/service-name=web" });
    const endpoints = items.flatMap((slice) => slice.endpoints.filter(({ conditions }) => conditions?.ready));
    return endpoints.length === 4 && endpoints;
  });
  t.same(
    new Set(ready.map(({ nodeName }) => nodeName)),
    new Set(["node-1", "node-2", "node-3"]),
    "on all nodes",
  );
  await eventually("four addresses in Endpoints", async () => {
    const { subsets = [] } = await client.get(ENDPOINTS, "web", "default");
    return subsets[0]?.addresses?.length === 4;
  });

  let fewest = Number.POSITIVE_INFINITY;
  let most = 0;
  const pods = informers.get(PODS);
  const stop = pods.subscribe({
    update: () => {
      const active = pods.list("default").filter((pod) => !pod.metadata.deletionTimestamp);
      const available = active.filter((pod) =>
        pod.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True"),
      );
      fewest = Math.min(fewest, available.length);
      most = Math.max(most, active.length);
    },
  });
  await client.patch(DEPLOYMENTS, "web", "strategic", imagePatch("v2"), DEFAULT);
  await rolledOut(api, 4, "2");
  stop();
  t.ok(fewest >= 3, `never fewer than three were available (${fewest})`);
  t.ok(most <= 5, `never more than five pods (${most})`);

  await client.patch(DEPLOYMENTS, "web", "strategic", imagePatch("v1"), DEFAULT);
  await rolledOut(api, 4, "3");
  const { items } = await client.list(REPLICA_SETS, DEFAULT);
  t.equal(items.length, 2, "the old ReplicaSet came back to life");
  const current = items.find((rs) => rs.spec?.replicas === 4);
  t.equal(current?.metadata.annotations?.["deployment.kubernetes.io/revision-history"], "1");

  const messages = (await eventually("events", async () => {
    const { items } = await client.list(EVENTS, DEFAULT);
    const found = items.map(({ reason, message }) => `${reason}: ${message}`);
    return found.length > 20 && found;
  })) as string[];
  t.ok(messages.some((text) => /^ScalingReplicaSet: Scaled up replica set web-\w+ from 0 to 4$/.test(text)));
  t.ok(messages.some((text) => /^SuccessfulCreate: Created pod: web-\w+-\w+$/.test(text)));
  t.ok(
    messages.some((text) => /^Scheduled: Successfully assigned default\/web-\w+-\w+ to node-\d$/.test(text)),
  );

  await client.patch(DEPLOYMENTS, "web", "merge", { spec: { revisionHistoryLimit: 0 } }, DEFAULT);
  await eventually(
    "history cleaned up",
    async () => (await client.list(REPLICA_SETS, DEFAULT)).items.length === 1,
  );
});

t.test("paused, scaled while paused, resumed", async (t) => {
  const api = await running(t);
  const { client, informers } = api;
  t.teardown(playKubelets(client, informers));
  await client.create(DEPLOYMENTS, webDeployment({ replicas: 2 }));
  await rolledOut(api, 2, "1");
  await client.patch(DEPLOYMENTS, "web", "merge", { spec: { paused: true } }, DEFAULT);
  await client.patch(DEPLOYMENTS, "web", "strategic", imagePatch("v2"), DEFAULT);
  await client.patch(DEPLOYMENTS, "web", "merge", { spec: { replicas: 5 } }, DEFAULT);
  await eventually("scaled but not rolled", async () => {
    const { status } = await client.get(DEPLOYMENTS, "web", "default");
    return (
      status?.availableReplicas === 5 &&
      !status.updatedReplicas &&
      status.conditions?.some(({ reason }) => reason === "DeploymentPaused")
    );
  });
  await client.patch(DEPLOYMENTS, "web", "merge", { spec: { paused: false } }, DEFAULT);
  await rolledOut(api, 5, "2");
});

t.test("Recreate: nothing new before everything old is gone", async (t) => {
  const api = await running(t);
  const { client, informers } = api;
  const images = new Set<string>();
  let mixed = 0;
  const pods = informers.get(PODS);
  t.teardown(
    pods.subscribe({
      add: () => {
        images.clear();
        for (const pod of pods.list("default")) images.add(pod.spec?.containers[0]?.image ?? "");
        if (images.size > 1) mixed += 1;
      },
    }),
  );
  t.teardown(playKubelets(client, informers));
  await client.create(DEPLOYMENTS, webDeployment({ replicas: 3, strategy: { type: "Recreate" } }));
  await rolledOut(api, 3, "1");
  await client.patch(DEPLOYMENTS, "web", "strategic", imagePatch("v2"), DEFAULT);
  await rolledOut(api, 3, "2");
  t.equal(mixed, 0);
});

t.test("a ReplicaSet adopts orphans, releases strangers and never overshoots", async (t) => {
  const { client, informers } = await running(t);
  t.teardown(playKubelets(client, informers));
  const labels = { app: "web" };
  const template = { metadata: { labels }, spec: { containers: [{ name: "c", image: "v1" }] } };
  await client.create(PODS, {
    metadata: { name: "orphan", namespace: "default", labels },
    spec: template.spec,
  });
  await client.create(REPLICA_SETS, {
    metadata: { name: "web", namespace: "default" },
    spec: { replicas: 30, selector: { matchLabels: labels }, template },
  });
  const created = new Set<string>();
  t.teardown(informers.get(PODS).subscribe({ add: (pod) => created.add(pod.metadata.uid) }));
  await eventually("30 available", async () => {
    const { status } = await client.get(REPLICA_SETS, "web", "default");
    return status?.availableReplicas === 30 && status.fullyLabeledReplicas === 30;
  });
  t.equal(created.size, 30, "the orphan and 29 new ones: none twice");
  const orphan = await client.get(PODS, "orphan", "default");
  t.match(orphan.metadata.ownerReferences, [{ kind: "ReplicaSet", name: "web", controller: true }]);

  await client.patch(PODS, "orphan", "merge", { metadata: { labels: { app: "mine" } } }, DEFAULT);
  await eventually("released", async () => {
    const pod = await client.get(PODS, "orphan", "default");
    return (pod.metadata.ownerReferences ?? []).length === 0;
  });
  await eventually("replaced", async () => {
    const { status } = await client.get(REPLICA_SETS, "web", "default");
    return status?.availableReplicas === 30 && created.size === 31;
  });
  await client.patch(REPLICA_SETS, "web", "merge", { spec: { replicas: 3 } }, DEFAULT);
  await eventually("scaled down", async () => (await client.list(PODS, DEFAULT)).items.length === 4);
});

t.test("a cache that lags makes nothing twice", async (t) => {
  const api = await openLocalApi();
  const { client, log } = api;
  const informers = new InformerFactory(late(client, 15), { log });
  const controllers = startControllers({ client, informers, log, ...OPTIONS });
  t.teardown(async () => {
    await controllers.stop();
    informers.stop();
    await api.close();
  });
  await controllers.ready;
  await addNodes(client, 1);
  api.informers.start();
  const created: string[] = [];
  for (const resource of [PODS, ENDPOINT_SLICES] as Resource[]) {
    t.teardown(api.informers.get(resource).subscribe({ add: ({ metadata }) => created.push(metadata.name) }));
  }
  t.teardown(playKubelets(client, api.informers));
  await client.create(SERVICES, {
    metadata: { name: "web", namespace: "default" },
    spec: { selector: { app: "web" }, ports: [{ port: 80 }] },
  });
  await client.create(DEPLOYMENTS, webDeployment({ replicas: 6 }));
  await rolledOut(api, 6, "1");
  await eventually("six endpoints", async () => {
    const { items } = await client.list(ENDPOINT_SLICES, { labelSelector: "kubernetes.io/service-name=web" });
    return (
      items.flatMap(({ endpoints }) => endpoints.filter(({ conditions }) => conditions?.ready)).length === 6
    );
  });
  const [slices, pods] = [/^web-[a-z0-9]{5}$/, /^web-[a-z0-9]+-[a-z0-9]{5}$/];
  t.equal(created.filter((name) => pods.test(name)).length, 6, "six pods");
  t.equal(created.filter((name) => slices.test(name)).length, 1, "one slice");
});

t.test("pods wait for a node that can take them", async (t) => {
  const { client, informers } = await running(t, 0);
  t.teardown(playKubelets(client, informers));
  const spec = { containers: [{ name: "c", image: "v1" }], nodeSelector: { disk: "ssd" } };
  await client.create(PODS, { metadata: { name: "p", namespace: "default" }, spec });
  const condition = (text: RegExp) =>
    eventually(`PodScheduled ${text}`, async () => {
      const pod = await client.get(PODS, "p", "default");
      return pod.status?.conditions?.some(
        ({ type, status, message = "" }) =>
          type === "PodScheduled" && status === "False" && text.test(message),
      );
    });
  await condition(/^no nodes available to schedule pods$/);
  await addNodes(client, 2);
  await condition(
    /^0\/[12] nodes are available: [12] node\(s\) didn't match Pod's node affinity\/selector\./,
  );
  await client.patch(NODES, "node-2", "merge", { metadata: { labels: { disk: "ssd" } } });
  await eventually("scheduled", async () => {
    const pod = await client.get(PODS, "p", "default");
    return (
      pod.spec?.nodeName === "node-2" &&
      pod.status?.conditions?.some(({ type, status }) => type === "PodScheduled" && status === "True")
    );
  });
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

t.test("deletion: background, foreground, orphan, and dependents of nobody", async (t) => {
  const api = await running(t);
  const { client, informers } = api;
  t.teardown(playKubelets(client, informers));
  const counts = async () => {
    const [deployments, sets, pods] = await Promise.all([
      client.list(DEPLOYMENTS, DEFAULT),
      client.list(REPLICA_SETS, DEFAULT),
      client.list(PODS, DEFAULT),
    ]);
    return [deployments.items.length, sets.items.length, pods.items.length].join(" ");
  };
  const order: string[] = [];
  const stopped = ([PODS, REPLICA_SETS, DEPLOYMENTS] as Resource[]).map((resource) =>
    informers.get(resource).subscribe({ delete: ({ kind }) => order.push(kind) }),
  );
  for (const propagationPolicy of ["Background", "Foreground"] as const) {
    await client.create(DEPLOYMENTS, webDeployment({ replicas: 3 }));
    await rolledOut(api, 3, "1");
    order.length = 0;
    await client.delete(DEPLOYMENTS, "web", { ...DEFAULT, propagationPolicy });
    await eventually(`${propagationPolicy}: all gone`, async () => (await counts()) === "0 0 0");
    const expected = propagationPolicy === "Background" ? "Deployment" : "Pod";
    t.equal(order[0], expected, `${propagationPolicy} begins with the ${expected}`);
    if (propagationPolicy === "Foreground") {
      await eventually("all heard of", async () => order.length === 5);
      t.equal(order.at(-1), "Deployment", "and ends with the owner");
    }
  }
  for (const stop of stopped) stop();

  await client.create(DEPLOYMENTS, webDeployment({ replicas: 2 }));
  await rolledOut(api, 2, "1");
  await client.delete(DEPLOYMENTS, "web", { ...DEFAULT, propagationPolicy: "Orphan" });
  await eventually("only the owner is gone", async () => (await counts()) === "0 1 2");
  const [rs] = (await client.list(REPLICA_SETS, DEFAULT)).items;
  t.same(rs?.metadata.ownerReferences ?? [], []);
  await client.create(DEPLOYMENTS, webDeployment({ replicas: 2 }));
  await rolledOut(api, 2, "1");
  t.equal(
    (await client.list(REPLICA_SETS, DEFAULT)).items[0]?.metadata.uid,
    rs?.metadata.uid,
    "adopted again",
  );

  const ownerReferences = [{ apiVersion: "v1", kind: "Pod", name: "nobody", uid: "0000" }];
  await client.create(CONFIG_MAPS, { metadata: { name: "dangling", namespace: "default", ownerReferences } });
  await eventually("collected", async () =>
    (await client.list(CONFIG_MAPS, DEFAULT)).items.every(({ metadata }) => metadata.name !== "dangling"),
  );
});

t.test("namespaces and the Service kubernetes", async (t) => {
  const { client, informers } = await running(t);
  t.teardown(playKubelets(client, informers));
  const names = (await client.list(NAMESPACES)).items.map(({ metadata }) => metadata.name).sort();
  t.same(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
  const published = () =>
    eventually("default/kubernetes", async () => {
      const [service, endpoints, slice] = await Promise.all([
        client.get(SERVICES, "kubernetes", "default").catch(() => undefined),
        client.get(ENDPOINTS, "kubernetes", "default").catch(() => undefined),
        client.get(ENDPOINT_SLICES, "kubernetes", "default").catch(() => undefined),
      ]);
      return service && endpoints && slice && { service, endpoints, slice };
    });
  const { service, endpoints, slice } = await published();
  t.match(service.spec, { clusterIP: "10.96.0.1", ports: [{ name: "https", port: 443, targetPort: 6443 }] });
  t.match(endpoints.subsets, [{ addresses: [{ ip: "192.168.56.1" }], ports: [{ port: 6443 }] }]);
  t.match(slice, {
    endpoints: [{ addresses: ["192.168.56.1"] }],
    metadata: { labels: { "kubernetes.io/service-name": "kubernetes" } },
  });
  await client.delete(SERVICES, "kubernetes", DEFAULT);
  await published();

  await client.create(NAMESPACES, { metadata: { name: "team" } });
  await eventually(
    "its ServiceAccount",
    async () => (await client.list(SERVICE_ACCOUNTS, { namespace: "team" })).items.length === 1,
  );
  const web = webDeployment({ replicas: 3 });
  await client.create(DEPLOYMENTS, { ...web, metadata: { name: "web", namespace: "team" } });
  await client.create(SERVICES, {
    metadata: { name: "web", namespace: "team" },
    spec: { selector: { app: "web" }, ports: [{ port: 80 }] },
  });
  await eventually("pods", async () => (await client.list(PODS, { namespace: "team" })).items.length === 3);
  await client.delete(NAMESPACES, "team");
  await eventually("gone with everything in it", async () => {
    try {
      await client.get(NAMESPACES, "team");
      return false;
    } catch (error) {
      if (!isNotFound(error)) throw error;
      return true;
    }
  });
  for (const resource of [
    PODS,
    REPLICA_SETS,
    DEPLOYMENTS,
    SERVICES,
    ENDPOINT_SLICES,
    SERVICE_ACCOUNTS,
    EVENTS,
  ] as Resource[]) {
    t.equal((await client.list(resource, { namespace: "team" })).items.length, 0, resource.plural);
  }
});

t.test("endpoints follow pods: only touched slices are written", async (t) => {
  const { client, informers } = await running(t);
  const became = new Map<string, () => Promise<void>>();
  t.teardown(playKubelets(client, informers, (pod, ready) => void became.set(pod.metadata.name, ready)));
  await client.create(SERVICES, {
    metadata: { name: "web", namespace: "default" },
    spec: { selector: { app: "web" }, ports: [{ port: 80 }] },
  });
  await client.create(DEPLOYMENTS, webDeployment({ replicas: 120 }));
  const list = async () =>
    (await client.list(ENDPOINT_SLICES, { labelSelector: "kubernetes.io/service-name=web" })).items;
  await eventually(
    "120 endpoints",
    async () => (await list()).flatMap(({ endpoints }) => endpoints).length === 120,
  );
  const before = new Map((await list()).map(({ metadata }) => [metadata.name, metadata.resourceVersion]));
  t.equal(before.size, 2, "two slices");
  const [name, ready] = [...became][0] ?? [];
  await ready?.();
  const after = await eventually("one endpoint is ready", async () => {
    const items = await list();
    return items.some(({ endpoints }) => endpoints.some(({ conditions }) => conditions?.ready)) && items;
  });
  const touched = after.filter(({ metadata }) => before.get(metadata.name) !== metadata.resourceVersion);
  t.equal(touched.length, 1);
  t.ok(
    touched[0]?.endpoints.some(({ targetRef, conditions }) => targetRef?.name === name && conditions?.ready),
  );
  t.ok(touched[0]?.metadata.annotations?.["endpoints.kubernetes.io/last-change-trigger-time"]);
});

t.test("events: repeats are counted, floods combined and held back, old ones removed", async (t) => {
  const api = await openLocalApi();
  const { client, informers, log } = api;
  let now = Date.now();
  const events = new EventBroadcaster({ client, log, now: () => now });
  const ttl = new EventTtlController({ client, informers, events, log, now: () => now });
  informers.start();
  await client.create(NAMESPACES, { metadata: { name: "default" } });
  events.start();
  t.teardown(async () => {
    await events.stop();
    await api.close();
  });
  const recorder = events.recorder("test");
  const subject = makePod("p");
  for (let i = 0; i < 3; i++) recorder.event(subject, "Warning", "Same", "the same again");
  await events.idle();
  const { items } = await client.list(EVENTS, DEFAULT);
  t.match(items, [{ count: 3, message: "the same again", reason: "Same", type: "Warning" }]);
  t.match(items[0]?.involvedObject, { kind: "Pod", name: "p", uid: subject.metadata.uid });

  const other = makePod("q");
  for (let i = 0; i < 15; i++) recorder.event(other, "Normal", "Many", `number ${i}`);
  await events.idle();
  const many = (await client.list(EVENTS, DEFAULT)).items.filter(({ reason }) => reason === "Many");
  t.equal(many.length, 11, "ten and the rest as one");
  const combined = many.find(({ message }) => message?.startsWith("(combined from similar events)"));
  t.equal(combined?.count, 5);
  for (let i = 0; i < 100; i++) recorder.event(other, "Normal", `Reason${i}`, "x");
  await events.idle();
  const about = (await client.list(EVENTS, DEFAULT)).items.filter(
    ({ involvedObject }) => involvedObject.name === "q",
  );
  t.equal(about.length, 21, "25 at once about one object, of which 15 came before");

  await informers.synced();
  await eventually("cached", async () => informers.get(EVENTS).list().length === about.length + 1);
  now += 3_590_000;
  await ttl.sweep();
  t.equal((await client.list(EVENTS, DEFAULT)).items.length, about.length + 1);
  now += 20_000;
  await ttl.sweep();
  t.equal((await client.list(EVENTS, DEFAULT)).items.length, 0, "an hour is over");
});
