// StatefulSets, DaemonSets, ReplicationControllers and PodDisruptionBudgets: validation, the decisions as pure
// functions, and the loops themselves on the real in-process API with kubelets that only report.

import t from "tap";
import {
  CONTROLLER_REVISIONS,
  DAEMON_SETS,
  EVENTS,
  type KubeClient,
  NODES,
  POD_DISRUPTION_BUDGETS,
  PODS,
  REPLICATION_CONTROLLERS,
  type Resource,
  STATEFUL_SETS,
  StatusError,
} from "../../common/client.js";
import { InformerFactory } from "../../common/informer.js";
import type {
  DaemonSet,
  KubeObject,
  Node,
  Pod,
  PodDisruptionBudget,
  ReplicationController,
  StatefulSet,
  Stored,
} from "../../common/k8s.js";
import {
  byRevision,
  expiredHistory,
  newRevision,
  planRevision,
  type Revision,
  templateOf,
} from "../../control/controllers/controller-revision-plan.js";
import {
  type DaemonNode,
  daemonNodes,
  daemonSetStatus,
  planDaemons,
  planRollingUpdate,
} from "../../control/controllers/daemonset-plan.js";
import { daemonPod, placeOn, targetNode } from "../../control/controllers/daemonset-pod.js";
import { startControllers } from "../../control/controllers/index.js";
import { slowStart } from "../../control/controllers/pod-control.js";
import {
  type Budget,
  budgetStatus,
  demandOf,
  failedStatus,
  sortDisrupted,
} from "../../control/controllers/pod-disruption-budget-plan.js";
import { filterNode } from "../../control/controllers/scheduler-filter.js";
import { NodeInfo, podFacts } from "../../control/controllers/scheduler-node.js";
import { bestNode } from "../../control/controllers/scheduler-score.js";
import { NO_RULES, topologyRules } from "../../control/controllers/scheduler-topology.js";
import { wishesOf } from "../../control/controllers/scheduler-wishes.js";
import { planStatefulSet, type Step, statefulSetStatus } from "../../control/controllers/statefulset-plan.js";
import { statefulPod } from "../../control/controllers/statefulset-pod.js";
import { timestamp } from "../../control/controllers/time.js";
import { cells, created, problems, updated } from "./helpers/kinds.js";
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
const LABELS = { app: "web" };
const CONTAINERS = [{ name: "c", image: "v1" }];
const TEMPLATE = { metadata: { labels: LABELS }, spec: { containers: CONTAINERS } };

let uids = 0;
function stored<T extends object>(kind: string, object: T & { metadata: { name: string } }): T & Stored {
  uids += 1;
  return {
    apiVersion: "apps/v1",
    kind,
    ...object,
    metadata: {
      namespace: "default",
      uid: `uid-${uids}`,
      resourceVersion: "1",
      generation: 1,
      creationTimestamp: timestamp(NOW - 1000 * (1000 - uids)),
      ...object.metadata,
    },
  } as unknown as T & Stored;
}

const DAEMONS = stored("DaemonSet", {
  metadata: { name: "agent" },
  spec: { selector: { matchLabels: LABELS }, template: TEMPLATE },
}) as unknown as Stored<DaemonSet>;

type PodState = "ready" | "starting" | "leaving" | "failed";

function pod(name: string, state: PodState, more: { labels?: object; spec?: object; since?: number } = {}) {
  const phase = { ready: "Running", starting: "Pending", leaving: "Running", failed: "Failed" }[state];
  const ready = state === "ready" || state === "leaving";
  return stored("Pod", {
    metadata: {
      name,
      labels: { ...LABELS, "statefulset.kubernetes.io/pod-name": name, ...more.labels },
      ...(state === "leaving" ? { deletionTimestamp: timestamp(NOW) } : {}),
    },
    spec: { containers: CONTAINERS, ...more.spec },
    status: {
      phase,
      conditions: [
        { type: "Ready", status: ready ? "True" : "False", lastTransitionTime: timestamp(more.since ?? NOW) },
      ],
    },
  }) as unknown as Stored<Pod>;
}

