// What DaemonSets decide, as pure functions and over random rollouts; PodDisruptionBudgets, their arithmetic and
// evictions within them on the real in-process API.

import t from "tap";
import {
  DAEMON_SETS,
  POD_DISRUPTION_BUDGETS,
  PODS,
  STATEFUL_SETS,
  StatusError,
} from "../../common/client.js";
import type { DaemonSet, KubeObject, Node, Pod, PodDisruptionBudget, Stored } from "../../common/k8s.js";
import {
  type DaemonNode,
  daemonNodes,
  daemonSetStatus,
  planDaemons,
  planRollingUpdate,
} from "../../control/controllers/daemonset-plan.js";
import { daemonPod, placeOn, targetNode } from "../../control/controllers/daemonset-pod.js";
import { slowStart } from "../../control/controllers/pod-control.js";
import {
  type Budget,
  budgetStatus,
  demandOf,
  failedStatus,
  sortDisrupted,
} from "../../control/controllers/pod-disruption-budget-plan.js";
import { timestamp } from "../../control/controllers/time.js";
import { random } from "../helpers/random.js";
import { running } from "./helpers/all-controllers.js";
import { DEFAULT, NOW } from "./helpers/controller-objects.js";
import { eventually, playKubelets } from "./helpers/local-cluster.js";
import {
  changed,
  daemonSet,
  LABELS,
  livingPods,
  type PodState,
  pod,
  statefulSet,
  stored,
  TEMPLATE,
} from "./helpers/workload-objects.js";

t.test("DaemonSet: 300 random rollouts keep to their limits and end", async (t) => {
  for (let seed = 1; seed <= 300; seed++) {
    const pick = random(seed);
    const limit = 1 + pick(3);
    const surge = pick(2) === 0;
    const rollingUpdate = surge
      ? { maxUnavailable: 0, maxSurge: limit }
      : { maxUnavailable: limit, maxSurge: 0 };
    const set = stored("DaemonSet", {
      metadata: { name: "agent" },
      spec: { template: TEMPLATE, updateStrategy: { type: "RollingUpdate", rollingUpdate } },
    }) as unknown as Stored<DaemonSet>;
    const names = Array.from({ length: 2 + pick(6) }, (_, i) => `n${i}`);
    let hash = "h0";
    let pods: { node: string; name: string; state: PodState; hash: string }[] = [];
    let made = 0;
    const step = (): boolean => {
      const nodes = names.map((name) => ({
        name,
        run: true,
        stay: true,
        pods: pods
          .filter(({ node }) => node === name)
          .map((one) => pod(one.name, one.state, { labels: { "controller-revision-hash": one.hash } })),
      }));
      const measure = { hash, minReadySeconds: 0, now: NOW };
      const first = planDaemons(set, nodes, measure);
      const manages = first.create.length + first.delete.length > 0;
      const plan = manages ? first : planRollingUpdate(set, nodes, measure);
      const of = (name: string) => pods.filter(({ node, state }) => node === name && state !== "leaving");
      const serves = (name: string) => of(name).some(({ state }) => state === "ready");
      const before = names.filter(serves);
      // What is old and does not work is replaced at once, and counts for nothing.
      const waits = (name: string) => !serves(name) && of(name).every((one) => one.hash === hash);
      const waiting = names.filter(waits).length;
      for (const { metadata } of plan.delete)
        for (const one of pods) if (one.name === metadata.name) one.state = "leaving";
      const lost = before.filter((name) => !serves(name)).length;
      if (lost > (surge ? 0 : Math.max(0, limit - waiting)))
        t.fail(`seed ${seed}: ${lost} nodes lost theirs`);
      for (const node of plan.create) pods.push({ node, name: `p${made++}`, state: "starting", hash });
      // An old pod that begins to work after all may make it more; then nobody else is doubled.
      const doubled = names.filter((name) => of(name).length > 1 && serves(name)).length;
      const added = plan.create.some((name) => of(name).length > 1 && serves(name));
      if (doubled > limit && added) t.fail(`seed ${seed}: ${doubled} nodes have two`);
      return plan.create.length + plan.delete.length > 0;
    };
    const settle = (chance: number) => {
      pods = pods.filter(({ state }) => state !== "leaving" || pick(chance) > 0);
      for (const one of pods) if (one.state === "starting" && pick(chance) === 0) one.state = "ready";
    };
    for (let round = 0; round < 60; round++) {
      if (pick(20) === 0) hash = `h${round}`;
      settle(3);
      step();
    }
    for (let round = 0; round < 100; round++) {
      pods = pods.filter(({ state }) => state !== "leaving");
      for (const one of pods) one.state = "ready";
      if (!step()) break;
    }
    const done =
      pods.length === names.length && pods.every((one) => one.state === "ready" && one.hash === hash);
    if (!done) t.fail(`seed ${seed}: it never ended: ${JSON.stringify(pods)}`);
  }
  t.pass("all ended");
});

