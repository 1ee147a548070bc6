// What the controllers of Deployments and ReplicaSets decide, as pure functions: plans, properties over random
// rollouts, and which objects they hold to be the same.

import t from "tap";
import type { Deployment, ReplicaSet, Stored } from "../../common/k8s.js";
import { canonicalJson, semanticallyEqual } from "../../control/controllers/canonical.js";
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
import { planReplicas } from "../../control/controllers/replicaset-plan.js";
import { timestamp } from "../../control/controllers/time.js";
import { random } from "../helpers/random.js";
import { makeDeployment, makePod, makeReplicaSet, NOW } from "./helpers/controller-objects.js";

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