t.test("validation and defaults, with the real server's texts", async (t) => {
  const sts = { spec: { selector: { matchLabels: LABELS }, serviceName: "web", template: TEMPLATE } };
  const set = created("StatefulSet", sts) as unknown as Stored<StatefulSet>;
  t.match(set.spec, {
    replicas: 1,
    podManagementPolicy: "OrderedReady",
    revisionHistoryLimit: 10,
    updateStrategy: { type: "RollingUpdate", rollingUpdate: { partition: 0, maxUnavailable: 1 } },
    persistentVolumeClaimRetentionPolicy: { whenDeleted: "Retain", whenScaled: "Retain" },
  });
  const stsProblems = (spec: object) => problems("StatefulSet", { spec: { ...sts.spec, ...spec } });
  t.same(stsProblems({}), []);
  t.same(stsProblems({ podManagementPolicy: "Random" }), [
    `spec.podManagementPolicy: Invalid value: "Random": must be 'OrderedReady' or 'Parallel'`,
  ]);
  t.same(stsProblems({ selector: { matchLabels: { app: "other" } } }), [
    'spec.template.metadata.labels: Invalid value: {"app":"web"}: `selector` does not match template `labels`',
  ]);
  t.same(stsProblems({ updateStrategy: { type: "OnDelete", rollingUpdate: { partition: 1 } } }), [
    `spec.updateStrategy.rollingUpdate: Invalid value: {"partition":1}: only allowed for updateStrategy 'RollingUpdate'`,
  ]);
  t.same(stsProblems({ updateStrategy: { rollingUpdate: { maxUnavailable: "0%", partition: -1 } } }), [
    "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0",
    'spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: "0%": cannot be 0',
  ]);
  const mounting = {
    template: {
      ...TEMPLATE,
      spec: { containers: [{ ...CONTAINERS[0], volumeMounts: [{ name: "www", mountPath: "/w" }] }] },
    },
  };
  t.match(stsProblems(mounting), [/volumeMounts\[0\]\.name: Not found: "www"/]);
  t.same(
    stsProblems({ ...mounting, volumeClaimTemplates: [{ metadata: { name: "www" }, spec: {} }] }),
    [],
    "a claim is a volume",
  );
  t.same(
    updated("StatefulSet", set as never, (draft: StatefulSet) => {
      if (draft.spec) draft.spec.serviceName = "other";
    }).problems,
    [
      "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
    ],
  );
  t.same(
    updated("StatefulSet", set as never, (draft: StatefulSet) => {
      if (draft.spec) draft.spec.ordinals = { start: 3 };
    }).problems,
    [],
  );

  const ds = { spec: { selector: { matchLabels: LABELS }, template: TEMPLATE } };
  const daemons = created("DaemonSet", ds) as unknown as Stored<DaemonSet>;
  t.match(daemons, {
    metadata: { annotations: { "deprecated.daemonset.template.generation": "1" } },
    spec: {
      revisionHistoryLimit: 10,
      updateStrategy: { type: "RollingUpdate", rollingUpdate: { maxUnavailable: 1, maxSurge: 0 } },
    },
  });
  const dsProblems = (spec: object) => problems("DaemonSet", { spec: { ...ds.spec, ...spec } });
  const rolling = (rollingUpdate: object) => ({ updateStrategy: { type: "RollingUpdate", rollingUpdate } });
  t.same(dsProblems({}), []);
  t.same(dsProblems(rolling({ maxSurge: "30%" })), [
    'spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: "30%": may not be set when maxUnavailable is non-zero',
  ]);
  t.same(dsProblems(rolling({ maxUnavailable: 0 })), [
    "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
  ]);
  t.same(dsProblems({ selector: {} }), [
    "spec.selector: Invalid value: {}: empty selector is invalid for daemonset",
  ]);
  const renewed = updated("DaemonSet", daemons as never, (draft: DaemonSet) => {
    if (draft.spec) draft.spec.template = { ...TEMPLATE, spec: { containers: [{ name: "c", image: "v2" }] } };
  }).draft;
  t.equal(renewed.metadata.annotations?.["deprecated.daemonset.template.generation"], "2");
  t.equal(renewed.metadata.generation, 2);

  const rc = created("ReplicationController", { spec: { template: TEMPLATE } }) as unknown as Stored;
  t.match(rc, { metadata: { labels: LABELS }, spec: { replicas: 1, selector: LABELS } });
  t.same(problems("ReplicationController", { spec: {} }), [
    "spec.selector: Required value",
    "spec.template: Required value",
  ]);
  t.same(problems("ReplicationController", { spec: { selector: { a: "b" }, template: TEMPLATE } }), [
    'spec.template.metadata.labels: Invalid value: {"app":"web"}: `selector` does not match template `labels`',
  ]);
  t.match(cells("ReplicationController", { spec: { replicas: 2, selector: LABELS, template: TEMPLATE } }), {
    Desired: 2,
    Selector: "app=web",
    Images: "v1",
  });

  t.same(problems("PodDisruptionBudget", { spec: { minAvailable: 1, maxUnavailable: "10%" } }), [
    'spec: Invalid value: {"minAvailable":1,"maxUnavailable":"10%"}: minAvailable and maxUnavailable cannot be both set',
  ]);
  t.same(
    problems("PodDisruptionBudget", { spec: { minAvailable: "120%", unhealthyPodEvictionPolicy: "No" } }),
    [
      'spec.minAvailable: Invalid value: "120%": must not be greater than 100%',
      'spec.unhealthyPodEvictionPolicy: Unsupported value: "No": supported values: "AlwaysAllow", "IfHealthyBudget"',
    ],
  );
  t.match(
    cells("PodDisruptionBudget", { spec: { maxUnavailable: "10%" }, status: { disruptionsAllowed: 2 } }),
    {
      "Min Available": "N/A",
      "Max Unavailable": "10%",
      "Allowed Disruptions": 2,
    },
  );
  t.match(problems("ControllerRevision", { revision: -1 }), [
    "data: Required value: data is mandatory",
    "revision: Invalid value: -1: must be greater than or equal to 0",
  ]);
  const owner = { apiVersion: "apps/v1", kind: "StatefulSet", name: "web", uid: "u", controller: true };
  const held = { metadata: { name: "x", ownerReferences: [owner] }, revision: 3 };
  t.match(cells("ControllerRevision", held), { Controller: "statefulset.apps/web", Revision: "3" });
  t.match(
    problems("Pod", {
      spec: {
        containers: CONTAINERS,
        affinity: {
          nodeAffinity: {
            requiredDuringSchedulingIgnoredDuringExecution: {
              nodeSelectorTerms: [{ matchFields: [{ key: "spec.x", operator: "In", values: ["a", "b"] }] }],
            },
          },
        },
      },
    }),
    [
      /matchFields\[0\]\.values: Required value: must be only one value when `operator` is 'In' or 'NotIn' for node field selector$/,
      /matchFields\[0\]\.key: Invalid value: "spec\.x": not a valid field selector key$/,
    ],
  );
});

