// HorizontalPodAutoscalers without a cluster: the kind in both versions, what metrics ask for, how fast it may come.

import t from "tap";
import type { HorizontalPodAutoscaler, Pod, Stored } from "../../common/k8s.js";
import type { KindStore } from "../../control/api/converting-store.js";
import { Kind } from "../../control/api/engine.js";
import { aggregatedDiscovery, apiGroupList } from "../../control/api/http/discovery.js";
import { limitReplicas, type Past } from "../../control/controllers/autoscaler-limits.js";
import { type MetricQuestion, proposeReplicas } from "../../control/controllers/autoscaler-metrics.js";
import { autoscalerV1Definition } from "../../control/resources/horizontal-pod-autoscaler-v1.js";
import { cells, created, KINDS, NOW, problems } from "./helpers/kinds.js";

type Spec = NonNullable<HorizontalPodAutoscaler["spec"]>;
const KIND = "HorizontalPodAutoscaler";
const scaleTargetRef = { apiVersion: "apps/v1", kind: "Deployment", name: "web" };
const hpa = (more: object = {}) => ({ spec: { scaleTargetRef, maxReplicas: 10, ...more } as Spec });

t.test("what the server fills in", async (t) => {
  const { spec } = created<{ spec: Spec }>(
    KIND,
    hpa({ behavior: { scaleDown: { stabilizationWindowSeconds: 60 } } }),
  );
  t.equal(spec.minReplicas, 1);
  t.match(spec.metrics, [
    { type: "Resource", resource: { name: "cpu", target: { type: "Utilization", averageUtilization: 80 } } },
  ]);
  t.same(spec.behavior?.scaleUp, {
    stabilizationWindowSeconds: 0,
    selectPolicy: "Max",
    policies: [
      { type: "Pods", value: 4, periodSeconds: 15 },
      { type: "Percent", value: 100, periodSeconds: 15 },
    ],
  });
  t.same(spec.behavior?.scaleDown, {
    stabilizationWindowSeconds: 60,
    selectPolicy: "Max",
    policies: [{ type: "Percent", value: 100, periodSeconds: 15 }],
  });
});

t.test("what is refused", async (t) => {
  const wrong = (more: object) => problems(KIND, hpa(more));
  t.same(wrong({}), []);
  t.same(wrong({ minReplicas: 0, maxReplicas: 0 }), [
    "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
    "spec.maxReplicas: Invalid value: 0: must be greater than 0",
    "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas",
  ]);
  t.same(wrong({ minReplicas: 5, maxReplicas: 2 }), [
    "spec.maxReplicas: Invalid value: 2: must be greater than or equal to `minReplicas`",
  ]);
  t.same(wrong({ scaleTargetRef: { kind: "", name: "a/b" } }), [
    "spec.scaleTargetRef.kind: Required value",
    "spec.scaleTargetRef.name: Invalid value: \"a/b\": may not contain '/'",
  ]);
  const metric = (one: object) => wrong({ metrics: [one] });
  t.same(
    metric({
      type: "Resource",
      pods: { metric: { name: "m" }, target: { type: "AverageValue", averageValue: "1" } },
    }),
    [
      "spec.metrics[0].resource: Required value: must populate information for the given metric source",
      "spec.metrics[0].pods: Forbidden: must populate the given metric source only",
    ],
  );
  t.same(metric({ type: "Resource", resource: { name: "cpu", target: { type: "Utilization" } } }), [
    "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
  ]);
  t.same(metric({ type: "Magic" }), [
    'spec.metrics[0].type: Unsupported value: "Magic": supported values: "ContainerResource", "External", "Object", "Pods", "Resource"',
  ]);
  t.same(wrong({ behavior: { scaleUp: { stabilizationWindowSeconds: 4000, policies: [] } } }), [
    "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 4000: must be less than or equal to 3600",
    "spec.behavior.scaleUp.policies: Required value: must specify at least one Policy",
  ]);
});

t.test("a group of two versions is one group, the preferred version first", async (t) => {
  const kinds = [...KINDS.values()].map((definition) => new Kind(definition, {} as KindStore));
  const { groups } = apiGroupList(kinds) as { groups: { name: string }[] };
  const [v1, v2] = ["v1", "v2"].map((version) => ({ groupVersion: `autoscaling/${version}`, version }));
  const found = groups.filter(({ name }) => name === "autoscaling");
  t.same(found, [{ name: "autoscaling", versions: [v2, v1], preferredVersion: v2 }]);
  const { items } = aggregatedDiscovery(kinds, false, "v2") as {
    items: { metadata: { name: string }; versions: { version: string }[] }[];
  };
  const aggregated = items.filter(({ metadata }) => metadata.name === "autoscaling");
  t.same(
    aggregated.map(({ versions }) => versions.map(({ version }) => version)),
    [["v2", "v1"]],
  );
});