t.test("DaemonSet: which nodes, and what comes next", async (t) => {
  const set = (spec: object = {}, template: object = {}) =>
    stored("DaemonSet", {
      metadata: { name: "agent" },
      spec: {
        selector: { matchLabels: LABELS },
        template: { ...TEMPLATE, spec: { ...TEMPLATE.spec, ...template } },
        updateStrategy: { type: "RollingUpdate", rollingUpdate: { maxUnavailable: 1, maxSurge: 0 } },
        ...spec,
      },
    }) as unknown as Stored<DaemonSet>;
  const node = (name: string, spec: object = {}, labels: object = {}) =>
    stored("Node", { metadata: { name, labels }, spec }) as unknown as Stored<Node>;
  const tainted = (key: string, effect: string) => node("n", { taints: [{ key, effect }] });

  t.same(placeOn(set(), node("n")), { run: true, stay: true });
  t.same(placeOn(set(), tainted("a", "NoSchedule")), { run: false, stay: true });
  t.same(placeOn(set(), tainted("a", "NoExecute")), { run: false, stay: false });
  t.same(placeOn(set(), tainted("a", "PreferNoSchedule")), { run: true, stay: true });
  t.same(placeOn(set({}, { tolerations: [{ operator: "Exists" }] }), tainted("a", "NoExecute")).run, true);
  const cordoned = {
    unschedulable: true,
    taints: [{ key: "node.kubernetes.io/unschedulable", effect: "NoSchedule" }],
  };
  t.same(placeOn(set(), node("n", cordoned)).run, true, "a cordoned node runs daemons");
  t.same(placeOn(set({}, { nodeSelector: { disk: "ssd" } }), node("n")), { run: false, stay: false });
  t.same(placeOn(set({}, { nodeSelector: { disk: "ssd" } }), node("n", {}, { disk: "ssd" })).run, true);
  const network = tainted("node.kubernetes.io/network-unavailable", "NoSchedule");
  t.same([placeOn(set(), network).run, placeOn(set({}, { hostNetwork: true }), network).run], [false, true]);

  const made = daemonPod(set(), "h1", "node-7");
  t.equal(targetNode(made as Stored<Pod>), "node-7");
  t.equal(made.metadata?.labels?.["controller-revision-hash"], "h1");
  t.equal(made.spec?.tolerations?.length, 6);

  const measure = { hash: "new", minReadySeconds: 0, now: NOW };
  const on = (name: string, ...pods: [PodState, "old" | "new"][]): DaemonNode => ({
    name,
    run: true,
    stay: true,
    pods: pods.map(([state, hash], i) =>
      pod(`${name}-${hash}-${i}`, state, {
        labels: { "controller-revision-hash": hash },
        spec: { nodeName: name },
      }),
    ),
  });
  const told = (plan: { create: string[]; delete: Stored<Pod>[] }) => [
    ...plan.create.map((name) => `create ${name}`),
    ...plan.delete.map(({ metadata }) => `delete ${metadata.name}`),
  ];
  const empty = { name: "b", run: true, stay: true, pods: [] };
  t.same(told(planDaemons(set(), [on("a", ["ready", "new"]), empty], measure)), ["create b"]);
  t.same(told(planDaemons(set(), [on("a", ["leaving", "new"])], measure)), [], "it goes first");
  t.same(told(planDaemons(set(), [on("a", ["ready", "old"], ["starting", "new"])], measure)), [
    "delete a-new-1",
  ]);
  const banned = { ...on("a", ["ready", "new"]), run: false, stay: false };
  t.same(told(planDaemons(set(), [banned], measure)), ["delete a-new-0"]);
  t.same(told(planDaemons(set(), [{ ...banned, stay: true }], measure)), [], "NoSchedule lets it stay");
  t.same(planDaemons(set(), [on("a", ["failed", "new"])], measure).ended.length, 1);

  const nodes = [on("a", ["ready", "old"]), on("b", ["ready", "old"]), on("c", ["starting", "old"])];
  t.same(told(planRollingUpdate(set(), nodes, measure)), ["delete c-old-0", "delete a-old-0"]);
  t.same(told(planRollingUpdate(set(), [...nodes.slice(0, 2), on("c", ["starting", "new"])], measure)), []);
  t.same(told(planRollingUpdate(set(), [...nodes.slice(0, 2), empty], measure)), [], "a missing one counts");
  const surge = set({
    updateStrategy: { type: "RollingUpdate", rollingUpdate: { maxUnavailable: 0, maxSurge: 1 } },
  });
  t.same(told(planRollingUpdate(surge, nodes, measure)), ["create c", "create a"]);
  const both = on("a", ["ready", "old"], ["starting", "new"]);
  t.same(told(planRollingUpdate(surge, [both, ...nodes.slice(1, 2)], measure)), [], "one at a time");
  t.same(told(planDaemons(surge, [both], measure)), [], "both stay until the new one works");
  t.same(told(planDaemons(surge, [on("a", ["ready", "old"], ["ready", "new"])], measure)), [
    "delete a-old-0",
  ]);

  t.match(daemonSetStatus(set(), [...nodes, empty, { ...banned, name: "z" }], measure, 0), {
    desiredNumberScheduled: 4,
    currentNumberScheduled: 3,
    numberMisscheduled: 1,
    numberReady: 2,
    numberAvailable: 2,
    numberUnavailable: 2,
  });
  const waiting = stored("Pod", {
    ...made,
    metadata: { name: "agent-x", labels: LABELS },
  }) as unknown as Stored<Pod>;
  t.same(
    daemonNodes(set(), [node("node-1")], [waiting]).stranded.map(({ metadata }) => metadata.name),
    ["agent-x"],
    "its node is gone",
  );
});