t.test("history of templates", async (t) => {
  const owner = (image: string) =>
    stored("StatefulSet", {
      metadata: { name: "web", annotations: { "kubernetes.io/change-cause": image } },
      spec: { template: { ...TEMPLATE, spec: { containers: [{ name: "c", image }] } } },
    });
  const revision = (image: string, number: number) => {
    const { metadata = {}, ...rest } = newRevision(owner(image), number, 0, "hash");
    return stored("ControllerRevision", { ...rest, metadata: { ...metadata, name: metadata.name ?? "" } });
  };
  const revisions = [revision("v1", 1), revision("v2", 2)] as unknown as Revision[];
  const [first] = revisions;
  t.match(first?.metadata, { labels: LABELS, annotations: { "kubernetes.io/change-cause": "v1" } });
  t.match(first?.metadata.name, /^web-[a-z0-9]+$/);
  t.match(first?.data, { spec: { template: { $patch: "replace" } } });
  t.notOk("$patch" in ((first && templateOf(first)) ?? {}), "the template itself has no directive");
  const template = (image: string) => owner(image).spec.template;
  t.match(planRevision(template("v2"), revisions), { type: "present", revision: { revision: 2 } });
  t.match(planRevision(template("v1"), revisions), { type: "raise", revision: { revision: 1 }, to: 3 });
  const twice = [...revisions, revision("v1", 3)] as unknown as Revision[];
  t.match(planRevision(template("v1"), twice), { type: "present", revision: { revision: 3 } });
  t.same(planRevision(template("v3"), revisions), { type: "create", number: 3 });
  t.not(newRevision(owner("v1"), 1, 1, "hash").metadata?.name, first?.metadata.name, "a collision");
  const many = [4, 2, 3, 1].map((number) => revision(`v${number}`, number)) as unknown as Revision[];
  const live = new Set([many.at(-1)?.metadata.name ?? ""]);
  const expired = expiredHistory(many.sort(byRevision), live, 1).map((r) => r.revision);
  t.same(expired, [2, 3], "the oldest of what nothing uses");
});

t.test("StatefulSet: what comes next", async (t) => {
  const REVISIONS = { current: "old", update: "new" };
  const set = (spec: object = {}) =>
    stored("StatefulSet", {
      metadata: { name: "web" },
      spec: {
        replicas: 3,
        serviceName: "svc",
        selector: { matchLabels: LABELS },
        template: TEMPLATE,
        podManagementPolicy: "OrderedReady",
        updateStrategy: { type: "RollingUpdate", rollingUpdate: { partition: 0, maxUnavailable: 1 } },
        ...spec,
      },
    }) as unknown as Stored<StatefulSet>;
  const of = (states: Record<number, PodState | [PodState, string]>) =>
    Object.entries(states).map(([ordinal, state]) => {
      const [what, hash] = typeof state === "string" ? [state, "new"] : state;
      return pod(`web-${ordinal}`, what, { labels: { "controller-revision-hash": hash } });
    });
  const told = (steps: readonly Step[]) =>
    steps.map((step) =>
      step.type === "create"
        ? `create ${step.ordinal} ${step.revision}`
        : `${step.type} ${step.pod.metadata.name}${step.type === "delete" ? ` ${step.why}` : ""}`,
    );
  const plan = (spec: object, states: Record<number, PodState | [PodState, string]>) =>
    told(planStatefulSet(set(spec), of(states), REVISIONS, NOW));
  const PARALLEL = { podManagementPolicy: "Parallel" };
  const rolling = (rollingUpdate: object) => ({ updateStrategy: { type: "RollingUpdate", rollingUpdate } });

  t.same(plan({}, {}), ["create 0 update"], "one after the other");
  t.same(plan({}, { 0: "starting" }), [], "not before the one before is ready");
  t.same(plan({}, { 0: "ready" }), ["create 1 update"]);
  t.same(plan({}, { 0: "ready", 2: "ready" }), ["create 1 update"], "a gap first");
  t.same(plan(PARALLEL, { 1: "starting" }), ["create 0 update", "create 2 update"]);
  t.same(
    plan({ ordinals: { start: 5 }, ...PARALLEL }, {}),
    [5, 6, 7].map((o) => `create ${o} update`),
  );
  t.same(plan({ minReadySeconds: 10 }, { 0: "ready" }), [], "ready for too short a time");
  t.same(plan({}, { 0: "ready", 1: "failed" }), ["delete web-1 ended"]);
  t.same(plan({ replicas: 1 }, { 0: "ready", 1: "ready", 2: "ready" }), ["delete web-2 surplus"]);
  t.same(plan({ replicas: 1 }, { 0: "ready", 1: "ready", 2: "leaving" }), [], "one goes at a time");
  t.same(plan({ replicas: 1 }, { 0: "ready", 1: "starting", 2: "ready" }), ["delete web-2 surplus"]);
  t.same(
    plan({ replicas: 1 }, { 0: "ready", 1: "starting" }),
    ["delete web-1 surplus"],
    "it does not work: nobody waits",
  );
  t.same(
    plan({ replicas: 1 }, { 0: "ready", 1: "starting", 2: "starting" }),
    [],
    "but for one before it that does not either",
  );
  t.same(plan({ replicas: 0, ...PARALLEL }, { 0: "ready", 1: "starting" }), [
    "delete web-1 surplus",
    "delete web-0 surplus",
  ]);
  t.same(plan({ replicas: 1 }, { 0: "starting", 1: "ready" }), [], "scaling down waits for those that stay");

  const OLD = { 0: ["ready", "old"], 1: ["ready", "old"], 2: ["ready", "old"] } as const;
  const old = OLD as unknown as Record<number, [PodState, string]>;
  t.same(plan({}, old), ["delete web-2 outdated"], "the highest ordinal first");
  t.same(plan({}, { ...old, 2: "leaving" }), []);
  t.same(plan({}, { ...old, 2: "starting" }), [], "the next when the new one is ready");
  t.same(plan({}, { ...old, 2: "ready" }), ["delete web-1 outdated"]);
  t.same(plan(rolling({ partition: 2 }), { ...old, 2: "ready" }), [], "partition");
  t.same(plan(rolling({ partition: 2 }), { 0: "ready", 1: "ready" }), ["create 2 update"]);
  t.same(plan(rolling({ partition: 2 }), { 0: "ready" }), ["create 1 current"]);
  t.same(plan(rolling({ maxUnavailable: 2 }), old), ["delete web-2 outdated", "delete web-1 outdated"]);
  t.same(plan({ updateStrategy: { type: "OnDelete" } }, old), []);
  t.same(
    plan(PARALLEL, { ...old, 0: ["starting", "old"] }),
    ["delete web-0 outdated"],
    "what does not work goes first, and nothing else with it",
  );
  const stripped = pod("web-0", "ready", {
    labels: { "controller-revision-hash": "new", "statefulset.kubernetes.io/pod-name": "" },
  });
  t.same(told(planStatefulSet(set({ replicas: 1 }), [stripped], REVISIONS, NOW)), ["label web-0"]);

  const made = statefulPod(
    set({ volumeClaimTemplates: [{ metadata: { name: "www" } }] }),
    TEMPLATE,
    "web-abc",
    4,
  );
  t.match(made, {
    metadata: {
      name: "web-4",
      labels: {
        app: "web",
        "statefulset.kubernetes.io/pod-name": "web-4",
        "apps.kubernetes.io/pod-index": "4",
        "controller-revision-hash": "web-abc",
      },
    },
    spec: { hostname: "web-4", subdomain: "svc", volumes: [{ name: "www", emptyDir: {} }] },
  });

  const status = statefulSetStatus(set(), of({ ...old, 2: "starting" }), REVISIONS, 0, NOW);
  t.match(status, {
    replicas: 3,
    readyReplicas: 2,
    currentReplicas: 2,
    updatedReplicas: 1,
    currentRevision: "old",
    updateRevision: "new",
    availableReplicas: 2,
  });
  const done = statefulSetStatus(set(), of({ 0: "ready", 1: "ready", 2: "ready" }), REVISIONS, 0, NOW);
  t.match(done, { currentReplicas: 3, updatedReplicas: 3, currentRevision: "new" });
});