t.test("columns", async (t) => {
  const resource = (name: string, target: object, current?: object) => [
    { type: "Resource", resource: { name, target } },
    { type: "Resource", resource: { name, current } },
  ];
  const [cpu, cpuNow] = resource("cpu", { averageUtilization: 50 }, { averageUtilization: 3 });
  const [memory, memoryNow] = resource("memory", { averageValue: "64Mi" }, { averageValue: "12Mi" });
  t.match(
    cells(KIND, {
      ...hpa({ minReplicas: 2, metrics: [cpu, memory, cpu] }),
      status: { currentReplicas: 4, currentMetrics: [cpuNow, memoryNow] },
    }),
    {
      Reference: "Deployment/web",
      Targets: "cpu: 3%/50%, memory: 12Mi/64Mi + 1 more...",
      MinPods: "2",
      MaxPods: 10,
      Replicas: 4,
    },
  );
  t.match(cells(KIND, hpa({ metrics: [cpu] })), { Targets: "cpu: <unknown>/50%" });
});

t.test("autoscaling/v1 loses nothing on its way there and back", async (t) => {
  const { conversion } = autoscalerV1Definition;
  const cpu = (side: object) => ({ type: "Resource", resource: { name: "cpu", ...side } });
  const stored = {
    apiVersion: "autoscaling/v2",
    kind: KIND,
    metadata: { name: "web", annotations: { own: "1" } },
    spec: {
      scaleTargetRef,
      maxReplicas: 3,
      metrics: [
        {
          type: "Pods",
          pods: { metric: { name: "m" }, target: { type: "AverageValue", averageValue: "1" } },
        },
        cpu({ target: { type: "Utilization", averageUtilization: 50 } }),
      ],
    },
    status: {
      currentReplicas: 1,
      desiredReplicas: 2,
      currentMetrics: [cpu({ current: { averageUtilization: 70, averageValue: "140m" } })],
      conditions: [{ type: "AbleToScale", status: "True" }],
    },
  } as unknown as Stored<HorizontalPodAutoscaler>;
  const v1 = conversion?.fromStored(stored as Stored) as Stored & { spec: object; status: object };
  t.match(v1, {
    apiVersion: "autoscaling/v1",
    spec: { targetCPUUtilizationPercentage: 50, maxReplicas: 3 },
    status: { currentCPUUtilizationPercentage: 70, currentReplicas: 1 },
  });
  t.notOk("metrics" in v1.spec || "conditions" in v1.status);
  t.same(conversion?.toStored(v1), stored);
  const own = {
    "autoscaling.alpha.kubernetes.io/metrics": "7",
    "autoscaling.alpha.kubernetes.io/behavior": "{",
  };
  const odd = { ...v1, metadata: { ...v1.metadata, annotations: own } };
  t.match(conversion?.toStored(odd), {
    spec: { metrics: [{ resource: { name: "cpu" } }], behavior: undefined },
  });
  t.same(
    problems(`${KIND}.autoscaling`, {
      spec: { scaleTargetRef, maxReplicas: 2, targetCPUUtilizationPercentage: -1 },
    }),
    ["spec.targetCPUUtilizationPercentage: Invalid value: -1: must be greater than 0"],
  );
});

const stamp = (ms: number) => new Date(ms).toISOString();

/** A ready pod that asks for 100m CPU; `age` in seconds. */
function pod(name: string, { phase = "Running", ready = "True", age = 3600, request = "100m" } = {}) {
  return {
    metadata: { name, namespace: "ns" },
    spec: { containers: [{ name: "c", resources: { requests: { cpu: request } } }] },
    status: {
      phase,
      startTime: stamp(NOW - age * 1000),
      conditions: [{ type: "Ready", status: ready, lastTransitionTime: stamp(NOW - age * 1000 + 5000) }],
    },
  } as unknown as Stored<Pod>;
}

function ask(usage: Record<string, number>, pods: Stored<Pod>[], more: Partial<MetricQuestion> = {}) {
  const measured = Object.entries(usage).map(
    ([name, milli]) => [name, { milli, timestamp: NOW, windowMs: 15_000 }] as const,
  );
  return proposeReplicas({
    resource: "cpu",
    target: { utilization: 50 },
    currentReplicas: pods.length,
    pods,
    usage: new Map(measured),
    tolerances: { up: 0.1, down: 0.1 },
    now: NOW,
    ...more,
  });
}