t.test("PodDisruptionBudget: the arithmetic", async (t) => {
  const budget = (spec: object, status: object = {}) =>
    stored("PodDisruptionBudget", { metadata: { name: "web" }, spec, status }) as unknown as Budget;
  t.same(demandOf(budget({ minAvailable: 2 }), 5, 0), { expectedPods: 5, desiredHealthy: 2 });
  t.same(demandOf(budget({ minAvailable: "50%" }), 0, 5), { expectedPods: 5, desiredHealthy: 3 });
  t.same(demandOf(budget({ maxUnavailable: "30%" }), 0, 5), { expectedPods: 5, desiredHealthy: 3 });
  t.same(demandOf(budget({ maxUnavailable: 9 }), 0, 5), { expectedPods: 5, desiredHealthy: 0 });
  const pods = [pod("a", "ready"), pod("b", "ready"), pod("c", "leaving"), pod("d", "starting")];
  const now = timestamp(NOW);
  const allowed = (desiredHealthy: number, disrupted = {}) =>
    budgetStatus(budget({}), pods, { expectedPods: 4, desiredHealthy }, disrupted, now);
  t.match(allowed(1), { currentHealthy: 2, disruptionsAllowed: 1 });
  t.match(allowed(1).conditions, [{ type: "DisruptionAllowed", status: "True", reason: "SufficientPods" }]);
  t.match(allowed(1, { a: now }), {
    currentHealthy: 1,
    disruptionsAllowed: 0,
    disruptedPods: { a: now },
    conditions: [{ status: "False", reason: "InsufficientPods" }],
  });
  const evicted = budget({}, { disruptedPods: { a: timestamp(NOW - 200_000), b: now, c: now, gone: now } });
  const { waiting, overdue, recheckAt } = sortDisrupted(evicted, pods, NOW);
  t.same(
    [waiting, overdue.map(({ metadata }) => metadata.name), recheckAt],
    [{ b: now }, ["a"], NOW + 120_000],
  );
  t.match(failedStatus(evicted, "why", now), {
    disruptionsAllowed: 0,
    conditions: [{ reason: "SyncFailed", message: "why" }],
  });
});

t.test("slow start ends with the batch in which something failed", async (t) => {
  const run: number[] = [];
  const failed = await slowStart([1, 2, 3, 4, 5, 6, 7, 8], async (n) => {
    run.push(n);
    if (n === 3) throw new Error("no");
  });
  t.same(run, [1, 2, 3]);
  t.match(failed?.error, { message: "no" });
});