/** Deterministic random numbers: a failure can be had again. */
function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

t.test("StatefulSet: 300 random rollouts keep to the order and end", async (t) => {
  for (let seed = 1; seed <= 300; seed++) {
    const pick = random(seed);
    const ordered = pick(2) === 0;
    const maxUnavailable = 1 + pick(3);
    const set = stored("StatefulSet", {
      metadata: { name: "web" },
      spec: {
        replicas: 1 + pick(6),
        podManagementPolicy: ordered ? "OrderedReady" : "Parallel",
        updateStrategy: { type: "RollingUpdate", rollingUpdate: { partition: pick(3), maxUnavailable } },
      },
    }) as unknown as Stored<StatefulSet>;
    const pods = new Map<number, { state: PodState; hash: string }>();
    const revisions = { current: "r0", update: "r0" };
    const look = () =>
      [...pods].map(([ordinal, { state, hash }]) =>
        pod(`web-${ordinal}`, state, { labels: { "controller-revision-hash": hash } }),
      );
    /** One look and what it does; false when there is nothing to do. */
    const step = (): boolean => {
      const steps = planStatefulSet(set, look(), revisions, NOW);
      if (ordered && steps.length > 1 && steps.some(({ type }) => type === "create"))
        t.fail(`seed ${seed}: more than one thing at a time`);
      const size = set.spec?.replicas ?? 0;
      const working = () =>
        [...pods].filter(([ordinal, { state }]) => ordinal < size && state === "ready").length;
      const before = working();
      for (const one of steps) {
        if (one.type === "create") {
          const earlier = Array.from({ length: one.ordinal }, (_, ordinal) => pods.get(ordinal)?.state);
          if (ordered && earlier.some((state) => state !== "ready")) t.fail(`seed ${seed}: out of order`);
          if (pods.has(one.ordinal)) t.fail(`seed ${seed}: a second web-${one.ordinal}`);
          pods.set(one.ordinal, { state: "starting", hash: revisions[one.revision] });
        } else if (one.type === "delete") {
          const ordinal = Number(one.pod.metadata.name.slice(4));
          const gone = pods.get(ordinal);
          if (gone) pods.set(ordinal, { ...gone, state: "leaving" });
        }
      }
      const after = working();
      if (after < before && after < size - maxUnavailable)
        t.fail(`seed ${seed}: ${after} of ${size} work, with maxUnavailable ${maxUnavailable}`);
      return steps.length > 0;
    };
    const settle = (ordinal: number) => {
      const one = pods.get(ordinal);
      if (one?.state === "leaving" || one?.state === "failed") pods.delete(ordinal);
      else if (one?.state === "starting") pods.set(ordinal, { ...one, state: "ready" });
    };
    for (let round = 0; round < 60; round++) {
      const chance = pick(20);
      if (chance === 0) revisions.update = `r${round}`;
      if (chance === 1 && set.spec) set.spec.replicas = 1 + pick(6);
      const [touched] = [...pods.keys()].filter(() => pick(4) === 0);
      if (touched !== undefined) settle(touched);
      const failing = chance === 2 ? pods.get(pick(6)) : undefined;
      if (failing && failing.state !== "leaving") failing.state = "failed";
      step();
    }
    for (let round = 0; round < 100; round++) {
      for (const ordinal of [...pods.keys()]) settle(ordinal);
      if (!step() && [...pods.values()].every(({ state }) => state === "ready")) break;
    }
    const { replicas = 0, updateStrategy } = set.spec ?? {};
    const partition = updateStrategy?.rollingUpdate?.partition ?? 0;
    const done =
      pods.size === replicas &&
      [...pods].every(
        ([ordinal, { state, hash }]) =>
          ordinal < replicas && state === "ready" && (ordinal < partition || hash === revisions.update),
      );
    if (!done) t.fail(`seed ${seed}: it never ended: ${JSON.stringify([...pods])}`);
  }
  t.pass("all ended");
});

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