t.test("how many replicas a metric asks for", async (t) => {
  const [a, b] = [pod("a"), pod("b")];
  t.same(ask({ a: 100, b: 50 }, [a, b]), { replicas: 3, utilization: 75, average: 75 });
  t.equal(ask({ a: 54, b: 54 }, [a, b]).replicas, 2, "within tolerance");
  t.equal(ask({ a: 54, b: 54 }, [a, b], { tolerances: { up: 0.05, down: 0.1 } }).replicas, 3);
  t.equal(ask({ a: 10, b: 10 }, [a, b]).replicas, 1);
  t.equal(ask({ a: 10 }, [a, b]).replicas, 2, "of a pod not measured the most is assumed on the way down");
  t.equal(ask({ a: 300 }, [a, b]).replicas, 6, "and nothing on the way up");
  const young = pod("b", { age: 10, ready: "False" });
  t.equal(ask({ a: 300, b: 900 }, [a, young]).replicas, 6, "a pod that starts is not believed");
  t.equal(
    ask({ a: 300, b: 10 }, [a, pod("b", { phase: "Failed" })]).replicas,
    6,
    "what has ended does not count",
  );
  t.same(ask({ a: 300, b: 100 }, [a, b], { target: { milli: 100 } }), { replicas: 4, average: 200 });
  const message = (what: () => unknown) => {
    try {
      what();
    } catch (error) {
      return (error as Error).message;
    }
    return "";
  };
  t.equal(
    message(() => ask({}, [a])),
    "unable to get metrics for resource cpu: no metrics returned from resource metrics API",
  );
  const bare = { ...a, spec: { containers: [{ name: "c" }] } } as Stored<Pod>;
  t.equal(
    message(() => ask({ a: 1 }, [bare])),
    "missing request for cpu in container c of Pod a",
  );
  t.equal(
    message(() => ask({ b: 1 }, [young])),
    "did not receive metrics for targeted pods (pods might be unready)",
  );
});

t.test("how fast they may come and go", async (t) => {
  const spec = (more: object = {}) => created<{ spec: Spec }>(KIND, hpa({ maxReplicas: 20, ...more })).spec;
  const none = (): Past => ({ recommendations: [], changes: [] });
  const limit = (current: number, wanted: number, past = none(), more: object = {}) =>
    limitReplicas(spec(more), current, wanted, past, NOW);
  t.match(limit(1, 9), { replicas: 4, limited: true, limit: { reason: "ScaleUpLimit" } });
  t.match(limit(5, 9), { replicas: 9, limited: false, limit: { reason: "DesiredWithinRange" } });
  t.match(limit(15, 30), { replicas: 20, limit: { reason: "TooManyReplicas" } });
  t.match(limit(5, 0), { replicas: 1, limit: { reason: "TooFewReplicas" } });
  const recently: Past = { recommendations: [{ replicas: 8, at: NOW - 200_000 }], changes: [] };
  t.match(limit(8, 2, recently), { replicas: 8, able: { reason: "ScaleDownStabilized" } });
  const window = { behavior: { scaleDown: { stabilizationWindowSeconds: 100 } } };
  t.match(limit(8, 2, recently, window), { replicas: 2, able: { reason: "ReadyForNewScale" } });
  const slow = {
    behavior: {
      scaleDown: { policies: [{ type: "Pods", value: 2, periodSeconds: 60 }], stabilizationWindowSeconds: 0 },
    },
  };
  t.match(limit(8, 1, none(), slow), { replicas: 6, limit: { reason: "ScaleDownLimit" } });
  const gone: Past = { recommendations: [], changes: [{ by: -1, at: NOW - 30_000 }] };
  t.equal(limit(8, 1, gone, slow).replicas, 7, "one of the two went in this period");
  const percent = {
    behavior: { scaleUp: { policies: [{ type: "Percent", value: 10, periodSeconds: 60 }] } },
  };
  t.equal(limit(5, 9, none(), percent).replicas, 6, "rounded up");
  t.equal(limit(5, 9, none(), { behavior: { scaleUp: { selectPolicy: "Disabled" } } }).replicas, 5);
  const min = { behavior: { scaleUp: { selectPolicy: "Min" } } };
  t.equal(limit(2, 9, none(), min).replicas, 4);
  const cautious = { behavior: { scaleUp: { stabilizationWindowSeconds: 60 } } };
  const low: Past = { recommendations: [{ replicas: 3, at: NOW - 10_000 }], changes: [] };
  t.match(limit(2, 6, low, cautious), { replicas: 3, able: { reason: "ScaleUpStabilized" } });
});
