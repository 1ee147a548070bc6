// Workloads: validation and defaults with the real server's texts, and what StatefulSets decide, as pure functions and
// over random rollouts.

import t from "tap";
import type { DaemonSet, StatefulSet, Stored } from "../../common/k8s.js";
import {
  byRevision,
  expiredHistory,
  newRevision,
  planRevision,
  type Revision,
  templateOf,
} from "../../control/controllers/controller-revision-plan.js";
import { planStatefulSet, type Step, statefulSetStatus } from "../../control/controllers/statefulset-plan.js";
import { statefulPod } from "../../control/controllers/statefulset-pod.js";
import { NOW } from "./helpers/controller-objects.js";
import { cells, created, problems, updated } from "./helpers/kinds.js";
import { CONTAINERS, LABELS, type PodState, pod, stored, TEMPLATE } from "./helpers/workload-objects.js";

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
    spec: {
      hostname: "web-4",
      subdomain: "svc",
      volumes: [{ name: "www", persistentVolumeClaim: { claimName: "www-web-4" } }],
    },
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