t.test("evictions within a PodDisruptionBudget", async (t) => {
  const { client, informers } = await running(t);
  const kubelets = playKubelets(client, informers);
  t.teardown(kubelets);
  await client.create(STATEFUL_SETS, statefulSet({ podManagementPolicy: "Parallel" }));
  const budget: PodDisruptionBudget = {
    metadata: { name: "web", ...DEFAULT },
    spec: { maxUnavailable: 1, selector: { matchLabels: LABELS } },
  };
  await client.create(POD_DISRUPTION_BUDGETS, budget);
  const allowed = (count: number, expected = 3) =>
    eventually(`${count} allowed of ${expected}`, async () => {
      const { status } = await client.get(POD_DISRUPTION_BUDGETS, "web", "default");
      return status?.disruptionsAllowed === count && status.expectedPods === expected;
    });
  await allowed(1);
  const evict = (name: string, dryRun = false) =>
    client.create(PODS, { metadata: { name, ...DEFAULT } }, { ...DEFAULT, subresource: "eviction", dryRun });
  const refused = async (run: Promise<unknown>) => {
    try {
      await run;
    } catch (error) {
      if (error instanceof StatusError) return error.status;
      throw error;
    }
    throw new Error("it was allowed");
  };
  await evict("web-0", true);
  const asked = { metadata: { name: "web-0", ...DEFAULT }, deleteOptions: { dryRun: ["All"] } } as KubeObject;
  await client.create<KubeObject>(PODS, asked, { ...DEFAULT, subresource: "eviction" });
  t.notOk((await client.get(PODS, "web-0", "default")).metadata.deletionTimestamp, "nothing was done");
  t.match((await client.get(POD_DISRUPTION_BUDGETS, "web", "default")).status, { disruptionsAllowed: 1 });
  const settled = await client.get(PODS, "web-1", "default");
  // Nobody plays the kubelet now: what is evicted stays, terminating.
  kubelets();
  await evict("web-1");
  const going = await client.get(PODS, "web-1", "default");
  t.equal(going.metadata.uid, settled.metadata.uid);
  t.ok(going.metadata.deletionTimestamp, "it goes");
  t.match(
    going.status?.conditions?.find(({ type }) => type === "DisruptionTarget"),
    { status: "True", reason: "EvictionByEvictionAPI", message: "Eviction API: evicting" },
  );
  t.match(await refused(evict("web-2")), {
    code: 429,
    reason: "TooManyRequests",
    message: "Cannot evict pod as it would violate the pod's disruption budget.",
    details: {
      causes: [
        {
          reason: "DisruptionBudget",
          message: "The disruption budget web needs 2 healthy pods and has 2 currently",
        },
      ],
    },
  });
  await evict("web-1");
  t.pass("what goes anyway may be evicted again");

  await allowed(0);
  const unready = { status: { conditions: [{ type: "Ready", status: "False" }] } };
  await client.patch(PODS, "web-2", "strategic", unready, { ...DEFAULT, subresource: "status" });
  await eventually("one healthy", async () => {
    const { status } = await client.get(POD_DISRUPTION_BUDGETS, "web", "default");
    return status?.currentHealthy === 1;
  });
  t.equal((await refused(evict("web-2"))).code, 429, "IfHealthyBudget: the budget is not met");
  const always = { spec: { unhealthyPodEvictionPolicy: "AlwaysAllow" } };
  await client.patch(POD_DISRUPTION_BUDGETS, "web", "merge", always, DEFAULT);
  await evict("web-2");
  t.ok((await client.get(PODS, "web-2", "default")).metadata.deletionTimestamp, "AlwaysAllow");

  const other = await client.create(POD_DISRUPTION_BUDGETS, {
    ...budget,
    metadata: { name: "other", ...DEFAULT },
  });
  t.match(await refused(evict("web-0")), { code: 500, message: /more than one PodDisruptionBudget/ });
  const renamed = await changed(client, POD_DISRUPTION_BUDGETS, other.metadata.name, {
    spec: { selector: { matchLabels: { tier: "db" } } },
  });
  t.same(renamed.spec?.selector, { matchLabels: { tier: "db" } }, "a patch replaces the selector as a whole");
  t.equal(renamed.metadata.generation, 2);
});

t.test("a budget of pods whose controller has no scale says so", async (t) => {
  const { client, informers } = await running(t);
  t.teardown(playKubelets(client, informers));
  await client.create(DAEMON_SETS, daemonSet());
  await eventually("pods", async () => (await livingPods(client)).length === 3);
  await client.create(POD_DISRUPTION_BUDGETS, {
    metadata: { name: "agent", ...DEFAULT },
    spec: { minAvailable: "50%", selector: { matchLabels: LABELS } },
  });
  const condition = await eventually("a verdict", async () => {
    const { status } = await client.get(POD_DISRUPTION_BUDGETS, "agent", "default");
    return status?.conditions?.find(({ reason }) => reason === "SyncFailed");
  });
  t.equal(condition.message, "daemonsets.apps does not implement the scale subresource");
});