t.test("scheduler: what pods wish of their neighbours", async (t) => {
  const place = (name: string, labels: object, ...pods: Stored<Pod>[]) => {
    const info = new NodeInfo();
    info.node = stored("Node", {
      metadata: { name, labels: { host: name, ...labels } },
      status: { conditions: [{ type: "Ready", status: "True" }] },
    }) as unknown as Stored<Node>;
    for (const one of pods) info.add(podFacts(one, undefined));
    return info;
  };
  const labelled = (name: string, app: string, spec: object = {}) =>
    pod(name, "ready", { labels: { app }, spec });
  const term = (app: string, topologyKey = "host") => ({
    topologyKey,
    labelSelector: { matchLabels: { app } },
  });
  const preferred = (kind: "podAffinity" | "podAntiAffinity", app: string, key?: string) => ({
    affinity: {
      [kind]: {
        preferredDuringSchedulingIgnoredDuringExecution: [{ weight: 50, podAffinityTerm: term(app, key) }],
      },
    },
  });
  const best = (incoming: Stored<Pod>, nodes: NodeInfo[], inclined: [Stored<Pod>, NodeInfo][] = []) => {
    const facts = podFacts(incoming, undefined);
    const where = inclined.map(([one, info]) => ({ facts: podFacts(one, undefined), info }));
    const wishes = wishesOf(facts, nodes, where, () => undefined);
    return bestNode(facts, nodes, wishes)?.node?.metadata.name;
  };
  const cache = labelled("cache", "cache");
  const nodes = [place("a", { zone: "x" }), place("b", { zone: "y" }, cache), place("c", { zone: "y" })];
  t.equal(best(labelled("p", "p"), nodes), "a", "of equals the emptiest, by name");
  t.equal(best(labelled("p", "p", preferred("podAffinity", "cache")), nodes), "b");
  t.equal(
    best(labelled("p", "p", preferred("podAffinity", "cache", "zone")), nodes),
    "c",
    "near, and emptier",
  );
  const shy = place("a", {}, cache);
  const free = place("z", {}, labelled("x", "x"), labelled("y", "y"));
  t.equal(best(labelled("p", "p", preferred("podAntiAffinity", "cache")), [shy, free]), "z");
  const lonely = labelled("lonely", "lonely", preferred("podAntiAffinity", "p"));
  const taken = place("a", {}, lonely);
  t.equal(
    best(labelled("p", "p"), [taken, free], [[lonely, taken]]),
    "z",
    "a pod that is there wishes it away",
  );

  const soft = (key: string) => ({
    topologySpreadConstraints: [
      {
        maxSkew: 1,
        topologyKey: key,
        whenUnsatisfiable: "ScheduleAnyway",
        labelSelector: { matchLabels: { app: "p" } },
      },
    ],
  });
  const crowded = [
    place("a", { zone: "x" }),
    place("b", { zone: "x" }, labelled("p1", "p")),
    place("c", { zone: "y" }, labelled("o1", "o"), labelled("o2", "o")),
  ];
  t.equal(best(labelled("p", "p", soft("zone")), crowded), "c", "the zone that has none");
  t.equal(best(labelled("p", "p", soft("missing")), crowded), "a");

  const hard = (more: object) => {
    const constraint = {
      ...soft("zone").topologySpreadConstraints[0],
      whenUnsatisfiable: "DoNotSchedule",
      ...more,
    };
    return labelled("p", "p", { topologySpreadConstraints: [constraint] });
  };
  const forbidden = place("d", { zone: "z" });
  forbidden.node = {
    ...(forbidden.node as Stored<Node>),
    spec: { taints: [{ key: "k", effect: "NoSchedule" }] },
  };
  const full = [
    place("a", { zone: "x" }, labelled("p1", "p")),
    place("b", { zone: "y" }, labelled("p2", "p")),
    forbidden,
  ];
  const fits = (incoming: Stored<Pod>) => {
    const facts = podFacts(incoming, undefined);
    const rules = topologyRules(facts, full, [], () => undefined);
    return full.filter((info) => !filterNode(facts, info, rules)).map((info) => info.node?.metadata.name);
  };
  t.same(fits(hard({})), [], "the tainted node's empty zone counts");
  t.same(fits(hard({ nodeTaintsPolicy: "Honor" })), ["a", "b"]);
  const apart = (keys: object) =>
    labelled("p", "p", {
      affinity: {
        podAntiAffinity: { requiredDuringSchedulingIgnoredDuringExecution: [{ ...term("p"), ...keys }] },
      },
    });
  t.same(fits(apart({})), []);
  t.same(
    fits(apart({ mismatchLabelKeys: ["app"] })),
    ["a", "b"],
    "only of other apps, of which there are none",
  );

  const daemon = podFacts(
    { ...daemonPod(DAEMONS, "h", "b"), metadata: cache.metadata } as Stored<Pod>,
    undefined,
  );
  t.same(
    full.map((info) => filterNode(daemon, info, NO_RULES)?.reasons[0]),
    [
      "node(s) didn't satisfy plugin(s) [NodeAffinity]",
      undefined,
      "node(s) didn't satisfy plugin(s) [NodeAffinity]",
    ],
    "a daemon's pod is for one node",
  );

  const port = { ports: [{ containerPort: 80, hostPort: 80 }] };
  const sidecar = {
    initContainers: [
      { name: "s", restartPolicy: "Always", ...port },
      { name: "i", ...port },
    ],
  };
  t.equal(
    podFacts(labelled("p", "p", sidecar), undefined).hostPorts.length,
    1,
    "an init container holds no port",
  );
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

const OPTIONS = {
  clusterCIDRs: ["10.244.0.0/16"],
  nodeCIDRMaskSize: 24,
  nodeMonitorGracePeriodSeconds: 40,
  serverAddresses: { ip: "192.168.56.1", port: 6443 },
  serviceCIDRs: ["10.96.0.0/16"],
  caCert: "the CA",
  tokens: { issue: async () => ({ token: "a token" }) },
};

async function running(t: { teardown(fn: () => unknown): unknown }, nodes = 3): Promise<LocalApi> {
  const api = await openLocalApi();
  const { client, informers, log } = api;
  const controllers = startControllers({ client, informers, log, ...OPTIONS });
  t.teardown(async () => {
    await controllers.stop();
    await api.close();
  });
  await controllers.ready;
  await addNodes(client, nodes);
  return api;
}

function statefulSet(spec: object = {}): StatefulSet {
  return {
    metadata: { name: "web", ...DEFAULT },
    spec: { replicas: 3, serviceName: "web", selector: { matchLabels: LABELS }, template: TEMPLATE, ...spec },
  };
}

function daemonSet(spec: object = {}): DaemonSet {
  return {
    metadata: { name: "agent", ...DEFAULT },
    spec: { selector: { matchLabels: LABELS }, template: TEMPLATE, ...spec },
  };
}

const imagePatch = (image: string) => ({
  spec: { template: { spec: { containers: [{ name: "c", image }] } } },
});

async function livingPods(client: KubeClient): Promise<Stored<Pod>[]> {
  const { items } = await client.list(PODS, { ...DEFAULT, labelSelector: "app=web" });
  return items.filter(({ metadata }) => !metadata.deletionTimestamp);
}

async function reasons(client: KubeClient, kind: string): Promise<string[]> {
  const { items } = await client.list(EVENTS, DEFAULT);
  return items.filter((e) => e.involvedObject.kind === kind).map((e) => `${e.reason}: ${e.message}`);
}

async function changed<T extends KubeObject>(
  client: KubeClient,
  resource: Resource<T>,
  name: string,
  patch: object,
): Promise<Stored<T>> {
  return await client.patch(resource, name, "strategic", patch, DEFAULT);
}

t.test("a StatefulSet from its first pod to its end", async (t) => {
  const { client, informers } = await running(t);
  const order: string[] = [];
  informers.get(PODS).subscribe({ add: ({ metadata }) => void order.push(metadata.name) });
  t.teardown(playKubelets(client, informers));
  await client.create(STATEFUL_SETS, statefulSet());
  const settled = (replicas: number, image: string) =>
    eventually(`${replicas} of ${image}`, async () => {
      const { status, metadata } = await client.get(STATEFUL_SETS, "web", "default");
      const pods = await livingPods(client);
      return (
        status?.observedGeneration === metadata.generation &&
        status?.readyReplicas === (replicas || undefined) &&
        status?.updatedReplicas === (replicas || undefined) &&
        status?.currentRevision === status?.updateRevision &&
        pods.length === replicas &&
        pods.every((pod) => pod.spec?.containers[0]?.image === image)
      );
    });
  await settled(3, "v1");
  t.same(order, ["web-0", "web-1", "web-2"], "in order");
  const [first] = await livingPods(client);
  t.match(first, { spec: { hostname: "web-0", subdomain: "web" } });
  t.ok(
    (await reasons(client, "StatefulSet")).includes(
      "SuccessfulCreate: create Pod web-0 in StatefulSet web successful",
    ),
  );

  await changed(client, STATEFUL_SETS, "web", imagePatch("v2"));
  await settled(3, "v2");
  t.same(order.slice(3), ["web-2", "web-1", "web-0"], "replaced from the last");
  const history = async () =>
    (await client.list(CONTROLLER_REVISIONS, DEFAULT)).items.map((r) => r.revision).sort();
  t.same(await history(), [1, 2]);

  await changed(client, STATEFUL_SETS, "web", imagePatch("v1"));
  await settled(3, "v1");
  t.same(await history(), [2, 3], "the old template is the newest revision");

  await changed(client, STATEFUL_SETS, "web", { spec: { replicas: 1 } });
  await settled(1, "v1");
  t.equal((await livingPods(client))[0]?.metadata.name, "web-0");

  await client.delete(STATEFUL_SETS, "web", { ...DEFAULT, propagationPolicy: "Orphan" });
  await eventually("an orphan", async () => {
    const [orphan] = await livingPods(client);
    return orphan && (orphan.metadata.ownerReferences ?? []).length === 0;
  });
  await eventually(
    "the set is gone",
    async () => (await client.list(STATEFUL_SETS, DEFAULT)).items.length === 0,
  );
  const orphans = (await client.list(CONTROLLER_REVISIONS, DEFAULT)).items;
  t.same(
    orphans.map(({ revision }) => revision).sort(),
    [2, 3],
    "its history is left, and no more than that",
  );
  t.ok(orphans.every(({ metadata }) => (metadata.ownerReferences ?? []).length === 0));
  const before = (await livingPods(client))[0]?.metadata.uid;
  const again = await client.create(STATEFUL_SETS, statefulSet({ replicas: 2 }));
  await settled(2, "v1");
  const adopted = await client.get(PODS, "web-0", "default");
  t.equal(adopted.metadata.uid, before, "the same pod");
  t.equal(adopted.metadata.ownerReferences?.[0]?.uid, again.metadata.uid, "adopted");
  await client.delete(STATEFUL_SETS, "web", { ...DEFAULT, propagationPolicy: "Foreground" });
  await eventually("nothing left", async () => {
    const left = [...(await livingPods(client)), ...(await client.list(CONTROLLER_REVISIONS, DEFAULT)).items];
    return left.length === 0;
  });
});

t.test("100 pods in parallel, with claims, and an update of them by tens", async (t) => {
  const { client, informers } = await running(t, 4);
  t.teardown(playKubelets(client, informers));
  const claim = { metadata: { name: "www" }, spec: { accessModes: ["ReadWriteOnce"] } };
  await client.create(
    STATEFUL_SETS,
    statefulSet({
      replicas: 100,
      podManagementPolicy: "Parallel",
      volumeClaimTemplates: [claim],
      updateStrategy: { rollingUpdate: { maxUnavailable: "10%" } },
    }),
  );
  const settled = (revision: number) =>
    eventually(`all of revision ${revision}`, async () => {
      const { status } = await client.get(STATEFUL_SETS, "web", "default");
      const { items } = await client.list(CONTROLLER_REVISIONS, DEFAULT);
      const newest = items.find((r) => r.revision === revision)?.metadata.name;
      return status?.availableReplicas === 100 && !!newest && status.currentRevision === newest;
    });
  await settled(1);
  let fewest = 100;
  informers.get(STATEFUL_SETS).subscribe({
    update: (_old, now) => {
      fewest = Math.min(fewest, now.status?.availableReplicas ?? 0);
    },
  });
  t.match(
    (await reasons(client, "StatefulSet")).join("\n"),
    /NotHonoured: kubeplumb does not honour: spec\.volumeClaimTemplates/,
  );
  await changed(client, STATEFUL_SETS, "web", imagePatch("v2"));
  await settled(2);
  t.ok(fewest >= 90, `never below 90: ${fewest}`);
});

t.test("a DaemonSet follows the nodes and its template", async (t) => {
  const { client, informers } = await running(t);
  t.teardown(playKubelets(client, informers));
  await client.create(DAEMON_SETS, daemonSet());
  const onNodes = (expected: string[], image = "v1") =>
    eventually(`pods of ${image} on ${expected}`, async () => {
      const pods = await livingPods(client);
      const { status } = await client.get(DAEMON_SETS, "agent", "default");
      const fit = pods.filter((pod) => pod.spec?.containers[0]?.image === image);
      const names = fit.map((pod) => pod.spec?.nodeName ?? "").sort();
      return (
        pods.length === fit.length &&
        names.join() === expected.join() &&
        status?.numberAvailable === expected.length &&
        status?.updatedNumberScheduled === expected.length
      );
    });
  await onNodes(["node-1", "node-2", "node-3"]);
  const [victim] = await livingPods(client);
  const ended = { status: { phase: "Failed" } };
  await client.patch(PODS, victim?.metadata.name ?? "", "merge", ended, {
    ...DEFAULT,
    subresource: "status",
  });
  await eventually("a failed pod is replaced", async () => {
    const pods = await livingPods(client);
    return pods.length === 3 && pods.every((pod) => pod.metadata.uid !== victim?.metadata.uid);
  });
  t.match(
    (await reasons(client, "DaemonSet")).join("\n"),
    /FailedDaemonPod: Found failed daemon pod default\/agent-\w+ on node/,
  );
  await client.create(NODES, readyNode("node-4"));
  await onNodes(["node-1", "node-2", "node-3", "node-4"]);
  const taint = (effect: string) => ({ spec: { taints: [{ key: "dedicated", effect }] } });
  await client.patch(NODES, "node-2", "strategic", taint("NoExecute"));
  await onNodes(["node-1", "node-3", "node-4"]);
  await client.patch(NODES, "node-2", "merge", { spec: { taints: [] } });
  await onNodes(["node-1", "node-2", "node-3", "node-4"]);
  await client.patch(NODES, "node-3", "merge", { spec: { unschedulable: true } });
  await changed(client, DAEMON_SETS, "agent", imagePatch("v2"));
  await onNodes(["node-1", "node-2", "node-3", "node-4"], "v2");
  const { items } = await client.list(CONTROLLER_REVISIONS, DEFAULT);
  const undo = items.find((r) => r.revision === 1)?.data as object;
  await changed(client, DAEMON_SETS, "agent", undo);
  await onNodes(["node-1", "node-2", "node-3", "node-4"], "v1");
  await changed(client, DAEMON_SETS, "agent", {
    spec: { updateStrategy: { rollingUpdate: { maxSurge: 2, maxUnavailable: 0 } } },
  });
  await changed(client, DAEMON_SETS, "agent", imagePatch("v3"));
  await onNodes(["node-1", "node-2", "node-3", "node-4"], "v3");
  await client.delete(DAEMON_SETS, "agent", { ...DEFAULT, propagationPolicy: "Background" });
  await eventually("nothing left", async () => (await livingPods(client)).length === 0);
});

t.test(
  "OnDelete: a pod is of the new template when somebody deletes the old one; a node that goes",
  async (t) => {
    const { client, informers } = await running(t);
    t.teardown(playKubelets(client, informers));
    await client.create(DAEMON_SETS, daemonSet({ updateStrategy: { type: "OnDelete" } }));
    const status = (what: string, test: (status: NonNullable<DaemonSet["status"]>) => boolean) =>
      eventually(what, async () => {
        const ds = await client.get(DAEMON_SETS, "agent", "default");
        const seen = ds.status?.observedGeneration === ds.metadata.generation;
        return seen && !!ds.status && test(ds.status);
      });
    await status("all available", ({ numberAvailable }) => numberAvailable === 3);
    await changed(client, DAEMON_SETS, "agent", imagePatch("v2"));
    await status("none updated", ({ updatedNumberScheduled = 0 }) => updatedNumberScheduled === 0);
    const [victim] = await livingPods(client);
    await client.delete(PODS, victim?.metadata.name ?? "", DEFAULT);
    await status("one updated", (s) => s.updatedNumberScheduled === 1 && s.numberAvailable === 3);
    const images = (await livingPods(client)).map((one) => one.spec?.containers[0]?.image).sort();
    t.same(images, ["v1", "v1", "v2"]);
    await client.delete(NODES, "node-3");
    await status("two are left", (s) => s.desiredNumberScheduled === 2 && s.numberAvailable === 2);
  },
);

t.test("a DaemonSet on 100 nodes makes each pod once", async (t) => {
  const { client, informers } = await running(t, 100);
  t.teardown(playKubelets(client, informers));
  const made = new Set<string>();
  informers.get(PODS).subscribe({ add: ({ metadata }) => void made.add(metadata.uid) });
  await client.create(DAEMON_SETS, daemonSet());
  await eventually("100 available", async () => {
    const { status } = await client.get(DAEMON_SETS, "agent", "default");
    return status?.numberAvailable === 100;
  });
  t.equal(made.size, 100);
});

t.test("caches that lag behind make nothing twice", async (t) => {
  const api = await openLocalApi();
  const { client, log } = api;
  const refused: string[] = [];
  const slow: KubeClient = Object.create(client, {
    watch: {
      value: async function* (resource: Resource, options: object) {
        for await (const event of client.watch(resource, options)) {
          await new Promise((resolve) => setTimeout(resolve, resource === PODS ? 30 : 5));
          yield event;
        }
      },
    },
    create: {
      value: async (resource: Resource, object: KubeObject, options: object) => {
        try {
          return await client.create(resource, object, options);
        } catch (error) {
          if (resource === PODS) refused.push(String(error));
          throw error;
        }
      },
    },
    ...Object.fromEntries(
      (["get", "list", "update", "patch", "delete", "deleteCollection"] as const).map((verb) => [
        verb,
        { value: client[verb].bind(client) },
      ]),
    ),
  });
  const informers = new InformerFactory(slow, { log });
  const controllers = startControllers({ client: slow, informers, log, ...OPTIONS });
  t.teardown(async () => {
    await controllers.stop();
    informers.stop();
    await api.close();
  });
  await controllers.ready;
  await addNodes(client, 3);
  const nearby = api.informers.get(PODS);
  let made = 0;
  nearby.subscribe({ add: () => void made++ });
  api.informers.start();
  await api.informers.synced();
  t.teardown(playKubelets(client, api.informers));
  await client.create(STATEFUL_SETS, statefulSet({ podManagementPolicy: "Parallel", replicas: 5 }));
  await client.create(DAEMON_SETS, {
    ...daemonSet(),
    spec: {
      selector: { matchLabels: { app: "d" } },
      template: { ...TEMPLATE, metadata: { labels: { app: "d" } } },
    },
  });
  await eventually("all are there", async () => {
    const set = await client.get(STATEFUL_SETS, "web", "default");
    const ds = await client.get(DAEMON_SETS, "agent", "default");
    return set.status?.availableReplicas === 5 && ds.status?.numberAvailable === 3;
  });
  t.equal(made, 8);
  t.same(refused, []);
});

t.test("a ReplicationController counts, and lets go", async (t) => {
  const { client, informers } = await running(t);
  t.teardown(playKubelets(client, informers));
  const rc: ReplicationController = {
    metadata: { name: "web", ...DEFAULT },
    spec: { replicas: 3, template: TEMPLATE },
  };
  await client.create(REPLICATION_CONTROLLERS, rc);
  const ready = (count: number) =>
    eventually(`${count} ready`, async () => {
      const { status } = await client.get(REPLICATION_CONTROLLERS, "web", "default");
      return status?.readyReplicas === count && status.replicas === count;
    });
  await ready(3);
  const [lost] = await livingPods(client);
  const label = { metadata: { labels: { app: "else" } } };
  await client.patch(PODS, lost?.metadata.name ?? "", "merge", label, DEFAULT);
  await eventually("it lets go of the pod, and makes another", async () => {
    const released = await client.get(PODS, lost?.metadata.name ?? "", "default");
    const left = (released.metadata.ownerReferences ?? []).length === 0;
    return left && (await livingPods(client)).length === 3;
  });
  const scale = { spec: { replicas: 1 } };
  await client.patch(REPLICATION_CONTROLLERS, "web", "merge", scale, { ...DEFAULT, subresource: "scale" });
  await ready(1);
  const [kept] = await livingPods(client);
  t.equal(kept?.metadata.ownerReferences?.[0]?.kind, "ReplicationController");
  t.ok(
    (await reasons(client, "ReplicationController")).some((text) =>
      text.startsWith("SuccessfulDelete: Deleted pod: web-"),
    ),
  );
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
